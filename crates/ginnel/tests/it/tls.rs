//! TLS as other people's tools try it: sslyze, OpenSSL, tlslite-ng and hand-made records, beside a session that must not notice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, output};
use ginnel_testkit::hosts::TcpHost;
use ginnel_testkit::usage::{cpu, resident_kib};
use ginnel_testkit::{Attacker, World};
use serde_json::json;

use crate::canary::Canary;
use crate::{report, world};

/// What a server may need more than before, in KiB, over all attacks of a test: what an allocator keeps, not what an attacker sends.
const MORE_KIB_MAX: u64 = 16 << 10;

/// CPU time of a server for some dozens of handshakes and all malformed records together; these builds are not optimised.
const CPU_MAX: Duration = Duration::from_secs(10);

/// Where `scripts/setup` puts what the system does not have.
pub(crate) fn tools() -> Result<PathBuf> {
    // Beside the directory that cargo gives these tests for files of their own.
    Ok(Path::new(env!("CARGO_TARGET_TMPDIR")).parent().context("a target directory")?.join("tools"))
}

/// An attacker with a certificate of the world's client.
pub(crate) async fn attacker(world: &World) -> Result<Attacker> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto").canonicalize()?;
    Attacker::start(world, &proto, &tools()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sslyze_finds_tls_1_3_and_nothing_else() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let attacker = attacker(&world).await?;
    let canary = Canary::start(&world, host.address()).await?;
    let found = attacker.play("sslyze_scan.py", &json!({})).await?;
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"] {
        ensure!(found["accepted"][version] == json!([]), "{version}: {found}");
    }
    ensure!(found["accepted"]["tls_1_3"].as_array().is_some_and(|suites| !suites.is_empty()), "{found}");
    for question in ["early data", "compression", "heartbleed", "ccs injection", "renegotiation"] {
        // What needs an older version, or a ticket, cannot even be asked.
        ensure!(found[question] == false || found[question].is_string(), "{question}: {found}");
    }
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_gets_no_older_version_no_ticket_and_no_early_data() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let canary = Canary::start(&world, host.address()).await?;
    let client = async |arguments: &[&str]| {
        let mut openssl = command("openssl", world.directory());
        openssl.args(["s_client", "-connect", &world.server_addr().to_string(), "-servername", "tunnel.acme.example"]);
        openssl.args(["-alpn", "h2", "-CAfile"]).arg(world.directory().join("ca/server-root.pem"));
        openssl.args(arguments).stdin(std::process::Stdio::null());
        let output = output(openssl).await?;
        anyhow::Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let said = client(&["-tls1_3"]).await?;
    ensure!(said.contains("Verify return code: 0 (ok)") && said.contains("New, TLSv1.3"), "{said}");
    ensure!(!said.contains("New Session Ticket") && said.contains("Early data was not sent"), "{said}");
    ensure!(said.contains("ALPN protocol: h2") && said.contains("Compression: NONE"), "{said}");
    for arguments in [
        &["-tls1_2"][..],
        &["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"],
        &["-tls1", "-cipher", "DEFAULT:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "NULL-SHA256:@SECLEVEL=0"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"],
        &["-tls1_3", "-groups", "ffdhe2048"],
    ] {
        let said = client(arguments).await?;
        ensure!(said.contains("New, (NONE)"), "{arguments:?}: {said}");
    }
    canary.finish().await?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn hellos_records_and_messages_that_are_wrong_end_their_connection_alone() -> Result<()> {
    let host = TcpHost::echo().await?;
    let world = world().target(host.address()).start().await?;
    let attacker = attacker(&world).await?;
    let canary = Canary::start(&world, host.address()).await?;
    let server = world.server.pid();
    let (memory, time) = (resident_kib(server)?, cpu(server)?);
    attacker.survives("tls_cases.py", 15).await?;
    let (grown, spent) = (resident_kib(server)?.saturating_sub(memory), cpu(server)?.saturating_sub(time));
    let p99 = canary.finish().await?.p99();
    report(format_args!("{grown} KiB more, {spent:?} of CPU; a message beside it took {p99:?} at p99"));
    ensure!(grown <= MORE_KIB_MAX && spent <= CPU_MAX, "{grown} KiB more, {spent:?} of CPU");
    world.finish(&[])
}
