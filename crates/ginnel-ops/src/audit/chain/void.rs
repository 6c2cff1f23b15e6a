//! What lies between two records and counts for nothing.

use std::io::{self, BufRead, BufReader, Read};

use aws_lc_rs::digest::{Context, SHA256};
use ginnel_core::audit::{HASH_BYTES, Hash, Hex};

/// Bytes of a log that are no records of it, as the next chapter names them: how many, and which, so that nobody can make them others.
#[derive(Clone)]
pub(in crate::audit) struct Void {
    bytes: u64,
    digest: Context,
}

impl Default for Void {
    fn default() -> Self {
        Self { bytes: 0, digest: Context::new(&SHA256) }
    }
}

impl Void {
    /// Adds what follows.
    pub(in crate::audit) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.digest.update(bytes);
    }

    /// Adds what a reader gives.
    pub(in crate::audit) fn add_from(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * 1024, reader);
        loop {
            let piece = reader.fill_buf()?;
            if piece.is_empty() {
                return Ok(());
            }
            let used = piece.len();
            self.add(piece);
            reader.consume(used);
        }
    }

    /// How many bytes there are.
    pub(in crate::audit) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Their SHA-256, if there are any.
    pub(in crate::audit) fn hash(&self) -> Option<Hash> {
        if self.bytes == 0 {
            return None;
        }
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(self.digest.clone().finish().as_ref());
        Some(Hex(hash))
    }
}

impl From<&[u8]> for Void {
    fn from(bytes: &[u8]) -> Self {
        let mut void = Self::default();
        void.add(bytes);
        void
    }
}
