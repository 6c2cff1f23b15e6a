//! The client owner's word: which agents may serve which target, whatever the server offers.
//!
//! That an agent is who a route names is proved by its certificate in the inner handshake. So with routes the server can keep an agent back,
//! and cannot put another in its place.

use std::collections::BTreeSet;
use std::fmt;

use crate::cause::Cause;
use crate::pattern::TargetPattern;
use crate::principal::Name;
use crate::target::Target;

/// Lets each of its agents serve each of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What is served.
    pub targets: Vec<TargetPattern>,
    /// By whom: names of agents in the client's own trust domain.
    pub agents: BTreeSet<Name>,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<_> = self.targets.iter().map(ToString::to_string).collect();
        let agents: Vec<_> = self.agents.iter().map(Name::as_str).collect();
        write!(f, "{} through {}", targets.join(", "), agents.join(", "))
    }
}

/// The routes of a client. Without any, which is the default, every agent that the server offers may serve; once there are routes, what none
/// of them names is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Option<Vec<Route>>);

impl Routes {
    /// These routes and nothing else; an empty list refuses everything. Their order means nothing: a target may be served by the agents of
    /// every route that names it, as with the rules of a server.
    pub fn pinned(routes: Vec<Route>) -> Self {
        Self(Some(routes))
    }

    /// The routes in the order in which they were given; `None` if the server has the choice.
    pub fn entries(&self) -> Option<&[Route]> {
        self.0.as_deref()
    }

    /// The agents that may serve `target`, connected or not; `None` for every one that the server offers.
    pub fn agents_for(&self, target: &Target) -> Option<BTreeSet<&Name>> {
        let routes = self.0.as_ref()?.iter();
        let naming = routes.filter(|route| route.targets.iter().any(|pattern| pattern.matches(target)));
        Some(naming.flat_map(|route| &route.agents).collect())
    }

    /// Judges a target before any agent is known.
    ///
    /// # Errors
    /// [`Cause::NotOnRoute`] if there are routes and none of them names the target.
    pub fn permits_target(&self, target: &Target) -> Result<(), Cause> {
        let is_named = self.agents_for(target).is_none_or(|agents| !agents.is_empty());
        if is_named { Ok(()) } else { Err(Cause::NotOnRoute) }
    }

    /// Judges a target and the agent that serves it.
    ///
    /// # Errors
    /// [`Cause::NotOnRoute`] if there are routes and none of them names both.
    pub fn permits(&self, target: &Target, agent: &Name) -> Result<(), Cause> {
        let is_named = self.agents_for(target).is_none_or(|agents| agents.contains(agent));
        if is_named { Ok(()) } else { Err(Cause::NotOnRoute) }
    }

    /// Whether the agent may serve anything at all.
    pub fn names(&self, agent: &Name) -> bool {
        self.0.as_ref().is_none_or(|routes| routes.iter().any(|route| route.agents.contains(agent)))
    }

    /// The routes as text: equal texts mean the same permissions written in the same routes, so that a hash of it is a version. The order of
    /// routes, and that of what is in them, does not count.
    pub fn canonical_text(&self) -> String {
        let sorted = |route: &Route| {
            let targets: BTreeSet<_> = route.targets.iter().map(ToString::to_string).collect();
            let agents: Vec<_> = route.agents.iter().map(Name::as_str).collect();
            format!("{}\n{}\n\n", targets.into_iter().collect::<Vec<_>>().join(" "), agents.join(" "))
        };
        match &self.0 {
            None => String::new(),
            Some(routes) => {
                let texts: BTreeSet<_> = routes.iter().map(sorted).collect();
                ["pinned\n".to_owned()].into_iter().chain(texts).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn route(targets: &[&str], agents: &[&str]) -> Route {
        let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
        Route { targets, agents: agents.iter().map(|text| name(text)).collect() }
    }

    fn routes() -> Routes {
        Routes::pinned(vec![
            route(&["git.acme.internal:443", "*.acme.internal:22"], &["acme"]),
            route(&["*.acme.internal:443"], &["acme-2", "acme-3"]),
            route(&["10.20.0.0/16:8000-8100"], &["acme"]),
        ])
    }

    #[test]
    fn a_target_may_be_served_by_the_agents_of_every_route_that_names_it_and_by_nobody_else() {
        let cases: [(&str, &[&str]); 9] = [
            ("git.acme.internal:443", &["acme", "acme-2", "acme-3"]),
            ("GIT.acme.internal.:443", &["acme", "acme-2", "acme-3"]),
            ("npm.acme.internal:443", &["acme-2", "acme-3"]),
            ("git.acme.internal:22", &["acme"]),
            ("git.acme.internal:80", &[]),
            ("a.git.acme.internal:443", &[]),
            ("10.20.3.4:8050", &["acme"]),
            ("10.21.3.4:8050", &[]),
            ("10.20.3.4:443", &[]),
        ];
        let routes = routes();
        for (target, agents) in cases {
            let target: Target = target.parse().unwrap();
            let named: Vec<_> = routes.agents_for(&target).unwrap().into_iter().map(Name::as_str).collect();
            assert_eq!(named, agents, "{target}");
            let refused = if agents.is_empty() { Err(Cause::NotOnRoute) } else { Ok(()) };
            assert_eq!(routes.permits_target(&target), refused, "{target}");
            for agent in ["acme", "acme-2", "acme-3", "acme-20", "other"] {
                let expected = if agents.contains(&agent) { Ok(()) } else { Err(Cause::NotOnRoute) };
                assert_eq!(routes.permits(&target, &name(agent)), expected, "{target} {agent}");
            }
        }
        assert!(routes.names(&name("acme-3")) && !routes.names(&name("other")));
    }

    #[test]
    fn without_routes_the_server_has_the_choice_and_an_empty_list_leaves_none() {
        let target: Target = "git.acme.internal:443".parse().unwrap();
        let (free, empty) = (Routes::default(), Routes::pinned(Vec::new()));
        assert_eq!((free.permits_target(&target), free.permits(&target, &name("other"))), (Ok(()), Ok(())));
        assert!(free.agents_for(&target).is_none() && free.names(&name("other")));
        assert_eq!(empty.permits_target(&target), Err(Cause::NotOnRoute));
        assert_eq!(empty.permits(&target, &name("acme")), Err(Cause::NotOnRoute));
        assert!(!empty.names(&name("acme")));
    }

    #[test]
    fn the_text_tells_routes_apart_and_their_order_does_not_count() {
        let list = routes().entries().unwrap().to_vec();
        let text = |change: fn(&mut Vec<Route>)| {
            let mut list = list.clone();
            change(&mut list);
            Routes::pinned(list).canonical_text()
        };
        assert_eq!(text(|list| list.reverse()), text(|_| {}));
        assert_eq!(text(|list| list[0].targets.reverse()), text(|_| {}));
        let others = [
            text(|_| {}),
            text(|list| drop(list.pop())),
            text(|list| drop(list[0].targets.pop())),
            text(|list| drop(list[1].agents.pop_last())),
            text(|list| list[2].agents = list[1].agents.clone()),
            text(Vec::clear),
            Routes::default().canonical_text(),
        ];
        let distinct: BTreeSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len(), "{others:#?}");
    }
}
