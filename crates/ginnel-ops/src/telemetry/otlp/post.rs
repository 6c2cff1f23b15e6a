//! One HTTP request at a time, for a thread that may block.

use std::fmt;
use std::future::{Ready, poll_fn, ready};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::body::Text;

/// Bytes of an answer: an empty message, or a sentence on what was wrong.
const ANSWER_MAX: usize = 64 * 1024;

/// What a URL without a port means.
const PORT: u16 = 80;

/// Posts without TLS, on a connection for each request.
pub(super) struct Post {
    /// Of this client alone: the thread that sends batches has no other, and must not need those that carry sessions.
    runtime: Runtime,
    deadline: Duration,
}

impl Post {
    pub(super) fn new(deadline: Duration) -> std::io::Result<Self> {
        Ok(Self { runtime: Builder::new_current_thread().enable_io().enable_time().build()?, deadline })
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let authority = request.uri().authority().ok_or("the collector's address names no host")?.clone();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(PORT))).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The task is what reads and writes; it ends with this call.
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
        let (head, mut body) = sender.send_request(request.map(Text::of_bytes)).await?.into_parts();
        let mut answer = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            answer.extend_from_slice(&frame?.into_data().unwrap_or_default());
            if answer.len() > ANSWER_MAX {
                return Err("the collector's answer is too long".into());
            }
        }
        Ok(Response::from_parts(head, answer.into()))
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl HttpClient for Post {
    fn send_bytes<'client, 'sending>(
        &'client self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sending>>
    where
        'client: 'sending,
        Self: 'sending,
    {
        let sent = self.runtime.block_on(async {
            timeout(self.deadline, self.send(request)).await.unwrap_or_else(|late| Err(late.into()))
        });
        if let Err(error) = &sent {
            // What calls this keeps the reason to itself.
            tracing::debug!(%error, "could not send spans");
        }
        let sent: Ready<_> = ready(sent);
        Box::pin(sent)
    }
}
