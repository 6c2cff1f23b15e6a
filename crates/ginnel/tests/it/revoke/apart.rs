//! Somebody is shut out where enrolment is a process of its own.

use anyhow::{Result, ensure};
use ginnel_testkit::World;
use ginnel_testkit::command::succeed;
use ginnel_testkit::peer::enrol;
use ginnel_testkit::world::Part;
use serde_json::Value;

use super::{refused, revoke};
use crate::admin::get;
use crate::world;

/// Whether an answer has a note that says this.
fn notes(answer: &Value, words: &str) -> bool {
    answer["notes"].as_array().into_iter().flatten().any(|note| note.as_str().is_some_and(|note| note.contains(words)))
}

async fn denials(world: &mut World) -> Result<Value> {
    let admin = world.admin(Part::Enrolment).await?.to_string();
    let status: Value = serde_json::from_str(&get(&admin, "/status").await?.1)?;
    Ok(status["denials"].clone())
}

/// The name of the key that signs the client's tokens.
async fn client_key(world: &World) -> Result<String> {
    let mut hash = tokio::process::Command::new("sh");
    let script = "openssl pkey -pubin -in client.pub.pem -outform DER | sha256sum | cut -d' ' -f1";
    hash.current_dir(world.directory()).args(["-c", script]);
    Ok(succeed(hash).await?.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_denied_where_enrolment_is_gets_no_certificate_over_a_restart_until_it_is_undone() -> Result<()> {
    let mut world = world().enrolment_apart().target("127.0.0.1:9").start().await?;
    let key = client_key(&world).await?;
    let subjects = [vec!["client/frontend"], vec!["client@acme.iam.gserviceaccount.com"], vec!["--key", &key]];
    for subject in subjects {
        let answer = revoke(&world, Part::Enrolment, &[&subject[..], &["--reason", "incident 12"]].concat()).await?;
        ensure!(answer["changed"] == true && answer["lasting"] == true && answer["sessions"] == 0, "{answer}");
        ensure!(notes(&answer, "nobody is disconnected there"), "{answer}");
        ensure!(denials(&mut world).await? == 1, "{subject:?}: the denials in the status");
        ensure!(enrol(&world, "client.json").await.is_err(), "{subject:?} is denied");
        ensure!(enrol(&world, "agent.json").await.is_ok(), "{subject:?} is not the agent");
        world.part(Part::Enrolment)?.kill().await?;
        world.restart(Part::Enrolment).await?;
        ensure!(enrol(&world, "client.json").await.is_err(), "{subject:?} is denied after a restart");
        let answer = revoke(&world, Part::Enrolment, &[&subject[..], &["--undo"]].concat()).await?;
        ensure!(answer["changed"] == true && answer["denied"] == false, "{answer}");
        ensure!(enrol(&world, "client.json").await.is_ok(), "{subject:?} is denied no longer");
    }
    let is = |record: &Value, event: &str| record["event"] == event;
    let log = world.enrolment_audit_until("every revocation and refusal", |log| {
        let count = |event| log.iter().filter(|record| is(record, event)).count();
        count("revoked") == 3 && count("unrevoked") == 3
    });
    let log = log.await?;
    let by_cause = |record: &&Value| is(record, "enrolmentRefused") && record["reason"] == "revoked";
    ensure!(log.iter().filter(by_cause).count() >= 6, "{log:?}");
    let cut = |record: &&Value| is(record, "revoked") && (record["connections"] != 0 || record["sessions"] != 0);
    ensure!(!log.iter().any(|record| cut(&record)), "{log:?}");
    world.finish(&[Part::Enrolment])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_denied_where_enrolment_is_is_said_and_a_server_without_it_names_the_other_place() -> Result<()>
{
    let world = world().enrolment_apart().target("127.0.0.1:9").start().await?;
    let elsewhere = "deny a serial number or a rule at the servers, a target at the agents";
    let cases = [
        (["--rule", "hosts"].as_slice(), elsewhere),
        (&["--serial", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"], elsewhere),
        (&["--target", "127.0.0.1:9"], elsewhere),
        (&["client/nobody"], "The configuration has no identity spiffe://acme.example/client/nobody."),
        (&["nobody@acme.example"], "The configuration has no identity nobody@acme.example."),
    ];
    for (what, why) in cases {
        let (code, said) = refused(&world, Part::Enrolment, what).await?;
        ensure!(code == Some(2) && said.contains(why), "{what:?}: {code:?} {said}");
    }
    let key = client_key(&world).await?;
    // Which key it was that signed stands in the certificate.
    let answer = revoke(&world, Part::Server, &["--key", &key]).await?;
    ensure!(answer["connections"] == 1, "{answer}");
    ensure!(notes(&answer, "deny it there as well"), "{answer}");
    let answer = revoke(&world, Part::Server, &["client/frontend"]).await?;
    ensure!(!notes(&answer, "deny it there as well"), "{answer}");
    world.finish(&[])
}
