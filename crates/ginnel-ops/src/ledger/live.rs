//! A request while it is under way.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ginnel_core::audit::Timestamp;
use ginnel_core::cause::Refusal;
use ginnel_core::denial::Shown;
use ginnel_core::id::{InstanceId, RequestId};
use ginnel_core::principal::{Principal, Role};
use ginnel_core::status::Request;
use ginnel_core::target::Target;
use ginnel_core::traffic::Traffic;
use tokio_util::sync::CancellationToken;

/// A request under way, in the form that takes least: idle sessions are many, and few are ever looked at.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: RequestId,
    /// When it came.
    pub(super) came: Timestamp,
    pub(super) since: Instant,
    pub(super) from: Option<SocketAddr>,
    pub(super) front: Option<&'static str>,
    /// The target, as it was spelled.
    pub(super) spelled: String,
    pub(super) parties: Parties,
    pub(super) client_instance: Option<InstanceId>,
    pub(super) agent_instance: Option<InstanceId>,
    pub(super) rule: Option<String>,
    pub(super) is_carried: bool,
    pub(super) attempts: Vec<String>,
    pub(super) traffic: Traffic,
    pub(super) stop: Arc<Stop>,
}

/// Between whom a request is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parties {
    /// The client.
    pub client: Option<Principal>,
    /// The agent.
    pub agent: Option<Principal>,
    /// The target.
    pub target: Option<Target>,
    /// The address of the target that was dialled.
    pub address: Option<SocketAddr>,
    /// The client's certificate: on a server that of its connection, on an agent that of the inner handshake.
    pub client_certificate: Option<Arc<Shown>>,
    /// On a server, the certificate of the agent's connection.
    pub agent_certificate: Option<Arc<Shown>>,
}

#[derive(Debug, Default)]
pub(super) struct Stop {
    pub(super) token: CancellationToken,
    pub(super) why: OnceLock<Refusal>,
}

impl Live {
    /// The request as people see it, in a process of this role.
    pub(super) fn seen(&self, role: Role) -> Request {
        let (bytes_up, bytes_down) = self.traffic.bytes();
        let Parties { client, agent, target: _, address, client_certificate: _, agent_certificate: _ } = &self.parties;
        Request {
            request_id: self.id.to_string(),
            role: role.to_string(),
            state: (if self.is_carried { "carried" } else { "opening" }).to_owned(),
            since: self.came,
            until: None,
            client: client.as_ref().map(ToString::to_string).or(self.from.map(|from| from.to_string())),
            agent: agent.as_ref().map(ToString::to_string),
            agent_instance: self.agent_instance.map(|instance| instance.to_string()),
            target: self.spelled.clone(),
            address: address.filter(|_| self.is_carried).map(|address| address.to_string()),
            rule: self.rule.clone(),
            front: self.front.map(str::to_owned),
            bytes_up,
            bytes_down,
            hop: None,
            cause: None,
            attempts: self.attempts.clone(),
        }
    }
}
