//! The first messages inside the inner TLS session, where the server cannot touch them: a length of two bytes, then protobuf.

use ginnel_core::id::RequestId;
use ginnel_core::target::Target;
use prost::Message;

use crate::frame::WireError;
use crate::hello::{INNER_TLS, PROTOCOL_VERSION, PROTOCOL_VERSIONS};
use crate::v1;

/// Most bytes of such a message.
pub const MESSAGE_MAX: usize = 4096;

/// What the client repeats inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerHello {
    /// The request of the application.
    pub request: RequestId,
    /// Where to; must equal what the server said outside.
    pub target: Target,
}

impl InnerHello {
    /// The message with its length.
    pub fn encode(&self) -> Vec<u8> {
        prefixed(&v1::InnerHello {
            protocol_version: PROTOCOL_VERSION,
            capabilities: vec![INNER_TLS.to_owned()],
            request_id: self.request.to_bytes().to_vec(),
            target: self.target.to_string(),
        })
    }

    /// Reads the message without its length.
    ///
    /// # Errors
    /// [`WireError`] names what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let hello = v1::InnerHello::decode(bytes).map_err(|_| WireError::Kind)?;
        if !PROTOCOL_VERSIONS.contains(&hello.protocol_version) {
            return Err(WireError::Field("inner.protocol_version"));
        }
        Ok(Self {
            request: RequestId::from_bytes(&hello.request_id).map_err(|_| WireError::Field("inner.request_id"))?,
            target: hello.target.parse().map_err(|_| WireError::Field("inner.target"))?,
        })
    }
}

/// The agent's answer, with its length.
pub fn encode_welcome() -> Vec<u8> {
    prefixed(&v1::InnerWelcome { protocol_version: PROTOCOL_VERSION, capabilities: vec![INNER_TLS.to_owned()] })
}

/// Reads the agent's answer without its length.
///
/// # Errors
/// [`WireError`] names what is wrong.
pub fn decode_welcome(bytes: &[u8]) -> Result<(), WireError> {
    let welcome = v1::InnerWelcome::decode(bytes).map_err(|_| WireError::Kind)?;
    if PROTOCOL_VERSIONS.contains(&welcome.protocol_version) {
        Ok(())
    } else {
        Err(WireError::Field("inner.protocol_version"))
    }
}

fn prefixed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    debug_assert!(length <= MESSAGE_MAX, "a target has at most 260 characters");
    let mut bytes = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    message.encode_raw(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_messages_read_back() {
        let target = "[fd00::1]:65535".parse().unwrap();
        let hello = InnerHello { request: RequestId::from_bytes(&[9; 16]).unwrap(), target };
        let bytes = hello.encode();
        assert_eq!(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), bytes.len() - 2);
        assert_eq!(InnerHello::decode(&bytes[2..]), Ok(hello));
        assert_eq!(decode_welcome(&encode_welcome()[2..]), Ok(()));
    }

    #[test]
    fn another_version_or_garbage_is_refused() {
        assert_eq!(decode_welcome(&[]), Err(WireError::Field("inner.protocol_version")));
        assert_eq!(decode_welcome(&[0xff]), Err(WireError::Kind));
        assert_eq!(InnerHello::decode(&[8, 1]), Err(WireError::Field("inner.request_id")));
    }
}
