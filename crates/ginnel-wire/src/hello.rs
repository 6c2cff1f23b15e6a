//! The first exchange on every standing stream, and the messages of the control streams.

use bytes::Bytes;
use ginnel_core::id::{InstanceId, RequestId, SessionId};
use ginnel_core::limits::{EARLY_MAX, LANES_MAX};
use ginnel_core::pattern::TargetPattern;
use ginnel_core::principal::Principal;
use ginnel_core::roster::{Entry, Process};
use ginnel_core::target::Target;

use crate::frame::WireError;
use crate::v1;

/// The protocol version that this software speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// Protocol versions that this software carries on with: its own and its neighbours.
pub const PROTOCOL_VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;

/// Whether this software carries on with a peer of that protocol version.
pub fn is_spoken(protocol_version: u32) -> bool {
    PROTOCOL_VERSIONS.contains(&protocol_version)
}

/// Capability: sessions with inner TLS.
pub const INNER_TLS: &str = "innerTls";

/// Capability: an agent that takes the first bytes of a session with its dial.
pub const EARLY_BYTES: &str = "earlyBytes";

/// Capability of a server: it takes several connections of one process as such. One that does not say so would take a further connection for
/// a newer one that replaces the first.
pub const LANES: &str = "lanes";

/// Most bytes of a software version, and most capabilities, that are taken from a peer.
const VERSION_MAX: usize = 64;
const CAPABILITIES_MAX: usize = 64;

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which process.
    pub instance: InstanceId,
    /// Its software version, for people.
    pub software_version: String,
    /// What it can do beyond the protocol version.
    pub capabilities: Vec<String>,
    /// Which of the process's connections this is; 0 is the first.
    pub lane: u32,
}

impl Hello {
    /// This software's hello on one of its connections.
    pub fn new(instance: InstanceId, lane: u32) -> Self {
        let capabilities = vec![INNER_TLS.to_owned(), EARLY_BYTES.to_owned()];
        Self { instance, software_version: software_version().to_owned(), capabilities, lane }
    }

    /// Whether it is said on the first connection, which stands for the process.
    pub fn is_first(&self) -> bool {
        self.lane == 0
    }
}

/// Version of this software.
pub fn software_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;

    fn try_from(hello: v1::Hello) -> Result<Self, WireError> {
        if !is_spoken(hello.protocol_version) {
            return Err(WireError::Field("hello.protocol_version"));
        }
        let version_is_plain = hello.software_version.bytes().all(|b| b.is_ascii_graphic());
        if hello.software_version.len() > VERSION_MAX || !version_is_plain {
            return Err(WireError::Field("hello.software_version"));
        }
        if hello.capabilities.len() > CAPABILITIES_MAX {
            return Err(WireError::Field("hello.capabilities"));
        }
        if !usize::try_from(hello.lane).is_ok_and(|lane| lane < LANES_MAX) {
            return Err(WireError::Field("hello.lane"));
        }
        Ok(Self {
            instance: InstanceId::from_bytes(&hello.instance_id).map_err(|_| WireError::Field("hello.instance_id"))?,
            software_version: hello.software_version,
            capabilities: hello.capabilities,
            lane: hello.lane,
        })
    }
}

impl From<Hello> for v1::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            instance_id: hello.instance.to_bytes().to_vec(),
            software_version: hello.software_version,
            protocol_version: PROTOCOL_VERSION,
            capabilities: hello.capabilities,
            lane: hello.lane,
        }
    }
}

/// A server's order to connect to a target and take a session up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Names the session to `Carry`.
    pub session: SessionId,
    /// The request of the application.
    pub request: RequestId,
    /// Where to.
    pub target: Target,
    /// Who wants it, as the server says; inside, the agent verifies it itself.
    pub client: Principal,
    /// Whether the client speaks inner TLS.
    pub inner_tls: bool,
    /// The first bytes of the session, which `Carry` goes on after.
    pub early: Bytes,
}

impl TryFrom<v1::Dial> for Dial {
    type Error = WireError;

    fn try_from(dial: v1::Dial) -> Result<Self, WireError> {
        Ok(Self {
            session: SessionId::from_bytes(&dial.session_id).map_err(|_| WireError::Field("dial.session_id"))?,
            request: RequestId::from_bytes(&dial.request_id).map_err(|_| WireError::Field("dial.request_id"))?,
            target: dial.target.parse().map_err(|_| WireError::Field("dial.target"))?,
            client: dial.client.parse().map_err(|_| WireError::Field("dial.client"))?,
            inner_tls: dial.inner_tls,
            early: within_early(dial.early)?,
        })
    }
}

fn within_early(early: Bytes) -> Result<Bytes, WireError> {
    if early.len() > EARLY_MAX { Err(WireError::Field("dial.early")) } else { Ok(early) }
}

impl From<Dial> for v1::Dial {
    fn from(dial: Dial) -> Self {
        Self {
            session_id: dial.session.to_bytes().to_vec(),
            request_id: dial.request.to_bytes().to_vec(),
            target: dial.target.to_string(),
            client: dial.client.to_string(),
            inner_tls: dial.inner_tls,
            early: dial.early,
        }
    }
}

/// An agent on a roster, with all of its live processes: its targets are said once, however many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterEntry {
    /// Who the agent is.
    pub agent: Principal,
    /// What the client may reach through it.
    pub targets: Vec<TargetPattern>,
    /// Its live processes, and whether each is draining.
    pub instances: Vec<(InstanceId, bool)>,
}

impl RosterEntry {
    /// The entry as a roster keeps it.
    pub fn into_entry(self) -> Entry {
        let Self { agent, targets, instances } = self;
        let processes = instances.into_iter().map(|(instance, draining)| Process { instance, draining }).collect();
        Entry { agent: agent.name, targets, processes }
    }
}

impl TryFrom<v1::RosterEntry> for RosterEntry {
    type Error = WireError;

    fn try_from(entry: v1::RosterEntry) -> Result<Self, WireError> {
        let agent: Principal = entry.agent.parse().map_err(|_| WireError::Field("entry.agent"))?;
        let targets: Result<Vec<TargetPattern>, _> = entry.targets.iter().map(|target| target.parse()).collect();
        let targets = targets.map_err(|_| WireError::Field("entry.targets"))?;
        let instances: Result<Vec<_>, _> = entry
            .instances
            .iter()
            .map(|instance| InstanceId::from_bytes(&instance.instance_id).map(|id| (id, instance.draining)))
            .collect();
        let instances = instances.map_err(|_| WireError::Field("entry.instances"))?;
        Ok(Self { agent, targets, instances })
    }
}

impl From<RosterEntry> for v1::RosterEntry {
    fn from(entry: RosterEntry) -> Self {
        Self {
            agent: entry.agent.to_string(),
            targets: entry.targets.iter().map(ToString::to_string).collect(),
            instances: entry
                .instances
                .iter()
                .map(|(instance, draining)| v1::RosterInstance {
                    instance_id: instance.to_bytes().to_vec(),
                    draining: *draining,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_reads_back_and_bad_ones_are_named() {
        let hello = Hello::new(InstanceId::from_bytes(&[5; 16]).unwrap(), 3);
        let wire = v1::Hello::from(hello.clone());
        assert_eq!(Hello::try_from(wire.clone()), Ok(hello));
        let cases = [
            (v1::Hello { protocol_version: 0, ..wire.clone() }, "hello.protocol_version"),
            (v1::Hello { protocol_version: u32::MAX, ..wire.clone() }, "hello.protocol_version"),
            (v1::Hello { software_version: "1\u{1b}[31m".into(), ..wire.clone() }, "hello.software_version"),
            (v1::Hello { capabilities: vec![String::new(); 65], ..wire.clone() }, "hello.capabilities"),
            (v1::Hello { lane: 16, ..wire.clone() }, "hello.lane"),
            (v1::Hello { lane: u32::MAX, ..wire.clone() }, "hello.lane"),
            (v1::Hello { instance_id: vec![], ..wire }, "hello.instance_id"),
        ];
        for (wire, field) in cases {
            assert_eq!(Hello::try_from(wire), Err(WireError::Field(field)));
        }
    }

    #[test]
    fn roster_reads_back_with_its_targets_once() {
        let id = |n| InstanceId::from_bytes(&[n; 16]).unwrap();
        let entry = RosterEntry {
            agent: "spiffe://acme.example/agent/acme".parse().unwrap(),
            targets: vec!["*.acme.internal:443".parse().unwrap(), "10.0.0.0/8:22".parse().unwrap()],
            instances: vec![(id(1), false), (id(2), true)],
        };
        assert_eq!(RosterEntry::try_from(v1::RosterEntry::from(entry.clone())), Ok(entry.clone()));
        let kept = entry.into_entry();
        let process = |n, draining| Process { instance: id(n), draining };
        assert_eq!((kept.targets.len(), kept.processes), (2, vec![process(1, false), process(2, true)]));
    }

    #[test]
    fn dial_reads_back() {
        let dial = Dial {
            session: SessionId::from_bytes(&[1; 16]).unwrap(),
            request: RequestId::from_bytes(&[2; 16]).unwrap(),
            target: "gitlab.acme.internal:22".parse().unwrap(),
            client: "spiffe://acme.example/client/frontend".parse().unwrap(),
            inner_tls: true,
            early: Bytes::from_static(b"ClientHello"),
        };
        let message = v1::Dial::from(dial.clone());
        assert_eq!(Dial::try_from(message.clone()), Ok(dial));
        let too_much = v1::Dial { early: vec![0; EARLY_MAX + 1].into(), ..message };
        assert_eq!(Dial::try_from(too_much), Err(WireError::Field("dial.early")));
    }
}
