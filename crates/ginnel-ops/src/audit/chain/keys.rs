//! The keys of a chain, each derived from the one before in a way that leads forwards only.
//!
//! A [`Seed`] gives the keys of one chapter and the seed of the next; the key of a record gives its MAC and the key of the next record. Whoever
//! gets hold of what a process has at some moment can derive what comes, and nothing that was. Everything is a stock function of the
//! cryptographic library: HKDF-SHA-256 to derive, HMAC-SHA-256, SHA-256 and Ed25519.

use std::fmt::Write;
use std::io;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use ginnel_core::audit::{HASH_BYTES, Hash, Hex, MAC_BYTES, SIGNATURE_BYTES};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of a seed and of every key that comes from it.
const KEY_BYTES: usize = 32;

/// What the parts of a seed are derived for. Another edition of the chain has other words.
const FOR_MACS: &[u8] = b"ginnel audit chain 1: macs";
const FOR_SIGNATURES: &[u8] = b"ginnel audit chain 1: signatures";
const FOR_THE_NEXT: &[u8] = b"ginnel audit chain 1: next chapter";

/// What the key of the next record is the MAC of. A hash is shorter, so that this is never a record's.
const NEXT_RECORD: &[u8] = b"ginnel audit chain 1: the key of the next record";

/// What stands before the hash in a signed message, so that the signature means nothing anywhere else.
const SIGNED: &[u8] = b"ginnel audit chain 1: checkpoint\0";

/// What all keys from one chapter on come from. It is zeroed when it is dropped.
#[derive(Clone)]
pub(in crate::audit) struct Seed(Zeroizing<[u8; KEY_BYTES]>);

/// The keys of one chapter, and the seed of the next.
pub(in crate::audit) struct ChapterKeys {
    pub(in crate::audit) macs: MacKey,
    pub(in crate::audit) signer: Signer,
    pub(in crate::audit) next: Seed,
}

impl Seed {
    /// Draws a new one.
    pub(in crate::audit) fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut()).map_err(|_| io::Error::other("the system gives no random bytes"))?;
        Ok(Self(bytes))
    }

    pub(in crate::audit) fn from_hex(digits: &str) -> Option<Self> {
        let mut read: Hex<KEY_BYTES> = digits.parse().ok()?;
        let bytes = Zeroizing::new(read.0);
        read.0.zeroize();
        Some(Self(bytes))
    }

    pub(in crate::audit) fn to_hex(&self) -> Zeroizing<String> {
        // With room for all of them nothing is moved, which would leave the first ones where they were.
        let mut digits = Zeroizing::new(String::with_capacity(2 * KEY_BYTES));
        // Writing to a string does not fail.
        let _ = write!(&mut *digits, "{}", Hex(*self.0));
        digits
    }

    pub(in crate::audit) fn chapter(&self) -> ChapterKeys {
        let macs = MacKey(self.derive(FOR_MACS));
        let signer = Signer::new(&self.derive(FOR_SIGNATURES));
        ChapterKeys { macs, signer, next: self.next() }
    }

    /// The seed of the chapter after this one.
    pub(in crate::audit) fn next(&self) -> Self {
        Self(self.derive(FOR_THE_NEXT))
    }

    #[expect(clippy::expect_used, reason = "32 bytes are what HKDF-SHA-256 gives in one step")]
    fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        let prk = Prk::new_less_safe(HKDF_SHA256, self.0.as_ref());
        let purpose = [purpose];
        let derived = prk.expand(&purpose, HKDF_SHA256).and_then(|derived| derived.fill(bytes.as_mut()));
        derived.expect("a key of 32 bytes is derived");
        bytes
    }
}

/// The key of the next record's MAC. It is zeroed when it is dropped.
#[derive(Clone)]
pub(in crate::audit) struct MacKey(Zeroizing<[u8; KEY_BYTES]>);

impl MacKey {
    /// The MAC of a record's hash; the key is the next record's afterwards.
    pub(in crate::audit) fn mac(&mut self, hash: &Hash) -> Hex<MAC_BYTES> {
        let key = hmac::Key::new(HMAC_SHA256, self.0.as_ref());
        let tag = hmac::sign(&key, &hash.0);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        self.0.copy_from_slice(hmac::sign(&key, NEXT_RECORD).as_ref());
        Hex(mac)
    }
}

/// What signs the checkpoints of a chapter.
pub(in crate::audit) struct Signer(Ed25519KeyPair);

impl Signer {
    #[expect(clippy::expect_used, reason = "every 32 bytes are a seed of Ed25519")]
    fn new(seed: &[u8; KEY_BYTES]) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are a seed"))
    }

    /// What its signatures are verified with.
    #[expect(clippy::expect_used, reason = "a public key of Ed25519 has 32 bytes")]
    pub(in crate::audit) fn public(&self) -> Hash {
        Hex(self.0.public_key().as_ref().try_into().expect("32 bytes"))
    }

    #[expect(clippy::expect_used, reason = "a signature of Ed25519 has 64 bytes")]
    pub(in crate::audit) fn sign(&self, hash: &Hash) -> Hex<SIGNATURE_BYTES> {
        Hex(self.0.sign(&message(hash)).as_ref().try_into().expect("64 bytes"))
    }
}

/// Whether `signature` is of this hash, with the private half of `key`.
pub(in crate::audit) fn is_signed(key: &Hash, hash: &Hash, signature: &Hex<SIGNATURE_BYTES>) -> bool {
    UnparsedPublicKey::new(&ED25519, key.0).verify(&message(hash), &signature.0).is_ok()
}

fn message(hash: &Hash) -> Vec<u8> {
    [SIGNED, &hash.0].concat()
}

/// The hash of a record, which runs on from the one before it.
pub(in crate::audit) fn running(before: &Hash, record: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&before.0);
    context.update(record);
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(context.finish().as_ref());
    Hex(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        Seed::from_hex(&"5e".repeat(KEY_BYTES)).expect("digits")
    }

    #[test]
    fn the_same_seed_gives_the_same_keys_and_each_chapter_others() {
        let (mut first, mut again) = (seed().chapter(), seed().chapter());
        let hash = Hex([7; HASH_BYTES]);
        assert_eq!(first.macs.mac(&hash), again.macs.mac(&hash));
        assert_eq!(first.signer.public(), again.signer.public());
        let mut next = first.next.chapter();
        assert_ne!(seed().chapter().macs.mac(&hash), next.macs.mac(&hash));
        assert_ne!(first.signer.public(), next.signer.public());
        assert_ne!(Seed::random().expect("random").to_hex(), Seed::random().expect("random").to_hex());
    }

    #[test]
    fn each_record_has_a_key_of_its_own() {
        let mut macs = seed().chapter().macs;
        let hash = Hex([7; HASH_BYTES]);
        let first = macs.mac(&hash);
        assert_ne!(first, macs.mac(&hash));
    }

    #[test]
    fn a_signature_is_of_one_hash_by_one_key() {
        let (signer, other) = (seed().chapter().signer, seed().next().chapter().signer);
        let hash = Hex([7; HASH_BYTES]);
        let signature = signer.sign(&hash);
        assert!(is_signed(&signer.public(), &hash, &signature));
        assert!(!is_signed(&other.public(), &hash, &signature));
        assert!(!is_signed(&signer.public(), &Hex([8; HASH_BYTES]), &signature));
    }

    /// Values that another program computed from docs/security/audit.md: what one version wrote, the next can verify, and so can others.
    #[test]
    fn the_derivation_is_the_documented_one() {
        let mut keys = seed().chapter();
        let hash = running(&Hex([0; HASH_BYTES]), b"{\"v\":1");
        assert_eq!(hash.to_string(), "d0afd5d8091c614dede832aadf46f68ba2ad1399346e9ae089b1e6743cf19856");
        assert_eq!(keys.macs.mac(&hash).to_string(), "a74d85fbfd2d8fbc5c34d402c37e154a");
        assert_eq!(keys.macs.mac(&hash).to_string(), "64412c83ace555126fe2c01704b76dec");
        let public = "6d36c3605af0430fb4d83e6acb1c3d570f3e786d5820408d825427fc7c9c13cd";
        assert_eq!(keys.signer.public().to_string(), public);
        assert_eq!(*keys.next.to_hex(), "ae7d67c2eaa41b6ecbcf0c53ad047864dae0fd541b42c8001b833dd1d7f168a7");
    }
}
