//! The audit log as evidence: of what happened, to the byte; after kills; on a disk that is full; and as `ginnel audit verify` reads it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, output, succeed};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::{Part, World, proxy};
use serde_json::Value;

use crate::world;

mod disk;
mod kills;
mod secrets;
mod truth;

/// All records of the log in a directory, the oldest first, without a last line that is still being written.
fn each_record(directory: &Path, mut each: impl FnMut(Value) -> Result<()>) -> Result<()> {
    let mut files: Vec<_> = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("audit-")));
    files.sort();
    for file in files.into_iter().chain([directory.join("audit.jsonl")]) {
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.len() > 1) {
            // What a crash cut off is no record; whether it may be there, the verifier says.
            if let Ok(record) = serde_json::from_str(line) {
                each(record)?;
            }
        }
    }
    Ok(())
}

/// Request ids in records of an event.
fn requests(directory: &Path, event: &str) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    each_record(directory, |record| {
        if record["event"] == event {
            ids.extend(record["requestId"].as_str().map(str::to_owned));
        }
        Ok(())
    })?;
    Ok(ids)
}

/// Has the program verify the log in a directory, and returns what it says as JSON.
async fn verified(world: &World, directory: &Path) -> Result<Value> {
    let mut verify = world.ginnel();
    verify.args(["audit", "verify", "--json"]).arg(directory);
    let report: Value = serde_json::from_str(&succeed(verify).await?)?;
    ensure!(report["finding"].is_null() && report["proof"] == "secretKey", "{report}");
    Ok(report)
}

/// Runs `ginnel audit verify` and returns its exit code and what it says.
async fn verify(world: &World, args: &[&str]) -> Result<(Option<i32>, String)> {
    let mut verify = world.ginnel();
    verify.current_dir(world.directory()).args(["audit", "verify"]).args(args);
    let output = output(verify).await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(said)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_was_changed_and_says_what_it_proves() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut world = world().target(host.address()).start().await?;
    for _ in 0..3 {
        proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
    }
    let (code, said) = verify(&world, &["audit"]).await?;
    ensure!(code == Some(0) && said.starts_with("whole: records 1 to "), "{said}");
    // The running server shows a checkpoint, which is an anchor from then on.
    let mut status = world.ginnel();
    status.args(["status", "--json", "--socket"]).arg(world.socket(Part::Server));
    let anchor = succeed(status).await?;
    fs::write(world.directory().join("anchor.json"), &anchor)?;
    let anchor: Value = serde_json::from_str(&anchor)?;
    ensure!(anchor["audit"]["checkpoint"]["seq"] == 1, "{}", anchor["audit"]);
    world.server.terminate()?;
    world.server.ended().await?;

    let log = world.directory().join("audit/audit.jsonl");
    let whole = fs::read_to_string(&log)?;
    for args in
        [&["audit"][..], &["--anchor", "anchor.json", "audit"], &["--key", "audit/chain.key", "audit/audit.jsonl"]]
    {
        let (code, said) = verify(&world, args).await?;
        ensure!(code == Some(0) && said.starts_with("whole:"), "{args:?}: {said}");
    }
    let (code, said) = verify(&world, &["--expect-at-least", "99999", "audit"]).await?;
    ensure!(code == Some(1) && said.contains("cut off"), "{said}");
    for wrong in [&["nowhere"][..], &["--key", "server.yaml", "audit"], &["--anchor", "server.yaml", "audit"]] {
        let (code, said) = verify(&world, wrong).await?;
        ensure!(code == Some(2), "{wrong:?}: {said}");
    }

    let line = whole.lines().position(|line| line.contains("\"allowed\"")).context("a permit")?;
    let seq = serde_json::from_str::<Value>(whole.lines().nth(line).context("it")?)?["seq"].clone();
    let target = host.address().to_string();
    let edited: String = whole
        .lines()
        .enumerate()
        .map(|(at, it)| if at == line { it.replace(&target, "10.0.0.1:1") } else { it.to_owned() } + "\n")
        .collect();
    fs::write(&log, edited)?;
    let (code, said) = verify(&world, &["audit"]).await?;
    let named = format!("NOT whole: audit/audit.jsonl:{}: record {seq} was edited", line + 1);
    ensure!(code == Some(1) && said.contains(&named), "{named}\n{said}");
    let (code, said) = verify(&world, &["--json", "audit"]).await?;
    let report: Value = serde_json::from_str(&said)?;
    ensure!(code == Some(1) && report["finding"]["wrong"] == "edited" && report["finding"]["seq"] == seq, "{said}");
    world.finish(&[Part::Server])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_log_does_not_start() -> Result<()> {
    let world = world().target("127.0.0.1:9").start().await?;
    let mut second = command(world.binary(), world.directory());
    second.current_dir(world.directory()).args(["server", "--config", "server.yaml", "--log-format", "json"]);
    second.args(["--set", "server.adminSocket=second.sock"]);
    let refused = output(second).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("in use by another process"), "{said}");
    verified(&world, &world.directory().join("audit")).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_was_cut_off_does_not_start_and_says_why() -> Result<()> {
    let mut world = world().target("127.0.0.1:9").start().await?;
    world.server.terminate()?;
    world.server.ended().await?;
    let log = world.directory().join("audit/audit.jsonl");
    let whole = fs::read_to_string(&log)?;
    let cut: String = whole.split_inclusive('\n').take(3).collect();
    fs::write(&log, cut)?;
    let mut again = command(world.binary(), world.directory());
    again.current_dir(world.directory()).args(["server", "--config", "server.yaml"]);
    let refused = output(again).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("cut off") && said.contains("audit verify"), "{said}");
    world.finish(&[Part::Server])
}
