//! As much of HTTP/1.1 as the official clients use: one request after the other on a connection, bodies with a length.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// More than any request has.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&String> {
        self.headers.get(name)
    }

    pub(super) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// A status and a body.
    Json(u16, String),
    /// Nothing: the connection is closed.
    None,
}

impl Answer {
    pub(super) fn ok(value: &Value) -> Self {
        Self::Json(200, value.to_string())
    }
}

/// Answers until it is dropped; connections end with the test.
pub(super) async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(Request) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send,
{
    while let Ok((socket, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move { connection(socket, answer).await });
    }
}

/// `None` when the client has gone or says what is no HTTP.
async fn connection<F, A>(mut socket: TcpStream, answer: F) -> Option<()>
where
    F: Fn(Request) -> A,
    A: Future<Output = Answer>,
{
    let mut buffered = Vec::new();
    loop {
        let request = read(&mut socket, &mut buffered).await?;
        match answer(request).await {
            Answer::Json(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                socket.write_all((head + &body).as_bytes()).await.ok()?;
            }
            Answer::None => return None,
        }
    }
}

async fn read(socket: &mut TcpStream, buffered: &mut Vec<u8>) -> Option<Request> {
    let head_length = loop {
        if let Some(at) = memchr::memmem::find(buffered, b"\r\n\r\n") {
            break at + 4;
        }
        fill(socket, buffered).await?;
    };
    let head = String::from_utf8(buffered[..head_length].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    while buffered.len() < head_length + length {
        fill(socket, buffered).await?;
    }
    let rest = buffered.split_off(head_length + length);
    let body = std::mem::replace(buffered, rest).split_off(head_length);
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Some(Request { method, path: path.replace("%3A", ":"), query, headers, body })
}

async fn fill(socket: &mut TcpStream, buffered: &mut Vec<u8>) -> Option<()> {
    let read = socket.read_buf(buffered).await.ok()?;
    (read > 0 && buffered.len() <= REQUEST_BYTES_MAX).then_some(())
}
