//! Clone and push of a large repository by every way that git has into the tunnel.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use ginnel_testkit::World;
use ginnel_testkit::command::{git, succeed};
use ginnel_testkit::hosts::repository::fsck;
use ginnel_testkit::hosts::{GitDaemon, Nginx, Repository, Sshd};
use tempfile::TempDir;
use tokio::process::Command;

use crate::world;

/// Content of the repository that is cloned, and of the one that is pushed.
const SIZE: usize = 52 << 20;

/// What is on the code host, and what is pushed to it.
struct Content {
    served: Repository,
    mine: Repository,
    home: TempDir,
}

impl Content {
    async fn create(repositories: &Path) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let served = Repository::create(repositories, "big.git", SIZE, 1).await?;
        let mine = Repository::create(home.path(), "mine.git", SIZE, 2).await?;
        Ok(Self { served, mine, home })
    }

    /// Clones from `url` and pushes another history to it, and compares object ids and the audit's byte counts.
    async fn clone_and_push(&self, world: &World, url: &str, settings: impl Fn(&mut Command)) -> Result<()> {
        let home = self.home.path();
        let cloned = home.join("cloned.git");
        let mut clone = git(home);
        settings(&mut clone);
        clone.args(["clone", "--quiet", "--bare", url]).arg(&cloned);
        succeed(clone).await?;
        fsck(&cloned).await?;
        let mut parse = git(home);
        parse.arg("-C").arg(&cloned).args(["rev-parse", "main"]);
        ensure!(succeed(parse).await? == self.served.object_id("main").await?, "another commit was cloned");

        let mut push = git(home);
        settings(&mut push);
        push.arg("-C").arg(self.mine.path()).args(["push", "--quiet", url, "main:pushed"]);
        succeed(push).await?;
        ensure!(
            self.served.object_id("pushed").await? == self.mine.object_id("main").await?,
            "another commit was pushed"
        );
        self.served.fsck().await?;

        let enough = |field: &'static str| {
            move |records: &[serde_json::Value]| {
                let ended = records.iter().filter(|record| record["event"] == "ended");
                ended.filter_map(|record| record[field].as_u64()).sum::<u64>() >= SIZE as u64
            }
        };
        world.audit_until("the audit to count the clone", enough("bytesDown")).await?;
        world.audit_until("the audit to count the push", enough("bytesUp")).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_https_through_http_connect() -> Result<()> {
    let host = Nginx::start().await?;
    let content = Content::create(&host.repositories()).await?;
    let world = world().target(host.https()).start().await?;
    let url = format!("https://{}/git/big.git", host.https());
    let proxy = format!("http.proxy=http://{}", world.proxy_addr());
    let root = format!("http.sslCAInfo={}", host.authority.root.display());
    content
        .clone_and_push(&world, &url, |git| {
            git.args(["-c", &proxy, "-c", &root]);
        })
        .await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_https_through_socks_named_by_the_environment() -> Result<()> {
    let host = Nginx::start().await?;
    let content = Content::create(&host.repositories()).await?;
    let world = world().target(host.https()).start().await?;
    let url = format!("https://{}/git/big.git", host.https());
    let proxy = format!("socks5h://{}", world.proxy_addr());
    let root = format!("http.sslCAInfo={}", host.authority.root.display());
    content
        .clone_and_push(&world, &url, |git| {
            git.env("ALL_PROXY", &proxy).args(["-c", &root]);
        })
        .await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_https_through_a_forward() -> Result<()> {
    let host = Nginx::start().await?;
    let content = Content::create(&host.repositories()).await?;
    let world = world().forward(host.https()).start().await?;
    let url = format!("https://{}/git/big.git", world.forward_addr(0)?);
    let root = format!("http.sslCAInfo={}", host.authority.root.display());
    content
        .clone_and_push(&world, &url, |git| {
            git.args(["-c", &root]);
        })
        .await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_ssh_through_ginnel_connect() -> Result<()> {
    let host = Sshd::start().await?;
    let repositories = tempfile::tempdir()?;
    let content = Content::create(repositories.path()).await?;
    let world = world().target(host.address()).start().await?;
    let url = host.url(host.address(), content.served.path());
    let connect = format!("{} connect %h %p --proxy {}", world.binary().display(), world.proxy_addr());
    let ssh = host.ssh(&format!("-o 'ProxyCommand={connect}'"));
    content
        .clone_and_push(&world, &url, |git| {
            git.env("GIT_SSH_COMMAND", &ssh);
        })
        .await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_ssh_through_a_forward() -> Result<()> {
    let host = Sshd::start().await?;
    let repositories = tempfile::tempdir()?;
    let content = Content::create(repositories.path()).await?;
    let world = world().forward(host.address()).start().await?;
    let url = host.url(world.forward_addr(0)?, content.served.path());
    let ssh = host.ssh("");
    content
        .clone_and_push(&world, &url, |git| {
            git.env("GIT_SSH_COMMAND", &ssh);
        })
        .await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_the_git_protocol_through_a_forward() -> Result<()> {
    let host = GitDaemon::start().await?;
    let content = Content::create(&host.repositories()).await?;
    let world = world().forward(host.address()).start().await?;
    let url = format!("git://{}/big.git", world.forward_addr(0)?);
    content.clone_and_push(&world, &url, |_| {}).await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn carries_the_git_protocol_through_ginnel_connect() -> Result<()> {
    let host = GitDaemon::start().await?;
    let content = Content::create(&host.repositories()).await?;
    let world = world().target(host.address()).start().await?;
    let url = format!("git://{}/big.git", host.address());
    // git gives host and port to the program that this names, and no other words.
    let connect = world.directory().join("connect");
    let script =
        format!("#!/bin/sh\nexec {} connect --proxy {} \"$@\"\n", world.binary().display(), world.proxy_addr());
    std::fs::write(&connect, script)?;
    std::fs::set_permissions(&connect, std::fs::Permissions::from_mode(0o755))?;
    let setting = format!("core.gitProxy={}", connect.display());
    content
        .clone_and_push(&world, &url, |git| {
            git.args(["-c", &setting]);
        })
        .await?;
    host.finish()?;
    world.finish(&[])
}
