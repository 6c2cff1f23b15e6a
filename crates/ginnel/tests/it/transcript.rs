//! Commands and what they said, kept as golden files in which everything that differs between two runs is replaced.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ginnel_testkit::World;
use ginnel_testkit::command::output;
use serde_json::Value;
use tokio::process::Command;

/// Shortest run of hexadecimal digits that is taken for an id, a serial number or a version.
const HEX_MIN: usize = 8;

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
}

/// Commands and what they said, in the order in which they were given.
pub(crate) struct Transcript {
    text: String,
    names: Vec<(String, String)>,
}

impl Transcript {
    /// An empty one; the directory of `world` is `DIR`.
    pub(crate) fn of(world: &World) -> Self {
        let mut transcript = Self { text: String::new(), names: Vec::new() };
        transcript.name(world.directory().display(), "DIR");
        transcript.name(world.server_addr(), "SERVER");
        transcript
    }

    /// Writes `name` wherever `value` stood.
    pub(crate) fn name(&mut self, value: impl ToString, name: &str) {
        self.names.push((value.to_string(), name.to_owned()));
    }

    /// Says in the golden file what follows.
    pub(crate) fn note(&mut self, text: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.text, "# {text}");
    }

    /// Puts something else down as it was said.
    pub(crate) fn put(&mut self, what: &str, said: &str) {
        self.text.push_str(&redact(&format!("$ {what}\n{said}\n"), &self.names));
    }

    /// Runs a command of the program and puts it down with everything that it said, and its exit code.
    pub(crate) async fn run(&mut self, world: &World, args: &[&str]) -> Result<Said> {
        let mut command = world.ginnel();
        command.args(args);
        self.run_as(&format!("ginnel {}", args.join(" ")), command).await
    }

    /// Runs a command and puts it down under these words, with everything that it said, and its exit code.
    pub(crate) async fn run_as(&mut self, shown: &str, command: Command) -> Result<Said> {
        let said = said(command).await?;
        let (Said { code, stdout }, stderr) = &said;
        let mut text = format!("$ {shown}\n{stdout}");
        for line in stderr.lines() {
            let _ = writeln!(text, "stderr: {line}");
        }
        let _ = writeln!(text, "exit code {}\n", code.map_or_else(|| "none".to_owned(), |code| code.to_string()));
        self.text.push_str(&redact(&text, &self.names));
        Ok(said.0)
    }

    /// Compares with the golden file of this name; writes it instead if `UPDATE_GOLDEN` is set.
    pub(crate) fn is_golden(&self, name: &str) -> Result<()> {
        is_golden(name, &self.text)
    }
}

/// Runs a command of the program whose standard output is JSON, and checks its exit code.
pub(crate) async fn json(world: &World, args: &[&str], code: i32) -> Result<Value> {
    let mut command = world.ginnel();
    command.args(args);
    let (said, stderr) = said(command).await?;
    ensure!(said.code == Some(code), "{args:?}: exit code {:?}\n{}{stderr}", said.code, said.stdout);
    serde_json::from_str(&said.stdout).with_context(|| format!("{args:?} said\n{}", said.stdout))
}

async fn said(command: Command) -> Result<(Said, String)> {
    let output = output(command).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((Said { code: output.status.code(), stdout: text(&output.stdout) }, text(&output.stderr)))
}

/// Compares `text` with the golden file of this name; writes the file instead if `UPDATE_GOLDEN` is set.
pub(crate) fn is_golden(name: &str, text: &str) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text)?;
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).find(|(golden, said)| golden != said);
    let differs = differs.map(|(golden, said)| format!("\n  golden: {golden}\n  said:   {said}")).unwrap_or_default();
    ensure!(golden == text, "not as in {name}; UPDATE_GOLDEN=1 rewrites it{differs}\n\nall of it:\n{text}");
    Ok(())
}

/// Replaces what is named, and then ids, serial numbers, versions of rules, times, spans, ports and amounts of bytes. Columns are pulled
/// together, because their widths differ as well.
pub(crate) fn redact(text: &str, names: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (value, name) in names {
        text = text.replace(value, name);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        out.push_str(&narrow(&redact_line(line)));
    }
    out
}

fn redact_line(line: &str) -> String {
    let tokens = tokens(line);
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let before = out.last().map(String::as_str).unwrap_or_default();
        let unit = tokens.get(at + 2).filter(|_| tokens.get(at + 1) == Some(&" ")).copied().unwrap_or_default();
        if is_number(token) && matches!(unit, "d" | "h" | "min" | "s") {
            // A span has one or two of these; one word stands for both.
            if out.len() >= 2 && before == " " && out[out.len() - 2] == "SPAN" {
                out.pop();
            } else {
                out.push("SPAN".to_owned());
            }
            at += 3;
            continue;
        }
        if is_number(token) && matches!(unit, "B" | "kB" | "MB") {
            out.push("BYTES".to_owned());
            at += 3;
            continue;
        }
        let key = if before == "=" { out.get(out.len().wrapping_sub(2)).map(String::as_str) } else { None };
        let replaced = match (key, *token) {
            (Some("ms" | "up" | "down" | "bytes_up" | "bytes_down" | "duration_ms"), _) => "N".to_owned(),
            (_, token) if is_time(token) => "TIME".to_owned(),
            (_, token) if is_hex(token) => "HEX".to_owned(),
            (_, token) => without_port(token),
        };
        out.push(replaced);
        at += 1;
    }
    out.concat()
}

/// Words, and single characters between them.
fn tokens(line: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_');
    let mut tokens = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (token, after) = rest.split_at(length);
        // A colon or a full stop at the end belongs to the sentence.
        let word = token.trim_end_matches([':', '.']);
        if !word.is_empty() && word.len() < token.len() {
            tokens.extend([word, &token[word.len()..]]);
        } else {
            tokens.push(token);
        }
        rest = after;
    }
    tokens
}

fn is_number(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_digit()) && token.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn is_hex(token: &str) -> bool {
    token.len() >= HEX_MIN
        && token.chars().all(|c| c.is_ascii_hexdigit())
        && token.contains(|c: char| c.is_ascii_digit())
}

fn is_time(token: &str) -> bool {
    token.len() >= 20 && token.ends_with('Z') && token.as_bytes().get(10) == Some(&b'T') && token.starts_with("20")
}

fn without_port(token: &str) -> String {
    match token.strip_prefix("127.0.0.1:") {
        Some(port) if port.chars().all(|c| c.is_ascii_digit()) => "127.0.0.1:PORT".to_owned(),
        Some(_) | None => token.to_owned(),
    }
}

/// Makes every gap of two spaces or more two spaces wide, except at the beginning of the line.
fn narrow(line: &str) -> String {
    let text = line.trim_start_matches(' ');
    let mut out = line[..line.len() - text.len()].to_owned();
    let mut spaces = 0;
    for c in text.chars() {
        spaces = if c == ' ' { spaces + 1 } else { 0 };
        if spaces <= 2 {
            out.push(c);
        }
    }
    out
}

#[test]
fn what_differs_between_two_runs_is_replaced_and_nothing_else() {
    let names = [("127.0.0.1:4000".to_owned(), "GIT".to_owned())];
    let line = "  2026-11-24T12:00:00Z  0123456789abcdef0123456789abcdef  127.0.0.1:4000     127.0.0.1:4001: 23 h 59 min left, 1.5 kB up=3 of 2 rules\n";
    let said = redact(line, &names);
    assert_eq!(said, "  TIME  HEX  GIT  127.0.0.1:PORT: SPAN left, BYTES up=N of 2 rules\n");
}
