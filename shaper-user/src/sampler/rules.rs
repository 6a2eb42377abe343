//! What the clients of each rule passed, for metrics. A client's counters go with
//! it, and it may fall under another rule: so each sample adds what is new.

use super::{DIRECTIONS, Sampler};
use crate::policy::{Compiled, RateLimit};
use shaper_common::flow::{Client, Traffic};
use std::collections::BTreeMap;

/// One direction of all clients of a rule, since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes that passed.
    pub bytes: u64,
    /// Packets that passed.
    pub packets: u64,
    /// Bytes dropped.
    pub dropped_bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Nanoseconds that clients were held, together.
    pub held: u64,
}

impl Passed {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
        self.dropped_bytes += other.dropped_bytes;
        self.dropped_packets += other.dropped_packets;
        self.held += other.held;
    }
}

/// A rule, `default` among them, in the last sample.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Clients under it.
    pub clients: u64,
    /// Of them, those that are held now.
    pub limited: u64,
    /// Their connections.
    pub connections: u64,
    /// By direction.
    pub passed: [Passed; 2],
    /// What each client is held to, by direction.
    pub limits: [Option<RateLimit>; 2],
}

/// Counts by rule.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Of this sample, by class.
    new: Vec<[Passed; 2]>,
    all: BTreeMap<String, [Passed; 2]>,
}

impl Rules {
    /// Adds what a client passed since the last sample, or since it came.
    pub fn count(&mut self, class: u32, last: Option<&Client>, now: &Client) {
        let class = class as usize;
        if self.new.len() <= class {
            self.new.resize(class + 1, [Passed::default(); 2]);
        }
        let zero = Client::default();
        // Its entry was replaced and counts from zero.
        let replaced = |last: &Client| {
            DIRECTIONS
                .iter()
                .any(|d| last.traffic[*d].bytes > now.traffic[*d].bytes)
        };
        let last = last.filter(|last| !replaced(last)).unwrap_or(&zero);
        let Some(sums) = self.new.get_mut(class) else {
            return;
        };
        for direction in DIRECTIONS {
            let passed = passed(&last.traffic[direction], &now.traffic[direction]);
            sums[direction].add(&Passed {
                held: now.held[direction].saturating_sub(last.held[direction]),
                ..passed
            });
        }
    }

    /// Takes the sample in. Rules that are no more are forgotten.
    pub fn settle(&mut self, compiled: &Compiled) {
        for (class, sums) in compiled.classes.iter().zip(self.new.drain(..)) {
            if sums == [Passed::default(); 2] {
                continue;
            }
            let all = match self.all.get_mut(&class.rule) {
                Some(all) => all,
                None => self.all.entry(class.rule.clone()).or_default(),
            };
            for direction in DIRECTIONS {
                all[direction].add(&sums[direction]);
            }
        }
        self.new.clear();
        if self.all.len() > compiled.classes.len() {
            self.all
                .retain(|rule, _| compiled.classes.iter().any(|class| class.rule == *rule));
        }
    }
}

fn passed(last: &Traffic, now: &Traffic) -> Passed {
    Passed {
        bytes: now.bytes.saturating_sub(last.bytes),
        packets: now.packets.saturating_sub(last.packets),
        dropped_bytes: now.dropped_bytes.saturating_sub(last.dropped_bytes),
        dropped_packets: now.dropped_packets.saturating_sub(last.dropped_packets),
        held: 0,
    }
}

impl Sampler {
    /// Every rule of the policy in force, by its name.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        let mut rules: BTreeMap<&str, Rule> = BTreeMap::new();
        let mut by_class = vec![(0, 0, 0); self.compiled.classes.len()];
        for client in self.clients.iter().filter(|client| !client.over) {
            if let Some((clients, limited, connections)) = by_class.get_mut(client.class as usize) {
                *clients += 1;
                *limited += u64::from(client.limited.contains(&true));
                *connections += u64::from(client.kernel.connections) + u64::from(client.udp);
            }
        }
        for (class, (clients, limited, connections)) in self.compiled.classes.iter().zip(by_class) {
            // The first is the policy's, those after it are set at runtime.
            let rule = rules.entry(&class.rule).or_insert_with(|| Rule {
                name: class.rule.clone(),
                passed: self.rules.all.get(&class.rule).copied().unwrap_or_default(),
                limits: [class.upload, class.download],
                ..Rule::default()
            });
            rule.clients += clients;
            rule.limited += limited;
            rule.connections += connections;
        }
        rules.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::Sample;
    use crate::sampler::Sampler;
    use crate::testing::{NOW, at, client, compiled, secs};
    use std::sync::Arc;

    #[test]
    fn each_rule_has_what_its_clients_passed_and_keeps_it_when_they_leave() {
        let compiled = Arc::new(compiled());
        let partner = compiled.class_of(&client("203.0.113.9").0);
        let mut sampler = Sampler::new(Arc::clone(&compiled), 1, at(0));
        let sample = |second: u64, bytes: &[(&str, usize, u64)]| Sample {
            now: NOW + secs(second),
            clients: bytes
                .iter()
                .map(|(ip, class, bytes)| {
                    let (key, mut client) = client(ip);
                    client.class = u32::try_from(*class).unwrap();
                    client.traffic[0].bytes = *bytes;
                    client.traffic[0].packets = *bytes / 100;
                    client.held[1] = *bytes;
                    client.connections = 2;
                    (key, client)
                })
                .collect(),
            ..Sample::default()
        };
        let [one, two, three] = ["203.0.113.9", "192.0.2.1", "192.0.2.2"];
        // What was before the daemon is nobody's.
        sampler.observe(sample(0, &[(one, partner, 1_000)]), at(0));
        sampler.observe(sample(1, &[(one, partner, 1_500), (two, 0, 700)]), at(1));
        // One left, another came, and an entry was replaced.
        sampler.observe(sample(2, &[(two, 0, 300), (three, 0, 100)]), at(2));
        let rules = sampler.rules();
        let of = |name: &str| rules.iter().find(|rule| rule.name == name).unwrap();
        let default = of("default");
        assert_eq!((default.clients, default.connections), (2, 4));
        assert_eq!(default.passed[0].bytes, 700 + 300 + 100);
        assert_eq!(default.passed[1].held, 1_100);
        assert_eq!(default.limits[0].unwrap().rate.0, 8_000_000);
        let partners = of("partners");
        assert_eq!((partners.clients, partners.passed[0].bytes), (0, 500));
        assert_eq!(partners.passed[0].packets, 5);
        assert_eq!(rules.len(), 4);
    }
}
