//! The tunnel client: a forward proxy beside the application that opens sessions through the server to an agent.
//!
//! | module | does |
//! |---|---|
//! | [`app`] | builds everything from a configuration and runs it |
//! | [`check`] | which agents may be used |
//! | [`front`] | what applications talk to: HTTP, SOCKS5, forwards |
//! | [`connect`] | `ginnel connect`, through the front ends of a running client |
//! | [`open`] | what front ends ask for |
//! | `link` | the connection to the server and the roster that comes on it |
//! | `lanes` | further connections, and which of all takes the next session |
//! | `routes` | the routes as people see them, and what a reload says of them |
//! | `view` | what it shows of itself |
//! | `sessions` | opens sessions: picks an agent, verifies it, tries another |

pub mod app;
pub mod check;
pub mod connect;
pub mod front;
pub mod open;

mod lanes;
mod link;
mod routes;
mod sessions;
mod view;
