//! The private object identifiers in certificates: key purposes of inner TLS, and an extension.
//!
//! They lie in the arc that Microsoft provides for object identifiers made from a UUID (1.2.840.113556.1.8000.2554, then the UUID
//! `7e0a028b-15e5-4660-8744-ffb2582c7a4f` in pieces of at most 24 bits). Every component fits 32 bits, which Google's Certificate
//! Authority Service demands and the arc 2.25 cannot give.

/// The key purpose of a client's certificate in inner TLS, as components.
pub const INNER_INITIATOR: &[u64] =
    &[1, 2, 840, 113_556, 1, 8000, 2554, 32266, 651, 5605, 18016, 34628, 16_757_336, 2_914_895, 1];

/// The key purpose of an agent's certificate in inner TLS, as components.
pub const INNER_RESPONDER: &[u64] =
    &[1, 2, 840, 113_556, 1, 8000, 2554, 32266, 651, 5605, 18016, 34628, 16_757_336, 2_914_895, 2];

/// The extension that says what a certificate was given for, as components. Its form is closed: another one gets another identifier.
pub const EVIDENCE: &[u64] =
    &[1, 2, 840, 113_556, 1, 8000, 2554, 32266, 651, 5605, 18016, 34628, 16_757_336, 2_914_895, 3];

/// [`INNER_INITIATOR`] as the content of a DER object identifier.
pub const INNER_INITIATOR_DER: &[u8] = &encode(INNER_INITIATOR);

/// [`INNER_RESPONDER`] as the content of a DER object identifier.
pub const INNER_RESPONDER_DER: &[u8] = &encode(INNER_RESPONDER);

/// [`EVIDENCE`] as the content of a DER object identifier.
pub const EVIDENCE_DER: &[u8] = &encode(EVIDENCE);

/// id-kp-clientAuth as the content of a DER object identifier.
pub(crate) const CLIENT_AUTH_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// id-kp-serverAuth as the content of a DER object identifier.
pub(crate) const SERVER_AUTH_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];

/// Bytes of each private identifier in DER; [`encode`] does not compile with another number.
const LENGTH: usize = 33;

const fn encode(components: &[u64]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut at = 0;
    let mut index = 1;
    while index < components.len() {
        let component = if index == 1 { components[0] * 40 + components[1] } else { components[index] };
        let mut groups = 1;
        while component >> (7 * groups) != 0 {
            groups += 1;
        }
        while groups > 0 {
            groups -= 1;
            let group = (component >> (7 * groups)) & 0x7f;
            // Seven bits always fit; `try_from` is not available to constants.
            bytes[at] = group.to_le_bytes()[0] | if groups > 0 { 0x80 } else { 0 };
            at += 1;
        }
        index += 1;
    }
    assert!(at == LENGTH, "LENGTH is the length of the encoding");
    bytes
}
