//! Talking to a process's admin listeners without the commands that usually do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use ginnel_testkit::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Orders something over an admin socket; gives the whole answer, head included.
pub(crate) async fn post(socket: &Path, path: &str) -> Result<String> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    within("an answer of the admin socket", Duration::from_secs(15), talk).await?
}

/// Reads a page of an admin listener; gives the status and the body.
pub(crate) async fn get(admin: &str, path: &str) -> Result<(u16, String)> {
    let talk = async {
        let mut stream = TcpStream::connect(admin).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        anyhow::Ok((status, body.to_owned()))
    };
    within("an answer of the admin listener", Duration::from_secs(15), talk).await?
}
