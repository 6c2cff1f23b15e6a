use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;

const EMAIL: &str = "agent@acme.iam.gserviceaccount.com";

fn created() -> (tempfile::TempDir, PathBuf, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key.json");
    let public = ServiceAccountKey::create(EMAIL, &path).expect("created");
    (directory, path, public)
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set");
}

#[test]
fn reads_back_what_it_creates() {
    let (_directory, path, public) = created();
    assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777, 0o600);
    assert!(public.starts_with("-----BEGIN PUBLIC KEY-----\n"));
    let key = ServiceAccountKey::read(&path).expect("read");
    let spki = pem::decode_one(public.as_bytes(), SectionKind::PublicKey).expect("a public key");
    assert_eq!((key.email(), key.key_id()), (EMAIL, key_id(&spki).as_str()));
    let file: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    assert_eq!(file["type"], "service_account");
    assert_eq!(file["project_id"], "acme");
    assert_eq!(file["token_uri"], "https://oauth2.googleapis.com/token");
}

#[test]
fn never_replaces_a_file() {
    let (_directory, path, _) = created();
    let before = fs::read(&path).expect("read");
    assert!(matches!(ServiceAccountKey::create(EMAIL, &path), Err(CredentialError::File(FileError::Exists { .. }))));
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[test]
fn signs_tokens_that_the_public_key_verifies() {
    let (_directory, path, public) = created();
    let key = ServiceAccountKey::read(&path).expect("read");
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let token = key.sign_token("https://t.example/enrol", [7; 32], now).expect("a token");
    let (signed, signature) = token.expose_secret().rsplit_once('.').expect("three parts");
    let (header, claims) = signed.split_once('.').expect("three parts");
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).expect("base64url");
    let parse = |text: &str| serde_json::from_slice::<Value>(&decode(text)).expect("JSON");
    assert_eq!(parse(header), json!({"alg": "RS256", "kid": key.key_id(), "typ": "JWT"}));
    let claims = parse(claims);
    let jti = claims["jti"].as_str().expect("a jti");
    assert_eq!(decode(jti).len(), 16);
    let expected = json!({
        "iss": EMAIL, "sub": EMAIL, "aud": "https://t.example/enrol", "iat": 1_800_000_000, "exp": 1_800_000_300, "jti": jti,
        "cnf": {"spki#S256": BASE64_URL_SAFE_NO_PAD.encode([7; 32])},
    });
    assert_eq!(claims, expected);
    let spki = pem::decode_one(public.as_bytes(), SectionKind::PublicKey).expect("a public key");
    let verifying =
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256, spki);
    verifying.verify(signed.as_bytes(), &decode(signature)).expect("verified");
    let again = key.sign_token("https://t.example/enrol", [7; 32], now).expect("a token");
    assert_ne!(token.expose_secret(), again.expose_secret());
}

#[test]
fn refuses_files_that_are_no_key_and_says_which_field() {
    let (_directory, path, _) = created();
    let good: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    let small = pem::encode("PRIVATE KEY", b"secret marker");
    let cases = [
        ("type", json!("authorized_user")),
        ("type", Value::Null),
        ("client_email", json!("../x@y")),
        ("client_email", Value::Null),
        ("private_key_id", json!("../../etc/passwd")),
        ("private_key", json!("secret marker")),
        ("private_key", json!(*small)),
        ("private_key", json!(small.replace("PRIVATE", "RSA PRIVATE"))),
        ("private_key", Value::Null),
    ];
    for (name, value) in cases {
        let mut bad = good.clone();
        bad[name] = value.clone();
        write(&path, &bad);
        let error = ServiceAccountKey::read(&path).expect_err(name);
        assert!(matches!(&error, CredentialError::Field { field, .. } if *field == name), "{name} {value}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("key.json") && !shown.contains("secret marker"), "{shown}");
    }
}

#[test]
fn refuses_other_json_without_quoting_it() {
    let (_directory, path, _) = created();
    for value in [json!("secret marker"), json!(["secret marker"]), json!({"private_key": {"secret marker": 1}})] {
        write(&path, &value);
        let error = ServiceAccountKey::read(&path).expect_err("refused");
        assert!(matches!(error, CredentialError::Json { .. } | CredentialError::Field { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("secret marker"), "{error:?}");
    }
    fs::write(&path, vec![b' '; FILE_BYTES_MAX + 1]).expect("written");
    assert!(matches!(ServiceAccountKey::read(&path), Err(CredentialError::File(FileError::Size { .. }))));
}

#[test]
fn refuses_a_file_that_others_can_read() {
    let (_directory, path, _) = created();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
    let error = ServiceAccountKey::read(&path).expect_err("refused");
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn debug_shows_no_key() {
    let (_directory, path, _) = created();
    let key = ServiceAccountKey::read(&path).expect("read");
    let token = key.sign_token("a", [0; 32], SystemTime::now()).expect("a token");
    assert_eq!(
        format!("{key:?}"),
        format!("ServiceAccountKey {{ email: \"{EMAIL}\", key_id: \"{}\", .. }}", key.key_id())
    );
    assert!(!format!("{token:?}").contains(token.expose_secret()));
}

#[test]
fn knows_an_email_in_one_spelling() {
    for good in [EMAIL, "a@b", "first.last+tag_1@x-y.example"] {
        assert!(is_email(good), "{good}");
    }
    for bad in [
        "",
        "a",
        "@b",
        "a@",
        "a@b@c",
        "a@b/../../x",
        "a@evil.com?x=",
        "a@b\r\nX: y",
        "A@b",
        "a@-b",
        "a@b..c",
        "a b@c",
        "ä@b",
    ] {
        assert!(!is_email(bad), "{bad}");
    }
}
