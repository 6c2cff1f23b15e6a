//! Certificates that are not what the connection needs, at a server that others use meanwhile.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use ginnel_enrol::{CertificateRequest, EmbeddedIssuer};
use ginnel_identity::certificate::Identity;
use ginnel_identity::key::KeyPair;
use ginnel_testkit::peer::{self, Peer};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{World, within};
use ginnel_wire::{path, v1};
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::world;

/// A certificate that the world's own CA signs, for this principal and e-mail.
pub(crate) fn certify(world: &World, principal: &str, email: &str) -> Result<Identity> {
    let lifetime = std::time::Duration::from_secs(600);
    let now = SystemTime::now();
    let issuer = EmbeddedIssuer::open(&world.directory().join("ca"), &"acme.example".parse()?, lifetime, now)?;
    let key = KeyPair::generate()?;
    let request = CertificateRequest {
        evidence: None,
        renews: None,
        principal: principal.parse()?,
        email: email.to_owned(),
        spki_der: key.spki_der().to_vec(),
        server_names: Vec::new(),
    };
    Ok(Identity::new(issuer.sign(&request, now)?.chain, key)?)
}

/// Whether the server ends the connection before it answers a call on it.
async fn is_turned_away(world: &World, identity: &Identity) -> Result<()> {
    let answered = Box::pin(async {
        let peer = Peer::connect(world, Some(identity)).await?;
        let mut call = peer.call("/ginnel.v1.ClientLink/Roster").await?;
        call.say(&v1::RosterRequest { hello: Some(Peer::hello(Peer::instance())) })?;
        call.end()?;
        call.hear::<v1::RosterMessage>().await
    });
    let answered = within("the connection to end", SOON, answered).await?;
    ensure!(answered.is_err(), "it was answered: {answered:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_one_role_on_the_others_service_closes_the_connection() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    for (key, path, principal) in [
        ("agent.json", "/ginnel.v1.ClientLink/Roster", "spiffe://acme.example/agent/acme"),
        ("agent.json", "/ginnel.v1.ClientLink/Open", "spiffe://acme.example/agent/acme"),
        ("agent.json", path::ENROL, "spiffe://acme.example/agent/acme"),
        ("client.json", "/ginnel.v1.AgentLink/Attach", "spiffe://acme.example/client/frontend"),
        ("client.json", "/ginnel.v1.AgentLink/Carry", "spiffe://acme.example/client/frontend"),
        ("client.json", path::ENROL, "spiffe://acme.example/client/frontend"),
    ] {
        let mark = world.server.mark();
        let mut peer = Peer::connect(&world, Some(&peer::enrol(&world, key).await?)).await?;
        let mut call = peer.call(path).await?;
        // The refusal may be here already, after which nothing can be said.
        call.end().ok();
        let refused = within("a refusal", SOON, call.hear::<v1::RosterMessage>()).await?;
        ensure!(refused.is_err(), "{path} was answered: {refused:?}");
        let is_it = |line: &serde_json::Value| line["principal"] == principal && line["cause"] == "role";
        world
            .server
            .wait_for_after(mark, "a call that this role may not make: the connection is closed", is_it)
            .await?;
        within("the connection to close", SOON, peer.closed()).await?;
    }
    bystander.exchange().await?;
    ensure!(world.audit_of("allowed")?.len() == 1, "more than the bystander was allowed");
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_with_somebody_elses_email_is_turned_away() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let [agent, client] = ["agent", "client"].map(|who| format!("{who}@acme.iam.gserviceaccount.com"));
    for (principal, email) in [
        ("spiffe://acme.example/client/frontend", agent.as_str()),
        ("spiffe://acme.example/client/other", client.as_str()),
        ("spiffe://acme.example/agent/frontend", client.as_str()),
    ] {
        let mark = world.server.mark();
        is_turned_away(&world, &certify(&world, principal, email)?).await?;
        let is_it = |line: &serde_json::Value| line["principal"] == principal;
        world
            .server
            .wait_for_after(
                mark,
                "certificate of an identity that is not configured, or for a proof that it has no longer",
                is_it,
            )
            .await?;
    }
    // The same principal with its own e-mail is who it says.
    let right = certify(&world, "spiffe://acme.example/client/frontend", &client)?;
    ensure!(is_turned_away(&world, &right).await.is_err(), "a right certificate was turned away");
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_issued_never_gets_to_http() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let world = world().target(host.local_addr()?).start().await?;
    let mut bystander = Pair::open(&world, &host).await?;
    let elsewhere = tempfile::tempdir()?;
    let foreign = elsewhere.path().join("ca");
    let lifetime = std::time::Duration::from_secs(600);
    let now = SystemTime::now();
    let issuer = EmbeddedIssuer::open(&foreign, &"acme.example".parse()?, lifetime, now)?;
    let key = KeyPair::generate()?;
    let request = CertificateRequest {
        evidence: None,
        renews: None,
        principal: "spiffe://acme.example/client/frontend".parse()?,
        email: "client@acme.iam.gserviceaccount.com".to_owned(),
        spki_der: key.spki_der().to_vec(),
        server_names: Vec::new(),
    };
    let foreign = Identity::new(issuer.sign(&request, now)?.chain, key)?;
    let mark = world.server.mark();
    is_turned_away(&world, &foreign).await?;
    let is_it = |line: &serde_json::Value| line["error"].as_str().is_some_and(|error| error.contains("UnknownIssuer"));
    world.server.wait_for_after(mark, "a client certificate was refused", is_it).await.context("the named cause")?;
    ensure!(world.audit_of("clientUp")?.len() == 1, "somebody else than the client came up");
    // Without any certificate there is enrolment, and nothing else.
    let stranger = Peer::connect(&world, None).await?;
    let mut call = stranger.call("/ginnel.v1.ClientLink/Roster").await?;
    // The refusal may be here already, after which nothing can be said.
    call.say(&v1::RosterRequest { hello: Some(Peer::hello(Peer::instance())) }).ok();
    call.end().ok();
    ensure!(call.hear::<v1::RosterMessage>().await.is_err(), "a stranger was given the roster");
    bystander.exchange().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_machine_trusts_besides_is_not_asked() -> Result<()> {
    let world = world().target("127.0.0.1:9").start().await?;
    let directory = world.directory();
    // The machine's own list has the root of the server, and the role's file has another one.
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(directory.join("client.yaml"))?)?;
    for (root, code) in [("ca/server-root.pem", "PASS"), ("ca/client-root.pem", "FAIL")] {
        config["trust"]["server"] = root.into();
        let variant = directory.join("variant.yaml");
        std::fs::write(&variant, config.to_string())?;
        let mut check = world.ginnel();
        check.args(["check", "client", "--json", "--config"]).arg(variant);
        check.env("SSL_CERT_FILE", directory.join("ca/server-root.pem"));
        let output = check.output().await?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let steps = report["steps"].as_array().or(report.as_array()).context("steps")?;
        let tls = steps.iter().find(|step| step["step"] == "tls").context("the step")?;
        ensure!(tls["result"] == code, "{root}: {tls}");
    }
    world.finish(&[])
}
