//! The status page, in a browser.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Browser, Part, Screen, eventually, proxy};
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::world;

/// Where pictures are left for people to look at.
fn pictures() -> Result<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pictures");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_shows_everything_on_a_desk_and_on_a_phone_and_loads_nothing() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().agents(2).target(host.local_addr()?).start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let refused = proxy::connect(world.proxy_addr(), "10.0.0.1:80").await?.refused()?;
    let address = world.admin(Part::Server).await?;
    for (name, screen) in [("desk", Screen::Desktop(1280, 900)), ("phone", Screen::Phone(390, 844))] {
        let browser = Browser::start(screen).await?;
        let url = format!("http://{address}/");
        // The plot needs two looks at the totals.
        eventually("a throughput plot", SOON, async || {
            browser.open(&url).await?;
            let plots = browser.run("return document.querySelectorAll('svg').length").await?;
            Ok((plots.as_u64() >= Some(1)).then_some(()))
        })
        .await?;
        browser.screenshot(&pictures()?.join(format!("status-{name}.png"))).await?;
        let text = browser.run("return document.body.innerText").await?;
        let text = text.as_str().context("a text")?;
        for wanted in ["acme", "frontend", "Throughput", "Sessions", "Refusals by cause", "notAllowed", "left"] {
            ensure!(text.contains(wanted), "{name}: no {wanted:?} in\n{text}");
        }
        let whole = browser.run("return document.documentElement.outerHTML").await?;
        for request in [&refused.request_id, &pair.request_id] {
            ensure!(whole.as_str().is_some_and(|whole| whole.contains(request.as_str())), "{name}: no {request}");
        }
        let overflow = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await?;
        ensure!(overflow.as_i64() <= Some(0), "{name}: {overflow} pixels stand out to the right");
        let scripts = browser.run("return document.scripts.length").await?;
        ensure!(scripts == 0, "{name}: {scripts} scripts");
        let complaints = browser.complaints().await?;
        ensure!(complaints.is_empty(), "{name}: {complaints:?}");
        // The browser's own first page is made of chrome:// addresses, which are on no network.
        let asked = browser.requests().await?;
        let on_a_network = |asked: &&String| !asked.starts_with("chrome://") && !asked.starts_with("data:");
        let foreign: Vec<_> = asked.iter().filter(on_a_network).filter(|asked| !asked.starts_with(&url)).collect();
        ensure!(foreign.is_empty() && asked.contains(&url), "{name}: {foreign:?}");
    }
    pair.exchange().await?;
    world.finish(&[])
}
