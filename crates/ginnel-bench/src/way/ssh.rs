//! OpenSSH: `ssh -R` from beside the target to an `sshd`, alone or with `ssh -L` to the same from beside the driver.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use ginnel_testkit::Daemon;
use ginnel_testkit::command::{command, succeed};
use tokio::process::Command;

use crate::load::ready;
use crate::topology::{Side, Topology, free_addresses};
use crate::way::{Ground, Running, program};

/// The cheapest cipher that it has on a processor with AES instructions.
const CIPHER: &str = "aes128-gcm@openssh.com";

pub(super) async fn version() -> Result<String> {
    program::find("sshd")?;
    program::version(&program::find("ssh")?, "-V", "OpenSSH").await
}

pub(super) async fn remote(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let dir = tempfile::tempdir()?;
    let Topology { near, far } = &ground.topology;
    let [address, entrance] = free_addresses(near.ip).await?;
    let server = sshd(near, dir.path(), address).await?;
    let agent = ssh(far, dir.path(), address, &["-R", &format!("{entrance}:{target}")]).await?;
    ready(entrance).await?;
    Ok(Running::of(entrance, vec![("sshd", server), ("ssh -R", agent)]).with(dir))
}

pub(super) async fn local_and_remote(ground: &Ground, target: SocketAddr) -> Result<Running> {
    let dir = tempfile::tempdir()?;
    let Topology { near, far } = &ground.topology;
    let [address, between, entrance] = free_addresses(near.ip).await?;
    let server = sshd(near, dir.path(), address).await?;
    let agent = ssh(far, dir.path(), address, &["-R", &format!("{between}:{target}")]).await?;
    ready(between).await?;
    let client = ssh(near, dir.path(), address, &["-L", &format!("{entrance}:{between}")]).await?;
    ready(entrance).await?;
    Ok(Running::of(entrance, vec![("ssh -L", client), ("sshd", server), ("ssh -R", agent)]).with(dir))
}

async fn sshd(side: &Side, dir: &Path, address: SocketAddr) -> Result<Daemon> {
    for key in ["host_key", "user_key"] {
        let mut keygen = command("ssh-keygen", dir);
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key));
        succeed(keygen).await?;
    }
    std::fs::copy(dir.join("user_key.pub"), dir.join("authorized_keys"))?;
    let path = dir.display();
    let text = format!(
        "ListenAddress {address}
HostKey {path}/host_key
AuthorizedKeysFile {path}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
GatewayPorts clientspecified
Compression no
LogLevel ERROR
"
    );
    let config = program::write(dir, "sshd_config", &text)?;
    let mut command = side.command(program::find("sshd")?, dir);
    command.args(["-D", "-e", "-f", &config]);
    let daemon = Daemon::spawn_group("sshd", command).context("starting sshd")?;
    listens(address).await?;
    Ok(daemon)
}

/// Waits until somebody accepts connections there.
async fn listens(address: SocketAddr) -> Result<()> {
    let look = async || Ok(tokio::net::TcpStream::connect(address).await.ok().map(drop));
    ginnel_testkit::eventually("sshd to listen", ginnel_testkit::wait::SOON, look).await
}

async fn ssh(side: &Side, dir: &Path, server: SocketAddr, forward: &[&str]) -> Result<Daemon> {
    let mut id = command("id", dir);
    id.arg("-un");
    let user = succeed(id).await?;
    let mut command: Command = side.command(program::find("ssh")?, dir);
    command.args(["-F", "/dev/null", "-N", "-T", "-c", CIPHER, "-p", &server.port().to_string(), "-i"]);
    command.arg(dir.join("user_key"));
    for option in [
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ExitOnForwardFailure=yes",
        "Compression=no",
        "LogLevel=ERROR",
    ] {
        command.args(["-o", option]);
    }
    command.args(forward).arg(format!("{user}@{}", server.ip()));
    Daemon::spawn_group("ssh", command)
}
