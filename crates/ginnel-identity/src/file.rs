//! Files that hold keys: read only if nobody else but root can, created only where nothing is.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Configuration: a key is never written over what is there.
    #[error("{} exists already and is never overwritten; choose another path, or move it away", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The environment: the operating system refused.
    #[error("cannot {} {}", action, path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The environment: others on the machine may read or change the file.
    #[error("{} has mode {mode:04o}, which lets others read or change it; {}", path.display(), remedy(path, *owner, *us))]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The user that it belongs to.
        owner: u32,
        /// The user that wanted to read it.
        us: u32,
    },
    /// Configuration: the path names a directory, device or pipe.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// The environment: others on the machine may change the file.
    #[error("{} has mode {mode:04o}, which lets others change it; run chmod go-w on it", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Configuration: no file of this purpose is that large.
    #[error("{} is larger than {} bytes", path.display(), bytes_max)]
    Size {
        /// Which file.
        path: PathBuf,
        /// The bound.
        bytes_max: usize,
    },
}

impl FileError {
    /// Names the file that could not be created, and says so plainly if something is there already.
    fn create(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                Self::Exists { path }
            } else {
                Self::Io { action: "create", path, source }
            }
        }
    }

    /// Names what was tried on which file when the operating system refused.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Reads a secret of at most `bytes_max` bytes from a regular file that only its owner may use, or that root lets our group read.
///
/// # Errors
/// [`FileError`], which never holds content.
pub fn read_private(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (file, metadata) = open(path)?;
    // Asked of the open file and not of the path, which could lead somewhere else a moment later.
    let (mode, owner, us) = (metadata.mode() & 0o7777, metadata.uid(), rustix::process::geteuid().as_raw());
    if !is_private(mode, owner, us) {
        return Err(FileError::Mode { path: path.to_owned(), mode, owner, us });
    }
    read(file, path, bytes_max)
}

/// Reads a secret that a platform puts there for us and soon replaces: nobody but its owner may change it. Others may be able to read it,
/// because Kubernetes gives a projected token mode 0644 in a container whose user it does not know.
///
/// # Errors
/// [`FileError`], which never holds content.
pub fn read_projected(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let (file, metadata) = open(path)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(FileError::Open { path: path.to_owned(), mode });
    }
    read(file, path, bytes_max)
}

/// Reads a file of at most `bytes_max` bytes that holds nothing secret.
///
/// # Errors
/// [`FileError`].
pub fn read_public(path: &Path, bytes_max: usize) -> Result<Vec<u8>, FileError> {
    let (file, _) = open(path)?;
    read(file, path, bytes_max).map(|mut bytes| std::mem::take(&mut *bytes))
}

/// Creates a file of mode 0600 with this content, durably. Nothing that exists is replaced; nothing is left behind on failure.
///
/// # Errors
/// [`FileError`].
pub fn create_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    create(path, content, 0o600)
}

/// Creates a file of this mode with this content, durably. Nothing that exists is replaced; nothing is left behind on failure.
///
/// # Errors
/// [`FileError`].
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o600)
        .open(path)
        .map_err(FileError::create(path))?;
    let written = file
        .write_all(content)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all());
    written.map_err(|source| {
        // What cannot be removed cannot be helped here; the error that counts is the first.
        let _ = fs::remove_file(path);
        FileError::Io { action: "write", path: path.to_owned(), source }
    })
}

/// Whether a file of this mode and owner is a secret of ours.
///
/// A file of our own is for nobody else. One of root's has been put there for us by a service manager or a container engine, and the group
/// is how it lets us read: systemd's credentials and Kubernetes' secrets have mode 0440. We cannot have widened it ourselves.
fn is_private(mode: u32, owner: u32, us: u32) -> bool {
    let others = if owner == 0 && us != 0 { 0o037 } else { 0o077 };
    mode & others == 0
}

/// What makes a file private. With mode 0600 a file of root's would be closed to us as well, and one of somebody else's is theirs.
fn remedy(path: &Path, owner: u32, us: u32) -> String {
    let path = path.display();
    match (owner, us) {
        (0, 0) => format!("run chmod 600 {path}, or give it mode 0400 where it is mounted"),
        (_, 0) => format!("run chmod 600 {path}"),
        (0, _) => format!(
            "it is root's: give it mode 0440 and a group that has user {us} and nobody else in it, here or where it is mounted"
        ),
        (owner, us) if owner == us => format!("run chmod 600 {path}"),
        (owner, us) => format!("it belongs to user {owner}: give it to user {us} (chown), with mode 0600"),
    }
}

fn open(path: &Path) -> Result<(File, Metadata), FileError> {
    // Without O_NONBLOCK, opening a pipe would wait for a writer that may never come.
    let metadata = fs::metadata(path).map_err(FileError::io("read", path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let metadata = file.metadata().map_err(FileError::io("read", path))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile { path: path.to_owned() });
    }
    Ok((file, metadata))
}

fn read(file: File, path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Reserved in one piece, so that no reallocation leaves a copy of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() > bytes_max {
        return Err(FileError::Size { path: path.to_owned(), bytes_max });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_may_let_a_group_read_and_nobody_else() {
        for (mode, owner, us, private) in [
            (0o440, 0, 1000, true),
            (0o640, 0, 1000, true),
            (0o440, 0, 0, false),
            (0o440, 1000, 1000, false),
            (0o440, 1001, 1000, false),
            (0o460, 0, 1000, false),
            (0o450, 0, 1000, false),
            (0o444, 0, 1000, false),
            (0o644, 0, 1000, false),
            (0o440, 1000, 0, false),
            (0o600, 1000, 0, true),
            (0o400, 1000, 1000, true),
        ] {
            assert_eq!(is_private(mode, owner, us), private, "{mode:o} {owner} {us}");
        }
    }

    #[test]
    fn what_to_do_about_a_mode_depends_on_whose_file_it_is() {
        for (owner, us, words) in [
            (1000, 1000, "; run chmod 600 /etc/key"),
            (1000, 0, "; run chmod 600 /etc/key"),
            (0, 0, "; run chmod 600 /etc/key, or give it mode 0400 where it is mounted"),
            (0, 1000, "; it is root's: give it mode 0440 and a group that has user 1000"),
            (1001, 1000, "; it belongs to user 1001: give it to user 1000 (chown), with mode 0600"),
        ] {
            let error = FileError::Mode { path: "/etc/key".into(), mode: 0o644, owner, us }.to_string();
            assert!(error.starts_with("/etc/key has mode 0644, which lets others read or change it; "), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn reads_secrets_only_if_nobody_else_can() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("key");
        create_private(&path, b"secret").expect("created");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert!(matches!(read_private(&path, 64), Err(FileError::Mode { mode: found, .. }) if found == mode));
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
            assert_eq!(read_private(&path, 6).expect("read").as_slice(), b"secret");
        }
        assert!(matches!(read_private(&path, 5), Err(FileError::Size { .. })));
        assert!(matches!(read_private(directory.path(), 64), Err(FileError::NotAFile { .. })));
        assert!(matches!(create_private(&path, b"other"), Err(FileError::Exists { .. })));
        assert_eq!(fs::read(&path).expect("read"), b"secret");
    }
}
