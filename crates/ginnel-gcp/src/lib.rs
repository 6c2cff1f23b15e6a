//! Google, as far as the tunnel needs it: the only crate that names Google's clients.
//!
//! Each part is a feature, so that a program brings along no more of Google than its role asks for.

#[cfg(feature = "cas")]
pub mod cas;
#[cfg(any(feature = "cas", feature = "logging"))]
mod error;
#[cfg(feature = "logging")]
pub mod logging;
pub mod provider;
#[cfg(feature = "workload")]
pub mod workload;
