//! Where HAProxy's sockets usually are.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

/// Of distributions' packages, HAProxy's documentation and those who follow it.
const USUAL: [&str; 11] = [
    // Debian and Ubuntu: haproxy.cfg, and the master CLI of the unit.
    "/run/haproxy/admin.sock",
    "/run/haproxy-master.sock",
    // Fedora and RHEL.
    "/var/lib/haproxy/stats",
    // SUSE.
    "/run/haproxy/stats.sock",
    "/run/haproxy/master.sock",
    // HAProxy Enterprise.
    "/run/hapee-lb.sock",
    // The documentation's examples.
    "/run/haproxy.sock",
    "/run/haproxy.stat",
    "/run/haproxy/haproxy.sock",
    "/run/haproxy/haproxy-master.sock",
    "/run/haproxy/stats",
];

/// The usual places; those in `/run` also where `/var/run` is another directory.
pub(super) fn usual() -> Vec<PathBuf> {
    let var = USUAL
        .iter()
        .filter_map(|place| place.strip_prefix("/run/"))
        .map(|place| PathBuf::from("/var/run").join(place));
    USUAL.iter().map(PathBuf::from).chain(var).collect()
}

/// Those of `places` that are sockets, each once.
pub(super) fn sockets(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<_> = places
        .iter()
        .filter_map(|place| place.canonicalize().ok())
        .filter(|path| {
            path.metadata()
                .is_ok_and(|file| file.file_type().is_socket())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_are_found_once_and_other_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let [run, var, file, none] = ["run", "var", "file", "none"].map(|name| dir.join(name));
        std::fs::create_dir(&run).unwrap();
        symlink(&run, &var).unwrap();
        std::fs::write(&file, "").unwrap();
        let _listener = UnixListener::bind(run.join("a.sock")).unwrap();
        let places = [
            var.join("a.sock"),
            run.join("a.sock"),
            run.clone(),
            file,
            none,
        ];
        assert_eq!(sockets(&places), [run.join("a.sock")]);
    }
}
