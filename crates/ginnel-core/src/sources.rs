//! Where agents, clients and servers may connect from: a second line behind a firewall.
//!
//! Whoever comes must be within the ranges of the role and within those of the identity. Before a certificate is seen nobody can say who
//! comes; then it is enough that somebody could come from there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::principal::{Name, Principal, Role};
use crate::ranges::Ranges;

/// The ranges of every role and of every identity. The default lets everybody come from anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    roles: BTreeMap<Role, OfRole>,
    /// Whether there is any range.
    are_bounded: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfRole {
    /// `None`: from anywhere.
    role: Option<Ranges>,
    /// Of the identities that have ranges.
    identities: BTreeMap<Name, Ranges>,
    /// From where any identity may come; `None`: one of them from anywhere.
    any_identity: Option<Ranges>,
}

impl Sources {
    /// Takes the ranges of roles, and every identity with its own, if it has any.
    pub fn new<'a>(
        roles: impl IntoIterator<Item = (Role, Option<Ranges>)>,
        identities: impl IntoIterator<Item = (Role, &'a Name, Option<&'a Ranges>)>,
    ) -> Self {
        let mut of: BTreeMap<Role, OfRole> = BTreeMap::new();
        for (role, ranges) in roles {
            of.entry(role).or_default().role = ranges;
        }
        let mut unbound: BTreeMap<Role, bool> = BTreeMap::new();
        for (role, name, ranges) in identities {
            let of_role = of.entry(role).or_default();
            match ranges {
                Some(ranges) => drop(of_role.identities.insert(name.clone(), ranges.clone())),
                None => drop(unbound.insert(role, true)),
            }
        }
        let are_bounded = of.values().any(|of_role| of_role.role.is_some() || !of_role.identities.is_empty());
        for (role, of_role) in &mut of {
            let all_are_bound = !unbound.contains_key(role);
            of_role.any_identity = all_are_bound.then(|| Ranges::union(of_role.identities.values()));
        }
        Self { roles: of, are_bounded }
    }

    /// Whether anybody might come from this address: to be asked before a certificate is seen.
    pub fn might_come_from(&self, address: IpAddr) -> bool {
        let is_in = |ranges: &Option<Ranges>| ranges.as_ref().is_none_or(|ranges| ranges.contains(address));
        !self.are_bounded || self.roles.values().any(|of| is_in(&of.role) && is_in(&of.any_identity))
    }

    /// Whether this principal may come from this address. From an address that is not known may come who may come from anywhere.
    pub fn permits(&self, principal: &Principal, address: Option<IpAddr>) -> bool {
        let Some(of) = self.roles.get(&principal.role) else { return true };
        let ranges = of.role.iter().chain(of.identities.get(&principal.name));
        ranges.into_iter().all(|ranges| address.is_some_and(|address| ranges.contains(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> Ranges {
        Ranges::new(text.split(' ').map(|text| text.parse().unwrap()))
    }

    fn principal(text: &str) -> Principal {
        format!("spiffe://acme.example/{text}").parse().unwrap()
    }

    #[test]
    fn both_the_role_and_the_identity_have_to_permit_it() {
        let names: [Name; 3] = ["acme", "other", "frontend"].map(|name| name.parse().unwrap());
        let own = ranges("10.1.0.0/16 192.0.2.7");
        let sources = Sources::new(
            [(Role::Agent, Some(ranges("10.0.0.0/8"))), (Role::Client, None)],
            [(Role::Agent, &names[0], Some(&own)), (Role::Agent, &names[1], None), (Role::Client, &names[2], None)],
        );
        let cases = [
            ("agent/acme", Some("10.1.2.3"), true),
            ("agent/acme", Some("::ffff:10.1.2.3"), true),
            ("agent/acme", Some("10.2.0.1"), false),
            // Its own ranges do not widen those of its role.
            ("agent/acme", Some("192.0.2.7"), false),
            ("agent/acme", None, false),
            ("agent/other", Some("10.2.0.1"), true),
            ("agent/other", Some("192.0.2.7"), false),
            ("client/frontend", Some("192.0.2.7"), true),
            ("client/frontend", None, true),
            // The same name in another role is somebody else.
            ("client/acme", Some("198.51.100.1"), true),
        ];
        for (who, from, may) in cases {
            let from = from.map(|from| from.parse().unwrap());
            assert_eq!(sources.permits(&principal(who), from), may, "{who} from {from:?}");
        }
    }

    #[test]
    fn before_a_certificate_is_seen_it_counts_who_might_come() {
        let names: [Name; 2] = ["acme", "frontend"].map(|name| name.parse().unwrap());
        let (near, far) = (ranges("10.1.0.0/16"), ranges("203.0.113.0/24"));
        let might = |sources: &Sources, from: &str| sources.might_come_from(from.parse().unwrap());
        let bound = Sources::new(
            [(Role::Agent, Some(ranges("10.0.0.0/8"))), (Role::Client, Some(far.clone()))],
            [(Role::Agent, &names[0], Some(&near)), (Role::Client, &names[1], None)],
        );
        for (from, expected) in [
            ("10.1.0.1", true),
            ("10.2.0.1", false),
            ("203.0.113.9", true),
            ("::ffff:203.0.113.9", true),
            ("192.0.2.1", false),
        ] {
            assert_eq!(might(&bound, from), expected, "{from}");
        }
        // One identity without ranges in a role without ranges: anybody might be that one.
        let open = Sources::new(
            [(Role::Client, Some(far))],
            [(Role::Agent, &names[0], None), (Role::Client, &names[1], None)],
        );
        assert!(might(&open, "192.0.2.1"));
        assert!(might(&Sources::default(), "192.0.2.1"));
        assert!(might(&Sources::new([], []), "192.0.2.1"), "nobody is known, and nothing is said of where from");
    }
}
