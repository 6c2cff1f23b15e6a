//! What a load balancer says of a connection that it passes on: the header of the PROXY protocol, version 2.
//!
//! Read only from balancers that the configuration lists; from anybody else such bytes are no TLS, and that is all that becomes of them. A listed
//! balancer has to send a header, and whatever is wrong with it ends the connection: a connection whose origin is not known could otherwise
//! pass for the balancer's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes after the fixed part. The longest addresses have 216; what balancers add to them (names of endpoints, ids, what they know of TLS) stays
/// well below this.
pub const REST_MAX: usize = 4096;

/// Most bytes of a header.
pub const HEADER_MAX: usize = FIXED + REST_MAX;

/// What every header begins with, and nothing else does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of the part that every header has: signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;

/// The type of the field that has a checksum of the whole header, and its length.
const CRC32C: u8 = 0x03;
const CRC32C_BYTES: usize = 4;

/// Bytes of type and length before each field.
const FIELD_HEAD: usize = 3;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The balancer itself, which looks whether the server is there.
    Balancer,
    /// Whoever connected to the balancer.
    Peer(SocketAddr),
}

/// What is known of a header from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is good so far; nothing can be said before there are so many bytes in all.
    Needs(usize),
    /// It is whole.
    Done(Origin),
}

/// Why bytes are no header that counts. The balancer, or whoever pretends to be one, is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// The checksum is not that of the header.
    #[error("the checksum is wrong")]
    Checksum,
    /// Neither LOCAL nor PROXY.
    #[error("the command is neither LOCAL nor PROXY")]
    Command,
    /// A family or a transport that there is not.
    #[error("the family or the transport does not exist")]
    Family,
    /// A field goes beyond the header, or there are two checksums.
    #[error("the fields after the addresses are malformed")]
    Field,
    /// The addresses do not fit into it.
    #[error("the length is too small for the addresses")]
    Length,
    /// It speaks of a connection that has no address, or is none of TCP.
    #[error("it names no TCP address from which the connection comes")]
    NoOrigin,
    /// It does not begin as one: another protocol, or version 1.
    #[error("the connection does not begin with a header of version 2")]
    Signature,
    /// It is longer than any that is known.
    #[error("the header is longer than {HEADER_MAX} bytes")]
    TooLong,
    /// Another version.
    #[error("the version is not 2")]
    Version,
}

/// Reads a header from the first bytes of a connection; what follows it is not looked at.
///
/// # Errors
/// [`InvalidHeader`], as soon as the bytes show it.
pub fn read(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(InvalidHeader::Signature);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(Progress::Needs(FIXED)) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let addresses = match command {
        // Whatever else stands in the header is to be passed over, the family included.
        0x20 => None,
        0x21 => Some(addresses(family)?),
        other if other >> 4 == 2 => return Err(InvalidHeader::Command),
        _ => return Err(InvalidHeader::Version),
    };
    if length > REST_MAX {
        return Err(InvalidHeader::TooLong);
    }
    if addresses.is_some_and(|addresses| length < addresses.length()) {
        return Err(InvalidHeader::Length);
    }
    let Some(rest) = rest.get(..length) else { return Ok(Progress::Needs(FIXED + length)) };
    let Some(addresses) = addresses else { return Ok(Progress::Done(Origin::Balancer)) };
    let fields_at = FIXED + addresses.length();
    if let Some(checksum_at) = checksum_at(&rest[addresses.length()..])? {
        check(&bytes[..FIXED + length], fields_at + checksum_at)?;
    }
    addresses.source(rest).map(|source| Progress::Done(Origin::Peer(source))).ok_or(InvalidHeader::Length)
}

/// The form of the addresses.
#[derive(Clone, Copy, Debug)]
enum Addresses {
    V4,
    V6,
}

/// Which addresses a family and transport mean. What exists and is no TCP could be taken for a connection of the balancer itself; it is refused, as the
/// protocol permits, because then nobody would know from where it comes.
fn addresses(family: u8) -> Result<Addresses, InvalidHeader> {
    match (family >> 4, family & 0xf) {
        (1, 1) => Ok(Addresses::V4),
        (2, 1) => Ok(Addresses::V6),
        (0..=3, 0..=2) => Err(InvalidHeader::NoOrigin),
        _ => Err(InvalidHeader::Family),
    }
}

impl Addresses {
    /// Bytes of source and destination, addresses before ports.
    fn length(self) -> usize {
        match self {
            Self::V4 => 4 + 4 + 2 + 2,
            Self::V6 => 16 + 16 + 2 + 2,
        }
    }

    /// The source in the bytes after the fixed part. An IPv4 address inside an IPv6 one is the IPv4 address.
    fn source(self, bytes: &[u8]) -> Option<SocketAddr> {
        let (address, port_at): (IpAddr, usize) = match self {
            Self::V4 => (Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(), 8),
            Self::V6 => (Ipv6Addr::from(*bytes.first_chunk::<16>()?).into(), 32),
        };
        let port = bytes.get(port_at..)?.first_chunk::<2>()?;
        Some(SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port)))
    }
}

/// Where the value of the checksum begins, if there is one.
fn checksum_at(fields: &[u8]) -> Result<Option<usize>, InvalidHeader> {
    let (mut at, mut found) = (0, None);
    while at < fields.len() {
        let head = fields[at..].first_chunk::<FIELD_HEAD>().ok_or(InvalidHeader::Field)?;
        let [kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value_at = at + FIELD_HEAD;
        if value_at + length > fields.len() {
            return Err(InvalidHeader::Field);
        }
        if kind == CRC32C && (length != CRC32C_BYTES || found.replace(value_at).is_some()) {
            return Err(InvalidHeader::Field);
        }
        at = value_at + length;
    }
    Ok(found)
}

/// Compares the checksum that stands at `at` with that of the header, for which its own four bytes count as zero.
fn check(header: &[u8], at: usize) -> Result<(), InvalidHeader> {
    let said = header.get(at..).and_then(|bytes| bytes.first_chunk::<CRC32C_BYTES>()).ok_or(InvalidHeader::Field)?;
    let own = at..at + CRC32C_BYTES;
    let bytes = header.iter().enumerate().map(|(place, byte)| if own.contains(&place) { 0 } else { *byte });
    if crc32c(bytes) == u32::from_be_bytes(*said) { Ok(()) } else { Err(InvalidHeader::Checksum) }
}

/// CRC-32C (Castagnoli), as in RFC 3720, appendix B.4.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..u8::BITS {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests;
