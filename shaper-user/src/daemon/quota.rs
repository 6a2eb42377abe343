//! Quotas of the policy in force: counted with each sample, held through the rules
//! of the kernel, kept in the store.

use super::core::{Core, HOLDING, KEEPING};
use crate::events::Event;
use crate::kernel::Kernel;
use crate::model;
use crate::policy::client::display;
use crate::policy::units::Size;
use crate::policy::{CompileError, Policy};
use crate::protocol::ErrorBody;
use crate::quota::ledger::{Ledger, Notice};
use crate::quota::row::Level;
use crate::quota::store::{self, Opened};
use crate::quota::writer::{Progress, Writer};
use crate::render::units;
use ipnet::IpNet;
use jiff::Timestamp;
use std::path::PathBuf;
use std::time::Duration;

/// Seconds between two writes of what has changed: with the second of a sample and
/// the write itself, less than ten are lost at worst.
const WRITE_EVERY: u32 = 5;

/// How often the last write is tried, and the pause between.
const LAST_TRIES: u32 = 150;
const LAST_PAUSE: Duration = Duration::from_millis(20);

/// What is remembered for them.
pub(super) struct Quotas {
    path: PathBuf,
    /// `None` while no policy had a quota: nothing is counted or opened.
    on: Option<On>,
}

struct On {
    ledger: Ledger,
    writer: Option<Writer>,
    /// Samples until the next write.
    wait: u32,
    /// What was wrong at the start; said for as long as the daemon runs.
    damaged: Option<String>,
    unopened: Option<String>,
}

fn wanted(policy: &Policy) -> bool {
    let rules = policy.rules.iter();
    policy.default.quota.is_some() || rules.into_iter().any(|rule| rule.limits.quota.is_some())
}

impl Quotas {
    /// Opens the store, where the policy has a quota. Never fails: usage that
    /// cannot be kept is counted all the same.
    pub fn new<K: Kernel>(path: PathBuf, policy: &Policy, kernel: &K) -> Self {
        let mut quotas = Self { path, on: None };
        quotas.turn_on(policy, kernel);
        quotas
    }

    fn turn_on<K: Kernel>(&mut self, policy: &Policy, kernel: &K) {
        if self.on.is_some() || !wanted(policy) {
            return;
        }
        let (opened, mut unopened) = match store::open(&self.path) {
            Ok(opened) => (Some(opened), None),
            Err(error) => (None, Some(format!("{}: {error}", self.path.display()))),
        };
        let (mut store, mut before, mut damaged) = (None, None, None);
        if let Some(opened) = opened {
            let Opened {
                store: open,
                meta,
                rows,
                damaged: was,
            } = opened;
            before = meta.map(|meta| (meta, rows));
            (store, damaged) = (Some(open), was);
        }
        let (place, made) = kernel.counters();
        let writer = Writer::start(self.path.clone(), store)
            .inspect_err(|error| unopened = Some(format!("no thread to write it: {error}")))
            .ok();
        self.on = Some(On {
            ledger: Ledger::new(policy, place, made, before),
            writer,
            wait: 0,
            damaged,
            unopened,
        });
    }

    /// Follows the clock to `now`, before the first sample; returns who is over.
    pub fn catch_up(
        &mut self,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Vec<IpNet>, CompileError> {
        if let Some(on) = &mut self.on {
            let compiled = policy.compile(&[])?;
            on.ledger.set_policy(policy, &compiled, now.as_second());
        }
        Ok(self.over().to_vec())
    }

    /// Who has used its quota, as far as that is known.
    pub fn over(&self) -> &[IpNet] {
        self.on.as_ref().map_or(&[], |on| on.ledger.over())
    }
}

impl On {
    /// Hands over what has changed.
    fn write(&mut self) {
        let Some(writer) = &self.writer else {
            return;
        };
        if writer.has_lost() {
            self.ledger.write_all_again();
        }
        let (meta, changes) = self.ledger.changes();
        if let Err(changes) = writer.hand_over(meta, changes) {
            // The disk is slow: with the next, as it is then.
            self.ledger.give_back(&changes);
        }
        self.wait = WRITE_EVERY;
    }

    /// The last write: waits for the one before it, but not for a disk that hangs.
    fn keep(&mut self) {
        let Some(writer) = &self.writer else {
            return;
        };
        if writer.has_lost() {
            self.ledger.write_all_again();
        }
        let (meta, mut changes) = self.ledger.changes();
        for _ in 0..LAST_TRIES {
            match writer.hand_over(meta.clone(), changes) {
                Ok(()) => return,
                Err(back) => changes = back,
            }
            std::thread::sleep(LAST_PAUSE);
        }
    }

    fn progress(&self) -> Progress {
        self.writer
            .as_ref()
            .map(Writer::progress)
            .unwrap_or_default()
    }

    /// Why usage is not kept.
    fn trouble(&self) -> Option<String> {
        let progress = self.progress();
        let unopened = self
            .unopened
            .as_ref()
            .filter(|_| progress.written.is_none());
        let why = progress.error.as_ref().or(unopened)?;
        Some(format!(
            "quotas hold, but their usage will not outlive the daemon: {why}"
        ))
    }
}

impl<K: Kernel> Core<K> {
    /// The policy in force is another: its quotas count from now on.
    pub(super) fn follow_quotas(&mut self, now: Timestamp) {
        self.quotas.turn_on(&self.policy, &self.kernel);
        if let Some(on) = &mut self.quotas.on {
            on.ledger
                .set_policy(&self.policy, &self.compiled, now.as_second());
        }
    }

    /// Counts the last sample, and holds who is over its quota.
    pub(super) fn count_quotas(&mut self, now: Timestamp) {
        let Some(on) = &mut self.quotas.on else {
            return;
        };
        let clients = self.sampler.counters();
        let notices = on.ledger.observe(clients, now.as_second());
        self.hold_over();
        for notice in notices {
            self.tell(&notice, now);
        }
        let Some(on) = &mut self.quotas.on else {
            return;
        };
        on.wait = on.wait.saturating_sub(1);
        if on.wait == 0 {
            on.write();
        }
        let trouble = on.trouble();
        self.set_trouble(KEEPING, trouble);
    }

    /// Has the kernel hold those who are over, if they are others than before.
    pub(super) fn hold_over(&mut self) {
        if self.quotas.over() == self.held_over {
            return;
        }
        let over = self.quotas.over().to_vec();
        let result = self
            .policy
            .compile_over(&self.overrides.list(), &over)
            .map_err(anyhow::Error::from)
            .and_then(|compiled| {
                let left_out = compiled.over_left_out;
                self.apply(compiled)?;
                Ok(left_out)
            });
        let trouble = match result {
            Ok(0) => None,
            Ok(left) => Some(format!(
                "{left} clients over their quota are not held: the table of prefixes is full"
            )),
            Err(error) => Some(format!(
                "cannot hold clients to the end of their quota: {error:#}"
            )),
        };
        if !matches!(&trouble, Some(text) if text.starts_with("cannot")) {
            self.held_over = over;
        }
        self.set_trouble(HOLDING, trouble);
    }

    fn tell(&mut self, notice: &Notice, now: Timestamp) {
        let client = display(notice.client);
        let rule = self.compiled.rule_of(notice.client).to_owned();
        let event = Event::QuotaReached {
            client,
            rule,
            percent: if notice.level == Level::Reached {
                100
            } else {
                80
            },
            used_bytes: notice.used,
            quota_bytes: notice.bytes,
            resets: notice.resets_at,
            then: Some(notice.quota.then.to_string()),
        };
        self.bus.publish(event, now);
    }

    /// Adds what each client has used.
    pub(super) fn with_quotas(&self, mut clients: model::Clients) -> model::Clients {
        if let Some(on) = &self.quotas.on {
            for row in &mut clients.clients {
                let net = row.client.parse().or_else(|_| {
                    row.client
                        .parse::<std::net::IpAddr>()
                        .map(IpNet::from)
                        .map(|net| self.policy.prefixes().cut(net))
                });
                if let Ok(net) = net {
                    let now = self.sampler.at().as_second();
                    row.quota = on.ledger.view(net, &self.compiled, now);
                }
            }
        }
        clients
    }

    /// The answer to `quota`.
    pub(super) fn quota(
        &self,
        text: &str,
        now: Timestamp,
    ) -> Result<model::ClientQuota, ErrorBody> {
        let client = self.one_client(text)?;
        let on = self.quotas.on.as_ref();
        Ok(model::ClientQuota {
            client: display(client),
            rule: self.compiled.rule_of(client).to_owned(),
            at: now,
            quota: on.and_then(|on| on.ledger.view(client, &self.compiled, now.as_second())),
        })
    }

    /// Forgets what a client has used, or gives it more.
    pub(super) fn change_quota(
        &mut self,
        text: &str,
        more: Option<&str>,
        now: Timestamp,
    ) -> Result<String, ErrorBody> {
        let client = self.one_client(text)?;
        let more = more.map(str::parse::<Size>).transpose();
        let more = more.map_err(|error| ErrorBody::bad(error.to_string()))?;
        if more == Some(Size(0)) {
            return Err(ErrorBody::bad("nothing would be added"));
        }
        let seconds = now.as_second();
        let change = |row: &mut crate::quota::row::Row| match more {
            Some(Size(bytes)) => row.give(bytes, seconds),
            None => row.reset(),
        };
        let on = self.quotas.on.as_mut();
        on.and_then(|on| {
            on.ledger.change(client, &self.compiled, seconds, change)?;
            on.write();
            Some(())
        })
        .ok_or_else(|| ErrorBody::bad(format!("{} has no quota", display(client))))?;
        self.hold_over();
        let done = match more {
            Some(size) => format!("gave {size} more to {}", display(client)),
            None => format!("{} begins its quota anew", display(client)),
        };
        let is = self.quota_words(client);
        Ok(format!("{done}: {is}"))
    }

    /// What a client has used, in words.
    pub(super) fn quota_words(&self, client: IpNet) -> String {
        let now = self.sampler.at().as_second();
        let on = self.quotas.on.as_ref();
        on.and_then(|on| on.ledger.view(client, &self.compiled, now))
            .map_or_else(
                || crate::policy::changes::NONE.to_owned(),
                |quota| {
                    let (used, bytes) = (units::bytes(quota.used), units::bytes(quota.bytes));
                    format!("{used} of {bytes} used")
                },
            )
    }

    fn one_client(&self, text: &str) -> Result<IpNet, ErrorBody> {
        let net = self.client(text)?;
        let bits = match net {
            IpNet::V4(_) => self.policy.ipv4_prefix,
            IpNet::V6(_) => self.policy.ipv6_prefix,
        };
        if net.prefix_len() == bits {
            return Ok(net);
        }
        Err(ErrorBody::bad(format!(
            "{net} is more than one client, and each has a quota of its own; name one"
        )))
    }

    /// How the store is, for `status`.
    pub(super) fn quota_store(&self) -> Option<model::QuotaStore> {
        let on = self.quotas.on.as_ref()?;
        let progress = on.progress();
        let error = on.trouble();
        Some(model::QuotaStore {
            path: self.quotas.path.display().to_string(),
            state: if error.is_some() { "failing" } else { "open" }.to_owned(),
            clients: on.ledger.clients() as u64,
            reached: on.ledger.over().len() as u64,
            written: progress.written,
            damaged: on.damaged.clone().or(progress.damaged),
            error,
        })
    }

    /// The last write, as the daemon ends.
    pub(super) fn keep_quotas(&mut self) {
        if let Some(mut on) = self.quotas.on.take() {
            on.keep();
        }
    }
}

#[cfg(test)]
mod tests;
