//! What a service manager hears.

use std::time::Duration;

use anyhow::{Result, ensure};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Daemon, within};
use tokio::net::UnixDatagram;

use crate::world;

/// Waits for a message that begins with `word`; what comes before it is passed over.
async fn hear(manager: &UnixDatagram, word: &str) -> Result<String> {
    let heard = async {
        let mut buffer = [0; 4096];
        loop {
            let length = manager.recv(&mut buffer).await?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(word) {
                return anyhow::Ok(text);
            }
        }
    };
    within(&format!("the service manager to hear {word}"), SOON, heard).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_of_start_reload_life_and_end() -> Result<()> {
    let world = world().target("127.0.0.1:9").start().await?;
    let socket = world.directory().join("manager.sock");
    let manager = UnixDatagram::bind(&socket)?;
    let mut command = world.ginnel();
    command.current_dir(world.directory()).args(["client", "--config", "client.yaml", "--log-format", "json"]);
    command.args(["--set", "adminSocket=notified.sock"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000");
    let mut client = Daemon::spawn("notified client", command)?;
    let ready = hear(&manager, "READY=1").await?;
    ensure!(ready.contains("\nSTATUS="), "{ready:?}");
    hear(&manager, "WATCHDOG=1").await?;
    hear(&manager, "STATUS=ready").await?;
    client.hang_up()?;
    hear(&manager, "RELOADING=1\nMONOTONIC_USEC=").await?;
    hear(&manager, "READY=1").await?;
    client.terminate()?;
    hear(&manager, "STOPPING=1").await?;
    ensure!(within("the end", Duration::from_secs(30), client.ended()).await??.success(), "the client failed");
    client.check()?;
    world.finish(&[])
}
