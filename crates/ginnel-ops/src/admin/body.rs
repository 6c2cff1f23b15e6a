//! A body that is there as a whole.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A text, or other bytes, sent in one piece.
pub(crate) struct Text(Option<Bytes>);

impl Text {
    pub(super) fn new(text: String) -> Self {
        Self((!text.is_empty()).then(|| text.into()))
    }

    #[cfg(feature = "otel")]
    pub(crate) fn of_bytes(bytes: Bytes) -> Self {
        Self((!bytes.is_empty()).then_some(bytes))
    }

    pub(super) fn empty() -> Self {
        Self(None)
    }

    #[cfg(test)]
    pub(super) fn words(&self) -> String {
        self.0.as_ref().map_or_else(String::new, |bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
