//! A disk of 1 MiB that is full: nothing new is allowed, what runs goes on, and afterwards the log is whole.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_testkit::link::skip_without_root;
use ginnel_testkit::{Answer, eventually, proxy};
use tokio::net::TcpListener;

use super::{requests, verified};
use crate::pair::Pair;
use crate::world;

/// How soon a disk with room again has to be noticed.
const NOTICED: Duration = Duration::from_secs(5);

/// Has the server see a small disk where its log is, and nobody else.
const MOUNTED: &str = "mount -t tmpfs -o size=1m,mode=0700 none audit && exec \"$@\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_what_is_new_keeps_what_runs_and_recovers() -> Result<()> {
    if skip_without_root("a_full_disk_refuses_what_is_new_keeps_what_runs_and_recovers") {
        return Ok(());
    }
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let target = host.local_addr()?;
    let starter = ["unshare", "--mount", "sh", "-c", &format!("mkdir -p audit && {MOUNTED}"), "sh"];
    let world = world().target(target).started_by("server", &starter).start().await?;
    // The server's own view of its files; nobody else has this disk.
    let root = PathBuf::from(format!("/proc/{}/root", world.server.pid()));
    let audit = root.join(world.directory().strip_prefix("/")?).join("audit");
    let mut pair = Pair::open(&world, &host).await?;
    let mut heard = vec![pair.request_id.clone()];
    pair.exchange().await?;

    fill(&audit.join("filler"))?;
    let refused = loop {
        // What room there was may take some records still.
        match proxy::connect(world.proxy_addr(), &target.to_string()).await? {
            Answer::Opened(opened) => heard.push(opened.request_id),
            Answer::Refused(refused) => break refused,
        }
        ensure!(heard.len() < 1_000, "the disk is never full");
    };
    ensure!((refused.cause.as_str(), refused.hop.as_str()) == ("auditUnavailable", "server"), "{refused:?}");
    pair.exchange().await.context("a session that was open before")?;

    fs::remove_file(audit.join("filler"))?;
    let again = async || match proxy::connect(world.proxy_addr(), &target.to_string()).await? {
        Answer::Opened(opened) => Ok(Some(opened.request_id)),
        Answer::Refused(refused) if refused.cause == "auditUnavailable" => Ok(None),
        Answer::Refused(refused) => bail!("{refused:?}"),
    };
    heard.push(eventually("the log to be written again", NOTICED, again).await?);
    pair.exchange().await?;

    for event in ["allowed", "connected"] {
        let recorded = requests(&audit, event)?;
        let missing: Vec<_> = heard.iter().filter(|id| !recorded.contains(*id)).collect();
        ensure!(missing.is_empty(), "{event} is missing for {missing:?}");
    }
    verified(&world, &audit).await?;
    world.finish(&[])
}

/// Fills a disk to the last byte.
fn fill(path: &PathBuf) -> Result<()> {
    let mut file = fs::File::create(path)?;
    let block = [0; 4096];
    for _ in 0..1 << 10 {
        if file.write_all(&block).is_err() {
            return Ok(());
        }
    }
    bail!("{} is on a larger disk", path.display())
}
