//! What is written to a stream at once: whole frames, of which the last may carry bytes.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ginnel_core::store::Load;
use ginnel_core::stream::Frame;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::sync::oneshot;

use crate::frame::{SessionFrame, reset_code};

/// Compression flag and length (gRPC over HTTP2, "Length-Prefixed-Message").
const PREFIX: usize = 5;

/// Number of `Frame.data`.
const DATA: u32 = 1;
/// Number of `Data.offset`.
const OFFSET: u32 = 1;
/// Number of `Data.bytes`.
const BYTES: u32 = 2;

/// Whole frames, ready for an HTTP/2 body. The bytes of a `Data` frame stay where they are: only what stands before them is written.
#[derive(Debug, Default)]
pub struct Piece {
    head: BytesMut,
    bytes: Bytes,
    /// How the session ends with this piece, if it does.
    last: Option<Last>,
    /// Dropped with the piece, which is how [`Left`] hears of it.
    watched: Option<oneshot::Sender<Infallible>>,
    /// What it counts for among that which waits, for as long as it is there.
    load: Option<Load>,
}

/// Ready when a piece has been written, or never will be. It must not be polled after that.
#[derive(Debug)]
pub struct Left(oneshot::Receiver<Infallible>);

impl Future for Left {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// What ends one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// A clean end.
    Fin,
    /// A reset, as an HTTP/2 error code.
    Reset(u32),
}

impl Piece {
    /// Appends a frame.
    pub fn push(&mut self, frame: SessionFrame) {
        self.seal();
        match &frame {
            SessionFrame::Stream(Frame::Fin { .. }) => self.last = Some(Last::Fin),
            // A reset behind a clean end does not take that back.
            SessionFrame::Stream(Frame::Reset { cause, hop }) if self.last.is_none() => {
                self.last = Some(Last::Reset(reset_code(*cause, *hop)))
            }
            SessionFrame::Open(_)
            | SessionFrame::Opened(_)
            | SessionFrame::Refused(_)
            | SessionFrame::Stream(_)
            | SessionFrame::Take(_) => {}
        }
        match frame {
            SessionFrame::Stream(Frame::Data { offset, bytes }) => {
                put_data_head(offset, bytes.len(), &mut self.head);
                self.bytes = bytes;
            }
            SessionFrame::Open(_)
            | SessionFrame::Opened(_)
            | SessionFrame::Refused(_)
            | SessionFrame::Stream(_)
            | SessionFrame::Take(_) => frame.encode(&mut self.head),
        }
    }

    /// The first frame that ends this direction, if one is among them.
    pub fn last(&self) -> Option<Last> {
        self.last
    }

    /// Tells when the piece is gone from wherever it waits to be written.
    pub fn watch(&mut self) -> Left {
        let (watched, left) = oneshot::channel();
        self.watched = Some(watched);
        Left(left)
    }

    /// Counts it for so much until it is gone from wherever it waits to be written.
    pub fn count_as(&mut self, load: Load) {
        self.load = Some(load);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        !self.has_remaining()
    }

    /// Only the last frame's bytes can stand apart.
    fn seal(&mut self) {
        if !self.bytes.is_empty() {
            self.head.extend_from_slice(&std::mem::take(&mut self.bytes));
        }
    }
}

/// Everything of a `Data` frame that stands before its bytes, exactly as protobuf writes it.
fn put_data_head(offset: u64, length: usize, into: &mut BytesMut) {
    let offset_len = if offset == 0 { 0 } else { 1 + encoded_len_varint(offset) };
    let data = offset_len + 1 + encoded_len_varint(length as u64) + length;
    let message = 1 + encoded_len_varint(data as u64) + data;
    into.reserve(PREFIX + message - length);
    into.put_u8(0);
    into.put_u32(u32::try_from(message).unwrap_or(u32::MAX));
    encode_key(DATA, WireType::LengthDelimited, into);
    encode_varint(data as u64, into);
    if offset != 0 {
        encode_key(OFFSET, WireType::Varint, into);
        encode_varint(offset, into);
    }
    encode_key(BYTES, WireType::LengthDelimited, into);
    encode_varint(length as u64, into);
}

impl From<Bytes> for Piece {
    /// What is framed already.
    fn from(bytes: Bytes) -> Self {
        Self { bytes, ..Self::default() }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.head.len() + self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head.is_empty() { &self.bytes } else { &self.head }
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        self.bytes.advance(count - of_head);
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let chunks = [&self.head[..], &self.bytes[..]].into_iter().filter(|chunk| !chunk.is_empty());
        into.iter_mut().zip(chunks).map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count()
    }
}

#[cfg(test)]
mod tests {
    use ginnel_core::cause::Cause;

    use super::*;

    #[test]
    fn a_piece_reads_as_its_frames_would_one_by_one() {
        let data = |offset, length| SessionFrame::Stream(Frame::Data { offset, bytes: Bytes::from(vec![7; length]) });
        let credit = SessionFrame::Stream(Frame::Credit { consumed: 1, limit: 2 });
        let reset = SessionFrame::Stream(Frame::Reset { cause: Cause::Reset, hop: None });
        let cases = [
            vec![],
            vec![credit.clone()],
            vec![data(0, 1)],
            vec![data(127, 127), data(128, 128)],
            vec![credit.clone(), data(u64::MAX, 65_504)],
            vec![data(1 << 40, 16_384), credit, reset],
        ];
        for frames in cases {
            let (mut piece, mut plain) = (Piece::default(), BytesMut::new());
            for frame in &frames {
                piece.push(frame.clone());
                frame.clone().encode(&mut plain);
            }
            assert_eq!(piece.is_empty(), frames.is_empty());
            let mut slices = [IoSlice::new(&[]); 2];
            let filled = piece.chunks_vectored(&mut slices);
            assert_eq!(slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>(), plain);
            let mut read = Vec::new();
            while piece.has_remaining() {
                let step = piece.chunk().len().min(1000);
                read.extend_from_slice(&piece.chunk()[..step]);
                piece.advance(step);
            }
            assert_eq!(read, plain);
        }
    }
}
