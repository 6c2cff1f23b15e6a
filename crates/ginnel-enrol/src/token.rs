//! The form of a token: three parts, a header that names RS256, claims of exact types.
//!
//! Nothing here is believed; [`crate::verdict`] judges what was read.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_identity::credential::is_key_id;
use serde::Deserialize;
use serde_json::Value;

use crate::verdict::Denied;

/// Most bytes of a token. One that this program signs has less than 1 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// A token that was read.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    /// What the signature is over.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
    pub(crate) key_id: Option<String>,
    pub(crate) claims: Claims,
}

/// The claims. Unknown ones are refused like duplicates: what two readers could understand differently is no token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    /// Judged later, so that an audience of another type is refused as an audience; nothing but one string is ever accepted.
    pub(crate) aud: Option<Value>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) nbf: Option<u64>,
    pub(crate) jti: String,
    pub(crate) cnf: Confirmation,
}

/// The key that the token is bound to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confirmation {
    #[serde(rename = "spki#S256")]
    pub(crate) spki_sha256: String,
}

/// The header. A `jwk`, `jku`, `x5u`, `x5c` or `crit` is an unknown field: no key is ever taken from a token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Denied> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(Denied::Size);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Denied::Malformed);
        };
        let signed = &text[..header.len() + 1 + claims.len()];
        let key_id = read_header(&decode(header)?)?;
        let claims = serde_json::from_slice(&decode(claims)?).map_err(|_| Denied::Malformed)?;
        Ok(Self { signed, signature: decode(signature)?, key_id, claims })
    }
}

/// Decodes base64url without padding; of several spellings of the same bytes only one is accepted.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Denied> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| Denied::Malformed)
}

fn read_header(json: &[u8]) -> Result<Option<String>, Denied> {
    let header = serde_json::from_slice::<Header>(json).map_err(|_| Denied::Header)?;
    if header.alg != "RS256" {
        return Err(Denied::Algorithm);
    }
    let type_is_jwt = header.typ.is_none_or(|typ| typ == "JWT");
    let key_is_named = header.kid.as_deref().is_none_or(is_key_id);
    if type_is_jwt && key_is_named { Ok(header.kid) } else { Err(Denied::Header) }
}
