//! What must hold whatever bytes come in: one function for each parser, and for the machines that carry a session.
//!
//! Each target is a plain function that panics where an invariant does not hold. `tests/corpus.rs` runs them on the inputs in `fuzz/corpus`
//! and on changed copies of these; `fuzz/` wraps them for cargo-fuzz, which looks further.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a broken invariant ends in a panic; that is how a target says so"
)]

mod front;
mod identity;
mod machine;
mod operate;
mod text;
mod wire;

pub use front::{http_head, socks};
pub use identity::{AUDIENCE, EMAIL, NOW, certificate, csr, enrolment, key_file, key_set, public_key, roots};
pub use machine::{hostile_frames, relay, stream};
pub use operate::{admin_query, audit_log, audit_verify, config_agent, config_client, config_override, config_server};
pub use text::{email, pattern, principal, target, timestamp};
pub use wire::{balancer_header, control_messages, grpc_framing, inner_hello, session_frame};

/// One target: its name, which is that of its corpus and of its file for cargo-fuzz, and its function.
pub type Named = (&'static str, fn(&[u8]));

macro_rules! targets {
    ($($name:ident),+ $(,)?) => {
        /// Every target.
        pub const TARGETS: &[Named] = &[$((stringify!($name), $name)),+];
    };
}

targets! {
    admin_query,
    audit_log,
    balancer_header,
    audit_verify,
    certificate,
    config_agent,
    config_client,
    config_override,
    config_server,
    control_messages,
    csr,
    email,
    enrolment,
    grpc_framing,
    hostile_frames,
    http_head,
    inner_hello,
    key_file,
    key_set,
    pattern,
    principal,
    public_key,
    relay,
    roots,
    session_frame,
    socks,
    stream,
    target,
    timestamp,
}
