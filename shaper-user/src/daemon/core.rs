//! What the daemon knows, and what each command does to it. Without clocks,
//! threads and sockets, so that every step is tested alone.

mod join;
mod numbers;

pub(super) use join::Plan;

use super::audit::{self, About, By, Denials};
use super::caps::Places;
use super::events::{Clocks, EventLog};
use super::notify;
use super::presence::Presence;
use super::quota::Quotas;
use crate::control::server::{Answer, Peer};
use crate::control::socket::set_group;
use crate::events::bus::Bus;
use crate::events::{Event, Part, cut};
use crate::filter::FilterError;
use crate::haproxy::View;
use crate::haproxy::agent::Feed;
use crate::history::Recorder;
use crate::kernel::Kernel;
use crate::metrics::Health;
use crate::model;
use crate::policy::changes::{Change, changes};
use crate::policy::client;
use crate::policy::{Compiled, Expiry, Haproxy, Metrics, Mode, OnExit, Policy, Rate, RateLimit};
use crate::protocol::{Command, Done, ErrorBody, ErrorCode};
use crate::quota::store::FILE;
use crate::runtime::{self, Overrides};
use crate::sampler::Sampler;
use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use sd_notify::NotifyState;
use shaper_common::class::SETTING_OBSERVE;
use shaper_common::stats::Stat;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Where the policy is.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// The file.
    pub path: PathBuf,
    /// Named by the operator: it must exist. Else the daemon observes only
    /// where it does not.
    pub required: bool,
}

/// What the command line says over the policy.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the policy is.
    pub policy: PolicyFile,
    /// In the place of the policy's interfaces, unless empty.
    pub interfaces: Vec<String>,
    /// Observe only, whatever the policy says.
    pub observe: bool,
    /// The control socket. What is set at runtime is kept beside it.
    pub socket: PathBuf,
    /// The directory of what outlives a reboot.
    pub state: PathBuf,
}

impl Options {
    /// Reads the policy and lays the command line over it. Whether it came from
    /// the file is the second value.
    ///
    /// # Errors
    /// When the file has mistakes, or cannot be read although it must.
    pub fn load(&self) -> Result<(Policy, bool)> {
        let file = &self.policy;
        let found = file.required || file.path.exists();
        let mut policy = if found {
            Policy::load(&file.path)?
        } else {
            Policy::observe_only()
        };
        if !self.interfaces.is_empty() {
            policy.interfaces.clone_from(&self.interfaces);
            // As in the file, "auto" is the default route's.
            policy.interfaces.retain(|name| name != "auto");
        }
        if self.observe {
            policy.mode = Mode::Observe;
        }
        Ok((policy, found))
    }

    /// Where runtime limits and blocks are kept.
    #[must_use]
    pub fn overrides(&self) -> PathBuf {
        overrides_beside(&self.socket)
    }
}

/// Where the daemon of a socket keeps runtime limits and blocks.
#[must_use]
pub fn overrides_beside(socket: &Path) -> PathBuf {
    socket.with_file_name("overrides.json")
}

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

/// Parts of a reloaded policy that have a line each in the log.
const CHANGES_LOGGED: usize = 64;

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

    /// Keeps a history from now on.
    pub fn keep_history(&mut self, recorder: Recorder) {
        self.recorder = recorder;
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
        self.recorder.observe(
            &self.policy.history,
            &self.options.state,
            &self.sampler,
            now,
        );
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

    /// Does a command, or says why not.
    pub fn handle(
        &mut self,
        command: Command,
        peer: Peer,
        now: Timestamp,
    ) -> Result<Answer, ErrorBody> {
        let bad_filter = |error: FilterError| ErrorBody::bad(error.to_string());
        if !command.changes() {
            return match &command {
                Command::Flows(query) => self
                    .sampler
                    .flows(query)
                    .map(Answer::Flows)
                    .map_err(bad_filter),
                Command::Clients(query) => self
                    .sampler
                    .clients(query, &self.overrides.list(), self.quotas.over())
                    .map(|clients| Answer::Clients(self.with_quotas(clients)))
                    .map_err(bad_filter),
                Command::Servers(query) => self
                    .sampler
                    .servers(query)
                    .map(|servers| Answer::Servers(self.with_limits(servers)))
                    .map_err(bad_filter),
                Command::Quota { client } => self.quota(client, now).map(Answer::Quota),
                _ => Ok(Answer::Status(Box::new(self.status()))),
            };
        }
        self.allow(&command, peer)?;
        // What has ended since the last tick must not go on as part of what is set
        // now.
        self.expire(now);
        let before = self
            .subject(&command)
            .map(|client| (client, self.words_for(&command, client)));
        let result = match command {
            Command::Reload => self.audited_reload(By::Peer(peer), now),
            Command::ResetQuota { ref client } => self.change_quota(client, None, now),
            Command::AddQuota {
                ref client,
                ref bytes,
            } => self.change_quota(client, Some(bytes), now),
            _ => self.change(&command, now),
        };
        match (&result, &before) {
            // One that was done has its line.
            (Ok(_), None) => {}
            (Ok(message), Some((client, before))) => {
                let about = About {
                    client: Some(&client::display(*client)),
                    before: Some(before),
                    after: Some(&self.words_for(&command, *client)),
                    part: None,
                };
                let (action, by) = (audit::action(&command), By::Peer(peer));
                audit::done(action, by, about, message);
                self.record(audit::event(action, by, about, message), now);
            }
            (Err(error), _) => {
                let (action, by) = (audit::action(&command), By::Peer(peer));
                audit::refused(action, by, Some(&command), &error.message);
                let event = audit::refusal(action, by, "refused", &error.message);
                self.bus.record(event, now);
            }
        }
        result.map(|message| Answer::Done(Done { message }))
    }

    /// What a command is to change, as it is.
    fn words_for(&self, command: &Command, client: IpNet) -> String {
        match command {
            Command::ResetQuota { .. } | Command::AddQuota { .. } => self.quota_words(client),
            _ => self.held(client),
        }
    }

    /// Whom a command sets something for.
    fn subject(&self, command: &Command) -> Option<IpNet> {
        match command {
            Command::Limit { client, .. }
            | Command::ClearLimit { client }
            | Command::Block { client, .. }
            | Command::Unblock { client }
            | Command::ResetQuota { client }
            | Command::AddQuota { client, .. } => self.client(client).ok(),
            _ => None,
        }
    }

    /// Whether `peer` may change something.
    fn allow(&mut self, command: &Command, peer: Peer) -> Result<(), ErrorBody> {
        if peer.uid == 0 || self.policy.control_uids.contains(&peer.uid) {
            return Ok(());
        }
        if self.denials.add(command, peer, Instant::now()) {
            let (action, by) = (audit::action(command), By::Peer(peer));
            let event = audit::refusal(action, by, "denied", "this user may not change anything");
            self.bus.record(event, Timestamp::now());
        }
        Err(ErrorBody::new(
            ErrorCode::Denied,
            format!(
                "user {} may not change anything here; be root, or be named in `uids` of [control] in \
                 the policy",
                peer.uid
            ),
        ))
    }

    fn change(&mut self, command: &Command, now: Timestamp) -> Result<String, ErrorBody> {
        let failed = |error: anyhow::Error| ErrorBody::new(ErrorCode::Failed, format!("{error:#}"));
        let mut overrides = self.overrides.clone();
        let message = match command {
            Command::Limit {
                client,
                upload,
                download,
                for_ms,
            } => {
                let client = self.client(client)?;
                let (up, down) = (rate(upload.as_deref())?, rate(download.as_deref())?);
                if up.is_none() && down.is_none() {
                    return Err(ErrorBody::bad("expected `upload`, `download` or both"));
                }
                overrides.set_limit(client, up, down, expiry(now, *for_ms)?);
                let parts: Vec<_> = [("upload", upload), ("download", download)]
                    .iter()
                    .filter_map(|(name, rate)| rate.as_ref().map(|rate| format!("{name} {rate}")))
                    .collect();
                format!(
                    "limited {}: {}{}",
                    client::display(client),
                    parts.join(", "),
                    duration(*for_ms)
                )
            }
            Command::ClearLimit { client } => {
                let client = self.client(client)?;
                if !overrides.clear_limit(client) {
                    return Ok(format!("{} had no runtime limit", client::display(client)));
                }
                format!("{} is back to the policy's limits", client::display(client))
            }
            Command::Block { client, for_ms } => {
                let client = self.client(client)?;
                overrides.set_block(client, expiry(now, *for_ms)?);
                let closed = self.apply_overrides(overrides).map_err(failed)?;
                let message = format!(
                    "blocked {}{}{closed}",
                    client::display(client),
                    duration(*for_ms)
                );
                return Ok(self.saved(message));
            }
            Command::Unblock { client } => {
                let client = self.client(client)?;
                if !overrides.unblock(client) {
                    return Ok(format!("{} had no runtime block", client::display(client)));
                }
                format!(
                    "{} is no longer blocked at runtime",
                    client::display(client)
                )
            }
            // The first change nothing; of the others see `Core::plan`.
            Command::Flows(_)
            | Command::Clients(_)
            | Command::Servers(_)
            | Command::History(_)
            | Command::Status
            | Command::Events(_)
            | Command::Quota { .. }
            | Command::ResetQuota { .. }
            | Command::AddQuota { .. }
            | Command::Kill { .. }
            | Command::Drain { .. }
            | Command::Reload
            | Command::StopDrain { .. } => {
                return Err(ErrorBody::bad("not a change of the policy"));
            }
        };
        self.apply_overrides(overrides).map_err(failed)?;
        Ok(self.saved(message))
    }

    pub(super) fn client(&self, text: &str) -> Result<IpNet, ErrorBody> {
        runtime::parse_client(text, self.policy.ipv4_prefix, self.policy.ipv6_prefix)
            .map_err(|error| ErrorBody::bad(error.to_string()))
    }

    /// Reads the policy again, as SIGHUP asks: the log has what came of it.
    pub fn hangup(&mut self) {
        let now = Timestamp::now();
        if let Err(error) = self.audited_reload(By::Hangup, now) {
            audit::refused("reload", By::Hangup, None, &error.message);
            let event = audit::refusal("reload", By::Hangup, "refused", &error.message);
            self.bus.record(event, now);
        }
    }

    /// A reload that was done has a line for itself, and one for each part of the
    /// policy that is another now.
    fn audited_reload(&mut self, by: By, now: Timestamp) -> Result<String, ErrorBody> {
        let before = self.policy.clone();
        let message = self
            .reload()
            .map_err(|error| ErrorBody::new(ErrorCode::Failed, format!("{error:#}")))?;
        audit::done("reload", by, About::default(), &message);
        let changes = changes(&before, &self.policy);
        for change in changes.iter().take(CHANGES_LOGGED) {
            let about = About {
                part: Some(&change.what),
                before: Some(&change.before),
                after: Some(&change.after),
                client: None,
            };
            audit::done("reload", by, about, &format!("changed: {}", change.what));
        }
        if let Some(more) = changes.len().checked_sub(CHANGES_LOGGED).filter(|n| *n > 0) {
            let message = format!("changed: {more} more parts of the policy");
            audit::done("reload", by, About::default(), &message);
        }
        self.bus.record(changed(by, &message, &changes), now);
        Ok(message)
    }

    /// Reads the policy again. On any failure the old one stays in force.
    fn reload(&mut self) -> Result<String> {
        notify::reloading();
        let result = self.try_reload();
        notify::send(&[NotifyState::Ready]);
        result
            .map(|message| format!("reloaded: {message}"))
            .context("not reloaded, the old policy stays in force")
    }

    fn try_reload(&mut self) -> Result<String> {
        let (policy, from_file) = self.options.load()?;
        let over = self.quotas.over().to_vec();
        let compiled = policy.compile_over(&self.overrides.list(), &over)?;
        let regroup = policy.control_group != self.policy.control_group;
        if regroup {
            set_group(&self.options.socket, policy.control_group.as_deref())?;
        }
        let closed = match self.apply(compiled) {
            Ok(closed) => closed,
            Err(error) => {
                if regroup {
                    set_group(&self.options.socket, self.policy.control_group.as_deref())?;
                }
                return Err(error);
            }
        };
        self.policy = policy;
        self.held_over = over;
        self.follow_quotas(Timestamp::now());
        self.hold_over();
        // Those that the policy does not mean any more have not gone.
        self.presence.settle(&self.kernel.interfaces());
        self.feed.listen(self.policy.haproxy.agent);
        self.metrics.send_replace(self.policy.metrics);
        self.from_file = from_file;
        Ok(format!("{}{closed}", self.in_force()))
    }

    fn in_force(&self) -> String {
        let source = if self.from_file {
            self.options.policy.path.display().to_string()
        } else {
            "the default (no policy file)".to_owned()
        };
        let ports: Vec<_> = self.policy.ports.iter().map(u16::to_string).collect();
        let rules = self.policy.rules.len() + self.policy.places.len();
        format!(
            "{source} is in force: {}, {} {}, {} {}",
            mode(self.policy.mode),
            rules,
            plural(rules, "rule", "rules"),
            plural(ports.len(), "port", "ports"),
            ports.join(", ")
        )
    }

    fn apply_overrides(&mut self, overrides: Overrides) -> Result<String> {
        let compiled = self
            .policy
            .compile_over(&overrides.list(), &self.held_over)?;
        let closed = self.apply(compiled)?;
        self.overrides = overrides;
        Ok(closed)
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

    fn saved(&mut self, message: String) -> String {
        self.save();
        match &self.trouble[SAVING] {
            Some(trouble) => format!("{message}; {trouble}"),
            None => message,
        }
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

/// The event of a reload.
fn changed(by: By, message: &str, changes: &[Change]) -> Event {
    let part = |change: &Change| Part {
        part: cut(&change.what),
        before: cut(&change.before),
        after: cut(&change.after),
    };
    Event::PolicyChanged {
        by: by.who(),
        message: cut(message),
        changes: changes.iter().take(CHANGES_LOGGED).map(part).collect(),
        more: changes.len().saturating_sub(CHANGES_LOGGED) as u64,
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

fn rate(text: Option<&str>) -> Result<Option<RateLimit>, ErrorBody> {
    text.map(|text| {
        text.parse::<Rate>()
            .map(RateLimit::of)
            .map_err(|error| ErrorBody::bad(error.to_string()))
    })
    .transpose()
}

fn expiry(now: Timestamp, for_ms: Option<u64>) -> Result<Expiry, ErrorBody> {
    let Some(ms) = for_ms else { return Ok(None) };
    if ms == 0 {
        return Err(ErrorBody::bad("a duration of zero would end at once"));
    }
    i64::try_from(ms)
        .ok()
        .and_then(|ms| now.checked_add(SignedDuration::from_millis(ms)).ok())
        .map(Some)
        .ok_or_else(|| ErrorBody::bad("the duration is too long; leave it out for no end"))
}

fn duration(for_ms: Option<u64>) -> String {
    for_ms.map_or_else(String::new, |ms| {
        format!(
            " for {}",
            humantime::format_duration(Duration::from_millis(ms))
        )
    })
}

#[cfg(test)]
mod tests;
