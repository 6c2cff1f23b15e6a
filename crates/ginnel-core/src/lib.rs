//! Every decision of Ginnel, without I/O.
//!
//! Nothing here opens a socket, reads a file, asks for the time or draws randomness: time comes in as an
//! [`std::time::Instant`] or [`std::time::SystemTime`] argument, randomness as a [`rand_core::Rng`]. That is what makes the decisions
//! testable without processes and readable without the daemons around them.
//!
//! | module | question it answers |
//! |---|---|
//! | [`id`] | which request, instance, session |
//! | [`principal`] | who |
//! | [`target`] | where to, in one canonical spelling |
//! | [`pattern`] | which targets a rule means |
//! | [`address`] | which resolved addresses may be dialled |
//! | [`policy`] | may this client reach this target through this agent (the server's word) |
//! | [`ranges`], [`sources`] | where connections may come from |
//! | [`allow`] | may this agent dial this target (the agent owner's word) |
//! | [`denial`] | who was shut out while the process runs |
//! | [`balancer`] | what a load balancer says of a connection |
//! | [`evidence`] | what a certificate was given for |
//! | [`proxy`] | the HTTP proxy before the server, and for whom it does not count |
//! | [`route`] | which agents may serve this target (the client owner's word) |
//! | [`roster`] | which live agent to use |
//! | [`lanes`] | how many connections to have, and which takes the next session |
//! | [`congestion`] | the name of a congestion control |
//! | [`stream`] | bytes, credits and endings of one end of a session |
//! | [`relay`] | the same seen from the middle |
//! | [`budget`] | how much credit there is in all |
//! | [`network`] | which connections come from the same place |
//! | [`quota`], [`rate`] | how much somebody may have of what all share, and how often |
//! | [`store`] | how many bytes of sessions may wait, and for whom |
//! | [`renewal`], [`backoff`] | when to renew, when to try again |
//! | [`turns`] | who is served next where only so many are in a second |
//! | [`cause`] | the closed vocabulary of refusals and endings |
//! | [`audit`] | the records that are kept |
//! | [`sink`] | what of them goes where beyond the disk, and in which order |
//! | [`network`] | from which networks principals come, and whether that is new |
//! | [`status`] | what a running process says of itself |
//! | [`traffic`] | bytes carried so far |
//! | [`report`] | how an error is written on one line |
//! | [`limits`] | every bound with its reason |

pub mod address;
pub mod allow;
pub mod audit;
pub mod backoff;
pub mod balancer;
pub mod budget;
pub mod cause;
pub mod congestion;
pub mod denial;
pub mod evidence;
pub mod id;
pub mod lanes;
pub mod limits;
pub mod network;
pub mod pattern;
pub mod policy;
pub mod principal;
pub mod proxy;
pub mod quota;
pub mod ranges;
pub mod rate;
pub mod relay;
pub mod renewal;
pub mod report;
pub mod roster;
pub mod route;
pub mod sink;
pub mod sources;
pub mod status;
pub mod store;
pub mod stream;
pub mod target;
pub mod traffic;
pub mod turns;
