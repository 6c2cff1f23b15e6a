//! The keys that Google and OIDC issuers publish, fetched and kept within bounds.
//!
//! [`KeySets`] is the [`KeySource`](ginnel_enrol::KeySource) of a server. It asks for the sets that the configuration names and for no others,
//! whatever a token says; one fetch of a set at a time, with a rest between two; and nothing that comes back is believed beyond
//! its size, its time and its form.

pub mod fetch;
pub mod sets;

pub use fetch::{Fetch, FetchError, Fetched, Http, HttpError};
pub use sets::{IssuerKeys, KeySets, Timing};
