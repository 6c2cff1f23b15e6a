//! Signatures of issuers that were found right, so that a certificate that comes again does not cost them again.
//!
//! A signature over the same bytes by the same key stays right. Everything else about a certificate, its times before all, is judged each
//! time it is shown or resumed: that does not pass through here.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

/// Signatures that one verifier remembers of each algorithm: one for each client process of a busy agent.
const PROVEN_MAX: usize = 256;

/// One algorithm, and what it has proven.
#[derive(Debug)]
pub(super) struct Proven {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    /// Hashes of key, message and signature; oldest first. Nothing that failed is among them.
    hashes: Mutex<VecDeque<[u8; SHA256_OUTPUT_LEN]>>,
}

impl Proven {
    /// All algorithms of a provider, which have proven nothing yet.
    pub(super) fn all(supported: &WebPkiSupportedAlgorithms) -> Vec<Self> {
        supported.all.iter().map(|&algorithm| Self { algorithm, hashes: Mutex::default() }).collect()
    }
}

impl SignatureVerificationAlgorithm for Proven {
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let hash = hash([public_key, message, signature]);
        if self.hashes.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash) {
            return Ok(());
        }
        self.algorithm.verify_signature(public_key, message, signature)?;
        let mut hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if hashes.len() >= PROVEN_MAX {
            hashes.pop_front();
        }
        hashes.push_back(hash);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

/// Lengths go in as well, so that no two triples make the same text.
fn hash(parts: [&[u8]; 3]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls_pki_types::alg_id;

    use super::*;

    /// Finds signatures right that equal their message, and counts how often it was asked.
    #[derive(Debug)]
    struct Counting(AtomicUsize);

    impl SignatureVerificationAlgorithm for Counting {
        fn verify_signature(&self, _: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if message == signature { Ok(()) } else { Err(InvalidSignature) }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_P256
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_SHA256
        }
    }

    #[test]
    fn only_what_was_proven_is_not_proven_again() {
        static COUNTING: Counting = Counting(AtomicUsize::new(0));
        let proven = Proven { algorithm: &COUNTING, hashes: Mutex::default() };
        let asked = |key: &[u8], message: &[u8], signature: &[u8]| {
            let before = COUNTING.0.load(Ordering::Relaxed);
            let is_right = proven.verify_signature(key, message, signature).is_ok();
            (is_right, COUNTING.0.load(Ordering::Relaxed) - before)
        };
        assert_eq!(asked(b"key", b"ab", b"ab"), (true, 1));
        assert_eq!(asked(b"key", b"ab", b"ab"), (true, 0));
        for other in [(b"kez", b"ab", b"ab"), (b"key", b"ac", b"ac")] {
            assert_eq!(asked(other.0, other.1, other.2), (true, 1));
        }
        // What was wrong stays wrong, and the same bytes in other places are not the same.
        assert_eq!(asked(b"key", b"ab", b"aa"), (false, 1));
        assert_eq!(asked(b"key", b"ab", b"aa"), (false, 1));
        assert_eq!(asked(b"keya", b"b", b"ab"), (false, 1));
        for number in 0..PROVEN_MAX {
            let text = number.to_be_bytes();
            assert_eq!(asked(b"key", &text, &text), (true, 1));
        }
        assert_eq!(asked(b"key", b"ab", b"ab"), (true, 1), "it made room");
        assert_eq!(proven.hashes.lock().map(|hashes| hashes.len()).ok(), Some(PROVEN_MAX));
    }
}
