//! Remembers which tokens were used.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use ginnel_identity::key::sha256;

/// Tokens of one identity that are remembered at once. A token is remembered for at most seven minutes: this is ten enrolments a
/// second for as long, which no fleet of one service account needs, in half a megabyte.
pub(crate) const TOKENS_MAX: usize = 4096;

/// The tokens of one identity, by the hash of their id. One identity's flood does not fill another's.
#[derive(Debug, Default)]
pub(crate) struct Used(Mutex<HashMap<[u8; 32], u64>>);

/// What [`Used::take`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The token had not been used and is remembered.
    First,
    /// The token had been used.
    Again,
    /// Nothing more can be remembered.
    Full,
}

impl Used {
    /// Remembers a token until the second `until`; of any number of calls at once with one token, one is told [`Taken::First`].
    pub(crate) fn take(&self, token_id: &str, until: u64, now: u64) -> Taken {
        let id = sha256(token_id.as_bytes());
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.get(&id).is_some_and(|&until| until >= now) {
            return Taken::Again;
        }
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, until| *until >= now);
        }
        if tokens.len() >= TOKENS_MAX {
            return Taken::Full;
        }
        tokens.insert(id, until);
        Taken::First
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_until_the_end_and_no_longer() {
        let used = Used::default();
        assert_eq!(used.take("a", 10, 5), Taken::First);
        assert_eq!(used.take("a", 10, 10), Taken::Again);
        assert_eq!(used.take("b", 10, 10), Taken::First);
        assert_eq!(used.take("a", 20, 11), Taken::First);
    }

    #[test]
    fn refuses_when_full_and_recovers() {
        let used = Used::default();
        for number in 0..TOKENS_MAX {
            assert_eq!(used.take(&number.to_string(), 10, 5), Taken::First);
        }
        assert_eq!(used.take("one more", 10, 5), Taken::Full);
        assert_eq!(used.take("0", 10, 5), Taken::Again);
        assert_eq!(used.take("one more", 20, 11), Taken::First);
    }
}
