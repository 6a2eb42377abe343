//! What each client was seen to have counted, from its first packet to when it is
//! forgotten, and again when it comes back.

use super::checks::{Check, Checks};
use ipnet::IpNet;
use shaper_user::model::{Client, Clients};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::{Add, AddAssign};
use std::time::{Duration, Instant};

/// A client without connections is remembered for 60 s after its last packet. A
/// poll and a sample may be between what happens and what is seen.
const NOT_BEFORE: Duration = Duration::from_secs(55);
const GONE_AFTER_MS: u64 = 75_000;
/// A flow of UDP ends 60 s after its last packet, and only then they begin.
const GONE_AFTER_UDP_MS: u64 = 135_000;

/// Bytes and packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            packets: self.packets + other.packets,
        }
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// One direction of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) passed: Sum,
    pub(super) dropped: Sum,
}

impl AddAssign for Passed {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.dropped += other.dropped;
    }
}

#[derive(Clone, Debug)]
struct Life {
    /// Up and down, as last seen.
    counted: [Passed; 2],
    /// When it was last seen with a connection.
    connected: Option<Instant>,
    connections: u64,
}

/// All clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives {
    now: HashMap<String, Life>,
    over: [Passed; 2],
    /// Clients that were forgotten.
    pub(super) forgotten: u64,
}

fn counted(row: &Client) -> [Passed; 2] {
    [row.upload.traffic, row.download.traffic].map(|of| Passed {
        passed: Sum {
            bytes: of.bytes,
            packets: of.packets,
        },
        dropped: Sum {
            bytes: of.dropped_bytes,
            packets: of.dropped_packets,
        },
    })
}

/// Whether a row is that of an address, aggregated or not.
fn named(client: &str, address: IpAddr) -> bool {
    client.parse() == Ok(address)
        || client
            .parse::<IpNet>()
            .is_ok_and(|prefix| prefix.contains(&address))
}

/// Whether anything became less.
fn fell(before: &[Passed; 2], now: &[Passed; 2]) -> bool {
    before.iter().zip(now).any(|(before, now)| {
        let pairs = [(before.passed, now.passed), (before.dropped, now.dropped)];
        pairs
            .iter()
            .any(|(b, n)| n.bytes < b.bytes || n.packets < b.packets)
    })
}

impl Lives {
    /// Takes in an answer to `clients`; `settled` where the daemon had time to
    /// forget, `udp` those who sent UDP.
    pub(super) fn see(
        &mut self,
        clients: &Clients,
        settled: bool,
        udp: &HashSet<IpAddr>,
        checks: &mut Checks,
    ) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.now);
        for row in &clients.clients {
            let counted = counted(row);
            let known = before.get(&row.client);
            // Only a row for what was set at runtime, of a client that is not there.
            let absent = counted == <[Passed; 2]>::default() && row.connections == 0;
            if absent && known.is_none() {
                continue;
            }
            if let Some(life) = known
                && fell(&life.counted, &counted)
            {
                self.end(&row.client, life, now, checks);
            }
            if absent {
                continue;
            }
            let longest = if udp.iter().any(|sent| named(&row.client, *sent)) {
                GONE_AFTER_UDP_MS
            } else {
                GONE_AFTER_MS
            };
            if settled && row.connections == 0 && row.idle_ms > longest {
                checks.that(Check::Left, false, || {
                    format!(
                        "{} is still there, silent for {} ms",
                        row.client, row.idle_ms
                    )
                });
            }
            if let Some(life) = known {
                checks.that(
                    Check::Kept,
                    life.connections == 0 || row.connections == 0 || !fell(&life.counted, &counted),
                    || {
                        format!(
                            "{}: {counted:?} after {:?}, with connections",
                            row.client, life.counted
                        )
                    },
                );
            }
            let connected = if row.connections > 0 {
                Some(now)
            } else {
                known.and_then(|life| life.connected)
            };
            self.now.insert(
                row.client.clone(),
                Life {
                    counted,
                    connected,
                    connections: row.connections,
                },
            );
        }
        for (client, life) in &before {
            if !clients.clients.iter().any(|row| row.client == *client) {
                self.end(client, life, now, checks);
            }
        }
    }

    fn end(&mut self, client: &str, life: &Life, now: Instant, checks: &mut Checks) {
        for (over, counted) in self.over.iter_mut().zip(life.counted) {
            *over += counted;
        }
        self.forgotten += 1;
        if let Some(connected) = life.connected {
            let after = now.duration_since(connected);
            checks.that(Check::Left, after >= NOT_BEFORE, || {
                format!("{client} was forgotten {after:.0?} after its last connection was seen")
            });
        }
    }

    /// All that was ever counted, up and down.
    pub(super) fn total(&self) -> [Passed; 2] {
        let mut total = self.over;
        for life in self.now.values() {
            for (total, counted) in total.iter_mut().zip(life.counted) {
                *total += counted;
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use shaper_user::model::{Direction, Limited};

    fn clients(rows: &[(&str, u64, u64)]) -> Clients {
        let limited = |bytes| Limited {
            traffic: Direction {
                bytes,
                packets: bytes / 100,
                ..Direction::default()
            },
            ..Limited::default()
        };
        Clients {
            at: Timestamp::UNIX_EPOCH,
            interval_ms: 1000,
            matched: 0,
            clients: rows
                .iter()
                .map(|(client, connections, bytes)| Client {
                    client: (*client).to_owned(),
                    rule: "default".to_owned(),
                    connections: *connections,
                    exempt: false,
                    blocked: false,
                    upload: limited(*bytes),
                    download: limited(2 * bytes),
                    age_ms: 0,
                    idle_ms: 0,
                    runtime: None,
                    quota: None,
                    servers: Vec::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn what_was_forgotten_still_counts() {
        let (mut lives, mut checks) = (Lives::default(), Checks::new(false));
        lives.see(
            &clients(&[("a", 0, 1000), ("b", 0, 500)]),
            true,
            &HashSet::new(),
            &mut checks,
        );
        lives.see(
            &clients(&[("b", 0, 700), ("c", 0, 0)]),
            true,
            &HashSet::new(),
            &mut checks,
        );
        lives.see(
            &clients(&[("a", 1, 300), ("b", 0, 0)]),
            true,
            &HashSet::new(),
            &mut checks,
        );
        let [up, down] = lives.total();
        assert_eq!(up.passed.bytes, 1000 + 700 + 300);
        assert_eq!(down.passed.bytes, 2 * (1000 + 700 + 300));
        assert_eq!(lives.forgotten, 2);
        assert_eq!(checks.failed(), 0);
    }

    #[test]
    fn losing_counters_with_a_connection_is_a_failure() {
        let (mut lives, mut checks) = (Lives::default(), Checks::new(false));
        lives.see(
            &clients(&[("a", 1, 1000)]),
            true,
            &HashSet::new(),
            &mut checks,
        );
        lives.see(
            &clients(&[("a", 1, 300)]),
            true,
            &HashSet::new(),
            &mut checks,
        );
        // The counters, and that it was forgotten at once.
        assert_eq!(checks.failed(), 2);
        lives.see(&clients(&[]), true, &HashSet::new(), &mut checks);
        assert_eq!(checks.failed(), 3);
    }
}
