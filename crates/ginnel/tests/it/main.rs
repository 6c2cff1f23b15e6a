//! Process tests: the real binary as server, agents and client, real hosts behind them, real programs in front.
#![cfg(all(feature = "server", feature = "agent", feature = "client"))]

mod cancelled;
mod check;
mod endings;
mod failover;
mod git;
mod hostile;
mod packages;
mod pair;
mod policy;
mod relay;
mod renewal;
mod secrecy;

/// A world of the binary under test.
fn world() -> ginnel_testkit::WorldBuilder {
    ginnel_testkit::World::builder(env!("CARGO_BIN_EXE_ginnel"))
}
