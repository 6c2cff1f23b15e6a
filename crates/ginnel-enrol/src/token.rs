//! The form of a token: three parts, a header that names a known algorithm, claims of exact types.
//!
//! Nothing here is believed; [`crate::verdict`] judges what was read.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_identity::credential::is_key_id;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::unique::Unique;
use crate::verdict::Denied;

/// Most bytes of a token. One that this program signs has less than 1 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Most characters of a key's id.
const KEY_ID_CHARACTERS_MAX: usize = 128;

/// A token that was read as far as its kind does not matter.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    /// What the signature is over.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
    pub(crate) header: Header,
    claims: Vec<u8>,
}

/// How a token says that it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// RSA, PKCS#1 v1.5, SHA-256.
    Rs256,
    /// P-256, SHA-256.
    Es256,
}

/// The claims of a token that a service account signs itself. Unknown ones are refused like duplicates: what two readers could understand
/// differently is no token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    /// Judged later, so that an audience of another type is refused as an audience; nothing but one string is ever accepted.
    pub(crate) aud: Option<Value>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    #[serde(default, deserialize_with = "not_null")]
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

/// The claims of an issuer's token. Issuers add what they like, so unknown ones are passed over; no member may be there twice.
#[derive(Debug)]
pub(crate) struct ForeignClaims {
    pub(crate) sub: String,
    pub(crate) aud: Option<Value>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) nbf: Option<u64>,
    pub(crate) email: Option<String>,
    pub(crate) email_is_verified: bool,
    pub(crate) spki_sha256: Option<String>,
}

/// The header. A `jwk`, `jku`, `x5u`, `x5c` or `crit` is an unknown field: no key is ever taken from a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderFields {
    alg: String,
    #[serde(default, deserialize_with = "not_null")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    typ: Option<String>,
    /// A certificate's hash, which some issuers name beside the key's id; it plays no part.
    #[serde(default, deserialize_with = "not_null")]
    x5t: Option<String>,
}

/// What a header said.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<String>,
    /// Whether it is as only issuers write it.
    is_foreign: bool,
}

#[derive(Deserialize)]
struct OfIssuer {
    iss: String,
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
        let header = read_header(&decode(header)?)?;
        Ok(Self { signed, signature: decode(signature)?, header, claims: decode(claims)? })
    }

    /// Who the token says has issued it.
    pub(crate) fn issuer(&self) -> Result<String, Denied> {
        let OfIssuer { iss } = serde_json::from_slice(&self.claims).map_err(|_| Denied::Malformed)?;
        Ok(iss)
    }

    /// The claims of a token that a service account signs itself.
    pub(crate) fn claims(&self) -> Result<Claims, Denied> {
        if self.header.is_foreign || !self.header.key_id.as_deref().is_none_or(is_key_id) {
            return Err(Denied::Header);
        }
        serde_json::from_slice(&self.claims).map_err(|_| Denied::Malformed)
    }

    /// The claims of an issuer's token.
    pub(crate) fn foreign_claims(&self) -> Result<ForeignClaims, Denied> {
        let Unique(claims) = serde_json::from_slice(&self.claims).map_err(|_| Denied::Malformed)?;
        let text =
            |name: &str| claims.get(name).map(|value| value.as_str().map(str::to_owned).ok_or(Denied::Malformed));
        let number = |name: &str| claims.get(name).map(|value| value.as_u64().ok_or(Denied::Malformed));
        let verified = claims.get("email_verified");
        let spki_sha256 = claims.get("cnf").and_then(|cnf| cnf.get("spki#S256")).and_then(Value::as_str);
        Ok(ForeignClaims {
            sub: text("sub").ok_or(Denied::Malformed)??,
            aud: claims.get("aud").cloned(),
            iat: number("iat").ok_or(Denied::Malformed)??,
            exp: number("exp").ok_or(Denied::Malformed)??,
            nbf: number("nbf").transpose()?,
            email: text("email").transpose()?,
            // Only the truth value counts; a text that reads the same is another type.
            email_is_verified: verified.and_then(Value::as_bool) == Some(true),
            spki_sha256: spki_sha256.map(str::to_owned),
        })
    }
}

impl ForeignClaims {
    /// The audience, if it is exactly one: a text, or a list of one text.
    pub(crate) fn audience(&self) -> Option<&str> {
        match self.aud.as_ref()? {
            Value::String(audience) => Some(audience),
            Value::Array(list) if list.len() == 1 => list[0].as_str(),
            Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }
}

/// Whether a text can be the id of a key that an issuer publishes: it is only ever compared and shown.
pub(crate) fn is_published_key_id(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'\'' | b'<' | b'>');
    (1..=KEY_ID_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Decodes base64url without padding; of several spellings of the same bytes only one is accepted.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, Denied> {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| Denied::Malformed)
}

/// A value that may be missing, but not be there and be nothing: other readers refuse that.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn read_header(json: &[u8]) -> Result<Header, Denied> {
    let HeaderFields { alg, kid, typ, x5t } = serde_json::from_slice(json).map_err(|_| Denied::Header)?;
    let algorithm = match alg.as_str() {
        "RS256" => Algorithm::Rs256,
        "ES256" => Algorithm::Es256,
        _ => return Err(Denied::Algorithm),
    };
    // RFC 9068: an access token in this form says so. One that names us as its only audience is for us.
    let is_access_token = typ.as_deref() == Some("at+jwt");
    let type_is_known = is_access_token || typ.is_none_or(|typ| typ == "JWT");
    let key_is_named = kid.as_deref().is_none_or(is_published_key_id);
    if !type_is_known || !key_is_named {
        return Err(Denied::Header);
    }
    Ok(Header { algorithm, key_id: kid, is_foreign: is_access_token || x5t.is_some() })
}
