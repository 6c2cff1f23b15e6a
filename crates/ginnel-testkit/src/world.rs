//! One server, some agents and one client, as processes on loopback.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::cutter::Cutter;
use crate::daemon::Daemon;
use crate::google::cas::Cas;
use crate::link::Link;
use crate::wait::{SOON, eventually};

mod apart;
mod files;

pub(crate) use self::apart::Apart;
pub use self::files::{ENROLMENT_NAME, SERVER_NAME};

/// The directory of an agent's own audit log, in a world whose agent has one.
pub const AGENT_AUDIT: &str = "agent-audit";

/// One of the processes of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The server.
    Server,
    /// The agent with this index.
    Agent(usize),
    /// The client.
    Client,
    /// The process that enrols, in a world that has one.
    Enrolment,
}

/// What a world should be like; see [`World::builder`].
#[derive(Clone, Debug)]
pub struct WorldBuilder {
    binary: PathBuf,
    agents: usize,
    rule: Vec<String>,
    allow: Vec<String>,
    forwards: Vec<String>,
    certificate_lifetime: String,
    agents_inner_tls: bool,
    client_inner_tls: bool,
    relayed: bool,
    client_key: &'static str,
    client_credential: Option<Value>,
    client_public_key: Option<String>,
    server_settings: Vec<(String, Value)>,
    enrolment_settings: Vec<(String, Value)>,
    client_settings: Vec<(&'static str, Value)>,
    agent_settings: Vec<(String, Value)>,
    grace: String,
    listen: IpAddr,
    agents_in: Option<PathBuf>,
    issued_by: Option<Issuing>,
    own_roots: bool,
    enrolment_apart: bool,
    circumstances: Vec<Circumstances>,
}

/// An issuer that is not the embedded one.
#[derive(Clone, Debug)]
struct Issuing {
    issuer: Value,
    roots: Vec<(String, String)>,
}

/// What the daemons of one role are started with.
#[derive(Clone, Debug)]
struct Circumstances {
    role: &'static str,
    /// A program that starts the daemon as itself, with arguments before the daemon's.
    starter: Vec<String>,
    environment: Vec<(String, String)>,
}

impl WorldBuilder {
    /// This many agents with the same service account, one by default.
    #[must_use]
    pub fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    /// Names `pattern` both in the server's rule and on the agents' list.
    #[must_use]
    pub fn target(self, pattern: impl ToString) -> Self {
        let pattern = pattern.to_string();
        self.rule_only(&pattern).allow_only(&pattern)
    }

    /// Names `pattern` in the server's rule.
    #[must_use]
    pub fn rule_only(mut self, pattern: impl ToString) -> Self {
        self.rule.push(pattern.to_string());
        self
    }

    /// Names `pattern` on the agents' list.
    #[must_use]
    pub fn allow_only(mut self, pattern: impl ToString) -> Self {
        self.allow.push(pattern.to_string());
        self
    }

    /// Lets the client listen on one more port that leads to `target`, which is permitted as well.
    #[must_use]
    pub fn forward(mut self, target: impl ToString) -> Self {
        self.forwards.push(target.to_string());
        self.target(target)
    }

    /// How long certificates are valid, such as `5s`; a day by default.
    #[must_use]
    pub fn certificate_lifetime(mut self, lifetime: &str) -> Self {
        lifetime.clone_into(&mut self.certificate_lifetime);
        self
    }

    /// Has the agent keep an audit log of its own, in [`AGENT_AUDIT`]. For one agent: a log has one writer.
    #[must_use]
    pub fn agent_audited(self) -> Self {
        self.agent_setting("/audit", json!({"file": {"directory": AGENT_AUDIT}}))
    }

    /// Switches the encryption between client and agent off.
    #[must_use]
    pub fn danger_disable_inner_tls(self) -> Self {
        self.danger_disable_inner_tls_of_agents().danger_disable_inner_tls_of_client()
    }

    /// Switches it off at the agents.
    #[must_use]
    pub fn danger_disable_inner_tls_of_agents(mut self) -> Self {
        self.agents_inner_tls = false;
        self
    }

    /// Switches it off at the client.
    #[must_use]
    pub fn danger_disable_inner_tls_of_client(mut self) -> Self {
        self.client_inner_tls = false;
        self
    }

    /// Puts a [`Cutter`] between the agents and the server, and one between the client and the server.
    #[must_use]
    pub fn relayed(mut self) -> Self {
        self.relayed = true;
        self
    }

    /// Gives the client the agents' key.
    #[must_use]
    pub fn client_with_agent_key(mut self) -> Self {
        self.client_key = files::AGENT;
        self
    }

    /// Gives the client another credential than a key file, as its configuration has it, and what its environment must have for it.
    #[must_use]
    pub fn client_credential(mut self, credential: Value, environment: &[(&str, &str)]) -> Self {
        self.client_credential = Some(credential);
        for (name, value) in environment {
            self = self.environment("client", name, value);
        }
        self
    }

    /// Makes this the key, in PEM, with which the server verifies the client's tokens.
    #[must_use]
    pub fn client_public_key(mut self, pem: String) -> Self {
        self.client_public_key = Some(pem);
        self
    }

    /// Enrols in a process of its own, to which the server passes enrolments on.
    #[must_use]
    pub fn enrolment_apart(mut self) -> Self {
        self.enrolment_apart = true;
        self
    }

    /// Sets a value in the server's configuration; `pointer` is a JSON pointer whose last part may be there or not, and `-` for one more in a list.
    #[must_use]
    pub fn server_setting(mut self, pointer: &str, value: Value) -> Self {
        self.server_settings.push((pointer.to_owned(), value));
        self
    }

    /// The same in the configuration of the process that enrols.
    #[must_use]
    pub fn enrolment_setting(mut self, pointer: &str, value: Value) -> Self {
        self.enrolment_settings.push((pointer.to_owned(), value));
        self
    }

    /// Sets a section of the client's configuration.
    #[must_use]
    pub fn client_setting(mut self, name: &'static str, value: Value) -> Self {
        self.client_settings.push((name, value));
        self
    }

    /// The same as [`Self::server_setting`] in the agents' configuration.
    #[must_use]
    pub fn agent_setting(mut self, pointer: &str, value: Value) -> Self {
        self.agent_settings.push((pointer.to_owned(), value));
        self
    }

    /// How long sessions may go on after SIGTERM, such as `10s`; not at all by default.
    #[must_use]
    pub fn grace(mut self, grace: &str) -> Self {
        grace.clone_into(&mut self.grace);
        self
    }

    /// Gives every agent and the client copies of the roots of their own, in [`World::roots_of`], which change only if the test changes them.
    #[must_use]
    pub fn own_roots(mut self) -> Self {
        self.own_roots = true;
        self
    }

    /// Puts the agents at the far end of `link`. The rest has to be started at the near end, with [`block_on`](crate::link::Namespace::block_on).
    #[must_use]
    pub fn across(mut self, link: &Link) -> Self {
        self.listen = link.near_address();
        self.agents_in = Some(link.far().path());
        self
    }

    /// Lets `cas` sign, which needs pools for the three roles.
    ///
    /// # Errors
    /// If a pool is missing, or the credentials cannot be written into `dir`.
    pub fn issued_by(mut self, cas: &Cas, pools: &BTreeMap<String, String>, tier: &str, dir: &Path) -> Result<Self> {
        let issuer = json!({"cas": {"pools": pools, "tier": tier, "endpoint": cas.endpoint()}});
        let roots = pools.iter().map(|(role, pool)| Ok((role.clone(), cas.root(pool)?))).collect::<Result<_>>()?;
        let credentials = cas.credentials_file(dir)?.display().to_string();
        self.issued_by = Some(Issuing { issuer, roots });
        Ok(self.environment("server", "GOOGLE_APPLICATION_CREDENTIALS", credentials))
    }

    /// Sets a variable for the daemons of a role, `server`, `agent` or `client`.
    #[must_use]
    pub fn environment(mut self, role: &'static str, name: &str, value: impl ToString) -> Self {
        let environment = vec![(name.to_owned(), value.to_string())];
        self.circumstances.push(Circumstances { role, starter: Vec::new(), environment });
        self
    }

    /// Has the daemons of a role started by a program that becomes the daemon in the end, such as `prlimit`.
    #[must_use]
    pub fn started_by(mut self, role: &'static str, starter: &[&str]) -> Self {
        let starter = starter.iter().map(|&word| word.to_owned()).collect();
        self.circumstances.push(Circumstances { role, starter, environment: Vec::new() });
        self
    }

    /// Starts every process and waits until the client knows every agent.
    ///
    /// # Errors
    /// Whatever kept a process from coming up.
    pub async fn start(self) -> Result<World> {
        let agents = self.agents;
        let world = self.start_unready().await?;
        world.roster(0, agents).await?;
        Ok(world)
    }

    /// Starts every process without waiting for links and rosters, for worlds in which these cannot come up.
    ///
    /// # Errors
    /// Whatever kept a process from coming up.
    pub async fn start_unready(self) -> Result<World> {
        let dir = tempfile::tempdir()?;
        files::credentials(&self.binary, dir.path(), self.enrolment_apart).await?;
        if let Some(pem) = &self.client_public_key {
            std::fs::write(dir.path().join("client.pub.pem"), pem)?;
        }
        let enrolment = if self.enrolment_apart { Some(apart::start(&self, dir.path()).await?) } else { None };
        files::server(dir.path(), &self, enrolment.as_ref().map(|enrolment| enrolment.address))?;
        let start = |part, settings: &[String]| {
            daemon(&self.binary, part, dir.path(), settings, self.agents_in.as_deref(), &self.circumstances)
        };
        let server = start(Part::Server, &[])?;
        let server_address = listening(&server, "server", 0).await?;
        let (agent_leg, client_leg) = if self.relayed {
            (Some(Cutter::start(server_address).await?), Some(Cutter::start(server_address).await?))
        } else {
            (None, None)
        };
        let through = |leg: &Option<Cutter>| leg.as_ref().map_or(server_address, Cutter::address);
        files::agent(dir.path(), &self, through(&agent_leg))?;
        files::client(dir.path(), &self, through(&client_leg))?;

        let mut agents = Vec::new();
        for index in 0..self.agents {
            let part = Part::Agent(index);
            let mut settings = vec![socket_setting(index)];
            if self.own_roots {
                settings.extend(files::own_roots(dir.path(), part)?);
            }
            agents.push(start(part, &settings)?);
        }
        let own_roots = if self.own_roots { files::own_roots(dir.path(), Part::Client)? } else { Vec::new() };
        let client = start(Part::Client, &own_roots)?;
        let proxy = listening(&client, "proxy", 0).await?;
        let mut forwards = Vec::new();
        for index in 0..self.forwards.len() {
            forwards.push(listening(&client, "forward", index).await?);
        }
        let Self { binary, agents_in, circumstances, .. } = self;
        Ok(World {
            binary,
            agents_in,
            circumstances,
            server,
            agents,
            client,
            server_address,
            proxy,
            forwards,
            agent_leg,
            client_leg,
            enrolment,
            dir,
        })
    }
}

/// A running world. Dropping it kills its processes, and shows what they said unless [`World::finish`] was reached.
pub struct World {
    binary: PathBuf,
    agents_in: Option<PathBuf>,
    circumstances: Vec<Circumstances>,
    /// The server.
    pub server: Daemon,
    /// The agents, also those that were killed.
    pub agents: Vec<Daemon>,
    /// The client.
    pub client: Daemon,
    server_address: SocketAddr,
    proxy: SocketAddr,
    forwards: Vec<SocketAddr>,
    agent_leg: Option<Cutter>,
    client_leg: Option<Cutter>,
    pub(crate) enrolment: Option<Apart>,
    dir: TempDir,
}

impl World {
    /// Begins to describe a world that runs `binary`, in tests `env!("CARGO_BIN_EXE_ginnel")`.
    pub fn builder(binary: impl Into<PathBuf>) -> WorldBuilder {
        WorldBuilder {
            binary: binary.into(),
            agents: 1,
            rule: Vec::new(),
            allow: Vec::new(),
            forwards: Vec::new(),
            certificate_lifetime: "24h".to_owned(),
            agents_inner_tls: true,
            client_inner_tls: true,
            relayed: false,
            client_key: files::CLIENT,
            client_credential: None,
            client_public_key: None,
            server_settings: Vec::new(),
            enrolment_settings: Vec::new(),
            client_settings: Vec::new(),
            agent_settings: Vec::new(),
            grace: "0s".to_owned(),
            listen: Ipv4Addr::LOCALHOST.into(),
            agents_in: None,
            issued_by: None,
            own_roots: false,
            enrolment_apart: false,
            circumstances: Vec::new(),
        }
    }

    /// Its directory, with configuration, keys, certificates and the audit log.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Where the server listens.
    pub fn server_addr(&self) -> SocketAddr {
        self.server_address
    }

    /// Where the client's proxy listens.
    pub fn proxy_addr(&self) -> SocketAddr {
        self.proxy
    }

    /// Where the client's forward with this index listens.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn forward_addr(&self, index: usize) -> Result<SocketAddr> {
        self.forwards.get(index).copied().with_context(|| format!("no forward {index}"))
    }

    /// The network between the agents and the server.
    ///
    /// # Errors
    /// Unless the world is [`WorldBuilder::relayed`].
    pub fn agent_leg(&self) -> Result<&Cutter> {
        self.agent_leg.as_ref().context("not a relayed world")
    }

    /// The network between the client and the server.
    ///
    /// # Errors
    /// Unless the world is [`WorldBuilder::relayed`].
    pub fn client_leg(&self) -> Result<&Cutter> {
        self.client_leg.as_ref().context("not a relayed world")
    }

    /// The process that plays `part`.
    ///
    /// # Errors
    /// If there is no such agent.
    pub fn part(&mut self, part: Part) -> Result<&mut Daemon> {
        Ok(match part {
            Part::Server => &mut self.server,
            Part::Agent(index) => self.agents.get_mut(index).with_context(|| format!("no agent {index}"))?,
            Part::Client => &mut self.client,
            Part::Enrolment => &mut self.enrolment.as_mut().context("nobody enrols apart")?.daemon,
        })
    }

    /// Kills an agent with SIGKILL.
    ///
    /// # Errors
    /// If there is no such agent.
    pub async fn kill_agent(&mut self, index: usize) -> Result<()> {
        self.part(Part::Agent(index))?.kill().await
    }

    /// Starts `part` again, killing what may be left of it; a server and a client listen where they did before.
    ///
    /// # Errors
    /// Whatever kept the process from coming up.
    pub async fn restart(&mut self, part: Part) -> Result<()> {
        let settings = match part {
            Part::Server => vec![format!("server.listen={}", self.server_address)],
            Part::Client => vec![format!("listen.proxy={}", self.proxy)],
            Part::Agent(index) => vec![socket_setting(index)],
            Part::Enrolment => vec![format!("server.listen={}", self.enrolment_addr()?)],
        };
        let old = self.part(part)?;
        old.kill().await?;
        old.check()?;
        let started =
            daemon(&self.binary, part, self.dir.path(), &settings, self.agents_in.as_deref(), &self.circumstances)?;
        match part {
            Part::Server => drop(listening(&started, "server", 0).await?),
            Part::Enrolment => drop(listening(&started, "enrolment", 0).await?),
            Part::Client => {
                listening(&started, "proxy", 0).await?;
                for (index, forward) in self.forwards.iter_mut().enumerate() {
                    *forward = listening(&started, "forward", index).await?;
                }
            }
            Part::Agent(_) => {}
        }
        *self.part(part)? = started;
        Ok(())
    }

    /// Waits until the client is told of exactly `agents` agents, at a place of its log after `mark`.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub async fn roster(&self, mark: usize, agents: usize) -> Result<()> {
        self.client.wait_for_after(mark, "roster received", |line| line["agents"] == agents).await?;
        Ok(())
    }

    /// Where `part` can be asked over HTTP.
    ///
    /// # Errors
    /// If it does not say so in time.
    pub async fn admin(&mut self, part: Part) -> Result<SocketAddr> {
        listening(self.part(part)?, "admin", 0).await
    }

    /// The admin socket of `part`.
    pub fn socket(&self, part: Part) -> PathBuf {
        self.dir.path().join(match part {
            Part::Server => "server.sock".to_owned(),
            Part::Agent(index) => format!("agent-{index}.sock"),
            Part::Client => "client.sock".to_owned(),
            Part::Enrolment => "enrolment/admin.sock".to_owned(),
        })
    }

    /// Where the roots of `part` lie in a world of [`WorldBuilder::own_roots`].
    pub fn roots_of(&self, part: Part) -> PathBuf {
        files::roots_of(self.dir.path(), part)
    }

    /// Changes the configuration file of a role, `server`, `agent` or `client`, in one step.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn edit(&self, role: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.dir.path().join(format!("{role}.yaml"));
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        change(&mut config);
        self.write(role, &serde_json::to_string_pretty(&config)?)
    }

    /// Replaces the configuration file of a role in one step, with anything.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, role: &str, text: &str) -> Result<()> {
        let next = self.dir.path().join(format!("{role}.next"));
        std::fs::write(&next, text)?;
        Ok(std::fs::rename(next, self.dir.path().join(format!("{role}.yaml")))?)
    }

    /// The audit log so far, without a last line that is still being written.
    ///
    /// # Errors
    /// If it cannot be read, or a whole line is not JSON.
    pub fn audit(&self) -> Result<Vec<Value>> {
        read_audit(&self.dir.path().join("audit"))
    }

    /// The log that the agents write so far, where `audit.file.directory` of theirs is [`AGENT_AUDIT`].
    ///
    /// # Errors
    /// As [`Self::audit`].
    pub fn agent_audit(&self) -> Result<Vec<Value>> {
        read_audit(&self.dir.path().join(AGENT_AUDIT))
    }

    /// Waits until `enough` holds for that log, and returns it.
    ///
    /// # Errors
    /// If that does not happen in time; `what` names it.
    pub async fn agent_audit_until(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        eventually(what, SOON, async || {
            let records = self.agent_audit()?;
            Ok(enough(&records).then_some(records))
        })
        .await
    }

    /// The audit records of one event so far.
    ///
    /// # Errors
    /// As [`Self::audit`].
    pub fn audit_of(&self, event: &str) -> Result<Vec<Value>> {
        Ok(self.audit()?.into_iter().filter(|record| record["event"] == event).collect())
    }

    /// Waits until `enough` holds for the audit log, and returns the log.
    ///
    /// # Errors
    /// If that does not happen in time; `what` names it.
    pub async fn audit_until(&self, what: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
        eventually(what, SOON, async || {
            let records = self.audit()?;
            Ok(enough(&records).then_some(records))
        })
        .await
    }

    /// A command of the binary.
    pub fn ginnel(&self) -> Command {
        crate::command::command(&self.binary, self.dir.path())
    }

    /// Where the binary is, for commands that start it themselves.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Ends the test: nothing panicked, and everything that nobody killed still runs.
    ///
    /// # Errors
    /// What is wrong.
    pub fn finish(mut self, killed: &[Part]) -> Result<()> {
        let apart = self.enrolment.is_some().then_some(Part::Enrolment);
        let parts =
            [Part::Server, Part::Client].into_iter().chain((0..self.agents.len()).map(Part::Agent)).chain(apart);
        for part in parts {
            let daemon = self.part(part)?;
            ensure!(killed.contains(&part) || daemon.running(), "{part:?} has ended");
        }
        let enrolment = self.enrolment.as_mut().map(|enrolment| &mut enrolment.daemon);
        for daemon in self.agents.iter_mut().chain([&mut self.server, &mut self.client]).chain(enrolment) {
            daemon.check()?;
        }
        Ok(())
    }
}

/// The audit log in a directory so far, without a last line that is still being written.
fn read_audit(directory: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(directory.join("audit.jsonl")).context("reading the audit log")?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| format!("audit line {line:?}"))).collect()
}

/// Agents share a file, and need a socket each.
fn socket_setting(index: usize) -> String {
    format!("adminSocket=agent-{index}.sock")
}

/// Starts `part`, if it is an agent in the network namespace `agents_in`, if there is one.
fn daemon(
    binary: &Path,
    part: Part,
    dir: &Path,
    settings: &[String],
    agents_in: Option<&Path>,
    circumstances: &[Circumstances],
) -> Result<Daemon> {
    let (role, name, inside) = match part {
        Part::Server => ("server", "server".to_owned(), None),
        Part::Agent(index) => ("agent", format!("agent {index}"), agents_in),
        Part::Client => ("client", "client".to_owned(), None),
        Part::Enrolment => ("enrolment", "enrolment".to_owned(), None),
    };
    let config = match part {
        Part::Server | Part::Agent(_) | Part::Client => dir.join(format!("{role}.yaml")),
        Part::Enrolment => dir.join(files::ENROLMENT).join("enrolment.yaml"),
    };
    let circumstances = circumstances.iter().filter(|circumstances| circumstances.role == role);
    let words = circumstances.clone().flat_map(|circumstances| &circumstances.starter).map(OsStr::new);
    let mut words = words.chain([binary.as_os_str()]);
    let program = words.next().unwrap_or(binary.as_os_str());
    let mut command = match inside {
        None => crate::command::command(program, dir),
        Some(namespace) => crate::link::command_inside(namespace, Path::new(program), dir),
    };
    command.args(words).current_dir(dir);
    command.envs(circumstances.flat_map(|circumstances| circumstances.environment.iter().cloned()));
    command.arg(role).arg("--config").arg(config).args(["--log-format", "json"]);
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    command.env("RUST_BACKTRACE", "1");
    Daemon::spawn(&name, command)
}

/// The address of the listener number `index` of this kind.
async fn listening(daemon: &Daemon, listener: &str, index: usize) -> Result<SocketAddr> {
    let is_one = |line: &Value| line["listener"] == listener;
    loop {
        let mark = daemon.mark();
        let said = daemon.said("listening").into_iter().filter(is_one).nth(index);
        if let Some(line) = said {
            return line["address"].as_str().context("an address")?.parse().context("a socket address");
        }
        daemon.wait_for_after(mark, "listening", is_one).await?;
    }
}
