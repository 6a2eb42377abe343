//! Whether every packet was counted: against the interface's own counters.

use super::checks::{Check, Checks};
use super::lives::{Lives, Sum};
use crate::lab::{INTERFACE, Lab};
use crate::netns::InterfaceCounters;
use crate::shaper::Shaper;
use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use shaper_common::flow::Handshake;
use shaper_common::key::FlowKey;
use shaper_common::names;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Of the Ethernet header, which the interface counts too.
const ETHERNET: u64 = 14;
/// The smallest and the largest packet from the IP header on.
const PACKET: [u64; 2] = [40, 1500];

/// The state of everything that counts, at one time.
#[derive(Clone, Debug)]
struct Reading {
    interface: InterfaceCounters,
    /// ICMP in and out, which nobody watches.
    icmp: [u64; 2],
    handshakes: [Sum; 2],
    counters: BTreeMap<String, u64>,
}

impl Reading {
    fn take(lab: &Lab, shaper: &Shaper) -> Result<Self> {
        Ok(Self {
            interface: lab.proxy.counters(INTERFACE)?,
            icmp: icmp(lab)?,
            handshakes: handshakes(shaper)?,
            counters: shaper.status()?.counters,
        })
    }

    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or_default()
    }
}

/// From a quiet beginning to a quiet end.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    before: Reading,
}

impl Ledger {
    /// Begins, once nothing moves.
    pub(super) fn open(lab: &Lab, shaper: &Shaper) -> Result<Self> {
        wait_quiet(lab)?;
        Ok(Self {
            before: Reading::take(lab, shaper)?,
        })
    }

    /// Compares, once nothing moves and `lives` has seen the last of it.
    pub(super) fn close(
        &self,
        lab: &Lab,
        shaper: &Shaper,
        lives: &Lives,
        checks: &mut Checks,
    ) -> Result<()> {
        let after = Reading::take(lab, shaper)?;
        let grew = |name: &str| {
            let (before, after) = (self.before.counter(name), after.counter(name));
            after.saturating_sub(before)
        };
        let total = lives.total();
        let dropped = total[0].dropped.packets + total[1].dropped.packets;
        // Of these only the number is known: of clients without a flow.
        let blocked = (grew("blocked_packets") + grew("limited_packets")).checked_sub(dropped);
        let refused = grew("syn_rate_dropped") + grew("syn_max_dropped");
        let (was, is) = (self.before.interface, after.interface);
        let sides = [
            Side {
                check: Check::LedgerUp,
                wire: Sum {
                    bytes: is.rx_bytes - was.rx_bytes,
                    packets: is.rx_packets - was.rx_packets,
                },
                lost: 0,
                unsized_packets: blocked.map(|blocked| blocked + refused),
            },
            Side {
                check: Check::LedgerDown,
                wire: Sum {
                    bytes: is.tx_bytes - was.tx_bytes,
                    packets: is.tx_packets - was.tx_packets,
                },
                lost: is.tx_dropped - was.tx_dropped,
                unsized_packets: Some(0),
            },
        ];
        for (index, (side, direction)) in sides.into_iter().zip(["upload", "download"]).enumerate()
        {
            let untracked = Sum {
                bytes: grew(&format!("untracked_{direction}_bytes")),
                packets: grew(&format!("untracked_{direction}_packets")),
            };
            let (before, after_) = (self.before.handshakes[index], after.handshakes[index]);
            let handshakes = Sum {
                bytes: after_.bytes.saturating_sub(before.bytes),
                packets: after_.packets.saturating_sub(before.packets),
            };
            let icmp = after.icmp[index] - self.before.icmp[index];
            let parts = [
                ("passed", total[index].passed),
                ("dropped by a limit or block", total[index].dropped),
                ("of no flow", untracked),
                ("of handshakes never completed", handshakes),
            ];
            side.judge(direction, &parts, icmp, checks);
        }
        Ok(())
    }
}

struct Side {
    check: Check,
    /// By the interface.
    wire: Sum,
    /// Counted by us and then dropped by the interface.
    lost: u64,
    /// Dropped before there was a flow: a block, a connection limit. `None`: less
    /// than nothing.
    unsized_packets: Option<u64>,
}

impl Side {
    fn judge(self, direction: &str, parts: &[(&str, Sum)], icmp: u64, checks: &mut Checks) {
        let counted = parts
            .iter()
            .fold(Sum::default(), |sum, (_, part)| sum + *part);
        let wire = Sum {
            bytes: self.wire.bytes - ETHERNET * self.wire.packets,
            packets: self.wire.packets,
        };
        let unsized_packets = self.unsized_packets.unwrap_or_default();
        let packets = counted.packets + unsized_packets + icmp;
        // What the interface dropped was counted by us and is not in its bytes.
        let seen = wire.packets + self.lost;
        let (more, less) = (unsized_packets + icmp, self.lost);
        let missing = i128::from(wire.bytes) - i128::from(counted.bytes);
        let range = i128::from(PACKET[0] * more) - i128::from(PACKET[1] * less)
            ..=i128::from(PACKET[1] * more) - i128::from(PACKET[0] * less);
        let held = self.unsized_packets.is_some() && packets == seen && range.contains(&missing);
        let mut number = format!(
            "interface: {} packets, {} bytes from the IP header on",
            wire.packets, wire.bytes
        );
        for (name, part) in parts {
            number += &format!(
                "\n{:>12} packets {:>14} bytes {name}",
                part.packets, part.bytes
            );
        }
        number += &format!(
            "\n{unsized_packets:>12} packets {:>14}       dropped before there was a flow (not sized)",
            ""
        );
        number += &format!(
            "\n{:>12} packets {:>14} bytes missing; {} dropped by the interface, {icmp} of ICMP",
            i128::from(seen) - i128::from(packets),
            missing,
            self.lost
        );
        checks.that(self.check, held, || {
            format!(
                "{direction}: {seen} packets seen, {packets} counted; {missing} bytes missing, \
                 {range:?} explained"
            )
        });
        checks.number(self.check, number);
    }
}

/// Waits until the interface has counted nothing for a second.
pub(super) fn wait_quiet(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut last = lab.proxy.counters(INTERFACE)?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = lab.proxy.counters(INTERFACE)?;
        if now == last {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "there is still traffic: {last:?}, then {now:?}"
        );
        last = now;
    }
}

/// What handshakes moved that were not completed, by what is kept of them.
fn handshakes(shaper: &Shaper) -> Result<[Sum; 2]> {
    let map = MapData::from_pin(shaper.pin(names::HANDSHAKES)?)?;
    let map: HashMap<MapData, FlowKey, Handshake> = Map::LruHashMap(map).try_into()?;
    let mut sums = [Sum::default(); 2];
    for entry in map.iter() {
        let (_, handshake) = entry.context("reading the handshakes")?;
        for (index, sum) in sums.iter_mut().enumerate() {
            sum.bytes += handshake.bytes[index];
            sum.packets += handshake.packets[index];
        }
    }
    Ok(sums)
}

/// ICMP and ICMPv6 messages in and out.
fn icmp(lab: &Lab) -> Result<[u64; 2]> {
    lab.proxy.enter(|| {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
        let v6 = fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{INTERFACE}"))?;
        let lines: Vec<Vec<&str>> = v4
            .lines()
            .filter(|line| line.starts_with("Icmp: "))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let of_v4 = |name: &str| -> Option<u64> {
            let at = lines.first()?.iter().position(|field| *field == name)?;
            lines.get(1)?.get(at)?.parse().ok()
        };
        let of_v6 = |name: &str| -> Option<u64> {
            let line = v6.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let sum = |v4, v6| of_v4(v4).unwrap_or_default() + of_v6(v6).unwrap_or_default();
        Ok([sum("InMsgs", "Icmp6InMsgs"), sum("OutMsgs", "Icmp6OutMsgs")])
    })
}
