//! Which key signed the token that a certificate was given for, so that a key that is denied takes its certificates with it.
//!
//! What is known ends with the process: see [`crate::revoke`] for what that means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ginnel_core::denial::Shown;
use ginnel_identity::certificate::Leaf;

/// Certificates that are remembered: at three renewals a lifetime those of more than twenty thousand processes, some 150 bytes each. Beyond
/// these the one that expires first makes room.
const SIGNERS_MAX: usize = 65_536;

/// The keys behind the certificates that this process gave out.
#[derive(Debug, Default)]
pub(crate) struct Signers(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    by_serial: BTreeMap<String, (SystemTime, [u8; 32])>,
    /// The serial numbers by the end of the certificates, earliest first.
    ends: BTreeSet<(SystemTime, String)>,
}

impl Signers {
    /// Puts a certificate down, before anybody is given it.
    pub(crate) fn issued(&self, serial: &str, not_after: SystemTime, signed_by: [u8; 32], now: SystemTime) {
        let mut table = self.table();
        while table.ends.first().is_some_and(|(end, _)| *end < now || table.ends.len() >= SIGNERS_MAX) {
            let Some((_, serial)) = table.ends.pop_first() else { break };
            table.by_serial.remove(&serial);
        }
        if let Some((end, _)) = table.by_serial.insert(serial.to_owned(), (not_after, signed_by)) {
            table.ends.remove(&(end, serial.to_owned()));
        }
        table.ends.insert((not_after, serial.to_owned()));
    }

    /// What a certificate shows, with the key behind it where that is known.
    pub(crate) fn shown(&self, leaf: &Leaf) -> Shown {
        let signed_by = self.table().by_serial.get(&leaf.serial).map(|(_, key)| *key);
        Shown { signed_by, ..leaf.shown() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Two maps that are changed under one lock by steps that cannot fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn leaf(serial: &str) -> Leaf {
        Leaf {
            principal: "spiffe://acme.example/agent/acme".parse().unwrap(),
            email: "agent@acme.example".to_owned(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            serial: serial.to_owned(),
            sha256: [0; 32],
            spki_sha256: [0; 32],
        }
    }

    #[test]
    fn knows_the_key_behind_a_certificate_until_that_expires_or_makes_room() {
        let signers = Signers::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let key = |serial: &str| signers.shown(&leaf(serial)).signed_by;
        signers.issued("01", at(10), [1; 32], at(0));
        signers.issued("02", at(20), [2; 32], at(0));
        assert_eq!((key("01"), key("02"), key("03")), (Some([1; 32]), Some([2; 32]), None));
        signers.issued("03", at(30), [3; 32], at(11));
        assert_eq!((key("01"), key("02"), key("03")), (None, Some([2; 32]), Some([3; 32])));
        for number in 0..SIGNERS_MAX - 2 {
            signers.issued(&format!("a{number:x}"), at(40), [4; 32], at(11));
        }
        assert_eq!(key("02"), Some([2; 32]));
        signers.issued("04", at(40), [4; 32], at(11));
        assert_eq!((key("02"), key("03"), key("04")), (None, Some([3; 32]), Some([4; 32])));
    }
}
