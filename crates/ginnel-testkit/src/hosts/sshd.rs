//! An OpenSSH server with keys of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::{command, succeed};
use crate::daemon::Daemon;
use crate::hosts::on_free_ports;

/// Where sshd changes root to before a login; it refuses to start as root without.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// A code host that speaks SSH, for the user who runs the tests.
pub struct Sshd {
    address: SocketAddr,
    user: String,
    daemon: Daemon,
    dir: TempDir,
}

impl Sshd {
    /// Starts one.
    ///
    /// # Errors
    /// If OpenSSH is missing or does not come up.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        let user = {
            let mut id = command("id", root);
            id.arg("-un");
            succeed(id).await?
        };
        for key in ["host_key", "user_key"] {
            let mut keygen = command("ssh-keygen", root);
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(root.join(key));
            succeed(keygen).await.context("is OpenSSH installed?")?;
        }
        std::fs::copy(root.join("user_key.pub"), root.join("authorized_keys"))?;
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all(PRIVILEGE_SEPARATION)?;
        }
        let program = program();
        let start = async |[address]: [SocketAddr; 1]| {
            std::fs::write(root.join("sshd_config"), configuration(root, address))?;
            let mut sshd = command(&program, root);
            sshd.args(["-D", "-e", "-f"]).arg(root.join("sshd_config"));
            Daemon::spawn_group("sshd", sshd).context("is the OpenSSH server installed?")
        };
        let (daemon, [address]) = on_free_ports("sshd", start).await?;
        let public = std::fs::read_to_string(root.join("host_key.pub"))?;
        // The key is known under one name, whatever address or forward leads to the host.
        std::fs::write(root.join("known_hosts"), format!("code.acme.internal {public}"))?;
        Ok(Self { address, user, daemon, dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `ssh` command line, with more options, as `GIT_SSH_COMMAND` wants it.
    pub fn ssh(&self, options: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "ssh -F /dev/null -i {dir}/user_key -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=yes \
             -o UserKnownHostsFile={dir}/known_hosts -o HostKeyAlias=code.acme.internal {options}"
        )
    }

    /// The URL of the repository at `path`, as reached at `address`.
    pub fn url(&self, address: SocketAddr, path: &Path) -> String {
        format!("ssh://{}@{address}{}", self.user, path.display())
    }

    /// Keeps its log from being shown.
    ///
    /// # Errors
    /// None of its own; a host does not panic.
    pub fn finish(mut self) -> Result<()> {
        self.daemon.check()
    }
}

/// sshd starts itself again by its path, which therefore has to be absolute.
fn program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
    places.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/usr/sbin/sshd"))
}

fn configuration(root: &Path, address: SocketAddr) -> String {
    let dir = root.display();
    format!(
        "ListenAddress {address}
HostKey {dir}/host_key
AuthorizedKeysFile {dir}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel VERBOSE
"
    )
}
