//! The head of a proxy's answer, read with a bound.

use std::io;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest head of an answer; proxies write a few lines.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;

/// Longest reason that is repeated to people.
const REASON_CHARS_MAX: usize = 80;

/// Most ways to authenticate that are repeated.
const SCHEMES_MAX: usize = 8;

/// What a proxy answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The words after it, without control characters.
    pub reason: String,
    pub(super) schemes: Vec<String>,
    pub(super) date: Option<SystemTime>,
    /// Whether nothing came after the head.
    pub(super) is_exact: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum AnswerError {
    Io(io::Error),
    Malformed(&'static str),
}

/// Sends a request and reads the head of the answer.
pub(super) async fn exchange<S>(line: &mut S, request: &[u8]) -> Result<Answer, AnswerError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    line.write_all(request).await.map_err(AnswerError::Io)?;
    line.flush().await.map_err(AnswerError::Io)?;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let length = line.read(&mut piece).await.map_err(AnswerError::Io)?;
        if length == 0 && head.is_empty() {
            return Err(AnswerError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        if length == 0 {
            return Err(AnswerError::Malformed("it ends within the head"));
        }
        head.extend_from_slice(&piece[..length]);
        if !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(AnswerError::Malformed("it does not begin with HTTP/1"));
        }
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let answer = parse(&head[..end])?;
            return Ok(Answer { is_exact: head.len() == end + 4, ..answer });
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(AnswerError::Malformed("its head does not end"));
        }
    }
}

fn parse(head: &[u8]) -> Result<Answer, AnswerError> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let _version = first.next();
    let status = first.next().filter(|text| text.len() == 3).and_then(|text| text.parse().ok());
    let status = status.ok_or(AnswerError::Malformed("its first line has no status"))?;
    let reason = first.next().unwrap_or_default();
    let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
    let (mut schemes, mut date) = (Vec::new(), None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("proxy-authenticate") && schemes.len() < SCHEMES_MAX {
            let scheme = value.split_whitespace().next().unwrap_or_default();
            schemes.push(scheme.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect());
        } else if name.eq_ignore_ascii_case("date") {
            date = OffsetDateTime::parse(value.trim(), &Rfc2822).ok().map(SystemTime::from);
        }
    }
    Ok(Answer { status, reason, schemes, date, is_exact: true })
}
