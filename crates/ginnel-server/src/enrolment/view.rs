//! What the process that enrols shows of itself, and changing who may enrol while it runs.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use ginnel_config::EnrolmentConfig;
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::id::RequestId;
use ginnel_core::report::Chain;
use ginnel_core::status::{Audit, Certificate, Denied, Request, Revoked, Status, Verdict};
use ginnel_ops::admin::{NotRevoked, Observed, Question, Revocation, Which};
use ginnel_ops::audit::forward::Forwarding;
use ginnel_ops::reload::{Fault, apart};
use ginnel_wire::hello::software_version;

use super::{Office, sources, version};
use crate::reload::{compare_identities, compare_issuers, redefined, takes_a_restart, without_removed};

/// The office, as its admin listeners see it.
pub(super) struct View(pub(super) Arc<Office>);

/// The role that it says it has, which no certificate has.
const ROLE: &str = "enrolment";

impl Observed for View {
    fn status(&self) -> Status {
        let Self(office) = self;
        let now = SystemTime::now();
        let certificate = office.own.shown(now);
        let not_ready = self.not_ready(certificate.as_ref());
        let mut status = Status {
            role: ROLE.to_owned(),
            principal: office.own.current.get().map(|identity| identity.leaf().principal.to_string()),
            instance: office.id.to_string(),
            version: software_version().to_owned(),
            time: Timestamp::from(now),
            started: office.started,
            draining: office.shutdown.is_cancelled(),
            ready: not_ready.is_empty(),
            not_ready,
            config: office.shown.config(),
            certificate,
            renewals: office.own.renewals().0,
            enrolments: Some(office.desk.counted()),
            denials: Some(office.desk.denials().count()),
            audit: Some(Audit { sink: office.forwarding.as_ref().map(Forwarding::status), ..office.audit.status() }),
            ..Status::default()
        };
        office.ledger.fill(&mut status);
        status
    }

    fn sessions(&self) -> Vec<Request> {
        Vec::new()
    }

    fn request(&self, _: RequestId) -> Option<Request> {
        None
    }

    fn judge(&self, _: &Question) -> Option<Result<Vec<Verdict>, String>> {
        None
    }

    fn end_sessions(&self, _: &Which) -> u64 {
        0
    }

    fn denials(&self) -> Option<Vec<Denied>> {
        Some(self.0.denied())
    }

    fn revoke(&self, order: Revocation) -> Pin<Box<dyn Future<Output = Result<Revoked, NotRevoked>> + Send + '_>> {
        Box::pin(Arc::clone(&self.0).revoke(order))
    }

    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<String, Fault>> + Send + '_>> {
        let office = Arc::clone(&self.0);
        Box::pin(apart(move || office.reload()))
    }
}

impl View {
    fn not_ready(&self, certificate: Option<&Certificate>) -> Vec<String> {
        let Self(office) = self;
        let reasons = [
            (office.shutdown.is_cancelled(), "the process is draining: it takes nothing new"),
            (!office.audit.healthy(), "the audit log cannot be written, so nobody is given a certificate"),
            (
                certificate.is_none_or(|certificate| certificate.remaining_seconds == 0),
                "the process's own certificate has expired",
            ),
        ];
        reasons.into_iter().filter(|(holds, _)| *holds).map(|(_, reason)| reason.to_owned()).collect()
    }
}

impl Office {
    /// Reads the configuration again and puts its identities into force; says what changed.
    fn reload(&self) -> Result<String, Fault> {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.try_reload();
        if let Err(why) = &outcome {
            self.shown.failed(&why.whole);
        }
        outcome
    }

    fn try_reload(&self) -> Result<String, Fault> {
        let source = self.source.as_ref().ok_or("this process was started without a configuration file")?;
        let config = source.load().map_err(|error| Fault { whole: error.whole(), logged: error.without_quotes() })?;
        let before = self.config();
        if let Some(name) = redefined(&before.oidc_issuers, &config.oidc_issuers, &config.identities) {
            return Err(Fault::from(format!(
                "identities mean the OIDC issuer {name}, which is new or has changed; that takes a restart"
            )));
        }
        let mut changes = changes(&before, &config);
        // What needs a restart stays as it was, also for the next comparison.
        let config = EnrolmentConfig {
            identities: config.identities,
            oidc_issuers: without_removed(&before.oidc_issuers, &config.oidc_issuers),
            ..(*before).clone()
        };
        let admissible =
            self.desk.with_identities(&config.trust_domain, &config.identities, sources(&config.identities))?;
        // Last of what can fail: the issuer takes what it reads into use by itself.
        let roots = self.desk.issuer.reload(SystemTime::now());
        let roots = roots.map_err(|error| format!("reading the issuer again: {}", Chain(&*error)))?;
        if !roots.is_empty() {
            self.own.renew_soon();
            tracing::info!(changed = roots.join("; "), "the issuer's roots have changed");
        }
        changes.extend(roots);
        self.desk.replace(Arc::new(admissible));
        let version = version(&config.identities);
        let count = config.identities.len();
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        self.shown.applied(version.as_str().to_owned(), count);
        tracing::info!(identities = count, %version, changed = changes.join("; "), "identities replaced");
        self.note(Event::Reloaded { policy: version.clone(), changed: Text::new(changes.join("; ")) });
        if changes.is_empty() {
            changes.push("nothing has changed".to_owned());
        }
        changes.push(match count {
            1 => format!("version {version} is in force with 1 identity"),
            more => format!("version {version} is in force with {more} identities"),
        });
        Ok(changes.join("\n"))
    }
}

/// What is different, a line for each kind of change.
fn changes(before: &EnrolmentConfig, after: &EnrolmentConfig) -> Vec<String> {
    let mut lines = Vec::new();
    compare_identities(&before.identities, &after.identities, &mut lines);
    let EnrolmentConfig {
        trust_domain,
        server,
        identities: _,
        issuer,
        google,
        oidc_issuers,
        renewal,
        enrolment_audience,
        audit,
        cloud_logging,
        configured_denials,
    } = before;
    let restart = [
        ("trustDomain", *trust_domain != after.trust_domain),
        ("server", *server != after.server),
        ("issuer", *issuer != after.issuer),
        ("google", *google != after.google),
        ("oidcIssuers", compare_issuers(oidc_issuers, &after.oidc_issuers, &mut lines)),
        ("enrolment", *enrolment_audience != after.enrolment_audience),
        ("renewal", *renewal != after.renewal),
        ("audit", *audit != after.audit || *cloud_logging != after.cloud_logging),
        ("denials", *configured_denials != after.configured_denials),
    ];
    takes_a_restart(&restart, &mut lines);
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ginnel_config::{Daemon, Overrides};

    use super::*;

    #[test]
    fn says_which_identities_changed_and_what_takes_a_restart() {
        let config = |from: &str, to: &str| {
            let text = ginnel_config::example(Daemon::Enrolment).replace(from, to);
            EnrolmentConfig::parse(&text, "enrolment.yaml", Path::new("/"), &Overrides::none()).unwrap()
        };
        let before = config("", "");
        assert!(changes(&before, &before).is_empty());
        let cases = [
            ("email: agent@", "email: other@", "identities changed: agent acme"),
            ("- tunnel.acme.example", "- other.acme.example", "identities changed: server tunnel"),
            (":50060", ":443", "server has changed, which takes a restart; it stays as it was"),
        ];
        for (from, to, expected) in cases {
            let after = config(from, to);
            assert_eq!(changes(&before, &after), [expected]);
            assert_eq!(version(&before.identities) == version(&after.identities), from == ":50060");
        }
    }
}
