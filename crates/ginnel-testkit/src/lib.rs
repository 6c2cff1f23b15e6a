//! Worlds to test in: real processes, hosts and faults on loopback.
//!
//! A [`World`] is one server, some agents and one client, each a process of its own started from the real binary. The
//! [`hosts`] are what a customer keeps in a private network; a [`Cutter`] is the network between the processes, and a
//! [`Relay`] the server once it has turned hostile. Nothing here has a fixed port, and everything that is started ends when
//! its owner is dropped.

pub mod attacker;
pub mod browser;
pub mod command;
pub mod content;
pub mod cutter;
pub mod daemon;
pub mod dns;
pub mod google;
pub mod hosts;
pub mod inspector;
pub mod link;
pub mod memory;
pub mod oracle;
pub mod outlet;
pub mod peer;
pub mod proxy;
pub mod relay;
pub mod stream;
pub mod usage;
pub mod wait;
pub mod world;

pub use attacker::Attacker;
pub use browser::{Browser, Screen};
pub use content::{Content, Sum};
pub use cutter::Cutter;
pub use daemon::Daemon;
pub use inspector::Inspector;
pub use link::Link;
pub use peer::Peer;
pub use proxy::{Answer, Opened, Refused};
pub use relay::Relay;
pub use stream::Ending;
pub use wait::{eventually, within};
pub use world::{Part, World, WorldBuilder};
