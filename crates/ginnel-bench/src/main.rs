//! Measures the tunnel and a plain two-hop TCP relay in one run, and writes what it saw as a document.
//!
//! `cargo xtask bench` builds the release binary and starts this. The program is also the target and the relay, which it starts as
//! processes of their own by its first argument, so that each one's CPU time and memory can be told apart.

#![allow(clippy::print_stderr, reason = "a command that people run: what it says on the way is for them")]

mod host;
mod load;
mod process;
mod relay;
mod report;
mod wan;
mod way;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::load::Effort;
use crate::way::Way;

/// Descriptors that every process may have: two for each idle session, and room.
const DESCRIPTORS: u64 = 16_384;

const USAGE: &str = "usage: ginnel-bench --ginnel PROGRAM [--out FILE] [--quick]";

struct Args {
    ginnel: PathBuf,
    out: Option<PathBuf>,
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["wan", ..] => wan::main(words.get(1..).unwrap_or_default()),
        ["host"] => host::serve().await,
        ["relay", to] => relay::serve(to.parse::<SocketAddr>().context("an address")?).await,
        _ => bench(parse(words.into_iter())?).await,
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
    let (mut ginnel, mut out, mut quick) = (None, None, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ginnel" => ginnel = words.next().map(PathBuf::from),
            "--out" => out = words.next().map(PathBuf::from),
            "--quick" => quick = true,
            _ => bail!("{word}: {USAGE}"),
        }
    }
    Ok(Args { ginnel: ginnel.context(USAGE)?, out, quick })
}

async fn bench(args: Args) -> Result<()> {
    process::raise_descriptors(DESCRIPTORS)?;
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let mut host = process::start("host", &["host"]).await?;
    let mut rounds: [Vec<load::Figures>; Way::ALL.len()] = Default::default();
    for round in 1..=effort.rounds {
        // One after the other and again, so that what else the machine does falls on all of them.
        for (way, figures) in Way::ALL.into_iter().zip(&mut rounds) {
            eprintln!("round {round} of {}: {}", effort.rounds, way.name());
            figures.push(way::measure(way, &args.ginnel, host.address, &effort).await.with_context(|| way.name())?);
        }
    }
    host.daemon.check()?;
    let document = report::document(&effort, args.quick, &rounds)?;
    match args.out {
        Some(path) => {
            std::fs::write(&path, document).with_context(|| format!("writing {}", path.display()))?;
            eprintln!("written: {}", path.display());
        }
        None => eprint!("{document}"),
    }
    Ok(())
}
