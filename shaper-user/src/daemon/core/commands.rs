//! What each command asks for or changes, and who may.

use super::{Core, SAVING};
use crate::control::server::{Answer, Peer};
use crate::daemon::audit::{self, About, By};
use crate::filter::FilterError;
use crate::kernel::Kernel;
use crate::policy::{Expiry, Rate, RateLimit, client};
use crate::protocol::{Command, Done, ErrorBody, ErrorCode};
use crate::runtime::{self, Overrides};
use anyhow::Result;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use std::time::{Duration, Instant};

impl<K: Kernel> Core<K> {
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
    pub(super) fn allow(&mut self, command: &Command, peer: Peer) -> Result<(), ErrorBody> {
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

    pub(in crate::daemon) fn client(&self, text: &str) -> Result<IpNet, ErrorBody> {
        runtime::parse_client(text, self.policy.ipv4_prefix, self.policy.ipv6_prefix)
            .map_err(|error| ErrorBody::bad(error.to_string()))
    }

    pub(super) fn apply_overrides(&mut self, overrides: Overrides) -> Result<String> {
        let compiled = self
            .policy
            .compile_over(&overrides.list(), &self.held_over)?;
        let closed = self.apply(compiled)?;
        self.overrides = overrides;
        Ok(closed)
    }

    pub(super) fn saved(&mut self, message: String) -> String {
        self.save();
        match &self.trouble[SAVING] {
            Some(trouble) => format!("{message}; {trouble}"),
            None => message,
        }
    }
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
