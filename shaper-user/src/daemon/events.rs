//! The kernel's events as lines of the log: few enough to read.
//!
//! A TCP sender at its limit backs off and comes back several times a second,
//! and the kernel reports each time. So `limited` is said once, and `released`
//! when the client stayed released for a while; what repeats is said again only
//! after a pause.

use crate::addr;
use crate::policy::{Compiled, Mode, Policy};
use crate::render::units;
use shaper_common::event::{Event, kind};
use shaper_common::flow::DOWNLOAD;
use shaper_common::key::{Addr, ClientKey};
use std::collections::HashMap;

/// A client counts as released when it was not limited again for so long, in ns.
const RELEASED_AFTER: u64 = 5_000_000_000;
/// The same line of the same client is written again after so long, in ns.
const REPEAT_AFTER: u64 = 60_000_000_000;
/// Clients remembered; with more, lines are written as the events come.
const REMEMBERED: usize = 4096;

/// A client that was reported as limited.
#[derive(Clone, Copy)]
struct Held {
    since: u64,
    /// When the kernel last said that it was released.
    released: Option<u64>,
}

/// What was said of whom.
#[derive(Default)]
pub(super) struct EventLog {
    held: HashMap<(Addr, u32), Held>,
    said: HashMap<(Addr, u32), u64>,
}

/// A line to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    client: Addr,
    direction: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Limited,
    /// After so many ns.
    Released(u64),
    Other(u32),
}

impl EventLog {
    /// Writes what the events of one sample, read at `now` (ktime in ns), and
    /// the clients that left make worth saying.
    pub fn log(
        &mut self,
        events: &[Event],
        left: &[ClientKey],
        now: u64,
        compiled: &Compiled,
        policy: &Policy,
    ) {
        for event in events {
            let client = compiled.settings.client(&event.client).addr;
            if let Some(line) = self.take(&Event { client, ..*event }) {
                write(line, compiled, policy);
            }
        }
        for line in self.settle(left, now) {
            write(line, compiled, policy);
        }
    }

    fn take(&mut self, event: &Event) -> Option<Line> {
        let key = (event.client, event.direction);
        let line = |what| {
            Some(Line {
                client: event.client,
                direction: event.direction,
                what,
            })
        };
        match event.kind {
            kind::LIMITED => {
                if let Some(held) = self.held.get_mut(&key) {
                    held.released = None;
                    return None;
                }
                if self.held.len() < REMEMBERED {
                    let held = Held {
                        since: event.at,
                        released: None,
                    };
                    self.held.insert(key, held);
                }
                line(What::Limited)
            }
            kind::RELEASED => {
                self.held.get_mut(&key)?.released = Some(event.at);
                None
            }
            other => {
                let key = (event.client, other);
                let again = self
                    .said
                    .get(&key)
                    .is_none_or(|at| event.at.saturating_sub(*at) >= REPEAT_AFTER);
                if again && (self.said.len() < REMEMBERED || self.said.contains_key(&key)) {
                    self.said.insert(key, event.at);
                }
                if again {
                    line(What::Other(other))
                } else {
                    None
                }
            }
        }
    }

    /// Who has stayed released, or has left.
    fn settle(&mut self, left: &[ClientKey], now: u64) -> Vec<Line> {
        self.said
            .retain(|_, at| now.saturating_sub(*at) < REPEAT_AFTER);
        let mut lines = Vec::new();
        self.held.retain(|(client, direction), held| {
            let gone = left.iter().any(|key| key.addr == *client);
            let until = match held.released {
                Some(at) if gone || now.saturating_sub(at) >= RELEASED_AFTER => at,
                None if gone => now,
                _ => return true,
            };
            lines.push(Line {
                client: *client,
                direction: *direction,
                what: What::Released(until.saturating_sub(held.since)),
            });
            false
        });
        lines
    }
}

fn write(line: Line, compiled: &Compiled, policy: &Policy) {
    let key = ClientKey { addr: line.client };
    let class = compiled.classes.get(compiled.class_of(&key));
    let rule = class.map_or("", |class| class.rule.as_str());
    let client = addr::client_name(&line.client, policy.ipv4_prefix, policy.ipv6_prefix);
    let direction = if line.direction == DOWNLOAD {
        "download"
    } else {
        "upload"
    };
    let observing = policy.mode == Mode::Observe;
    match line.what {
        What::Limited => {
            let limit = class.and_then(|class| match line.direction {
                DOWNLOAD => class.download,
                _ => class.upload,
            });
            let limit = limit.map(|limit| units::rate(limit.rate.0));
            let what = if observing {
                "over its limit, not held: observing"
            } else {
                "limited"
            };
            tracing::info!(client, rule, direction, limit, "{what}");
        }
        What::Released(after) => {
            let after = units::duration(after / 1_000_000);
            let what = if observing {
                "within its limit again"
            } else {
                "released"
            };
            tracing::info!(client, rule, direction, after, "{what}");
        }
        What::Other(kind::BLOCKED) => tracing::info!(client, rule, "blocked"),
        What::Other(kind::CONNECTION_RATE) => {
            tracing::info!(client, rule, "dropped a SYN above the connection rate");
        }
        What::Other(kind::MAX_CONNECTIONS) => {
            tracing::info!(client, rule, "dropped a SYN: too many connections");
        }
        What::Other(kind::TABLE_FULL) => {
            tracing::warn!(
                client,
                rule,
                "a table is full: held with its client, or with all others without room"
            );
        }
        What::Other(other) => tracing::debug!(client, kind = other, "unknown event"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shaper_common::flow::UPLOAD;

    const SEC: u64 = 1_000_000_000;
    const CLIENT: Addr = [1, 2, 3, 4];

    fn event(at: u64, kind: u32) -> Event {
        Event {
            at,
            client: CLIENT,
            kind,
            direction: UPLOAD,
        }
    }

    fn taken(log: &mut EventLog, at: u64, kind: u32) -> Option<What> {
        log.take(&event(at, kind)).map(|line| line.what)
    }

    #[test]
    fn a_flapping_client_is_limited_once_and_released_once() {
        let mut log = EventLog::default();
        assert_eq!(taken(&mut log, SEC, kind::LIMITED), Some(What::Limited));
        for second in 1..20 {
            assert_eq!(taken(&mut log, second * SEC, kind::RELEASED), None);
            assert_eq!(log.settle(&[], second * SEC + SEC / 2), []);
            assert_eq!(taken(&mut log, second * SEC + SEC / 2, kind::LIMITED), None);
        }
        assert_eq!(taken(&mut log, 20 * SEC, kind::RELEASED), None);
        assert_eq!(log.settle(&[], 24 * SEC), []);
        let lines = log.settle(&[], 25 * SEC);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].what, What::Released(19 * SEC));
        assert_eq!(
            taken(&mut log, 30 * SEC, kind::LIMITED),
            Some(What::Limited)
        );
    }

    #[test]
    fn a_client_that_leaves_is_released() {
        let mut log = EventLog::default();
        taken(&mut log, SEC, kind::LIMITED);
        let left = [ClientKey { addr: CLIENT }];
        assert_eq!(log.settle(&left, 3 * SEC)[0].what, What::Released(2 * SEC));
        assert_eq!(log.settle(&left, 4 * SEC), []);
    }

    #[test]
    fn what_repeats_is_said_once_a_minute() {
        let mut log = EventLog::default();
        let blocked = Some(What::Other(kind::BLOCKED));
        assert_eq!(taken(&mut log, SEC, kind::BLOCKED), blocked);
        assert_eq!(taken(&mut log, 30 * SEC, kind::BLOCKED), None);
        assert_eq!(taken(&mut log, 61 * SEC, kind::BLOCKED), blocked);
        let full = Some(What::Other(kind::TABLE_FULL));
        assert_eq!(taken(&mut log, 61 * SEC, kind::TABLE_FULL), full);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut log = EventLog::default();
        for n in 0..2 * REMEMBERED as u32 {
            for kind in [kind::LIMITED, kind::BLOCKED] {
                let event = Event {
                    client: [n, 0, 0, 0],
                    ..event(SEC, kind)
                };
                assert!(log.take(&event).is_some());
            }
        }
        assert_eq!((log.held.len(), log.said.len()), (REMEMBERED, REMEMBERED));
        log.settle(&[], 100 * SEC);
        assert_eq!(log.said.len(), 0);
    }

    #[test]
    fn lines_name_the_limit_and_tell_observing_from_holding() {
        let lines = |mode: &str| {
            let text = format!(
                "ports = [443]\nmode = \"{mode}\"\n[default]\nupload = {{ rate = \"8mbit\" }}"
            );
            let policy: Policy = Policy::parse("policy.toml", &text).unwrap();
            let compiled = policy.compile(&[]).unwrap();
            let client = addr::to_kernel("192.0.2.1".parse().unwrap());
            let event = |at, kind| Event {
                client,
                ..event(at, kind)
            };
            let events = [event(SEC, kind::LIMITED), event(15 * SEC, kind::RELEASED)];
            super::super::logged::logged(|| {
                EventLog::default().log(&events, &[], 30 * SEC, &compiled, &policy);
            })
        };
        let whom = r#"client="192.0.2.1" rule="default" direction="upload""#;
        assert_eq!(
            lines("enforce"),
            format!(
                " INFO limited {whom} limit=\"8.00 Mbit/s\"\n INFO released {whom} after=\"14s\"\n"
            )
        );
        assert_eq!(
            lines("observe"),
            format!(
                " INFO over its limit, not held: observing {whom} limit=\"8.00 Mbit/s\"\n \
                 INFO within its limit again {whom} after=\"14s\"\n"
            )
        );
    }
}
