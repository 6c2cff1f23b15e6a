//! The tunnel agent: dials out to the server, and dials targets in the customer's network when its owner's allow-list says so.
//!
//! | module | does |
//! |---|---|
//! | [`app`] | builds everything from a configuration and runs it |
//! | [`check`] | whether a target could be dialled |
//! | `link` | the control stream: takes dials |
//! | `dial` | the owner's allow-list, lookup and TCP connection |
//! | `view` | what it shows of itself, and changing the allow-list while it runs |
//! | `session` | carries one session |
//! | `account` | what the agent's own audit log is told of it |
//! | `word` | what the owner says: the lists in force, the list under observation |

pub mod app;
pub mod check;

mod account;
mod dial;
mod link;
mod revoke;
mod session;
mod view;
mod word;
