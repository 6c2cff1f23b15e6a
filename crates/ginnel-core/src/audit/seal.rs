//! The seal at the end of a record: what proves the record and its place, and how both are told apart again.
//!
//! A sealed line is the record's JSON object with two or three members more at its end: `hash`, which runs on from the record before, `mac`,
//! which only the holder of the chain's key can make, and on signed records `signature`. What they prove is the very bytes before `,"hash"`,
//! so nothing has to be written in a canonical form a second time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;

/// Bytes of a hash, and of a public key that checkpoints are verified with.
pub const HASH_BYTES: usize = 32;

/// Bytes of a MAC: half of HMAC-SHA-256, which nobody guesses, in lines that are not longer than they have to be.
pub const MAC_BYTES: usize = 16;

/// Bytes of a signature (Ed25519).
pub const SIGNATURE_BYTES: usize = 64;

/// Bytes that are written as lower-case hexadecimal digits, two for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex<const N: usize>(pub [u8; N]);

/// A hash of a record and of everything before it, or a public key.
pub type Hash = Hex<HASH_BYTES>;

/// The hash before the first record of a chain.
pub const NO_HASH: Hash = Hex([0; HASH_BYTES]);

/// A text that is not the right number of lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} lower-case hexadecimal digits")]
pub struct NotHex {
    digits: usize,
}

impl<const N: usize> Hex<N> {
    fn read(digits: &[u8]) -> Option<Self> {
        let mut bytes = [0; N];
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != N || !rest.is_empty() {
            return None;
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(bytes))
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        Self::read(text.as_bytes()).ok_or(NotHex { digits: 2 * N })
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A signed record of a log, which is enough to hold the whole log before it to its word: whoever keeps it elsewhere has an anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// When it was written.
    pub time: Timestamp,
}

/// What proves a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// SHA-256 of the hash of the record before and of this record.
    pub hash: Hash,
    /// A MAC of the hash, with the key that is this record's alone.
    pub mac: Hex<MAC_BYTES>,
    /// A signature of the hash, with the key of the chapter.
    pub signature: Option<Hex<SIGNATURE_BYTES>>,
}

const HASH: &[u8] = br#","hash":""#;
const MAC: &[u8] = br#"","mac":""#;
const SIGNATURE: &[u8] = br#"","signature":""#;
const END: &[u8] = br#""}"#;

impl Seal {
    /// Appends the rest of a sealed line, with its end, to a record's JSON object without its closing brace.
    pub fn append_to(&self, line: &mut Vec<u8>) {
        let Self { hash, mac, signature } = self;
        line.extend_from_slice(HASH);
        line.extend_from_slice(hash.to_string().as_bytes());
        line.extend_from_slice(MAC);
        line.extend_from_slice(mac.to_string().as_bytes());
        if let Some(signature) = signature {
            line.extend_from_slice(SIGNATURE);
            line.extend_from_slice(signature.to_string().as_bytes());
        }
        line.extend_from_slice(END);
    }

    /// Takes a sealed line, without its end of line, apart: the record without its closing brace, and the seal. `None` if there is none at its
    /// end, in exactly the form of [`Self::append_to`].
    pub fn split(line: &[u8]) -> Option<(&[u8], Self)> {
        let rest = line.strip_suffix(END)?;
        let (rest, signature) = match value(rest, SIGNATURE) {
            Some((rest, signature)) => (rest, Some(signature)),
            None => (rest, None),
        };
        let (rest, mac) = value(rest, MAC)?;
        let (record, hash) = value(rest, HASH)?;
        Some((record, Self { hash, mac, signature }))
    }
}

/// The value at the end of a line, and what stands before its name.
fn value<'a, const N: usize>(line: &'a [u8], name: &[u8]) -> Option<(&'a [u8], Hex<N>)> {
    let (rest, digits) = line.split_at_checked(line.len().checked_sub(2 * N)?)?;
    Some((rest.strip_suffix(name)?, Hex::read(digits)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &[u8] = br#"{"v":1,"seq":7"#;

    fn seal(signature: Option<u8>) -> Seal {
        Seal { hash: Hex([0xab; 32]), mac: Hex([0x01; 16]), signature: signature.map(|byte| Hex([byte; 64])) }
    }

    #[test]
    fn a_seal_is_taken_off_as_it_was_put_on() {
        for seal in [seal(None), seal(Some(0xcd))] {
            let mut line = RECORD.to_vec();
            seal.append_to(&mut line);
            assert_eq!(Seal::split(&line), Some((RECORD, seal)));
            assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok(), "{}", String::from_utf8_lossy(&line));
        }
    }

    #[test]
    fn a_line_with_another_form_has_no_seal() {
        let mut whole = RECORD.to_vec();
        seal(Some(0xcd)).append_to(&mut whole);
        for cut in 0..whole.len() - RECORD.len() {
            // A line without its signature's value and name would end in a seal again, but not one that was cut.
            assert_eq!(Seal::split(&whole[..whole.len() - cut - 1]), None, "{cut} cut off");
        }
        let text = String::from_utf8(whole).expect("text");
        for (from, to) in
            [("ab", "AB"), ("\"mac\"", "\"mac\" "), ("\"}", "\"} "), ("cd", "cg"), (",\"hash\"", ", \"hash\"")]
        {
            assert_eq!(Seal::split(text.replace(from, to).as_bytes()), None, "{from} as {to}");
        }
        assert_eq!(Seal::split(b""), None);
        assert_eq!(Seal::split(br#"{"v":1}"#), None);
    }

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let hex = Hex([0x00, 0x0f, 0xa0]);
        assert_eq!(hex.to_string(), "000fa0");
        assert_eq!("000fa0".parse(), Ok(hex));
        for text in ["", "000fa", "000fa00", "000FA0", "00 fa0", "000fé"] {
            assert_eq!(text.parse::<Hex<3>>(), Err(NotHex { digits: 6 }), "{text}");
        }
    }
}
