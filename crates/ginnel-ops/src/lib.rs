//! What every daemon needs around its work: the audit log on disk, its own log, and the signals that end it.

pub mod admin;
pub mod audit;
pub mod notify;
pub mod signals;
pub mod telemetry;
