//! The messages of SOCKS 5 as bytes.
//!
//! The parsers look at everything that was read so far and answer with a message and its length, with nothing while it may still become
//! one, or with what is wrong. They never need more than 262 bytes to say which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ginnel_core::target::{Host, InvalidTarget, Port, Target};

const VERSION: u8 = 5;
const METHOD_NONE: u8 = 0x00;
const COMMAND_CONNECT: u8 = 0x01;
const TYPE_IPV4: u8 = 0x01;
const TYPE_NAME: u8 = 0x03;
const TYPE_IPV6: u8 = 0x04;

/// The answer to a greeting that offers to do without authentication.
pub(super) const NO_AUTHENTICATION: [u8; 2] = [VERSION, METHOD_NONE];

/// The answer to any other greeting.
pub(super) const NO_ACCEPTABLE_METHOD: [u8; 2] = [VERSION, 0xff];

/// The reply field for success.
pub(super) const SUCCEEDED: u8 = 0x00;

const GENERAL_FAILURE: u8 = 0x01;
const COMMAND_NOT_SUPPORTED: u8 = 0x07;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 0x08;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::front) enum Invalid {
    #[error("an unknown type of address")]
    AddressType,
    #[error("only CONNECT is served")]
    Command,
    #[error("the application insists on authentication")]
    Methods,
    #[error("the reserved byte is not zero")]
    Reserved,
    #[error("the target is malformed")]
    Target(#[source] InvalidTarget),
    #[error("not SOCKS version 5")]
    Version,
}

impl Invalid {
    /// The reply field that says so.
    pub(super) fn reply(self) -> u8 {
        match self {
            Self::AddressType => ADDRESS_TYPE_NOT_SUPPORTED,
            Self::Command => COMMAND_NOT_SUPPORTED,
            Self::Methods | Self::Reserved | Self::Target(_) | Self::Version => GENERAL_FAILURE,
        }
    }
}

impl From<InvalidTarget> for Invalid {
    fn from(error: InvalidTarget) -> Self {
        Self::Target(error)
    }
}

pub(in crate::front) type Parsed<T> = Result<Option<(usize, T)>, Invalid>;

/// Reads the greeting: the version and the methods of authentication that the application knows.
pub(in crate::front) fn greeting(bytes: &[u8]) -> Parsed<()> {
    if bytes.first().is_some_and(|&version| version != VERSION) {
        return Err(Invalid::Version);
    }
    let Some(&count) = bytes.get(1) else { return Ok(None) };
    let length = 2 + usize::from(count);
    let Some(methods) = bytes.get(2..length) else { return Ok(None) };
    if methods.contains(&METHOD_NONE) { Ok(Some((length, ()))) } else { Err(Invalid::Methods) }
}

/// Reads the request. A name that is an address in text is that address.
pub(in crate::front) fn request(bytes: &[u8]) -> Parsed<Target> {
    let checks = [
        (bytes.first(), VERSION, Invalid::Version),
        (bytes.get(1), COMMAND_CONNECT, Invalid::Command),
        (bytes.get(2), 0, Invalid::Reserved),
    ];
    for (byte, expected, invalid) in checks {
        if byte.is_some_and(|&byte| byte != expected) {
            return Err(invalid);
        }
    }
    let Some(&kind) = bytes.get(3) else { return Ok(None) };
    let rest = &bytes[4..];
    let parsed = match kind {
        TYPE_IPV4 => rest.first_chunk().map(|&octets: &[u8; 4]| (4, Host::from(IpAddr::from(Ipv4Addr::from(octets))))),
        TYPE_IPV6 => {
            rest.first_chunk().map(|&octets: &[u8; 16]| (16, Host::from(IpAddr::from(Ipv6Addr::from(octets)))))
        }
        TYPE_NAME => name(rest)?,
        _ => return Err(Invalid::AddressType),
    };
    let Some((length, host)) = parsed else { return Ok(None) };
    let Some(&port) = rest[length..].first_chunk() else { return Ok(None) };
    let port = Port::try_from(u16::from_be_bytes(port))?;
    Ok(Some((4 + length + 2, Target::new(host, port))))
}

fn name(rest: &[u8]) -> Parsed<Host> {
    let Some((&length, rest)) = rest.split_first() else { return Ok(None) };
    let length = usize::from(length);
    let Some(text) = rest.get(..length) else { return Ok(None) };
    let text = std::str::from_utf8(text).map_err(|_| InvalidTarget::NonAscii)?;
    Ok(Some((1 + length, text.parse()?)))
}

/// The answer to a request. The bound address, which nobody uses, is left at zero: it is an address in the customer's network.
pub(super) fn outcome(reply: u8) -> [u8; 10] {
    [VERSION, reply, 0, TYPE_IPV4, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &[u8]) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        [&[5, 1, 0, 3, length], name, &[1, 187]].concat()
    }

    fn requests() -> Vec<(Vec<u8>, Result<&'static str, Invalid>)> {
        let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
        vec![
            (vec![5, 1, 0, 1, 10, 0, 0, 7, 0, 22], Ok("10.0.0.7:22")),
            ([&[5, 1, 0, 4][..], &v6, &[0, 22]].concat(), Ok("[fd00::1]:22")),
            ([&[5, 1, 0, 4][..], &mapped, &[0, 22]].concat(), Ok("127.0.0.1:22")),
            (named(b"GitLab.Acme.internal."), Ok("gitlab.acme.internal:443")),
            (named(b"127.0.0.1"), Ok("127.0.0.1:443")),
            (named(b"fd00::1"), Ok("[fd00::1]:443")),
            (named(b"127.1"), Err(Invalid::Target(InvalidTarget::Ipv4))),
            (named(b"2130706433"), Err(Invalid::Target(InvalidTarget::Ipv4))),
            (named(b""), Err(Invalid::Target(InvalidTarget::Empty))),
            (named(&[b'a'; 255]), Err(Invalid::Target(InvalidTarget::Length))),
            (named(b"a\0b"), Err(Invalid::Target(InvalidTarget::Character('\0')))),
            (named(b"a\r\nb"), Err(Invalid::Target(InvalidTarget::Character('\r')))),
            (named(b"user@host"), Err(Invalid::Target(InvalidTarget::Character('@')))),
            (named(&[0xff, 0xfe]), Err(Invalid::Target(InvalidTarget::NonAscii))),
            (vec![5, 1, 0, 1, 10, 0, 0, 7, 0, 0], Err(Invalid::Target(InvalidTarget::Port))),
            (vec![5, 2, 0, 1, 10, 0, 0, 7, 0, 22], Err(Invalid::Command)),
            (vec![5, 3, 0, 1, 10, 0, 0, 7, 0, 22], Err(Invalid::Command)),
            (vec![5, 1, 1, 1, 10, 0, 0, 7, 0, 22], Err(Invalid::Reserved)),
            (vec![5, 1, 0, 2, 10, 0, 0, 7, 0, 22], Err(Invalid::AddressType)),
            (vec![4, 1, 0, 22, 10, 0, 0, 7, 0], Err(Invalid::Version)),
        ]
    }

    #[test]
    fn reads_requests_and_says_what_is_wrong() {
        for (bytes, expected) in requests() {
            let expected = expected.map(|target| Some((bytes.len(), target.parse().unwrap())));
            assert_eq!(request(&bytes), expected, "{bytes:?}");
            if expected.is_ok() {
                let more = [&bytes[..], b"SSH-2.0"].concat();
                assert_eq!(request(&more), expected, "{more:?}");
            }
        }
    }

    #[test]
    fn waits_for_the_last_byte_of_a_good_request_and_never_longer_for_a_bad_one() {
        for (bytes, expected) in requests() {
            let verdicts: Vec<_> = (0..=bytes.len()).map(|length| request(&bytes[..length])).collect();
            let decided = verdicts.iter().position(|verdict| *verdict != Ok(None)).unwrap();
            match expected {
                Ok(_) => assert_eq!(decided, bytes.len(), "{bytes:?}"),
                Err(invalid) => {
                    assert!(verdicts[decided..].iter().all(|verdict| *verdict == Err(invalid)), "{bytes:?}");
                }
            }
        }
    }

    #[test]
    fn reads_greetings() {
        let cases: [(&[u8], Parsed<()>); 9] = [
            (&[], Ok(None)),
            (&[5], Ok(None)),
            (&[5, 1], Ok(None)),
            (&[5, 2, 0], Ok(None)),
            (&[5, 1, 0], Ok(Some((3, ())))),
            (&[5, 2, 2, 0, 5, 1], Ok(Some((4, ())))),
            (&[5, 0], Err(Invalid::Methods)),
            (&[5, 1, 2], Err(Invalid::Methods)),
            (&[4, 1, 0], Err(Invalid::Version)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(greeting(bytes), expected, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_wants_more_than_a_message_can_have(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            head in proptest::sample::select(vec![vec![], vec![5], vec![5, 1, 0, 1], vec![5, 1, 0, 3], vec![5, 1, 0, 4]]),
        ) {
            bytes.splice(0..0, head);
            for parsed in [greeting(&bytes).map(|found| found.map(|(length, ())| length)),
                           request(&bytes).map(|found| found.map(|(length, _)| length))] {
                match parsed {
                    Ok(Some(length)) => prop_assert!(length <= bytes.len() && length <= 262),
                    Ok(None) => prop_assert!(bytes.len() < 262),
                    Err(_) => {}
                }
            }
        }
    }
}
