//! Git repositories made of seeded noise, so that nothing on the way can compress them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::io::AsyncWriteExt;

use crate::command::{git, succeed};
use crate::stream::bytes;

/// Size of one file in a repository.
const FILE: usize = 1 << 20;

/// A bare repository.
#[derive(Clone, Debug)]
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    /// Makes `dir/name` with one commit on `main` that holds at least `size` bytes; `seed` decides them.
    ///
    /// # Errors
    /// If git fails.
    pub async fn create(dir: &Path, name: &str, size: usize, seed: u64) -> Result<Self> {
        let path = dir.join(name);
        let mut init = git(dir);
        init.args(["init", "--quiet", "--bare", "--initial-branch=main"]).arg(&path);
        succeed(init).await?;
        let repository = Self { path };
        // Deflating noise takes most of the time of a clone and proves nothing.
        let settings =
            [("core.compression", "0"), ("http.receivepack", "true"), ("gc.auto", "0"), ("receive.autogc", "false")];
        for (key, value) in settings {
            repository.git(&["config", key, value]).await?;
        }
        repository.import(size, seed).await?;
        Ok(repository)
    }

    async fn import(&self, size: usize, seed: u64) -> Result<()> {
        let mut command = git(&self.path);
        command.current_dir(&self.path).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("standard input is piped")?;
        let message = format!("{size} bytes of noise from seed {seed}");
        let mut script = format!(
            "commit refs/heads/main\ncommitter C O Mitter <someone@acme.example> 1700000000 +0000\ndata {}\n{message}\n",
            message.len()
        )
        .into_bytes();
        for (index, start) in (0..size).step_by(FILE).enumerate() {
            let length = FILE.min(size - start);
            script.extend_from_slice(format!("M 100644 inline file-{index}.bin\ndata {length}\n").as_bytes());
            script.extend_from_slice(&bytes(seed.wrapping_mul(1 << 32).wrapping_add(index as u64), length));
            script.push(b'\n');
            stdin.write_all(&script).await?;
            script.clear();
        }
        stdin.write_all(b"done\n").await?;
        drop(stdin);
        ensure!(child.wait().await?.success(), "git fast-import failed");
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The object id of a revision.
    ///
    /// # Errors
    /// If there is none.
    pub async fn object_id(&self, revision: &str) -> Result<String> {
        self.git(&["rev-parse", "--verify", revision]).await
    }

    /// Checks that every object is there and has the right id.
    ///
    /// # Errors
    /// What git found.
    pub async fn fsck(&self) -> Result<()> {
        fsck(&self.path).await
    }

    async fn git(&self, arguments: &[&str]) -> Result<String> {
        let mut command = git(&self.path);
        command.arg("-C").arg(&self.path).args(arguments);
        succeed(command).await
    }
}

/// Checks that the repository at `path` has every object, each with the right id.
///
/// # Errors
/// What git found.
pub async fn fsck(path: &Path) -> Result<()> {
    let mut command = git(path);
    command.arg("-C").arg(path).args(["fsck", "--full", "--strict"]);
    succeed(command).await.map(drop)
}
