//! Clients and agents that the test plays itself, frame by frame.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ginnel_core::id::{InstanceId, RequestId, SessionId};
use ginnel_core::stream::Frame;
use ginnel_identity::certificate::Identity;
use ginnel_testkit::peer::{Call, Peer, enrol};
use ginnel_testkit::{World, within};
use ginnel_wire::frame::{Choice, Open, SessionFrame};
use ginnel_wire::path;
use ginnel_wire::v1::{AgentMessage, RosterMessage, RosterRequest, ServerMessage, agent_message, server_message};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const ROSTER: &str = "/ginnel.v1.ClientLink/Roster";
pub(crate) const ATTACH: &str = "/ginnel.v1.AgentLink/Attach";

/// A client that the test plays, with the agent that it was told of.
pub(crate) struct PlayedClient {
    pub(crate) peer: Peer,
    pub(crate) choice: Choice,
    _roster: Call,
}

impl PlayedClient {
    /// Another process of the world's client.
    pub(crate) async fn start(world: &World) -> Result<Self> {
        Self::start_as(world, &enrol(world, "client.json").await?).await
    }

    /// A process with this certificate.
    pub(crate) async fn start_as(world: &World, identity: &Identity) -> Result<Self> {
        let peer = Peer::connect(world, Some(identity)).await?;
        let mut roster = peer.call(ROSTER).await?;
        roster.say(&RosterRequest { hello: Some(Peer::hello(Peer::instance())) })?;
        roster.end()?;
        let message: RosterMessage = roster.hear().await?;
        let entry = message.entries.first().context("an empty roster")?;
        let choice = Choice {
            principal: entry.agent.parse()?,
            instance: InstanceId::from_bytes(&entry.instances[0].instance_id)?,
        };
        Ok(Self { peer, choice, _roster: roster })
    }

    /// Asks for a session without inner TLS.
    pub(crate) async fn ask(&self, target: SocketAddr) -> Result<Call> {
        let mut call = self.peer.call(path::OPEN).await?;
        call.say_frame(self.wish(target)?)?;
        Ok(call)
    }

    /// The wish for such a session.
    pub(crate) fn wish(&self, target: SocketAddr) -> Result<SessionFrame> {
        let request = RequestId::from_bytes(&Peer::instance().to_bytes())?;
        let (target, agent) = (target.to_string(), Some(self.choice.clone()));
        Ok(SessionFrame::Open(Open { request, target, agent, inner_tls: false }))
    }

    /// Opens a session without inner TLS, and returns both of its ends.
    pub(crate) async fn open(&self, host: &TcpListener) -> Result<(Call, TcpStream)> {
        let mut call = self.ask(host.local_addr()?).await?;
        let (target, _) = within("the agent to dial", Duration::from_secs(30), host.accept()).await??;
        is_opened(&mut call).await?;
        Ok((call, target))
    }
}

/// Waits until a session is open.
pub(crate) async fn is_opened(call: &mut Call) -> Result<()> {
    // Credit for the first bytes may come before.
    loop {
        let frame = call.hear_frame().await?;
        if matches!(frame, SessionFrame::Opened(_)) {
            return Ok(());
        }
        ensure!(matches!(frame, SessionFrame::Stream(Frame::Credit { .. })), "instead of Opened: {frame:?}");
    }
}

/// An agent that the test plays.
pub(crate) struct PlayedAgent {
    pub(crate) peer: Peer,
    pub(crate) link: Call,
}

impl PlayedAgent {
    /// Another process of the world's agent.
    pub(crate) async fn start(world: &World) -> Result<Self> {
        let peer = Peer::connect(world, Some(&enrol(world, "agent.json").await?)).await?;
        let mut link = peer.call(ATTACH).await?;
        let hello = Peer::hello(Peer::instance());
        link.say(&AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) })?;
        let welcome: ServerMessage = link.hear().await?;
        ensure!(matches!(welcome.kind, Some(server_message::Kind::Welcome(_))), "{welcome:?}");
        Ok(Self { peer, link })
    }

    /// Takes the next session up as if its target had been reached.
    pub(crate) async fn take(&mut self, address: SocketAddr) -> Result<Call> {
        let order: ServerMessage = self.link.hear().await?;
        let Some(server_message::Kind::Dial(dial)) = order.kind else { bail!("instead of Dial: {order:?}") };
        let mut call = self.peer.call(path::CARRY).await?;
        call.say_frame(SessionFrame::Take(SessionId::from_bytes(&dial.session_id)?))?;
        call.say_frame(SessionFrame::Opened(address))?;
        Ok(call)
    }
}
