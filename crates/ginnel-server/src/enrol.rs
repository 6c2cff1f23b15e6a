//! Tokens for certificates. The caller hears one and the same refusal whatever was wrong; the audit log has the reason.
//!
//! A [`Desk`] is all of it: who may enrol, what signs, and the record. A server has one, or the process that only enrols.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use ginnel_config::{Identity, PublicKeys};
use ginnel_core::audit::{Event, Text, Timestamp};
use ginnel_core::denial::Denials;
use ginnel_core::network::Network;
use ginnel_core::principal::{Principal, Role, TrustDomain};
use ginnel_core::report::Chain;
use ginnel_core::sources::Sources;
use ginnel_core::status::Enrolments;
use ginnel_enrol::{Admitted, CertificateRequest, Denied, Enroller, Issued, Issuer};
use ginnel_keys::KeySets;
use ginnel_net::accept::Complaint;
use ginnel_ops::audit::AuditLog;
use ginnel_wire::v1::enrolment_server::Enrolment;
use ginnel_wire::v1::{EnrolRequest, EnrolResponse};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::bounds::Failures;
use crate::rules::enrol_identities;

/// The metadata in which a relay says whose enrolment it passes on. It is recorded as what the relay says, and decides nothing.
pub(crate) const FORWARDED_FOR: &str = "ginnel-forwarded-for";

/// gRPC's own word for when it is worth asking again.
pub(crate) const RETRY_AFTER_MS: &str = "grpc-retry-pushback-ms";

/// Why an enrolment was not even looked at, in records and metrics.
const TOO_MANY_FAILURES: &str = "tooManyFailures";

/// Who may enrol, and under which names servers among them are reached.
pub(crate) struct Admissible {
    pub(crate) enroller: Enroller,
    /// Of servers alone. A server that has none here gets no certificate.
    pub(crate) server_names: BTreeMap<Principal, Vec<String>>,
    /// The service accounts whose keys Google publishes.
    pub(crate) at_google: BTreeSet<String>,
    /// Where who enrols may come from.
    pub(crate) sources: Sources,
}

impl Admissible {
    /// Those of `identities`, which `enroller` knows.
    pub(crate) fn new(
        enroller: Enroller,
        trust_domain: &TrustDomain,
        identities: &[Identity],
        sources: Sources,
    ) -> Self {
        let servers = identities.iter().filter(|identity| identity.role == Role::Server);
        let server_names = servers.map(|identity| {
            let (trust_domain, name) = (trust_domain.clone(), identity.name.clone());
            (Principal { trust_domain, role: identity.role, name }, identity.server_names.clone())
        });
        let at_google = identities.iter().filter(|identity| identity.public_keys == Some(PublicKeys::Google));
        let at_google = at_google.map(|identity| identity.email.clone()).collect();
        Self { enroller, server_names: server_names.collect(), at_google, sources }
    }
}

/// What enrols.
pub(crate) struct Desk {
    pub(crate) issuer: Arc<dyn Issuer>,
    /// The public keys that Google and OIDC issuers publish.
    pub(crate) keys: Arc<KeySets>,
    admissible: RwLock<Arc<Admissible>>,
    denials: RwLock<Arc<Denials>>,
    audit: AuditLog,
    counted: Mutex<Enrolments>,
    /// Enrolments that were not looked at.
    held_off: Complaint,
    /// Enrolments whose issuer was asked: they end after their callers if need be.
    tasks: TaskTracker,
}

impl Desk {
    pub(crate) fn new(
        issuer: Arc<dyn Issuer>,
        keys: Arc<KeySets>,
        admissible: Admissible,
        denials: Arc<Denials>,
        audit: AuditLog,
        tasks: TaskTracker,
    ) -> Self {
        keys.set_accounts(&admissible.at_google);
        Self {
            issuer,
            keys,
            admissible: RwLock::new(Arc::new(admissible)),
            denials: RwLock::new(denials),
            audit,
            counted: Mutex::default(),
            held_off: Complaint::default(),
            tasks,
        }
    }

    /// Who may enrol at the moment.
    pub(crate) fn admissible(&self) -> Arc<Admissible> {
        Arc::clone(&self.admissible.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets others enrol from here on.
    pub(crate) fn replace(&self, admissible: Arc<Admissible>) {
        self.keys.set_accounts(&admissible.at_google);
        *self.admissible.write().unwrap_or_else(PoisonError::into_inner) = admissible;
    }

    /// Who is shut out at the moment.
    pub(crate) fn denials(&self) -> Arc<Denials> {
        Arc::clone(&self.denials.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shuts these out from here on.
    pub(crate) fn deny(&self, denials: Arc<Denials>) {
        *self.denials.write().unwrap_or_else(PoisonError::into_inner) = denials;
    }

    /// The same with other identities: tokens that were used stay used.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn with_identities(
        &self,
        trust_domain: &TrustDomain,
        identities: &[Identity],
        sources: Sources,
    ) -> Result<Admissible, String> {
        let enrol = enrol_identities(trust_domain, identities)
            .map_err(|(doing, error)| format!("{doing}: {}", Chain(&*error)))?;
        let enroller = self.admissible().enroller.with_identities(enrol, SystemTime::now());
        let enroller = enroller.map_err(|error| Chain(&error).to_string())?;
        Ok(Admissible::new(enroller, trust_domain, identities, sources))
    }

    /// What came of enrolments so far.
    pub(crate) fn counted(&self) -> Enrolments {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn enrol(
        self: &Arc<Self>,
        request: EnrolRequest,
        caller: Caller,
        is_admitted: &CancellationToken,
    ) -> Result<EnrolResponse, Status> {
        let now = SystemTime::now();
        let admissible = self.admissible();
        let verdict =
            admissible.enroller.verdict(&request.token, &request.certificate_signing_request, now, &*self.keys);
        let admitted = verdict.await.map_err(|denied| self.refuse(denied, caller))?;
        if has_revoked(&self.denials(), &admitted) {
            return Err(self.refuse(Denied::Revoked, caller));
        }
        if !admissible.sources.permits(&admitted.principal, Some(caller.peer.ip())) {
            return Err(self.refuse(Denied::SourceRefused, caller));
        }
        is_admitted.cancel();
        let wanted = CertificateRequest {
            server_names: admissible.server_names.get(&admitted.principal).cloned().unwrap_or_default(),
            principal: admitted.principal.clone(),
            email: admitted.email.clone(),
            spki_der: admitted.spki_der.clone(),
            evidence: Some(admitted.evidence.clone()),
            renews: renews(request.renews_until),
        };
        // Once an issuer was asked, what it signs goes on record, whether or not the caller waits for it. A request that still waits for its turn
        // when the caller goes could be dropped, but the issuer does not say which it is: one more certificate that nobody fetches is harmless,
        // one that is not on record is not.
        let certified = Arc::clone(self).certify(wanted, admitted, caller, now);
        self.tasks.spawn(certified).await.unwrap_or_else(|_| Err(not_now(None)))
    }

    /// Has a certificate signed and recorded. It ends within the time that the issuer takes at most.
    async fn certify(
        self: Arc<Self>,
        wanted: CertificateRequest,
        admitted: Admitted,
        caller: Caller,
        now: SystemTime,
    ) -> Result<EnrolResponse, Status> {
        let Caller { peer, forwarded_for } = caller;
        let issued = self.issuer.issue(&wanted, now).await.map_err(|error| {
            tracing::error!(error = %Chain(&error), "could not issue a certificate");
            self.count_refused(error.reason());
            self.note_refused(Text::new(error.reason()), Some(Text::new(wanted.email.as_str())), caller);
            not_now(error.retry_after())
        })?;
        let Issued { chain, not_after, serial } = issued;
        let event = Event::Enrolled {
            principal: admitted.principal.clone(),
            email: Text::new(&admitted.email),
            serial: Text::new(serial),
            not_after: Timestamp::from(not_after),
            peer,
            spki_sha256: Some(Text::hex(&admitted.spki_sha256)),
            proof: Some(Text::new(&admitted.evidence.proof)),
            verified_by: Some(Text::hex(&admitted.evidence.verified_by)),
            forwarded_for,
        };
        let recorded = async { self.audit.record(event)?.await };
        recorded.await.map_err(|error| {
            tracing::error!(error = %Chain(&error), "could not record an enrolment");
            not_now(None)
        })?;
        // A denial that came while the certificate was made did not find it; one that comes from here on finds it when it is used.
        if has_revoked(&self.denials(), &admitted) {
            self.count_refused(Denied::Revoked.as_str());
            self.note_refused(Text::new(Denied::Revoked.as_str()), Some(Text::new(&admitted.email)), caller);
            return Err(refused());
        }
        self.count().issued += 1;
        let certificate_chain = chain.into_iter().map(|certificate| certificate.to_vec()).collect();
        Ok(EnrolResponse { certificate_chain })
    }

    fn refuse(&self, denied: Denied, caller: Caller) -> Status {
        let reason = Text::new(denied.as_str());
        tracing::warn!(%reason, "enrolment refused");
        self.count_refused(denied.as_str());
        // What an unverified token claims is nobody's word, and stays out of the record.
        self.note_refused(reason, None, caller);
        refused()
    }

    /// Tells a caller to come back whose source has failed too often. Counted each time, and on record now and then: strangers cause it at will.
    fn hold_off(&self, wait: Duration, caller: Caller) -> Status {
        self.count_refused(TOO_MANY_FAILURES);
        if let Some(count) = self.held_off.count(Instant::now()) {
            tracing::warn!(count, "enrolments were not looked at: too many from the same source have failed");
            self.note_refused(Text::new(TOO_MANY_FAILURES), None, caller);
        }
        not_now(Some(wait))
    }

    fn count_refused(&self, reason: &str) {
        *self.count().refused.entry(reason.to_owned()).or_default() += 1;
    }

    fn note_refused(&self, reason: Text, email: Option<Text>, caller: Caller) {
        let Caller { peer, forwarded_for } = caller;
        if let Err(error) = self.audit.record(Event::EnrolmentRefused { reason, email, peer, forwarded_for }) {
            tracing::error!(error = %Chain(&error), "could not record an event");
        }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Enrolments> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an enrolment is of an identity or by a key that was revoked.
fn has_revoked(denials: &Denials, admitted: &Admitted) -> bool {
    let Admitted { principal, email, spki_sha256, evidence, .. } = admitted;
    denials.denies_identity(principal, email)
        || denials.denies_key(spki_sha256)
        || denials.denies_key(&evidence.verified_by)
}

/// Where an enrolment comes from.
#[derive(Clone, Copy)]
struct Caller {
    peer: SocketAddr,
    forwarded_for: Option<SocketAddr>,
}

/// The enrolment service of one connection.
#[derive(Clone)]
pub(crate) struct Enrol {
    pub(crate) desk: Arc<Desk>,
    pub(crate) peer: SocketAddr,
    /// Cancelled when a request is admitted, so that the connection stays for the answer.
    pub(crate) admitted: CancellationToken,
    /// What failed from where, if that is counted here.
    pub(crate) failures: Option<Arc<Failures>>,
}

#[tonic::async_trait]
impl Enrolment for Enrol {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolResponse>, Status> {
        let caller = Caller { peer: self.peer, forwarded_for: forwarded_for(request.metadata()) };
        let enrolling = self.desk.enrol(request.into_inner(), caller, &self.admitted);
        let Some(failures) = &self.failures else { return enrolling.await.map(Response::new) };
        let source = Network::of(self.peer.ip());
        if let Some(wait) = failures.wait(source) {
            return Err(self.desk.hold_off(wait, caller));
        }
        let enrolled = enrolling.await;
        if enrolled.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
            failures.charge(source);
        }
        enrolled.map(Response::new)
    }
}

/// Whose enrolment the peer says that it passes on. What is no address is passed over: it may be anything.
fn forwarded_for(metadata: &MetadataMap) -> Option<SocketAddr> {
    metadata.get(FORWARDED_FOR)?.to_str().ok()?.parse().ok()
}

/// The end of the certificate that is renewed, as the caller says.
fn renews(until: u64) -> Option<SystemTime> {
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until));
    end.filter(|_| until > 0)
}

/// The answer to everybody who may not enrol.
pub(crate) fn refused() -> Status {
    Status::unauthenticated("enrolment refused")
}

/// The answer to a caller who gets no certificate through no fault of its own.
pub(crate) fn not_now(retry_after: Option<Duration>) -> Status {
    let mut status = Status::unavailable("no certificate can be issued now");
    if let Some(after) = retry_after {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        status.metadata_mut().insert(RETRY_AFTER_MS, after_ms.into());
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_says_of_its_caller_counts_only_if_it_is_an_address() {
        let cases = [
            ("203.0.113.9:40000", Some("203.0.113.9:40000")),
            ("[fd00::9]:1", Some("[fd00::9]:1")),
            ("203.0.113.9", None),
            ("host:1", None),
            ("203.0.113.9:40000, 10.0.0.1:1", None),
            ("", None),
        ];
        for (said, expected) in cases {
            let mut metadata = MetadataMap::new();
            metadata.insert(FORWARDED_FOR, said.parse().unwrap());
            let expected: Option<SocketAddr> = expected.map(|address| address.parse().unwrap());
            assert_eq!(forwarded_for(&metadata), expected, "{said}");
        }
        assert_eq!(forwarded_for(&MetadataMap::new()), None);
    }
}
