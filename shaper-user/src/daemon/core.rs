//! What the daemon knows, and what each command does to it. Without clocks,
//! threads and sockets, so that every step is tested alone.

mod commands;
mod join;
mod numbers;
mod options;
mod reload;

pub(super) use join::Plan;
pub use options::{Options, PolicyFile, overrides_beside};

use super::audit::{self, About, By, Denials};
use super::caps::Places;
use super::events::{Clocks, EventLog};
use super::presence::Presence;
use super::quota::Quotas;
use crate::events::Event;
use crate::events::bus::Bus;
use crate::haproxy::View;
use crate::haproxy::agent::Feed;
use crate::history::Recorder;
use crate::kernel::Kernel;
use crate::metrics::Health;
use crate::model;
use crate::policy::client;
use crate::policy::{Compiled, Haproxy, Metrics, Mode, OnExit, Policy};
use crate::quota::store::FILE;
use crate::runtime::Overrides;
use crate::sampler::Sampler;
use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use shaper_common::class::SETTING_OBSERVE;
use shaper_common::stats::Stat;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Everything the daemon knows.
pub(super) struct Core<K> {
    pub(super) kernel: K,
    options: Options,
    pub(super) policy: Policy,
    from_file: bool,
    pub(super) compiled: Arc<Compiled>,
    pub(super) overrides: Overrides,
    pub(super) sampler: Sampler,
    pub(super) places: Places,
    pub(super) quotas: Quotas,
    /// The clients over their quota that the kernel holds.
    pub(super) held_over: Vec<IpNet>,
    /// Where events go.
    pub(super) bus: Bus,
    events: EventLog,
    presence: Presence,
    denials: Denials,
    since: Timestamp,
    samples: u64,
    sample_failures: u64,
    /// Microseconds that the last sample took.
    sample_us: u64,
    /// How this thread does.
    pub(super) health: Health,
    /// Where metrics are read.
    metrics: watch::Sender<Option<Metrics>>,
    /// Where the agent's weights go.
    feed: Feed,
    /// Where each sample goes for the history.
    recorder: Recorder,
    /// Why the last sample, saving, expiry, limit by place, write of usage or hold
    /// of a quota failed; empty when it did not.
    trouble: [Option<String>; 6],
}

/// Indexes of `Core::trouble`.
const SAMPLING: usize = 0;
const SAVING: usize = 1;
const EXPIRING: usize = 2;
pub(super) const LIMITING: usize = 3;
pub(super) const KEEPING: usize = 4;
pub(super) const HOLDING: usize = 5;

impl<K: Kernel> Core<K> {
    /// Puts the policy in force, with what was set at runtime before, and takes
    /// the first sample.
    pub fn start(
        mut kernel: K,
        policy: Policy,
        options: Options,
        feed: Feed,
        now: Timestamp,
    ) -> Result<Self> {
        let loaded = Overrides::load(&options.overrides());
        if let Some(damaged) = &loaded.damaged {
            tracing::warn!("{damaged}");
        }
        let mut overrides = loaded.overrides;
        overrides.expire(now);
        let mut quotas = Quotas::new(options.state.join(FILE), &policy, &kernel);
        let held_over = quotas.catch_up(&policy, now)?;
        let compiled = Arc::new(policy.compile_over(&overrides.list(), &held_over)?);
        kernel
            .apply(&compiled)
            .context("cannot put the policy in force")?;
        let sampler = Sampler::new(Arc::clone(&compiled), kernel.generation(), now);
        let from_file = options.policy.required || options.policy.path.exists();
        let mut core = Self {
            kernel,
            options,
            policy,
            from_file,
            compiled,
            overrides,
            sampler,
            places: Places::default(),
            quotas,
            held_over,
            bus: Bus::default(),
            events: EventLog::default(),
            presence: Presence::default(),
            denials: Denials::default(),
            since: now,
            samples: 0,
            sample_failures: 0,
            sample_us: 0,
            health: Health::default(),
            metrics: watch::Sender::new(None),
            feed,
            recorder: Recorder::default(),
            trouble: [None, loaded.damaged, None, None, None, None],
        };
        core.feed.listen(core.policy.haproxy.agent);
        core.metrics.send_replace(core.policy.metrics);
        let closed = core.close_blocked(&[]);
        tracing::info!("{}{closed}", core.in_force());
        core.presence.settle(&core.kernel.interfaces());
        core.bus.publish(core.started(), now);
        core.tick(now);
        Ok(core)
    }

    pub const fn on_exit(&self) -> OnExit {
        self.policy.on_exit
    }

    fn started(&self) -> Event {
        Event::DaemonStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            mode: mode(self.policy.mode).to_owned(),
            policy: self
                .from_file
                .then(|| self.options.policy.path.display().to_string()),
        }
    }

    /// Where HAProxy is, as the policy in force has it.
    pub const fn haproxy(&self) -> &Haproxy {
        &self.policy.haproxy
    }

    /// Joins flows with what HAProxy said last.
    pub fn set_view(&mut self, view: Arc<View>) {
        for event in self.presence.haproxy(&view.sockets) {
            self.bus.publish(event, Timestamp::now());
        }
        self.sampler.set_view(view);
    }

    /// Keeps a history from the last sample on.
    pub fn keep_history(&mut self, recorder: Recorder) {
        self.recorder = recorder;
        self.remember(self.sampler.at());
    }

    fn remember(&mut self, now: Timestamp) {
        let (history, state) = (&self.policy.history, &self.options.state);
        self.recorder.observe(history, state, &self.sampler, now);
    }

    /// The end: what there is of the history's open minute is written.
    pub fn finish_history(&mut self) {
        self.recorder.finish(&self.sampler);
    }

    /// Says that the daemon ends.
    pub fn stopping(&self, signal: &str) {
        let event = Event::DaemonStopping {
            signal: signal.to_owned(),
            on_exit: self.policy.on_exit.to_string(),
        };
        self.bus.publish(event, Timestamp::now());
    }

    /// Where metrics are to be read, whenever that changes.
    pub fn metrics(&self) -> watch::Receiver<Option<Metrics>> {
        self.metrics.subscribe()
    }

    /// Follows the interfaces of the host.
    pub fn follow(&mut self) {
        self.kernel.follow();
        self.look(Timestamp::now());
    }

    /// Tells of interfaces that went or came.
    fn look(&mut self, now: Timestamp) {
        for event in self.presence.interfaces(&self.kernel.interfaces()) {
            self.bus.publish(event, now);
        }
    }

    /// The work of every second.
    pub fn tick(&mut self, now: Timestamp) {
        self.expire(now);
        let start = Instant::now();
        self.denials.settle(start);
        let mut sample = match self.kernel.sample() {
            Ok(sample) => sample,
            Err(error) => {
                self.sample_failures += 1;
                let trouble = format!("cannot read the kernel's maps: {error:#}");
                return self.set_trouble(SAMPLING, Some(trouble));
            }
        };
        let events = std::mem::take(&mut sample.events);
        let clocks = Clocks {
            ktime: sample.now,
            wall: now,
        };
        let over = self.sampler.observe(sample, now);
        self.remember(now);
        self.events.tell(
            (&events, self.sampler.stats()),
            &over,
            clocks,
            |client, direction| self.sampler.limited(client, direction),
            (&self.compiled, &self.policy),
            &self.bus,
        );
        self.look(now);
        let forgotten = if over.is_empty() {
            Ok(())
        } else {
            self.kernel.forget(&over)
        };
        self.limit_places();
        self.count_quotas(now);
        self.feed_agent();
        self.samples += 1;
        let took = start.elapsed();
        self.sample_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.health.sampled(took);
        let trouble = forgotten
            .err()
            .map(|error| format!("cannot remove clients that left: {error:#}"));
        self.set_trouble(SAMPLING, trouble);
    }

    /// Takes away the runtime settings that have ended.
    fn expire(&mut self, at: Timestamp) {
        let mut overrides = self.overrides.clone();
        if !overrides.expire(at) {
            return;
        }
        let (set, before) = (self.overrides.list(), Arc::clone(&self.compiled));
        match self.apply_overrides(overrides) {
            Ok(_) => {
                for set in set {
                    let now = self.overrides.get(&set.client);
                    let limit = now.and_then(|now| now.limit.as_ref());
                    let block = now.and_then(|now| now.block.as_ref());
                    if set.limit.is_some() && limit.is_none() {
                        self.ended(set.client, "limit", &before, at);
                    }
                    if set.block.is_some() && block.is_none() {
                        self.ended(set.client, "block", &before, at);
                    }
                }
                self.save();
                self.set_trouble(EXPIRING, None);
            }
            // Tried again at the next tick.
            Err(error) => {
                let trouble = format!("cannot end a runtime setting: {error:#}");
                self.set_trouble(EXPIRING, Some(trouble));
            }
        }
    }

    /// A runtime setting that has ended, for the log.
    fn ended(&self, client: IpNet, what: &str, before: &Compiled, now: Timestamp) {
        let name = client::display(client);
        let about = About {
            client: Some(&name),
            before: Some(&before.held(client)),
            after: Some(&self.held(client)),
            part: None,
        };
        let message = format!("the runtime {what} of {name} has ended");
        audit::done("expiry", By::Expiry, about, &message);
        let action = if what == "block" { "unblock" } else { "clear" };
        self.record(audit::event(action, By::Expiry, about, &message), now);
    }

    /// Whose line in the log is written already.
    pub(super) fn record(&self, event: Option<Event>, now: Timestamp) {
        if let Some(event) = event {
            self.bus.record(event, now);
        }
    }

    /// What a client is held to, and until when.
    fn held(&self, client: IpNet) -> String {
        let held = self.compiled.held(client);
        let set = self.overrides.get(&client);
        let blocked = set.and_then(|set| set.block.as_ref());
        let limited = set.and_then(|set| set.limit.as_ref());
        match blocked.copied().or(limited.map(|limit| limit.expires)) {
            Some(Some(end)) => format!("{held} until {end}"),
            _ => held,
        }
    }

    /// Logs a trouble when it begins, changes and ends, not every second.
    pub(super) fn set_trouble(&mut self, which: usize, trouble: Option<String>) {
        if self.trouble[which] == trouble {
            return;
        }
        match (&trouble, &self.trouble[which]) {
            (Some(trouble), _) => tracing::warn!("{trouble}"),
            (None, Some(before)) => tracing::info!("over: {before}"),
            (None, None) => {}
        }
        self.trouble[which] = trouble;
    }

    /// Puts a compiled policy in force, and closes the connections of whom it
    /// blocks newly; says so, for the end of a sentence.
    pub(super) fn apply(&mut self, compiled: Compiled) -> Result<String> {
        self.kernel
            .apply(&compiled)
            .context("the kernel did not take it")?;
        let before = std::mem::replace(&mut self.compiled, Arc::new(compiled));
        self.sampler
            .set_policy(Arc::clone(&self.compiled), self.kernel.generation());
        Ok(self.close_blocked(&before.blocked()))
    }

    fn close_blocked(&mut self, before: &[IpNet]) -> String {
        let mut blocked = self.compiled.blocked();
        blocked.retain(|net| !before.contains(net));
        if blocked.is_empty() {
            return String::new();
        }
        if self.compiled.settings.flags & SETTING_OBSERVE != 0 {
            return "; nothing is dropped or closed while the policy only observes".to_owned();
        }
        let closed: Result<usize> = blocked
            .into_iter()
            .map(|net| self.kernel.disconnect(net))
            .sum();
        match closed {
            Ok(closed) => format!(
                "; closed {closed} open {}",
                plural(closed, "connection", "connections")
            ),
            Err(error) => format!("; open connections could not be closed: {error:#}"),
        }
    }

    fn save(&mut self) {
        let path = self.options.overrides();
        let trouble = self.overrides.save(&path).err().map(|error| {
            format!(
                "runtime settings hold, but will not outlive the daemon: cannot write {}: {error}",
                path.display()
            )
        });
        self.set_trouble(SAVING, trouble);
    }

    fn status(&self) -> model::Status {
        let totals = self.sampler.totals();
        let stats = Stat::ALL.iter().zip(self.sampler.stats());
        let mut counters: std::collections::BTreeMap<_, _> = stats
            .map(|(stat, value)| (stat.name().to_owned(), *value))
            .collect();
        counters.insert("placed_flows".to_owned(), self.sampler.placed_flows());
        counters.insert("samples".to_owned(), self.samples);
        counters.insert("sample_failures".to_owned(), self.sample_failures);
        counters.insert("sample_us".to_owned(), self.sample_us);
        let mut warnings = self.kernel.warnings();
        warnings.extend(self.trouble.iter().flatten().cloned());
        let quotas = self.quota_store();
        warnings.extend(quotas.as_ref().and_then(|store| store.damaged.clone()));
        let haproxy = self.sampler.view().sockets_at(Instant::now());
        warnings.extend(haproxy.iter().filter_map(|socket| socket.error.clone()));
        let [upload, download] = totals.traffic;
        model::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode(self.policy.mode).to_owned(),
            policy: self
                .from_file
                .then(|| self.options.policy.path.display().to_string()),
            since: self.since,
            interfaces: self.kernel.interfaces(),
            backpressure: self.kernel.backpressure(),
            hard_limit_only: totals.hard_limit_only,
            tables: self.kernel.tables(),
            overflow: self.kernel.overflow(),
            groups: self.sampler.groups(),
            haproxy,
            quotas,
            // Known where they run, outside of this thread.
            drains: Vec::new(),
            flows: totals.flows,
            clients: totals.clients,
            counters,
            limited: totals.limited,
            upload,
            download,
            ports: self.policy.ports.clone(),
            pid: std::process::id(),
            at: self.sampler.at(),
            warnings,
        }
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
    }
}

const fn plural<'a>(count: usize, one: &'a str, more: &'a str) -> &'a str {
    if count == 1 { one } else { more }
}

#[cfg(test)]
mod tests;
