//! The process that enrols apart from the server, and its files: a directory of its own, as on another machine.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::files::{self, ENROLMENT, ROOTS};
use super::{Part, World, WorldBuilder, daemon, listening, read_audit};
use crate::daemon::Daemon;
use crate::wait::{SOON, eventually};

/// The process and where it listens.
pub(crate) struct Apart {
    pub(crate) daemon: Daemon,
    pub(crate) address: SocketAddr,
}

/// Starts the process, and hands its roots out as its owner would.
pub(super) async fn start(world: &WorldBuilder, dir: &Path) -> Result<Apart> {
    files::enrolment(dir, world)?;
    let daemon = daemon(&world.binary, Part::Enrolment, dir, &[], None, &[])?;
    let address = listening(&daemon, "enrolment", 0).await?;
    std::fs::create_dir(dir.join("ca"))?;
    for root in ROOTS {
        std::fs::copy(dir.join(ENROLMENT).join("ca").join(root), dir.join("ca").join(root)).context(root)?;
    }
    Ok(Apart { daemon, address })
}

impl World {
    /// Where the process that enrols listens.
    ///
    /// # Errors
    /// Unless the world is [`WorldBuilder::enrolment_apart`].
    pub fn enrolment_addr(&self) -> Result<SocketAddr> {
        Ok(self.enrolment.as_ref().context("nobody enrols apart")?.address)
    }

    /// Waits until `enough` holds for the audit log of the process that enrols, and returns the log.
    ///
    /// # Errors
    /// If that does not happen in time; `what` names it.
    pub async fn enrolment_audit_until(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        eventually(what, SOON, async || {
            let records = read_audit(&self.directory().join(ENROLMENT).join("audit"))?;
            Ok(enough(&records).then_some(records))
        })
        .await
    }
}
