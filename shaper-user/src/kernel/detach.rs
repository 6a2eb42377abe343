//! The end: everything of ours goes.

use super::{attach, netlink, place, sys};
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Removes programs, links, pins and qdiscs of this network namespace; says
/// what was there. Nothing to remove is no error.
///
/// # Errors
/// When it is not allowed, or a pin cannot be removed.
pub fn detach() -> Result<Vec<String>> {
    place::check_privileges()?;
    let cookie = sys::netns_cookie()?;
    let pins = place::pins(&place::bpffs()?, cookie);
    let gone = remove_all(&pins, cookie);
    if pins.exists() {
        bail!("{} could not be removed: see what is in it", pins.display());
    }
    Ok(gone)
}

/// [`detach`], where the pins are known.
pub(super) fn remove_all(pins: &Path, netns_cookie: u64) -> Vec<String> {
    let mut gone = Vec::new();
    // Filters on clsact are nowhere pinned: look at every interface.
    for link in netlink::links().unwrap_or_default() {
        gone.extend(attach::remove(
            pins,
            &link.name,
            Some(link.index),
            netns_cookie,
        ));
    }
    let mut objects = 0;
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        objects += usize::from(attach::unpin(&entry.path()).is_ok());
    }
    if objects > 0 {
        gone.push(format!("{objects} pinned maps and links"));
    }
    let _ = fs::remove_dir(pins);
    if let Some(parent) = pins.parent() {
        // Stays while another network namespace has pins there.
        let _ = fs::remove_dir(parent);
    }
    gone.extend(place::unmount_own());
    gone
}

/// Removes everything when a start fails, unless something was there before.
pub(super) struct Fresh(Option<(PathBuf, u64)>);

impl Fresh {
    /// For pins that are about to be made, or were there.
    pub fn new(pins: &Path, netns_cookie: u64) -> Self {
        Self((!pins.exists()).then(|| (pins.to_owned(), netns_cookie)))
    }

    /// The start has succeeded.
    pub fn keep(&mut self) {
        self.0 = None;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some((pins, netns_cookie)) = &self.0 {
            remove_all(pins, *netns_cookie);
        }
    }
}
