//! Programs that need more of TCP than one question and one answer, each against the real service.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::command::{command, succeed};
use ginnel_testkit::hosts::{Netcat, Postgres, Redis, Rsyncd, Script, TcpHost};
use ginnel_testkit::stream::bytes;
use ginnel_testkit::{Sum, World, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::world;

/// What netcat sends: more than fits between the two programs, so that most of it waits for credit.
const SAID: usize = 8 << 20;

/// Rows of the table that is dumped, of some 400 bytes each.
const ROWS: usize = 100_000;

/// Messages that one subscriber is to hear.
const MESSAGES: usize = 2_000;

/// Runs netcat until both halves have ended, and returns what it heard. It ends its own half after it has heard `first` bytes.
async fn netcat(home: &std::path::Path, arguments: &[String], said: Vec<u8>, first: usize) -> Result<Vec<u8>> {
    let mut nc = command("nc", home);
    nc.arg("-N").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nc.spawn().context("is netcat installed?")?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let mut stdout = child.stdout.take().context("standard output is piped")?;
    let (has_heard, enough) = oneshot::channel();
    let saying = async move {
        let (last, before) = said.split_last().context("nothing to say")?;
        stdin.write_all(before).await?;
        enough.await?;
        stdin.write_all(std::slice::from_ref(last)).await?;
        drop(stdin);
        anyhow::Ok(())
    };
    let hearing = async {
        let mut heard = vec![0; first];
        stdout.read_exact(&mut heard).await?;
        // Nobody waits for it if the other half could not be said.
        let _ = has_heard.send(());
        stdout.read_to_end(&mut heard).await?;
        Ok((heard, child.wait_with_output().await?))
    };
    let ((heard, end), ()) =
        within("nc to end", Duration::from_secs(60), async { tokio::try_join!(hearing, saying) }).await??;
    ensure!(end.status.success(), "{}: {}", end.status, String::from_utf8_lossy(&end.stderr));
    Ok(heard)
}

/// The ways that netcat has into the tunnel.
fn ways(world: &World, target: std::net::SocketAddr) -> Result<[Vec<String>; 3]> {
    let words = |address: std::net::SocketAddr| [address.ip().to_string(), address.port().to_string()];
    let by_proxy = |kind: &str| {
        let options = ["-X".to_owned(), kind.to_owned(), "-x".to_owned(), world.proxy_addr().to_string()];
        options.into_iter().chain(words(target)).collect::<Vec<_>>()
    };
    Ok([words(world.forward_addr(0)?).to_vec(), by_proxy("connect"), by_proxy("5")])
}

/// A service that has to hear all of it before it can answer: with the SHA-256 in hexadecimal.
async fn hashing_host() -> Result<TcpHost> {
    TcpHost::start(async |mut stream: TcpStream| {
        let sum = Sum::of(&mut stream).await?;
        stream.write_all(sum.hex().as_bytes()).await?;
        Ok(stream.shutdown().await?)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn netcat_ends_its_half_and_hears_the_answer_to_all_of_it() -> Result<()> {
    let home = tempfile::tempdir()?;
    let said = bytes(21, SAID);
    std::fs::write(home.path().join("said"), &said)?;
    let mut sum = command("sha256sum", home.path());
    sum.arg(home.path().join("said"));
    let expected = succeed(sum).await?;
    let (expected, _) = expected.split_once(' ').context("a hash")?;
    let host = hashing_host().await?;
    let world = world().forward(host.address()).start().await?;
    for arguments in ways(&world, host.address())? {
        let heard = String::from_utf8(netcat(home.path(), &arguments, said.clone(), 0).await?)?;
        ensure!(heard == expected, "{arguments:?}: {heard:?} and not {expected}");
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn netcat_goes_on_after_the_other_half_has_ended() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (first, said) = (bytes(22, SAID), bytes(23, SAID));
    let host = Netcat::start(&first).await?;
    let world = world().forward(host.address()).start().await?;
    let arguments = &ways(&world, host.address())?[0];
    // A netcat that listens gives up what it has yet to say as soon as the other half ends, so that one ends after it has heard it all.
    let heard = netcat(home.path(), arguments, said.clone(), first.len()).await?;
    ensure!(heard == first, "{} of {} bytes that were said first", heard.len(), first.len());
    let heard = host.heard().await?;
    ensure!(heard == said, "{} of {} bytes that were said later", heard.len(), said.len());
    host.finish()?;
    world.finish(&[])
}

/// An rsync that compares content and never guesses from times, and copies what has changed within a file.
fn rsync(home: &std::path::Path) -> Command {
    let mut rsync = command("rsync", home);
    rsync.args(["--recursive", "--checksum", "--no-whole-file", "--stats", "--contimeout=30", "--timeout=60"]);
    rsync
}

/// A figure of `rsync --stats`.
fn figure(stats: &str, name: &str) -> Result<u64> {
    let value =
        stats.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("{name:?} in {stats}"))?;
    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
    digits.parse().context(digits)
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_copies_both_ways_and_sends_only_what_changed() -> Result<()> {
    let host = Rsyncd::start().await?;
    let world = world().forward(host.address()).start().await?;
    let home = tempfile::tempdir()?;
    let (mine, copy) = (home.path().join("mine"), home.path().join("copy"));
    std::fs::create_dir_all(mine.join("many"))?;
    let large = bytes(31, 32 << 20);
    std::fs::write(mine.join("large"), &large)?;
    for index in 0..300_u64 {
        std::fs::write(mine.join(format!("many/{index}")), bytes(index, 1000))?;
    }
    let by_proxy = format!("rsync://{}/data/", host.address());
    let by_forward = format!("rsync://{}/data/", world.forward_addr(0)?);
    let from = format!("{}/", mine.display());

    let mut push = rsync(home.path());
    push.env("RSYNC_PROXY", world.proxy_addr().to_string()).args([&from, &by_proxy]);
    let stats = succeed(push).await?;
    ensure!(figure(&stats, "Number of regular files transferred:")? == 301, "{stats}");
    ensure!(std::fs::read(host.files().join("large"))? == large, "another file arrived");

    let mut pull = rsync(home.path());
    pull.arg(&by_forward).arg(&copy);
    succeed(pull).await?;
    ensure!(std::fs::read(copy.join("large"))? == large, "another file came back");

    // The two sides now talk about every block of the file, at the same time and in both directions.
    let mut changed = large;
    changed[16 << 20] ^= 1;
    std::fs::write(mine.join("large"), &changed)?;
    let mut push = rsync(home.path());
    push.args([&from, &by_forward]);
    let stats = succeed(push).await?;
    let literal = figure(&stats, "Literal data:")?;
    ensure!((1..1 << 20).contains(&literal), "{literal} bytes for one that changed");
    ensure!(std::fs::read(host.files().join("large"))? == changed, "another file after the change");
    ensure!(world.audit_of("allowed")?.len() == 3, "not all of it was carried by the tunnel");
    host.finish()?;
    world.finish(&[])
}

/// A dump without the words that differ in each.
fn dumped(path: &std::path::Path) -> Result<Vec<u8>> {
    let text = std::fs::read(path)?;
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    Ok(lines
        .filter(|line| !line.starts_with(b"\\restrict") && !line.starts_with(b"\\unrestrict"))
        .collect::<Vec<_>>()
        .concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_dump_of_a_large_table_is_whole_and_can_be_restored() -> Result<()> {
    let host = Postgres::start().await?;
    let world = world().forward(host.address()).start().await?;
    let forward = world.forward_addr(0)?;
    let home = tempfile::tempdir()?;
    let word = |salt: u8| format!("encode(sha512((g || '-{salt}')::bytea), 'hex')");
    let line = format!("{} || {} || {}", word(1), word(2), word(3));
    host.ask(&format!("CREATE TABLE large AS SELECT g AS id, {line} AS text FROM generate_series(1, {ROWS}) g"))
        .await?;
    let mut dumps = Vec::new();
    for (name, address) in [("direct", host.address()), ("carried", forward)] {
        let file = home.path().join(name);
        let mut dump = host.client("pg_dump", home.path(), address);
        dump.args(["--table", "large", "--file"]).arg(&file);
        succeed(dump).await?;
        dumps.push(dumped(&file)?);
    }
    ensure!(dumps[1].len() > 300 * ROWS, "{} bytes for {ROWS} rows", dumps[1].len());
    ensure!(dumps[0] == dumps[1], "another dump of {} bytes, not {}", dumps[1].len(), dumps[0].len());

    host.ask_at(forward, "postgres", "CREATE DATABASE restored").await?;
    let mut restore = host.client("psql", home.path(), forward);
    restore.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname=restored", "--file"]);
    restore.arg(home.path().join("carried"));
    succeed(restore).await?;
    let sum = "SELECT count(*), md5(string_agg(text, '' ORDER BY id)) FROM large";
    let (was, is) = (host.ask(sum).await?, host.ask_at(host.address(), "restored", sum).await?);
    ensure!(was == is && was.starts_with(&ROWS.to_string()), "{was} became {is}");
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_subscriber_hears_every_message_in_order() -> Result<()> {
    let host = Redis::start().await?;
    let world = world().forward(host.address()).start().await?;
    let home = tempfile::tempdir()?;
    let redis = || {
        let mut redis = command("redis-cli", home.path());
        let Ok(forward) = world.forward_addr(0) else { return redis };
        redis.args(["-h", &forward.ip().to_string(), "-p", &forward.port().to_string()]);
        redis
    };
    let mut subscriber = redis().args(["SUBSCRIBE", "feed"]).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(subscriber.stdout.take().context("standard output is piped")?).lines();
    let mut hear = async || {
        within("a line of the subscriber", Duration::from_secs(30), lines.next_line()).await??.context("an end")
    };
    for expected in ["subscribe", "feed", "1"] {
        ensure!(hear().await? == expected, "no subscription");
    }

    let mut publisher = redis().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = publisher.stdin.take().context("standard input is piped")?;
    let orders: String = (0..MESSAGES).map(|number| format!("PUBLISH feed message-{number}\n")).collect();
    let publish = async move {
        stdin.write_all(orders.as_bytes()).await?;
        drop(stdin);
        let answers = publisher.wait_with_output().await?.stdout;
        let heard_by_one = String::from_utf8(answers)?.lines().filter(|line| *line == "1").count();
        ensure!(heard_by_one == MESSAGES, "{heard_by_one} of {MESSAGES} messages had a subscriber");
        Ok(())
    };
    let listen = async {
        for number in 0..MESSAGES {
            for expected in ["message", "feed", &format!("message-{number}")] {
                let line = hear().await?;
                ensure!(line == expected, "{line} in place of {expected}");
            }
        }
        Ok(())
    };
    within("the feed", Duration::from_secs(120), async { tokio::try_join!(publish, listen) }).await??;
    // The subscription does not end with the publisher, and ends as soon as its program does.
    ensure!(subscriber.try_wait()?.is_none(), "the subscriber has ended");
    subscriber.kill().await?;
    let ends = |log: &[serde_json::Value]| log.iter().filter(|record| record["event"] == "ended").count() == 2;
    world.audit_until("both sessions to end", ends).await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_carries_messages_of_every_length_beside_a_feed() -> Result<()> {
    let host = Script::websocket().await?;
    let world = world().forward(host.address()).start().await?;
    let home = tempfile::tempdir()?;
    let said = succeed(host.client(home.path(), world.forward_addr(0)?)).await?;
    ensure!(said == "30 echoes, 1000 of the feed, closed with 1000", "{said}");
    // The close handshake is a clean end for everybody on the way.
    let clean = |log: &[serde_json::Value]| {
        log.iter().any(|record| record["event"] == "ended" && record["cause"] == "finished")
    };
    world.audit_until("a clean end", clean).await?;
    host.finish()?;
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_makes_every_kind_of_call_through_a_forward() -> Result<()> {
    let host = Script::grpc().await?;
    let world = world().forward(host.address()).start().await?;
    let home = tempfile::tempdir()?;
    let said = succeed(host.client(home.path(), world.forward_addr(0)?)).await?;
    ensure!(said == "every kind of call", "{said}");
    host.finish()?;
    world.finish(&[])
}
