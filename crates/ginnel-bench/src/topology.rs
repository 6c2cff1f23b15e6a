//! Where the processes of a way run. On loopback both sides are one; with a long path between them they are two network namespaces.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use ginnel_testkit::command::command;
use tokio::net::TcpListener;
use tokio::process::Command;

/// One side: the address that its processes listen on, and how a command is made to run there.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// What its processes listen on.
    pub(crate) ip: IpAddr,
    /// What stands before the command, such as `ip netns exec NAME`. It has to become the program, not its parent.
    pub(crate) prefix: Vec<String>,
}

impl Side {
    /// This machine's own loopback.
    pub(crate) fn loopback() -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: Vec::new() }
    }

    /// A command that runs on this side, in an environment of its own.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, home: &Path) -> Command {
        match self.prefix.split_first() {
            None => command(program, home),
            Some((first, rest)) => {
                let mut command = command(first, home);
                command.args(rest).arg(program);
                command
            }
        }
    }
}

/// The two sides of every way. The driver and whatever stands in the cloud are near; the target and what stands beside it are far, and only
/// what the far side dials or is dialled by crosses the path.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    /// The side of the driver, of clients and servers.
    pub(crate) near: Side,
    /// The side of the target and of agents.
    pub(crate) far: Side,
}

impl Topology {
    /// Everything on one loopback.
    pub(crate) fn loopback() -> Self {
        Self { near: Side::loopback(), far: Side::loopback() }
    }
}

/// Addresses that nobody listens on at this moment, for programs that cannot say which port they were given.
///
/// All of them are held at once while they are found, so that they differ.
pub(crate) async fn free_addresses<const N: usize>(ip: IpAddr) -> Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    let mut found = [SocketAddr::new(ip, 0); N];
    for place in &mut found {
        let listener = TcpListener::bind((ip, 0)).await.context("finding a free port")?;
        *place = listener.local_addr()?;
        held.push(listener);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_before_the_program() {
        let side = Side { prefix: ["ip", "netns", "exec", "far"].map(str::to_owned).to_vec(), ..Side::loopback() };
        let command = side.command("nginx", Path::new("/"));
        let words: Vec<_> = command.as_std().get_args().collect();
        assert_eq!(command.as_std().get_program(), "ip");
        assert_eq!(words, ["netns", "exec", "far", "nginx"]);
        assert_eq!(Side::loopback().command("nginx", Path::new("/")).as_std().get_program(), "nginx");
    }

    #[tokio::test]
    async fn free_addresses_differ() {
        let [one, two] = free_addresses(IpAddr::V4(Ipv4Addr::LOCALHOST)).await.unwrap();
        assert_ne!(one, two);
        assert_ne!(one.port(), 0);
    }
}
