//! The last events, and those who follow them. Whoever is slow holds nobody up:
//! there is one list for all, each reads on from where it was, and what has been
//! pushed out in between is missed and counted.

use super::filter::EventFilter;
use super::{Batch, Event, Record};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Events that are remembered.
pub const KEPT: usize = 10_000;
/// Events that a follower is given at once.
const BATCH: usize = 256;

/// Where events go. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Bus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    /// The number of the last event.
    last: watch::Sender<u64>,
    kept: usize,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<Arc<Record>>,
    last: u64,
}

impl Default for Bus {
    /// With [`KEPT`] events.
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl Bus {
    /// That remembers so many events.
    #[must_use]
    pub fn keeping(kept: usize) -> Self {
        Self(Arc::new(Inner {
            ring: Mutex::default(),
            last: watch::Sender::new(0),
            kept,
        }))
    }

    /// Writes an event to the log and to those who follow.
    pub fn publish(&self, event: Event, at: Timestamp) {
        event.log();
        self.record(event, at);
    }

    /// Only to those who follow: its line in the log is written already.
    pub fn record(&self, event: Event, at: Timestamp) {
        let mut ring = self.ring();
        ring.last += 1;
        let seq = ring.last;
        if ring.records.len() >= self.0.kept {
            ring.records.pop_front();
        }
        ring.records.push_back(Arc::new(Record { at, seq, event }));
        drop(ring);
        self.0.last.send_replace(seq);
    }

    /// How many events there have been.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ring().last
    }

    /// The last `most` events that match, all of them without it.
    #[must_use]
    pub fn last(&self, filter: &EventFilter, most: Option<usize>) -> Vec<Arc<Record>> {
        let all: Vec<_> = self.ring().records.iter().cloned().collect();
        newest(all, filter, most)
    }

    /// Everything that comes from now on, and before it the last `most` events.
    #[must_use]
    pub fn follow(&self, filter: EventFilter, most: Option<usize>) -> Follower {
        let (all, next) = {
            let ring = self.ring();
            let all = match most {
                Some(_) => ring.records.iter().cloned().collect(),
                None => Vec::new(),
            };
            (all, ring.last + 1)
        };
        Follower {
            seen: self.0.last.subscribe(),
            first: Some(newest(all, &filter, most)),
            bus: self.clone(),
            filter,
            next,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn newest(
    mut all: Vec<Arc<Record>>,
    filter: &EventFilter,
    most: Option<usize>,
) -> Vec<Arc<Record>> {
    all.retain(|record| filter.matches(&record.event));
    if let Some(most) = most {
        all.drain(..all.len().saturating_sub(most));
    }
    all
}

/// Somebody who reads events as they come.
#[derive(Debug)]
pub struct Follower {
    bus: Bus,
    filter: EventFilter,
    seen: watch::Receiver<u64>,
    /// Until it has been given.
    first: Option<Vec<Arc<Record>>>,
    /// The number of the next event to read.
    next: u64,
}

impl Follower {
    /// Waits for events. The first answer is at once, and may have none. Nothing is
    /// lost when this is given up.
    pub async fn batch(&mut self) -> Batch {
        if let Some(events) = self.first.take() {
            return Batch { missed: 0, events };
        }
        loop {
            self.seen.mark_unchanged();
            let batch = self.take();
            if batch.missed > 0 || !batch.events.is_empty() {
                return batch;
            }
            // The sender lives in `self.bus`.
            let _ = self.seen.changed().await;
        }
    }

    fn take(&mut self) -> Batch {
        let mut batch = Batch::default();
        loop {
            let some: Vec<_> = {
                let ring = self.bus.ring();
                let oldest = ring.last + 1 - ring.records.len() as u64;
                if self.next < oldest {
                    batch.missed += oldest - self.next;
                    self.next = oldest;
                }
                let skip = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
                ring.records
                    .iter()
                    .skip(skip)
                    .take(BATCH)
                    .cloned()
                    .collect()
            };
            self.next += some.len() as u64;
            let none = some.is_empty();
            batch.events.extend(
                some.into_iter()
                    .filter(|record| self.filter.matches(&record.event)),
            );
            if none || !batch.events.is_empty() || batch.missed > 0 {
                return batch;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;
    use std::time::Duration;

    fn gone(number: u64) -> Event {
        Event::InterfaceGone {
            interface: format!("eth{number}"),
        }
    }

    fn seqs(events: &[Arc<Record>]) -> Vec<u64> {
        events.iter().map(|record| record.seq).collect()
    }

    fn all() -> EventFilter {
        EventFilter::default()
    }

    #[test]
    fn the_last_are_kept() {
        let bus = Bus::keeping(3);
        assert_eq!(bus.last(&all(), None), []);
        for n in 1..=5 {
            bus.record(gone(n), at(0));
        }
        assert_eq!(seqs(&bus.last(&all(), None)), [3, 4, 5]);
        assert_eq!(seqs(&bus.last(&all(), Some(2))), [4, 5]);
        assert_eq!(seqs(&bus.last(&all(), Some(9))), [3, 4, 5]);
        let one = EventFilter::parse("eth4").unwrap();
        assert_eq!(seqs(&bus.last(&one, Some(2))), [4]);
        assert_eq!(bus.count(), 5);
    }

    #[tokio::test]
    async fn a_follower_gets_each_once_and_in_order() {
        let bus = Bus::default();
        for n in 1..=3 {
            bus.record(gone(n), at(0));
        }
        let mut new = bus.follow(all(), None);
        let mut two = bus.follow(all(), Some(2));
        assert_eq!(new.batch().await, Batch::default());
        assert_eq!(seqs(&two.batch().await.events), [2, 3]);
        let writer = tokio::spawn({
            let bus = bus.clone();
            async move {
                for n in 4..=1003 {
                    bus.record(gone(n), at(0));
                    if n % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        for follower in [&mut new, &mut two] {
            let mut got = Vec::new();
            while got.len() < 1000 {
                let batch = follower.batch().await;
                assert_eq!(batch.missed, 0);
                assert!(batch.events.len() <= BATCH);
                got.extend(seqs(&batch.events));
            }
            assert_eq!(got, (4..=1003).collect::<Vec<_>>());
        }
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_follower_misses_some_is_told_and_reads_on() {
        let bus = Bus::keeping(10);
        let mut follower = bus.follow(all(), None);
        follower.batch().await;
        for n in 1..=25 {
            bus.record(gone(n), at(0));
        }
        let batch = follower.batch().await;
        assert_eq!(batch.missed, 15);
        assert_eq!(seqs(&batch.events), (16..=25).collect::<Vec<_>>());
        bus.record(gone(26), at(0));
        let batch = follower.batch().await;
        assert_eq!((batch.missed, seqs(&batch.events)), (0, vec![26]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_match_wakes_nobody() {
        let bus = Bus::default();
        let filter = EventFilter::parse("event:interface_back").unwrap();
        let mut follower = bus.follow(filter, None);
        follower.batch().await;
        for n in 1..=2 * BATCH as u64 {
            bus.record(gone(n), at(0));
        }
        let silent = tokio::time::timeout(Duration::from_secs(60), follower.batch()).await;
        assert!(silent.is_err());
        bus.record(
            Event::InterfaceBack {
                interface: "eth0".to_owned(),
                ingress: None,
                egress: None,
                xdp: None,
            },
            at(0),
        );
        assert_eq!(seqs(&follower.batch().await.events), [513]);
    }
}
