//! What must be gone afterwards: programs, maps, links, pins, namespaces.

use crate::netns;
use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kernel objects of one daemon.
#[derive(Clone, Debug, Default)]
pub struct Owned {
    /// Program ids.
    pub programs: BTreeSet<u32>,
    /// Map ids.
    pub maps: BTreeSet<u32>,
    /// Link ids.
    pub links: BTreeSet<u32>,
}

impl Owned {
    /// Everything that a process holds: what its descriptors refer to, the
    /// programs that use its maps, and the links of its programs. So other
    /// daemons on the machine don't matter.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn by(pid: u32) -> Result<Self> {
        let mut owned = Self::default();
        let directory = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&directory).context(directory)? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            for line in text.lines() {
                let Some((key, value)) = line.split_once(':') else {
                    continue;
                };
                let Ok(id) = value.trim().parse() else {
                    continue;
                };
                match key {
                    "prog_id" => owned.programs.insert(id),
                    "map_id" => owned.maps.insert(id),
                    "link_id" => owned.links.insert(id),
                    _ => false,
                };
            }
        }
        for program in loaded_programs().flatten() {
            let maps = program.map_ids().ok().flatten().unwrap_or_default();
            if owned.programs.contains(&program.id())
                || maps.iter().any(|map| owned.maps.contains(map))
            {
                owned.programs.insert(program.id());
                owned.maps.extend(maps);
            }
        }
        for link in loaded_links().flatten() {
            if owned.programs.contains(&link.program_id()) {
                owned.links.insert(link.id());
            }
        }
        Ok(owned)
    }

    /// What of it is still there once the kernel has had two seconds to free
    /// it, in words.
    #[must_use]
    pub fn remaining(&self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let remaining = self.present();
            if remaining.is_empty() || Instant::now() > deadline {
                return remaining;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn present(&self) -> Vec<String> {
        let mut present = Vec::new();
        for program in loaded_programs().flatten() {
            if self.programs.contains(&program.id()) {
                let name = program.name_as_str().unwrap_or_default().to_owned();
                present.push(format!("program {} {name}", program.id()));
            }
        }
        for map in loaded_maps().flatten() {
            if self.maps.contains(&map.id()) {
                let name = map.name_as_str().unwrap_or_default().to_owned();
                present.push(format!("map {} {name}", map.id()));
            }
        }
        for link in loaded_links().flatten() {
            if self.links.contains(&link.id()) {
                present.push(format!("link {}", link.id()));
            }
        }
        present
    }
}

/// Files below a directory, of bpffs for one.
#[must_use]
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Namespaces that this process made and that are still there.
#[must_use]
pub fn namespaces() -> Vec<String> {
    netns::existing()
        .into_iter()
        .filter(|(_, pid)| *pid == std::process::id())
        .map(|(name, _)| format!("namespace {name}"))
        .collect()
}
