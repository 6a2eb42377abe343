//! The policy, read again.

use super::{Core, mode, plural};
use crate::control::socket::set_group;
use crate::daemon::audit::{self, About, By};
use crate::daemon::notify;
use crate::events::{Event, Part, cut};
use crate::kernel::Kernel;
use crate::policy::changes::{Change, changes};
use crate::protocol::{ErrorBody, ErrorCode};
use anyhow::{Context, Result};
use jiff::Timestamp;
use sd_notify::NotifyState;

/// Parts of a reloaded policy that have a line each in the log.
pub(super) const CHANGES_LOGGED: usize = 64;

impl<K: Kernel> Core<K> {
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
    pub(super) fn audited_reload(&mut self, by: By, now: Timestamp) -> Result<String, ErrorBody> {
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

    pub(super) fn in_force(&self) -> String {
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
