use super::*;

/// A header with this command and family, the rest as given.
fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// From 203.0.113.9:40000 to 10.0.0.1:443.
const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x9c, 0x40, 1, 0xbb];

fn v6(source: &str) -> Vec<u8> {
    let [source, destination] = [source, "fd00::1"].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
    [&source[..], &destination, &[0x9c, 0x40, 1, 0xbb]].concat()
}

fn peer(text: &str) -> Result<Progress, InvalidHeader> {
    Ok(Progress::Done(Origin::Peer(text.parse().unwrap())))
}

/// The header with the right checksum in the field whose value ends it.
fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
    let at = header.len() - CRC32C_BYTES;
    let sum = crc32c(header.iter().copied()).to_be_bytes();
    header[at..].copy_from_slice(&sum);
    header
}

#[test]
fn reads_the_source_of_tcp_connections_and_knows_the_balancers_own() {
    let own = Ok(Progress::Done(Origin::Balancer));
    let extra = [field(0x01, b"h2"), field(0x04, &[0; 9]), field(0xea, b"\x01vpce-0123")].concat();
    let cases = [
        (header(0x21, 0x11, &V4), peer("203.0.113.9:40000")),
        (header(0x21, 0x11, &[&V4[..], &extra].concat()), peer("203.0.113.9:40000")),
        (header(0x21, 0x21, &v6("2001:db8::9")), peer("[2001:db8::9]:40000")),
        (header(0x21, 0x21, &v6("::ffff:203.0.113.9")), peer("203.0.113.9:40000")),
        (header(0x20, 0x00, &[]), own),
        (header(0x20, 0x11, &V4), own),
        // What stands in the header of a connection of its own means nothing.
        (header(0x20, 0x31, &[7; 216]), own),
        (header(0x20, 0xff, &[3, 0, 9]), own),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read(&bytes), expected, "{bytes:?}");
        let and_more = [&bytes[..], b"\x16\x03\x01"].concat();
        assert_eq!(read(&and_more), expected, "what follows is not part of it");
        for end in 0..bytes.len() {
            let Ok(Progress::Needs(more)) = read(&bytes[..end]) else { panic!("{end} bytes of {bytes:?}") };
            assert!(more > end && more <= bytes.len(), "{more} after {end} of {}", bytes.len());
        }
    }
}

#[test]
fn refuses_everything_else() {
    use InvalidHeader as E;
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00";
    let with = |rest: &[u8]| header(0x21, 0x11, &[&V4[..], rest].concat());
    let mut long = header(0x21, 0x11, &V4);
    long[14..16].copy_from_slice(&u16::try_from(REST_MAX + 1).unwrap().to_be_bytes());
    let mut version = header(0x21, 0x11, &V4);
    version[12] = 0x11;
    let cases = [
        (tls.to_vec(), E::Signature),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 443\r\n".to_vec(), E::Signature),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), E::Signature),
        (b"GET / HTTP/1.1\r\n".to_vec(), E::Signature),
        (version, E::Version),
        (header(0x22, 0x11, &V4), E::Command),
        (header(0x2f, 0x11, &V4), E::Command),
        (header(0x21, 0x00, &[]), E::NoOrigin),
        (header(0x21, 0x31, &[0; 216]), E::NoOrigin),
        (header(0x21, 0x32, &[0; 216]), E::NoOrigin),
        (header(0x21, 0x12, &V4), E::NoOrigin),
        (header(0x21, 0x22, &v6("fd00::9")), E::NoOrigin),
        (header(0x21, 0x13, &V4), E::Family),
        (header(0x21, 0x41, &V4), E::Family),
        (header(0x21, 0x11, &V4[..11]), E::Length),
        (header(0x21, 0x21, &V4), E::Length),
        (long, E::TooLong),
        (with(&[0x01]), E::Field),
        (with(&[0x01, 0]), E::Field),
        (with(&[0x01, 0, 2, b'h']), E::Field),
        (with(&[0x01, 0xff, 0xff, b'h']), E::Field),
        (with(&field(CRC32C, &[0; 3])), E::Field),
        (with(&[field(CRC32C, &[0; 4]), field(CRC32C, &[0; 4])].concat()), E::Field),
        (with(&field(CRC32C, &[1, 2, 3, 4])), E::Checksum),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read(&bytes), Err(expected), "{bytes:?}");
    }
}

#[test]
fn a_checksum_has_to_be_right_for_every_byte() {
    assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283, "the check value of CRC-32C");
    let rest = [&V4[..], &field(0x01, b"h2"), &field(CRC32C, &[0; 4])].concat();
    let good = with_checksum(header(0x21, 0x11, &rest));
    assert_eq!(read(&good), peer("203.0.113.9:40000"));
    // The type of the field apart: without it there is no checksum.
    for at in (FIXED..good.len()).filter(|at| *at != good.len() - CRC32C_BYTES - FIELD_HEAD) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(matches!(read(&bad), Err(InvalidHeader::Checksum | InvalidHeader::Field)), "byte {at}");
    }
}
