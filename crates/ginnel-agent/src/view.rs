//! What the agent shows of itself, and what its admin socket asks it to do.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use ginnel_config::{AgentConfig, Dial, Source};
use ginnel_core::allow::AllowList;
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::id::RequestId;
use ginnel_core::principal::Role;
use ginnel_core::report::Chain;
use ginnel_core::status::{Denied, Request, Revoked, Status, Verdict};
use ginnel_identity::trust::Roots;
use ginnel_net::upstream::Upstream;
use ginnel_ops::admin::{NotRevoked, Observed, Question, Revocation, Which};
use ginnel_ops::audit::AuditLog;
use ginnel_ops::reload::{Fault, apart};
use ginnel_wire::hello::software_version;
use tokio_util::sync::CancellationToken;

use crate::app::Owner;
use crate::word::Word;

/// The agent, as its admin listeners see it.
pub(crate) struct View {
    pub(crate) owner: Arc<Owner>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) source: Option<Source<AgentConfig>>,
    pub(crate) shutdown: CancellationToken,
}

impl Observed for View {
    fn status(&self) -> Status {
        let draining = self.shutdown.is_cancelled();
        let connected = self.upstream.progress.is_connected();
        let lists = self.owner.lists();
        let audit = self.owner.audit.as_ref().map(AuditLog::status);
        let reasons = [
            (draining, "the agent is draining: it takes no more sessions"),
            (!connected, "there is no link to the server"),
            (lists.allow.entries().is_empty(), "the allow-list is empty: nothing may be dialled"),
            (lists.denials.denies_all(), "the owner has revoked everything: `ginnel revoke --all --undo` ends that"),
            (
                audit.as_ref().is_some_and(|audit| !audit.healthy),
                "the audit log cannot be written: nothing new is allowed",
            ),
        ];
        let not_ready: Vec<_> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, why)| (*why).to_owned()).collect();
        let mut status = Status {
            role: Role::Agent.to_string(),
            instance: self.owner.instance.to_string(),
            version: software_version().to_owned(),
            time: Timestamp::from(SystemTime::now()),
            started: self.owner.started,
            draining,
            ready: not_ready.is_empty(),
            not_ready,
            config: self.owner.in_force.config(),
            denials: Some(lists.denials.count()),
            observation: self.owner.observations.shown(&lists),
            audit,
            ..Status::default()
        };
        self.upstream.progress.fill(&self.upstream.endpoint, &mut status);
        self.owner.ledger.fill(&mut status);
        self.owner.handshakes.fill(&mut status);
        status
    }

    fn sessions(&self) -> Vec<Request> {
        self.owner.ledger.live()
    }

    fn request(&self, id: RequestId) -> Option<Request> {
        self.owner.ledger.find(id)
    }

    fn judge(&self, _: &Question) -> Option<Result<Vec<Verdict>, String>> {
        None
    }

    fn end_sessions(&self, which: &Which) -> u64 {
        self.owner.ledger.end(which, Refusal::new(Hop::Agent, Cause::EndedByOperator))
    }

    fn denials(&self) -> Option<Vec<Denied>> {
        Some(self.owner.denied())
    }

    fn revoke(&self, order: Revocation) -> Pin<Box<dyn Future<Output = Result<Revoked, NotRevoked>> + Send + '_>> {
        let owner = Arc::clone(&self.owner);
        Box::pin(async move {
            // Writing waits for the disk.
            let revoking = tokio::task::spawn_blocking(move || owner.revoke(&order));
            let broke_off = |_| Err(NotRevoked::Failed("The revocation broke off; ask for it again.".to_owned()));
            revoking.await.unwrap_or_else(broke_off)
        })
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, Fault>> + Send + '_>> {
        let (owner, source) = (Arc::clone(&self.owner), self.source.clone());
        Box::pin(apart(move || owner.reload(source.as_ref())))
    }
}

impl Owner {
    /// Reads the configuration again, which waits for files.
    fn reload(&self, source: Option<&Source<AgentConfig>>) -> Result<String, Fault> {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.try_reload(source);
        if let Err(why) = &outcome {
            self.in_force.failed(&why.whole);
        }
        outcome
    }

    /// Reads the lists and the trusted roots again, puts them into force, and ends the sessions that `allow` does not permit. Roots count for
    /// handshakes: who was verified stays.
    fn try_reload(&self, source: Option<&Source<AgentConfig>>) -> Result<String, Fault> {
        let source = source.ok_or("this agent was started without a configuration file")?;
        let config = source.load().map_err(|error| Fault { whole: error.whole(), logged: error.without_quotes() })?;
        let read = |path: &Path| Roots::read(path).map_err(|error| Chain(&error).to_string());
        let trust = &config.trust;
        let (server_roots, client_roots) = (read(&trust.server)?, read(&trust.client)?);
        let before = self.lists().word;
        let after = Word::of(&config);
        if self.inner_tls_disabled && after.needs_proof() {
            return Err(NOBODY_PROVES.into());
        }
        let mut lines = changes(&before, &after);
        lines.extend(self.server_roots.replace(&trust.server, server_roots, "server"));
        lines.extend(self.client_roots.replace(&trust.client, client_roots, "clients"));
        self.replace(after);
        let lists = self.lists();
        if !lines.is_empty() {
            let (policy, changed) = (Text::new(&lists.version), Text::new(lines.join("; ")));
            self.note(Event::Reloaded { policy, changed });
        }
        let ended = self.ledger.end_where(|parties| self.objection(&lists, parties));
        if ended > 0 {
            lines.push(match ended {
                1 => "1 session is no longer permitted and was ended".to_owned(),
                more => format!("{more} sessions are no longer permitted and were ended"),
            });
        }
        if lines.is_empty() {
            lines.push("allow-list and roots have not changed; everything else takes a restart".to_owned());
        }
        if let Some(observed) = &lists.observed {
            let live = self.ledger.count_where(|parties| self.would_object(&observed.list, parties));
            lines.push(format!(
                "list {} is under observation; of the sessions now it would refuse {live}",
                observed.version
            ));
        }
        lines.push(format!("allow-list {} is in force", self.in_force.config().version));
        let denials = lists.denials.count();
        if denials > 0 {
            lines.push(format!("denials in force as before: {denials}"));
        }
        Ok(lines.join("\n"))
    }
}

/// Entries that are given of each kind of change; more of them are counted.
const ENTRIES_MAX: usize = 20;

/// Why a process that was started without inner TLS does not take up what needs it.
const NOBODY_PROVES: &str = "this agent runs without inner TLS, so that nobody proves who it is: lists of clients and `dial: afterHandshake` take a restart without dangerDisableInnerTls";

fn changes(before: &Word, after: &Word) -> Vec<String> {
    let none = AllowList::default();
    let observed = |word: &'_ Word| word.observed.clone().unwrap_or_default();
    let mut lines = changes_of("allow", &before.allow, &after.allow);
    lines.extend(changes_of("observe.allow", &observed(before), &observed(after)));
    match (&before.observed, &after.observed) {
        (None, Some(list)) if *list == none => {
            lines.push("observe.allow is empty: it would refuse everything".to_owned())
        }
        (Some(_), None) => lines.push("nothing is under observation any more".to_owned()),
        (None, Some(_)) | (None, None) | (Some(_), Some(_)) => {}
    }
    if before.dial != after.dial {
        lines.push(match after.dial {
            Dial::Early => "dial: early".to_owned(),
            Dial::AfterHandshake => "dial: afterHandshake".to_owned(),
        });
    }
    lines
}

fn changes_of(list: &str, before: &AllowList, after: &AllowList) -> Vec<String> {
    let set = |list: &AllowList| list.entries().iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let (before, after) = (set(before), set(after));
    let mut lines = Vec::new();
    for (how, entries) in [("added", after.difference(&before)), ("removed", before.difference(&after))] {
        let entries: Vec<_> = entries.cloned().collect();
        let shown = entries[..entries.len().min(ENTRIES_MAX)].join(", ");
        match entries.len().saturating_sub(ENTRIES_MAX) {
            0 if entries.is_empty() => {}
            0 => lines.push(format!("{list} {how}: {shown}")),
            more => lines.push(format!("{list} {how}: {shown} and {more} more")),
        }
    }
    lines
}
