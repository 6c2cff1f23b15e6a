use ginnel_core::evidence::Proof;
use ginnel_core::principal::Role;
use rcgen::{BasicConstraints, CustomExtension, IsCa, KeyUsagePurpose, SanType};

use super::*;
use crate::evidence::encode;
use crate::oid::EVIDENCE;
use crate::testing::{Authority, NOW, Profile};

fn parse(profile: &Profile) -> Result<Leaf, CertificateError> {
    Leaf::parse(&Authority::new("any").der(profile, &KeyPair::generate().expect("a key")))
}

#[test]
fn reads_what_a_leaf_says() {
    for role in [Role::Server, Role::Agent, Role::Client] {
        let leaf = parse(&Profile::of(role)).expect("a leaf");
        assert_eq!(leaf.principal.to_string(), format!("spiffe://acme.example/{role}/one"));
        assert_eq!(leaf.email, format!("{role}@acme.example"));
        assert_eq!(leaf.serial, "0abc");
        assert_eq!(leaf.not_after, UNIX_EPOCH + Duration::from_secs(NOW + 3600));
        assert_eq!(leaf.not_before, UNIX_EPOCH + Duration::from_secs(NOW - 300));
    }
}

#[test]
fn says_what_it_was_given_for_in_one_form_or_not_at_all() {
    let evidence = Evidence { proof: Proof::GoogleKey("one".to_owned()), verified_by: [7; 32] };
    let extension = CustomExtension::from_oid_content(EVIDENCE, encode(&evidence).expect("encoded"));
    let with = |extensions| parse(&Profile { extensions, ..Profile::of(Role::Agent) }).map(|leaf| leaf.evidence);
    assert_eq!(with(vec![]), Ok(None));
    assert_eq!(with(vec![extension.clone()]), Ok(Some(evidence)));
    let mut critical = extension.clone();
    critical.set_criticality(true);
    let malformed = CustomExtension::from_oid_content(EVIDENCE, vec![0x30, 0]);
    for wrong in [vec![critical], vec![malformed], vec![extension.clone(), extension]] {
        assert_eq!(with(wrong), Err(CertificateError::Evidence));
    }
}

#[test]
fn strips_the_sign_byte_of_a_serial_number() {
    let profile = Profile { serial: vec![0xf0, 1], ..Profile::of(Role::Agent) };
    assert_eq!(parse(&profile).expect("a leaf").serial, "f001");
    for (raw, expected) in [
        (&[][..], None),
        (&[0], None),
        (&[0x80], None),
        (&[1; 21], None),
        (&[0, 0xff], Some("ff")),
        (&[0x7f; 1], Some("7f")),
    ] {
        assert_eq!(serial(raw).ok().as_deref(), expected, "{raw:?}");
    }
}

#[test]
fn refuses_every_other_form() {
    let good = Profile::of(Role::Agent);
    let with = |change: fn(&mut Profile)| {
        let mut profile = good.clone();
        change(&mut profile);
        profile
    };
    let cases = [
        (with(|p| p.uris.clear()), CertificateError::Uri),
        (with(|p| p.uris.push("spiffe://acme.example/agent/two".to_owned())), CertificateError::Uri),
        (
            with(|p| p.uris = vec!["https://acme.example".to_owned()]),
            CertificateError::Principal(InvalidPrincipal::Uri),
        ),
        (
            with(|p| p.uris = vec!["spiffe://acme.example/admin/x".to_owned()]),
            CertificateError::Principal(InvalidPrincipal::Role),
        ),
        (
            with(|p| p.uris = vec!["spiffe://acme.example/agent/..".to_owned()]),
            CertificateError::Principal(InvalidPrincipal::Name),
        ),
        (with(|p| p.emails.clear()), CertificateError::Email),
        (with(|p| p.emails.push("other@acme.example".to_owned())), CertificateError::Email),
        (with(|p| p.emails = vec!["no e-mail".to_owned()]), CertificateError::Email),
        (with(|p| p.more_names.push(SanType::OtherName((vec![1, 2, 3], "x".into())))), CertificateError::Names),
        (with(|p| (p.uris.clear(), p.emails.clear()).1), CertificateError::Names),
        (with(|p| p.is_ca = IsCa::NoCa), CertificateError::Authority),
        (with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), CertificateError::Authority),
        (with(|p| p.key_usages.clear()), CertificateError::KeyUsage),
        (with(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]), CertificateError::KeyUsage),
        (with(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), CertificateError::KeyUsage),
        (with(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), CertificateError::KeyUsage),
        (with(|p| (p.not_before, p.not_after) = (-10, -5)), CertificateError::Validity),
        (with(|p| p.serial = vec![0x7f; 21]), CertificateError::Serial),
    ];
    for (number, (profile, error)) in cases.into_iter().enumerate() {
        assert_eq!(parse(&profile), Err(error), "case {number}");
    }
}

#[test]
fn refuses_names_that_are_not_critical_without_a_subject() {
    // With a subject the names need not be critical; the same extension under an empty subject must be.
    assert!(parse(&Profile { subject: Some("x".to_owned()), ..Profile::of(Role::Agent) }).is_ok());
    let names = [b"\x30\x25\x86\x1fspiffe://acme.example/agent/one\x81\x02a@".as_slice()].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
    extension.set_criticality(false);
    let profile = Profile { uris: vec![], emails: vec![], extensions: vec![extension], ..Profile::of(Role::Agent) };
    assert_eq!(parse(&profile), Err(CertificateError::Names));
}

#[test]
fn refuses_what_is_no_certificate() {
    let good = Authority::new("any").der(&Profile::of(Role::Agent), &KeyPair::generate().expect("a key"));
    let trailing = [good.as_ref(), &[0]].concat();
    for bad in [Vec::new(), b"no certificate".to_vec(), good[..good.len() - 1].to_vec(), trailing] {
        assert_eq!(Leaf::parse(&bad.into()), Err(CertificateError::Malformed));
    }
}

#[test]
fn survives_every_flipped_bit() {
    let good = Authority::new("any").der(&Profile::of(Role::Agent), &KeyPair::generate().expect("a key"));
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        // Form only; that the signature no longer fits is for the verifiers.
        let _ = Leaf::parse(&bad.into());
    }
}

#[test]
fn an_identity_needs_its_own_key() {
    let authority = Authority::new("any");
    let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let certificate = authority.der(&Profile::of(Role::Agent), &key);
    let error = Identity::new(vec![certificate.clone()], other).expect_err("another key");
    assert_eq!(error, CertificateError::KeyMismatch);
    assert_eq!(Identity::new(vec![], key.clone()).expect_err("no certificate"), CertificateError::Empty);
    let identity = Identity::new(vec![certificate], key).expect("an identity");
    assert_eq!(identity.clone().leaf(), identity.leaf());
    assert!(!format!("{identity:?}").contains("KeyPair"), "{identity:?}");
}
