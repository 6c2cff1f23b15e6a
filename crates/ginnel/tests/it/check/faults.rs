//! What a person reads when something is wrong: each kind of fault is caused for real, and what the commands say of it is kept.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, succeed};
use ginnel_testkit::hosts::{Authority, TcpHost, nobody};
use ginnel_testkit::outlet::Outlet;
use ginnel_testkit::world::Part;
use ginnel_testkit::{Inspector, World, proxy};
use serde_json::{Value, json};

use crate::transcript::{Said, Transcript};
use crate::world;

/// What resolvers say of a name that is not there, or where they reach nobody who would know.
const NO_SUCH_NAME: [&str; 4] = [
    "failed to lookup address information: Name or service not known",
    "failed to lookup address information: No address associated with hostname",
    "failed to lookup address information: Temporary failure in name resolution",
    "no answer in time",
];

/// A world, and what is put down of it.
struct Told {
    world: World,
    transcript: Transcript,
}

impl Told {
    fn of(world: World) -> Self {
        let mut transcript = Transcript::of(&world);
        for said in NO_SUCH_NAME {
            transcript.name(said, "NO-SUCH-NAME");
        }
        // Some machines know localhost under both of its addresses.
        for both in ["::1, 127.0.0.1", "127.0.0.1, ::1"] {
            transcript.name(both, "127.0.0.1");
        }
        let mut told = Self { world, transcript };
        told.name(told.world.server_addr(), "SERVER");
        told
    }

    /// Names an address, and its port where that stands alone.
    fn name(&mut self, address: SocketAddr, name: &str) {
        self.transcript.name(address, name);
        self.transcript.name(format!("port {}", address.port()), "port PORT");
        self.transcript.name(format!("localhost:{}", address.port()), "localhost:PORT");
        self.transcript.name(format!("on {}", address.port()), "on PORT");
    }

    /// Writes the configuration of a role as a file of this name, changed.
    fn config(&self, role: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        let directory = self.world.directory();
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(directory.join(format!("{role}.yaml")))?)?;
        change(&mut config);
        let path = directory.join(format!("{role}-{name}.yaml"));
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Checks a role whose configuration differs from that of the world.
    async fn check_changed(&mut self, role: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let config = self.config(role, name, change)?.display().to_string();
        self.run(&["check", role, "--config", &config], 1).await.map(drop)
    }

    /// Checks a role as the world runs it.
    async fn check(&mut self, role: &str, more: &[&str], code: i32) -> Result<Said> {
        let config = self.world.directory().join(format!("{role}.yaml")).display().to_string();
        self.run(&[&["check", role, "--config", &config], more].concat(), code).await
    }

    /// Checks a role on a machine whose clock is so far away.
    async fn check_at(&mut self, role: &str, offset: &str) -> Result<Said> {
        let mut skewed = command("faketime", self.world.directory());
        skewed.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1").args(["-f", offset]);
        skewed.arg(self.world.binary()).args(["check", role, "--config"]);
        skewed.arg(self.world.directory().join(format!("{role}.yaml")));
        let shown = format!("faketime -f {offset} ginnel check {role} --config DIR/{role}.yaml");
        let said = self.transcript.run_as(&shown, skewed).await?;
        ensure!(said.code == Some(1), "{shown}: {:?}\n{}", said.code, said.stdout);
        Ok(said)
    }

    async fn run(&mut self, args: &[&str], code: i32) -> Result<Said> {
        let said = self.transcript.run(&self.world, args).await?;
        ensure!(said.code == Some(code), "{args:?}: exit code {:?}\n{}", said.code, said.stdout);
        Ok(said)
    }

    /// Asks the audit log as the advice of a check says that its owner should, once it has so many refused enrolments.
    async fn as_advised(&mut self, checked: &Said, refused: usize) -> Result<()> {
        // A refusal is answered before its record is on the disk.
        let count = |log: &[Value]| log.iter().filter(|record| record["event"] == "enrolmentRefused").count();
        self.world.audit_until("the refused enrolments in the audit", |log| count(log) >= refused).await?;
        let advice = checked.stdout.split_once("(ginnel audit ").and_then(|(_, rest)| rest.split_once(" DIRECTORY)"));
        let (words, _) = advice.with_context(|| format!("no advice in {}", checked.stdout))?;
        let audit = self.world.directory().join("audit").display().to_string();
        let args: Vec<_> = ["audit"].into_iter().chain(words.split(' ')).chain([audit.as_str()]).collect();
        let mut show = self.world.ginnel();
        show.args(&args);
        // How many other records there are is for chance to say.
        self.transcript.put(&format!("ginnel {}", args.join(" ")), &format!("{}\n", succeed(show).await?));
        Ok(())
    }

    /// How a request for `target` is refused, and what those say who are asked about it.
    async fn refused(&mut self, target: SocketAddr) -> Result<()> {
        let refused = proxy::connect(self.world.proxy_addr(), &target.to_string()).await?.refused()?;
        self.transcript.name(&refused.request_id, "REQUEST");
        self.transcript.put(&format!("CONNECT {target}"), &format!("{}\n{}", refused.status, refused.body));
        let mut admins = Vec::new();
        for (part, name) in [(Part::Client, "CLIENT-ADMIN"), (Part::Server, "SERVER-ADMIN")] {
            let admin = self.world.admin(part).await?;
            self.transcript.name(admin, name);
            admins.push(admin.to_string());
        }
        self.run(&["explain", &refused.request_id, "--admin", &admins.join(",")], 0).await?;
        Ok(())
    }

    /// What the rules say of the world's client and `target`.
    async fn policy(&mut self, target: SocketAddr, code: i32) -> Result<()> {
        let admin = self.world.admin(Part::Server).await?.to_string();
        self.run(&["policy", "test", "frontend", &target.to_string(), "--admin", &admin], code).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wrong() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut told = Told::of(world().target(host.address()).start().await?);
    told.name(host.address(), "TARGET");
    let target = host.address().to_string();
    for role in ["agent", "client"] {
        told.check(role, &["--target", &target], 0).await?;
    }
    told.check("server", &[], 0).await?;
    told.check("agent", &["--target", &target, "--json"], 0).await?;
    told.transcript.is_golden("check-works.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_is_closed() -> Result<()> {
    let (_held, silent) = nobody()?;
    let mut told = Told::of(world().agents(0).target("git.acme.example:443").start().await?);
    told.name(silent, "NOBODY");
    for role in ["agent", "client"] {
        told.check_changed(role, "closed-port", |config| config["server"]["address"] = json!(silent)).await?;
    }
    told.transcript.is_golden("check-closed-port.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_is_not_there() -> Result<()> {
    let mut told = Told::of(world().agents(0).target("git.acme.example:443").start().await?);
    let nameless = json!("no-such-host.invalid:443");
    for role in ["agent", "client"] {
        told.check_changed(role, "no-name", |config| config["server"]["address"] = nameless.clone()).await?;
    }
    told.transcript.note("the name of a proxy");
    let proxy = json!({"url": "http://no-such-proxy.invalid:3128"});
    told.check_changed("agent", "no-proxy-name", |config| config["server"]["proxy"] = proxy).await?;
    told.transcript.is_golden("check-no-name.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_wrong() -> Result<()> {
    let mut told = Told::of(world().agents(0).target("git.acme.example:443").start().await?);
    let foreign = tempfile::tempdir()?;
    let authority = Authority::create(foreign.path())?;
    let plain = Outlet::start("acme", "sesame", None).await?;
    let tls = Outlet::start("acme", "sesame", Some(&authority)).await?;
    let other = TcpHost::echo().await?;
    let (_held, silent) = nobody()?;
    let named =
        [(plain.address(), "PROXY"), (tls.address(), "TLS-PROXY"), (other.address(), "NO-PROXY"), (silent, "NOBODY")];
    for (address, name) in named {
        told.name(address, name);
    }
    for (file, word) in [("right", "sesame\n"), ("wrong", "hunter2")] {
        let path = told.world.directory().join(file);
        std::fs::write(&path, word)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    let url = |address: SocketAddr| format!("http://{address}");
    let with = |password: &str| json!({"url": url(plain.address()), "username": "acme", "passwordFile": password});
    let https = json!({"url": format!("https://localhost:{}", tls.address().port()), "trust": "ca/server-root.pem"});
    let cases = [
        ("agent", "password", with("wrong")),
        ("client", "password", with("wrong")),
        ("agent", "no-password", json!({"url": url(plain.address())})),
        ("agent", "closed", json!({"url": url(silent)})),
        ("agent", "no-proxy", json!({"url": url(other.address())})),
        ("agent", "root", https),
    ];
    for (role, what, proxy) in cases {
        told.check_changed(role, &format!("proxy-{what}"), |config| config["server"]["proxy"] = proxy).await?;
    }
    told.transcript.note("the proxy reaches no server there");
    let nowhere = |config: &mut Value| {
        config["server"]["proxy"] = with("right");
        config["server"]["address"] = json!(silent);
    };
    told.check_changed("agent", "proxy-nowhere", nowhere).await?;
    told.transcript.is_golden("check-wrong-proxy.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_in_the_middle_opens_tls() -> Result<()> {
    let mut told = Told::of(world().agents(0).target("git.acme.example:443").start().await?);
    let proxy = Inspector::proxy().await?;
    let in_the_way = Inspector::in_the_way_to(told.world.server_addr()).await?;
    told.name(proxy.address(), "MITMPROXY");
    told.name(in_the_way.address(), "MITMPROXY-IN-THE-WAY");
    let settings = json!({"url": format!("http://{}", proxy.address())});
    for role in ["agent", "client"] {
        told.check_changed(role, "inspecting-proxy", |config| config["server"]["proxy"] = settings.clone()).await?;
    }
    told.transcript.note("nobody said that it is there");
    let unseen = json!(in_the_way.address());
    told.check_changed("agent", "inspected", |config| config["server"]["address"] = unseen).await?;
    told.transcript.is_golden("check-inspection.txt")?;
    proxy.finish()?;
    in_the_way.finish()?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_wrong() -> Result<()> {
    let mut told = Told::of(world().agents(0).target("git.acme.example:443").start().await?);
    for (role, offset) in [("agent", "-2d"), ("client", "-2d"), ("agent", "+2d"), ("server", "-2d")] {
        told.check_at(role, offset).await?;
    }
    told.transcript.note("too little for certificates, too much for a token");
    let checked = told.check_at("agent", "+30m").await?;
    told.as_advised(&checked, 1).await?;
    told.transcript.is_golden("check-clock.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_is_not_good_any_more() -> Result<()> {
    // Without agents: one that is thrown out would try to enrol as well, and be in the audit log.
    let mut told = Told::of(world().agents(0).target("git.acme.example:443").start().await?);
    let socket = told.world.socket(Part::Server).display().to_string();
    let reload = ["reload", "--socket", &socket];
    told.transcript.note("the server has a newer public key of the client");
    std::fs::copy(told.world.directory().join("agent.pub.pem"), told.world.directory().join("newer.pub.pem"))?;
    told.world.edit("server", |config| config["identities"][1]["publicKeys"] = json!(["newer.pub.pem"]))?;
    told.run(&reload, 0).await?;
    let checked = told.check("client", &[], 1).await?;
    told.as_advised(&checked, 1).await?;
    told.transcript.note("the server does not have the agent any more");
    told.world.edit("server", |config| {
        config["rules"] = json!([]);
        config["identities"][1]["publicKeys"] = json!(["client.pub.pem"]);
        if let Some(identities) = config["identities"].as_array_mut() {
            identities.remove(0);
        }
    })?;
    told.run(&reload, 0).await?;
    let checked = told.check("agent", &[], 1).await?;
    told.as_advised(&checked, 2).await?;
    told.transcript.note("the key is that of another role");
    let other = json!("client.json");
    told.check_changed("agent", "other-key", |config| config["credential"]["serviceAccountKeyFile"] = other).await?;
    told.transcript.note("the key is gone");
    let gone = json!("gone.json");
    told.check_changed("agent", "no-key", |config| config["credential"]["serviceAccountKeyFile"] = gone).await?;
    told.transcript.is_golden("check-credential.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rule_allows_it() -> Result<()> {
    let host = TcpHost::echo().await?;
    let other = TcpHost::echo().await?;
    let mut told = Told::of(world().target(other.address()).allow_only(host.address()).start().await?);
    told.name(host.address(), "TARGET");
    told.name(other.address(), "OTHER-TARGET");
    let target = host.address().to_string();
    told.refused(host.address()).await?;
    told.check("client", &["--target", &target], 1).await?;
    told.policy(host.address(), 1).await?;
    told.transcript.note("the agent would dial it");
    told.check("agent", &["--target", &target], 0).await?;
    told.transcript.is_golden("check-no-rule.txt")?;
    told.world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_down() -> Result<()> {
    let host = TcpHost::echo().await?;
    let mut told = Told::of(world().target(host.address()).start().await?);
    told.name(host.address(), "TARGET");
    let target = host.address().to_string();
    let mark = told.world.client.mark();
    let agent = told.world.admin(Part::Agent(0)).await?;
    told.world.kill_agent(0).await.context("killing the agent")?;
    told.world.roster(mark, 0).await?;
    told.refused(host.address()).await?;
    told.check("client", &[], 1).await?;
    told.check("client", &["--target", &target], 1).await?;
    told.policy(host.address(), 0).await?;
    told.transcript.note("where the agent should run");
    told.transcript.name(agent, "AGENT-ADMIN");
    told.run(&["status", "--admin", &agent.to_string()], 1).await?;
    told.check("agent", &["--target", &target], 0).await?;
    told.transcript.is_golden("check-agent-down.txt")?;
    told.world.finish(&[Part::Agent(0)])
}
