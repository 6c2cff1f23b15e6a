//! The long path: what the tunnel does beside direct TCP when there are 40 or 100 ms between server and agent.
//!
//! Application, client and server are in one network namespace, agent and target in another, and between the two there is a line of
//! [`ginnel_testkit::link`]. A way to the target is one more [`Way`]: an entrance at the near end, and processes at either.

mod load;
mod report;
mod way;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ginnel_testkit::hosts::Asked;
use ginnel_testkit::link::{Link, Shape};

use self::load::Measurement;
use self::way::Way;
use crate::process::raise_descriptors;

/// Congestion control of every socket on the line: what Linux has by default.
const CONGESTION: &str = "cubic";

const USAGE: &str = "usage: ginnel-bench wan --ginnel PROGRAM [--out FILE] [--quick] [--rounds N] [--only TEXT]";

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// How often each way is measured; medians are reported.
    rounds: usize,
    /// How long bulk sessions find their pace before anything counts.
    warm_up: Duration,
    /// How long is counted.
    window: Duration,
    /// New sessions one after the other.
    sessions: usize,
    /// New sessions with many at once.
    sessions_many: usize,
    /// Round trips on one session.
    pings: usize,
}

impl Effort {
    /// To see that it works.
    const QUICK: Self = Self {
        rounds: 1,
        warm_up: Duration::from_millis(300),
        window: Duration::from_millis(700),
        sessions: 5,
        sessions_many: 64,
        pings: 5,
    };

    /// To have figures.
    const FULL: Self = Self {
        rounds: 3,
        warm_up: Duration::from_secs(3),
        window: Duration::from_secs(4),
        sessions: 30,
        sessions_many: 640,
        pings: 50,
    };
}

/// One figure of one round.
#[derive(Clone, Debug)]
struct Figure {
    name: String,
    /// `None` where the way has no such thing.
    value: Option<f64>,
}

/// Runs the bench that `words` describe.
pub(crate) fn main(words: &[String]) -> Result<()> {
    let (mut ginnel, mut out, mut effort, mut only) = (None, None, Effort::FULL, String::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ginnel" => ginnel = words.next().map(PathBuf::from),
            "--out" => out = words.next().map(PathBuf::from),
            "--quick" => effort = Effort::QUICK,
            "--rounds" => effort.rounds = words.next().and_then(|word| word.parse().ok()).context(USAGE)?,
            // A part of what is said on the way, such as "100 ms, 0 % loss, 1 up".
            "--only" => only = words.next().context(USAGE)?.clone(),
            _ => bail!("{word}: {USAGE}"),
        }
    }
    // The processes have a directory of their own.
    let ginnel = ginnel.context(USAGE)?;
    let ginnel = ginnel.canonicalize().with_context(|| ginnel.display().to_string())?;
    raise_descriptors(crate::DESCRIPTORS)?;
    let mut rounds: [Vec<Vec<Figure>>; Way::ALL.len()] = Default::default();
    for round in 1..=effort.rounds {
        let mut all: [Vec<Figure>; Way::ALL.len()] = Default::default();
        for (shape, measurements) in plan() {
            let named = |measurement: &&Measurement| format!("{}, {}", report::path(&shape), measurement.name());
            for measurement in measurements.iter().filter(|measurement| named(measurement).contains(&only)) {
                // One way after the other, so that what else the machine does falls on all of them.
                for (way, figures) in Way::ALL.into_iter().zip(&mut all) {
                    let what = format!("{}, {}", way.name(), named(&measurement));
                    eprintln!("round {round} of {}: {what}", effort.rounds);
                    figures.extend(one(way, &ginnel, shape, *measurement, effort).context(what)?);
                }
            }
        }
        for (figures, rounds) in all.into_iter().zip(&mut rounds) {
            rounds.push(figures);
        }
    }
    let document = report::document(&effort, &rounds)?;
    match out {
        Some(path) => std::fs::write(&path, document).with_context(|| format!("writing {}", path.display())),
        None => {
            eprint!("{document}");
            Ok(())
        }
    }
}

/// What is measured on which path.
fn plan() -> Vec<(Shape, &'static [Measurement])> {
    use Measurement::{AfterCancelled, Bulk, Pings, SetUp};
    use load::Direction::{Down, Up};
    const BULK: &[Measurement] = &[Bulk(1, Down), Bulk(1, Up), Bulk(load::SEVERAL, Down), Bulk(load::SEVERAL, Up)];
    let shape = |millis, loss_ppm| Shape {
        round_trip: Duration::from_millis(millis),
        bytes_per_second: Shape::GIGABIT,
        loss_ppm,
        seed: 1,
        congestion: CONGESTION,
    };
    vec![
        (shape(40, 0), BULK),
        (shape(40, 1_000), BULK),
        (shape(100, 0), BULK),
        (shape(100, 0), &[SetUp(1), SetUp(load::MANY), Pings]),
        (shape(100, 1_000), BULK),
        (shape(100, 1_000), &[AfterCancelled(Down), AfterCancelled(Up)]),
    ]
}

/// Measures one thing on a new line with new processes, so that nothing is left of what was measured before.
fn one(
    way: Way,
    ginnel: &std::path::Path,
    shape: Shape,
    measurement: Measurement,
    effort: Effort,
) -> Result<Vec<Figure>> {
    let link = Link::start(shape)?;
    let listener = link.far().listener(link.far_address())?;
    link.near().block_on(|| async {
        let host = Asked::on(listener)?;
        let started = way.start(&link, ginnel, host.address()).await?;
        let values = load::measure(measurement, &started.entrance, &host, &effort).await?;
        started.finish()?;
        let named = |(name, value)| Figure { name: format!("{}: {name}", report::path(&shape)), value };
        Ok(values.into_iter().map(named).collect())
    })
}
