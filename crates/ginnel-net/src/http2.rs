//! HTTP/2 as both ends of a connection set it up: windows that never decide, and pings that ask the peer for a sign of life.

use std::future::{pending, poll_fn};
use std::task::{Context, Poll, ready};

use ginnel_core::limits::{
    CONNECTION_WINDOW, HEADER_LIST_MAX, HTTP2_FRAME_MAX, LATE_FRAMES_MAX, PING_AFTER, RESET_STREAMS_KEPT,
    RESET_STREAMS_MAX, SMALL_FRAMES_BUDGET, STREAM_WINDOW, STREAMS_PER_CONNECTION_MAX, UNSENT_PER_STREAM_MAX,
};
use ginnel_wire::piece::Piece;
use h2::{Ping, PingPong, SendStream};
use tokio::time::sleep;

/// The end that makes calls.
pub(crate) fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_send_buffer_size(UNSENT_PER_STREAM_MAX)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .reset_stream_duration(RESET_STREAMS_KEPT)
        .max_local_error_reset_streams(Some(LATE_FRAMES_MAX))
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .enable_push(false);
    builder
}

/// The end that answers them, to a peer that has shown a certificate.
pub(crate) fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_send_buffer_size(UNSENT_PER_STREAM_MAX)
        .max_concurrent_reset_streams(RESET_STREAMS_MAX)
        .reset_stream_duration(RESET_STREAMS_KEPT)
        .max_local_error_reset_streams(Some(LATE_FRAMES_MAX))
        .data_frame_budget(SMALL_FRAMES_BUDGET);
    builder
}

/// The end that answers them, to anybody: one call at a time, with a small message.
pub(crate) fn server_for_strangers() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1).max_header_list_size(HEADER_LIST_MAX);
    builder
}

/// Pings as long as it is polled. That something comes in at all is what counts (see [`crate::live`]); without an answer there is no next ping.
pub(crate) async fn keep_asking(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(PING_AFTER).await;
        if pings.ping(Ping::opaque()).await.is_err() {
            // The connection is at its end, which whoever polls it hears.
            return pending().await;
        }
    }
}

/// The peer has reset the stream, or the connection is gone.
#[derive(Debug, thiserror::Error)]
#[error("the stream is gone")]
pub struct Gone;

/// Ready when less than [`UNSENT_PER_STREAM_MAX`] waits in the stream.
pub(crate) fn poll_room(stream: &mut SendStream<Piece>, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
        }
    }
    // Capacity that was assigned before a reset says nothing.
    match stream.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(Err(Gone)),
        Poll::Pending => Poll::Ready(Ok(())),
    }
}

/// Waits for [`poll_room`].
pub(crate) async fn room(stream: &mut SendStream<Piece>) -> Result<(), Gone> {
    poll_fn(|cx| poll_room(stream, cx)).await
}
