//! What daemons before left on interfaces: taken over, or taken off.

use super::attach::{LINK_HOOKS, clsact_mark, link_pin, remove, remove_mark, unpin};
use super::netlink::Link;
use super::sys::link_ifindex;
use std::fs;
use std::path::{Path, PathBuf};

/// Takes everything of ours off all interfaces but those to keep: what a daemon
/// before left where its policy named others, or on what has gone since. Says what
/// was there.
pub fn sweep(pins: &Path, links: &[Link], keep: &[u32], netns_cookie: u64) -> Vec<String> {
    let mut gone = Vec::new();
    // Filters on clsact are nowhere pinned: look at every interface.
    for link in links.iter().filter(|link| !keep.contains(&link.index)) {
        gone.extend(remove(pins, link, true, netns_cookie));
    }
    for (pin, owner, hook) in link_pins(pins) {
        let kept = owner.parse().is_ok_and(|index| keep.contains(&index));
        if !kept && unpin(&pin).is_ok() {
            gone.push(format!("{hook} program of an interface that is gone"));
        }
    }
    let marks = clsact_mark(0, netns_cookie);
    let marks = marks.parent().and_then(|marks| fs::read_dir(marks).ok());
    for mark in marks.into_iter().flatten().flatten() {
        let name = mark.file_name();
        let index = name
            .to_str()
            .and_then(|name| name.strip_prefix(&format!("{netns_cookie}-")))
            .and_then(|index| index.parse::<u32>().ok());
        if index.is_some_and(|index| !keep.contains(&index)) {
            remove_mark(&mark.path());
        }
    }
    gone
}

/// Gives the pins of a version that named them by the interface's name their
/// names of today.
pub fn rename_pins(pins: &Path) {
    for (pin, owner, hook) in link_pins(pins) {
        if owner.parse::<u32>().is_ok() {
            continue;
        }
        let renamed = match link_ifindex(&pin) {
            Ok(index) if index > 0 => fs::rename(&pin, link_pin(pins, index, &hook)),
            _ => unpin(&pin),
        };
        if let Err(error) = renamed {
            tracing::warn!("{} cannot be renamed or removed: {error}", pin.display());
        }
    }
}

/// The pins of links on interfaces: path, whose it is, hook.
fn link_pins(pins: &Path) -> Vec<(PathBuf, String, String)> {
    let entries = fs::read_dir(pins).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (owner, hook) = name.strip_prefix("link_")?.rsplit_once('_')?;
            let ours = LINK_HOOKS.contains(&hook);
            ours.then(|| (entry.path(), owner.to_owned(), hook.to_owned()))
        })
        .collect()
}
