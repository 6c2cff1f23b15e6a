//! Writing and strictly reading PEM.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

/// Bytes that make one line of 64 characters.
const LINE: usize = 48;

/// Writes DER as one PEM block; the text is wiped when dropped, because it may be a private key.
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Reserved in one piece, so that no reallocation leaves a copy behind.
    let capacity = der.len().div_ceil(LINE) * 65 + 2 * label.len() + 64;
    let mut text = Zeroizing::new(String::with_capacity(capacity));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(LINE) {
        BASE64_STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Reads every block of a PEM text, which must all be of one kind.
///
/// `None` if there is no block, one of another kind, or a broken one. Blocks of kinds that the parser does not know are found by their
/// header line, so that they cannot be passed over.
pub fn decode_all(text: &[u8], kind: SectionKind) -> Option<Vec<Vec<u8>>> {
    let mut blocks = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (found, der) = block.ok()?;
        if found != kind {
            return None;
        }
        blocks.push(der);
    }
    let headers =
        text.split(|&byte| byte == b'\n' || byte == b'\r').filter(|line| line.starts_with(b"-----BEGIN ")).count();
    (headers == blocks.len() && !blocks.is_empty()).then_some(blocks)
}

/// Reads a PEM text of exactly one block of one kind.
pub fn decode_one(text: &[u8], kind: SectionKind) -> Option<Vec<u8>> {
    let mut blocks = decode_all(text, kind)?;
    if blocks.len() == 1 { blocks.pop() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        for length in [0, 1, 47, 48, 49, 200] {
            let der = vec![7; length];
            let text = encode("PUBLIC KEY", &der);
            assert!(text.lines().all(|line| line.len() <= 64));
            assert_eq!(decode_one(text.as_bytes(), SectionKind::PublicKey), Some(der), "{length}");
        }
    }

    #[test]
    fn refuses_other_kinds_and_broken_blocks() {
        let key = encode("PUBLIC KEY", b"key");
        let cases = [
            String::new(),
            "no block".to_owned(),
            encode("CERTIFICATE", b"x").to_string(),
            encode("SOMETHING ELSE", b"x").to_string(),
            format!("{}{}", *key, *encode("SOMETHING ELSE", b"x")),
            format!("{}{}", *key, *key),
            key.replace("-----END", "-----AND"),
            key.replace("a2V5", "a2V5!"),
        ];
        for text in cases {
            assert_eq!(decode_one(text.as_bytes(), SectionKind::PublicKey), None, "{text}");
        }
    }
}
