//! Speaking to the client's proxy port as an application does, byte by byte.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::{SOON, within};

/// Longest head of an answer that is read.
const HEAD_MAX: usize = 16 << 10;

/// A session that the proxy opened.
#[derive(Debug)]
pub struct Opened {
    /// The id that every log has.
    pub request_id: String,
    /// The session.
    pub stream: TcpStream,
}

/// What the proxy said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `Ginnel-Cause`, empty if absent.
    pub cause: String,
    /// `Ginnel-Hop`, empty if absent.
    pub hop: String,
    /// `Ginnel-Request-Id`, empty if absent.
    pub request_id: String,
    /// The rest of the answer.
    pub body: String,
}

/// How the proxy answered.
#[derive(Debug)]
pub enum Answer {
    /// With a session.
    Opened(Opened),
    /// With a refusal.
    Refused(Refused),
}

impl Answer {
    /// The session.
    ///
    /// # Errors
    /// If it was refused.
    pub fn opened(self) -> Result<Opened> {
        match self {
            Self::Opened(opened) => Ok(opened),
            Self::Refused(refused) => bail!("refused: {refused:?}"),
        }
    }

    /// The refusal.
    ///
    /// # Errors
    /// If it was not refused.
    pub fn refused(self) -> Result<Refused> {
        match self {
            Self::Refused(refused) => Ok(refused),
            Self::Opened(opened) => bail!("opened as {}", opened.request_id),
        }
    }
}

/// Asks for `target` with HTTP CONNECT.
///
/// # Errors
/// If there is no answer in time, or one that is not HTTP.
pub async fn connect(proxy: SocketAddr, target: &str) -> Result<Answer> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    within("an answer to CONNECT", SOON, request_answer(proxy, request.as_bytes())).await?
}

/// Sends `request` as it is and reads the answer.
///
/// # Errors
/// If there is no answer, or one that is not HTTP.
pub async fn request_answer(proxy: SocketAddr, request: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(proxy).await.context("connecting to the proxy port")?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await.context("sending the request")?;
    let head = read_head(&mut stream).await?;
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    let request_id = header(&head, "ginnel-request-id");
    if status == 200 {
        return Ok(Answer::Opened(Opened { request_id, stream }));
    }
    let length = header(&head, "content-length").parse().unwrap_or(0).min(HEAD_MAX);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.context("reading the body of a refusal")?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let (cause, hop) = (header(&head, "ginnel-cause"), header(&head, "ginnel-hop"));
    Ok(Answer::Refused(Refused { status, cause, hop, request_id, body }))
}

/// Reads to the empty line and not a byte further, because what follows belongs to the session.
async fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_MAX, "an endless head");
        head.push(
            stream
                .read_u8()
                .await
                .with_context(|| format!("reading an answer after {:?}", String::from_utf8_lossy(&head)))?,
        );
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn header(head: &str, name: &str) -> String {
    let value = head.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)));
    value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Asks for `host:port` with SOCKS5, the name resolved at the far end; `Err(code)` inside is the proxy's reply code.
///
/// # Errors
/// If the proxy does not speak SOCKS5 or does not answer in time.
pub async fn socks5(proxy: SocketAddr, host: &str, port: u16) -> Result<Result<TcpStream, u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(proxy).await?;
        stream.write_all(&[5, 1, 0]).await?;
        let mut method = [0; 2];
        stream.read_exact(&mut method).await?;
        ensure!(method == [5, 0], "method {method:?}");
        let mut request = vec![5, 1, 0, 3, u8::try_from(host.len())?];
        request.extend_from_slice(host.as_bytes());
        request.extend_from_slice(&port.to_be_bytes());
        stream.write_all(&request).await?;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await?;
        ensure!(reply[0] == 5, "reply {reply:?}");
        if reply[1] != 0 {
            return Ok(Err(reply[1]));
        }
        let length = match reply[3] {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            other => bail!("address type {other}"),
        };
        let mut bound = vec![0; length + 2];
        stream.read_exact(&mut bound).await?;
        Ok(Ok(stream))
    };
    within("an answer to SOCKS5", SOON, exchange).await?
}
