//! All clients that have a quota: what they used, and who is over.

use super::row::{GONE_AFTER, Level, Row};
use super::stored::{Meta, Stored, VERSION};
use super::window::timestamp;
use crate::addr::{prefix_from_kernel, prefix_to_kernel};
use crate::model;
use crate::policy::{Compiled, Policy, Quota};
use foldhash::fast::RandomState;
use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use shaper_common::key::{ClientKey, is_v4};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Clients remembered that the kernel does not know; beyond, those that used least
/// are forgotten.
pub const ABSENT_MAX: usize = 131_072;

/// A client and the bits of its prefix, of an [`shaper_common::key::Addr`].
type Key = (ClientKey, u32);

/// A client that came to 80 or 100 %.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The client.
    pub client: IpNet,
    /// [`Level::Near`] or [`Level::Reached`].
    pub level: Level,
    /// What it may move.
    pub bytes: u64,
    /// What it did.
    pub used: u64,
    /// When less is used.
    pub resets_at: Option<Timestamp>,
    /// The quota.
    pub quota: Arc<Quota>,
}

/// What is to be written; `None` removes a row.
pub type Changes = Vec<(IpNet, Option<Stored>)>;

/// All rows.
pub struct Ledger {
    rows: HashMap<Key, Row, RandomState>,
    zone: TimeZone,
    meta: Meta,
    /// What clients without a row have moved so far is not counted: they had no
    /// quota then, or it is not known whether they had.
    unknown: bool,
    /// The rows' counters are of another place: they are read anew.
    foreign: bool,
    changed: HashSet<Key, RandomState>,
    over: Vec<IpNet>,
}

/// Who has which quota under a policy, as a number.
#[must_use]
pub fn fingerprint(policy: &Policy) -> u64 {
    let mut hasher = DefaultHasher::new();
    (policy.ipv4_prefix, policy.ipv6_prefix).hash(&mut hasher);
    policy.default.quota.is_some().hash(&mut hasher);
    for rule in &policy.rules {
        let has = policy.effective(rule).quota.is_some();
        (has, &rule.clients).hash(&mut hasher);
    }
    hasher.finish()
}

impl Ledger {
    /// With the rows of before. `made`: the kernel's counters began anew since, all
    /// of them from zero; else they are those that the rows were read from, where
    /// `place` is the same.
    #[must_use]
    pub fn new(
        policy: &Policy,
        place: u64,
        made: bool,
        before: Option<(Meta, Vec<(IpNet, Row)>)>,
    ) -> Self {
        let meta = Meta {
            version: VERSION,
            place,
            policy: fingerprint(policy),
        };
        let (old, rows) = match before {
            Some((old, rows)) => (Some(old), rows),
            None => (None, Vec::new()),
        };
        let foreign = !made && old.as_ref().is_some_and(|old| old.place != place);
        let mut ledger = Self {
            rows: HashMap::default(),
            zone: policy.time_zone.clone(),
            unknown: !made && old.as_ref() != Some(&meta),
            foreign,
            meta,
            changed: HashSet::default(),
            over: Vec::new(),
        };
        for (net, mut row) in rows {
            let (addr, bits) = prefix_to_kernel(net);
            let key = (ClientKey { addr }, bits);
            if made {
                row.last = [0; 2];
                ledger.changed.insert(key);
            }
            ledger.rows.insert(key, row);
        }
        ledger
    }

    /// Uses the quotas of another policy from now on.
    pub fn set_policy(&mut self, policy: &Policy, compiled: &Compiled, now: i64) {
        let before = std::mem::replace(&mut self.meta.policy, fingerprint(policy));
        self.unknown |= before != self.meta.policy;
        self.zone.clone_from(&policy.time_zone);
        for (key, row) in &mut self.rows {
            row.set_quota(quota_of(compiled, key), &self.zone, now);
            if row.follow(&self.zone, now) {
                self.changed.insert(*key);
            }
        }
        self.find_over();
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Counts what each client of a sample has moved, by the kernel's counters, and
    /// follows the clock. Returns who came near to the end of its quota, or to it.
    pub fn observe<'a>(
        &mut self,
        clients: impl Iterator<Item = (ClientKey, u32, Option<&'a Arc<Quota>>, [u64; 2])>,
        now: i64,
    ) -> Vec<Notice> {
        for row in self.rows.values_mut() {
            row.missing |= UNSEEN;
        }
        for (key, bits, quota, counters) in clients {
            let key = (key, bits);
            let row = match (self.rows.get_mut(&key), quota) {
                (Some(row), _) => row,
                (None, None) => continue,
                (None, Some(quota)) => {
                    let before = if self.unknown { counters } else { [0; 2] };
                    if before == [0; 2] && counters == [0; 2] {
                        continue;
                    }
                    self.changed.insert(key);
                    self.rows
                        .entry(key)
                        .or_insert_with(|| Row::new(Arc::clone(quota), before, &self.zone, now))
                }
            };
            if self.foreign {
                row.last = counters;
            }
            row.set_quota(quota, &self.zone, now);
            // First the clock: bytes of a new window are not those of the last.
            let followed = row.follow(&self.zone, now);
            if row.read(counters, now) || followed {
                self.changed.insert(key);
            }
        }
        (self.unknown, self.foreign) = (false, false);
        self.settle(now)
    }

    fn settle(&mut self, now: i64) -> Vec<Notice> {
        let mut notices = Vec::new();
        let (zone, changed) = (&self.zone, &mut self.changed);
        let mut absent = 0;
        self.rows.retain(|key, row| {
            let unseen = row.missing & UNSEEN != 0;
            row.missing &= !UNSEEN;
            if unseen && (row.follow(zone, now) | row.miss()) {
                changed.insert(*key);
            }
            if row.is_gone() {
                absent += 1;
                if row.is_empty() {
                    absent -= 1;
                    changed.insert(*key);
                    return false;
                }
            }
            let level = row.level();
            // Both, where one sample came past both.
            for passed in [Level::Near, Level::Reached] {
                if row.told < passed && passed <= level {
                    notices.extend(notice(key, row, passed));
                }
            }
            if level != row.told {
                row.told = level;
                changed.insert(*key);
            }
            true
        });
        if absent > ABSENT_MAX {
            self.forget_least(absent);
        }
        self.find_over();
        notices
    }

    /// Makes room, an eighth of what may be remembered.
    fn forget_least(&mut self, absent: usize) {
        let gone = self.rows.iter().filter(|(_, row)| row.is_gone());
        let mut by_use: Vec<_> = gone.map(|(key, row)| (row.meter.used(), *key)).collect();
        by_use.sort_unstable_by_key(|(used, key)| (*used, key.0, key.1));
        for (_, key) in by_use.into_iter().take(absent - ABSENT_MAX * 7 / 8) {
            self.rows.remove(&key);
            self.changed.insert(key);
        }
    }

    fn find_over(&mut self) {
        let over = self
            .rows
            .iter()
            .filter(|(_, row)| row.level() == Level::Reached);
        self.over = over.filter_map(|(key, _)| net(key)).collect();
        self.over.sort_unstable();
    }

    /// Who has used its quota, ordered.
    #[must_use]
    pub fn over(&self) -> &[IpNet] {
        &self.over
    }

    /// How many clients are remembered.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.rows.len()
    }

    /// The usage of a client that has a quota. Of one that nothing is known of it
    /// is made up: nothing used.
    #[must_use]
    pub fn view(&self, client: IpNet, compiled: &Compiled, now: i64) -> Option<model::Quota> {
        let key = key(client);
        match self.rows.get(&key) {
            Some(row) => row.to_model(),
            None => {
                let quota = quota_of(compiled, &key)?;
                Row::new(Arc::clone(quota), [0; 2], &self.zone, now).to_model()
            }
        }
    }

    /// Changes what a client has used or been given; `None` where it has no quota.
    pub fn change(
        &mut self,
        client: IpNet,
        compiled: &Compiled,
        now: i64,
        change: impl FnOnce(&mut Row),
    ) -> Option<()> {
        let key = key(client);
        let quota = quota_of(compiled, &key)?;
        let row = self.rows.entry(key).or_insert_with(|| {
            let mut row = Row::new(Arc::clone(quota), [0; 2], &self.zone, now);
            row.missing = GONE_AFTER;
            row
        });
        row.set_quota(Some(quota), &self.zone, now);
        row.follow(&self.zone, now);
        change(row);
        // What was said holds no longer; what is reached still, is not said again.
        row.told = row.told.min(row.level());
        self.changed.insert(key);
        self.find_over();
        Some(())
    }

    /// What has changed since it was last asked, for the store.
    pub fn changes(&mut self) -> (Meta, Changes) {
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.into_iter().filter_map(|key| {
            let row = self.rows.get(&key);
            Some((net(&key)?, row.map(Stored::from)))
        });
        (self.meta.clone(), rows.collect())
    }

    /// What was taken for the store was not taken there.
    pub fn give_back(&mut self, changes: &Changes) {
        self.changed
            .extend(changes.iter().map(|(net, _)| key(*net)));
    }

    /// The store has lost what it had taken.
    pub fn write_all_again(&mut self) {
        self.changed.extend(self.rows.keys());
    }
}

/// Of a row that the sample has not had yet.
const UNSEEN: u8 = 1 << 7;

fn notice((client, bits): &Key, row: &Row, level: Level) -> Option<Notice> {
    let bytes = row.total()?;
    Some(Notice {
        client: net(&(*client, *bits))?,
        level,
        bytes,
        used: row.meter.used(),
        resets_at: row.meter.eases_at(bytes).map(timestamp),
        quota: row.quota.clone()?,
    })
}

fn key(client: IpNet) -> Key {
    let (addr, bits) = prefix_to_kernel(client);
    (ClientKey { addr }, bits)
}

fn net((client, bits): &Key) -> Option<IpNet> {
    prefix_from_kernel(&client.addr, *bits)
}

/// The quota of a client under the policy in force; `None` as well where that has
/// other client prefixes.
fn quota_of<'c>(compiled: &'c Compiled, (client, bits): &Key) -> Option<&'c Arc<Quota>> {
    let settings = &compiled.settings;
    let mask = if is_v4(&client.addr) {
        &settings.mask_v4
    } else {
        &settings.mask_v6
    };
    let own: u32 = mask.iter().map(|word| word.count_ones()).sum();
    if own != *bits {
        return None;
    }
    compiled
        .classes
        .get(compiled.class_of(client))?
        .quota
        .as_ref()
}
