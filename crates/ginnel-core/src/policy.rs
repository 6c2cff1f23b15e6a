//! The server's word: which client may reach which target through which agent. What no rule allows is denied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use self::index::{Effort, Index, Query};
use crate::audit::Timestamp;
use crate::cause::Cause;
use crate::pattern::TargetPattern;
use crate::principal::Name;
use crate::ranges::Ranges;
use crate::target::Target;

pub use self::verdict::{matrix, verdict};

mod hosts;
mod index;
mod miss;
mod networks;
mod posting;
mod verdict;

/// Rules that may have expired since a policy was made before it is worth making anew. A decision may look at each of them for nothing.
const EXPIRED_SINCE_MAX: usize = 256;

/// How long before a rule expires people are told: a week, so that whoever looks on working days sees it.
pub const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lets each of its clients reach each of its targets through each of its agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What audit records call it.
    pub name: String,
    /// Who may reach the targets.
    pub clients: BTreeSet<Name>,
    /// Through whom.
    pub agents: BTreeSet<Name>,
    /// What may be reached.
    pub targets: Vec<TargetPattern>,
    /// From when on it allows nothing; `None` if it has no end.
    pub expires: Option<Timestamp>,
    /// Where the client's connection must come from; `None`: from anywhere.
    pub sources: Option<Ranges>,
}

impl Rule {
    /// Whether it allows nothing any more.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn permits_source(&self, source: Source) -> bool {
        match (&self.sources, source) {
            (Some(ranges), Source::Address(address)) => ranges.contains(address),
            (None, _) | (_, Source::Anywhere) => true,
        }
    }

    fn means(&self, target: &Target) -> bool {
        self.targets.iter().any(|pattern| pattern.matches(target))
    }
}

/// The rule that allowed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The name of the rule.
    pub rule: String,
}

/// Where the client's connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this address.
    Address(IpAddr),
    /// From wherever a rule wants it: for questions of people, who do not say. No session is judged so.
    Anywhere,
}

impl Source {
    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Anywhere => None,
        }
    }
}

/// A session that somebody wants, or has.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Who.
    pub client: &'a Name,
    /// Where to.
    pub target: &'a Target,
    /// Where the client's connection comes from.
    pub source: Source,
    /// When.
    pub now: Timestamp,
}

/// The rules, in order.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    /// The places in `rules` that concern a client, in order.
    by_client: BTreeMap<Name, Vec<usize>>,
    /// The rules that were in force when this was made: a decision looks at no others.
    in_force: Index,
    /// Those that had expired, which say why something is refused.
    expired: Index,
    /// The places of rules with an expiry, the earliest first.
    by_expiry: Vec<usize>,
    /// How many of them had expired.
    expired_before: usize,
}

impl Policy {
    /// A policy of these rules. Their order decides which one a permit names, never what is allowed. Asked about a time before `now`, it still
    /// refuses what had expired by `now`, and [is worn](Self::is_worn).
    pub fn new(rules: Vec<Rule>, now: Timestamp) -> Self {
        let mut by_client: BTreeMap<Name, Vec<usize>> = BTreeMap::new();
        for (at, rule) in rules.iter().enumerate() {
            for client in &rule.clients {
                match by_client.get_mut(client) {
                    Some(places) => places.push(at),
                    None => drop(by_client.insert(client.clone(), vec![at])),
                }
            }
        }
        let mut by_expiry: Vec<usize> = (0..rules.len()).filter(|at| rules[*at].expires.is_some()).collect();
        by_expiry.sort_by_key(|at| rules[*at].expires);
        let mut policy = Self {
            in_force: Index::new(&rules, |rule| !rule.has_expired(now)),
            expired: Index::new(&rules, |rule| rule.has_expired(now)),
            expired_before: 0,
            by_client,
            by_expiry,
            rules,
        };
        policy.expired_before = policy.expired_by(now);
        policy
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.rules.len()
    }

    /// Decides whether a client may have a session through `agent`; the permit names the first rule that says so.
    ///
    /// # Errors
    /// [`Cause::NotAllowed`] if there is no such rule, [`Cause::SourceRefused`] if the client would have to come from somewhere else, and
    /// [`Cause::RuleExpired`] if there was one.
    pub fn decide(&self, ask: &Ask<'_>, agent: &Name) -> Result<Permit, Cause> {
        self.judge(ask, Some(agent), &mut Effort::default()).map(|rule| Permit { rule: rule.name.clone() })
    }

    /// Decides whether a client may have a session through any agent, connected or not.
    ///
    /// # Errors
    /// As [`Self::decide`].
    pub fn allows(&self, ask: &Ask<'_>) -> Result<(), Cause> {
        self.judge(ask, None, &mut Effort::default()).map(drop)
    }

    fn judge(&self, ask: &Ask<'_>, agent: Option<&Name>, effort: &mut Effort) -> Result<&Rule, Cause> {
        let Ask { client, target, source, now } = *ask;
        let query = Query { client, agent, target, source: source.address() };
        let is_in_force = |rule: &Rule| !rule.has_expired(now);
        if let Some(place) = self.in_force.first(&self.rules, query, is_in_force, effort) {
            // The place is one of the policy's own.
            return self.rules.get(place as usize).ok_or(Cause::Internal);
        }
        let anywhere = Query { source: None, ..query };
        let mut is_there =
            |index: &Index, fits: &dyn Fn(&Rule) -> bool| index.first(&self.rules, anywhere, fits, effort).is_some();
        if self.in_force.asks_for_source() && is_there(&self.in_force, &is_in_force) {
            return Err(Cause::SourceRefused);
        }
        let some_expired_since = self.expired_by(now) > self.expired_before;
        let was_there = is_there(&self.expired, &|_| true)
            || (some_expired_since && is_there(&self.in_force, &|rule| rule.has_expired(now)));
        Err(if was_there { Cause::RuleExpired } else { Cause::NotAllowed })
    }

    /// The agents through which a client may have a session, connected or not. None means that it may not.
    pub fn agents_for(&self, ask: &Ask<'_>) -> BTreeSet<Name> {
        self.matching(ask).flat_map(|rule| rule.agents.iter().cloned()).collect()
    }

    /// What `client` may reach from there at this time, by agent: each pattern once, in the order of the rules.
    pub fn reach(&self, client: &Name, source: Source, now: Timestamp) -> BTreeMap<Name, Vec<TargetPattern>> {
        let mut reach: BTreeMap<Name, Vec<TargetPattern>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for rule in self.rules_of(client).filter(|rule| !rule.has_expired(now) && rule.permits_source(source)) {
            for agent in &rule.agents {
                let new = rule.targets.iter().filter(|target| seen.insert((agent, *target)));
                reach.entry(agent.clone()).or_default().extend(new.cloned());
            }
        }
        reach
    }

    /// How many rules have expired at this time.
    pub fn expired_by(&self, now: Timestamp) -> usize {
        self.by_expiry.partition_point(|at| self.rules[*at].has_expired(now))
    }

    /// The rules that have an expiry, the earliest first.
    pub fn by_expiry(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.by_expiry.iter().map(|at| &self.rules[*at])
    }

    /// Whether it is time to make it anew: so many rules have expired since, or some had expired only by a clock that was put right.
    pub fn is_worn(&self, now: Timestamp) -> bool {
        let expired = self.expired_by(now);
        expired < self.expired_before || expired - self.expired_before > EXPIRED_SINCE_MAX
    }

    /// The policy as text: equal texts mean equal policies, so that a hash of it is a version. It is the same before and after a rule expires.
    ///
    /// Rules keep their order, which decides what a permit names; everything inside a rule is sorted.
    pub fn canonical_text(&self) -> String {
        let mut text = String::new();
        for Rule { name, clients, agents, targets, expires, sources } in &self.rules {
            // Only the name may contain spaces and line ends, so its length is what keeps two policies from having
            // one text.
            let _ = writeln!(text, "rule {} {name}", name.len());
            write_line(&mut text, "clients", clients);
            write_line(&mut text, "agents", agents);
            write_line(&mut text, "targets", &targets.iter().collect());
            if let Some(expires) = expires {
                let _ = writeln!(text, "expires {expires}");
            }
            if let Some(sources) = sources {
                write_line(&mut text, "sources", &sources.networks().iter().collect());
            }
        }
        text
    }

    fn rules_of(&self, client: &Name) -> impl Iterator<Item = &Rule> {
        self.by_client.get(client).into_iter().flatten().map(|&at| &self.rules[at])
    }

    fn matching(&self, ask: &Ask<'_>) -> impl Iterator<Item = &Rule> {
        let Ask { client, target, source, now } = *ask;
        let fits = move |rule: &&Rule| rule.means(target) && !rule.has_expired(now) && rule.permits_source(source);
        self.rules_of(client).filter(fits)
    }
}

fn write_line(text: &mut String, word: &str, items: &BTreeSet<impl std::fmt::Display>) {
    text.push_str(word);
    for item in items {
        let _ = write!(text, " {item}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod shape;
