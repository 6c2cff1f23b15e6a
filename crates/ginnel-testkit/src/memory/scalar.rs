//! Finding the private keys that a process uses, by looking at its memory: everything that could be one is tried.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use ginnel_identity::hex;
use ginnel_identity::key::sha256;

use super::{WINDOW, maps};

/// Bytes of a P-256 scalar.
const SCALAR: usize = 32;

/// How the cryptographic library aligns the words of a scalar.
const ALIGNMENT: usize = 8;

/// Fewest different bytes of what is tried. 32 random bytes have about 30; fewer than this once in many millions, and most of a
/// program's memory has less.
const DIFFERENT_MIN: usize = 24;

/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A private key that was found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scalar {
    /// SHA-256 of the SubjectPublicKeyInfo, in hexadecimal digits, as the audit log has it.
    pub spki_sha256: String,
    /// As it lies in memory, and the other way round, as it is written in a key file.
    pub spellings: [Vec<u8>; 2],
}

/// Finds the private keys of these public keys in the writable memory of the process `pid`.
///
/// # Errors
/// If the process may not be read.
pub fn scalars(pid: u32, spki_sha256: &BTreeSet<String>) -> Result<BTreeSet<Scalar>> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("opening the memory")?;
    let mut found = BTreeSet::new();
    let mut tried = BTreeSet::new();
    for (start, end) in maps(pid, |permissions, name| permissions.starts_with("rw") && !name.starts_with('/'))? {
        let mut at = start;
        let mut window = vec![0; WINDOW];
        while at < end {
            let wanted = WINDOW.min(usize::try_from(end - at).unwrap_or(WINDOW));
            let Ok(n @ 1..) = memory.read_at(&mut window[..wanted], at) else { break };
            for words in window[..n].windows(SCALAR).step_by(ALIGNMENT) {
                if is_random(words) && tried.insert(words.to_vec()) {
                    found.extend(try_out(words, spki_sha256));
                }
            }
            // Windows overlap, so that a key on a border is seen.
            at += if n == wanted && at + (n as u64) < end { (n - SCALAR) as u64 } else { n as u64 };
        }
    }
    Ok(found)
}

fn is_random(bytes: &[u8]) -> bool {
    let mut seen = [0_u64; 4];
    for byte in bytes {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|bits| bits.count_ones() as usize).sum::<usize>() >= DIFFERENT_MIN
}

fn try_out(words: &[u8], spki_sha256: &BTreeSet<String>) -> Option<Scalar> {
    let big_endian: Vec<u8> = words.iter().rev().copied().collect();
    let key = PrivateKey::from_private_key(&ECDH_P256, &big_endian).ok()?;
    let spki = [SPKI_PREFIX.as_slice(), key.compute_public_key().ok()?.as_ref()].concat();
    let hash = hex(&sha256(&spki));
    spki_sha256.contains(&hash).then(|| Scalar { spki_sha256: hash, spellings: [words.to_vec(), big_endian] })
}

#[cfg(test)]
mod tests {
    use ginnel_identity::key::KeyPair;

    use super::*;

    #[test]
    fn finds_the_key_that_this_process_uses() {
        let key = KeyPair::generate().expect("a key");
        let hash = hex(&key.spki_sha256());
        let found = scalars(std::process::id(), &BTreeSet::from([hash.clone()])).expect("own memory");
        assert_eq!(found.iter().map(|scalar| &scalar.spki_sha256).collect::<Vec<_>>(), [&hash]);
        assert!(key.csr().is_ok());
    }
}
