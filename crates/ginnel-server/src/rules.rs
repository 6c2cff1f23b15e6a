//! What can change while the server runs: identities, their keys, rules, and what is denied of them. Replaced as a whole, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use aws_lc_rs::digest;
use ginnel_config::{Identity, PublicKeys, ServerConfig, TokenBinding};
use ginnel_core::audit::{Text, Timestamp};
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::denial::{Denials, Shown};
use ginnel_core::evidence::Proof;
use ginnel_core::policy::{Ask, Policy, Source};
use ginnel_core::principal::{Principal, TrustDomain};
use ginnel_core::sources::Sources;
use ginnel_core::target::Target;
use ginnel_enrol::{AccountKeys, Binding, EnrolIdentity, OidcIssuer, OidcSubject, PublicKey};
use ginnel_keys::IssuerKeys;
use ginnel_ops::ledger::Parties;
use ginnel_ops::reload::InForce;

use crate::clock::Clock;
use crate::enrol::Admissible;

/// Hexadecimal digits of a policy's version.
const VERSION_DIGITS: usize = 16;

/// One state of it.
pub(crate) struct Rules {
    /// What the file said.
    pub(crate) config: ServerConfig,
    /// Who may connect, with the service account that each must have.
    pub(crate) identities: BTreeMap<Principal, String>,
    /// Who was shut out, and which rules.
    pub(crate) denials: Arc<Denials>,
    /// Where agents and clients may come from.
    pub(crate) sources: Sources,
    /// The rules that are not denied.
    pub(crate) policy: Policy,
    /// By which time they expire.
    pub(crate) clock: Clock,
    /// When the policy was made, by that time.
    pub(crate) made: Timestamp,
    /// The policy's version, as records have it.
    pub(crate) version: Text,
    /// Who may enrol, and with which keys; nobody where another process enrols.
    admissible: Option<Arc<Admissible>>,
    /// The same in states that differ in nothing that anybody could notice.
    identity: Arc<()>,
    /// The same in states that were made of one reading of the file.
    reading: Arc<()>,
}

/// The state in force.
pub(crate) struct InForceRules {
    rules: RwLock<Arc<Rules>>,
    /// Held by whoever makes the next state from the one in force, until what the next one objects to was told to end: a reload and a
    /// revocation at the same time must not undo each other.
    pub(crate) replacing: Mutex<()>,
    pub(crate) shown: InForce,
}

impl Rules {
    /// The first state of a process.
    pub(crate) fn new(config: ServerConfig, admissible: Option<Arc<Admissible>>, denials: Arc<Denials>) -> Self {
        Self::by(Clock::start(), config, admissible, denials)
    }

    /// What another reading of the file gives. The clock goes on, so that what has expired stays so.
    pub(crate) fn read_again(&self, config: ServerConfig, admissible: Option<Arc<Admissible>>) -> Self {
        Self::by(self.clock, config, admissible, Arc::clone(&self.denials))
    }

    fn by(clock: Clock, config: ServerConfig, admissible: Option<Arc<Admissible>>, denials: Arc<Denials>) -> Self {
        let made = clock.now();
        let in_force = config.rules.iter().filter(|rule| !denials.denies_rule(&rule.name));
        let policy = Policy::new(in_force.cloned().collect(), made);
        let version = version(&policy);
        let identities = config.identities.iter().map(|identity| {
            let (trust_domain, name) = (config.trust_domain.clone(), identity.name.clone());
            (Principal { trust_domain, role: identity.role, name }, identity.email.clone())
        });
        let identities = identities.collect();
        let (sources, identity, reading) = (sources(&config), Arc::new(()), Arc::new(()));
        Self { identities, denials, sources, policy, clock, made, version, admissible, identity, reading, config }
    }

    /// The same with other denials.
    pub(crate) fn with_denials(&self, denials: Arc<Denials>) -> Self {
        let others = Self::by(self.clock, self.config.clone(), self.admissible.clone(), denials);
        Self { reading: Arc::clone(&self.reading), ..others }
    }

    /// The same, with a policy that is made anew.
    pub(crate) fn remade(&self) -> Self {
        let remade = self.with_denials(Arc::clone(&self.denials));
        Self { identity: Arc::clone(&self.identity), ..remade }
    }

    /// Whether these are others, [made anew](Self::remade) or not.
    pub(crate) fn are_the_same_as(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &others.identity)
    }

    /// Whether the file was not read again between these and others.
    pub(crate) fn are_read_with(&self, others: &Self) -> bool {
        Arc::ptr_eq(&self.reading, &others.reading)
    }

    /// Whether somebody with this certificate may be connected: a known identity, enrolled with a proof that would still be taken,
    /// nothing of it denied, and from where it may come from.
    ///
    /// # Errors
    /// Why not: [`Cause::NotAdmitted`] or [`Cause::SourceRefused`].
    pub(crate) fn admission(&self, shown: &Shown) -> Result<(), Cause> {
        let enroller = self.admissible.as_ref().map(|admissible| &admissible.enroller);
        let counts = |evidence| enroller.is_none_or(|enroller| enroller.accepts(&shown.email, evidence));
        let is_known = self.knows(&shown.principal, &shown.email) && shown.evidence.as_ref().is_none_or(counts);
        if !is_known || self.denials.denies(shown) {
            return Err(Cause::NotAdmitted);
        }
        if self.sources.permits(&shown.principal, shown.source) { Ok(()) } else { Err(Cause::SourceRefused) }
    }

    /// Whether there is nothing against [admission](Self::admission).
    pub(crate) fn admits(&self, shown: &Shown) -> bool {
        self.admission(shown).is_ok()
    }

    /// What `client` wants to reach, as the policy is asked for it at this moment. Whose address is not known comes from nowhere that a rule could
    /// mean.
    pub(crate) fn ask<'a>(&self, client: &'a Shown, target: &'a Target) -> Ask<'a> {
        let nowhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let source = Source::Address(client.source.unwrap_or(nowhere));
        Ask { client: &client.principal.name, target, source, now: self.clock.now() }
    }

    /// Whether Google says if this certificate is still good. Whose keys are there, the certificate says; an older one does not, and then the
    /// configuration does, if enrolment is here.
    pub(crate) fn hangs_on_google(&self, shown: &Shown) -> bool {
        let has_keys_there = self.admissible.as_ref().map(|admissible| admissible.at_google.contains(&shown.email));
        match shown.evidence.as_ref().map(|evidence| &evidence.proof) {
            Some(Proof::GoogleKey(_) | Proof::GoogleIdToken { .. }) => has_keys_there.unwrap_or(true),
            Some(Proof::Key(_) | Proof::Oidc { .. } | Proof::Bearer { .. }) => false,
            None => has_keys_there.unwrap_or(false),
        }
    }

    /// Whether the configuration names this identity.
    fn knows(&self, principal: &Principal, email: &str) -> bool {
        self.identities.get(principal).is_some_and(|known| known == email)
    }

    /// Who could connect under `before` and may not under these rules, whatever the certificate.
    pub(crate) fn no_longer_admitted(&self, before: &Self) -> BTreeSet<Principal> {
        let may = |rules: &Self, principal: &Principal, email: &str| {
            rules.knows(principal, email) && !rules.denials.denies_identity(principal, email)
        };
        let could = before.identities.iter().filter(|(principal, email)| may(before, principal, email));
        let gone = could.filter(|(principal, email)| !may(self, principal, email));
        gone.map(|(principal, _)| principal.clone()).collect()
    }

    /// Why a session between these parties may not go on, if so. One that no agent was chosen for yet is judged when one is.
    pub(crate) fn objection(&self, gone: &BTreeSet<Principal>, parties: &Parties) -> Option<Refusal> {
        let Parties { client, agent, target, address: _, client_certificate, agent_certificate } = parties;
        let (client, agent) = (client.as_ref()?, agent.as_ref());
        let out = |gone: bool, shown: &Option<Arc<Shown>>| match (gone, shown) {
            (true, _) => Some(Cause::NotAdmitted),
            (false, shown) => shown.as_ref().and_then(|shown| self.admission(shown).err()),
        };
        if let Some(cause) = out(gone.contains(client), client_certificate) {
            return Some(Refusal::new(Hop::Server, cause));
        }
        if let Some(cause) = out(agent.is_some_and(|agent| gone.contains(agent)), agent_certificate) {
            return Some(Refusal::new(Hop::Agent, cause));
        }
        let (agent, target) = (agent?, target.as_ref()?);
        // A session has the certificate before it has an agent.
        let denied = self.policy.decide(&self.ask(client_certificate.as_ref()?, target), &agent.name).err()?;
        Some(Refusal::new(Hop::Server, denied))
    }

    /// The files that these rules were read from, the configuration itself excepted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        key_files(&self.config.identities)
    }
}

/// Where agents and clients may come from.
pub(crate) fn sources(config: &ServerConfig) -> Sources {
    let identities = config.identities.iter();
    let identities = identities.map(|identity| (identity.role, &identity.name, identity.source_ranges.as_ref()));
    Sources::new(config.server.allowed_sources.by_role(), identities)
}

/// The files of keys that identities have.
pub(crate) fn key_files(identities: &[Identity]) -> Vec<PathBuf> {
    identities.iter().flat_map(|identity| identity.key_files().iter().cloned()).collect()
}

impl InForceRules {
    pub(crate) fn new(rules: Rules) -> Self {
        let shown = InForce::new(rules.version.as_str().to_owned(), rules.policy.count());
        Self { rules: RwLock::new(Arc::new(rules)), replacing: Mutex::default(), shown }
    }

    /// The state in force.
    pub(crate) fn now(&self) -> Arc<Rules> {
        Arc::clone(&self.deciding())
    }

    /// The state in force, which stays so until the guard is dropped: a decision and its entry in the ledger are one step to whoever
    /// replaces the rules and then looks for what they no longer allow.
    pub(crate) fn deciding(&self) -> RwLockReadGuard<'_, Arc<Rules>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what is being decided at this moment is in the ledger.
    pub(crate) fn settle(&self) {
        drop(self.rules.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Puts the same into force, [made anew](Rules::remade).
    pub(crate) fn remade(&self, rules: Arc<Rules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Puts others into force.
    pub(crate) fn replace(&self, rules: Arc<Rules>) {
        let (version, count) = (rules.version.as_str().to_owned(), rules.policy.count());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.shown.applied(version, count);
    }

    /// Puts the same with other denials into force.
    pub(crate) fn deny(&self, rules: Arc<Rules>) {
        let (version, count) = (rules.version.as_str().to_owned(), rules.policy.count());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.shown.changed(version, count);
    }
}

/// The identities that may enrol, with the keys that their files hold.
///
/// # Errors
/// Says whose file cannot be used, and why.
pub(crate) fn enrol_identities(
    trust_domain: &TrustDomain,
    identities: &[Identity],
) -> Result<Vec<EnrolIdentity>, (String, Box<dyn std::error::Error + Send + Sync>)> {
    let mut enrol = Vec::new();
    for identity in identities {
        let keys = match &identity.public_keys {
            None => None,
            Some(PublicKeys::Google) => Some(AccountKeys::AtGoogle { unique_id: identity.unique_id.clone() }),
            Some(PublicKeys::Files(files)) => {
                let keys: Result<Vec<_>, _> = files.iter().map(|path| PublicKey::read(path)).collect();
                let doing = || format!("reading the public key of {}", identity.name);
                Some(AccountKeys::Held(keys.map_err(|error| (doing(), error.into()))?))
            }
        };
        let oidc = identity.oidc.as_ref().map(|oidc| OidcSubject {
            issuer: oidc.issuer.clone(),
            subject: oidc.subject.clone(),
            email_is_checked: oidc.check_email,
        });
        let principal =
            Principal { trust_domain: trust_domain.clone(), role: identity.role, name: identity.name.clone() };
        enrol.push(EnrolIdentity { principal, email: identity.email.clone(), keys, oidc });
    }
    Ok(enrol)
}

/// The OIDC issuers whose tokens count, and where their keys are.
pub(crate) fn oidc_issuers(issuers: &[ginnel_config::OidcIssuer]) -> (Vec<OidcIssuer>, Vec<IssuerKeys>) {
    let both = issuers.iter().map(|issuer| {
        let binding = match issuer.binding {
            TokenBinding::Audience => Binding::Audience,
            TokenBinding::Cnf => Binding::Confirmation,
            TokenBinding::Bearer => Binding::Bearer,
        };
        let tokens = OidcIssuer {
            name: issuer.name.to_string(),
            issuer: issuer.issuer.clone(),
            audience: issuer.audience.clone(),
            binding,
        };
        let keys = IssuerKeys {
            name: issuer.name.to_string(),
            issuer: issuer.issuer.clone(),
            jwks_uri: issuer.jwks_uri.clone(),
            ca_file: issuer.ca_file.clone(),
        };
        (tokens, keys)
    });
    both.unzip()
}

/// A version that says the same of the same rules on every server.
fn version(policy: &Policy) -> Text {
    let hash = digest::digest(&digest::SHA256, policy.canonical_text().as_bytes());
    let hex = Text::hex(hash.as_ref());
    Text::new(&hex.as_str()[..VERSION_DIGITS.min(hex.as_str().len())])
}

#[cfg(test)]
mod tests;
