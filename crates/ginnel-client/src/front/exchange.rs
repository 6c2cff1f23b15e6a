//! One plain HTTP request and its answer, over a session of its own.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_net::tunnel::{Tunnel, reason};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::closing::{CLOSE_DEADLINE, Closers, discard};
use super::counted::Counted;
use super::request::Request;

type Connection<T> = http1::Connection<TokioIo<Counted<T>>, Incoming>;

/// The body of an answer, with the session that it comes through.
///
/// An answer that breaks off is an error, whatever its framing, and resets the application's connection. Dropping it before its end
/// resets the session.
pub(super) struct Exchange<T: Tunnel> {
    request: Request,
    closers: Closers,
    /// Taken when this is dropped.
    connection: Option<Connection<T>>,
    /// The connection has done all that it will do.
    finished: bool,
    is_stopped: bool,
    /// None until the head of the answer is there.
    body: Option<Incoming>,
    /// The body's end was read.
    ended: bool,
    broken: Option<Refusal>,
    /// Resolves when somebody tells the request to end.
    stopped: Pin<Box<dyn Future<Output = Refusal> + Send>>,
}

/// Sends `message`, which must be fit for the target, and waits for the head of the answer.
pub(super) async fn exchange<T: Tunnel>(
    request: &Request,
    message: http::Request<Incoming>,
    mut tunnel: T,
    closers: &Closers,
) -> Result<http::Response<Exchange<T>>, Refusal> {
    let mut builder = http1::Builder::new();
    builder.title_case_headers(true).preserve_header_case(true);
    // While the application does not read its answer nobody polls the session.
    tunnel.tend();
    let tunnel = Counted::new(tunnel, request.traffic());
    let (mut sender, connection) = builder.handshake(TokioIo::new(tunnel)).await.map_err(|error| blame(&error))?;
    let mut exchange = Exchange {
        request: request.clone(),
        closers: closers.clone(),
        connection: Some(connection),
        finished: false,
        is_stopped: false,
        body: None,
        ended: false,
        broken: None,
        stopped: Box::pin(request.stopped()),
    };
    let mut answer = pin!(sender.send_request(message));
    let answer = poll_fn(|cx| {
        exchange.drive(cx);
        match exchange.broken.filter(|_| exchange.is_stopped) {
            Some(refusal) => Poll::Ready(Err(refusal)),
            None => answer.as_mut().poll(cx).map_err(|error| exchange.broke(&error)),
        }
    });
    let answer = answer.await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it, and what follows is not HTTP.
        let refusal = Refusal::new(Hop::Target, Cause::ProtocolError);
        exchange.broken = Some(refusal);
        return Err(refusal);
    }
    Ok(answer.map(|body| {
        exchange.body = Some(body);
        exchange
    }))
}

/// Who is to blame for an error of the connection to the target.
fn blame(error: &hyper::Error) -> Refusal {
    if error.is_parse() {
        Refusal::new(Hop::Target, Cause::ProtocolError)
    } else if error.is_incomplete_message() {
        Refusal::new(Hop::Target, Cause::Aborted)
    } else if error.is_user() {
        // The body of the request is the application's.
        Refusal::new(Hop::Application, Cause::Aborted)
    } else {
        reason(error)
    }
}

impl<T: Tunnel> Exchange<T> {
    /// Moves bytes between the session and the body.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.finished {
            return;
        }
        if let Poll::Ready(refusal) = self.stopped.as_mut().poll(cx) {
            (self.finished, self.is_stopped) = (true, true);
            self.broken = Some(refusal);
            return;
        }
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(end) = connection.poll_without_shutdown(cx)
        {
            self.finished = true;
            if let Err(error) = end {
                self.broke(&error);
            }
        }
    }

    fn broke(&mut self, error: &hyper::Error) -> Refusal {
        *self.broken.get_or_insert_with(|| blame(error))
    }
}

impl<T: Tunnel> Body for Exchange<T> {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        let this = &mut *self;
        this.drive(cx);
        if let Some(refusal) = this.broken.filter(|_| this.is_stopped) {
            return Poll::Ready(Some(Err(refusal)));
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.broke(&error)))),
            Poll::Ready(None) => match this.broken {
                Some(refusal) => Poll::Ready(Some(Err(refusal))),
                None => {
                    this.ended = true;
                    Poll::Ready(None)
                }
            },
            Poll::Pending => match this.broken {
                Some(refusal) => Poll::Ready(Some(Err(refusal))),
                None => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.as_ref().is_some_and(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl<T: Tunnel> Drop for Exchange<T> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.ended || self.is_end_stream() {
            self.request.exchanged(Hop::Application, Cause::Finished);
            self.closers.run(close(connection));
            return;
        }
        // An application that does not read keeps its connection from asking for more, and this from seeing that it was told to end.
        let why = self.broken.or_else(|| self.request.told());
        let Refusal { hop, cause } = why.unwrap_or(Refusal::new(Hop::Application, Cause::Reset));
        connection.into_parts().io.into_inner().abort(cause);
        self.request.exchanged(hop, cause);
    }
}

/// Ends a session whose answer was read to its end, so that the target sees an end and not a reset.
async fn close<T: Tunnel>(mut connection: Connection<T>) {
    let mut closed = timeout(CLOSE_DEADLINE, poll_fn(|cx| connection.poll_without_shutdown(cx))).await.is_ok();
    let mut tunnel = connection.into_parts().io.into_inner();
    if closed {
        let end = async { tunnel.shutdown().await.is_ok() && discard(&mut tunnel).await };
        closed = timeout(CLOSE_DEADLINE, end).await.unwrap_or(false);
    }
    if !closed {
        // A reset that calls itself a clean end is refused as a lie.
        tunnel.abort(Cause::Reset);
    }
}
