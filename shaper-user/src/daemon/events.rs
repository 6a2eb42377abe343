//! The kernel's events as events of the daemon: few enough to read.
//!
//! A TCP sender at its limit backs off and comes back several times a second,
//! and the kernel reports each time. So `limited` is said once, and `released`
//! when the client stayed released for a while; what repeats is said again only
//! after a pause. What many clients do at once is told up to a number, and
//! counted from there on.

mod budget;

use self::budget::Budget;
use crate::addr;
use crate::events::bus::Bus;
use crate::events::{self, Direction};
use crate::policy::{Compiled, Mode, Policy};
use jiff::{SignedDuration, Timestamp};
use shaper_common::event::{Event, kind};
use shaper_common::flow::DOWNLOAD;
use shaper_common::key::{Addr, ClientKey};
use shaper_common::stats::{STATS_LEN, Stat};
use std::collections::HashMap;

/// A client counts as released when it was not limited again for so long, in ns.
const RELEASED_AFTER: u64 = 5_000_000_000;
/// The same line of the same client is written again after so long, in ns.
const REPEAT_AFTER: u64 = 60_000_000_000;
/// Clients remembered; with more, events are told as they come.
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
    budget: Budget,
    /// What the kernel counted in the last sample; `None` before the first.
    counted: Option<Counted>,
    /// The tables that were full when one was last.
    full: Vec<String>,
}

/// Counters of the kernel that say more of its events.
#[derive(Clone, Copy)]
struct Counted {
    lost: u64,
    flows_full: u64,
    clients_full: u64,
}

impl Counted {
    const fn of(stats: &[u64; STATS_LEN]) -> Self {
        Self {
            lost: stats[Stat::EventsLost as usize],
            flows_full: stats[Stat::FlowTableFull as usize],
            clients_full: stats[Stat::ClientTableFull as usize],
        }
    }
}

/// The time of a sample, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    /// ktime in ns.
    pub ktime: u64,
    pub wall: Timestamp,
}

impl Clocks {
    /// The wall clock at an earlier ktime.
    fn at(self, ktime: u64) -> Timestamp {
        let ago = i64::try_from(self.ktime.saturating_sub(ktime)).unwrap_or(0);
        self.wall
            .checked_sub(SignedDuration::from_nanos(ago))
            .unwrap_or(self.wall)
    }
}

/// Something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// ktime in ns.
    at: u64,
    client: Addr,
    direction: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Limited,
    /// After so many ns.
    Released(u64),
    Blocked,
    ConnectionRate,
    MaxConnections,
    TableFull,
}

impl What {
    /// Of an event that is not about a limit; `None` for one that this build does
    /// not know.
    const fn of(event: u32) -> Option<Self> {
        match event {
            kind::BLOCKED => Some(Self::Blocked),
            kind::CONNECTION_RATE => Some(Self::ConnectionRate),
            kind::MAX_CONNECTIONS => Some(Self::MaxConnections),
            kind::TABLE_FULL => Some(Self::TableFull),
            _ => None,
        }
    }
}

impl EventLog {
    /// Tells what the events of one sample, and the clients that left, make worth
    /// telling.
    pub fn tell(
        &mut self,
        (events, stats): (&[Event], &[u64; STATS_LEN]),
        left: &[ClientKey],
        clocks: Clocks,
        limited: impl Fn(&ClientKey, u32) -> Option<bool>,
        (compiled, policy): (&Compiled, &Policy),
        bus: &Bus,
    ) {
        let counted = Counted::of(stats);
        let before = self.counted.replace(counted).unwrap_or(counted);
        let more = [
            ("flows", counted.flows_full > before.flows_full),
            ("clients", counted.clients_full > before.clients_full),
        ];
        if more.iter().any(|(_, more)| *more) {
            let full = more.iter().filter(|(_, more)| *more);
            self.full = full.map(|(name, _)| (*name).to_owned()).collect();
        }
        let mut lines = Vec::new();
        for event in events {
            let client = compiled.settings.client(&event.client).addr;
            lines.extend(self.take(&Event { client, ..*event }));
        }
        lines.extend(self.settle(left, clocks.ktime, limited));
        for line in lines {
            if self.budget.take(line.what) {
                bus.publish(self.event(line, compiled, policy), clocks.at(line.at));
            }
        }
        let lost = counted.lost.saturating_sub(before.lost);
        if let Some(left_out) = self.budget.settle(lost, clocks.ktime) {
            bus.publish(events::Event::LeftOut(left_out), clocks.wall);
        }
    }

    fn take(&mut self, event: &Event) -> Option<Line> {
        let key = (event.client, event.direction);
        let line = |what| {
            Some(Line {
                at: event.at,
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
                let Some(what) = What::of(other) else {
                    tracing::debug!(kind = other, "unknown event");
                    return None;
                };
                let key = (event.client, other);
                let again = self
                    .said
                    .get(&key)
                    .is_none_or(|at| event.at.saturating_sub(*at) >= REPEAT_AFTER);
                if again && (self.said.len() < REMEMBERED || self.said.contains_key(&key)) {
                    self.said.insert(key, event.at);
                }
                if again { line(what) } else { None }
            }
        }
    }

    /// Who has stayed released, or has left. The kernel says nothing of a client that
    /// sends nothing any more; `limited` says what the sample makes of it.
    fn settle(
        &mut self,
        left: &[ClientKey],
        now: u64,
        limited: impl Fn(&ClientKey, u32) -> Option<bool>,
    ) -> Vec<Line> {
        self.said
            .retain(|_, at| now.saturating_sub(*at) < REPEAT_AFTER);
        let mut lines = Vec::new();
        self.held.retain(|(client, direction), held| {
            match limited(&ClientKey { addr: *client }, *direction) {
                Some(true) => held.released = None,
                Some(false) if held.released.is_none() => held.released = Some(now),
                _ => {}
            }
            let gone = left.iter().any(|key| key.addr == *client);
            let until = match held.released {
                Some(at) if gone || now.saturating_sub(at) >= RELEASED_AFTER => at,
                None if gone => now,
                _ => return true,
            };
            lines.push(Line {
                at: until,
                client: *client,
                direction: *direction,
                what: What::Released(until.saturating_sub(held.since)),
            });
            false
        });
        lines
    }

    fn event(&self, line: Line, compiled: &Compiled, policy: &Policy) -> events::Event {
        let key = ClientKey { addr: line.client };
        let class = compiled.classes.get(compiled.class_of(&key));
        let rule = class.map_or_else(String::new, |class| class.rule.clone());
        let client = addr::client_name(&line.client, policy.ipv4_prefix, policy.ipv6_prefix);
        let direction = match line.direction {
            DOWNLOAD => Direction::Download,
            _ => Direction::Upload,
        };
        let observed = policy.mode == Mode::Observe;
        match line.what {
            What::Limited => {
                let limit = class.and_then(|class| match direction {
                    Direction::Download => class.download,
                    Direction::Upload => class.upload,
                });
                events::Event::Limited {
                    client,
                    rule,
                    direction,
                    limit_bps: limit.map(|limit| limit.rate.0),
                    observed,
                }
            }
            What::Released(after) => events::Event::Released {
                client,
                rule,
                direction,
                limited_ms: after / 1_000_000,
                observed,
            },
            What::Blocked => events::Event::Blocked { client, rule },
            What::ConnectionRate => events::Event::ConnectionRate { client, rule },
            What::MaxConnections => events::Event::MaxConnections { client, rule },
            What::TableFull => events::Event::TableFull {
                client,
                rule,
                tables: self.full.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::filter::EventFilter;
    use crate::events::text::sentence;
    use crate::testing::at;
    use shaper_common::flow::UPLOAD;

    const SEC: u64 = 1_000_000_000;
    const CLIENT: Addr = [1, 2, 3, 4];

    fn unknown(_: &ClientKey, _: u32) -> Option<bool> {
        None
    }

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
            assert_eq!(log.settle(&[], second * SEC + SEC / 2, unknown), []);
            assert_eq!(taken(&mut log, second * SEC + SEC / 2, kind::LIMITED), None);
        }
        assert_eq!(taken(&mut log, 20 * SEC, kind::RELEASED), None);
        assert_eq!(log.settle(&[], 24 * SEC, unknown), []);
        let lines = log.settle(&[], 25 * SEC, unknown);
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
        assert_eq!(
            log.settle(&left, 3 * SEC, unknown)[0].what,
            What::Released(2 * SEC)
        );
        assert_eq!(log.settle(&left, 4 * SEC, unknown), []);
    }

    #[test]
    fn a_client_that_sends_nothing_any_more_is_released() {
        let mut log = EventLog::default();
        taken(&mut log, SEC, kind::LIMITED);
        assert_eq!(log.settle(&[], 2 * SEC, |_, _| Some(true)), []);
        assert_eq!(log.settle(&[], 3 * SEC, |_, _| Some(false)), []);
        // Held again in between, without a word from the kernel.
        assert_eq!(log.settle(&[], 5 * SEC, |_, _| Some(true)), []);
        for second in 6..11 {
            assert_eq!(log.settle(&[], second * SEC, |_, _| Some(false)), []);
        }
        let lines = log.settle(&[], 11 * SEC, |_, _| Some(false));
        assert_eq!(lines[0].what, What::Released(5 * SEC));
    }

    #[test]
    fn what_repeats_is_said_once_a_minute() {
        let mut log = EventLog::default();
        let blocked = Some(What::Blocked);
        assert_eq!(taken(&mut log, SEC, kind::BLOCKED), blocked);
        assert_eq!(taken(&mut log, 30 * SEC, kind::BLOCKED), None);
        assert_eq!(taken(&mut log, 61 * SEC, kind::BLOCKED), blocked);
        let full = Some(What::TableFull);
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
        log.settle(&[], 100 * SEC, unknown);
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
            let bus = Bus::default();
            let clocks = Clocks {
                ktime: 30 * SEC,
                wall: at(30),
            };
            let log = super::super::logged::logged(|| {
                let sample = (&events[..], &[0; STATS_LEN]);
                EventLog::default().tell(sample, &[], clocks, unknown, (&compiled, &policy), &bus);
            });
            let told = bus.last(&EventFilter::default(), None);
            let told: Vec<_> = told.iter().map(|r| (r.at, sentence(&r.event))).collect();
            (log, told)
        };
        let whom = r#"client="192.0.2.1" rule="default" direction="upload""#;
        let (log, told) = lines("enforce");
        assert_eq!(
            log,
            format!(
                " INFO {} {whom} limit_bps=8000000 observed=false event=\"limited\"\n \
                 INFO {} {whom} limited_ms=14000 observed=false event=\"released\"\n",
                told[0].1, told[1].1
            )
        );
        assert_eq!(
            told,
            [
                (
                    at(1),
                    "192.0.2.1 limited: upload 8.00 Mbit/s, rule default".to_owned()
                ),
                (
                    at(15),
                    "192.0.2.1 released after 14s: upload, rule default".to_owned()
                ),
            ]
        );
        let (log, told) = lines("observe");
        assert!(
            log.starts_with(&format!(
                " INFO 192.0.2.1 over its limit, not held: observing: upload 8.00 Mbit/s, rule \
                 default {whom} limit_bps=8000000"
            )),
            "{log}"
        );
        assert!(
            log.contains(" INFO 192.0.2.1 within its limit again after 14s"),
            "{log}"
        );
        assert!(told[0].1.contains("not held: observing"), "{told:?}");
    }

    #[test]
    fn of_many_clients_some_are_told_and_the_others_counted() {
        let compiled = crate::testing::compiled();
        let policy: Policy = Policy::parse("policy.toml", crate::testing::POLICY).unwrap();
        let bus = Bus::default();
        let mut log = EventLog::default();
        let mut stats = [0; STATS_LEN];
        // As fast as the kernel tells, for a minute, of other clients each time.
        for second in 1..=60 {
            let first = 200 * second as u32;
            let events: Vec<_> = (first..first + 200)
                .map(|n| Event {
                    client: addr::to_kernel(std::net::Ipv4Addr::from(n + (10 << 24)).into()),
                    ..event(second * SEC, kind::LIMITED)
                })
                .collect();
            stats[Stat::EventsLost as usize] += 7;
            stats[Stat::FlowTableFull as usize] += 1;
            let clocks = Clocks {
                ktime: second * SEC,
                wall: at(0),
            };
            log.tell(
                (&events, &stats),
                &[],
                clocks,
                unknown,
                (&compiled, &policy),
                &bus,
            );
        }
        let told = bus.last(&EventFilter::default(), None);
        let limited = told.iter().filter(|r| r.event.name() == "limited").count() as u64;
        let mut left = (0, 0);
        for record in &told {
            if let events::Event::LeftOut(out) = &record.event {
                left = (left.0 + out.limited, left.1 + out.kernel);
            }
        }
        assert!(told.len() <= 650, "{}", told.len());
        // What came after the last of them is told with the next.
        let told_of = limited + left.0;
        assert!((10_000..=12_000).contains(&told_of), "{told_of}");
        assert!((49 * 7..=59 * 7).contains(&left.1), "{left:?}");
        let tables = events::Event::TableFull {
            client: "10.0.0.1".to_owned(),
            rule: "default".to_owned(),
            tables: vec!["flows".to_owned()],
        };
        let line = Line {
            at: 0,
            client: addr::to_kernel("10.0.0.1".parse().unwrap()),
            direction: UPLOAD,
            what: What::TableFull,
        };
        assert_eq!(log.event(line, &compiled, &policy), tables);
    }
}
