//! Process tests: the real binary as server, agents and client, real hosts behind them, real programs in front.
#![cfg(all(feature = "server", feature = "agent", feature = "client"))]

mod admin;
mod apart;
mod audit;
mod canary;
mod cancelled;
mod cas;
mod causes;
mod check;
mod clocks;
mod commands;
mod crowd;
mod destinations;
mod disk;
mod drain;
mod endings;
mod enrolment;
mod exhaustion;
mod failover;
mod frames;
mod git;
mod google;
mod hostile;
mod http2;
mod hygiene;
mod isolation;
mod lanes;
mod lasting;
mod misuse;
mod notify;
mod observed;
mod oracle;
mod outage;
mod packages;
mod page;
mod pair;
mod plain;
mod played;
mod policy;
mod programs;
mod quotas;
mod relay;
mod reload;
mod renewal;
mod resumption;
mod revoke;
mod roles;
mod roots;
mod rotations;
mod secrecy;
mod sink;
mod soak;
mod sources;
mod tls;
mod transcript;
mod wan;
mod word;
mod workload;

/// A world of the binary under test.
fn world() -> ginnel_testkit::WorldBuilder {
    ginnel_testkit::World::builder(env!("CARGO_BIN_EXE_ginnel"))
}

/// Says a figure to whoever reads what a test prints.
#[expect(clippy::print_stdout, reason = "the test program keeps it unless a test fails or somebody asks")]
fn report(figure: impl std::fmt::Display) {
    println!("{figure}");
}
