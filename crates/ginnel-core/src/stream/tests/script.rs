//! Scripts: what applications, carriers and misfortune do, in any order. A pause is a stretch in which something is not done.

use std::hash::{BuildHasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::limits::DATA_MAX;
use crate::relay::Side;

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Write(Side, usize),
    Read(Side, usize),
    Finish(Side),
    /// The application closes its connection: a reset if it left bytes unread, otherwise an end of file, and a reset once more bytes come.
    Close(Side),
    Reset(Side),
    /// An end hands frames of at most so many bytes to its carrier, so many of them.
    Send(Side, usize, usize),
    /// The middle takes frames from one side.
    Take(Side, usize),
    /// The middle hands frames to one side's carrier.
    Give(Side, usize, usize),
    /// An end takes frames from its carrier.
    Deliver(Side, usize),
    /// One side's carrier is lost; so many frames under way still arrive, to the middle and from it.
    Cut(Side, usize, usize),
}

/// What may go wrong in a script.
#[derive(Clone, Copy)]
pub(crate) enum Faults {
    None,
    ResetsAndCuts,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Agent)]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0_usize..4, 3 => 1_usize..6_000, 2 => 1_usize..400_000]
}

fn frame_max() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0_usize..4, 2 => 1_usize..5_000, 4 => Just(DATA_MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    let count = 1_usize..8;
    prop_oneof![
        12 => (side(), size()).prop_map(|(side, len)| Op::Write(side, len)),
        10 => (side(), size()).prop_map(|(side, max)| Op::Read(side, max)),
        1 => side().prop_map(Op::Finish),
        12 => (side(), frame_max(), count.clone()).prop_map(|(side, max, count)| Op::Send(side, max, count)),
        12 => (side(), count.clone()).prop_map(|(side, count)| Op::Take(side, count)),
        12 => (side(), frame_max(), count.clone()).prop_map(|(side, max, count)| Op::Give(side, max, count)),
        12 => (side(), count).prop_map(|(side, count)| Op::Deliver(side, count)),
    ]
}

fn fault() -> impl Strategy<Value = Op> {
    prop_oneof![
        side().prop_map(Op::Reset),
        side().prop_map(Op::Close),
        (side(), 0_usize..6, 0_usize..6).prop_map(|(side, out, back)| Op::Cut(side, out, back)),
        side().prop_map(Op::Finish),
    ]
}

/// Scripts that each property is tried on, unless `PROPTEST_CASES` says how many.
const SCRIPTS: u32 = 1500;

/// What proptest has where nobody said how many.
const PROPTESTS_OWN_CASES: u32 = 256;

/// How the properties are tried. The seed is said before, so that `PROPTEST_RNG_SEED` with as many scripts tries the same ones again.
pub(crate) fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if default.cases == PROPTESTS_OWN_CASES { SCRIPTS } else { default.cases };
    let seed = match default.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(cases),
    };
    println!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}");
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..default }
}

/// Scripts of up to two hundred steps; with faults, most have one or two.
pub(crate) fn scripts(faults: Faults) -> BoxedStrategy<Vec<Op>> {
    match faults {
        Faults::None => vec(op(), 0..200).boxed(),
        Faults::ResetsAndCuts => vec(prop_oneof![50 => op(), 1 => fault()], 0..200).boxed(),
    }
}
