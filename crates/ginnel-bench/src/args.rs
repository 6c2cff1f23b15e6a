//! What the bench is told.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::way::Way;
use crate::workload::Workload;

/// How it is called.
pub(crate) const USAGE: &str = "usage: ginnel-bench --ginnel PROGRAM [--tools DIRECTORY] [--out FILE] [--quick] [--rounds N] [--way NAME]... [--only WORKLOAD]...";

/// What to measure, and where the answer goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// The tunnel's program.
    pub(crate) ginnel: PathBuf,
    /// Where programs lie that were built for the bench.
    pub(crate) tools: PathBuf,
    /// Where the document goes; without it, it is printed.
    pub(crate) out: Option<PathBuf>,
    /// Only to see that it works.
    pub(crate) quick: bool,
    /// How many rounds, unless as many as usual.
    pub(crate) rounds: Option<usize>,
    /// The ways, in the order of the document.
    pub(crate) ways: Vec<Way>,
    /// The workloads, in the order of the document.
    pub(crate) workloads: Vec<Workload>,
}

/// Reads the words of a command line.
pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
    let mut args = Args::default();
    let mut ginnel = None;
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} what? {USAGE}"));
        match word.as_str() {
            "--ginnel" => ginnel = Some(PathBuf::from(value()?)),
            "--tools" => args.tools = PathBuf::from(value()?),
            "--out" => args.out = Some(PathBuf::from(value()?)),
            "--rounds" => args.rounds = Some(value()?.parse().context("--rounds wants a number")?),
            "--way" => args.ways.push(Way::parse(&value()?)?),
            "--only" => args.workloads.push(Workload::parse(&value()?)?),
            "--quick" => args.quick = true,
            _ => bail!("{word}: {USAGE}"),
        }
    }
    args.ginnel = ginnel.context(USAGE)?;
    if args.ways.is_empty() {
        args.ways.extend(Way::ALL);
    }
    if args.workloads.is_empty() {
        args.workloads.extend(Workload::ALL);
    }
    args.ways.sort_unstable();
    args.ways.dedup();
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args> {
        parse(line.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn everything_is_measured_unless_something_is_chosen() {
        let all = parsed("--ginnel g").unwrap();
        assert_eq!((all.ways.len(), all.workloads.len()), (Way::ALL.len(), Workload::ALL.len()));
        let some = parsed("--ginnel g --way tunnel --way relay-2 --way tunnel --only ping --rounds 2").unwrap();
        assert_eq!(some.ways, [Way::Relay2, Way::Tunnel]);
        assert_eq!((some.workloads, some.rounds), (vec![Workload::Ping], Some(2)));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (line, part) in [
            ("", "usage"),
            ("--ginnel g --fast", "--fast"),
            ("--ginnel g --way", "--way what?"),
            ("--ginnel g --way bus", "there are direct"),
            ("--ginnel g --rounds many", "a number"),
        ] {
            let said = format!("{:#}", parsed(line).unwrap_err());
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
