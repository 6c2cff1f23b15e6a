//! Certificates, keys and enrolments: what proves who somebody is.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_core::principal::Principal;
use ginnel_enrol::{AccountKeys, Denied, EnrolIdentity, Enroller, KeySet, PublicKey};
use ginnel_identity::key::{p256_point, sha256};
use ginnel_identity::{Leaf, Roots, ServiceAccountKey, is_email};
use rustls_pki_types::CertificateDer;

/// The public half of the service account that signed the tokens in the corpus; the private half was thrown away.
const ACCOUNT: &str = include_str!("account.pub.pem");

/// A right token of that account, for the key in `account.csr.der`.
const TOKEN: &str = include_str!("account.token");

/// The moment at which the corpus was made.
pub const NOW: u64 = 1_800_000_000;

/// The service account of the corpus.
pub const EMAIL: &str = "agent@acme.example";

/// The audience of the tokens in the corpus.
pub const AUDIENCE: &str = "https://tunnel.acme.example/enrol";

const PRINCIPAL: &str = "spiffe://acme.example/agent/acme";

/// Leaf certificates in DER: whoever is named is named in the one way, and nothing else of the bytes is believed.
pub fn certificate(data: &[u8]) {
    let der = CertificateDer::from(data);
    let Ok(leaf) = Leaf::parse(&der) else { return };
    assert_eq!(leaf.principal.to_string().parse::<Principal>(), Ok(leaf.principal.clone()));
    assert!(is_email(&leaf.email));
    assert!(!leaf.serial.is_empty() && leaf.serial.len() <= 40 && leaf.serial.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(leaf.not_before >= UNIX_EPOCH && leaf.not_after >= UNIX_EPOCH);
    assert_eq!(leaf.sha256, sha256(data));
}

/// Roots in PEM: what is believed reads back, and is never a leaf.
pub fn roots(data: &[u8]) {
    let Ok(roots) = Roots::from_pem(data) else { return };
    let again = Roots::from_pem(roots.to_pem().as_bytes()).expect("roots");
    assert_eq!(again.certificates(), roots.certificates());
    assert!(roots.certificates().iter().all(|certificate| Leaf::parse(certificate).is_err()));
}

/// Public keys in PEM.
pub fn public_key(data: &[u8]) {
    let Ok(key) = PublicKey::from_pem(data) else { return };
    assert!(ginnel_identity::credential::is_key_id(key.id()));
    let headers = data.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| line.starts_with(b"-----BEGIN "));
    assert_eq!(headers.count(), 1, "one key, and nothing else");
}

/// Key sets as Google and OIDC issuers publish them: each key once, under an id that can be written anywhere.
pub fn key_set(data: &[u8]) {
    let Ok(set) = KeySet::parse(data) else { return };
    let ids: Vec<&str> = set.ids().collect();
    assert_eq!(ids.is_empty(), set.is_empty());
    assert!(ids.iter().all(|id| set.find(id).is_some()), "a key that cannot be found");
    assert!(ids.iter().all(|id| !id.is_empty() && id.chars().all(|character| character.is_ascii_graphic())));
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}

/// Key files; `{KEY}` in one stands for a private key made on the spot, so that none lies in the repository.
pub fn key_file(data: &[u8]) {
    static KEY: LazyLock<Option<String>> = LazyLock::new(|| {
        let directory = std::env::temp_dir().join(format!("ginnel-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).ok()?;
        let path = directory.join("key.json");
        let made = ServiceAccountKey::create(EMAIL, &path).ok().and_then(|_| std::fs::read_to_string(&path).ok());
        std::fs::remove_dir_all(&directory).ok()?;
        let (_, rest) = made?.split_once("\"private_key\":").map(|(head, rest)| (head.to_owned(), rest.to_owned()))?;
        let start = rest.find('"')? + 1;
        let end = start + rest[start..].find('"')?;
        Some(rest[start..end].to_owned())
    });
    let path = Path::new("key.json");
    let given = String::from_utf8_lossy(data);
    let json = if given.contains("{KEY}") {
        given.replace("{KEY}", KEY.as_deref().expect("a key")).into_bytes()
    } else {
        data.to_vec()
    };
    match ServiceAccountKey::from_json(&json, path) {
        Ok(key) => {
            assert!(is_email(key.email()) && ginnel_identity::credential::is_key_id(key.key_id()));
            assert!(!format!("{key:?}").contains("PRIVATE"));
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.starts_with("key.json") && said.len() < 200, "{said:?} quotes content");
        }
    }
}

/// Certificate requests in DER, beside a right token: only the key that the token is bound to, with its proof, passes.
pub fn csr(data: &[u8]) {
    judge(TOKEN.trim_end(), data);
}

/// Enrolments: the token on the first line, the certificate request in DER after it.
pub fn enrolment(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let Ok(token) = str::from_utf8(&data[..end]) else { return };
    judge(token, data.get(end + 1..).unwrap_or_default());
}

fn judge(token: &str, csr: &[u8]) {
    static IDENTITY: LazyLock<EnrolIdentity> = LazyLock::new(|| EnrolIdentity {
        principal: PRINCIPAL.parse().expect("a principal"),
        email: EMAIL.to_owned(),
        keys: Some(AccountKeys::Held(vec![PublicKey::from_pem(ACCOUNT.as_bytes()).expect("a key")])),
        oidc: None,
    });
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let enroller = Enroller::new(AUDIENCE.to_owned(), vec![IDENTITY.clone()], Vec::new(), now).expect("an identity");
    let judge = |now| enroller.claim(token, csr, now).and_then(|claim| claim.admit(None));
    let verdict = judge(now);
    assert!(judge(far_from(now)).is_err(), "a token lives for ever");
    let Ok(admitted) = verdict else { return };
    assert_eq!((&admitted.principal, admitted.email.as_str()), (&IDENTITY.principal, EMAIL));
    assert!(p256_point(&admitted.spki_der).is_some());
    assert_eq!(admitted.spki_sha256, sha256(&admitted.spki_der));
    assert_eq!(judge(now), Err(Denied::Replayed), "a token works twice");
}

/// Long after any token that is valid at `now`.
fn far_from(now: SystemTime) -> SystemTime {
    now + Duration::from_secs(24 * 3600)
}
