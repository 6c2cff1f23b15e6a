//! Measures the tunnel, plain relays and other programs of the kind in one run, and writes what it saw as a document with pictures.
//!
//! `cargo xtask bench` builds the release binary and starts this. The program is also the target, the relays and the hops of one TLS connection
//! per session, which it starts as processes of their own by its first argument, so that each one's CPU time and memory can be told apart.

#![allow(clippy::print_stderr, reason = "a command that people run: what it says on the way is for them")]

mod args;
mod bars;
mod chain;
mod congestion;
mod enrol;
mod host;
mod load;
mod pki;
mod plot;
mod process;
mod relay;
mod report;
mod results;
mod run;
mod stats;
mod table;
mod topology;
mod wan;
mod way;
mod workload;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;
use crate::congestion::Congestion;
use crate::load::Effort;
use crate::pki::Pki;
use crate::report::Run;
use crate::topology::Topology;
use crate::way::Ground;

/// Descriptors that every process may have: two for each idle session, and room.
const DESCRIPTORS: u64 = 20_000;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["enrol", ..] => enrol::main(words.get(1..).unwrap_or_default()).await,
        ["wan", ..] => wan::main(words.get(1..).unwrap_or_default()),
        ["host", at] => host::serve(ip(at)?).await,
        ["relay", at, to] => relay::serve(ip(at)?, address(to)?).await,
        ["chain-client", at, to, pki] => chain::client(ip(at)?, address(to)?, Path::new(pki)).await,
        ["chain-server", at, pki] => chain::serve(ip(at)?, Path::new(pki)).await,
        ["chain-agent", server, to, pki] => chain::agent(address(server)?, address(to)?, Path::new(pki)).await,
        _ => {
            let args = args::parse(words.into_iter())?;
            // Whoever ends it early gets the machine back as it was, and no process is left.
            let mut terminate = signal(SignalKind::terminate())?;
            tokio::select! {
                done = bench(args) => done,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = terminate.recv() => bail!("terminated"),
            }
        }
    }
}

fn ip(word: &str) -> Result<IpAddr> {
    word.parse().with_context(|| format!("{word} is no IP address"))
}

fn address(word: &str) -> Result<SocketAddr> {
    word.parse().with_context(|| format!("{word} is no address"))
}

async fn bench(args: Args) -> Result<()> {
    process::raise_descriptors(DESCRIPTORS)?;
    let load_before = report::load()?;
    let mut congestion = Congestion::set()?;
    eprintln!("congestion control: {}; load: {load_before}", congestion.words);
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let effort = Effort { rounds: args.rounds.unwrap_or(effort.rounds), ..effort };
    let ground = Ground { ginnel: args.ginnel, tools: args.tools, topology: Topology::loopback(), pki: Pki::make()? };
    let results = run::run(&ground, &args.ways, &args.workloads, &effort).await?;
    congestion.look_again()?;
    let run = Run { effort: &effort, quick: args.quick, congestion: &congestion.words, load_before: &load_before };
    match args.out {
        Some(path) => {
            report::write(&path, &run, &results)?;
            eprintln!("written: {}", path.display());
        }
        None => std::io::stdout().write_all(report::document(&run, &results, "performance")?.as_bytes())?,
    }
    // A peer that cannot do something is a finding of the document; the tunnel must do everything.
    let ours = results.failures.iter().filter(|failure| failure.way.is_tunnel()).count();
    if ours > 0 {
        bail!("the tunnel failed {ours} times");
    }
    Ok(())
}
