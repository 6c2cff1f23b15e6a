//! Attackers in Python, with other people's libraries: OpenSSL, tlslite-ng, hyperframe, gRPC. Each is told where the server is and plays its
//! cases; what it finds wrong is in its answer.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::command::{command, succeed};
use crate::world::{SERVER_NAME, World};

/// The system's own Python, which sees the modules that the system's packages bring.
const PYTHON: &str = "/usr/bin/python3";

/// Every file of the attackers: they import each other.
const FILES: [(&str, &str); 8] = [
    ("enrol.py", include_str!("attacker/enrol.py")),
    ("flood.py", include_str!("attacker/flood.py")),
    ("grpc_cases.py", include_str!("attacker/grpc_cases.py")),
    ("http2.py", include_str!("attacker/http2.py")),
    ("peer.py", include_str!("attacker/peer.py")),
    ("sslyze_scan.py", include_str!("attacker/sslyze_scan.py")),
    ("tls_cases.py", include_str!("attacker/tls_cases.py")),
    ("unfinished.py", include_str!("attacker/unfinished.py")),
];

/// A call that a client may make and that does not end by itself.
const OPEN: &str = "/ginnel.v1.ClientLink/Open";

/// An attacker, with a certificate of a client of the world.
pub struct Attacker {
    directory: PathBuf,
    world: Value,
}

impl Attacker {
    /// Enrols with the client's key file. `proto` is the directory of the protocol's definition, `tools` where `scripts/setup` puts Python modules that
    /// the system has not.
    ///
    /// # Errors
    /// If a library is missing, or the server refuses.
    pub async fn start(world: &World, proto: &Path, tools: &Path) -> Result<Self> {
        let modules = tools.join("python");
        ensure!(modules.join("tlslite").is_dir(), "{} has no tlslite-ng: scripts/setup installs it", modules.display());
        let directory = world.directory().join("attacker");
        std::fs::create_dir(&directory)?;
        for (name, text) in FILES {
            std::fs::write(directory.join(name), text)?;
        }
        let told = json!({
            "address": world.server_addr().to_string(),
            "name": SERVER_NAME,
            "path": OPEN,
            "proto": proto,
            "out": directory,
            "account": world.directory().join("client.json"),
            "root": world.directory().join("ca/server-root.pem"),
            "key": directory.join("key.pem"),
            "chain": directory.join("chain.pem"),
            "modules": modules,
        });
        let attacker = Self { directory, world: told };
        attacker.play("enrol.py", &json!({})).await.context("enrolling")?;
        Ok(attacker)
    }

    /// Plays a script; `more` is what it is told beside where the server is. Gives its answer.
    ///
    /// # Errors
    /// If it fails, or answers something that is not JSON.
    pub async fn play(&self, script: &str, more: &Value) -> Result<Value> {
        let mut told = self.world.clone();
        if let (Some(told), Some(more)) = (told.as_object_mut(), more.as_object()) {
            told.extend(more.clone());
        }
        let mut python = command(PYTHON, &self.directory);
        python.env("PYTHONDONTWRITEBYTECODE", "1").arg(self.directory.join(script)).arg(told.to_string());
        let said = succeed(python).await?;
        serde_json::from_str(&said).with_context(|| format!("{script} said {said:?}"))
    }

    /// Plays a script of cases, none of which may go wrong.
    ///
    /// # Errors
    /// Those that do, or if there are fewer than `least`.
    pub async fn survives(&self, script: &str, least: u64) -> Result<()> {
        let answer = self.play(script, &json!({})).await?;
        let wrong = answer["wrong"].as_array().context("a list")?;
        ensure!(wrong.is_empty(), "{script}: {} of {} cases: {wrong:#?}", wrong.len(), answer["cases"]);
        ensure!(
            answer["cases"].as_u64().is_some_and(|cases| cases >= least),
            "{script} played only {}",
            answer["cases"]
        );
        Ok(())
    }
}
