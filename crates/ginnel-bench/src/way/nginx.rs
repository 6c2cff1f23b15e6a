//! Three nginx with its stream module.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::pki::NAME;
use crate::way::program::{self, Link, Place};
use crate::way::{Ground, Running};

/// Where Debian puts the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) async fn version() -> Result<String> {
    ensure!(Path::new(MODULE).exists(), "nginx's stream module is not installed");
    program::version(&program::find("nginx")?, "-v", "version").await
}

pub(super) async fn start(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let configure = |link: Link<'_>| {
        let path = program::write(link.dir, &format!("{}.conf", link.name()), &configuration(ground, link)?)?;
        let dir = link.dir.display().to_string();
        Ok(["-e", "stderr", "-p", &dir, "-c", &path].map(str::to_owned).to_vec())
    };
    program::chain(ground, target, &program::find("nginx")?, configure).await
}

fn configuration(ground: &Ground, link: Link<'_>) -> Result<String> {
    let Link { place, listen, next, dir } = link;
    let pki = |name: &str| ground.pki.path(name);
    let mut text = format!(
        "load_module {MODULE};
daemon off;
pid {dir}/{name}.pid;
error_log stderr error;
worker_processes 2;
worker_rlimit_nofile 20000;
events {{ worker_connections 19900; }}
stream {{
    server {{
        proxy_buffer_size 64k;
        proxy_connect_timeout 10s;
        proxy_timeout 1h;
        proxy_pass {next};
",
        dir = dir.display(),
        name = link.name(),
    );
    if place == Place::Entry {
        writeln!(text, "        listen {listen} backlog=4096;")?;
    } else {
        write!(
            text,
            "        listen {listen} ssl backlog=4096;
        ssl_certificate {};
        ssl_certificate_key {};
        ssl_client_certificate {};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;
",
            pki("server.pem"),
            pki("server.key"),
            pki("ca.pem")
        )?;
    }
    if place != Place::Last {
        write!(
            text,
            "        proxy_ssl on;
        proxy_ssl_certificate {};
        proxy_ssl_certificate_key {};
        proxy_ssl_trusted_certificate {};
        proxy_ssl_verify on;
        proxy_ssl_name {NAME};
        proxy_ssl_server_name on;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;
",
            pki("client.pem"),
            pki("client.key"),
            pki("ca.pem")
        )?;
    }
    text.push_str("    }\n}\n");
    Ok(text)
}
