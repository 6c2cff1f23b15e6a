//! How long a record takes until it is on disk: `cargo bench -p ginnel-ops`, or `cargo xtask bench --audit`.
//!
//! Some callers record an event, wait until it is durable, and record the next, as sessions do; the files are in a directory of the target
//! directory, so that it is the disk of the build that is measured, or in the one that is named. Beside it stands what the disk takes for a
//! write and a sync alone.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot be run ends; what it prints is what it is for"
)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ginnel_core::audit::{Client, Event, Text};
use ginnel_core::cause::{Cause, Hop};
use ginnel_core::id::{InstanceId, RequestId};
use ginnel_ops::audit::AuditLog;
use tokio::task::JoinSet;

/// Callers side by side, and how many records each waits for.
const LOADS: [(usize, usize); 4] = [(1, 2_000), (16, 500), (256, 100), (2_000, 20)];

/// The bar for the 99th percentile.
const BAR: Duration = Duration::from_millis(5);

fn event() -> Event {
    Event::Refused {
        request_id: RequestId::from_bytes(&[1; 16]).expect("16 bytes"),
        client: Some(Client {
            principal: "spiffe://acme.example/client/frontend".parse().expect("a principal"),
            email: Text::new("frontend@acme-project.iam.gserviceaccount.com"),
        }),
        client_claimed: None,
        agent: None,
        target: Text::new("gitlab.acme.internal:443"),
        peer: Some("10.0.0.9:40000".parse().expect("an address")),
        hop: Hop::Server,
        cause: Cause::NotAllowed,
        rule: None,
        policy: Text::new("5f3a0b1c2d3e4f50"),
    }
}

/// What a write of one record and a sync take.
fn bare(directory: &Path, count: usize) -> Vec<Duration> {
    let line = [b'x'; 600];
    let path = directory.join("bare");
    let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opens");
    let one = |_| {
        let start = Instant::now();
        file.write_all(&line).and_then(|()| file.sync_data()).expect("writes");
        start.elapsed()
    };
    (0..count).map(one).collect()
}

async fn loaded(directory: &Path, callers: usize, each: usize) -> (Vec<Duration>, Duration) {
    let boot = InstanceId::from_bytes(&[7; 16]).expect("16 bytes");
    let log = AuditLog::open(directory, boot).expect("opens");
    // The first record begins a chapter, which a process does once in a day.
    log.record(event()).expect("accepted").await.expect("durable");
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let log = log.clone();
        tasks.spawn(async move {
            let mut took = Vec::with_capacity(each);
            for _ in 0..each {
                let start = Instant::now();
                log.record(event()).expect("accepted").await.expect("durable");
                took.push(start.elapsed());
            }
            took
        });
    }
    let took = tasks.join_all().await.concat();
    (took, start.elapsed())
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn told(what: &str, mut took: Vec<Duration>, rate: Option<f64>) -> Duration {
    took.sort_unstable();
    let ms = |percent| percentile(&took, percent).as_secs_f64() * 1e3;
    let rate = rate.map_or_else(String::new, |rate| format!("{rate:.0}"));
    println!("{what:<34} {:>8.2} {:>8.2} {:>8.2} {rate:>10}", ms(50), ms(99), ms(100));
    percentile(&took, 99)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    // Cargo's own arguments begin with a dash.
    let base = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let base = base.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let directory = tempfile::tempdir_in(base).expect("a directory");
    println!("{:<34} {:>8} {:>8} {:>8} {:>10}", "from record to durable", "p50 ms", "p99 ms", "max ms", "records/s");
    told("one write and sync, nothing else", bare(directory.path(), 1_000), None);
    let mut worst = Duration::ZERO;
    for (callers, each) in LOADS {
        let audit = directory.path().join(callers.to_string());
        let (took, all) = runtime.block_on(loaded(&audit, callers, each));
        let rate = took.len() as f64 / all.as_secs_f64();
        let p99 = told(&format!("{callers} waiting side by side"), took, Some(rate));
        worst = worst.max(p99);
    }
    let verdict = if worst <= BAR { "met" } else { "NOT met" };
    println!("the bar of {BAR:?} at p99 is {verdict}");
}
