//! Three stunnel processes.

use std::net::SocketAddr;

use anyhow::Result;

use crate::pki::NAME;
use crate::way::program::{self, Link, Place};
use crate::way::{Ground, Running};

/// Debian's name for the program itself; `stunnel` is a script there.
const PROGRAM: &str = "stunnel4";

pub(super) async fn version() -> Result<String> {
    program::version(&program::find(PROGRAM)?, "-version", " on ").await
}

pub(super) async fn start(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let configure = |link: Link<'_>| {
        let path = program::write(link.dir, &format!("{}.conf", link.name()), &configuration(ground, link))?;
        Ok(vec![path])
    };
    program::chain(ground, target, &program::find(PROGRAM)?, configure).await
}

fn configuration(ground: &Ground, link: Link<'_>) -> String {
    let Link { place, listen, next, dir } = link;
    let head = "foreground = yes
pid =
syslog = no
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersion = TLSv1.3
ciphersuites = TLS_AES_256_GCM_SHA384
";
    let pki = |name: &str| ground.pki.path(name);
    let service = |name: &str, accept: &str, connect: &str| {
        let role = if name == "dial" { "client" } else { "server" };
        let mut text = format!(
            "[{name}]\naccept = {accept}\nconnect = {connect}\ncert = {}\nkey = {}\nCAfile = {}\nverifyChain = yes\n",
            pki(&format!("{role}.pem")),
            pki(&format!("{role}.key")),
            pki("ca.pem")
        );
        if role == "client" {
            text.push_str(&format!("client = yes\nsni = {NAME}\ncheckHost = {NAME}\n"));
        }
        text
    };
    let (listen, next) = (listen.to_string(), next.to_string());
    let services = match place {
        Place::Entry => service("dial", &listen, &next),
        Place::Last => service("accept", &listen, &next),
        Place::Middle => {
            let joint = dir.join("middle.sock").display().to_string();
            service("accept", &listen, &joint) + &service("dial", &joint, &next)
        }
    };
    format!("{head}{services}")
}
