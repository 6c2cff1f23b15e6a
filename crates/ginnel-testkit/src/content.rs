//! Content of any length that nobody has to keep: made as it is sent, and told apart by its hash.

use std::io;
use std::sync::LazyLock;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Noise that every content is cut from.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| crate::stream::bytes(0x9e37, NOISE_BYTES));

/// Length of the noise: with pieces from any place of it, two contents do not look alike.
const NOISE_BYTES: usize = 1 << 20;

/// Largest piece that a content is made of.
const PIECE_BYTES: usize = 64 << 10;

/// So many bytes that depend on nothing but a seed, in pieces.
#[derive(Clone, Debug)]
pub struct Content {
    state: u64,
    left: u64,
}

impl Content {
    /// The content with this seed and length.
    pub fn new(seed: u64, length: u64) -> Self {
        Self { state: seed, left: length }
    }

    /// The SHA-256 of all that is left.
    pub fn hash(self) -> [u8; 32] {
        let mut sum = Sum::default();
        for piece in self {
            sum.add(piece);
        }
        sum.finish()
    }
}

impl Iterator for Content {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        if self.left == 0 {
            return None;
        }
        // The step and the multiplier of a linear congruential generator; its upper bits choose the place.
        self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let start = usize::try_from(self.state >> 44).unwrap_or(0) % (NOISE_BYTES - PIECE_BYTES);
        let length = usize::try_from(self.left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        self.left -= length as u64;
        NOISE.get(start..start + length)
    }
}

/// A SHA-256 that grows with what is added.
#[derive(Clone)]
pub struct Sum {
    context: Context,
    length: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), length: 0 }
    }
}

impl Sum {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// The sum of everything that comes until a clean end.
    ///
    /// # Errors
    /// If it ends otherwise.
    pub async fn of(mut from: impl AsyncRead + Unpin) -> io::Result<Self> {
        let mut sum = Self::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer).await? {
                0 => return Ok(sum),
                n => sum.add(&buffer[..n]),
            }
        }
    }

    /// How many bytes were added.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The hash.
    pub fn finish(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.context.finish().as_ref());
        hash
    }

    /// The hash in hexadecimal.
    pub fn hex(self) -> String {
        self.finish().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_its_length_and_depends_on_its_seed() {
        let length = 3 * PIECE_BYTES as u64 + 7;
        let total: usize = Content::new(1, length).map(<[u8]>::len).sum();
        assert_eq!(total as u64, length);
        assert_eq!(Content::new(1, length).hash(), Content::new(1, length).hash());
        assert_ne!(Content::new(1, length).hash(), Content::new(2, length).hash());
        assert_ne!(Content::new(1, length).hash(), Content::new(1, length - 1).hash());
    }

    #[test]
    fn sum_is_the_known_hash() {
        let mut sum = Sum::default();
        sum.add(b"a");
        sum.add(b"bc");
        assert_eq!(sum.length(), 3);
        assert_eq!(sum.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
