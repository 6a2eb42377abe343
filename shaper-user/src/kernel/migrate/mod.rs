//! What an earlier version left, or tables of another size, moved to where it
//! fits, while the programs run.
//!
//! New maps are made beside the old ones and filled. Then the programs behind the
//! links are replaced, one by one, by programs of the new maps; a packet meets
//! the old or the new program, and is counted in one table. Last, when no program
//! uses the old tables any more, their counters are added to the new ones, once
//! for each entry, and the new maps take the old ones' names. [`stage`] says how
//! far it is, so a start goes on where another one was killed.

mod convert;
mod stage;

use self::convert::{Entry, readable};
use self::stage::Stage;
pub(super) use self::stage::{discard, write_version};
use super::ebpf::EbpfKernel;
use super::maps::{self, Maps, Misfit};
use super::sys::{insert_new, ktime, read_raw, wait_for_programs, write_map};
use crate::policy::Tables;
use crate::steps::{self, Step};
use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use shaper_common::bucket::debt;
use shaper_common::control::{Control, op};
use shaper_common::flow::{Client, Flow};
use shaper_common::key::{ClientKey, FlowKey};
use shaper_common::names;
use shaper_common::stats::STATS_LEN;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Written together: if one is of another layout, all are made anew.
const POLICY: [&str; 6] = [
    names::CLASSES,
    names::RULES,
    names::SETTINGS,
    names::PORTS,
    names::GENERATION,
    names::INTERFACES,
];

/// What the pins are to this build.
pub(super) enum Found {
    /// Nothing, or all of it as it is.
    Fits,
    /// Something has to move.
    Moves(Migration),
    /// It cannot be read: why.
    Unreadable(String),
}

/// One under way.
pub(super) struct Migration {
    pins: PathBuf,
    next: PathBuf,
    /// Of the pins that are left behind.
    version: u32,
    moved: Vec<&'static str>,
    /// Goes on with what another start began.
    resumed: bool,
    /// The buckets that the entries of the new tables began with.
    flows: HashMap<FlowKey, [u64; 2]>,
    clients: HashMap<ClientKey, [u64; 2]>,
    /// Entries that the new tables have no room for.
    left: u64,
    /// When programs began to use the new tables, ktime in ns.
    since: u64,
}

/// Looks at the pins, and repairs what needs no program. `tables` becomes what
/// the tables to load hold, where another start has begun to move them: then the
/// ones that are wanted come afterwards.
///
/// # Errors
/// When a pin cannot be opened.
pub(super) fn inspect(pins: &Path, tables: &mut Tables) -> Result<Found> {
    match stage::stage(pins)? {
        Stage::None => {}
        Stage::Copying => {
            tracing::info!("removing the tables of a migration that had not begun");
            discard(pins)?;
        }
        Stage::Switching => return resume(pins, tables),
        Stage::Settling => {
            tracing::info!("finishing a migration: its tables get their names");
            stage::settle(pins)?;
        }
    }
    let version = stage::version(pins)?.unwrap_or(0);
    if version > names::ABI {
        return Ok(Found::Unreadable(format!(
            "a newer version left maps of version {version}, this one reads up to {}",
            names::ABI
        )));
    }
    let misfits = maps::misfits(|name| pins.join(name), tables)?;
    let unreadable = unreadable(version, &misfits, pins)?;
    if !unreadable.is_empty() {
        return Ok(Found::Unreadable(format!(
            "another version left maps of a layout that this one cannot read ({})",
            unreadable.join(", ")
        )));
    }
    if misfits.is_empty() {
        return Ok(Found::Fits);
    }
    let mut moved: Vec<_> = misfits.into_iter().map(|(name, _)| name).collect();
    if moved.iter().any(|name| POLICY.contains(name)) {
        moved.retain(|name| !POLICY.contains(name));
        moved.extend(POLICY);
    }
    let next = stage::begin(pins)?;
    Ok(Found::Moves(Migration::new(
        pins, next, version, moved, false,
    )))
}

/// Names of the tables that no entry could be taken from.
fn unreadable(
    version: u32,
    misfits: &[(&'static str, Misfit)],
    pins: &Path,
) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for (name, misfit) in misfits {
        if *misfit == Misfit::Entries {
            continue;
        }
        let map = MapData::from_pin(pins.join(name))?;
        let info = map.info()?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        let reads = match *name {
            names::FLOWS | names::UDP_FLOWS => {
                key == size_of::<FlowKey>() && readable::<Flow>(version, value)
            }
            names::CLIENTS | names::UDP_CLIENTS => {
                key == size_of::<ClientKey>() && readable::<Client>(version, value)
            }
            // Nothing is taken from them, or they are written anew.
            _ => true,
        };
        if !reads {
            found.push(*name);
        }
    }
    Ok(found)
}

/// Goes on with the tables that programs use already.
fn resume(pins: &Path, tables: &mut Tables) -> Result<Found> {
    let next = stage::next(pins);
    let moved: Vec<_> = names::PINNED_MAPS
        .into_iter()
        .filter(|name| next.join(name).exists())
        .collect();
    let path = |name: &str| place(pins, &next, &moved, name);
    let found = maps::pinned_tables(path)?;
    let version = stage::version(&next)?;
    if version != Some(names::ABI) || !maps::misfits(path, &found)?.is_empty() {
        return Ok(Found::Unreadable(
            "another version was killed while it moved its tables".to_owned(),
        ));
    }
    tracing::info!("going on with a migration that was interrupted");
    *tables = found;
    let version = stage::version(pins)?.unwrap_or(0);
    Ok(Found::Moves(Migration::new(
        pins, next, version, moved, true,
    )))
}

fn place(pins: &Path, next: &Path, moved: &[&'static str], name: &str) -> PathBuf {
    if moved.contains(&name) {
        next.join(name)
    } else {
        pins.join(name)
    }
}

impl Migration {
    fn new(
        pins: &Path,
        next: PathBuf,
        version: u32,
        moved: Vec<&'static str>,
        resumed: bool,
    ) -> Self {
        Self {
            pins: pins.to_owned(),
            next,
            version,
            moved,
            resumed,
            flows: HashMap::new(),
            clients: HashMap::new(),
            left: 0,
            since: 0,
        }
    }

    /// Where the map of this name is pinned until the end.
    pub fn path(&self, name: &str) -> PathBuf {
        place(&self.pins, &self.next, &self.moved, name)
    }

    /// Whether the policy's maps are new: it must be written before a program
    /// uses them.
    pub fn moves_policy(&self) -> bool {
        self.moved.contains(&names::GENERATION)
    }

    /// Whether a counter has the index that it had: new ones come at the end, since
    /// there are versions.
    const fn counts_alike(&self) -> bool {
        self.version > 0
    }

    /// Names of what moves, for a person.
    pub fn what(&self) -> String {
        self.moved.join(", ")
    }

    fn old(&self, name: &str) -> Result<MapData> {
        let path = self.pins.join(name);
        MapData::from_pin(&path)
            .with_context(|| format!("opening the pinned map {}", path.display()))
    }

    /// Fills the new tables, just before the programs are switched.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn copy(&mut self, maps: &mut Maps) -> Result<()> {
        if self.resumed {
            self.look_at_new(maps)?;
            self.since = ktime();
            return Ok(());
        }
        for name in self.moved.clone() {
            match name {
                names::FLOWS | names::UDP_FLOWS => {
                    let buckets = self.copy_table::<Flow>(name, maps)?;
                    self.flows.extend(buckets);
                }
                names::CLIENTS | names::UDP_CLIENTS => {
                    let buckets = self.copy_table::<Client>(name, maps)?;
                    self.clients.extend(buckets);
                }
                names::GENERATION if self.pins.join(name).exists() => {
                    let old = Array::<_, u32>::try_from(Map::Array(self.old(name)?))?;
                    maps.continue_from(old.get(&0, 0)?)?;
                }
                names::HANDSHAKES | names::SYN_RATES | names::MEMBERS => {
                    tracing::info!("{name} starts over: it remembers the last seconds only");
                }
                names::OVERFLOW => {
                    tracing::warn!("{name} starts over: those that found no room owe nothing");
                }
                names::GROUPS => {
                    tracing::warn!("{name} starts over: groups of clients owe nothing");
                }
                names::STATS if !self.counts_alike() => {
                    tracing::warn!("{name} starts over: its counters had another order");
                }
                _ => {}
            }
        }
        steps::done(Step::Copied);
        stage::switching(&self.pins)?;
        self.since = ktime();
        Ok(())
    }

    fn copy_table<E: Entry>(&mut self, name: &str, maps: &Maps) -> Result<Vec<(E::Key, [u64; 2])>> {
        let new = maps.table(name).context("a table that is none")?;
        let room = new.info()?.max_entries() as usize;
        let mut entries = self.entries::<E>(name)?;
        if entries.len() > room {
            entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.worth()));
            let left = entries.len() - room;
            tracing::warn!(
                "{name} has {} entries and now room for {room}: the {left} that were quiet for longest are no longer tracked",
                entries.len()
            );
            self.left += left as u64;
        }
        // Buckets of all: what was left out is not put back later.
        let buckets = entries
            .iter()
            .map(|(key, entry)| (*key, entry.buckets()))
            .collect();
        entries.truncate(room);
        for (_, entry) in &mut entries {
            *entry = entry.begun();
        }
        write_map(new.fd().as_fd(), &entries).with_context(|| format!("filling {name}"))?;
        Ok(buckets)
    }

    /// The entries of an old table.
    fn entries<E: Entry>(&self, name: &str) -> Result<Vec<(E::Key, E)>> {
        let old = self.old(name)?;
        let info = old.info()?;
        let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
        let (keys, values) = read_raw(old.fd().as_fd(), key_size, value_size)
            .with_context(|| format!("reading {name}"))?;
        let keys = keys.chunks_exact(key_size);
        let values = values.chunks_exact(value_size);
        keys.zip(values)
            .map(|(key, value)| {
                let value = E::read(self.version, value)
                    .with_context(|| format!("an entry of {name} cannot be read"))?;
                Ok((bytemuck::pod_read_unaligned(key), value))
            })
            .collect()
    }

    /// After a crash the buckets that the new tables began with are not known;
    /// what they stand at is near enough, since old and new began alike.
    fn look_at_new(&mut self, maps: &mut Maps) -> Result<()> {
        let sample = maps.sample()?;
        let flows = sample.flows.into_iter();
        self.flows = flows.map(|(key, flow)| (key, flow.buckets())).collect();
        let clients = sample.clients.into_iter();
        self.clients = clients.map(|(key, c)| (key, c.buckets())).collect();
        Ok(())
    }

    /// Adds what the old tables have, now that no program counts in them, and
    /// gives the new ones their names.
    ///
    /// # Errors
    /// When a map cannot be read, or bpffs refuses; then the next start goes on.
    pub fn finish(mut self, kernel: &EbpfKernel) -> Result<()> {
        wait_for_programs();
        for name in self.moved.clone() {
            match name {
                names::FLOWS | names::UDP_FLOWS => {
                    let began = std::mem::take(&mut self.flows);
                    self.merge::<Flow>(name, &began, kernel)?;
                    self.flows = began;
                }
                names::CLIENTS | names::UDP_CLIENTS => {
                    let began = std::mem::take(&mut self.clients);
                    self.merge::<Client>(name, &began, kernel)?;
                    self.clients = began;
                }
                names::GROUPS => {
                    tracing::warn!("{name} starts over: groups of clients owe nothing");
                }
                names::STATS if self.counts_alike() => self.merge_stats(kernel)?,
                _ => {}
            }
        }
        steps::done(Step::Merged);
        stage::settling(&self.pins)?;
        stage::settle(&self.pins)?;
        tracing::info!(
            "moved {} flows and {} clients to new tables ({}){}",
            self.flows.len(),
            self.clients.len(),
            self.what(),
            match self.left {
                0 => String::new(),
                left => format!(", without {left} that found no room"),
            }
        );
        Ok(())
    }

    fn merge<E: Entry>(
        &mut self,
        name: &str,
        began: &HashMap<E::Key, [u64; 2]>,
        kernel: &EbpfKernel,
    ) -> Result<()> {
        let new = kernel.maps.table(name).context("a table that is none")?;
        for (key, entry) in self.entries::<E>(name)? {
            let known = began.get(&key).copied();
            let mut request = entry.request(&key);
            request.value = self.since;
            for (traffic, began) in request.traffic.iter_mut().zip(known.unwrap_or_default()) {
                traffic.tat = debt(traffic.tat, began.max(self.since));
            }
            // Not there: it came into the old table after the copy, or found no
            // room.
            if !kernel.request(&request)? && (known.is_none() || self.resumed) {
                match insert_new(new.fd().as_fd(), &key, &entry.whole()) {
                    Ok(true) => {}
                    Ok(false) => drop(kernel.request(&request)?),
                    Err(error) => {
                        tracing::debug!("{name}: {error}");
                        self.left += 1;
                    }
                }
            }
            steps::done(Step::MergedOne);
        }
        Ok(())
    }

    /// Each counter is taken out of the old array before it is added: a crash
    /// in between loses one, and doubles none.
    fn merge_stats(&self, kernel: &EbpfKernel) -> Result<()> {
        let map = self.old(names::STATS)?;
        let len = map.info()?.max_entries().min(u32::try_from(STATS_LEN)?);
        let mut old = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(map))?;
        for index in 0..len {
            let values = old.get(&index, 0)?;
            let sum: u64 = values.iter().sum();
            if sum == 0 {
                continue;
            }
            old.set(index, PerCpuValues::try_from(vec![0; values.len()])?, 0)?;
            kernel.request(&Control {
                op: op::STAT,
                index,
                value: sum,
                ..Control::default()
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shaper_common::names::ABI;
    use shaper_common::stats::Stat;

    /// The counters of version 1, by index.
    const COUNTERS: [&str; 29] = [
        "truncated_packets",
        "malformed_packets",
        "fragment_packets",
        "fragment_bytes",
        "untracked_upload_packets",
        "untracked_upload_bytes",
        "untracked_download_packets",
        "untracked_download_bytes",
        "observed_packets",
        "observed_bytes",
        "limited_packets",
        "limited_bytes",
        "blocked_packets",
        "syn_rate_dropped",
        "syn_max_dropped",
        "flow_table_full",
        "client_table_full",
        "overflow_packets",
        "overflow_bytes",
        "flows_recovered",
        "flows_opened",
        "flows_closed",
        "clients_recreated",
        "events_sent",
        "events_lost",
        "window_updates",
        "window_updates_lost",
        "pacing_refused",
        "internal_errors",
    ];

    #[test]
    fn counters_are_added_by_the_index_that_they_had() {
        let now = Stat::ALL.iter().map(|stat| stat.name());
        assert!(
            now.take(COUNTERS.len()).eq(COUNTERS),
            "new counters go to the end; another order needs a version after {ABI}, and \
             `counts_alike` to know it"
        );
    }
}
