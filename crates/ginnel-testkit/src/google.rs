//! Google, as far as the tunnel talks to it, on loopback: fakes that speak the public interfaces, with the errors and delays that a test sets.
//!
//! Each interface is a file of its own; what they share is the small HTTP server here. The product is pointed at them by settings
//! that operators have as well.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub mod cas;
pub mod iam;
pub mod key_sets;
pub mod logging;
pub mod metadata;

/// Most bytes of a request's body that a fake reads: more than any interface takes.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most header lines of a request.
const HEADERS_MAX: usize = 100;

/// A request as a fake sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An answer of a fake.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Further headers; `Content-Length` is written by itself.
    pub headers: Vec<(String, String)>,
    /// What is sent after them.
    pub body: Body,
    /// How long the answer takes to begin.
    pub delay: Duration,
}

/// The body of an answer.
#[derive(Clone, Debug)]
pub enum Body {
    /// All at once.
    Whole(Vec<u8>),
    /// One byte at a time, with this time before each.
    Trickled(Vec<u8>, Duration),
    /// Nothing, not even a status: the connection is closed.
    Nothing,
    /// This many zero bytes, announced or not.
    Zeroes {
        /// How many.
        bytes: u64,
        /// Whether `Content-Length` says so beforehand; otherwise the body ends with the connection.
        announced: bool,
    },
}

impl Reply {
    /// A whole answer.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
            body: Body::Whole(body.into()),
            delay: Duration::ZERO,
        }
    }

    /// 200 with JSON.
    pub fn json(value: &serde_json::Value) -> Self {
        Self::new(200, "application/json; charset=UTF-8", value.to_string())
    }

    /// An error in the form that Google's interfaces have.
    pub fn error(code: u16, status: &str, message: &str) -> Self {
        let body = serde_json::json!({"error": {"code": code, "message": message, "status": status}});
        Self::new(code, "application/json; charset=UTF-8", body.to_string())
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, later.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// A small HTTP/1.1 server on a free port of loopback; one request per connection. It stops when it is dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Starts one without TLS.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::run(None, Arc::new(answer)).await
    }

    /// Starts one with TLS.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start_tls(
        tls: Arc<ServerConfig>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::run(Some(TlsAcceptor::from(tls)), Arc::new(answer)).await
    }

    async fn run(tls: Option<TlsAcceptor>, answer: Arc<dyn Fn(&Request) -> Reply + Send + Sync>) -> Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (seen, answer, tls) = (Arc::clone(&seen), Arc::clone(&answer), tls.clone());
                connections.spawn(async move {
                    // Whoever breaks off has their reasons; what a fake saw and said is what tests look at.
                    let _ = match tls {
                        None => serve(socket, &seen, &*answer).await,
                        Some(tls) => match tls.accept(socket).await {
                            Ok(stream) => serve(stream, &seen, &*answer).await,
                            Err(error) => Err(error.into()),
                        },
                    };
                });
            }
        });
        Ok(Self { address, scheme, requests, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL up to the port, without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read(&mut stream).await?;
    lock(seen).push(request.clone());
    let reply = answer(&request);
    tokio::time::sleep(reply.delay).await;
    if matches!(reply.body, Body::Nothing) {
        return Ok(());
    }
    write(&mut stream, reply).await?;
    stream.shutdown().await?;
    Ok(())
}

async fn read(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace();
    let method = words.next().context("a method")?.to_owned();
    let path = words.next().context("a path")?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        ensure!(headers.len() < HEADERS_MAX, "too many headers");
        let (name, value) = line.split_once(':').context("a header")?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    let length: usize = request.header("content-length").unwrap_or("0").parse()?;
    ensure!(length <= BODY_BYTES_MAX, "a body of {length} bytes");
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await?;
    Ok(request)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> Result<()> {
    let mut head = format!("HTTP/1.1 {} Fake\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        write!(head, "{name}: {value}\r\n")?;
    }
    let length = match &reply.body {
        Body::Whole(body) | Body::Trickled(body, _) => Some(u64::try_from(body.len())?),
        Body::Zeroes { bytes, announced } => announced.then_some(*bytes),
        Body::Nothing => None,
    };
    if let Some(length) = length {
        write!(head, "Content-Length: {length}\r\n")?;
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    match reply.body {
        Body::Nothing => {}
        Body::Whole(body) => stream.write_all(&body).await?,
        Body::Trickled(body, pause) => {
            for byte in body {
                tokio::time::sleep(pause).await;
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
            }
        }
        Body::Zeroes { bytes, .. } => {
            let zeroes = vec![0; 64 * 1024];
            let mut left = bytes;
            while left > 0 {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(zeroes.len());
                stream.write_all(&zeroes[..now]).await?;
                left -= u64::try_from(now)?;
            }
        }
    }
    stream.flush().await?;
    Ok(())
}
