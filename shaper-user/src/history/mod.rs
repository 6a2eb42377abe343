//! What happened: the last hours by the minute, in a bounded store.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`record`] | a minute as it is stored |
//! | [`collect`] | from the sampler's counters to minutes |
//! | [`store`] | the file, bounded by age and by size |
//! | [`keeper`] | the thread that owns the store |
//! | [`query`] | from stored minutes to an answer |
//!
//! The thread that reads the kernel only adds up, once a minute for what is
//! there and at once for what goes; it never waits for a disk. What is written is
//! whole minutes, each in one transaction: a kill loses the open minute at most.

pub mod collect;
pub mod keeper;
pub mod query;
pub mod record;
pub mod store;

pub use keeper::{Keeper, Recorder, start};

use crate::policy::History;
use std::path::{Path, PathBuf};

/// The store in the state directory.
pub const FILE: &str = "history.redb";

/// What the store is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// Its directory is made where it is not there.
    pub make_directory: bool,
    /// What is older goes.
    pub hours: u32,
    /// Bytes that the file may have.
    pub max_size: u64,
}

impl Settings {
    /// What the policy says; why there is no history, where there is none.
    ///
    /// Without a path the history is kept where the state directory is there
    /// already, so that a daemon run by hand leaves no files behind.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn of(policy: &History, state: &Path) -> Result<Self, String> {
        if !policy.enabled {
            return Err("the policy says `enabled = false` in [history]".to_owned());
        }
        let path = match &policy.path {
            Some(path) => path.clone(),
            None if state.is_dir() => state.join(FILE),
            None => {
                return Err(format!(
                    "there is no {}; make it and start the daemon again, or set `path` in \
                     [history]",
                    state.display()
                ));
            }
        };
        Ok(Self {
            path,
            make_directory: policy.path.is_some(),
            hours: policy.hours,
            max_size: policy.max_size,
        })
    }
}

#[cfg(test)]
mod tests;
