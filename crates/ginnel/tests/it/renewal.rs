//! Certificates that live for seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval};

use crate::world;

/// Lifetime of a certificate, how often the session says something, and how often it does: five lifetimes.
const LIFETIME: &str = "5s";
const PACE: Duration = Duration::from_millis(200);
const EXCHANGES: u32 = 125;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_many_lifetimes_carries_on() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let world = world().target(&target).certificate_lifetime(LIFETIME).start().await?;
    let mut session = proxy::connect(world.proxy_addr(), &target).await?.opened()?.stream;

    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0..EXCHANGES {
        ticks.tick().await;
        session.write_all(&number.to_be_bytes()).await?;
        ensure!(session.read_u32().await? == number, "exchange {number}");
        if number.is_multiple_of(25) {
            proxy::connect(world.proxy_addr(), &target).await?.opened()?;
        }
    }

    for role in ["agent", "client"] {
        let serials: BTreeSet<String> = world
            .audit_of("enrolled")?
            .iter()
            .filter(|record| record["principal"].as_str().is_some_and(|uri| uri.contains(&format!("/{role}/"))))
            .map(|record| record["serial"].to_string())
            .collect();
        ensure!(serials.len() >= 4, "{role}: {serials:?}");
    }
    let rosters: Vec<_> = world.client.said("roster received").iter().map(|line| line["agents"].clone()).collect();
    let first_full = rosters.iter().position(|agents| agents == 1).unwrap_or(0);
    ensure!(rosters[first_full..].iter().all(|agents| *agents != 0), "the link went away: {rosters:?}");
    let refused = world.audit_of("refused")?;
    ensure!(refused.is_empty(), "{refused:?}");
    world.finish(&[])
}
