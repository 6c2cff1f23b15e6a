//! Identifiers: opaque 128-bit values, written as 32 lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use rand_core::Rng;

/// A text that is not an identifier of 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an identifier has 32 lower-case hexadecimal digits")]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// Draws a new one; `rng` must be a cryptographic generator where the value has to be unguessable.
            pub fn random(rng: &mut impl Rng) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(u128::from_be_bytes(bytes))
            }

            /// The value as it travels in protobuf `bytes` fields: 16 bytes, big endian.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// Reads the form of [`Self::to_bytes`].
            ///
            /// # Errors
            /// [`InvalidId`] unless there are exactly 16 bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidId> {
                bytes.try_into().map(|bytes| Self(u128::from_be_bytes(bytes))).map_err(|_| InvalidId)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if text.len() != 32 || !digits {
                    return Err(InvalidId);
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidId)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// One request of an application, the same in every log, answer and audit record that it leaves. The form is that
    /// of a W3C trace id.
    RequestId
}

id! {
    /// One running process of an agent, client or server; new at every start.
    InstanceId
}

id! {
    /// One session on one link; unguessable, because naming it is what lets an agent take the session up.
    SessionId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let id = RequestId(0x0123_4567_89ab_cdef_0000_0000_0000_0001);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(RequestId::from_bytes(&id.to_bytes()), Ok(id));
    }

    #[test]
    fn refuses_other_spellings() {
        for text in [
            "",
            "1",
            "0123456789ABCDEF0000000000000001",
            "+123456789abcdef00000000000000001",
            "0123456789abcdef000000000000000g",
        ] {
            assert_eq!(text.parse::<RequestId>(), Err(InvalidId), "{text}");
        }
        assert_eq!(RequestId::from_bytes(&[0; 15]), Err(InvalidId));
    }
}
