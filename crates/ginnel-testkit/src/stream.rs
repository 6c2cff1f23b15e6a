//! Bytes to send, and how a connection ended.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How the reading side of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a FIN, as if everything had been said.
    Eof,
    /// With ECONNRESET.
    Reset,
    /// With another error.
    Other(ErrorKind),
}

impl Ending {
    /// The ending that an error of a socket means.
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == ErrorKind::ConnectionReset { Self::Reset } else { Self::Other(error.kind()) }
    }
}

/// Reads until the end, and says how many bytes came and how it ended.
pub async fn read_to_ending(mut from: impl AsyncRead + Unpin) -> (u64, Ending) {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return (total, Ending::Eof),
            Ok(n) => total += n as u64,
            Err(error) => return (total, Ending::of(&error)),
        }
    }
}

/// Writes until nobody takes it any more.
pub async fn write_for_ever(mut to: impl AsyncWrite + Unpin) {
    let chunk = bytes(1, 16 << 10);
    while to.write_all(&chunk).await.is_ok() {}
}

/// `length` bytes that look random and depend on nothing but `seed`.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    // SplitMix64: incompressible, and the same on every machine.
    let mut state = seed;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    out.truncate(length);
    out
}
