//! Sessions that are opened, used for one byte, and left alone.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::load::{Effort, Outcome, SESSION_DEADLINE, Subject, echoed, number};
use crate::process::resident_kib;
use crate::workload::Metric;

/// Sessions that are opened at once: enough to keep both ends busy, few enough for every peer's queue of new connections.
const AT_ONCE: usize = 8;

/// The longest that opening may take. What some peers need for a session grows with how many there are.
const OPENING_MAX: Duration = Duration::from_secs(150);

pub(super) async fn run(subject: Subject<'_>, effort: &Effort) -> Result<Outcome> {
    // What a process sets up once, with the first session, is not a session's.
    drop(echoed(subject.entrance).await?);
    sleep(effort.rest).await;
    let before = resident_kib(subject.processes)?;
    let [few, many] = effort.idle;
    let mut held = Vec::with_capacity(many);
    let mut grown = async |metric, count| {
        let opened = timeout(OPENING_MAX, open(subject, &mut held, count)).await;
        opened
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("{} of {count} sessions were open", held.len()))?;
        sleep(effort.rest).await;
        let after = resident_kib(subject.processes)?;
        anyhow::Ok(subject.per(metric, &before, &after, number(count)))
    };
    let few = grown(Metric::MemoryFew, few).await?;
    Ok(match grown(Metric::MemoryMany, many).await {
        Ok(many) => Outcome { figures: vec![many, few], flaw: None },
        Err(error) => Outcome { figures: vec![few], flaw: Some(format!("{error:#}")) },
    })
}

async fn open(subject: Subject<'_>, held: &mut Vec<TcpStream>, count: usize) -> Result<()> {
    let entrance = subject.entrance;
    let mut opening = JoinSet::new();
    while held.len() < count {
        while opening.len() < AT_ONCE && held.len() + opening.len() < count {
            opening.spawn(async move { timeout(SESSION_DEADLINE, echoed(entrance)).await? });
        }
        held.push(opening.join_next().await.context("a session that is being opened")???);
    }
    Ok(())
}
