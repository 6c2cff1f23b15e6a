//! The hosts do what they are for when nothing is between them and a program.

use anyhow::{Result, ensure};
use ginnel_testkit::command::{command, git, succeed};
use ginnel_testkit::hosts::repository::fsck;
use ginnel_testkit::hosts::store::Order;
use ginnel_testkit::hosts::{
    GitDaemon, Nginx, Postgres, Redis, Repository, Rsyncd, Script, Sshd, Store, TcpHost, index,
};
use ginnel_testkit::stream::{bytes, read_to_ending};
use ginnel_testkit::{Content, Cutter, Ending};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SIZE: usize = 3 << 20;

#[tokio::test]
async fn nginx_serves_and_takes_git() -> Result<()> {
    let host = Nginx::start().await?;
    let served = Repository::create(&host.repositories(), "code.git", SIZE, 1).await?;
    let home = tempfile::tempdir()?;
    let mine = Repository::create(home.path(), "mine.git", SIZE, 2).await?;
    let root = format!("http.sslCAInfo={}", host.authority.root.display());
    let url = format!("https://{}/git/code.git", host.https());
    let cloned = home.path().join("cloned.git");
    let mut clone = git(home.path());
    clone.args(["-c", &root, "clone", "--quiet", "--bare", &url]).arg(&cloned);
    succeed(clone).await?;
    fsck(&cloned).await?;
    let mut push = git(mine.path());
    push.arg("-C").arg(mine.path()).args(["-c", &root, "push", "--quiet", &url, "main:pushed"]);
    succeed(push).await?;
    ensure!(served.object_id("pushed").await? == mine.object_id("main").await?, "another commit was pushed");
    host.finish()
}

#[tokio::test]
async fn sshd_serves_git() -> Result<()> {
    let host = Sshd::start().await?;
    let home = tempfile::tempdir()?;
    let served = Repository::create(home.path(), "code.git", SIZE, 1).await?;
    let cloned = home.path().join("cloned.git");
    let mut clone = git(home.path());
    clone.env("GIT_SSH_COMMAND", host.ssh("")).args(["clone", "--quiet", "--bare"]);
    clone.arg(host.url(host.address(), served.path())).arg(&cloned);
    succeed(clone).await?;
    fsck(&cloned).await?;
    host.finish()
}

#[tokio::test]
async fn index_serves_pip() -> Result<()> {
    let host = Nginx::start().await?;
    index::create(&host.files()).await?;
    let home = tempfile::tempdir()?;
    let mut pip = command("python3", home.path());
    pip.args(["-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]);
    pip.arg("--index-url").arg(format!("https://{}/simple", host.https()));
    pip.arg("--cert").arg(&host.authority.root).arg("--target").arg(home.path().join("installed")).arg(index::PACKAGE);
    succeed(pip).await?;
    ensure!(home.path().join("installed/acme_greeting.py").exists(), "nothing was installed");
    host.finish()
}

#[tokio::test]
async fn tcp_hosts_have_the_manners_they_are_named_after() -> Result<()> {
    let sink = TcpHost::sink().await?;
    let mut stream = TcpStream::connect(sink.address()).await?;
    stream.write_all(&bytes(1, 1000)).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer == "1000", "{answer}");

    let reset = TcpHost::reset().await?;
    let mut stream = TcpStream::connect(reset.address()).await?;
    stream.write_all(b"x").await?;
    ensure!(read_to_ending(&mut stream).await == (0, Ending::Reset), "no reset");

    let half = TcpHost::half_close().await?;
    let mut stream = TcpStream::connect(half.address()).await?;
    ensure!(read_to_ending(&mut stream).await == (0, Ending::Eof), "no end");
    stream.write_all(b"x").await?;
    Ok(())
}

#[tokio::test]
async fn cutter_carries_captures_and_cuts() -> Result<()> {
    let echo = TcpHost::echo().await?;
    let cutter = Cutter::start(echo.address()).await?;
    let mut stream = TcpStream::connect(cutter.address()).await?;
    let sent = bytes(4, 100_000);
    let mut seen = vec![0; sent.len()];
    let (mut read, mut write) = stream.split();
    let (_, written) = tokio::join!(read.read_exact(&mut seen), write.write_all(&sent));
    written?;
    ensure!(seen == sent && cutter.captured().len() == 2 * sent.len(), "other bytes");
    cutter.cut();
    ensure!(read_to_ending(&mut stream).await == (0, Ending::Reset), "no reset");
    Ok(())
}

#[tokio::test]
async fn git_daemon_and_rsync_serve_what_they_have() -> Result<()> {
    let home = tempfile::tempdir()?;
    let host = GitDaemon::start().await?;
    Repository::create(&host.repositories(), "code.git", SIZE, 3).await?;
    let mut clone = git(home.path());
    clone.args(["clone", "--quiet", "--bare", &format!("git://{}/code.git", host.address())]).arg("cloned.git");
    clone.current_dir(home.path());
    succeed(clone).await?;
    fsck(&home.path().join("cloned.git")).await?;
    host.finish()?;

    let host = Rsyncd::start().await?;
    std::fs::write(host.files().join("file"), bytes(5, SIZE))?;
    let mut pull = command("rsync", home.path());
    pull.arg(format!("rsync://{}/data/file", host.address())).arg(home.path());
    succeed(pull).await?;
    ensure!(std::fs::read(home.path().join("file"))? == bytes(5, SIZE), "another file");
    host.finish()
}

#[tokio::test]
async fn databases_answer() -> Result<()> {
    let host = Postgres::start().await?;
    ensure!(host.ask("SELECT 6 * 7").await? == "42", "another answer");
    host.finish()?;

    let host = Redis::start().await?;
    let home = tempfile::tempdir()?;
    let mut redis = command("redis-cli", home.path());
    redis.args(["-h", "127.0.0.1", "-p", &host.address().port().to_string(), "PING"]);
    ensure!(succeed(redis).await? == "PONG", "another answer");
    host.finish()
}

#[tokio::test]
async fn scripts_satisfy_their_own_clients() -> Result<()> {
    let home = tempfile::tempdir()?;
    for host in [Script::websocket().await?, Script::grpc().await?] {
        succeed(host.client(home.path(), host.address())).await?;
        host.finish()?;
    }
    Ok(())
}

#[tokio::test]
async fn store_notices_an_end_that_comes_too_early() -> Result<()> {
    let store = Store::start().await?;
    let mut whole = TcpStream::connect(store.address()).await?;
    whole.write_all(&Order::Get(7, 100_000).to_bytes()).await?;
    let mut content = Vec::new();
    whole.read_to_end(&mut content).await?;
    ensure!(content == Content::new(7, 100_000).collect::<Vec<_>>().concat(), "another content");
    store.check()?;

    let mut early = TcpStream::connect(store.address()).await?;
    early.write_all(&Order::Put(100_000).to_bytes()).await?;
    early.write_all(&content[1..]).await?;
    early.shutdown().await?;
    early.read_to_end(&mut Vec::new()).await?;
    ensure!(store.check().is_err(), "an early end was not noticed");
    Ok(())
}
