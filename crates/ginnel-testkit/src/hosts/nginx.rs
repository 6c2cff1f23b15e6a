//! nginx with git's own HTTP backend behind it, over HTTPS, and plain files over HTTPS and HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::{command, git, succeed};
use crate::daemon::Daemon;
use crate::hosts::{Authority, UP, on_free_ports};

/// Requests that git-http-backend answers at the same time.
const WORKERS: usize = 8;

/// A code host and file server on loopback.
pub struct Nginx {
    /// The authority that signed its certificate.
    pub authority: Authority,
    https: SocketAddr,
    http: SocketAddr,
    nginx: Daemon,
    backend: Daemon,
    dir: TempDir,
}

impl Nginx {
    /// Starts one with nothing in it.
    ///
    /// # Errors
    /// If nginx, fcgiwrap or git-http-backend is missing, or does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        std::fs::create_dir(root.join("www"))?;
        std::fs::create_dir(root.join("git"))?;
        let authority = Authority::create(root)?;
        let backend = backend(root).await?;
        let exec_path = {
            let mut ask = git(root);
            ask.arg("--exec-path");
            succeed(ask).await?
        };
        let start = async |[https, http]: [SocketAddr; 2]| {
            let configuration = configuration(root, &authority, Path::new(&exec_path), https, http);
            std::fs::write(root.join("nginx.conf"), configuration)?;
            let mut nginx = command("nginx", root);
            nginx.arg("-p").arg(root).args(["-e", "stderr", "-c"]).arg(root.join("nginx.conf"));
            Daemon::spawn("nginx", nginx).context("is nginx installed?")
        };
        let (nginx, [https, http]) = on_free_ports("nginx", start).await?;
        Ok(Self { authority, https, http, nginx, backend, dir })
    }

    /// Where it serves `/git/` and files over HTTPS.
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Where it serves files over HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The directory of the files.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    /// The directory of the repositories, served as `/git/NAME`.
    pub fn repositories(&self) -> PathBuf {
        self.dir.path().join("git")
    }

    /// Keeps the logs of its processes from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.nginx.check()?;
        self.backend.check()
    }
}

async fn backend(root: &Path) -> Result<Daemon> {
    let socket = root.join("fcgi.sock");
    let mut fcgiwrap = command("fcgiwrap", root);
    fcgiwrap.arg("-f").args(["-c", &WORKERS.to_string()]).arg("-s").arg(format!("unix:{}", socket.display()));
    let backend = Daemon::spawn_group("fcgiwrap", fcgiwrap).context("is fcgiwrap installed?")?;
    crate::eventually("fcgiwrap to listen", UP, async || Ok(socket.exists().then_some(()))).await?;
    Ok(backend)
}

fn configuration(root: &Path, authority: &Authority, exec_path: &Path, https: SocketAddr, http: SocketAddr) -> String {
    let dir = root.display();
    // One process and no master, so that killing it leaves nobody behind. Only root may name a user, and has to here:
    // the files belong to whoever runs the tests.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let certificate = authority.certificate.display();
    let key = authority.key.display();
    let exec_path = exec_path.display();
    format!(
        "daemon off; master_process off; {user}
pid {dir}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  client_max_body_size 0;
  types {{ text/html html; application/octet-stream whl bin; }}
  server {{
    listen {https} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    root {dir}/www;
    location ~ ^/git(/.*)$ {{
      fastcgi_pass unix:{dir}/fcgi.sock;
      fastcgi_param SCRIPT_FILENAME {exec_path}/git-http-backend;
      fastcgi_param GIT_PROJECT_ROOT {dir}/git;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param GIT_CONFIG_NOSYSTEM 1;
      fastcgi_param HOME {dir};
      fastcgi_param PATH_INFO $1;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param REMOTE_ADDR $remote_addr;
      fastcgi_param REMOTE_USER someone;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
      fastcgi_read_timeout 120s;
      fastcgi_buffering off;
    }}
  }}
  server {{ listen {http}; root {dir}/www; }}
}}
"
    )
}
