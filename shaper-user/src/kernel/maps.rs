//! The pinned maps: writing a policy generation, reading everything.

use super::Sample;
use super::sys::{ktime, read_map};
use crate::policy::{Compiled, Tables};
use crate::steps::{self, Step};
use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapInfo, PerCpuArray, RingBuf};
use aya::{Ebpf, Pod};
use shaper_common::class::{Class, MAX_CLASSES, PORT_WORDS, Settings, bank, port_bit};
use shaper_common::event::Event;
use shaper_common::flow::{Client, Flow};
use shaper_common::group::{Group, MAX_GROUPS, MAX_MEMBERS, Member};
use shaper_common::key::{ClientKey, FlowKey, GENERATION_BITS, RuleKey};
use shaper_common::names;
use shaper_common::stats::{STATS_LEN, Stat};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The maps that the daemon reads and writes.
pub struct Maps {
    flows: MapData,
    udp_flows: MapData,
    clients: MapData,
    udp_clients: MapData,
    overflow: Array<MapData, Client>,
    groups: Array<MapData, Group>,
    /// Of the policy in force.
    group_count: u32,
    classes: Array<MapData, Class>,
    rules: LpmTrie<MapData, RuleKey, u32>,
    settings: Array<MapData, Settings>,
    ports: Array<MapData, u64>,
    generation: Array<MapData, u32>,
    interfaces: HashMap<MapData, u32, u32>,
    stats: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    /// As the last sample found them.
    pub entries: Entries,
}

/// Entries of the tables that grow with traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// TCP flows.
    pub flows: usize,
    /// UDP flows.
    pub udp_flows: usize,
    /// Clients with TCP flows.
    pub clients: usize,
    /// Clients with UDP only.
    pub udp_clients: usize,
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the kernel object has no map {name}: it is not of this version"))
}

/// The map itself, without aya's types on top: for batched reads.
fn data(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match take(ebpf, name)? {
        Map::HashMap(data) | Map::LruHashMap(data) => Ok(data),
        _ => bail!("the map {name} is not a hash map"),
    }
}

/// The ring of window updates, for a thread of its own.
///
/// # Errors
/// When the object has none.
pub fn window_updates(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>> {
    Ok(take(ebpf, names::WINDOW_UPDATES)?.try_into()?)
}

/// The same, where it is pinned.
///
/// # Errors
/// When it is not there.
pub fn pinned_updates(pins: &Path) -> Result<RingBuf<MapData>> {
    let map = MapData::from_pin(pins.join(names::WINDOW_UPDATES))?;
    Ok(Map::RingBuf(map).try_into()?)
}

impl Maps {
    /// Takes the maps out of the loaded object.
    ///
    /// # Errors
    /// When one is missing or of another type.
    pub fn new(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            flows: data(ebpf, names::FLOWS)?,
            udp_flows: data(ebpf, names::UDP_FLOWS)?,
            clients: data(ebpf, names::CLIENTS)?,
            udp_clients: data(ebpf, names::UDP_CLIENTS)?,
            overflow: take(ebpf, names::OVERFLOW)?.try_into()?,
            groups: take(ebpf, names::GROUPS)?.try_into()?,
            group_count: 0,
            classes: take(ebpf, names::CLASSES)?.try_into()?,
            rules: take(ebpf, names::RULES)?.try_into()?,
            settings: take(ebpf, names::SETTINGS)?.try_into()?,
            ports: take(ebpf, names::PORTS)?.try_into()?,
            generation: take(ebpf, names::GENERATION)?.try_into()?,
            interfaces: take(ebpf, names::INTERFACES)?.try_into()?,
            stats: take(ebpf, names::STATS)?.try_into()?,
            events: take(ebpf, names::EVENTS)?.try_into()?,
            entries: Entries::default(),
        })
    }

    /// The policy generation in force; 0 before the first.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn generation(&self) -> Result<u32> {
        self.generation
            .get(&0, 0)
            .context("reading the policy generation")
    }

    /// The settings in force; `None` before the first generation.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn settings(&self) -> Result<Option<Settings>> {
        let generation = self.generation()?;
        if generation == 0 {
            return Ok(None);
        }
        Ok(Some(
            self.settings
                .get(&bank(generation), 0)
                .context("reading the settings")?,
        ))
    }

    /// Writes a policy beside the one in force and switches to it by one word.
    ///
    /// # Errors
    /// When a map cannot be written; then the policy in force stays.
    pub fn write(&mut self, compiled: &Compiled, netns_cookie: u64) -> Result<u32> {
        let old = self.generation()?;
        // 0 says that there is no policy yet.
        let new = match old {
            0 => self.unused_generation()?,
            _ => old.checked_add(1).unwrap_or(2),
        };
        if compiled.classes.len() > MAX_CLASSES as usize {
            bail!(
                "{} classes are more than the {MAX_CLASSES} there is room for",
                compiled.classes.len()
            );
        }
        // What a failed attempt at this generation may have left.
        self.remove_rules(|generation| generation != old)?;
        let base = bank(new) * MAX_CLASSES;
        for (index, named) in (base..).zip(&compiled.classes) {
            self.classes
                .set(index, named.class, 0)
                .context("writing the classes")?;
        }
        steps::done(Step::Classes);
        let mut words = vec![0_u64; PORT_WORDS as usize];
        for port in &compiled.ports {
            let (word, bit) = port_bit(0, *port);
            words[word as usize] |= bit;
        }
        for (index, word) in (bank(new) * PORT_WORDS..).zip(&words) {
            self.ports
                .set(index, word, 0)
                .context("writing the ports")?;
        }
        let settings = Settings {
            netns_cookie,
            ..compiled.settings
        };
        self.settings
            .set(bank(new), settings, 0)
            .context("writing the settings")?;
        for (addr, bits, class) in &compiled.rules {
            let key = RuleKey {
                generation: new.to_be(),
                addr: *addr,
            };
            self.rules
                .insert(&Key::new(GENERATION_BITS + bits, key), class, 0)
                .context("writing the rules: is the table of prefixes full?")?;
        }
        steps::done(Step::Rules);
        self.generation
            .set(0, new, 0)
            .context("switching to the new policy")?;
        steps::done(Step::InForce);
        self.group_count = u32::try_from(compiled.groups.len())?.min(MAX_GROUPS);
        // The switch is made: what stays now goes with the next one.
        if let Err(error) = self.remove_rules(|generation| generation != new) {
            tracing::warn!("{error:#}");
        }
        steps::done(Step::OldRules);
        Ok(new)
    }

    /// A generation that no client remembers a class of: a `detach` that was
    /// interrupted may have left them without a policy.
    fn unused_generation(&self) -> Result<u32> {
        let clients = [&self.clients, &self.udp_clients];
        let mut newest = 0;
        for map in clients {
            for (_, client) in read_map::<ClientKey, Client>(map.fd().as_fd())? {
                newest = newest.max(client.generation);
            }
        }
        Ok(newest.checked_add(1).unwrap_or(2))
    }

    /// Goes on from the generation of another table of policies.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(super) fn continue_from(&mut self, generation: u32) -> Result<()> {
        self.generation
            .set(0, generation, 0)
            .context("writing the policy generation")
    }

    /// The table of this name, of those that grow with traffic.
    pub(super) fn table(&self, name: &str) -> Option<&MapData> {
        match name {
            names::FLOWS => Some(&self.flows),
            names::UDP_FLOWS => Some(&self.udp_flows),
            names::CLIENTS => Some(&self.clients),
            names::UDP_CLIENTS => Some(&self.udp_clients),
            _ => None,
        }
    }

    /// Puts no policy in force: the programs watch no port from now on.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn stop(&mut self) -> Result<()> {
        self.generation
            .set(0, 0, 0)
            .context("taking the policy out of force")
    }

    fn remove_rules(&mut self, gone: impl Fn(u32) -> bool) -> Result<()> {
        let mut keys = Vec::new();
        for key in self.rules.keys() {
            let key = key.context("reading the rules")?;
            let data = key.data();
            if gone(u32::from_be(data.generation)) {
                keys.push(key);
            }
        }
        for key in keys {
            self.rules
                .remove(&key)
                .context("removing the rules of another generation")?;
        }
        Ok(())
    }

    /// Says of an interface whether XDP shields it; `None` forgets it.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_interface(&mut self, index: u32, flags: Option<u32>) -> Result<()> {
        match flags {
            Some(flags) => self
                .interfaces
                .insert(index, flags, 0)
                .context("writing the interfaces"),
            None => {
                // It may never have been there.
                let _ = self.interfaces.remove(&index);
                Ok(())
            }
        }
    }

    /// Forgets every other interface: those of daemons before.
    pub fn keep_interfaces(&mut self, keep: &[u32]) {
        let known: Vec<_> = self.interfaces.keys().flatten().collect();
        for index in known.iter().filter(|index| !keep.contains(index)) {
            let _ = self.interfaces.remove(index);
        }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn sample(&mut self) -> Result<Sample> {
        let now = ktime();
        let mut flows = read_map(self.flows.fd().as_fd()).context("reading the flows")?;
        let tcp_flows = flows.len();
        flows.extend(
            read_map::<FlowKey, Flow>(self.udp_flows.fd().as_fd())
                .context("reading the UDP flows")?,
        );
        let mut clients = read_map(self.clients.fd().as_fd()).context("reading the clients")?;
        let tcp_clients = clients.len();
        clients.extend(
            read_map::<ClientKey, Client>(self.udp_clients.fd().as_fd())
                .context("reading the UDP clients")?,
        );
        let overflow = self
            .overflow
            .get(&0, 0)
            .context("reading what found no room")?;
        let groups = (0..self.group_count)
            .map(|index| self.groups.get(&index, 0))
            .collect::<Result<_, _>>()
            .context("reading the groups")?;
        self.entries = Entries {
            flows: tcp_flows,
            udp_flows: flows.len() - tcp_flows,
            clients: tcp_clients,
            udp_clients: clients.len() - tcp_clients,
        };
        let mut stats = [0; STATS_LEN];
        for (index, total) in (0..).zip(&mut stats) {
            let values = self.stats.get(&index, 0).context("reading the counters")?;
            *total = values.iter().sum();
        }
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            if item.len() == size_of::<Event>() {
                events.push(bytemuck::pod_read_unaligned(&item));
            }
        }
        Ok(Sample {
            now,
            flows,
            clients,
            overflow,
            groups,
            stats,
            events,
        })
    }

    /// One counter.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn stat(&self, stat: Stat) -> Result<u64> {
        let values = self
            .stats
            .get(&(stat as u32), 0)
            .context("reading the counters")?;
        Ok(values.iter().sum())
    }

    /// TCP flows only.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn tcp_flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        read_map(self.flows.fd().as_fd()).context("reading the flows")
    }

    /// Clients with TCP flows only.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn tcp_clients(&self) -> Result<Vec<(ClientKey, Client)>> {
        read_map(self.clients.fd().as_fd()).context("reading the clients")
    }
}

/// How a pinned map differs from what this build wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Only in how much it holds.
    Entries,
    /// In its keys or values.
    Layout,
}

/// Compares a pinned map with what this build expects: aya takes any map that
/// it finds at the path.
fn fits<K: Pod, V: Pod>(info: &MapInfo, max_entries: u32) -> Option<Misfit> {
    if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
        return Some(Misfit::Layout);
    }
    holds(info, max_entries)
}

fn holds(info: &MapInfo, max_entries: u32) -> Option<Misfit> {
    (info.max_entries() != max_entries).then_some(Misfit::Entries)
}

/// What the pinned tables hold; the default where there is none.
///
/// # Errors
/// When a pin cannot be opened.
pub fn pinned_tables(path: impl Fn(&str) -> PathBuf) -> Result<Tables> {
    let mut tables = Tables::default();
    for (name, entries) in [
        (names::FLOWS, &mut tables.flows),
        (names::UDP_FLOWS, &mut tables.udp_flows),
        (names::CLIENTS, &mut tables.clients),
        (names::UDP_CLIENTS, &mut tables.udp_clients),
    ] {
        let path = path(name);
        if fs::exists(&path)? {
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("opening the pinned map {}", path.display()))?;
            *entries = info.max_entries();
        }
    }
    Ok(tables)
}

/// The pinned maps that are not what this build wants: those of another version,
/// and tables of another size. `path` says where each is.
///
/// # Errors
/// When a pin cannot be opened.
pub fn misfits(
    path: impl Fn(&str) -> PathBuf,
    tables: &Tables,
) -> Result<Vec<(&'static str, Misfit)>> {
    let mut misfits = Vec::new();
    for name in names::PINNED_MAPS {
        let path = path(name);
        if !fs::exists(&path)? {
            continue;
        }
        let info = MapInfo::from_pin(&path)
            .with_context(|| format!("opening the pinned map {}", path.display()))?;
        let misfit = match name {
            names::FLOWS => fits::<FlowKey, Flow>(&info, tables.flows),
            names::UDP_FLOWS => fits::<FlowKey, Flow>(&info, tables.udp_flows),
            names::CLIENTS => fits::<ClientKey, Client>(&info, tables.clients),
            names::UDP_CLIENTS => fits::<ClientKey, Client>(&info, tables.udp_clients),
            names::OVERFLOW => fits::<u32, Client>(&info, 1),
            names::HANDSHAKES => {
                fits::<FlowKey, shaper_common::flow::Handshake>(&info, names::MAX_HANDSHAKES)
            }
            names::SYN_RATES => fits::<ClientKey, u64>(&info, names::MAX_SYN_RATES),
            names::GROUPS => fits::<u32, Group>(&info, MAX_GROUPS),
            names::MEMBERS => fits::<ClientKey, Member>(&info, MAX_MEMBERS),
            names::CLASSES => fits::<u32, Class>(&info, 2 * MAX_CLASSES),
            names::SETTINGS => fits::<u32, Settings>(&info, 2),
            names::PORTS => fits::<u32, u64>(&info, 2 * PORT_WORDS),
            names::GENERATION => fits::<u32, u32>(&info, 1),
            names::INTERFACES => fits::<u32, u32>(&info, names::MAX_INTERFACES),
            names::STATS => fits::<u32, u64>(&info, u32::try_from(STATS_LEN)?),
            names::EVENT_GATE => fits::<u32, u64>(&info, 1),
            names::RULES => holds(&info, names::MAX_RULES),
            names::WINDOW_UPDATES => holds(&info, names::UPDATE_RING_BYTES),
            _ => holds(&info, names::EVENT_RING_BYTES),
        };
        misfits.extend(misfit.map(|misfit| (name, misfit)));
    }
    Ok(misfits)
}
