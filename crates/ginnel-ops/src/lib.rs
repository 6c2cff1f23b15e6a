//! What every daemon needs around its work: the audit log and denials on disk, its own log, the book of its requests, its admin listeners, what the
//! machine allows it, and the signals that end it or make it read its configuration again.

pub mod admin;
pub mod audit;
pub mod beside;
pub mod denials;
pub mod host;
pub mod ledger;
pub mod networks;
pub mod notify;
pub mod reload;
pub mod signals;
pub mod telemetry;
