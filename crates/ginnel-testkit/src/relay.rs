//! A server that has turned hostile: it has the address, the name and the issuer of a world's server, and the test says its lines.
//!
//! Agents and clients keep the certificates that they got while the server was honest, and come back to it by themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use ginnel_core::id::{InstanceId, SessionId};
use ginnel_core::stream::Frame;
use ginnel_enrol::{CertificateRequest, EmbeddedIssuer};
use ginnel_identity::certificate::Identity;
use ginnel_identity::key::KeyPair;
use ginnel_identity::random::SystemRandom;
use ginnel_identity::tls::{CurrentIdentity, OuterTrust, inner_client, inner_server, inner_server_name, outer_server};
use ginnel_identity::trust::Roots;
use ginnel_wire::frame::{Open, SessionFrame};
use ginnel_wire::hello::{Dial, Hello, RosterEntry};
use ginnel_wire::{path, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::peer::{self, Peer};
use crate::wait::{SOON, within};
use crate::world::{SERVER_NAME, World};

mod bridge;
mod call;
mod switchboard;

pub use bridge::{Bridge, Direction, Fault};
pub use call::Call;
pub use switchboard::{Plan, Switchboard};

/// The agents of every world.
pub const AGENT: &str = "spiffe://acme.example/agent/acme";

/// The client of every world.
pub const CLIENT: &str = "spiffe://acme.example/client/frontend";

const ATTACH: &str = "/ginnel.v1.AgentLink/Attach";
const ROSTER: &str = "/ginnel.v1.ClientLink/Roster";

/// No test lasts as long as these certificates.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Calls that no test has asked for yet; a peer that makes more is itself the finding.
const CALLS_MAX: usize = 256;

/// What a session's bytes are read with, below the longest frame.
const PIECE: usize = 16 << 10;

/// The hostile server. Dropping it closes its connections.
pub struct Relay {
    /// That of the world, or one of its own that nobody believes, if it has no right to issue.
    issuer: EmbeddedIssuer,
    /// The true roots.
    roots: OuterTrust,
    calls: mpsc::Receiver<Call>,
    /// Calls that came while the test waited for others.
    early: Vec<Call>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Kills the server of `world` and takes its place.
    ///
    /// # Errors
    /// If the place cannot be taken.
    pub async fn take_over(world: &mut World) -> Result<Self> {
        world.server.kill().await?;
        let issuer = issuer(&world.directory().join("ca"))?;
        let own = certify(&issuer, "spiffe://acme.example/server/tunnel", vec![SERVER_NAME.to_owned()])?;
        Self::start(world.server_addr(), issuer, own, roots(world)?).await
    }

    /// Kills the server of a world in which another process enrols, and takes its place with a genuine certificate of the server's and no right
    /// to issue. What it certifies itself, it does with authorities of its own that have the names of the true ones.
    ///
    /// # Errors
    /// If the place cannot be taken.
    pub async fn take_over_without_issuer(world: &mut World) -> Result<Self> {
        world.server.kill().await?;
        let (key, request) = peer::enrolment(world, "server.json")?;
        let own = peer::enrol_on(&Peer::connect_to_enrolment(world, None).await?, key, &request).await?;
        let forged = issuer(&world.directory().join("forged-ca"))?;
        Self::start(world.server_addr(), forged, own, roots(world)?).await
    }

    async fn start(address: SocketAddr, issuer: EmbeddedIssuer, own: Identity, roots: OuterTrust) -> Result<Self> {
        let current = CurrentIdentity::new();
        current.set(own);
        let tls = outer_server(&current, roots.clone())?;
        let listener = TcpListener::bind(address).await?;
        let (sender, calls) = mpsc::channel(CALLS_MAX);
        let accepting = tokio::spawn(accept(listener, tls, sender));
        Ok(Self { issuer, roots, calls, early: Vec::new(), accepting })
    }

    /// A certificate for whoever the relay likes, from the issuer that it has.
    ///
    /// # Errors
    /// If the issuer cannot sign for this principal.
    pub fn certify(&self, principal: &str) -> Result<Identity> {
        certify(&self.issuer, principal, Vec::new())
    }

    /// Waits for the client to ask for its roster, gives it this one, and waits until the client uses it.
    ///
    /// # Errors
    /// If the client does not come in time.
    pub async fn welcome_client(&mut self, world: &World, roster: Vec<RosterEntry>) -> Result<Call> {
        let mark = world.client.mark();
        let mut call = self.asked(false).await?;
        let agents: usize = roster.iter().map(|entry| entry.instances.len()).sum();
        let entries = roster.into_iter().map(Into::into).collect();
        call.say(&v1::RosterMessage { welcome: Some(welcome()), entries })?;
        world.roster(mark, agents).await?;
        Ok(call)
    }

    /// Waits for the client to ask for its roster on its first connection and gives it this answer, whatever it is.
    ///
    /// # Errors
    /// If the client does not come in time.
    pub async fn answer_client(&mut self, answer: &v1::RosterMessage) -> Result<Call> {
        let mut call = self.asked(false).await?;
        call.say(answer)?;
        Ok(call)
    }

    /// The same on a connection beside the first.
    ///
    /// # Errors
    /// If the client makes none in time.
    pub async fn answer_further(&mut self, answer: &v1::RosterMessage) -> Result<Call> {
        let mut call = self.asked(true).await?;
        call.say(answer)?;
        Ok(call)
    }

    /// Waits for the client to ask for its roster, on its first connection or on a further one. The others are refused by dropping the call.
    async fn asked(&mut self, is_further: bool) -> Result<Call> {
        loop {
            let mut call = self.call(ROSTER).await?;
            let asked: v1::RosterRequest = call.hear().await?.context("a client that says nothing")?;
            if asked.hello.is_some_and(|hello| (hello.lane != 0) == is_further) {
                return Ok(call);
            }
        }
    }

    /// Who the relay says to be, in good form.
    pub fn welcome() -> v1::Welcome {
        welcome()
    }

    /// Waits for an agent to attach, welcomes it, and says which process it is.
    ///
    /// # Errors
    /// If no agent comes in time.
    pub async fn welcome_agent(&mut self) -> Result<(Call, InstanceId)> {
        let (mut call, hello) = loop {
            let mut call = self.call(ATTACH).await?;
            let said: v1::AgentMessage = call.hear().await?.context("an agent that says nothing")?;
            let Some(v1::agent_message::Kind::Hello(hello)) = said.kind else {
                bail!("an agent that does not say hello")
            };
            // Further connections are refused by dropping the call.
            if hello.lane == 0 {
                break (call, hello);
            }
        };
        call.say(&v1::ServerMessage { kind: Some(v1::server_message::Kind::Welcome(welcome())) })?;
        Ok((call, Hello::try_from(hello)?.instance))
    }

    /// Waits for an agent to attach, and welcomes it in these words.
    ///
    /// # Errors
    /// If no agent comes in time.
    pub async fn answer_agent(&mut self, welcome: v1::Welcome) -> Result<Call> {
        let mut call = self.call(ATTACH).await?;
        call.say(&v1::ServerMessage { kind: Some(v1::server_message::Kind::Welcome(welcome)) })?;
        Ok(call)
    }

    /// Waits for the client to open a session.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn opening(&mut self) -> Result<(Call, Open)> {
        let mut call = self.call(path::OPEN).await?;
        match call.next().await? {
            Some(SessionFrame::Open(open)) => Ok((call, open)),
            other => bail!("{other:?} where there must be Open"),
        }
    }

    /// The same for as long as it takes; `None` if the client has given that session up already.
    async fn any_opening(&mut self) -> Result<Option<(Call, Open)>> {
        let mut call = self.next_call(path::OPEN).await?;
        match call.next().await? {
            Some(SessionFrame::Open(open)) => Ok(Some((call, open))),
            Some(other) => bail!("{other:?} where there must be Open"),
            None => Ok(None),
        }
    }

    /// Tells an agent to dial, and waits until it takes the session up.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn dial(&mut self, link: &mut Call, dial: &Dial) -> Result<Call> {
        link.say(&v1::ServerMessage { kind: Some(v1::server_message::Kind::Dial(dial.clone().into())) })?;
        let mut call = self.call(path::CARRY).await?;
        let said = call.next().await?;
        ensure!(said == Some(SessionFrame::Take(dial.session)), "{said:?} where there must be Take");
        Ok(call)
    }

    /// Waits for the client to open a session and joins it with an agent, as an honest server would.
    ///
    /// # Errors
    /// If client or agent do not play their parts in time.
    pub async fn bridge(&mut self, link: &mut Call) -> Result<Bridge> {
        let (client, Open { request, target, inner_tls, .. }) = self.opening().await?;
        let session = SessionId::random(&mut SystemRandom);
        let dial =
            Dial { session, request, target: target.parse()?, client: CLIENT.parse()?, inner_tls, early: Bytes::new() };
        let agent = self.dial(link, &dial).await?;
        Ok(Bridge::start(client, agent))
    }

    /// Plays the agent `principal` on a session that the client has opened, up to the end of the inner handshake.
    ///
    /// # Errors
    /// If the client does not accept it.
    pub async fn play_agent(&self, call: Call, principal: &str) -> Result<TlsStream<DuplexStream>> {
        let tls = inner_server(self.roots.client.clone(), &self.certify(principal)?)?;
        let accepting = TlsAcceptor::from(tls).accept(call.into_stream());
        Ok(within("a handshake with the client", SOON, accepting).await??.into())
    }

    /// Plays the client `principal` on a session that an agent has taken up, up to the end of its own part of the inner handshake.
    ///
    /// # Errors
    /// If the agent is not the one of this world.
    pub async fn play_client(&self, call: Call, principal: &str) -> Result<TlsStream<DuplexStream>> {
        let tls = inner_client(self.roots.agent.clone(), &AGENT.parse()?, &self.certify(principal)?)?;
        let connecting = TlsConnector::from(tls).connect(inner_server_name(), call.into_stream());
        Ok(within("a handshake with the agent", SOON, connecting).await??.into())
    }

    /// The next call of this path, which has to come soon.
    async fn call(&mut self, path: &str) -> Result<Call> {
        within(path, SOON, self.next_call(path)).await?
    }

    /// The next call of this path. Dropping the future loses no call.
    async fn next_call(&mut self, path: &str) -> Result<Call> {
        loop {
            if let Some(index) = self.early.iter().position(|call| call.path() == path) {
                return Ok(self.early.remove(index));
            }
            let call = self.calls.recv().await.context("the relay has ended")?;
            self.early.push(call);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Call {
    /// Carries a byte stream in data frames, as one end of a session does, until either side ends. All other frames are passed over.
    pub fn into_stream(mut self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIECE);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let mut buffer = vec![0; PIECE];
            let mut offset = 0;
            loop {
                tokio::select! {
                    heard = self.next() => match heard {
                        Ok(Some(SessionFrame::Stream(Frame::Data { bytes, .. }))) => write.write_all(&bytes).await?,
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    },
                    length = read.read(&mut buffer) => {
                        let bytes = Bytes::copy_from_slice(&buffer[..length?]);
                        if bytes.is_empty() {
                            break;
                        }
                        let length = bytes.len() as u64;
                        self.say_frame(SessionFrame::Stream(Frame::Data { offset, bytes }))?;
                        offset += length;
                    }
                }
            }
            anyhow::Ok(())
        });
        near
    }
}

fn issuer(directory: &Path) -> Result<EmbeddedIssuer> {
    Ok(EmbeddedIssuer::open(directory, &"acme.example".parse()?, LIFETIME, SystemTime::now())?)
}

/// The roots that the server of a world believes.
fn roots(world: &World) -> Result<OuterTrust> {
    let read = |role: &str| Roots::read(&world.directory().join(format!("ca/{role}-root.pem")));
    Ok(OuterTrust { agent: read("agent")?, client: read("client")?, server: None })
}

fn certify(issuer: &EmbeddedIssuer, principal: &str, server_names: Vec<String>) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let email = "relay@acme.iam.gserviceaccount.com".to_owned();
    let spki_der = key.spki_der().to_vec();
    let request = CertificateRequest {
        principal: principal.parse()?,
        email,
        spki_der,
        server_names,
        evidence: None,
        renews: None,
    };
    Ok(Identity::new(issuer.sign(&request, SystemTime::now())?.chain, key)?)
}

fn welcome() -> v1::Welcome {
    let hello = v1::Hello::from(Hello::new(InstanceId::random(&mut SystemRandom), 0));
    v1::Welcome {
        server_id: hello.instance_id,
        epoch: 1,
        live_servers: 1,
        draining: false,
        software_version: hello.software_version,
        protocol_version: hello.protocol_version,
        capabilities: hello.capabilities,
    }
}

async fn accept(listener: TcpListener, tls: Arc<ServerConfig>, calls: mpsc::Sender<Call>) {
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)): Result<(TcpStream, SocketAddr), _> = accepted else { continue };
                connections.spawn(converse(tcp, acceptor.clone(), calls.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(tcp: TcpStream, acceptor: TlsAcceptor, calls: mpsc::Sender<Call>) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut connection = call::http2().handshake(acceptor.accept(tcp).await?).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        calls.try_send(Call::answer(request, respond)?)?;
    }
    Ok(())
}
