//! A headless Chromium, driven over WebDriver (W3C) by chromedriver.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::wait::{SOON, within};

/// What keeps Chromium to this machine and lets it run as root in a container.
const SWITCHES: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// The screen of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A window so wide and high.
    Desktop(u32, u32),
    /// A phone so wide and high, with touch.
    Phone(u32, u32),
}

/// A browser with one page. Dropping it kills it.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts chromedriver, and Chromium with a fresh profile.
    ///
    /// # Errors
    /// If either does not start.
    pub async fn start(screen: Screen) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .context("starting chromedriver; scripts/setup installs it")?;
        let stdout = driver.stdout.take().context("standard output is piped")?;
        let port = within("chromedriver to name its port", SOON, port(BufReader::new(stdout))).await??;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut arguments: Vec<String> = SWITCHES.iter().map(|switch| (*switch).to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut options = json!({"args": arguments});
        match screen {
            Screen::Desktop(width, height) => {
                arguments.push(format!("--window-size={width},{height}"));
                options["args"] = json!(arguments);
            }
            Screen::Phone(width, height) => {
                let metrics =
                    json!({"width": width, "height": height, "pixelRatio": 2.0, "touch": true, "mobile": true});
                options["mobileEmulation"] = json!({"deviceMetrics": metrics});
            }
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        let made = browser.ask("POST", "/session", &wanted).await?;
        browser.session = made["sessionId"].as_str().context("a session id")?.to_owned();
        Ok(browser)
    }

    /// Loads a page and waits until it is there.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.in_session("/url", &json!({"url": url})).await.map(drop)
    }

    /// Runs a script in the page, such as `return document.title`.
    ///
    /// # Errors
    /// If it fails.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.in_session("/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Writes a picture of the page (PNG) to a file.
    ///
    /// # Errors
    /// If it cannot be taken or written.
    pub async fn screenshot(&self, file: &Path) -> Result<()> {
        let path = format!("/session/{}/screenshot", self.session);
        let picture = self.ask("GET", &path, &Value::Null).await?;
        let picture = STANDARD.decode(picture.as_str().context("a picture")?)?;
        std::fs::write(file, picture).with_context(|| format!("writing {}", file.display()))
    }

    /// What the page complained about so far: errors of scripts, styles and policies.
    ///
    /// # Errors
    /// If the browser does not say.
    pub async fn complaints(&self) -> Result<Vec<Value>> {
        let log = self.in_session("/se/log", &json!({"type": "browser"})).await?;
        Ok(log.as_array().context("a log")?.clone())
    }

    /// The addresses of everything that was asked of a network since the last call.
    ///
    /// # Errors
    /// If the browser does not say.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let log = self.in_session("/se/log", &json!({"type": "performance"})).await?;
        let mut addresses = Vec::new();
        for entry in log.as_array().context("a log")? {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
            if message["message"]["method"] == "Network.requestWillBeSent" {
                let url = message["message"]["params"]["request"]["url"].as_str().context("an address")?;
                addresses.push(url.to_owned());
            }
        }
        Ok(addresses)
    }

    async fn in_session(&self, what: &str, body: &Value) -> Result<Value> {
        self.ask("POST", &format!("/session/{}{what}", self.session), body).await
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                self.address,
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
            answer(&mut BufReader::new(stream)).await
        };
        let (head, text) = within("the browser to answer", SOON, asked).await??;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("the answer {text:?}"))?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {}", value["value"]["message"]);
        Ok(value["value"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium is the driver's child and would outlive it.
        let pid = self.driver.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

/// Head and body of an answer. Its length counts, not its end: chromedriver keeps the connection open whatever it is asked.
async fn answer(stream: &mut BufReader<TcpStream>) -> Result<(String, String)> {
    let (mut head, mut length) = (String::new(), None);
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "the answer ends in its head");
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = Some(value.trim().parse()?);
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length.context("an answer without a length")?];
    stream.read_exact(&mut body).await?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

/// The port that chromedriver says it has.
async fn port(mut stdout: impl tokio::io::AsyncBufRead + Unpin) -> Result<u16> {
    let mut line = String::new();
    while stdout.read_line(&mut line).await? > 0 {
        if let Some((_, rest)) = line.split_once("started successfully on port ") {
            return Ok(rest.trim_end().trim_end_matches('.').parse()?);
        }
        line.clear();
    }
    bail!("chromedriver ended without naming its port")
}
