//! The Unix socket for control: only its owner and root may connect.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Who may connect: the process's own user.
const MODE: u32 = 0o600;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process listens there (environment).
    #[error("another process listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket stands there, and is not ours to remove (configuration).
    #[error("{} is there and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made (configuration, environment).
    #[error("making the socket {}; its directory must exist and be writable", path.display())]
    Make {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket that listens, and is removed when this is dropped.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what stands at the path later may be somebody else's.
    made: Option<(u64, u64)>,
}

impl Socket {
    /// Makes the socket. One that a dead process left is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Make { path: path.to_owned(), source };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(failed(error)),
            },
        }
        // It is made under another name, in a directory that nobody else can enter, so that there is no moment in which others could
        // connect; the move puts it into place and replaces what a dead process left.
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = Private::new(parent).map_err(failed)?;
        let inside = made.0.join("s");
        let listener = UnixListener::bind(&inside).map_err(failed)?;
        fs::set_permissions(&inside, Permissions::from_mode(MODE)).map_err(failed)?;
        fs::rename(&inside, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), made: identity(path) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.made.is_some() && identity(&self.path) == self.made {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The user at the other end, if it may be there: whoever owns this process, or root.
pub(super) fn caller(stream: &UnixStream) -> Option<(Option<i32>, u32)> {
    let peer = stream.peer_cred().ok()?;
    let ours = rustix::process::geteuid().as_raw();
    (peer.uid() == 0 || peer.uid() == ours).then(|| (peer.pid(), peer.uid()))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// A directory of mode 0700 with a name that was free, removed when this is dropped.
struct Private(PathBuf);

impl Private {
    /// Names that are tried; one is free unless somebody makes them on purpose.
    const TRIES: u32 = 16;

    fn new(parent: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for number in 0..Self::TRIES {
            let path = parent.join(format!(".g{}-{number}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_private_replaces_what_a_dead_process_left_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(socket);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn leaves_alone_what_is_not_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(Socket::bind(&file), Err(SocketError::NotASocket(_))));
        assert!(matches!(Socket::bind(&dir.path().join("none/admin.sock")), Err(SocketError::Make { .. })));
        let path = dir.path().join("admin.sock");
        let socket = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        drop(socket);
        assert!(path.exists() && file.exists());
    }
}
