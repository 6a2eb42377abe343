//! Whether a directory is safe for the daemon's files: nobody but root and the
//! daemon's own user may put anything there, or anything in its place.

use anyhow::{Context, Result, bail};
use libc::{S_ISVTX, S_IWGRP, S_IWOTH};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Looks at a directory and everything above it, also as it is behind symbolic
/// links.
///
/// # Errors
/// Names what others could change, and what to do.
pub fn check(directory: &Path) -> Result<()> {
    let named = std::path::absolute(directory)?;
    let real = named
        .canonicalize()
        .with_context(|| format!("cannot read {}", named.display()))?;
    for path in named.ancestors().chain(real.ancestors()) {
        let meta = fs::symlink_metadata(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let own = nix::unistd::geteuid().as_raw();
        if let Some(who) = others(&meta, own) {
            bail!(
                "{} is not safe for the control socket: {} {who}; `chown root` and `chmod go-w` \
                 it, or choose another place by --socket",
                directory.display(),
                path.display()
            );
        }
    }
    Ok(())
}

/// Who else may change what is there.
fn others(meta: &Metadata, own: u32) -> Option<String> {
    if ![0, own].contains(&meta.uid()) {
        return Some(format!("belongs to user {}", meta.uid()));
    }
    // The mode of a link says nothing; in a sticky directory everybody has but
    // what is theirs.
    if meta.is_symlink() || meta.mode() & S_ISVTX != 0 {
        return None;
    }
    if meta.mode() & S_IWOTH != 0 {
        return Some("is writable by everybody".to_owned());
    }
    // Of root's group, and of one's own, only they are members.
    if meta.mode() & S_IWGRP != 0 && meta.gid() != 0 && own == 0 {
        return Some(format!("is writable by group {}", meta.gid()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn refusal(directory: &Path) -> String {
        check(directory).unwrap_err().to_string()
    }

    #[test]
    fn what_everybody_may_write_to_is_refused_wherever_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        check(&inner).unwrap();
        let set = |mode| {
            let outer = dir.path().join("a");
            fs::set_permissions(outer, Permissions::from_mode(mode)).unwrap();
        };
        set(0o777);
        let error = refusal(&inner);
        assert!(
            error.contains("/a is writable by everybody; `chown"),
            "{error}"
        );
        // As /tmp is.
        set(0o1777);
        check(&inner).unwrap();
    }

    #[test]
    fn a_link_is_followed_and_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let [open, link] = ["open", "link"].map(|name| dir.path().join(name));
        fs::create_dir(&open).unwrap();
        symlink(&open, &link).unwrap();
        check(&link).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let error = refusal(&link);
        assert!(error.contains("/open is writable by everybody"), "{error}");
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        if chown(&theirs, Some(65_534), None).is_err() {
            eprintln!("NOT RUN: needs root to make a directory of another user's");
            return;
        }
        let error = refusal(&theirs);
        assert!(error.contains("belongs to user 65534"), "{error}");
        // A link of theirs to a place that is safe.
        let link = dir.path().join("link");
        symlink("/run", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65_534), None).unwrap();
        let error = refusal(&link);
        assert!(error.contains("belongs to user 65534"), "{error}");
    }
}
