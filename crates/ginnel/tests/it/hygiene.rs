//! Keys stay in the memory of the process that made them, for as long as they are in use, and go nowhere else: table M.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ginnel_testkit::command::{command, output};
use ginnel_testkit::memory::{Scalar, count, hunt, scalars};
use ginnel_testkit::wait::SOON;
use ginnel_testkit::{Daemon, Part, World, eventually};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::pair::Pair;
use crate::world;

/// Renewed after about two seconds, and never so soon that a key is gone before it has been looked for.
const LIFETIME: &str = "12s";

/// How long a key may take from its last use to its end, on a busy machine.
const GONE: Duration = Duration::from_secs(60);

const PARTS: [Part; 3] = [Part::Server, Part::Agent(0), Part::Client];

/// The hashes of the public keys that the audit log has for this part, the newest last.
fn keys_of(world: &World, part: Part) -> Result<Vec<String>> {
    let (event, role) = match part {
        Part::Server | Part::Enrolment => ("certificateIssued", "/server/"),
        Part::Agent(_) => ("enrolled", "/agent/"),
        Part::Client => ("enrolled", "/client/"),
    };
    let records = world.audit_of(event)?.into_iter();
    let of_role = records.filter(|record| record["principal"].as_str().is_some_and(|uri| uri.contains(role)));
    Ok(of_role.filter_map(|record| record["spkiSha256"].as_str().map(str::to_owned)).collect())
}

/// The private key that a part uses, found in its memory.
async fn key_in_use(world: &mut World, part: Part) -> Result<Scalar> {
    let pid = world.part(part)?.pid();
    eventually("a private key in memory", GONE, async || {
        let known: BTreeSet<_> = keys_of(world, part)?.into_iter().collect();
        Ok(scalars(pid, &known)?.into_iter().next())
    })
    .await
    .with_context(|| format!("{part:?}"))
}

fn needles(key: &Scalar) -> [&[u8]; 2] {
    [&key.spellings[0], &key.spellings[1]]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_is_gone_from_memory_once_the_certificate_is_renewed() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut world = world().target(host.local_addr()?).certificate_lifetime(LIFETIME).start().await?;
    Pair::open(&world, &host).await?.exchange().await?;
    for part in PARTS {
        let old = key_in_use(&mut world, part).await?;
        let pid = world.part(part)?.pid();
        // Its successors stay: without them the hunt would prove nothing.
        eventually("a renewed key", GONE, async || {
            let known: BTreeSet<_> = keys_of(&world, part)?.into_iter().filter(|key| *key != old.spki_sha256).collect();
            Ok((!scalars(pid, &known)?.is_empty()).then_some(()))
        })
        .await?;
        eventually("the old key to go", GONE, async || Ok((hunt(pid, &needles(&old))?.hits == 0).then_some(())))
            .await
            .with_context(|| format!("{part:?}"))?;
    }
    world.finish(&[])
}

/// What may be written nowhere: the text of a key file, line by line, and what its lines stand for.
pub(crate) fn key_file(path: &Path) -> Result<Vec<Vec<u8>>> {
    let key: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let pem = key["private_key"].as_str().context("a private key")?;
    // The first and the last line are the same in many keys.
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-') && line.len() == 64).skip(1).collect();
    ensure!(lines.len() > 10, "a key of {} lines", lines.len());
    let bytes = lines.iter().map(|line| BASE64_STANDARD.decode(line)).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.iter().map(|line| line.as_bytes().to_vec()).chain(bytes).collect())
}

/// Everything that `part` wrote to anything, as strace shows it: each byte as `\x` and two digits.
fn traced(directory: &Path, part: Part) -> Result<String> {
    let path = directory.join(format!("{part:?}.strace"));
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn as_traced(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_written_anywhere_and_no_program_started_in_a_whole_life() -> Result<()> {
    const CALLS: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,memfd_create,splice,vmsplice,\
        execve,execveat,fork,vfork,clone,clone3";
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let traces = tempfile::tempdir()?;
    let mut builder = world().target(host.local_addr()?).certificate_lifetime(LIFETIME);
    for (role, part) in [("server", Part::Server), ("agent", Part::Agent(0)), ("client", Part::Client)] {
        let file = traces.path().join(format!("{part:?}.strace")).display().to_string();
        // As a grandchild, so that the daemon is the child whose signals and whose end count.
        builder = builder.started_by(
            role,
            &["strace", "-D", "-f", "-q", "-xx", "-s", "1048576", "-o", &file, "-e", CALLS, "-e", "signal=none"],
        );
    }
    let mut world = builder.start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let mut keys = Vec::new();
    for part in PARTS {
        keys.push(key_in_use(&mut world, part).await?);
    }
    for (part, key) in PARTS.into_iter().zip(&keys) {
        eventually("a renewal", GONE, async || {
            Ok(keys_of(&world, part)?.last().filter(|newest| **newest != key.spki_sha256).map(drop))
        })
        .await?;
    }
    pair.exchange().await?;
    drop(pair);
    for part in [Part::Client, Part::Agent(0), Part::Server] {
        let status = world.part(part)?.stop().await?;
        ensure!(status.success(), "{part:?}: {status}");
    }

    let mut secrets: Vec<Vec<u8>> = keys.iter().flat_map(|key| key.spellings.clone()).collect();
    for file in ["agent.json", "client.json"] {
        secrets.extend(key_file(&world.directory().join(file))?);
    }
    for part in PARTS {
        let text = eventually("the end of a trace", SOON, async || {
            Ok(Some(traced(traces.path(), part)?).filter(|text| text.contains("+++ exited with 0 +++")))
        })
        .await?;
        ensure!(count(text.as_bytes(), as_traced(b"certificate").as_bytes()) > 0, "the trace shows nothing");
        let programs = text.lines().filter(|line| line.contains("execve")).count();
        ensure!(programs <= 1, "{part:?} started {programs} programs");
        // A thread is a clone as well.
        let forked = text.lines().find(|line| {
            let begun = ["fork(", "clone(", "clone3("].iter().any(|call| line.contains(call));
            begun && !line.contains("CLONE_THREAD") && !line.contains("resumed>")
        });
        ensure!(forked.is_none(), "{part:?} has forked: {forked:?}");
        for secret in &secrets {
            ensure!(count(text.as_bytes(), as_traced(secret).as_bytes()) == 0, "{part:?} has written a key");
        }
    }
    let own = ["agent.json", "client.json"].map(|name| world.directory().join(name));
    for path in files(world.directory())?.into_iter().filter(|path| !own.contains(path)) {
        let content = fs::read(&path)?;
        let found = secrets.iter().any(|secret| count(&content, secret) > 0);
        ensure!(!found, "a key is in {}", path.display());
    }
    world.finish(&PARTS)
}

/// Every regular file below a directory.
fn files(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_said_even_when_everything_is() -> Result<()> {
    let host = TcpListener::bind("127.0.0.1:0").await?;
    let mut builder = world().target(host.local_addr()?).certificate_lifetime(LIFETIME);
    for role in ["server", "agent", "client"] {
        builder = builder.environment(role, "GINNEL_LOG", "trace");
    }
    let mut world = builder.start().await?;
    let mut pair = Pair::open(&world, &host).await?;
    pair.exchange().await?;
    let mut secrets: Vec<String> = vec!["BEGIN PRIVATE KEY".to_owned()];
    for part in PARTS {
        for spelling in key_in_use(&mut world, part).await?.spellings {
            secrets.push(spelling.iter().map(|byte| format!("{byte:02x}")).collect());
            secrets.push(format!("{spelling:?}"));
            secrets.push(BASE64_STANDARD.encode(&spelling).trim_end_matches('=').to_owned());
        }
    }
    for file in ["agent.json", "client.json"] {
        secrets.extend(
            key_file(&world.directory().join(file))?.into_iter().filter_map(|line| String::from_utf8(line).ok()),
        );
    }
    // What every token of ours begins with, as text and as the numbers of a list of bytes: no part of one may be there, not even its header.
    let header = BASE64_STANDARD.encode(br#"{"alg":"RS256","kid":""#).trim_end_matches('=').to_owned();
    secrets.push(format!("{:?}", header.as_bytes()).trim_matches(['[', ']']).to_owned());
    secrets.push(header);
    // And what the session says, which is for its two ends.
    secrets.extend(["question".to_owned(), "answer".to_owned()]);
    eventually("a renewal of both", GONE, async || {
        let both = [Part::Agent(0), Part::Client].map(|part| keys_of(&world, part).map(|keys| keys.len()));
        let [agent, client] = both;
        Ok((agent? >= 3 && client? >= 3).then_some(()))
    })
    .await?;
    pair.exchange().await?;
    for part in PARTS {
        let lines = world.part(part)?.lines();
        ensure!(lines.len() > 1_000, "{part:?} said {} lines only", lines.len());
        for line in &lines {
            let found = secrets.iter().find(|secret| line.contains(secret.as_str()));
            ensure!(found.is_none(), "{part:?} has said {found:?}: {line}");
        }
    }
    world.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_leaves_no_core() -> Result<()> {
    for (signal, number) in [("ABRT", 6), ("SEGV", 11)] {
        let mut builder = world().target("127.0.0.1:9");
        for role in ["server", "agent", "client"] {
            builder = builder.started_by(role, &["prlimit", "--core=unlimited:unlimited"]);
        }
        let mut world = builder.start().await?;
        for part in PARTS {
            let directory = world.directory().to_owned();
            let daemon = world.part(part)?;
            let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid()))?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit")?;
            ensure!(core.split_ascii_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
            let status = end_by(daemon, signal, &directory).await?;
            ensure!(status.signal() == Some(number), "{part:?}: {status:?}");
            ensure!(!status.core_dumped(), "{part:?} has left a core");
        }
        let cores: Vec<_> = files(world.directory())?.into_iter().filter(|path| path.ends_with("core")).collect();
        ensure!(cores.is_empty(), "{cores:?}");
        world.finish(&PARTS)?;
    }
    // Another program that is killed in the same way leaves one, where the system writes them to files.
    let home = tempfile::tempdir()?;
    let mut other = command("prlimit", home.path());
    other.current_dir(home.path()).args(["--core=unlimited:unlimited", "sleep", "60"]);
    let mut other = Daemon::spawn("sleep", other)?;
    eventually("sleep to begin", SOON, async || {
        Ok(fs::read_to_string(format!("/proc/{}/comm", other.pid()))?.starts_with("sleep").then_some(()))
    })
    .await?;
    let status = end_by(&mut other, "ABRT", home.path()).await?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    ensure!(
        status.core_dumped() || pattern.trim().is_empty() || pattern.starts_with('|'),
        "nothing leaves a core here"
    );
    other.check()
}

/// Sends the signal until the process has ended: Rust's runtime takes the first SEGV for an overflow of the stack and looks at it.
async fn end_by(daemon: &mut Daemon, signal: &str, home: &Path) -> Result<std::process::ExitStatus> {
    let pid = daemon.pid().to_string();
    while daemon.running() {
        let mut kill = command("kill", home);
        kill.args(["-s", signal, &pid]);
        output(kill).await?;
        tokio::task::yield_now().await;
    }
    daemon.ended().await
}

/// The id of Debian's user `nobody`.
const NOBODY: u32 = 65_534;

/// A command that runs as nobody, with none of root's privileges.
fn as_nobody(home: &Path, program: &str) -> tokio::process::Command {
    let mut command = command("setpriv", home);
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--inh-caps=-all", program]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_of_the_same_user_reads_neither_memory_nor_environment() -> Result<()> {
    if std::env::var_os("GINNEL_SKIP_ROOT_TESTS").is_some() {
        crate::report("skipped: only root can become somebody else");
        return Ok(());
    }
    let outer = world().target("127.0.0.1:9").start().await?;
    // The binary may lie where nobody else can go: it is opened by root and handed on.
    let home = tempfile::tempdir()?;
    let config = home.path().join("agent.yaml");
    for name in ["agent.json", "ca/server-root.pem", "ca/client-root.pem"] {
        let to = home.path().join(Path::new(name).file_name().context("a name")?);
        fs::copy(outer.directory().join(name), &to)?;
        std::os::unix::fs::chown(&to, Some(NOBODY), Some(NOBODY))?;
    }
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY))?;
    let agent = serde_json::json!({
        "server": {"address": outer.server_addr(), "name": "tunnel.acme.example"},
        "trust": {"server": "server-root.pem", "client": "client-root.pem"},
        "credential": {"serviceAccountKeyFile": "agent.json"},
        "allow": [],
    });
    fs::write(&config, agent.to_string())?;
    let mut start = command("sh", home.path());
    let script = "exec 9<\"$1\"; shift; exec \"$@\"";
    start.current_dir(home.path()).args(["-c", script, "sh"]).arg(outer.binary());
    start.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]);
    start.args(["/proc/self/fd/9", "agent", "--log-format", "json", "--config"]).arg(&config);
    start.env("MARKER", "seen");
    let mut agent = Daemon::spawn("agent of nobody", start)?;
    agent.wait_for("enrolled", |_| true).await?;
    let pid = agent.pid();

    let mut sleep = as_nobody(home.path(), "sleep");
    sleep.arg("600").env("MARKER", "seen");
    let mut sleep = Daemon::spawn("sleep", sleep)?;
    eventually("sleep to begin", SOON, async || {
        Ok(fs::read_to_string(format!("/proc/{}/comm", sleep.pid()))?.starts_with("sleep").then_some(()))
    })
    .await?;
    for file in ["environ", "mem", "maps", "auxv", "stack"] {
        let mut read = as_nobody(home.path(), "head");
        read.args(["-c", "1"]).arg(format!("/proc/{pid}/{file}"));
        let read = output(read).await?;
        ensure!(!read.status.success() && read.stdout.is_empty(), "{file} of the agent can be read");
    }
    // The same user reads what belongs to another program of theirs.
    let mut read = as_nobody(home.path(), "cat");
    read.arg(format!("/proc/{}/environ", sleep.pid()));
    let read = output(read).await?;
    ensure!(count(&read.stdout, b"MARKER=seen") == 1, "this reader reads nothing at all: {read:?}");
    // What everybody may read names files, and says nothing of what is in them.
    let words = fs::read(format!("/proc/{pid}/cmdline"))?;
    for secret in key_file(&home.path().join("agent.json"))? {
        ensure!(count(&words, &secret) == 0, "a key is in the arguments");
    }
    agent.check()?;
    sleep.check()?;
    outer.finish(&[])
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_to_start_where_the_keys_of_connections_are_wanted_in_a_file() -> Result<()> {
    let world = world().target("127.0.0.1:9").start().await?;
    let log = world.directory().join("keys.log");
    let config = |role: &str| world.directory().join(format!("{role}.yaml")).display().to_string();
    let (server, agent, client) = (config("server"), config("agent"), config("client"));
    let commands = [
        vec!["server", "--config", &server],
        vec!["agent", "--config", &agent],
        vec!["client", "--config", &client],
        vec!["check", "agent", "--config", &agent],
        vec!["demo", "--once"],
    ];
    for args in commands {
        let mut ginnel = world.ginnel();
        ginnel.args(&args).env("SSLKEYLOGFILE", &log);
        let said = output(ginnel).await?;
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.status.code() == Some(2), "{args:?}: {}\n{stderr}", said.status);
        ensure!(stderr.starts_with("error: SSLKEYLOGFILE is set"), "{args:?}: {stderr}");
        ensure!(!log.exists(), "{args:?} wrote the file");
    }
    world.finish(&[])
}
