//! Routes as people see them, and what a reload says of them.

use std::collections::BTreeSet;

use ginnel_core::audit::Text;
use ginnel_core::route::{Route, Routes};
use ginnel_core::status;
use ginnel_identity::key::sha256;

/// Routes that are given of each kind of change; more of them are counted.
const SHOWN_MAX: usize = 20;

/// A version that says the same of the same routes in every client; their order does not count. Empty without routes.
pub(crate) fn version(routes: &Routes) -> String {
    /// Hexadecimal digits of it, as of a policy's.
    const DIGITS: usize = 16;
    if routes.entries().is_none() {
        return String::new();
    }
    let mut hex = Text::hex(&sha256(routes.canonical_text().as_bytes())).as_str().to_owned();
    hex.truncate(DIGITS);
    hex
}

/// The routes for a status.
pub(crate) fn seen(routes: &Routes) -> Option<Vec<status::Route>> {
    let seen = |route: &Route| status::Route {
        targets: route.targets.iter().map(ToString::to_string).collect(),
        agents: route.agents.iter().map(ToString::to_string).collect(),
    };
    routes.entries().map(|routes| routes.iter().map(seen).collect())
}

/// What is different, one line each; nothing if nothing is.
pub(crate) fn changes(before: &Routes, after: &Routes) -> Vec<String> {
    let set = |routes: &Routes| -> BTreeSet<String> {
        routes.entries().unwrap_or_default().iter().map(ToString::to_string).collect()
    };
    let mut lines = Vec::new();
    match (before.entries(), after.entries()) {
        (None, Some(_)) => lines.push("what no route names is refused from here on".to_owned()),
        (Some(_), None) => {
            lines.push("there are no routes any more: every agent that the server offers may serve".to_owned());
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    let (before, after) = (set(before), set(after));
    for (how, routes) in [("added", after.difference(&before)), ("removed", before.difference(&after))] {
        let routes: Vec<_> = routes.cloned().collect();
        let shown = routes[..routes.len().min(SHOWN_MAX)].join("; ");
        match routes.len().saturating_sub(SHOWN_MAX) {
            0 if routes.is_empty() => {}
            0 => lines.push(format!("routes {how}: {shown}")),
            more => lines.push(format!("routes {how}: {shown} and {more} more")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(texts: &[(&str, &str)]) -> Routes {
        let route = |(target, agent): &(&str, &str)| Route {
            targets: vec![target.parse().unwrap()],
            agents: BTreeSet::from([agent.parse().unwrap()]),
        };
        Routes::pinned(texts.iter().map(route).collect())
    }

    #[test]
    fn a_change_is_told_with_what_it_means() {
        let (none, empty) = (Routes::default(), Routes::pinned(Vec::new()));
        let one = routes(&[("git.acme.internal:443", "acme")]);
        let other = routes(&[("git.acme.internal:443", "acme-2")]);
        let refused = "what no route names is refused from here on";
        let cases: [(&Routes, &Routes, &[&str]); 6] = [
            (&none, &none, &[]),
            (&one, &one, &[]),
            (&none, &empty, &[refused]),
            (&none, &one, &[refused, "routes added: git.acme.internal:443 through acme"]),
            (
                &one,
                &other,
                &[
                    "routes added: git.acme.internal:443 through acme-2",
                    "routes removed: git.acme.internal:443 through acme",
                ],
            ),
            (
                &one,
                &none,
                &[
                    "there are no routes any more: every agent that the server offers may serve",
                    "routes removed: git.acme.internal:443 through acme",
                ],
            ),
        ];
        for (before, after, lines) in cases {
            assert_eq!(changes(before, after), lines);
        }
        let versions: BTreeSet<_> = [&none, &empty, &one, &other].map(version).into();
        assert_eq!(versions.len(), 4, "{versions:?}");
        assert_eq!(version(&none), "");
    }
}
