//! One daemon for each network namespace, whatever its socket: two would share
//! programs and maps, and each undo what the other did.

use super::trust;
use crate::private;
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the locks are.
const DIRECTORY: &str = "/run/shaper";

/// The lock of the network namespace with this cookie.
#[must_use]
pub fn path(netns_cookie: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("net-{netns_cookie}.lock"))
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: i32,
    /// Its control socket, absolute.
    pub socket: PathBuf,
}

/// A held lock. Its file goes when it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock at `path` for this process, which serves `socket`.
    ///
    /// # Errors
    /// When another daemon has it, naming its process and socket.
    pub fn take(path: &Path, socket: &Path) -> Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            trust::check(directory)?;
        }
        loop {
            let file =
                private::file(path).with_context(|| format!("cannot open {}", path.display()))?;
            let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => bail!("{}", in_use(path)),
                Err((_, error)) => return Err(anyhow!("cannot lock {}: {error}", path.display())),
            };
            // Whoever held it may have removed the file in between.
            let ours = file.metadata()?;
            if !fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino())) {
                continue;
            }
            let holder = Holder {
                pid: std::process::id().cast_signed(),
                socket: std::path::absolute(socket)?,
            };
            file.set_len(0)?;
            file.write_all(&serde_json::to_vec(&holder)?)?;
            return Ok(Self {
                path: path.to_owned(),
                _file: file,
            });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Who holds the lock at `path`. A file that a killed daemon left is removed.
///
/// # Errors
/// When the file cannot be read.
pub fn holder(path: &Path) -> Result<Option<Holder>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_free) => {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
            Ok(None)
        }
        Err((_, Errno::EWOULDBLOCK)) => read(path).map(Some),
        Err((_, error)) => Err(anyhow!("cannot lock {}: {error}", path.display())),
    }
}

fn read(path: &Path) -> Result<Holder> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))
}

fn in_use(path: &Path) -> String {
    let who = read(path).map_or_else(
        |_| String::new(),
        |holder| format!(": process {}, on {}", holder.pid, holder.socket.display()),
    );
    format!("a daemon serves this network namespace already{who}; stop it first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/net-1.lock");
        assert_eq!(holder(&path).unwrap(), None);
        let lock = Lock::take(&path, Path::new("/run/a.sock")).unwrap();
        let pid = std::process::id().cast_signed();
        assert_eq!(
            holder(&path).unwrap(),
            Some(Holder {
                pid,
                socket: "/run/a.sock".into()
            })
        );
        let error = Lock::take(&path, Path::new("/run/b.sock")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "a daemon serves this network namespace already: process {pid}, on /run/a.sock; \
                 stop it first"
            )
        );
        drop(lock);
        assert!(!path.exists());
        drop(Lock::take(&path, Path::new("/run/b.sock")).unwrap());
    }

    #[test]
    fn what_a_killed_daemon_left_is_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net-1.lock");
        fs::write(&path, r#"{"pid":1,"socket":"/run/a.sock"}"#).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
        assert!(!path.exists());
    }
}
