//! Which live agent carries a session.

use std::collections::BTreeSet;

use rand_core::Rng;

use crate::backoff::draw_up_to;
use crate::cause::Cause;
use crate::id::InstanceId;
use crate::limits::ROSTER_PROCESSES_MAX;
use crate::pattern::TargetPattern;
use crate::principal::Name;
use crate::route::Routes;
use crate::target::Target;

/// A live agent, as far as one client may use it. What it serves is kept once, however many processes it has: a roster comes from the server,
/// and must not grow when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who it is.
    pub agent: Name,
    /// What the client may reach through it.
    pub targets: Vec<TargetPattern>,
    /// Its live processes.
    pub processes: Vec<Process>,
}

/// A live process of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one.
    pub instance: InstanceId,
    /// Whether it is about to go, and takes sessions only if nobody else can.
    pub draining: bool,
}

/// There are more than [`ROSTER_PROCESSES_MAX`] processes (the server is to blame).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {processes} agent processes, more than {ROSTER_PROCESSES_MAX}")]
pub struct TooMany {
    /// How many there are.
    pub processes: usize,
}

/// The live agents that a client may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    entries: Vec<Entry>,
}

impl Roster {
    /// A roster of these agents. The same agent may stand in it several times, with other targets.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn new(entries: Vec<Entry>) -> Result<Self, TooMany> {
        let processes = entries.iter().map(|entry| entry.processes.len()).sum();
        if processes > ROSTER_PROCESSES_MAX { Err(TooMany { processes }) } else { Ok(Self { entries }) }
    }

    /// How many processes the agents have.
    pub fn processes(&self) -> usize {
        self.entries.iter().map(|entry| entry.processes.len()).sum()
    }

    /// The agents, in the order in which they were given.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries of agents that are offered for `target`, on a route or not.
    pub fn offered(&self, target: &Target) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.targets.iter().any(|pattern| pattern.matches(target)))
    }

    /// Picks one of the processes whose agents are offered for `target` and are on its routes, and which were not tried, each as likely as any
    /// other; draining ones only if there are no others. `None` if there is none at all.
    ///
    /// # Errors
    /// [`Cause::NotOnRoute`] if no route names the target, or there are agents for it and none of them is on its routes.
    pub fn choose(
        &self,
        target: &Target,
        routes: &Routes,
        tried: &BTreeSet<InstanceId>,
        rng: &mut impl Rng,
    ) -> Result<Option<(&Name, InstanceId)>, Cause> {
        let agents = routes.agents_for(target);
        let offered: Vec<_> = self.offered(target).collect();
        let is_on_route = |entry: &&Entry| agents.as_ref().is_none_or(|agents| agents.contains(&entry.agent));
        let on_route: Vec<_> = offered.iter().copied().filter(is_on_route).collect();
        if agents.as_ref().is_some_and(BTreeSet::is_empty) || (on_route.is_empty() && !offered.is_empty()) {
            return Err(Cause::NotOnRoute);
        }
        let untried = |draining: bool| {
            let is_one = move |process: &&Process| process.draining == draining && !tried.contains(&process.instance);
            on_route.iter().flat_map(move |entry| {
                entry.processes.iter().filter(is_one).map(|process| (&entry.agent, process.instance))
            })
        };
        for draining in [false, true] {
            if let Some(last) = untried(draining).count().checked_sub(1) {
                let at = draw_up_to(last as u64, rng);
                return Ok(usize::try_from(at).ok().and_then(|at| untried(draining).nth(at)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::tests::SplitMix;
    use crate::route::Route;

    fn instance(number: u8) -> InstanceId {
        InstanceId::from_bytes(&[number; 16]).unwrap()
    }

    fn entry(number: u8, target: &str, draining: bool) -> Entry {
        let targets = vec![target.parse().unwrap()];
        let processes = vec![Process { instance: instance(number), draining }];
        Entry { agent: "acme".parse().unwrap(), targets, processes }
    }

    fn of(agent: &str, entry: Entry) -> Entry {
        Entry { agent: agent.parse().unwrap(), ..entry }
    }

    fn route(targets: &[&str], agents: &[&str]) -> Route {
        let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
        Route { targets, agents: agents.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn roster() -> Roster {
        Roster::new(vec![
            entry(1, "git.acme.internal:443", false),
            entry(2, "*.acme.internal:443", false),
            entry(3, "git.acme.internal:443", true),
            entry(4, "git.acme.internal:22", false),
            entry(5, "*.acme.internal:443", false),
        ])
        .unwrap()
    }

    /// How often each instance is chosen in 3,000 draws.
    fn chosen(target: &str, tried: &[u8]) -> [u32; 6] {
        let (roster, mut rng) = (roster(), SplitMix(7));
        let tried = tried.iter().copied().map(instance).collect();
        let mut counts = [0; 6];
        for _ in 0..3_000 {
            let target = target.parse().unwrap();
            if let Some((_, instance)) = roster.choose(&target, &Routes::default(), &tried, &mut rng).unwrap() {
                counts[usize::from(instance.to_bytes()[0])] += 1;
            }
        }
        counts
    }

    #[test]
    fn spreads_sessions_evenly_over_the_agents_that_can_carry_them() {
        let counts = chosen("git.acme.internal:443", &[]);
        for number in [1, 2, 5] {
            assert!((900..1_100).contains(&counts[number]), "{counts:?}");
        }
        assert_eq!(counts[1] + counts[2] + counts[5], 3_000, "{counts:?}");
    }

    #[test]
    fn every_process_of_an_agent_is_as_likely_as_one_of_another() {
        let mut several = entry(1, "git.acme.internal:443", false);
        several.processes.extend([2, 3].map(|number| Process { instance: instance(number), draining: number == 3 }));
        let roster = Roster::new(vec![several, of("other", entry(4, "git.acme.internal:443", false))]).unwrap();
        let (mut counts, mut rng) = ([0; 5], SplitMix(7));
        for _ in 0..3_000 {
            let target = "git.acme.internal:443".parse().unwrap();
            let chosen = roster.choose(&target, &Routes::default(), &BTreeSet::new(), &mut rng);
            let (agent, instance) = chosen.unwrap().unwrap();
            let number = instance.to_bytes()[0];
            assert_eq!(agent.as_str() == "other", number == 4);
            counts[usize::from(number)] += 1;
        }
        assert!([1, 2, 4].iter().all(|number| (900..1_100).contains(&counts[*number])), "{counts:?}");
        assert_eq!(counts[3], 0, "{counts:?}");
    }

    #[test]
    fn there_are_no_more_processes_than_the_bound_however_they_are_given() {
        let of = |processes: usize| {
            let process = Process { instance: instance(1), draining: false };
            Entry { processes: vec![process; processes], ..entry(1, "git.acme.internal:443", false) }
        };
        let most = Roster::new(vec![of(ROSTER_PROCESSES_MAX - 1), of(1)]).unwrap();
        assert_eq!(most.processes(), ROSTER_PROCESSES_MAX);
        let processes = ROSTER_PROCESSES_MAX + 1;
        assert_eq!(Roster::new(vec![of(ROSTER_PROCESSES_MAX), of(1)]), Err(TooMany { processes }));
    }

    #[test]
    fn passes_over_tried_agents_and_takes_draining_ones_last() {
        let cases: [(&str, &[u8], Option<usize>); 5] = [
            ("git.acme.internal:443", &[1, 5], Some(2)),
            ("git.acme.internal:443", &[1, 2, 5], Some(3)),
            ("git.acme.internal:443", &[1, 2, 3, 5], None),
            ("git.acme.internal:22", &[], Some(4)),
            ("git.acme.internal:80", &[], None),
        ];
        for (target, tried, only) in cases {
            let mut expected = [0; 6];
            if let Some(only) = only {
                expected[only] = 3_000;
            }
            assert_eq!(chosen(target, tried), expected, "{target} {tried:?}");
        }
    }

    #[test]
    fn whatever_is_offered_only_agents_on_the_routes_of_the_target_are_chosen() {
        type Chosen = Result<Option<u8>, Cause>;
        let roster = Roster::new(vec![
            of("acme", entry(1, "git.acme.internal:443", false)),
            of("other", entry(2, "*.acme.internal:443", false)),
            of("other", entry(3, "git.acme.internal:443", false)),
            of("acme-2", entry(4, "git.acme.internal:443", true)),
            of("other", entry(5, "npm.acme.internal:443", false)),
        ])
        .unwrap();
        let routes = Routes::pinned(vec![
            route(&["git.acme.internal:443"], &["acme", "acme-2"]),
            route(&["npm.acme.internal:443"], &["acme"]),
            route(&["pip.acme.internal:22"], &["acme"]),
        ]);
        let cases: [(&str, &[u8], Chosen); 7] = [
            ("git.acme.internal:443", &[], Ok(Some(1))),
            ("git.acme.internal:443", &[1], Ok(Some(4))),
            ("git.acme.internal:443", &[1, 4], Ok(None)),
            // Named, and offered by others alone; offered by nobody; offered, and not named.
            ("npm.acme.internal:443", &[], Err(Cause::NotOnRoute)),
            ("pip.acme.internal:22", &[], Ok(None)),
            ("pip.acme.internal:443", &[], Err(Cause::NotOnRoute)),
            ("git.acme.internal:80", &[], Err(Cause::NotOnRoute)),
        ];
        let mut rng = SplitMix(7);
        for (target, tried, expected) in cases {
            let tried = tried.iter().copied().map(instance).collect();
            for _ in 0..200 {
                let chosen = roster.choose(&target.parse().unwrap(), &routes, &tried, &mut rng);
                let chosen = chosen.map(|chosen| chosen.map(|(_, instance)| instance.to_bytes()[0]));
                assert_eq!(chosen, expected, "{target} {tried:?}");
            }
        }
    }
}
