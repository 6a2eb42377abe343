//! The listening socket: its place, mode, group and end.

use super::trust;
use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, chown};
use std::fs::{self, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Owner and group may connect, nobody else.
pub const MODE: u32 = 0o660;

/// A bound socket. Removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode.
    id: (u64, u64),
}

impl Socket {
    /// Binds `path`, after removing a socket there on which nobody answers.
    ///
    /// # Errors
    /// When a daemon answers there, naming its process; when something that is
    /// no socket is in the way; when the directory cannot be written to, or others
    /// could put something of theirs there.
    pub fn bind(path: &Path) -> Result<Self> {
        let dir = path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .with_context(|| format!("cannot create {}", dir.display()))?;
        trust::check(dir)?;
        // Two daemons starting at once must not remove each other's socket.
        let lock = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| anyhow!("cannot lock {}: {error}", dir.display()))?;
        remove_stale(path)?;
        let listener = {
            // From its first moment on nobody else may connect. Only this
            // thread runs yet.
            let before = umask(Mode::from_bits_truncate(0o777 & !MODE));
            let listener = UnixListener::bind(path);
            umask(before);
            listener
        }
        .with_context(|| match path.as_os_str().len() {
            108.. => format!("cannot bind {}: the path is too long", path.display()),
            _ => format!("cannot bind {}", path.display()),
        })?;
        fs::set_permissions(path, Permissions::from_mode(MODE))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        listener.set_nonblocking(true)?;
        let meta = fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            id: (meta.dev(), meta.ino()),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, for a reactor.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn listener(&self) -> std::io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Lets the members of `group` connect; without one only root's.
///
/// # Errors
/// When there is no such group, or the owner may not be changed.
pub fn set_group(path: &Path, group: Option<&str>) -> Result<()> {
    let gid = match group {
        None => Gid::from_raw(0),
        Some(name) => Group::from_name(name)
            .with_context(|| format!("cannot look up the group `{name}`"))?
            .with_context(|| {
                format!(
                    "control: there is no group `{name}`; create it with `groupadd --system {name}`"
                )
            })?
            .gid,
    };
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if meta.gid() == gid.as_raw() || (group.is_none() && !nix::unistd::geteuid().is_root()) {
        return Ok(());
    }
    chown(path, None, Some(gid)).with_context(|| {
        format!(
            "cannot give {} to its group: needs CAP_CHOWN, or to be a member of the group \
             (SupplementaryGroups= of the unit)",
            path.display()
        )
    })
}

/// Removes the socket of a daemon that is no more, if there is one.
///
/// # Errors
/// When a daemon answers, or what is there is no socket.
pub fn remove_stale(path: &Path) -> Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    };
    if !meta.file_type().is_socket() {
        bail!("{} is in the way and is no socket", path.display());
    }
    match UnixStream::connect(path) {
        Ok(stream) => {
            let process = getsockopt(&stream, PeerCredentials).map_or_else(
                |_| String::new(),
                |peer| format!(", process {}", peer.pid()),
            );
            bail!(
                "a daemon answers on {} already{process}; stop it first, or choose another place \
                 by --socket",
                path.display()
            );
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale {}", path.display())),
        Err(error) => {
            Err(error).with_context(|| format!("cannot tell who uses {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/shaper.sock");
        let socket = Socket::bind(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let error = Socket::bind(&path).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(error.contains(&format!("process {pid}")), "{error}");

        // As after SIGKILL: nobody listens, the file is there.
        drop(socket);
        assert!(!path.exists(), "removed at the end");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::bind(&path).unwrap();

        // Another daemon's socket in our place is left alone.
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn a_file_in_the_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shaper.sock");
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.ends_with("is in the way and is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn an_unknown_group_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shaper.sock");
        let _socket = Socket::bind(&path).unwrap();
        let error = set_group(&path, Some("no-such-group-here")).unwrap_err();
        assert!(error.to_string().contains("no-such-group-here"), "{error}");
        assert!(set_group(&path, None).is_ok());
    }
}
