//! The `ginnel` command: server, agent and client of the tunnel, and what people need around them.
//!
//! Standard output is data, standard error is talk. Exit codes: 0 yes, 1 no or failed, 2 wrong usage or input.

mod args;
mod cmd;
mod credential;
#[cfg(all(feature = "server", feature = "agent", feature = "client"))]
mod demo;
#[cfg(feature = "server")]
mod issuer;
mod shield;
#[cfg(feature = "server")]
mod sink;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::cmd::{Failure, Outcome};

/// Lets the allocator keep some MiB of what was freed. Frames of 64 KiB come and go, and glibc would give each back to the system and ask for it
/// again, which cost a quarter of all CPU time (docs/performance.md). It learns from the largest block that it sees freed: from then on blocks
/// of that size count as ordinary, and twice as much may stay unused (mallopt(3), "dynamic mmap threshold"). Others are not harmed: the block is
/// never touched.
fn keep_freed_memory() {
    const LARGEST: usize = 8 << 20;
    drop(std::hint::black_box(vec![0_u8; LARGEST]));
}

fn main() -> ExitCode {
    keep_freed_memory();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are answers, everything else is wrong usage; clap knows which stream each belongs on.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    if let Err(error) = shield::close() {
        report(&error);
        return ExitCode::from(1);
    }
    shield::take_descriptors();
    match cmd::run(args) {
        Ok(Outcome::Yes) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(Failure::Findings(findings)) => {
            say(&format!("{findings}\n"));
            ExitCode::from(2)
        }
        Err(Failure::Input(error)) => {
            report(&*error);
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            report(&*error);
            ExitCode::from(1)
        }
    }
}

/// Writes an error and everything beneath it, one line each.
fn report(error: &(dyn Error + 'static)) {
    let mut text = format!("error: {error}\n");
    let mut source = error.source();
    while let Some(beneath) = source {
        text.push_str(&format!("  because: {beneath}\n"));
        source = beneath.source();
    }
    say(&text);
}

pub(crate) fn say(text: &str) {
    // If standard error is gone, the exit code has to do.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
