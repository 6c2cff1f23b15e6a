//! What can change while the server runs: identities, their keys, rules, and what is denied of them. Replaced as a whole, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use aws_lc_rs::digest;
use ginnel_config::{Identity, PublicKeys, ServerConfig, TokenBinding};
use ginnel_core::audit::Text;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::denial::{Denials, Shown};
use ginnel_core::policy::Policy;
use ginnel_core::principal::{Principal, TrustDomain};
use ginnel_enrol::{AccountKeys, Binding, EnrolIdentity, OidcIssuer, OidcSubject, PublicKey};
use ginnel_keys::IssuerKeys;
use ginnel_ops::ledger::Parties;
use ginnel_ops::reload::InForce;

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
    /// The rules that are not denied.
    pub(crate) policy: Policy,
    /// The policy's version, as records have it.
    pub(crate) version: Text,
    /// Who may enrol, and with which keys; nobody where another process enrols.
    admissible: Option<Arc<Admissible>>,
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
    pub(crate) fn new(config: ServerConfig, admissible: Option<Arc<Admissible>>, denials: Arc<Denials>) -> Self {
        let in_force = config.rules.iter().filter(|rule| !denials.denies_rule(&rule.name));
        let policy = Policy::new(in_force.cloned().collect());
        let version = version(&policy);
        let identities = config.identities.iter().map(|identity| {
            let (trust_domain, name) = (config.trust_domain.clone(), identity.name.clone());
            (Principal { trust_domain, role: identity.role, name }, identity.email.clone())
        });
        Self { identities: identities.collect(), denials, policy, version, admissible, config }
    }

    /// The same with other denials.
    pub(crate) fn with_denials(&self, denials: Arc<Denials>) -> Self {
        Self::new(self.config.clone(), self.admissible.clone(), denials)
    }

    /// Whether somebody with this certificate may be connected: a known identity, enrolled with a key that it still has, and nothing of it
    /// denied.
    pub(crate) fn admits(&self, shown: &Shown) -> bool {
        let enroller = self.admissible.as_ref().map(|admissible| &admissible.enroller);
        let has_key = |key: [u8; 32]| enroller.is_none_or(|enroller| enroller.may_sign(&shown.email, &key));
        self.knows(&shown.principal, &shown.email) && shown.signed_by.is_none_or(has_key) && !self.denials.denies(shown)
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
        let is_out = |shown: &Option<Arc<Shown>>| shown.as_ref().is_some_and(|shown| !self.admits(shown));
        if gone.contains(client) || is_out(client_certificate) {
            return Some(Refusal::new(Hop::Server, Cause::NotAdmitted));
        }
        if agent.is_some_and(|agent| gone.contains(agent)) || is_out(agent_certificate) {
            return Some(Refusal::new(Hop::Agent, Cause::NotAdmitted));
        }
        let (agent, target) = (agent?, target.as_ref()?);
        let denied = self.policy.decide(&client.name, target, &agent.name).err()?;
        Some(Refusal::new(Hop::Server, denied))
    }

    /// The files that these rules were read from, the configuration itself excepted.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        key_files(&self.config.identities)
    }
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
