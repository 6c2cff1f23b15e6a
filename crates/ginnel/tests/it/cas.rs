//! Certificates of Certificate Authority Service, and OpenSSL as the judge of what any issuer signs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_core::limits::ENROL_DEADLINE;
use ginnel_core::principal::Role;
use ginnel_identity::certificate::Identity;
use ginnel_identity::oid::{INNER_INITIATOR, INNER_RESPONDER};
use ginnel_identity::pem;
use ginnel_testkit::command::{command, output, succeed};
use ginnel_testkit::google::cas::{Cas, Fault, Pool, Tier};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::peer::{Peer, enrol};
use ginnel_testkit::{World, proxy};
use ginnel_wire::path;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world;

/// A service with three pools.
struct Service {
    cas: Cas,
    pools: BTreeMap<String, String>,
    dir: TempDir,
}

impl Service {
    async fn start(pool: &Pool) -> Result<Self> {
        let cas = Cas::start().await?;
        let pools = cas.add_pools(pool)?;
        Ok(Self { cas, pools, dir: tempfile::tempdir()? })
    }

    /// A world that it signs for, with one target.
    async fn world(&self, tier: &str, target: &str) -> Result<World> {
        world().target(target).issued_by(&self.cas, &self.pools, tier, self.dir.path())?.start().await
    }
}

/// The serial numbers on record for a role.
fn recorded(records: &[Value], role: &str) -> BTreeSet<String> {
    let of_role = |record: &&Value| record["principal"].as_str().is_some_and(|uri| uri.contains(&format!("/{role}/")));
    records.iter().filter(of_role).filter_map(|record| record["serial"].as_str()).map(str::to_owned).collect()
}

async fn echoes(world: &World, target: &str) -> Result<()> {
    let mut session = proxy::connect(world.proxy_addr(), target).await?.opened()?.stream;
    session.write_all(b"through the tunnel").await?;
    let mut back = [0; 18];
    session.read_exact(&mut back).await?;
    ensure!(&back == b"through the tunnel");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_whose_certificates_the_service_signs_carries_and_records_them() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    for (tier, word) in [(Tier::DevOps, "devops"), (Tier::Enterprise, "enterprise")] {
        let service = Service::start(&Pool { tier, is_subordinate: true, ..Pool::default() }).await?;
        let world = service.world(word, &target).await?;
        echoes(&world, &target).await?;
        let records = [world.audit_of("enrolled")?, world.audit_of("certificateIssued")?].concat();
        for (role, pool) in &service.pools {
            let signed = service.cas.signed().into_iter().filter(|signed| signed.pool == *pool);
            let signed: BTreeSet<_> = signed.map(|signed| signed.serial).collect();
            ensure!(signed.len() == 1 && signed == recorded(&records, role), "{role}: {signed:?} {records:#?}");
        }
        let mut check = world.ginnel();
        check.args(["check", "server", "--json", "--config"]).arg(world.directory().join("server.yaml"));
        check.env("GOOGLE_APPLICATION_CREDENTIALS", service.cas.credentials_file(service.dir.path())?);
        let checked = String::from_utf8(output(check).await?.stdout)?;
        ensure!(checked.contains("it answers, and has roots for server, agent and client"), "{checked}");
        world.finish(&[])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_for_a_caller_who_has_gone_is_on_record_and_a_second_certificate_is_fine() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let service = Service::start(&Pool::default()).await?;
    let world = service.world("devops", &target).await?;
    let before = recorded(&world.audit_of("enrolled")?, "agent");

    // The service signs, and its answer is lost: the same certificate comes at the second try.
    service.cas.next([Fault::SignedWithoutAnswer]);
    enrol(&world, "agent.json").await?;
    // The answer comes, and the caller does not wait for it.
    service.cas.next([Fault::Delay(Duration::from_millis(500))]);
    let peer = Peer::connect(&world, None).await?;
    let mut call = peer.call(path::ENROL).await?;
    call.say(&ginnel_testkit::peer::enrolment(&world, "agent.json")?.1)?;
    call.end()?;
    let asked = service.cas.calls(&service.pools["agent"]).len();
    ginnel_testkit::eventually("the service is asked", Duration::from_secs(10), async || {
        Ok((service.cas.calls(&service.pools["agent"]).len() > asked).then_some(()))
    })
    .await?;
    drop((call, peer));
    enrol(&world, "agent.json").await?;

    let signed = || -> BTreeSet<_> {
        let by_agents = service.cas.signed().into_iter().filter(|signed| signed.pool == service.pools["agent"]);
        by_agents.map(|signed| signed.serial).collect()
    };
    world
        .audit_until("every certificate is on record", |records| {
            let enrolled: Vec<_> = records.iter().filter(|record| record["event"] == "enrolled").cloned().collect();
            let signed = signed();
            signed.len() == before.len() + 3 && recorded(&enrolled, "agent") == signed
        })
        .await?;
    echoes(&world, &target).await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_turn_is_not_cut_off() -> Result<()> {
    let host = TcpHost::echo().await?;
    let service = Service::start(&Pool::default()).await?;
    let world = service.world("devops", &host.address().to_string()).await?;
    // Longer than a connection without a certificate stays for anybody who has not proved to be known.
    let silence = ENROL_DEADLINE + Duration::from_secs(1);
    service.cas.next([Fault::Exhausted(silence)]);
    let began = std::time::Instant::now();
    enrol(&world, "agent.json").await?;
    ensure!(began.elapsed() >= silence, "{:?}", began.elapsed());
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_refuses_is_named_in_the_record_and_disturbs_nobody() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let service = Service::start(&Pool::default()).await?;
    let world = service.world("devops", &target).await?;
    service.cas.change_pool(&service.pools["agent"], |pool| pool.is_permitted = false);
    let error = format!("{:#}", enrol(&world, "agent.json").await.err().context("an error")?);
    ensure!(!error.contains("privateca"), "the caller is told of the inside: {error}");
    service.cas.change_pool(&service.pools["agent"], |pool| pool.is_permitted = true);
    service.cas.next([Fault::OtherName]);
    ensure!(enrol(&world, "agent.json").await.is_err(), "a certificate for somebody else was given out");
    world
        .audit_until("both reasons are on record", |records| {
            let refused = records.iter().filter(|record| record["event"] == "enrolmentRefused");
            refused.map(|record| record["reason"].clone()).eq(["issuerRefused", "issuerAnswer"])
        })
        .await?;
    echoes(&world, &target).await?;
    enrol(&world, "agent.json").await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_agrees_with_what_the_issuers_sign() -> Result<()> {
    let host = TcpHost::echo().await?;
    let target = host.address().to_string();
    let service = Service::start(&Pool { is_subordinate: true, ..Pool::default() }).await?;
    let worlds = [world().target(&target).start().await?, service.world("devops", &target).await?];
    for world in worlds {
        for (role, inner) in [(Role::Agent, INNER_RESPONDER), (Role::Client, INNER_INITIATOR)] {
            let identity = enrol(&world, &format!("{role}.json")).await?;
            let text = judged(world.directory(), role, &identity).await?;
            let oid: Vec<_> = inner.iter().map(ToString::to_string).collect();
            let name = if role == Role::Agent { "acme" } else { "frontend" };
            let expected = [
                "Subject Alternative Name: critical".to_owned(),
                format!("email:{role}@acme.iam.gserviceaccount.com, URI:spiffe://acme.example/{role}/{name}\n"),
                format!("TLS Web Client Authentication, {}\n", oid.join(".")),
                "CA:FALSE\n".to_owned(),
                "Digital Signature\n".to_owned(),
            ];
            for words in expected {
                ensure!(text.contains(&words), "{role} without {words:?}: {text}");
            }
            ensure!(!text.contains("DNS:") && !text.contains("IP Address:"), "{text}");
        }
        // The server shows its own.
        let mut client = command("openssl", world.directory());
        client.args(["s_client", "-brief", "-tls1_3", "-alpn", "h2", "-partial_chain", "-verify_return_error"]);
        client.args(["-verify_hostname", "tunnel.acme.example", "-CAfile", "ca/server-root.pem", "-connect"]);
        client.arg(world.server_addr().to_string()).current_dir(world.directory());
        client.stdin(std::process::Stdio::null());
        let said = output(client).await?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.contains("Verification: OK"), "{said}");
        world.finish(&[])?;
    }
    Ok(())
}

/// What OpenSSL makes of a certificate, which it must accept by the root of its role and by no other.
async fn judged(dir: &Path, role: Role, identity: &Identity) -> Result<String> {
    let leaf = dir.join("leaf.pem");
    std::fs::write(&leaf, pem::encode("CERTIFICATE", &identity.chain()[0]).as_str())?;
    ensure!(identity.chain().len() == 1, "the issuing CA is the root");
    for (root, accepted) in
        [(Role::Agent, role == Role::Agent), (Role::Client, role == Role::Client), (Role::Server, false)]
    {
        let mut verify = command("openssl", dir);
        verify.args(["verify", "-x509_strict", "-partial_chain", "-purpose", "sslclient", "-CAfile"]);
        verify.arg(dir.join(format!("ca/{root}-root.pem"))).arg(&leaf);
        let verdict = output(verify).await?;
        ensure!(verdict.status.success() == accepted, "{role} by the root of {root}: {verdict:?}");
    }
    let mut show = command("openssl", dir);
    show.args(["x509", "-noout", "-text", "-in"]).arg(&leaf);
    succeed(show).await
}
