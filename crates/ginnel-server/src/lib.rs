//! The tunnel server: admits agents and clients, decides, pairs and relays their sessions, and keeps the record.
//!
//! | module | does |
//! |---|---|
//! | [`app`] | builds everything from a configuration and runs it |
//! | `broker` | what every connection shares |
//! | `rules`, `reload`, `revoke` | what can change while it runs, and changing it |
//! | `view` | what it shows of itself |
//! | `signals` | what may be somebody with another's credentials |
//! | `connections` | the open connections of known peers |
//! | `admit` | what one connection may call |
//! | `enrol` | tokens for certificates |
//! | `own` | the server's own certificate |
//! | `remote`, `forward` | both from another process that enrols |
//! | [`enrolment`] | that process |
//! | `attach` | agents' links |
//! | `directory` | which link belongs to which agent |
//! | `orders` | what goes out on a link |
//! | `keys` | whether Google still has what a certificate was given for, and cutting off those for whom it has not |
//! | `expiry`, `clock` | ends what rules allowed that expire |
//! | `doorkeeper` | records of connections that come from the wrong place |
//! | `lease` | how long a certificate carries what depends on it |
//! | `roster` | tells clients of live agents |
//! | `open` | decides on a session and asks the agent |
//! | `middle` | moves frames between the two sides |

pub mod app;
pub mod enrolment;

mod admit;
mod attach;
mod bounds;
mod broker;
mod clock;
mod connections;
mod directory;
mod doorkeeper;
mod enrol;
mod expiry;
mod forward;
mod keys;
mod lease;
mod middle;
mod open;
mod orders;
mod own;
mod reload;
mod remote;
mod revoke;
mod roster;
mod rules;
mod service;
mod signals;
mod view;
