//! Unguessable bytes.

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};

/// The system's cryptographic generator, for identifiers, serial numbers and jitter alike.
///
/// What it gives is unguessable, which session ids rely on.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl TryRng for SystemRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[expect(
        clippy::expect_used,
        reason = "a process without randomness must not go on, and no caller could do better"
    )]
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        aws_lc_rs::rand::fill(bytes).expect("the system's random generator works");
        Ok(())
    }
}

impl TryCryptoRng for SystemRandom {}

#[cfg(test)]
mod tests {
    use rand_core::Rng;

    use super::*;

    #[test]
    fn draws_different_values() {
        assert_ne!(SystemRandom.next_u64(), SystemRandom.next_u64());
        let mut bytes = [0; 32];
        SystemRandom.fill_bytes(&mut bytes);
        assert_ne!(bytes, [0; 32]);
    }
}
