//! What tests of the daemon begin with.

use super::core::{Options, PolicyFile};
use crate::control::server::Peer;
use tempfile::TempDir;

/// Somebody who may do everything.
pub(super) const ROOT: Peer = Peer {
    uid: 0,
    pid: Some(7),
};

/// A policy and a control socket in that directory.
pub(super) fn options(dir: &TempDir) -> Options {
    Options {
        policy: PolicyFile {
            path: dir.path().join("policy.toml"),
            required: true,
        },
        interfaces: Vec::new(),
        observe: false,
        socket: dir.path().join("shaper.sock"),
        state: dir.path().join("state"),
    }
}
