//! Programs of others: where they are, which version, and a chain of three of one of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ginnel_testkit::Daemon;
use ginnel_testkit::command::{command, output};

use crate::load::ready;
use crate::topology::{Side, free_addresses};
use crate::way::{Ground, Running};

/// Directories that only root's `PATH` names.
const MORE_PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds a program by its name. Some start themselves again by their path, which therefore is absolute.
pub(super) fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(MORE_PLACES.map(PathBuf::from));
    places
        .map(|place| place.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// What a program says about its version: the first line that has `mark` in it.
pub(super) async fn version(program: &Path, argument: &str, mark: &str) -> Result<String> {
    let mut ask = command(program, Path::new("/"));
    ask.arg(argument);
    let said = output(ask).await?;
    let text = [said.stdout, said.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let line = text.lines().find(|line| line.contains(mark));
    Ok(line.with_context(|| format!("{} does not say its version", program.display()))?.trim().to_owned())
}

/// The three places of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Plain in, TLS out.
    Entry,
    /// TLS in, TLS out.
    Middle,
    /// TLS in, plain out.
    Last,
}

/// One process of a chain: where it stands, where it listens, whom it dials.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) place: Place,
    pub(super) listen: SocketAddr,
    pub(super) next: SocketAddr,
    /// Where its files belong.
    pub(super) dir: &'a Path,
}

impl Link<'_> {
    /// Its name, also of its files.
    pub(super) fn name(self) -> &'static str {
        match self.place {
            Place::Entry => "entry",
            Place::Middle => "middle",
            Place::Last => "last",
        }
    }
}

/// Starts a chain of three: `configure` writes what one of them needs and returns its arguments.
pub(super) async fn chain(
    ground: &Ground,
    target: SocketAddr,
    program: &Path,
    configure: impl Fn(Link<'_>) -> Result<Vec<String>>,
) -> Result<Running> {
    let dir = tempfile::tempdir()?;
    let (near, far) = (&ground.topology.near, &ground.topology.far);
    let [entry, middle] = free_addresses(near.ip).await?;
    let [last] = if near.ip == far.ip {
        // Found together with the others, it would differ for sure; a port that was free a moment ago is not given out again so soon.
        free_addresses(far.ip).await?
    } else {
        [SocketAddr::new(far.ip, middle.port())]
    };
    let spawn = |side: &Side, place, listen, next| -> Result<(&'static str, Daemon)> {
        let link = Link { place, listen, next, dir: dir.path() };
        let mut command = side.command(program, dir.path());
        command.args(configure(link)?);
        Ok((link.name(), Daemon::spawn_group(link.name(), command)?))
    };
    let daemons = vec![
        spawn(near, Place::Entry, entry, middle)?,
        spawn(near, Place::Middle, middle, last)?,
        spawn(far, Place::Last, last, target)?,
    ];
    ready(entry).await?;
    Ok(Running::of(entry, daemons).with(dir))
}

/// Writes a configuration file and returns its path.
pub(super) fn write(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    std::fs::write(&path, text).with_context(|| format!("writing {name}"))?;
    Ok(path.display().to_string())
}
