//! curl and pip against a private host.

use anyhow::{Result, ensure};
use ginnel_testkit::World;
use ginnel_testkit::command::{command, succeed};
use ginnel_testkit::hosts::{Nginx, index};
use ginnel_testkit::stream::bytes;
use tempfile::TempDir;

use crate::world;

/// A file on the host, and a directory to fetch it into.
async fn host_with_a_file() -> Result<(Nginx, Vec<u8>, TempDir)> {
    let host = Nginx::start().await?;
    let content = bytes(7, 3 << 20);
    std::fs::write(host.files().join("file.bin"), &content)?;
    Ok((host, content, tempfile::tempdir()?))
}

/// Fetches with curl and returns what arrived.
async fn curl(host: &Nginx, home: &TempDir, url: &str, proxy: &str) -> Result<Vec<u8>> {
    let file = home.path().join("fetched.bin");
    let mut curl = command("curl", home.path());
    curl.args(["--silent", "--show-error", "--fail", "--proxy", proxy, "--output"]).arg(&file);
    curl.arg("--cacert").arg(&host.authority.root).arg(url);
    succeed(curl).await?;
    Ok(std::fs::read(file)?)
}

fn allowed(world: &World) -> Result<usize> {
    Ok(world.audit_of("allowed")?.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_fetches_through_every_kind_of_proxy() -> Result<()> {
    let (host, content, home) = host_with_a_file().await?;
    let world = world().target(host.https()).target(host.http()).start().await?;
    let (https, http) = (format!("https://{}/file.bin", host.https()), format!("http://{}/file.bin", host.http()));
    let (connect, socks) = (format!("http://{}", world.proxy_addr()), format!("socks5h://{}", world.proxy_addr()));
    let ways = [(&https, &connect), (&http, &connect), (&https, &socks), (&http, &socks)];
    for (done, (url, proxy)) in ways.into_iter().enumerate() {
        let fetched = curl(&host, &home, url, proxy).await?;
        ensure!(fetched == content, "{url} by {proxy}: {} bytes", fetched.len());
        ensure!(allowed(&world)? == done + 1, "{url} by {proxy} was not carried by the tunnel");
    }
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_plain_request_on_one_connection_is_judged_on_its_own() -> Result<()> {
    let (host, _content, home) = host_with_a_file().await?;
    let (_nobody, unlisted) = ginnel_testkit::hosts::nobody()?;
    let world = world().target(host.http()).start().await?;
    let mut curl = command("curl", home.path());
    curl.args(["--silent", "--output", "/dev/null", "--output", "/dev/null", "--output", "/dev/null"]);
    curl.args(["--write-out", "%{http_code} %{num_connects} ", "--proxy", &format!("http://{}", world.proxy_addr())]);
    for address in [host.http(), unlisted, host.http()] {
        curl.arg(format!("http://{address}/file.bin"));
    }
    let codes = succeed(curl).await?;
    // The second number of each pair is how many connections curl had to make for it.
    ensure!(codes.trim() == "200 1 403 0 200 0", "{codes}");
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn pip_installs_from_a_private_index() -> Result<()> {
    let host = Nginx::start().await?;
    index::create(&host.files()).await?;
    let world = world().target(host.https()).start().await?;
    let home = tempfile::tempdir()?;
    let installed = home.path().join("installed");
    let mut pip = command("python3", home.path());
    pip.args(["-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]);
    pip.arg("--index-url").arg(format!("https://{}/simple", host.https()));
    pip.arg("--proxy").arg(format!("http://{}", world.proxy_addr()));
    pip.arg("--cert").arg(&host.authority.root).arg("--target").arg(&installed).arg(index::PACKAGE);
    succeed(pip).await?;

    let mut python = command("python3", home.path());
    python.env("PYTHONPATH", &installed).args(["-c", "import acme_greeting; print(acme_greeting.GREETING)"]);
    ensure!(succeed(python).await? == index::GREETING, "another module was installed");
    ensure!(allowed(&world)? >= 1, "nothing was carried by the tunnel");
    host.finish()?;
    world.finish(&[])
}
