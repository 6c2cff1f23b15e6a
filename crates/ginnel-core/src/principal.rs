//! Who: a role and a name, written as one URI, and the service-account e-mail that goes with it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a principal may be in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Brokers sessions in the vendor's cloud.
    Server,
    /// Dials targets in the customer's network.
    Agent,
    /// Opens sessions beside the application.
    Client,
}

impl Role {
    /// The word used in URIs, configuration and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Client => "client",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidPrincipal;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        [Self::Server, Self::Agent, Self::Client]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(InvalidPrincipal::Role)
    }
}

/// Why a text names no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrincipal {
    /// The name or trust domain has a character or length that is not allowed.
    #[error("a name has 1 to 63 characters from a-z, 0-9 and -, and does not begin or end with -")]
    Name,
    /// The role is none of the three.
    #[error("a role is one of server, agent, client")]
    Role,
    /// The trust domain is not a lower-case DNS name.
    #[error("a trust domain is a lower-case DNS name of at most 255 characters")]
    TrustDomain,
    /// The URI does not have the form `spiffe://<trust-domain>/<role>/<name>`.
    #[error("a principal is spelled spiffe://<trust-domain>/<role>/<name>")]
    Uri,
}

/// A name in `identities`: 1 to 63 characters from `a-z`, `0-9` and `-`, neither first nor last a `-`.
///
/// Narrower than a SPIFFE path segment, so that no two spellings can mean the same principal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// The trust domain of a server and of everybody it certifies: a lower-case DNS name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! text_newtype {
    ($name:ident, $check:expr, $error:expr) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidPrincipal;

            fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
                if $check(text) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidPrincipal;

            fn try_from(text: String) -> Result<Self, InvalidPrincipal> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.as_str().to_owned()
            }
        }
    };
}

text_newtype!(Name, is_label, InvalidPrincipal::Name);
text_newtype!(
    TrustDomain,
    |text: &str| text.len() <= 255 && text.split('.').all(is_label),
    InvalidPrincipal::TrustDomain
);

/// Who somebody is, as proved by a certificate: `spiffe://<trust-domain>/<role>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal {
    /// The domain whose server certified it.
    pub trust_domain: TrustDomain,
    /// What it may be in the tunnel.
    pub role: Role,
    /// Which one of that role.
    pub name: Name,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.trust_domain, self.role, self.name)
    }
}

impl FromStr for Principal {
    type Err = InvalidPrincipal;

    fn from_str(text: &str) -> Result<Self, InvalidPrincipal> {
        let rest = text.strip_prefix("spiffe://").ok_or(InvalidPrincipal::Uri)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidPrincipal::Uri);
        };
        Ok(Self { trust_domain: domain.parse()?, role: role.parse()?, name: name.parse()? })
    }
}

impl Serialize for Principal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether a text is an e-mail as service accounts have it: `name@domain`, lower case, one spelling per account.
pub fn is_email(text: &str) -> bool {
    let Some((name, domain)) = text.split_once('@') else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| plain(b) || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // 64, 253 and 254 are the bounds of RFC 5321.
    (1..=64).contains(&name.len())
        && text.len() <= 254
        && name.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'+' | b'-'))
        && domain.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let text = "spiffe://acme.example/agent/acme-1";
        let principal: Principal = text.parse().expect("a principal");
        assert_eq!(principal.role, Role::Agent);
        assert_eq!(principal.to_string(), text);
    }

    #[test]
    fn refuses_every_other_spelling() {
        let cases = [
            ("https://acme.example/agent/acme", InvalidPrincipal::Uri),
            ("spiffe://acme.example/agent", InvalidPrincipal::Uri),
            ("spiffe://acme.example/agent/acme/x", InvalidPrincipal::Uri),
            ("spiffe://acme.example/admin/acme", InvalidPrincipal::Role),
            ("spiffe://acme.example/Agent/acme", InvalidPrincipal::Role),
            ("spiffe://ACME.example/agent/acme", InvalidPrincipal::TrustDomain),
            ("spiffe:///agent/acme", InvalidPrincipal::TrustDomain),
            ("spiffe://acme.example/agent/", InvalidPrincipal::Name),
            ("spiffe://acme.example/agent/..", InvalidPrincipal::Name),
            ("spiffe://acme.example/agent/%61cme", InvalidPrincipal::Name),
            ("spiffe://acme.example/agent/acme?x", InvalidPrincipal::Name),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Principal>(), Err(error), "{text}");
        }
    }
}
