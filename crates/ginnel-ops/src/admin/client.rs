//! Asking a running process: the other side of the admin listeners.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// A whole question and answer. The process is on this machine or near it; reloading a large configuration takes a second or two.
const DEADLINE: Duration = Duration::from_secs(15);

/// Bytes of an answer: ten thousand sessions have five million.
const ANSWER_MAX: usize = 32 * 1024 * 1024;

/// Where a process is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// At the address of its admin listener.
    Address(SocketAddr),
    /// At its admin socket.
    Socket(PathBuf),
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The text, which may hold anything if somebody else answered.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or nobody may connect (environment, configuration).
    #[error(
        "cannot connect to {door}; is the process running, and does its configuration set admin or adminSocket to this?"
    )]
    Connect {
        /// Where.
        door: Door,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The question could not be put into a request (usage).
    #[error("cannot ask for that")]
    Question(#[source] http::Error),
    /// The answer broke off or is no HTTP (environment).
    #[error("{door} gave no proper answer")]
    Broken {
        /// Where.
        door: Door,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// It took too long (environment).
    #[error("{door} did not answer within {} s", DEADLINE.as_secs())]
    TimedOut {
        /// Where.
        door: Door,
    },
    /// The answer has no end (environment).
    #[error("the answer of {0} is longer than any that a ginnel process gives")]
    TooLong(Door),
    /// The answer is no text (environment).
    #[error("the answer of {0} is not UTF-8")]
    NotText(Door),
}

/// Asks a process; `path` is a path with its query.
///
/// # Errors
/// [`AskError`] if there is no answer; a refusal is an answer.
pub async fn ask(door: &Door, method: Method, path: &str) -> Result<Reply, AskError> {
    let failed = |source| AskError::Connect { door: door.clone(), source };
    let asked = async {
        match door {
            Door::Address(address) => {
                talk(TcpStream::connect(address).await.map_err(failed)?, door, method, path).await
            }
            Door::Socket(socket) => talk(UnixStream::connect(socket).await.map_err(failed)?, door, method, path).await,
        }
    };
    timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(AskError::TimedOut { door: door.clone() }))
}

/// A value of a query, with everything but the plainest characters escaped.
pub fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

async fn talk<S>(stream: S, door: &Door, method: Method, path: &str) -> Result<Reply, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| AskError::Broken { door: door.clone(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The task is what reads and writes; it ends with this call.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let host = match door {
        Door::Address(address) => address.to_string(),
        Door::Socket(_) => "localhost".to_owned(),
    };
    let request = Request::builder().method(method).uri(path).header(HOST, host).body(Nothing);
    let answer = sender.send_request(request.map_err(AskError::Question)?).await.map_err(broken)?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > ANSWER_MAX {
            return Err(AskError::TooLong(door.clone()));
        }
    }
    let text = String::from_utf8(text).map_err(|_| AskError::NotText(door.clone()))?;
    Ok(Reply { status, text })
}

/// The body of a question.
struct Nothing;

impl Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::Admin;
    use super::super::testing::fake;
    use super::*;

    #[tokio::test]
    async fn both_doors_answer_and_only_the_socket_obeys() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let admin = Admin::open(Some(SocketAddr::from(([127, 0, 0, 1], 0))), Some(socket.clone())).await.unwrap();
        let (address, stop) = (Door::Address(admin.address().unwrap()), CancellationToken::new());
        let (observed, _) = fake();
        let running = tokio::spawn(admin.run(observed, stop.clone()));
        let socket = Door::Socket(socket);
        for door in [&address, &socket] {
            let reply = ask(door, Method::GET, "/readyz").await.unwrap();
            assert_eq!((reply.status, reply.text.as_str()), (StatusCode::OK, "ready\n"), "{door}");
        }
        let path = format!("/sessions/end?target={}", escaped("git.acme:22"));
        let statuses = [
            ask(&address, Method::POST, &path).await.unwrap().status,
            ask(&socket, Method::POST, &path).await.unwrap().status,
        ];
        assert_eq!(statuses, [StatusCode::FORBIDDEN, StatusCode::OK]);
        stop.cancel();
        running.await.unwrap();
        for door in [address, socket] {
            let refused = ask(&door, Method::GET, "/readyz").await;
            assert!(matches!(refused, Err(AskError::Connect { .. })), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn grpc_health_is_answered_on_the_same_address() {
        use tonic_health::pb::health_client::HealthClient;
        use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

        let admin = Admin::open(Some(SocketAddr::from(([127, 0, 0, 1], 0))), None).await.unwrap();
        let address = admin.address().unwrap();
        let (observed, _) = fake();
        let _running = AbortOnDropHandle::new(tokio::spawn(admin.run(observed.clone(), CancellationToken::new())));
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let origin = format!("http://{address}").parse().unwrap();
        let mut health = HealthClient::with_origin(Sender(sender), origin);
        let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let serving = health.check(ask("ginnel")).await.unwrap().into_inner().status();
        assert_eq!(serving, ServingStatus::Serving);
        observed.status.lock().unwrap().ready = false;
        let mut watch = health.watch(ask("")).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        observed.status.lock().unwrap().ready = true;
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        assert_eq!(health.check(ask("other")).await.unwrap_err().code(), tonic::Code::NotFound);
    }

    #[derive(Clone)]
    struct Sender(hyper::client::conn::http2::SendRequest<tonic::body::Body>);

    impl tower_service::Service<Request<tonic::body::Body>> for Sender {
        type Response = http::Response<hyper::body::Incoming>;
        type Error = hyper::Error;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
            Box::pin(self.0.send_request(request))
        }
    }
}
