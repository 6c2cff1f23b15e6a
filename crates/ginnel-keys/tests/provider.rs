//! Tokens of a certified OpenID provider (`oidc-provider`, which scripts/setup installs), found by discovery and judged like any other.
#![cfg(test)]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ginnel_enrol::{Admitted, Binding, Denied, EnrolIdentity, Enroller, OidcIssuer, OidcSubject};
use ginnel_identity::KeyPair;
use ginnel_keys::{IssuerKeys, KeySets, Timing};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const AUDIENCE: &str = "https://tunnel.acme.example/enrol";
const SUBJECT: &str = "frontend";

/// A provider with one client, whose tokens are JWTs for the resource that the client names. It says where it listens, then answers each line
/// (a resource) with a token, got by the client-credentials grant over HTTP.
const SCRIPT: &str = r#"
import http from 'node:http';
import readline from 'node:readline';
import { Provider } from 'oidc-provider';
// Its notices are no tokens.
console.info = console.error;
const server = http.createServer((request, response) => callback(request, response));
let callback;
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: 'frontend', client_secret: 'not-a-secret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] }],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => ({ scope: '', audience: resource, accessTokenFormat: 'jwt', jwt: { sign: { alg: process.argv[2] } } }),
      },
    },
    jwks: { keys: JSON.parse(process.argv[3]) },
  });
  callback = provider.callback();
  console.log(issuer);
  readline.createInterface({ input: process.stdin }).on('line', async (resource) => {
    const body = new URLSearchParams({ grant_type: 'client_credentials', resource });
    const authorization = `Basic ${Buffer.from('frontend:not-a-secret').toString('base64')}`;
    const answer = await fetch(`${issuer}/token`, { method: 'POST', body, headers: { authorization } });
    const said = await answer.json();
    console.log(said.access_token ?? JSON.stringify(said));
  });
});
"#;

/// Makes the provider's keys with node's own cryptography: one that signs by each algorithm.
const KEYS: &str = r#"
import { generateKeyPairSync } from 'node:crypto';
const jwk = (kid, kind, options) => ({ ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), kid, use: 'sig' });
console.log(JSON.stringify([jwk('rsa-1', 'rsa', { modulusLength: 2048 }), jwk('ec-1', 'ec', { namedCurve: 'P-256' })]));
"#;

struct Provider {
    issuer: String,
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

/// Where scripts/setup puts what it gets from npm.
fn modules() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")), PathBuf::from);
    target.join("tools/npm")
}

impl Provider {
    async fn start(algorithm: &str) -> Result<Self> {
        let modules = modules();
        ensure!(
            modules.join("node_modules/oidc-provider").is_dir(),
            "oidc-provider is missing: scripts/setup installs it"
        );
        let made = Command::new("node").args(["--input-type=module", "-e", KEYS]).output().await?;
        let keys = String::from_utf8(made.stdout)?;
        // A module is looked for beside the script that imports it.
        let script = tempfile::Builder::new().suffix(".mjs").tempfile_in(&modules)?;
        std::fs::write(script.path(), SCRIPT)?;
        let mut child = Command::new("node")
            .arg(script.path())
            .args([algorithm, keys.trim()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("piped")?).lines();
        let issuer = timeout(Duration::from_secs(60), lines.next_line()).await??.context("no provider")?;
        Ok(Self { issuer, child, lines })
    }

    async fn token(&mut self, resource: &str) -> Result<String> {
        use tokio::io::AsyncWriteExt as _;
        let input = self.child.stdin.as_mut().context("piped")?;
        input.write_all(format!("{resource}\n").as_bytes()).await?;
        timeout(Duration::from_secs(30), self.lines.next_line()).await??.context("no token")
    }
}

async fn judge(provider: &Provider, binding: Binding, token: &str, key: &KeyPair) -> Result<Result<Admitted, Denied>> {
    let identity = EnrolIdentity {
        principal: "spiffe://acme.example/client/frontend".parse()?,
        email: "frontend@acme.example".to_owned(),
        keys: None,
        oidc: Some(OidcSubject { issuer: "idp".to_owned(), subject: SUBJECT.to_owned(), email_is_checked: false }),
    };
    let name = "idp".to_owned();
    let issuer = OidcIssuer { name: name.clone(), issuer: provider.issuer.clone(), audience: None, binding };
    let keys = IssuerKeys { name, issuer: provider.issuer.clone(), jwks_uri: None, ca_file: None };
    let nowhere = "http://127.0.0.1:1/".to_owned();
    let keys = KeySets::new(Timing::default(), nowhere.clone(), nowhere, None, vec![keys])?;
    let now = SystemTime::now();
    let started = now - Duration::from_secs(3600);
    let enroller = Enroller::new(AUDIENCE.to_owned(), vec![identity], vec![issuer], started)?;
    let csr = key.csr()?;
    Ok(enroller.verdict(token, &csr, now, &keys).await)
}

#[tokio::test]
async fn tokens_of_a_certified_provider_are_bound_by_their_resource_indicator() -> Result<()> {
    for algorithm in ["RS256", "ES256"] {
        let mut provider = Provider::start(algorithm).await?;
        let key = KeyPair::generate()?;
        let bound = format!("{AUDIENCE}?k={}", BASE64_URL_SAFE_NO_PAD.encode(key.spki_sha256()));
        let token = provider.token(&bound).await?;
        let admitted = judge(&provider, Binding::Audience, &token, &key).await?.with_context(|| token.clone())?;
        assert_eq!(admitted.evidence.proof.to_string(), "oidc:idp", "{algorithm}");
        let thief = KeyPair::generate()?;
        assert_eq!(judge(&provider, Binding::Audience, &token, &thief).await?, Err(Denied::Binding), "{algorithm}");
        let plain = provider.token(AUDIENCE).await?;
        assert_eq!(judge(&provider, Binding::Audience, &plain, &key).await?, Err(Denied::Audience), "{algorithm}");
        let admitted = judge(&provider, Binding::Bearer, &plain, &thief).await?.with_context(|| plain.clone())?;
        assert_eq!(admitted.evidence.proof.to_string(), "bearer:idp", "{algorithm}");
        let other = provider.token("https://other.example/").await?;
        assert_eq!(judge(&provider, Binding::Bearer, &other, &key).await?, Err(Denied::Audience), "{algorithm}");
    }
    Ok(())
}
