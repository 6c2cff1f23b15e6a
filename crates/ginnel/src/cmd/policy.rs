//! `ginnel policy test`: what the rules say.

use std::fmt::Write;

use ginnel_core::audit::Text;
#[cfg(feature = "server")]
use ginnel_core::policy::{Ask, Source};
use ginnel_core::status::Verdict;
use ginnel_ops::admin::client::escaped;
use serde::Serialize;

use super::ask::read;
use super::table::Table;
use super::{Failure, Outcome, print};
use crate::args::operate::{Policy, PolicyTest};

pub(super) async fn run(policy: Policy) -> Result<Outcome, Failure> {
    let Policy::Test(args) = policy;
    let json = args.json;
    match (&args.client, &args.target) {
        (Some(client), Some(target)) => {
            let verdict = one(&args, client, target).await?;
            let text = if json { in_json(&verdict)? } else { render(&verdict) };
            print(&text)?;
            Ok(if verdict.allowed { Outcome::Yes } else { Outcome::No })
        }
        (Some(_), None) | (None, _) => {
            let verdicts = all(&args).await?;
            let text = if json { in_json(&verdicts)? } else { render_all(&verdicts) };
            print(&text)?;
            Ok(Outcome::Yes)
        }
    }
}

async fn one(args: &PolicyTest, client: &str, target: &str) -> Result<Verdict, Failure> {
    #[cfg(feature = "server")]
    if let Some(config) = &args.config {
        let client = client.parse().map_err(|error| Failure::input(format!("{client:?}: {error}")))?;
        let target = target.parse().map_err(|error| Failure::input(format!("{target:?}: {error}")))?;
        let policy = offline::policy_for(config, &client)?;
        let source = args.from.map_or(Source::Anywhere, Source::Address);
        let ask = Ask { client: &client, target: &target, source, now: offline::now() };
        return Ok(ginnel_core::policy::verdict(&policy, offline::VERSION, &ask, |_| 0));
    }
    let from = args.from.map(|from| format!("&from={}", escaped(&from.to_string()))).unwrap_or_default();
    let path = format!("/policy/test?client={}&target={}{from}", escaped(client), escaped(target));
    read(&args.ask.door(), &path).await
}

async fn all(args: &PolicyTest) -> Result<Vec<Verdict>, Failure> {
    #[cfg(feature = "server")]
    if let Some(config) = &args.config {
        return Ok(ginnel_core::policy::matrix(&offline::policy(config)?, offline::VERSION, offline::now(), |_| 0));
    }
    read(&args.ask.door(), "/policy/test").await
}

#[cfg(feature = "server")]
mod offline {
    use std::path::Path;
    use std::time::SystemTime;

    use ginnel_config::{Overrides, ServerConfig};
    use ginnel_core::audit::Timestamp;
    use ginnel_core::policy::Policy;
    use ginnel_core::principal::{Name, Role};

    use super::Failure;

    /// A file has no version in force.
    pub(super) const VERSION: &str = "file";

    pub(super) fn policy(config: &Path) -> Result<Policy, Failure> {
        Ok(Policy::new(load(config)?.rules, now()))
    }

    pub(super) fn now() -> Timestamp {
        Timestamp::from(SystemTime::now())
    }

    /// The same for a question about one client, which has to be one: a running server does not answer about others either.
    pub(super) fn policy_for(config: &Path, client: &Name) -> Result<Policy, Failure> {
        let ServerConfig { identities, rules, .. } = load(config)?;
        if identities.iter().any(|identity| identity.role == Role::Client && identity.name == *client) {
            return Ok(Policy::new(rules, now()));
        }
        Err(Failure::input(format!("{}: no identity with the role client is named {client}", config.display())))
    }

    fn load(config: &Path) -> Result<ServerConfig, Failure> {
        Ok(ServerConfig::load(config, &Overrides::from_env(std::env::vars_os()))?)
    }
}

fn in_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map(|json| format!("{json}\n")).map_err(Failure::failed)
}

/// One verdict.
pub(crate) fn render(verdict: &Verdict) -> String {
    let Verdict { client, target, allowed, rule, expires, sources, agents, cause, nearest, policy } = verdict;
    let (client, target) = (Text::new(client), Text::new(target));
    let mut text = format!("{}  {client} -> {target}\n", if *allowed { "ALLOWED" } else { "DENIED " });
    // Writing to a String cannot fail, here and below.
    if let Some(rule) = rule {
        let _ = writeln!(text, "  rule {}", Text::new(rule));
    }
    if let Some(expires) = expires {
        let _ = writeln!(text, "  until {expires}");
    }
    if !sources.is_empty() {
        let _ = writeln!(text, "  from {}", Text::new(sources.join(", ")));
    }
    for agent in agents {
        let links = live(policy, agent.links);
        let _ = writeln!(text, "  through agent {}{links}", Text::new(&agent.agent));
    }
    if let Some(cause) = cause {
        let _ = writeln!(text, "  cause: {}", Text::new(cause));
    }
    if !*allowed {
        let nearest = nearest.as_deref().unwrap_or("no rule comes near it");
        let _ = writeln!(text, "  nearest: {}", Text::new(nearest));
    }
    let _ = match policy.as_str() {
        "file" => writeln!(text, "  policy of the file, whether it is in force or not"),
        version => writeln!(text, "  policy {}", Text::new(version)),
    };
    text
}

/// What is known of an agent's links: a file knows of none.
fn live(policy: &str, links: u64) -> String {
    match (policy, links) {
        ("file", _) => String::new(),
        (_, 0) => ", which is NOT CONNECTED".to_owned(),
        (_, 1) => ", 1 live link".to_owned(),
        (_, more) => format!(", {more} live links"),
    }
}

/// The matrix.
pub(crate) fn render_all(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "no rule allows anything\n".to_owned();
    }
    let mut table = Table::new(&["CLIENT", "TARGET", "RULE", "AGENTS"]);
    for verdict in verdicts {
        let agents = verdict.agents.iter().map(|agent| match (verdict.policy.as_str(), agent.links) {
            ("file", _) => agent.agent.clone(),
            (_, links) => format!("{} ({links} live)", agent.agent),
        });
        let agents: Vec<_> = agents.collect();
        table.row([&verdict.client, &verdict.target, verdict.rule.as_deref().unwrap_or_default(), &agents.join(", ")]);
    }
    table.text()
}
