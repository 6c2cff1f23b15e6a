//! `ginnel demo`: the whole tunnel in one process, with nothing to prepare and nothing left behind.
//!
//! Server, two agents and a client run as they would in three networks: they read configurations that this module writes, meet over TLS on
//! loopback, and share nothing in memory. What is shown was carried through all of them.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ginnel_agent::app::Agent;
use ginnel_client::app::Client;
use ginnel_config::{AgentConfig, ClientConfig, Overrides, ServerConfig};
use ginnel_core::target::{Host, Target};
use ginnel_identity::credential::ServiceAccountKey;
use ginnel_ops::audit::show::{Filter, show};
use ginnel_ops::signals::terminated;
use ginnel_server::app::Server;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cmd::{Failure, Outcome, print};
use crate::credential;

mod configs;
mod fetch;
mod host;

use fetch::{Answer, Fetch};

/// The whole fetch of one target. The first one waits for the agents to come up.
const FETCH_DEADLINE: Duration = Duration::from_secs(30);

/// How long the last records may take to appear, and how often to look.
const RECORD_WAIT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Agents of the demonstration.
const AGENTS: usize = 2;

/// A target, and the addresses that the agent's owner lists so that it may be dialled even on loopback.
pub(crate) struct Listed {
    pub(crate) target: Target,
    pub(crate) addresses: Vec<SocketAddr>,
}

pub(crate) async fn run(once: bool, targets: Vec<Target>) -> Result<Outcome, Failure> {
    let scratch = tempfile::tempdir().map_err(Failure::failed)?;
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let targets = if targets.is_empty() { vec![host::start().await.map_err(Failure::failed)?] } else { targets };
    let mut listed = Vec::new();
    for target in targets {
        let addresses = resolve(&target).await.map_err(|error| Failure::failed(format!("{target}: {error}")))?;
        listed.push(Listed { target, addresses });
    }
    let started = start(scratch.path(), &listed, &shutdown, &mut tasks).await;
    let Addresses { proxy, admin } = started.map_err(Failure::Failed)?;
    print(&format!(
        "One process, three networks: a tunnel server, {AGENTS} agents and a client, which meet over TLS on loopback.\n\
         The client's proxy listens on {proxy} (HTTP CONNECT, plain HTTP, SOCKS5).\n\n"
    ))?;
    let mut all_equal = true;
    for Listed { target, .. } in &listed {
        all_equal &= compare(target, proxy).await?;
    }
    show_record(scratch.path(), listed.len()).await?;
    if !once {
        print(&advice(proxy, admin, &listed[0].target))?;
        terminated().await;
    }
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(if all_equal { Outcome::Yes } else { Outcome::No })
}

async fn resolve(target: &Target) -> io::Result<Vec<SocketAddr>> {
    let port = target.port.get();
    match &target.host {
        Host::Address(address) => Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) => Ok(lookup_host((name.as_str(), port)).await?.collect()),
    }
}

/// Where the parts listen that people use.
struct Addresses {
    proxy: SocketAddr,
    admin: SocketAddr,
}

/// Starts all parts.
async fn start(
    scratch: &Path,
    listed: &[Listed],
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<Addresses, Box<dyn Error + Send + Sync>> {
    for role in ["agent", "client"] {
        let key = scratch.join(format!("{role}.json"));
        let public_key = ServiceAccountKey::create(configs::email(role), &key)?;
        std::fs::write(scratch.join(format!("{role}.pub.pem")), public_key)?;
    }
    let none = Overrides::none();
    let config = ServerConfig::parse(&configs::server(listed), "server.yaml", scratch, &none)?;
    let issuer = crate::issuer::of_server(&config).await?;
    let server = Server::start(config, issuer, None, None, shutdown.clone()).await?;
    let address = server.address();
    let admin = server.admin_address().ok_or("the server has no admin listener")?;
    tasks.spawn(server.run());
    for _ in 0..AGENTS {
        let config = AgentConfig::parse(&configs::agent(address, listed), "agent.yaml", scratch, &none)?;
        let credential = credential::open(&config.credential)?;
        tasks.spawn(Agent::start(config, credential, None).await?.run(shutdown.clone()));
    }
    // A client that came first would be told, and the record would show, that there is no agent yet.
    timeout(FETCH_DEADLINE, recorded(scratch, "linkUp", AGENTS)).await.map_err(|_| "the agents did not come up")?;
    let config = ClientConfig::parse(&configs::client(address), "client.yaml", scratch, &none)?;
    let credential = credential::open(&config.credential)?;
    let client = Client::start(config, credential, None).await?;
    let proxy = client.proxy_address().ok_or("the client has no proxy listener")?;
    tasks.spawn(client.run(shutdown.clone()));
    Ok(Addresses { proxy, admin })
}

/// Fetches a target directly and through the tunnel, and says whether the answers are equal.
async fn compare(target: &Target, proxy: SocketAddr) -> Result<bool, Failure> {
    let fetched = async {
        let direct = fetch::get(target, Fetch::Direct).await?;
        let tunnelled = fetch::get(target, Fetch::Through(proxy)).await?;
        Ok::<_, io::Error>((direct, tunnelled))
    };
    let failed = |error: io::Error| Failure::failed(format!("fetching http://{target}/: {error}"));
    let late =
        |_| Failure::failed(format!("fetching http://{target}/ took longer than {} s", FETCH_DEADLINE.as_secs()));
    let (direct, tunnelled) = timeout(FETCH_DEADLINE, fetched).await.map_err(late)?.map_err(failed)?;
    let Answer { body, .. } = &tunnelled;
    let equal = direct.body == *body;
    let verdict = if equal { "the same bytes as directly" } else { "NOT the same bytes as directly" };
    let request = tunnelled.request_id.as_deref().unwrap_or("unknown");
    print(&format!("GET http://{target}/ through the tunnel: {} bytes, {verdict}\n  request {request}\n", body.len()))?;
    Ok(equal)
}

/// Waits until the audit log holds this many records of an event.
async fn recorded(scratch: &Path, event: &str, count: usize) {
    let filter = Filter { event: Some(event.to_owned()), ..Filter::default() };
    let log = [scratch.join("audit")];
    while show(&log, &filter, true, &mut io::sink()).is_ok_and(|summary| summary.shown < count as u64) {
        sleep(LOOK_AGAIN).await;
    }
}

/// Prints the audit log once the sessions have left their last records, or when that takes too long.
async fn show_record(scratch: &Path, sessions: usize) -> Result<(), Failure> {
    // The log is worth showing either way.
    let _ = timeout(RECORD_WAIT, recorded(scratch, "ended", sessions)).await;
    let mut records = Vec::new();
    show(&[scratch.join("audit")], &Filter::default(), false, &mut records).map_err(Failure::failed)?;
    print(&format!("\nThe server's audit log so far:\n\n{}\n", String::from_utf8_lossy(&records)))
}

fn advice(proxy: SocketAddr, admin: SocketAddr, target: &Target) -> String {
    format!(
        "It stays up until you press Ctrl-C. Try in another terminal:\n\n\
         \x20 curl -p -x http://{proxy} http://{target}/      # HTTP CONNECT\n\
         \x20 curl -x socks5h://{proxy} http://{target}/      # SOCKS5, the name resolved by the agent\n\
         \x20 curl -i -x http://{proxy} http://example.com/   # refused, and it says by whom and why\n\
         \x20 ginnel connect --proxy {proxy} HOST PORT        # standard input and output; for SSH's ProxyCommand\n\n\
         The server shows itself at http://{admin}/ and answers questions about it:\n\n\
         \x20 ginnel status --admin {admin}                   # agents, certificates, sessions, refusals\n\
         \x20 ginnel explain --admin {admin} REQUEST-ID       # what happened to one request\n\
         \x20 ginnel policy test --admin {admin} demo {target}\n\n\
         Settings for the tools of your application, once your own hosts are in the rules:\n\n\
         \x20 git -c http.proxy=http://{proxy} clone https://gitlab.acme.internal/group/project.git\n\
         \x20 ssh -o ProxyCommand='ginnel connect --proxy {proxy} %h %p' git@gitlab.acme.internal\n\
         \x20 npm config set proxy http://{proxy} && npm config set https-proxy http://{proxy}\n\
         \x20 pip install --proxy http://{proxy} PACKAGE\n\n"
    )
}
