//! What can change while the server runs: identities, their keys, and rules. Replaced as a whole, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use aws_lc_rs::digest;
use ginnel_config::{Identity, PublicKeys, ServerConfig, TokenBinding};
use ginnel_core::audit::Text;
use ginnel_core::cause::{Cause, Hop, Refusal};
use ginnel_core::policy::Policy;
use ginnel_core::principal::{Principal, TrustDomain};
use ginnel_enrol::{AccountKeys, Binding, EnrolIdentity, OidcIssuer, OidcSubject, PublicKey};
use ginnel_keys::IssuerKeys;
use ginnel_ops::ledger::Parties;
use ginnel_ops::reload::InForce;

/// Hexadecimal digits of a policy's version.
const VERSION_DIGITS: usize = 16;

/// One state of it.
pub(crate) struct Rules {
    /// What the file said.
    pub(crate) config: ServerConfig,
    /// Who may connect, with the service account that each must have.
    pub(crate) identities: BTreeMap<Principal, String>,
    pub(crate) policy: Policy,
    /// The policy's version, as records have it.
    pub(crate) version: Text,
}

/// The state in force.
pub(crate) struct InForceRules {
    rules: RwLock<Arc<Rules>>,
    pub(crate) shown: InForce,
}

impl Rules {
    pub(crate) fn new(config: ServerConfig) -> Self {
        let policy = Policy::new(config.rules.clone());
        let version = version(&policy);
        let identities = config.identities.iter().map(|identity| {
            let (trust_domain, name) = (config.trust_domain.clone(), identity.name.clone());
            (Principal { trust_domain, role: identity.role, name }, identity.email.clone())
        });
        Self { identities: identities.collect(), policy, version, config }
    }

    /// Whether somebody with this certificate may be connected.
    pub(crate) fn admits(&self, principal: &Principal, email: &str) -> bool {
        self.identities.get(principal).is_some_and(|known| known == email)
    }

    /// Who could connect under `before` and may not under these rules.
    pub(crate) fn no_longer_admitted(&self, before: &Self) -> BTreeSet<Principal> {
        let gone = before.identities.iter().filter(|(principal, email)| !self.admits(principal, email));
        gone.map(|(principal, _)| principal.clone()).collect()
    }

    /// Why a session between these parties may not go on, if so. One that no agent was chosen for yet is judged when one is.
    pub(crate) fn objection(&self, gone: &BTreeSet<Principal>, parties: &Parties) -> Option<Refusal> {
        let Parties { client, agent, target, address: _ } = parties;
        let (client, agent) = (client.as_ref()?, agent.as_ref());
        if gone.contains(client) || agent.is_some_and(|agent| gone.contains(agent)) {
            return Some(Refusal::new(Hop::Server, Cause::NotAdmitted));
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
        let shown = InForce::new(rules.version.as_str().to_owned(), rules.config.rules.len());
        Self { rules: RwLock::new(Arc::new(rules)), shown }
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
        let (version, count) = (rules.version.as_str().to_owned(), rules.config.rules.len());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.shown.applied(version, count);
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
