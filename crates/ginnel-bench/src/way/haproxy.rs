//! Three HAProxy processes.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;

use crate::pki::NAME;
use crate::way::program::{self, Link, Place};
use crate::way::{Ground, Running};

pub(super) async fn version() -> Result<String> {
    program::version(&program::find("haproxy")?, "-v", "version").await
}

pub(super) async fn start(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let configure = |link: Link<'_>| {
        let path = program::write(link.dir, &format!("{}.cfg", link.name()), &configuration(ground, link)?)?;
        // In the foreground.
        Ok(vec!["-db".to_owned(), "-f".to_owned(), path])
    };
    program::chain(ground, target, &program::find("haproxy")?, configure).await
}

/// With two descriptors for each connection, so many fit into the bench's limit.
const CONNECTIONS_MAX: usize = 9_900;

fn configuration(ground: &Ground, link: Link<'_>) -> Result<String> {
    let Link { place, listen, next, .. } = link;
    let pki = |name: &str| ground.pki.path(name);
    let tls = "force-tlsv13 ciphersuites TLS_AES_256_GCM_SHA384";
    let mut text = format!(
        "global
    nbthread 2
    maxconn {CONNECTIONS_MAX}
defaults
    mode tcp
    maxconn {CONNECTIONS_MAX}
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen way
    bind {listen}"
    );
    if place != Place::Entry {
        write!(text, " ssl crt {} ca-file {} verify required {tls}", pki("server.both"), pki("ca.pem"))?;
    }
    write!(text, "\n    server next {next}")?;
    if place != Place::Last {
        let (crt, ca) = (pki("client.both"), pki("ca.pem"));
        write!(text, " ssl crt {crt} ca-file {ca} verify required verifyhost {NAME} sni str({NAME}) {tls}")?;
    }
    text.push('\n');
    Ok(text)
}
