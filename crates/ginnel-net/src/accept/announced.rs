//! The first bytes of a connection from a load balancer, which say where it comes from.

use std::io;

use ginnel_core::balancer::{InvalidHeader, Origin, Progress, read};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a balancer's connection is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotAnnounced {
    /// It does not begin with a header that counts (the balancer's configuration, or whoever is at its address).
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    /// It ended before the header did (peer, network).
    #[error("the connection ended before its header did")]
    Ended(#[source] io::Error),
    /// The header did not come in time (peer).
    #[error("the header did not come in time")]
    TooSlow,
}

/// Reads the header, and not a byte of what follows it. Nothing for a connection that ends before it says anything: that is how many a balancer
/// looks whether somebody is there.
pub(super) async fn origin(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Origin>, NotAnnounced> {
    let mut bytes = Vec::new();
    loop {
        match read(&bytes)? {
            Progress::Done(origin) => return Ok(Some(origin)),
            Progress::Needs(length) => {
                // As many as have come, so that what is wrong ends it at once.
                let mut missing = vec![0; length.saturating_sub(bytes.len())];
                match stream.read(&mut missing).await {
                    Ok(0) | Err(_) if bytes.is_empty() => return Ok(None),
                    Ok(0) => return Err(NotAnnounced::Ended(io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) => bytes.extend_from_slice(&missing[..count]),
                    Err(error) => return Err(NotAnnounced::Ended(error)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// From 203.0.113.9:40000 to 10.0.0.1:443.
    const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x0a\x00\x00\x01\x9c\x40\x01\xbb";

    #[tokio::test]
    async fn takes_the_header_in_any_pieces_and_leaves_what_follows() {
        for size in 1..=HEADER.len() + 4 {
            let (mut near, mut far) = tokio::io::duplex(size);
            let said = [HEADER, b"hello"].concat();
            let saying = tokio::spawn(async move {
                far.write_all(&said).await.unwrap();
                far
            });
            let Some(Origin::Peer(peer)) = origin(&mut near).await.unwrap() else { panic!("no peer") };
            assert_eq!(peer, "203.0.113.9:40000".parse::<SocketAddr>().unwrap());
            let mut rest = [0; 5];
            near.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest, b"hello", "in pieces of {size}");
            drop(saying.await.unwrap());
        }
    }

    #[tokio::test]
    async fn what_is_wrong_ends_it_at_the_first_byte_that_shows_it() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"\x16").await.unwrap();
        let error = origin(&mut near).await.unwrap_err();
        assert!(matches!(error, NotAnnounced::Header(InvalidHeader::Signature)), "{error:?}");

        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(&HEADER[..20]).await.unwrap();
        drop(far);
        assert!(matches!(origin(&mut near).await.unwrap_err(), NotAnnounced::Ended(_)));

        let (mut near, far) = tokio::io::duplex(64);
        drop(far);
        assert!(matches!(origin(&mut near).await, Ok(None)), "who only looks does nothing wrong");
    }
}
