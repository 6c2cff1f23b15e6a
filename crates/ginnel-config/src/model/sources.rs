//! Where connections may come from, and who may say where a connection comes from.

use ginnel_core::principal::Role;
use ginnel_core::ranges::{Network, Ranges};
use serde_json::json;

use crate::finding::Place;
use crate::shape::{self, Context, Fields, Kind, List, Shape, Text, object};
use crate::tree::Node;

/// Where agents and clients may come from; `None`: from anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSources {
    /// Agents.
    pub agent: Option<Ranges>,
    /// Clients.
    pub client: Option<Ranges>,
}

impl AllowedSources {
    /// The ranges of each role.
    pub fn by_role(&self) -> [(Role, Option<Ranges>); 2] {
        [(Role::Agent, self.agent.clone()), (Role::Client, self.client.clone())]
    }
}

/// A list of networks of which there is at least one, as the set of their addresses.
#[derive(Clone, Debug)]
pub(super) struct RangesShape(List<Text<Network>>);

pub(super) fn ranges() -> RangesShape {
    RangesShape(shape::list_of_some(shape::parsed()))
}

impl Shape for RangesShape {
    type Value = Ranges;

    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn decode(&self, node: &Node, place: &Place, context: &mut Context<'_>) -> Option<Ranges> {
        self.0.decode(node, place, context).map(Ranges::new)
    }
}

/// `allowedSourceRanges` of a server.
pub(super) fn allowed(fields: &mut Fields<'_, '_>) -> Option<AllowedSources> {
    fields
        .field(
            "allowedSourceRanges",
            "Networks from which connections may come, by role: a second line behind a firewall. Who comes from anywhere else is turned \
             away before TLS begins, or, where another role may come from there, once the certificate is seen. Without it: from \
             anywhere. A reload closes what is outside of new ranges.",
        )
        .required(object(by_role))
}

fn by_role(fields: &mut Fields<'_, '_>) -> Option<AllowedSources> {
    let agent = fields
        .field("agent", "Of agents: addresses and networks. Without it: from anywhere.")
        .example_off(json!(["203.0.113.0/24"]))
        .optional(ranges());
    let client =
        fields.field("client", "Of clients.").example_off(json!(["10.0.0.0/8", "fd00::/8"])).optional(ranges());
    Some(AllowedSources { agent, client })
}

/// `proxyProtocol` of a server: the balancers that say where connections come from.
pub(super) fn balancers(fields: &mut Fields<'_, '_>) -> Option<Option<Ranges>> {
    fields
        .field(
            "proxyProtocol",
            "Load balancers that begin each connection with a header of the PROXY protocol, version 2.",
        )
        .required(object(from))
}

fn from(fields: &mut Fields<'_, '_>) -> Option<Option<Ranges>> {
    let from = fields
        .field(
            "from",
            "Their addresses and networks. A connection from there has to begin with such a header, and what the header says counts as \
             the address that it comes from, in ranges, bounds and records. From anywhere else nobody is believed. A change takes a \
             restart.",
        )
        .example_off(json!(["10.0.0.0/28"]))
        .optional(ranges());
    Some(from)
}

/// `sourceRanges` of an identity.
pub(super) fn of_identity(fields: &mut Fields<'_, '_>) -> Option<Ranges> {
    fields
        .field(
            "sourceRanges",
            "Addresses and networks from which it may connect and enrol, beside those that its role may come from: both count. Without \
             it: those of its role.",
        )
        .example_off(json!(["203.0.113.7"]))
        .optional(ranges())
}
