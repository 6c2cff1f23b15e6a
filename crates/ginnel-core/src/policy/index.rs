//! The rules by client, by agent, by target and by source, so that a decision looks at few of them.
//!
//! A rule allows a session if it is in four sets: the rules of the client, of the agent, of the target and of the source. If one of the sets is small,
//! its rules are looked at; otherwise the sets are cut with each other as bits, which takes a step for 64 rules. So a decision takes at most some
//! thousand steps in a policy of 100,000 rules, however its rules overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Rule;
use super::hosts::{Found, Hosts};
use super::networks::Networks;
use super::posting::{Posting, first_in, first_of_both, no_bits, ones, set};
use crate::principal::Name;
use crate::target::Target;

/// Rules that are looked at one by one whatever the size of the policy.
pub(super) const LOOK_AT: usize = 64;

/// One more for so many rules: so many of them cost as much to look at as cutting all sets.
const LOOK_AT_SHARE: usize = 1024;

/// Targets of a rule that are compared one by one.
const TARGETS_MAX: usize = 8;

/// Some of the rules of a policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// How many rules the policy has, those that are not in here included.
    rules: usize,
    clients: BTreeMap<Name, Posting>,
    agents: BTreeMap<Name, Posting>,
    hosts: Hosts,
    /// `None` while no rule asks for the source.
    sources: Option<Sources>,
}

#[derive(Clone, Debug, Default)]
struct Sources {
    anywhere: Posting,
    networks: Networks<Posting>,
}

/// What a rule is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    pub(super) client: &'a Name,
    /// `None`: through anybody.
    pub(super) agent: Option<&'a Name>,
    pub(super) target: &'a Target,
    /// `None`: from wherever the rule says.
    pub(super) source: Option<IpAddr>,
}

/// What a search has taken, which does not depend on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effort {
    /// Rules that were looked at.
    pub(super) rules: usize,
    /// Words of bits that were cut or joined, and places in lists and tables that were looked up.
    pub(super) steps: usize,
}

/// In what a rule fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Respect {
    Client,
    Agent,
    Target,
    Source,
}

/// The rules that fit in one respect.
struct Fitting<'a> {
    respect: Respect,
    sets: Vec<&'a Posting>,
    few: Vec<u32>,
}

impl Index {
    /// The rules of `all` that `is_in` says. A rule without agents allows nothing, whoever asks.
    pub(super) fn new(all: &[Rule], is_in: impl Fn(&Rule) -> bool) -> Self {
        let mut index = Self { rules: all.len(), ..Self::default() };
        let within = || (0..).zip(all).filter(|(_, rule)| !rule.agents.is_empty() && is_in(rule));
        if within().any(|(_, rule): (u32, &Rule)| rule.sources.is_some()) {
            index.sources = Some(Sources::default());
        }
        for (place, rule) in within() {
            index.add(place, rule);
        }
        index.seal();
        index
    }

    fn add(&mut self, place: u32, rule: &Rule) {
        for (names, of) in [(&rule.clients, &mut self.clients), (&rule.agents, &mut self.agents)] {
            for name in names {
                match of.get_mut(name) {
                    Some(posting) => posting.push(place),
                    None => of.entry(name.clone()).or_default().push(place),
                }
            }
        }
        for pattern in &rule.targets {
            self.hosts.add(pattern, place);
        }
        if let Some(sources) = &mut self.sources {
            match &rule.sources {
                None => sources.anywhere.push(place),
                Some(ranges) => {
                    ranges.networks().iter().for_each(|network| sources.networks.entry(*network).push(place));
                }
            }
        }
    }

    fn seal(&mut self) {
        let rules = self.rules;
        self.clients.values_mut().chain(self.agents.values_mut()).for_each(|posting| posting.seal(rules));
        self.hosts.seal(rules);
        if let Some(sources) = &mut self.sources {
            sources.anywhere.seal(rules);
            sources.networks.all().for_each(|posting| posting.seal(rules));
        }
    }

    /// Whether the source of a session makes a difference to any rule.
    pub(super) fn asks_for_source(&self) -> bool {
        self.sources.is_some()
    }

    /// The place of the first rule that the query means and that `fits`. `all` is what the index was made of.
    pub(super) fn first(
        &self,
        all: &[Rule],
        query: Query<'_>,
        fits: impl Fn(&Rule) -> bool,
        effort: &mut Effort,
    ) -> Option<u32> {
        let Found { sets, few, looks } = self.hosts.find(query.target);
        effort.steps += looks + 2;
        let client = Fitting::one(Respect::Client, self.clients.get(query.client)?);
        let agent = match query.agent {
            Some(agent) => Some(Fitting::one(Respect::Agent, self.agents.get(agent)?)),
            None => None,
        };
        let source = match (&self.sources, query.source) {
            (Some(sources), Some(address)) => Some(sources.fitting(address, effort)),
            (Some(_), None) | (None, _) => None,
        };
        let target = Fitting { respect: Respect::Target, sets, few };
        let mut others: Vec<_> = [Some(client), agent, source].into_iter().flatten().collect();
        others.sort_by_key(Fitting::count);
        let (smallest, rest) = others.split_first()?;
        let looked_at = LOOK_AT + self.rules / LOOK_AT_SHARE;
        if target.count().min(smallest.count()) <= looked_at {
            let (few, rest): (_, Vec<_>) = if target.count() <= smallest.count() {
                (&target, others.iter().collect())
            } else {
                (smallest, rest.iter().chain([&target]).collect())
            };
            return few.look(|place| {
                effort.rules += 1;
                let Some(rule) = all.get(place as usize) else { return false };
                rest.iter().all(|fitting| fitting.has(place, rule, query, effort)) && fits(rule)
            });
        }
        let mut common = no_bits(self.rules);
        for (number, fitting) in others.iter().enumerate() {
            fitting.cut(&mut common, number == 0, effort);
            if common.iter().all(|word| *word == 0) {
                return None;
            }
        }
        // Where many rules of a client mean a target, one of its first does: to look for the first in all sets of the target may take longest.
        for place in ones(&common).take(LOOK_AT) {
            effort.rules += 1;
            match all.get(place as usize) {
                Some(rule) if rule.targets.len() > TARGETS_MAX => break,
                Some(rule) if rule.means(query.target) && fits(rule) => return Some(place),
                Some(_) | None => {}
            }
        }
        target.first_in(&common, |place| all.get(place as usize).is_some_and(&fits), effort)
    }
}

impl Sources {
    fn fitting(&self, address: IpAddr, effort: &mut Effort) -> Fitting<'_> {
        let sets: Vec<_> = std::iter::once(&self.anywhere).chain(self.networks.containing(address)).collect();
        effort.steps += sets.len();
        Fitting { respect: Respect::Source, sets, few: Vec::new() }
    }
}

impl<'a> Fitting<'a> {
    fn one(respect: Respect, posting: &'a Posting) -> Self {
        Self { respect, sets: vec![posting], few: Vec::new() }
    }

    /// At least as many as there are: one may be in two sets.
    fn count(&self) -> usize {
        self.sets.iter().map(|posting| posting.list().len()).sum::<usize>() + self.few.len()
    }

    /// Whether a rule is one of them, asked of the rule where that takes fewer steps: an address may be in many networks.
    fn has(&self, place: u32, rule: &Rule, query: Query<'_>, effort: &mut Effort) -> bool {
        effort.steps += 1;
        if self.respect == Respect::Target && rule.targets.len() <= self.sets.len() {
            effort.steps += rule.targets.len();
            return rule.targets.iter().any(|pattern| pattern.matches(query.target));
        }
        if self.respect == Respect::Source
            && let (Some(ranges), Some(address)) = (&rule.sources, query.source)
        {
            return ranges.contains(address);
        }
        let is_in_a_set = self.sets.iter().any(|posting| {
            effort.steps += 1;
            posting.contains(place)
        });
        is_in_a_set || self.few.binary_search(&place).is_ok()
    }

    /// The first of them that `fits`.
    fn look(&self, mut fits: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best: Option<u32> = None;
        for list in self.sets.iter().map(|posting| posting.list()).chain([self.few.as_slice()]) {
            let found = list
                .iter()
                .copied()
                .take_while(|place| best.is_none_or(|best| *place < best))
                .find(|place| fits(*place));
            best = found.or(best);
        }
        best
    }

    /// The first of them that is in `common` and `fits`.
    fn first_in(&self, common: &[u64], mut fits: impl FnMut(u32) -> bool, effort: &mut Effort) -> Option<u32> {
        let mut best: Option<u32> = None;
        for posting in &self.sets {
            let found = match posting.bits() {
                Some(bits) => {
                    effort.steps += bits.len();
                    first_of_both(common, bits, best, &mut fits)
                }
                None => {
                    effort.steps += posting.list().len();
                    first_in(common, posting.list(), best, &mut fits)
                }
            };
            best = found.or(best);
        }
        effort.steps += self.few.len();
        first_in(common, &self.few, best, fits).or(best)
    }

    /// Leaves in `common` what is in both; at the beginning, what is in this.
    fn cut(&self, common: &mut [u64], is_first: bool, effort: &mut Effort) {
        effort.steps += common.len();
        if let ([posting], []) = (self.sets.as_slice(), self.few.as_slice())
            && let Some(bits) = posting.bits()
        {
            if is_first {
                common.copy_from_slice(bits);
            } else {
                common.iter_mut().zip(bits).for_each(|(common, bits)| *common &= bits);
            }
            return;
        }
        let mut joined = vec![0; common.len()];
        for posting in &self.sets {
            match posting.bits() {
                Some(bits) => {
                    effort.steps += bits.len();
                    joined.iter_mut().zip(bits).for_each(|(joined, bits)| *joined |= bits);
                }
                None => {
                    effort.steps += posting.list().len();
                    set(&mut joined, posting.list());
                }
            }
        }
        set(&mut joined, &self.few);
        if is_first {
            common.copy_from_slice(&joined);
        } else {
            common.iter_mut().zip(&joined).for_each(|(common, joined)| *common &= joined);
        }
    }
}
