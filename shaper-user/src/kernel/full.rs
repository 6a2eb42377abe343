//! Full tables: what found no room, and whether there is room again.

use super::Sample;
use super::ebpf::EbpfKernel;
use super::maps::Entries;
use super::sockets::{self, Ask};
use crate::model;
use anyhow::Result;
use aya::maps::MapInfo;
use shaper_common::control::op;
use shaper_common::flow::{Client, FULL_CLIENTS, FULL_FLOWS, Traffic};
use shaper_common::key::FlowKey;
use shaper_common::names;
use shaper_common::stats::Stat;
use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the last samples said of what found no room.
#[derive(Default)]
pub struct Full {
    pub(super) overflow: model::Overflow,
    /// The shared client of the sample before, and when that was.
    before: Option<(u64, Client)>,
    /// The kernel's count of flows without room when they were last looked for.
    seen: Option<u64>,
    next: Option<Instant>,
}

impl Full {
    /// Takes in a sample.
    fn observe(&mut self, sample: &Sample) {
        let shared = &sample.overflow;
        let (then, before) = self.before.unwrap_or((sample.now, *shared));
        let elapsed = sample.now.saturating_sub(then);
        let [upload, download] =
            [0, 1].map(|n| direction(&shared.traffic[n], &before.traffic[n], elapsed));
        self.overflow = model::Overflow {
            connections: shared.connections.into(),
            clients_full: shared.flags & FULL_CLIENTS != 0,
            upload,
            download,
        };
        self.before = Some((sample.now, *shared));
    }

    /// For people.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.overflow.connections {
            0 => {}
            1 => warnings.push(
                "the table of flows was full: 1 connection is held with its client, by dropping \
                 alone (`max_flows` in the policy)"
                    .to_owned(),
            ),
            more => warnings.push(format!(
                "the table of flows was full: {more} connections are held with their clients, \
                 by dropping alone (`max_flows` in the policy)"
            )),
        }
        if self.overflow.clients_full {
            warnings.push(
                "the table of clients is full: clients without room share one bucket \
                 (`max_clients` in the policy)"
                    .to_owned(),
            );
        }
        warnings
    }
}

fn direction(now: &Traffic, before: &Traffic, elapsed: u64) -> model::Direction {
    let bits = u128::from(now.bytes.saturating_sub(before.bytes)) * 8 * 1_000_000_000;
    let rate = bits.checked_div(elapsed.into()).unwrap_or(0);
    model::Direction {
        bytes: now.bytes,
        packets: now.packets,
        rate_bps: u64::try_from(rate).unwrap_or(u64::MAX),
        dropped_bytes: now.dropped_bytes,
        dropped_packets: now.dropped_packets,
    }
}

impl EbpfKernel {
    /// Counts the connections without a flow anew, and gives them one where there
    /// is room again. The kernel counts by itself; this is for those that were
    /// open before, and for what it may have missed.
    pub(super) fn look_for_room(&mut self, sample: &Sample) -> Result<()> {
        self.full.observe(sample);
        let began = Instant::now();
        let turned_away = sample.stats[Stat::FlowTableFull as usize];
        let clients_full = self.full.overflow.clients_full;
        if self.full.overflow.connections == 0
            && self.full.seen == Some(turned_away)
            && !clients_full
            || self.full.next.is_some_and(|next| began < next)
        {
            return Ok(());
        }
        self.full.seen = Some(turned_away);
        let mut lacking = self.without_flow()?;
        let (tables, entries) = (&self.options.tables, &self.maps.entries);
        let mut room = 0;
        if entries.flows < tables.flows as usize {
            room |= FULL_FLOWS;
        }
        if entries.clients < tables.clients as usize {
            room |= FULL_CLIENTS;
        }
        if lacking > 0 && room & FULL_FLOWS != 0 {
            lacking = lacking.saturating_sub(self.adopt()?);
        }
        let lacking = u32::try_from(lacking).unwrap_or(u32::MAX);
        let value = u64::from(room) << 32 | u64::from(lacking);
        self.control(op::OVERFLOW, FlowKey::default(), value)?;
        // At most a twentieth of the time goes into looking.
        let pause = Duration::from_millis(900).max(20 * began.elapsed());
        self.full.next = Some(Instant::now() + pause);
        Ok(())
    }

    /// How many connections have no flow. Others come and go meanwhile: it is one
    /// that was open before the flows were read, and is open still.
    fn without_flow(&self) -> Result<usize> {
        let sockets = || sockets::open(self.watches(), Ask::Addresses);
        let mut lacking: HashSet<FlowKey> = sockets()?.iter().map(|socket| socket.key).collect();
        for (key, _) in self.maps.tcp_flows()? {
            lacking.remove(&key);
        }
        if lacking.is_empty() {
            return Ok(0);
        }
        let open = sockets()?;
        let open = open.iter().filter(|socket| lacking.contains(&socket.key));
        Ok(open.count())
    }
}

/// Every pinned map: how full it is, where that was counted, and what memory it
/// takes.
pub(super) fn tables(pins: &Path, entries: &Entries) -> Vec<model::Table> {
    let table = |name: &&str| {
        let info = MapInfo::from_pin(pins.join(name)).ok()?;
        let counted = match *name {
            names::FLOWS => Some(entries.flows),
            names::UDP_FLOWS => Some(entries.udp_flows),
            names::CLIENTS => Some(entries.clients),
            names::UDP_CLIENTS => Some(entries.udp_clients),
            _ => None,
        };
        Some(model::Table {
            name: name.to_lowercase(),
            entries: counted.map(|n| n as u64),
            max: info.max_entries().into(),
            bytes: memory(&info),
        })
    };
    names::PINNED_MAPS.iter().filter_map(table).collect()
}

/// `memlock` of proc(5): exact from 6.4 on, close to it before.
fn memory(info: &MapInfo) -> Option<u64> {
    let fd = info.fd().ok()?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_found_no_room_is_warned_of_while_it_is_there() {
        let mut full = Full::default();
        let mut sample = Sample::default();
        full.observe(&sample);
        assert!(full.warnings().is_empty());
        sample.now = 1_000_000_000;
        sample.overflow.connections = 3;
        sample.overflow.flags = FULL_CLIENTS;
        sample.overflow.traffic[0].bytes = 1_000;
        full.observe(&sample);
        let warnings = full.warnings();
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("3 connections") && warnings[0].contains("max_flows"));
        assert!(warnings[1].contains("max_clients"));
        assert_eq!(full.overflow.upload.rate_bps, 8_000);
        sample.now *= 2;
        sample.overflow.connections = 0;
        sample.overflow.flags = 0;
        full.observe(&sample);
        assert!(full.warnings().is_empty());
        assert_eq!(full.overflow.upload.rate_bps, 0);
    }
}
