//! The length-prefixed messages of gRPC on an HTTP/2 body (gRPC over HTTP2, section "Length-Prefixed-Message").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Compression flag and length.
const PREFIX: usize = 5;

/// Why bytes are no gRPC messages.
#[derive(Debug, thiserror::Error)]
pub enum FramingError {
    /// The message claims a compression that was never offered.
    #[error("compressed message")]
    Compressed,
    /// The message is not what the protocol defines.
    #[error("undecodable message")]
    Message(#[source] prost::DecodeError),
    /// The length prefix exceeds the bound of the call.
    #[error("message of {claimed} bytes, at most {allowed} are allowed")]
    TooLong {
        /// What the prefix says.
        claimed: usize,
        /// The bound.
        allowed: usize,
    },
}

/// Appends a message with its prefix.
pub fn encode(message: &impl Message, into: &mut BytesMut) {
    let length = message.encoded_len();
    into.reserve(PREFIX + length);
    into.put_u8(0);
    into.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The buffer grows as needed, so that encoding cannot run out of room.
    let encoded = message.encode(into);
    debug_assert!(encoded.is_ok());
}

/// Cuts a body's bytes into messages; holds less than one message besides what was just put in.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    /// What has not been looked at, kept apart so that a message that lies in one piece is never copied.
    whole: Bytes,
    message_max: usize,
}

impl Decoder {
    /// A decoder for messages of at most `message_max` bytes.
    pub fn new(message_max: usize) -> Self {
        Self { buffer: BytesMut::new(), whole: Bytes::new(), message_max }
    }

    /// Takes in the next bytes of the body. [`Self::next_message`] must have returned `None` before.
    pub fn put(&mut self, bytes: Bytes) {
        debug_assert!(self.whole.is_empty(), "drained before the next bytes");
        self.whole = bytes;
    }

    /// The next whole message, `None` until there are more bytes.
    ///
    /// # Errors
    /// [`FramingError`]; the body cannot be read any further then.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FramingError> {
        let Some(payload) = self.payload()? else { return Ok(None) };
        M::decode(payload).map(Some).map_err(FramingError::Message)
    }

    fn payload(&mut self) -> Result<Option<Bytes>, FramingError> {
        if self.buffer.is_empty() {
            if let Some(length) = self.length(&self.whole)?
                && self.whole.len() >= PREFIX + length
            {
                self.whole.advance(PREFIX);
                return Ok(Some(self.whole.split_to(length)));
            }
            self.buffer.extend_from_slice(&std::mem::take(&mut self.whole));
            return Ok(None);
        }
        self.fill(PREFIX);
        let Some(length) = self.length(&self.buffer)? else { return Ok(None) };
        self.fill(PREFIX + length);
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.buffer).freeze();
        message.advance(PREFIX);
        Ok(Some(message))
    }

    /// Moves bytes over until the started message has `wanted` of them.
    fn fill(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.buffer.len()).min(self.whole.len());
        self.buffer.extend_from_slice(&self.whole.split_to(missing));
    }

    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, FramingError> {
        let Some((&[flag, a, b, c, d], _)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        if flag != 0 {
            return Err(FramingError::Compressed);
        }
        let claimed = u32::from_be_bytes([a, b, c, d]) as usize;
        if claimed > self.message_max {
            return Err(FramingError::TooLong { claimed, allowed: self.message_max });
        }
        Ok(Some(claimed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::v1;

    fn message(target: &str) -> v1::Open {
        v1::Open { target: target.to_owned(), ..v1::Open::default() }
    }

    #[test]
    fn reads_messages_whatever_the_cuts() {
        let mut body = BytesMut::new();
        let messages = [message("a:1"), message(""), message(&"x".repeat(3000)), message("b:2")];
        for message in &messages {
            encode(message, &mut body);
        }
        for size in [1, 2, 5, 7, 100, body.len()] {
            let mut decoder = Decoder::new(4096);
            let mut read = Vec::new();
            for piece in body.chunks(size) {
                decoder.put(Bytes::copy_from_slice(piece));
                while let Some(message) = decoder.next_message::<v1::Open>().unwrap() {
                    read.push(message);
                }
            }
            assert_eq!(read, messages, "pieces of {size}");
        }
    }

    #[test]
    fn refuses_what_no_peer_may_send() {
        let cases: [(&[u8], &str); 4] = [
            (&[0, 0xff, 0xff, 0xff, 0xff], "message of 4294967295 bytes, at most 4096 are allowed"),
            (&[0, 0, 0, 0x10, 0x01], "message of 4097 bytes, at most 4096 are allowed"),
            (&[1, 0, 0, 0, 0], "compressed message"),
            (&[0, 0, 0, 0, 2, 0x12, 0xff], "undecodable message"),
        ];
        for (bytes, error) in cases {
            let mut decoder = Decoder::new(4096);
            decoder.put(Bytes::copy_from_slice(bytes));
            assert_eq!(decoder.next_message::<v1::Open>().unwrap_err().to_string(), error);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_bytes_do_harm_however_they_are_cut(
            messages in vec((prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 0_u32..400, vec(any::<u8>(), 0..300)), 0..6),
            cuts in vec(0_usize..50, 1..20),
        ) {
            let mut body = BytesMut::new();
            for (flag, length, bytes) in messages {
                body.put_u8(flag);
                body.put_u32(length);
                body.extend_from_slice(&bytes);
            }
            let mut body = body.freeze();
            let mut decoder = Decoder::new(256);
            for cut in cuts.into_iter().cycle().take(1000) {
                decoder.put(body.split_to(cut.min(body.len())));
                loop {
                    match decoder.next_message::<v1::Frame>() {
                        Ok(None) => break,
                        Ok(Some(_)) | Err(FramingError::Message(_)) => {}
                        Err(FramingError::Compressed | FramingError::TooLong { .. }) => return Ok(()),
                    }
                }
                prop_assert!(decoder.buffer.len() < PREFIX + 256 && decoder.whole.is_empty());
            }
        }
    }
}
