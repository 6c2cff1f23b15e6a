//! `ginnel check`: every fault is caused for real and found at its own step.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, output};
use ginnel_testkit::hosts::{Authority, TcpHost, nobody};
use ginnel_testkit::outlet::Outlet;
use ginnel_testkit::{Daemon, World, proxy};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world;

mod faults;

/// What a check said, and its exit code.
struct Checked {
    code: Option<i32>,
    steps: Vec<Value>,
}

impl Checked {
    async fn of(command: Command) -> Result<Self> {
        let output = output(command).await?;
        let steps = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        Ok(Self { code: output.status.code(), steps })
    }

    fn step(&self, name: &str) -> Result<&Value> {
        self.steps.iter().find(|step| step["step"] == name).with_context(|| format!("no {name} in {:?}", self.steps))
    }

    /// Checks that nothing failed, and that these steps passed.
    fn passes(&self, steps: &[&str]) -> Result<()> {
        ensure!(self.code == Some(0), "{:?}: {:#?}", self.code, self.steps);
        for name in steps {
            ensure!(self.step(name)?["result"] == "PASS", "{name}: {:#?}", self.steps);
        }
        Ok(())
    }

    /// Checks that this step failed and no other, that its evidence or advice has these words, and that `later` was skipped.
    fn fails_at(&self, name: &str, words: &[&str], later: &str) -> Result<()> {
        let failed: Vec<_> = self.steps.iter().filter(|step| step["result"] == "FAIL").collect();
        ensure!(self.code == Some(1) && failed.len() == 1 && failed[0]["step"] == name, "{name}: {:#?}", self.steps);
        ensure!(failed[0]["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{:?}", failed[0]);
        for word in words {
            ensure!(failed[0].to_string().contains(word), "no {word:?} in {:?}", failed[0]);
        }
        ensure!(self.step(later)?["result"] == "SKIP", "{later}: {:#?}", self.steps);
        Ok(())
    }
}

/// Writes a variant of the world's configuration of a role.
fn variant(world: &World, role: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
    let directory = world.directory();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(directory.join(format!("{role}.yaml")))?)?;
    change(&mut config);
    let path = directory.join(format!("{role}-variant.yaml"));
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}

fn check(world: &World, role: &str, config: &Path, target: Option<&str>) -> Command {
    let mut check = world.ginnel();
    check.args(["check", role, "--json", "--config"]).arg(config);
    check.args(target.into_iter().flat_map(|target| ["--target", target]));
    check
}

#[tokio::test(flavor = "multi_thread")]
async fn a_world_that_works_passes_every_step() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let world = world().target(&target).start().await?;
    let common = ["config", "files", "dns", "tcp", "tls", "clock", "credential", "enrolment", "certificate", "policy"];
    for role in ["agent", "client"] {
        let config = world.directory().join(format!("{role}.yaml"));
        Checked::of(check(&world, role, &config, Some(&target))).await?.passes(&common)?;
    }
    let agent = check(&world, "agent", &world.directory().join("agent.yaml"), Some(&target));
    Checked::of(agent).await?.passes(&["target"])?;
    let server = check(&world, "server", &world.directory().join("server.yaml"), None);
    Checked::of(server).await?.passes(&["config", "issuer", "audit", "keys", "listen", "clock"])?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_at_its_own_step() -> Result<()> {
    let host = TcpHost::echo().await?;
    let (_held, silent) = nobody()?;
    let world = world().target(host.address()).allow_only(silent).start().await?;
    let run = async |change: &dyn Fn(&mut Value), target: Option<&str>| {
        let config = variant(&world, "agent", |config| change(config))?;
        Checked::of(check(&world, "agent", &config, target)).await
    };

    let closed = run(&|config| config["server"]["address"] = json!(silent), None).await?;
    closed.fails_at("tcp", &["refused", &silent.port().to_string()], "tls")?;
    let nameless = run(&|config| config["server"]["address"] = json!("no-such-host.invalid:443"), None).await?;
    nameless.fails_at("dns", &["no-such-host.invalid"], "tcp")?;
    let other_name = run(&|config| config["server"]["name"] = json!("other.acme.example"), None).await?;
    other_name.fails_at("tls", &["server.name", "other.acme.example", "tunnel.acme.example"], "enrolment")?;
    let other_key = |config: &mut Value| config["credential"]["serviceAccountKeyFile"] = json!("client.json");
    run(&other_key, None).await?.fails_at("certificate", &["client", "frontend"], "target")?;
    let no_key = |config: &mut Value| config["credential"]["serviceAccountKeyFile"] = json!("gone.json");
    run(&no_key, None).await?.fails_at("files", &["gone.json"], "enrolment")?;
    let unlisted = "10.1.2.3:443";
    run(&|_| (), Some(unlisted)).await?.fails_at("policy", &[unlisted], "target")?;
    let unreached = run(&|_| (), Some(&silent.to_string())).await?;
    unreached.fails_at("target", &["connectionRefused"], "proxy")?;

    let client = variant(&world, "client", |_| ())?;
    Checked::of(check(&world, "client", &client, Some(unlisted))).await?.fails_at("policy", &[unlisted], "target")?;
    let missing = output(check(&world, "agent", Path::new("gone.yaml"), None)).await?;
    ensure!(missing.status.code() == Some(2), "{missing:?}");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_leads_through_a_proxy_with_the_right_password_only() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().agents(0).target(host.address()).start().await?;
    let foreign = tempfile::tempdir()?;
    let authority = Authority::create(foreign.path())?;
    let plain = Outlet::start("acme", "sesame", None).await?;
    let tls = Outlet::start("acme", "sesame", Some(&authority)).await?;
    for (file, word) in [("right", "sesame\n"), ("wrong", "hunter2")] {
        let path = world.directory().join(file);
        std::fs::write(&path, word)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    let http = json!({"url": format!("http://{}", plain.address()), "username": "acme", "passwordFile": "right"});
    let https = json!({
        "url": format!("https://localhost:{}", tls.address().port()), "trust": authority.root, "username": "acme",
        "passwordFile": "right",
    });
    let with = |proxy: &Value| variant(&world, "agent", |config| config["server"]["proxy"] = proxy.clone());

    Checked::of(check(&world, "agent", &with(&http)?, None)).await?.passes(&["proxy", "tls", "enrolment"])?;
    let mut wrong = http.clone();
    wrong["passwordFile"] = json!("wrong");
    let checked = Checked::of(check(&world, "agent", &with(&wrong)?, None)).await?;
    checked.fails_at("proxy", &["407", "passwordFile"], "tls")?;
    ensure!(!format!("{:?}", checked.steps).contains("hunter2"), "{:?}", checked.steps);
    let bare = json!({"url": http["url"]});
    let checked = Checked::of(check(&world, "agent", &with(&bare)?, None)).await?;
    checked.fails_at("proxy", &["407", "username"], "tls")?;
    let mut untrusted = https.clone();
    untrusted["trust"] = json!("ca/server-root.pem");
    let checked = Checked::of(check(&world, "agent", &with(&untrusted)?, None)).await?;
    checked.fails_at("proxy", &["TLS with the proxy", "server.proxy.trust"], "tls")?;
    let (_held, silent) = nobody()?;
    let nowhere = variant(&world, "agent", |config| {
        config["server"]["proxy"] = http.clone();
        config["server"]["address"] = json!(silent);
    })?;
    Checked::of(check(&world, "agent", &nowhere, None)).await?.fails_at("proxy", &["502", "CONNECT"], "tls")?;
    let mut bypassed = bare;
    bypassed["noProxy"] = json!(["127.0.0.0/8"]);
    let checked = Checked::of(check(&world, "agent", &with(&bypassed)?, None)).await?;
    checked.passes(&["tls"])?;
    ensure!(checked.step("proxy")?["result"] == "SKIP", "{:?}", checked.steps);

    for (proxy, outlet) in [(http, &plain), (https, &tls)] {
        let before = outlet.opened();
        let mut agent = world.ginnel();
        agent.args(["agent", "--log-format", "json", "--config"]).arg(with(&proxy)?);
        let mark = world.client.mark();
        let mut agent = Daemon::spawn("agent behind a proxy", agent)?;
        world.roster(mark, 1).await?;
        let mark = world.client.mark();
        proxy::connect(world.proxy_addr(), &host.address().to_string()).await?.opened()?;
        ensure!(outlet.opened() > before, "nothing went through the proxy");
        agent.check()?;
        agent.kill().await?;
        world.roster(mark, 0).await?;
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skewed_clock_is_named_with_its_side_and_amount() -> Result<()> {
    let world = world().agents(0).target("10.0.0.1:443").start().await?;
    for (offset, words) in [("-2d", ["not yet valid", "behind"]), ("+2d", ["has expired", "ahead"])] {
        let mut skewed = command("faketime", world.directory());
        skewed.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").args(["-f", offset]);
        skewed.arg(world.binary()).args(["check", "agent", "--json", "--config"]);
        skewed.arg(world.directory().join("agent.yaml"));
        let checked = Checked::of(skewed).await?;
        let clock = checked.step("clock")?;
        ensure!(checked.code == Some(1) && clock["result"] == "FAIL", "{:#?}", checked.steps);
        for word in words {
            ensure!(clock.to_string().contains(word), "{clock}");
        }
        ensure!(checked.step("enrolment")?["result"] == "SKIP", "{:#?}", checked.steps);
    }
    world.finish(&[])
}
