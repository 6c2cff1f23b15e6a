//! The gRPC types of Ginnel and their framing.
//!
//! [`v1`] is generated from `proto/` and checked in; nothing outside this crate and the services built on its stubs handles those
//! types: [`frame`] and [`hello`] turn them into types that cannot be wrong, and say what was wrong with those that were.
//! [`grpc`] is the framing of gRPC itself, for the calls that carry bytes; [`piece`] is what they write.
//!
//! Version skew: a peer of a neighbouring protocol version is welcome, unknown fields and capabilities are ignored, an unknown
//! frame is a violation, because only negotiated frames may be sent.

pub mod frame;
pub mod grpc;
pub mod hello;
pub mod inner;
pub mod piece;

/// Types generated from `proto/ginnel/v1`.
pub mod v1 {
    #![expect(missing_docs, reason = "the documentation of these types is in proto/")]
    #![expect(unused_qualifications, reason = "generated code")]
    include!("gen/ginnel.v1.rs");
}

/// Paths of the calls that carry a session's bytes.
pub mod path {
    /// An agent takes up a session.
    pub const CARRY: &str = "/ginnel.v1.AgentLink/Carry";
    /// A client opens a session.
    pub const OPEN: &str = "/ginnel.v1.ClientLink/Open";
    /// The call that needs no client certificate.
    pub const ENROL: &str = "/ginnel.v1.Enrolment/Enrol";
    /// Prefix of everything that an agent may call.
    pub const AGENT_SERVICE: &str = "/ginnel.v1.AgentLink/";
    /// Prefix of everything that a client may call.
    pub const CLIENT_SERVICE: &str = "/ginnel.v1.ClientLink/";
}
