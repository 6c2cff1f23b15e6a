//! `ginnel credentials`.

use ginnel_identity::credential::ServiceAccountKey;

use super::{Failure, Outcome, print};
use crate::args::Credentials;

pub(super) fn run(credentials: Credentials) -> Result<Outcome, Failure> {
    match credentials {
        Credentials::Create { email, out } => {
            let public_key = ServiceAccountKey::create(&email, &out).map_err(Failure::input)?;
            print(&public_key)?;
        }
    }
    Ok(Outcome::Yes)
}
