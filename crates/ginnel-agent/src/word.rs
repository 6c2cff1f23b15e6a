//! What the agent's owner says, as it is in force, and what a list that only observes has found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ginnel_config::{AgentConfig, Dial};
use ginnel_core::allow::AllowList;
use ginnel_core::audit::Text;
use ginnel_core::cause::Cause;
use ginnel_core::denial::Denials;
use ginnel_core::status::{Observation, Observed};
use ginnel_identity::key::sha256;

/// What the configuration says of targets and clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) allow: AllowList,
    pub(crate) observed: Option<AllowList>,
    pub(crate) dial: Dial,
}

impl Word {
    pub(crate) fn of(config: &AgentConfig) -> Self {
        let allow = AllowList::new(config.allow.iter().cloned());
        let observed = config.observed.as_ref().map(|entries| AllowList::new(entries.iter().cloned()));
        Self { allow, observed, dial: config.dial }
    }

    /// Whether any of it is about clients, who prove who they are in the inner handshake only.
    pub(crate) fn needs_proof(&self) -> bool {
        let lists = [Some(&self.allow), self.observed.as_ref()];
        self.dial == Dial::AfterHandshake || lists.into_iter().flatten().any(AllowList::names_clients)
    }
}

/// What the owner permits, as it is in force.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    /// What may be dialled: the list of the configuration, without what is denied.
    pub(crate) allow: Arc<AllowList>,
    /// The version of that.
    pub(crate) version: Arc<str>,
    /// What is only asked.
    pub(crate) observed: Option<Arc<Candidate>>,
    /// Whether nothing is dialled before the client has proved who it is.
    pub(crate) waits: bool,
    /// Who and what was shut out.
    pub(crate) denials: Arc<Denials>,
    /// What the configuration says.
    pub(crate) word: Arc<Word>,
}

/// A list under observation.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) list: AllowList,
    pub(crate) version: String,
}

impl Lists {
    pub(crate) fn new(word: Arc<Word>, denials: Arc<Denials>) -> Self {
        let allow = word.allow.without(denials.targets());
        let observed = word.observed.as_ref().map(|list| Candidate { list: list.clone(), version: version(list) });
        Self {
            version: version(&allow).into(),
            waits: allow.names_clients() || word.dial == Dial::AfterHandshake,
            allow: Arc::new(allow),
            observed: observed.map(Arc::new),
            denials,
            word,
        }
    }
}

/// A version that says the same of the same list in every agent; the order does not count.
fn version(allow: &AllowList) -> String {
    /// Hexadecimal digits of it, as of a policy's.
    const DIGITS: usize = 16;
    let denied = allow.denied().iter().map(|pattern| format!("not {pattern}"));
    let entries: BTreeSet<_> = allow.entries().iter().map(ToString::to_string).chain(denied).collect();
    let text = entries.into_iter().collect::<Vec<_>>().join("\n");
    let mut hex = Text::hex(&sha256(text.as_bytes())).as_str().to_owned();
    hex.truncate(DIGITS);
    hex
}

/// What the list under observation would have refused, since the start.
#[derive(Debug, Default)]
pub(crate) struct Observations(Mutex<BTreeMap<Cause, u64>>);

impl Observations {
    pub(crate) fn count(&self, cause: Cause) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(cause).or_default() += 1;
    }

    /// What is shown of them while `lists` are in force; nothing without a list under observation.
    pub(crate) fn shown(&self, lists: &Lists) -> Option<Observation> {
        let observed = lists.observed.as_ref()?;
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = counts.iter().map(|(cause, count)| Observed { cause: cause.to_string(), count: *count });
        Some(Observation {
            version: observed.version.clone(),
            entries: u64::try_from(observed.list.entries().len()).unwrap_or(u64::MAX),
            would_refuse: counted.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> AgentConfig {
        let text = format!(
            "server: {{address: \"a:1\", name: a.example}}\ntrust: {{server: s, client: c}}\ncredential: {{serviceAccountKeyFile: k}}\n{rest}"
        );
        AgentConfig::parse(&text, "agent.yaml", std::path::Path::new("/"), &ginnel_config::Overrides::none()).unwrap()
    }

    #[test]
    fn a_version_tells_lists_apart_by_targets_and_clients_and_not_by_order() {
        let of = |allow: &str| version(&Word::of(&config(&format!("allow: {allow}"))).allow);
        let same = of("[\"a.b:1\", {target: \"a.b:2\", clients: [x, y]}]");
        assert_eq!(of("[{target: \"a.b:2\", clients: [y, x]}, {target: \"a.b:1\"}]"), same);
        for other in ["[\"a.b:1\", \"a.b:2\"]", "[\"a.b:1\", {target: \"a.b:2\", clients: [x]}]", "[]"] {
            assert_ne!(of(other), same, "{other}");
        }
    }

    #[test]
    fn waits_for_the_client_wherever_it_counts_who_that_is() {
        let cases = [
            ("allow: [\"a.b:1\"]", false, false),
            ("allow: [\"a.b:1\"]\ndial: early", false, false),
            ("allow: [\"a.b:1\"]\ndial: afterHandshake", true, true),
            ("allow: [{target: \"a.b:1\", clients: [x]}]", true, true),
            // What only observes delays nobody.
            ("allow: [\"a.b:1\"]\nobserve: {allow: [{target: \"a.b:1\", clients: [x]}]}", false, true),
        ];
        for (rest, waits, needs_proof) in cases {
            let word = Arc::new(Word::of(&config(rest)));
            let lists = Lists::new(Arc::clone(&word), Arc::default());
            assert_eq!((lists.waits, word.needs_proof()), (waits, needs_proof), "{rest}");
        }
    }
}
