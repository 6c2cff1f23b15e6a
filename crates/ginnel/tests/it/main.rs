//! Process tests: the real binary as server, agents and client, real hosts behind them, real programs in front.
#![cfg(all(feature = "server", feature = "agent", feature = "client"))]

mod admin;
mod cancelled;
mod causes;
mod check;
mod commands;
mod drain;
mod endings;
mod failover;
mod git;
mod hostile;
mod lanes;
mod notify;
mod observed;
mod packages;
mod page;
mod pair;
mod plain;
mod policy;
mod relay;
mod reload;
mod renewal;
mod secrecy;
mod transcript;

/// A world of the binary under test.
fn world() -> ginnel_testkit::WorldBuilder {
    ginnel_testkit::World::builder(env!("CARGO_BIN_EXE_ginnel"))
}
