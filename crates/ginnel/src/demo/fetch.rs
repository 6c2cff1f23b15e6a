//! A plain HTTP GET, directly or through the client's proxy, for comparing what arrives.

use std::io;
use std::net::SocketAddr;

use ginnel_core::target::{Host, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most bytes of an answer that are compared.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// Most bytes of an answer's head.
const HEAD_MAX: usize = 64 * 1024;

/// The way to a target.
#[derive(Clone, Copy)]
pub(super) enum Fetch {
    Direct,
    Through(SocketAddr),
}

/// What a target answered.
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// The request id that the proxy gave.
    pub(super) request_id: Option<String>,
}

/// Fetches `/`.
pub(super) async fn get(target: &Target, way: Fetch) -> io::Result<Answer> {
    let mut request_id = None;
    let mut stream = match way {
        Fetch::Direct => match &target.host {
            Host::Address(address) => TcpStream::connect((*address, target.port.get())).await?,
            Host::Name(name) => TcpStream::connect((name.as_str(), target.port.get())).await?,
        },
        Fetch::Through(proxy) => {
            let mut stream = TcpStream::connect(proxy).await?;
            stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
            let head = read_head(&mut stream).await?;
            let status = status(&head);
            if status != Some("200") {
                let cause = header(&head, "ginnel-cause").unwrap_or("no cause");
                let hop = header(&head, "ginnel-hop").unwrap_or("proxy");
                return Err(io::Error::other(format!("refused by the {hop}: {cause}")));
            }
            request_id = header(&head, "ginnel-request-id").map(str::to_owned);
            stream
        }
    };
    let request = format!("GET / HTTP/1.1\r\nHost: {target}\r\nUser-Agent: ginnel-demo\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    let mut body = Vec::new();
    match header(&head, "content-length").and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length <= ANSWER_MAX => {
            body.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
            stream.read_exact(&mut body).await?;
        }
        Some(_) => return Err(io::Error::other("the answer is too long to compare")),
        None => {
            stream.take(ANSWER_MAX).read_to_end(&mut body).await?;
        }
    }
    Ok(Answer { body, request_id })
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return Err(io::Error::other("the answer's head is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(|_| io::Error::other("the answer's head is no text"))
}

fn status(head: &str) -> Option<&str> {
    head.split(' ').nth(1)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
