//! The end: everything of ours goes.

use super::ebpf::object;
use super::maps::{self, Maps};
use super::{attach, netlink, place, sys, visits};
use anyhow::{Context, Result, anyhow, bail};
use aya::programs::Iter;
use shaper_common::flow::FLOW_PACED;
use shaper_common::names;
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
    // First: what the programs have set on sockets outlives them.
    match release(pins) {
        Ok(0) => {}
        Ok(1) => gone.push("the pacing rate of 1 connection".to_owned()),
        Ok(paced) => gone.push(format!("the pacing rates of {paced} connections")),
        Err(error) => {
            tracing::warn!("open connections keep their pacing rate until they close: {error:#}")
        }
    }
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

/// Gives paced sockets their rate back; returns how many had one.
///
/// Without a generation the programs watch no port and leave every socket alone,
/// so none is paced again after it was visited: a program that runs for a socket
/// meanwhile holds its lock, and the visit comes after it.
fn release(pins: &Path) -> Result<usize> {
    if !pins.join(names::FLOWS).exists() {
        return Ok(0);
    }
    let tables = maps::pinned_tables(pins)?;
    if !maps::foreign(pins, &tables)?.is_empty() {
        return Ok(0);
    }
    let mut ebpf = object(pins, &tables, false)?;
    let mut maps = Maps::new(&mut ebpf)?;
    maps.stop()?;
    let paced = |maps: &Maps| -> Result<usize> {
        let flows = maps.tcp_flows()?;
        let paced = flows
            .iter()
            .filter(|(_, flow)| flow.flags & FLOW_PACED != 0);
        Ok(paced.count())
    };
    let before = paced(&maps)?;
    if before == 0 {
        return Ok(0);
    }
    let program: &mut Iter = ebpf
        .program_mut(names::RELEASE)
        .context("the kernel object has no program for it")?
        .try_into()?;
    visits::load(program).map_err(|error| anyhow!(error))?;
    visits::run(&mut ebpf, names::RELEASE)?;
    Ok(before)
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
