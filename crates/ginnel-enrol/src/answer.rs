//! What an issuer in another place signed, held against what was asked for. A certificate that says anything else goes to nobody.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_core::principal::Role;
use ginnel_identity::oid::{EVIDENCE, INNER_INITIATOR_DER, INNER_RESPONDER_DER};
use ginnel_identity::tls::{INTERMEDIATES_MAX, leads_to};
use ginnel_identity::{CertificateError, Leaf, Roots};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::issuer::{CertificateRequest, Issued};

/// How far the issuer's clock may be from ours.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(300);

/// What is wrong with an issuer's answer.
#[derive(Debug, thiserror::Error)]
pub enum WrongAnswer {
    /// It leads to no root of the role, or cannot be used as the role uses it.
    #[error("the certificate does not lead to a root of the role")]
    Chain(#[source] Box<dyn Error + Send + Sync>),
    /// It names another account.
    #[error("the certificate names another e-mail")]
    Email,
    /// It says that it was given for something else, or does not say it: a pool whose policy does not let the extension through drops it.
    #[error(
        "the certificate does not say what it was given for; let the issuing pool pass the extension {} through",
        dotted(EVIDENCE)
    )]
    Evidence,
    /// It does not have the form of a leaf.
    #[error("the certificate does not have the form of a leaf")]
    Form(#[source] CertificateError),
    /// It is for another key.
    #[error("the certificate is for another key")]
    Key,
    /// It is valid for longer than was asked.
    #[error("the certificate holds for longer than was asked for")]
    Lifetime,
    /// The server's names are not those that were asked for, or somebody else has some.
    #[error("the certificate's DNS names and addresses are not those that were asked for")]
    Names,
    /// It names another principal.
    #[error("the certificate names another principal")]
    Principal,
    /// It may be used for more, or less, than its role does.
    #[error("the certificate's key purposes are not those of its role")]
    Purposes,
    /// It has expired already, or begins too late.
    #[error("the certificate is not valid now")]
    Validity,
}

/// Takes a chain, leaf first, for the certificate that was asked for; the root and what is above it are left out.
///
/// # Errors
/// [`WrongAnswer`] for the first thing that differs.
pub fn check_answer(
    request: &CertificateRequest,
    mut chain: Vec<CertificateDer<'static>>,
    roots: &Roots,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Issued, WrongAnswer> {
    let role = request.principal.role;
    let form = WrongAnswer::Form;
    let leaf = Leaf::parse(chain.first().ok_or(form(CertificateError::Empty))?).map_err(form)?;
    if leaf.principal != request.principal {
        return Err(WrongAnswer::Principal);
    }
    if leaf.email != request.email {
        return Err(WrongAnswer::Email);
    }
    if leaf.evidence != request.evidence {
        return Err(WrongAnswer::Evidence);
    }
    check_details(request, &chain[0])?;
    if leaf.not_after > now + lifetime + CLOCKS_APART_MAX {
        return Err(WrongAnswer::Lifetime);
    }
    if leaf.not_after <= now || leaf.not_before > now + CLOCKS_APART_MAX {
        return Err(WrongAnswer::Validity);
    }
    // Who believes in a root has it.
    let root = chain.iter().skip(1).position(|certificate| roots.certificates().contains(certificate));
    chain.truncate(root.map_or(chain.len(), |below| below + 1));
    let more = &chain[1..];
    if more.len() > INTERMEDIATES_MAX {
        return Err(WrongAnswer::Chain("the chain is too long".into()));
    }
    // The issuer's clock may be ahead of ours by what was let through above.
    let at = now.max(leaf.not_before).duration_since(UNIX_EPOCH).map_err(|_| WrongAnswer::Validity)?;
    leads_to(roots, &chain[0], more, role, UnixTime::since_unix_epoch(at))
        .map_err(|error| WrongAnswer::Chain(error.into()))?;
    Ok(Issued { not_after: leaf.not_after, serial: leaf.serial, chain })
}

/// What [`Leaf`] does not read: key, purposes, names of hosts.
fn check_details(request: &CertificateRequest, der: &CertificateDer<'_>) -> Result<(), WrongAnswer> {
    let malformed = || WrongAnswer::Form(CertificateError::Malformed);
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
    if certificate.public_key().raw != request.spki_der {
        return Err(WrongAnswer::Key);
    }
    let usage = certificate.extended_key_usage().map_err(|_| malformed())?.ok_or(WrongAnswer::Purposes)?.value;
    let others: BTreeSet<&[u8]> = usage.other.iter().map(|oid| oid.as_bytes()).collect();
    let more = usage.any || usage.code_signing || usage.email_protection || usage.time_stamping || usage.ocsp_signing;
    let (server_auth, inner) = match request.principal.role {
        Role::Server => (true, BTreeSet::new()),
        Role::Agent => (false, BTreeSet::from([INNER_RESPONDER_DER])),
        Role::Client => (false, BTreeSet::from([INNER_INITIATOR_DER])),
    };
    if more || !usage.client_auth || usage.server_auth != server_auth || others != inner {
        return Err(WrongAnswer::Purposes);
    }
    let names = certificate.subject_alternative_name().map_err(|_| malformed())?.ok_or(WrongAnswer::Names)?;
    let mut hosts = BTreeSet::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::DNSName(name) => drop(hosts.insert((*name).to_owned())),
            GeneralName::IPAddress(bytes) => drop(hosts.insert(address(bytes).ok_or(WrongAnswer::Names)?.to_string())),
            GeneralName::RFC822Name(_) | GeneralName::URI(_) => {}
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => return Err(WrongAnswer::Names),
        }
    }
    let wanted: BTreeSet<String> = request.server_names.iter().cloned().collect();
    if hosts == wanted { Ok(()) } else { Err(WrongAnswer::Names) }
}

fn dotted(oid: &[u64]) -> String {
    oid.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Whether no authority is trusted for two roles: by key, because the certificate of an authority can be made anew.
pub fn roots_are_apart(roots: [&Roots; 3]) -> bool {
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    roots.into_iter().all(|roots| {
        let keys: BTreeSet<Vec<u8>> = roots.certificates().iter().filter_map(key_of).collect();
        let apart = keys.is_disjoint(&seen);
        seen.extend(keys);
        apart
    })
}

fn key_of(certificate: &CertificateDer<'static>) -> Option<Vec<u8>> {
    X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate.public_key().raw.to_vec())
}

#[cfg(test)]
mod tests {
    use ginnel_core::evidence::{Evidence, Proof};
    use ginnel_identity::KeyPair;

    use super::*;
    use crate::embedded::EmbeddedIssuer;

    const LIFETIME: Duration = Duration::from_secs(3600);

    fn request(role: Role) -> CertificateRequest {
        CertificateRequest {
            principal: format!("spiffe://acme.example/{role}/one").parse().expect("a principal"),
            email: "one@acme.example".to_owned(),
            spki_der: KeyPair::generate().expect("a key").spki_der().to_vec(),
            server_names: if role == Role::Server { vec!["tunnel.acme.example".to_owned()] } else { Vec::new() },
            evidence: Some(evidence("one")),
            renews: None,
        }
    }

    fn evidence(id: &str) -> Evidence {
        Evidence { proof: Proof::GoogleKey(id.to_owned()), verified_by: [7; 32] }
    }

    #[test]
    fn takes_what_was_asked_for_and_nothing_else() {
        use crate::issuer::Issuer as _;

        let directory = tempfile::tempdir().expect("a directory");
        let trust_domain = "acme.example".parse().expect("a trust domain");
        let now = SystemTime::now();
        let issuer =
            EmbeddedIssuer::open(&directory.path().join("ca"), &trust_domain, LIFETIME, now).expect("an issuer");
        let [server, agent, client] = [Role::Server, Role::Agent, Role::Client].map(|role| issuer.roots(role));
        assert!(roots_are_apart([&server, &agent, &client]));
        assert!(!roots_are_apart([&server, &agent, &agent]));

        for role in [Role::Server, Role::Agent, Role::Client] {
            let (asked, roots) = (request(role), issuer.roots(role));
            let signed = issuer.sign(&asked, now).expect("a certificate");
            // The root may come along, and what is above it.
            let chain = [signed.chain.clone(), roots.certificates().to_vec(), server.certificates().to_vec()].concat();
            let taken = check_answer(&asked, chain.clone(), &roots, LIFETIME, now).expect("the certificate");
            assert_eq!((&taken.chain, &taken.serial), (&signed.chain, &signed.serial));

            let other = |change: &dyn Fn(&mut CertificateRequest)| {
                let mut asked = asked.clone();
                change(&mut asked);
                check_answer(&asked, chain.clone(), &roots, LIFETIME, now).map(|_| ())
            };
            let differ: [(&str, Result<(), WrongAnswer>); 9] = [
                ("another principal", other(&|asked| asked.principal.name = "two".parse().expect("a name"))),
                ("another e-mail", other(&|asked| asked.email = "two@acme.example".to_owned())),
                ("what it was given for", other(&|asked| asked.evidence = Some(evidence("two")))),
                ("what it was given for", other(&|asked| asked.evidence = None)),
                ("another key", other(&|asked| asked.spki_der = request(role).spki_der)),
                ("DNS names", other(&|asked| asked.server_names.push("other.acme.example".to_owned()))),
                ("for longer", check_answer(&asked, chain.clone(), &roots, Duration::from_secs(60), now).map(|_| ())),
                (
                    "not valid now",
                    check_answer(&asked, chain.clone(), &roots, LIFETIME, now + 2 * LIFETIME).map(|_| ()),
                ),
                ("form of a leaf", check_answer(&asked, Vec::new(), &roots, LIFETIME, now).map(|_| ())),
            ];
            for (words, outcome) in differ {
                let error = outcome.expect_err(words);
                assert!(error.to_string().contains(words), "{role}: {error}");
            }
            let foreign = if role == Role::Agent { &client } else { &agent };
            let error = check_answer(&asked, signed.chain, foreign, LIFETIME, now).expect_err("another role's root");
            assert!(matches!(error, WrongAnswer::Chain(_)), "{error}");
        }
    }
}
