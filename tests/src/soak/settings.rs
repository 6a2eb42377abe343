//! What was set at runtime, and whether the daemon still knows.

use super::checks::{Check, Checks};
use crate::shaper::row;
use fastrand::Rng;
use shaper_user::model::Clients;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Around its end it may be there or not.
const AROUND: Duration = Duration::from_secs(4);
/// In kbit/s.
const RATES: [u32; 5] = [256, 512, 1_000, 4_000, 16_000];

#[derive(Clone, Copy, Debug)]
struct Limit {
    /// Up and down, in bits per second.
    rates: [Option<u64>; 2],
    until: Option<Instant>,
}

/// The settings of one client. One that has ended stays until it was looked for.
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    limit: Option<Limit>,
    blocked_until: Option<Instant>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    of: BTreeMap<IpAddr, Set>,
}

/// Arguments of a `shaper` command.
pub(super) type Arguments = Vec<String>;

fn arguments(words: &[&str]) -> Arguments {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Settings {
    /// A limit for a client, by chance.
    pub(super) fn limit(&mut self, rng: &mut Rng, client: IpAddr) -> Arguments {
        let mut command = arguments(&["limit", &client.to_string()]);
        let which = rng.usize(..3);
        let rates = [("--upload", which != 1), ("--download", which != 0)].map(|(name, set)| {
            let kbit = RATES[rng.usize(..RATES.len())];
            set.then(|| {
                command.extend(arguments(&[name, &format!("{kbit}kbit")]));
                u64::from(kbit) * 1_000
            })
        });
        let seconds = rng.u64(5..40);
        let until = (rng.u8(..5) != 0).then(|| {
            command.extend(arguments(&["--for", &format!("{seconds}s")]));
            Instant::now() + Duration::from_secs(seconds)
        });
        self.of.entry(client).or_default().limit = Some(Limit { rates, until });
        command
    }

    /// Takes the limit of a client away that has one, else of any.
    pub(super) fn clear(&mut self, rng: &mut Rng, any: IpAddr) -> Arguments {
        let limited = self.of.iter().filter(|(_, set)| set.limit.is_some());
        let client = rng.choice(limited.map(|(client, _)| *client).collect::<Vec<_>>());
        let client = client.unwrap_or(any);
        self.of.entry(client).or_default().limit = None;
        arguments(&["limit", &client.to_string(), "--clear"])
    }

    /// Blocks a client for some seconds.
    pub(super) fn block(&mut self, rng: &mut Rng, client: IpAddr) -> Arguments {
        let seconds = rng.u64(1..8);
        self.of.entry(client).or_default().blocked_until =
            Some(Instant::now() + Duration::from_secs(seconds));
        let time = format!("{seconds}s");
        arguments(&["block", &client.to_string(), "--for", &time])
    }

    /// Ends the block of a client that has one, else of any.
    pub(super) fn unblock(&mut self, rng: &mut Rng, any: IpAddr) -> Arguments {
        let blocked = self
            .of
            .iter()
            .filter(|(_, set)| set.blocked_until.is_some());
        let client = rng.choice(blocked.map(|(client, _)| *client).collect::<Vec<_>>());
        let client = client.unwrap_or(any);
        self.of.entry(client).or_default().blocked_until = None;
        arguments(&["unblock", &client.to_string()])
    }

    /// What takes everything away.
    pub(super) fn clear_all(&mut self) -> Vec<Arguments> {
        std::mem::take(&mut self.of)
            .into_keys()
            .flat_map(|client| {
                let client = client.to_string();
                [
                    arguments(&["limit", &client, "--clear"]),
                    arguments(&["unblock", &client]),
                ]
            })
            .collect()
    }

    /// Compares with an answer that was asked for just now.
    pub(super) fn compare(&mut self, clients: &Clients, checks: &mut Checks) {
        let now = Instant::now();
        let (mut wrong, mut compared) = (Vec::new(), 0);
        for (client, set) in &self.of {
            let runtime = row(&clients.clients, *client).and_then(|row| row.runtime.as_ref());
            let around = |until: Option<Instant>| {
                until.is_some_and(|until| now + AROUND > until && now < until + AROUND)
            };
            let over = |until: Option<Instant>| until.is_some_and(|until| until < now);
            if let Some(limit) = set.limit
                && !around(limit.until)
            {
                compared += 1;
                let expected = if over(limit.until) {
                    [None; 2]
                } else {
                    limit.rates
                };
                let there = runtime.map_or([None; 2], |r| [r.upload_bps, r.download_bps]);
                if there != expected {
                    wrong.push(format!("{client}: limits {there:?}, expected {expected:?}"));
                }
            }
            if set.blocked_until.is_some() && !around(set.blocked_until) {
                compared += 1;
                let expected = !over(set.blocked_until);
                if runtime.is_some_and(|r| r.blocked) != expected {
                    wrong.push(format!(
                        "{client}: blocked {}, expected {expected}",
                        !expected
                    ));
                }
            }
        }
        if compared > 0 {
            checks.that(Check::Runtime, wrong.is_empty(), || wrong.join(", "));
        }
        let done = |until: Option<Instant>| until.is_some_and(|until| until + 2 * AROUND < now);
        for set in self.of.values_mut() {
            set.limit = set.limit.filter(|limit| !done(limit.until));
            set.blocked_until = set.blocked_until.filter(|until| !done(Some(*until)));
        }
        self.of
            .retain(|_, set| set.limit.is_some() || set.blocked_until.is_some());
    }
}
