//! The steps of a start, a reload, an upgrade and a detach: wherever a crash
//! would leave something half done.
//!
//! Nothing watches them but a test's own program (`tests/src/bin/killed.rs`),
//! which ends itself at one of them. In `shaper` passing a step is one load.

use std::sync::OnceLock;

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Step {
    /// The control socket is bound, the lock taken
    Locked,
    /// The directory of the pins is made
    Directory,
    /// The version of the pins is written
    Version,
    /// The maps are pinned, the programs loaded
    Loaded,
    /// It is marked whose the clsact qdisc will be
    QdiscMarked,
    /// The clsact qdisc is there, without filters
    Qdisc,
    /// A program is on its hook, its link not pinned yet
    Linked,
    /// The shield's link is pinned, or has the new program
    Shield,
    /// A classifier's link is pinned, or has the new program
    Classifier,
    /// The sock_ops link is pinned, or has the new program
    SockOps,
    /// The classes of a policy are written beside those in force
    Classes,
    /// The rules too: all but the switch
    Rules,
    /// The policy is in force, the old one's rules are still there
    InForce,
    /// The policy before is gone
    OldRules,
    /// The connections of a client are counted anew
    Recounted,
    /// Open connections are adopted
    Adopted,
    /// The directory of the tables to come is made
    Next,
    /// Their entries are copied, nobody uses them yet
    Copied,
    /// It is written down that programs are about to use them
    Switching,
    /// The first entry that the old tables gained meanwhile is added
    MergedOne,
    /// All of them are
    Merged,
    /// It is written down that only names are left to change
    Settling,
    /// A table has its final name
    Renamed,
    /// The directory of the tables to come is gone
    NextGone,
    /// No policy is in force, sockets have their pacing rate back
    Released,
    /// A link is off its hook, its pin still there
    Unhooked,
    /// A pin is removed
    Unpinned,
    /// The clsact qdisc is removed, its mark still there
    QdiscGone,
    /// The directory of the pins is removed
    DirectoryGone,
    /// What was set at runtime is removed
    OverridesGone,
}

static WATCHER: OnceLock<fn(Step)> = OnceLock::new();

/// Has `watcher` called at every step from now on. The first one stays.
pub fn watch(watcher: fn(Step)) {
    let _ = WATCHER.set(watcher);
}

/// A step is done.
pub(crate) fn done(step: Step) {
    if let Some(watcher) = WATCHER.get() {
        watcher(step);
    }
}
