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

/// Whether something may have ended or not.
fn around(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| now + AROUND > until && now < until + AROUND)
}

fn over(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| until < now)
}

impl Settings {
    /// A limit for a client, by chance.
    pub(super) fn limit(&mut self, rng: &mut Rng, client: IpAddr, now: Instant) -> Arguments {
        let mut command = arguments(&["limit", &client.to_string()]);
        let before = self.of.get(&client).and_then(|set| set.limit);
        let which = match rng.usize(..3) {
            // Nobody knows whether there is one for a direction to stay of.
            _ if before.is_some_and(|limit| around(limit.until, now)) => 2,
            which => which,
        };
        let kept = before.filter(|limit| !over(limit.until, now));
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
            now + Duration::from_secs(seconds)
        });
        // What is not named stays, and ends with the rest.
        let kept = kept.map_or([None; 2], |limit| limit.rates);
        let rates = [0, 1].map(|direction| rates[direction].or(kept[direction]));
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
    pub(super) fn block(&mut self, rng: &mut Rng, client: IpAddr, now: Instant) -> Arguments {
        let seconds = rng.u64(1..8);
        self.of.entry(client).or_default().blocked_until = Some(now + Duration::from_secs(seconds));
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

    /// Compares with an answer that was asked for at `now`.
    pub(super) fn compare(&mut self, clients: &Clients, now: Instant, checks: &mut Checks) {
        let (mut wrong, mut compared) = (Vec::new(), 0);
        for (client, set) in &self.of {
            let runtime = row(&clients.clients, *client).and_then(|row| row.runtime.as_ref());
            if let Some(limit) = set.limit
                && !around(limit.until, now)
            {
                compared += 1;
                let expected = if over(limit.until, now) {
                    [None; 2]
                } else {
                    limit.rates
                };
                let there = runtime.map_or([None; 2], |r| [r.upload_bps, r.download_bps]);
                if there != expected {
                    wrong.push(format!("{client}: limits {there:?}, expected {expected:?}"));
                }
            }
            if set.blocked_until.is_some() && !around(set.blocked_until, now) {
                compared += 1;
                let expected = !over(set.blocked_until, now);
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

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::{SignedDuration, Timestamp};
    use shaper_user::model::{Client, Limited, Runtime};
    use shaper_user::policy::{Override, RateLimit};
    use shaper_user::runtime::{Overrides, parse_client};

    /// Does a command as the daemon does.
    fn obey(overrides: &mut Overrides, command: &[String], now: Timestamp) {
        let value = |name| {
            let at = command.iter().position(|word| word == name)?;
            command.get(at + 1)
        };
        let rate = |name| value(name).map(|rate| RateLimit::of(rate.parse().unwrap()));
        let expires = value("--for").map(|time| {
            let seconds = time.trim_end_matches('s').parse().unwrap();
            now + SignedDuration::from_secs(seconds)
        });
        let client = parse_client(&command[1], 32, 64).unwrap();
        let clears = command.get(2).is_some_and(|word| word == "--clear");
        match command[0].as_str() {
            "limit" if clears => overrides.clear_limit(client),
            "limit" => overrides.set_limit(client, rate("--upload"), rate("--download"), expires),
            "block" => overrides.set_block(client, expires),
            _ => overrides.unblock(client),
        };
    }

    /// A row of `clients`, as far as it is compared.
    fn row(set: &Override) -> Client {
        let bps = |rate: Option<RateLimit>| rate.map(|rate| rate.rate.bps());
        Client {
            client: set.client.to_string(),
            rule: String::new(),
            connections: 0,
            exempt: false,
            blocked: set.block.is_some(),
            upload: Limited::default(),
            download: Limited::default(),
            age_ms: 0,
            idle_ms: 0,
            runtime: Some(Runtime {
                upload_bps: bps(set.limit.and_then(|limit| limit.upload)),
                download_bps: bps(set.limit.and_then(|limit| limit.download)),
                blocked: set.block.is_some(),
                limit_expires: None,
                block_expires: None,
            }),
            servers: Vec::new(),
        }
    }

    /// Few clients, so that each is limited again and again: before a limit has
    /// ended, about then, and later.
    #[test]
    fn what_is_expected_is_what_the_daemon_has() {
        let clients = &crate::soak::roles::churn()[..4];
        for seed in 0..200 {
            let mut rng = Rng::with_seed(seed);
            let (mut settings, mut overrides) = (Settings::default(), Overrides::default());
            let (mut checks, began) = (Checks::new(false), Instant::now());
            let mut second = 0;
            for _ in 0..300 {
                second += rng.u64(..4);
                let now = began + Duration::from_secs(second);
                let time = Timestamp::from_second(second.cast_signed()).unwrap();
                overrides.expire(time);
                let client = clients[rng.usize(..clients.len())];
                let command = match rng.u8(..20) {
                    0..5 => settings.limit(&mut rng, client, now),
                    5 => settings.clear(&mut rng, client),
                    6 | 7 => settings.block(&mut rng, client, now),
                    8 => settings.unblock(&mut rng, client),
                    _ => Vec::new(),
                };
                if !command.is_empty() {
                    obey(&mut overrides, &command, time);
                }
                let answer = Clients {
                    at: time,
                    interval_ms: 1_000,
                    matched: 0,
                    clients: overrides.list().iter().map(row).collect(),
                };
                settings.compare(&answer, now, &mut checks);
                assert_eq!(checks.failed(), 0, "seed {seed}, second {second}: {checks}");
            }
        }
    }

    #[test]
    fn what_the_daemon_forgot_or_kept_is_found() {
        let mut rng = Rng::with_seed(1);
        let client = crate::soak::roles::churn()[0];
        let now = Instant::now();
        let mut settings = Settings::default();
        while settings.of.get(&client).is_none_or(|set| {
            let limit = set.limit.as_ref();
            limit.is_none_or(|limit| limit.until.is_none_or(|until| until < now + 3 * AROUND))
        }) {
            settings.limit(&mut rng, client, now);
        }
        let forgot = Clients {
            at: Timestamp::UNIX_EPOCH,
            interval_ms: 1_000,
            matched: 0,
            clients: Vec::new(),
        };
        let mut checks = Checks::new(false);
        settings.compare(&forgot, now, &mut checks);
        assert_eq!(checks.failed(), 1);
        let limit = settings.of[&client].limit.unwrap();
        let bps = |rate: Option<u64>| rate.map(|bps| format!("{bps}bit").parse().unwrap());
        let [up, down] = limit.rates.map(bps).map(|rate| rate.map(RateLimit::of));
        let mut overrides = Overrides::default();
        overrides.set_limit(
            parse_client(&client.to_string(), 32, 64).unwrap(),
            up,
            down,
            None,
        );
        let kept = Clients {
            clients: overrides.list().iter().map(row).collect(),
            ..forgot
        };
        settings.compare(&kept, now, &mut checks);
        assert_eq!(checks.failed(), 1);
        let ended = limit.until.unwrap() + AROUND;
        settings.compare(&kept, ended + Duration::from_secs(1), &mut checks);
        assert_eq!(checks.failed(), 2);
    }
}
