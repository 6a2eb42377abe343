//! What the command line says, and the policy with it.

use crate::policy::{Mode, Policy};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Where the policy is.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// The file.
    pub path: PathBuf,
    /// Named by the operator: it must exist. Else the daemon observes only
    /// where it does not.
    pub required: bool,
}

/// What the command line says over the policy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the policy is.
    pub policy: PolicyFile,
    /// In the place of the policy's interfaces, unless empty.
    pub interfaces: Vec<String>,
    /// Observe only, whatever the policy says.
    pub observe: bool,
    /// The control socket. What is set at runtime is kept beside it.
    pub socket: PathBuf,
    /// The directory of what outlives a reboot.
    pub state: PathBuf,
}

impl Options {
    /// Reads the policy and lays the command line over it. Whether it came from
    /// the file is the second value.
    ///
    /// # Errors
    /// When the file has mistakes, or cannot be read although it must.
    pub fn load(&self) -> Result<(Policy, bool)> {
        let file = &self.policy;
        let found = file.required || file.path.exists();
        let mut policy = if found {
            Policy::load(&file.path)?
        } else {
            Policy::observe_only()
        };
        if !self.interfaces.is_empty() {
            policy.interfaces.clone_from(&self.interfaces);
            // As in the file, "auto" is the default route's.
            policy.interfaces.retain(|name| name != "auto");
        }
        if self.observe {
            policy.mode = Mode::Observe;
        }
        Ok((policy, found))
    }

    /// Where runtime limits and blocks are kept.
    #[must_use]
    pub fn overrides(&self) -> PathBuf {
        overrides_beside(&self.socket)
    }
}

/// Where the daemon of a socket keeps runtime limits and blocks.
#[must_use]
pub fn overrides_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("overrides.json")
}
