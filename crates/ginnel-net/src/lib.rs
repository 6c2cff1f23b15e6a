//! Accepting, dialling and carrying connections.
//!
//! | module | does |
//! |---|---|
//! | [`accept`] | the server's accept loop: TLS with a deadline and a bound, HTTP/2 per connection |
//! | [`connect`] | the other end of it: one TLS and HTTP/2 connection to a server |
//! | [`congestion`] | choosing the congestion control of a socket |
//! | [`mod@line`] | what the TLS with a server runs on |
//! | [`probe`] | the way to a server step by step |
//! | [`proxy`] | the way through an HTTP proxy |
//! | [`live`] | notices a silent peer |
//! | [`tcp`] | the first to answer of several addresses |
//! | [`upstream`] | what agents and clients do all day: enrol, connect, renew, reconnect |
//! | `http2` | one HTTP/2 connection as both ends set it up |
//! | [`call`] | one call of a peer, and the ways to answer it |
//! | `messages` | calls of generated services |
//! | [`body`] | frames on HTTP/2 streams |
//! | [`carried`] | one end of a session as a byte stream |
//! | [`inner`] | TLS between client and agent inside a session |
//! | [`splice`] | copies between an application's or target's socket and a session |

pub mod accept;
pub mod body;
pub mod call;
pub mod carried;
pub mod congestion;
pub mod connect;
mod crowd;
mod http2;
pub mod inner;
pub mod line;
pub mod live;
mod messages;
pub mod probe;
pub mod proxy;
pub mod splice;
pub mod tcp;
pub mod tunnel;
pub mod upstream;
