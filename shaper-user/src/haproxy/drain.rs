//! Which sessions of a server a drain closes, and when.

use super::kill::Target;
use super::weights::ServerName;
use crate::render::units;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Sessions closed in a second, of all commands together.
pub const CLOSED_PER_SECOND: usize = 10;
/// The shortest and longest drain.
const OVER: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// How many sessions a dry run names.
const NAMED: usize = 50;

/// Why nothing can be drained.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Not `backend/server`.
    #[error("`{}` names no server; allowed: backend/server, as `shaper servers` prints them", .0.escape_debug())]
    Name(String),
    /// The share is none.
    #[error("the share is {0}%; allowed: 1% to 100%")]
    Share(u8),
    /// The time is too short or long.
    #[error("the time is {}; allowed: 1s to 24h", humantime::format_duration(*.0))]
    Over(Duration),
    /// Nothing is there.
    #[error("no open session is pinned to {0}; `shaper servers` lists the servers that have some")]
    Empty(String),
    /// Nothing moves.
    #[error("nothing moves on {0} now, so no session carries a share of it")]
    Idle(String),
    /// More than is allowed a second.
    #[error(
        "these are {sessions} sessions, and at most {CLOSED_PER_SECOND} are closed in a second: take \
         at least {}", humantime::format_duration(*least)
    )]
    TooFast {
        /// How many.
        sessions: usize,
        /// The shortest time for them.
        least: Duration,
    },
}

/// Reads `backend/server`.
///
/// # Errors
/// When it is not that.
pub fn server_name(text: &str) -> Result<ServerName, PlanError> {
    match text.split_once('/') {
        // HAProxy allows no other characters in names.
        Some((backend, server))
            if [backend, server].iter().all(|name| {
                let known = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
                !name.is_empty() && name.chars().all(known)
            }) =>
        {
            Ok((Arc::from(backend), Arc::from(server)))
        }
        _ => Err(PlanError::Name(text.to_owned())),
    }
}

/// What a drain does.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The server, as `backend/server`.
    pub server: String,
    /// The part of the server's rate that is to go, in percent.
    pub percent: u8,
    /// From the first session to where one more would be closed.
    pub over: Duration,
    /// What the server carries now, in bits per second of both directions.
    pub rate: u64,
    /// How many sessions it has.
    pub sessions: usize,
    /// What is closed, the heaviest first.
    pub targets: Vec<Target>,
}

impl Plan {
    /// Of the sessions `pinned` to a server, the heaviest that together carry the
    /// share.
    ///
    /// # Errors
    /// When there are none, or the share or time is not allowed.
    pub fn new(
        (backend, server): &ServerName,
        mut pinned: Vec<Target>,
        percent: u8,
        over: Duration,
    ) -> Result<Self, PlanError> {
        let server = format!("{backend}/{server}");
        if !(1..=100).contains(&percent) {
            return Err(PlanError::Share(percent));
        }
        if !OVER.contains(&over) {
            return Err(PlanError::Over(over));
        }
        if pinned.is_empty() {
            return Err(PlanError::Empty(server));
        }
        let rate = pinned.iter().map(|target| target.rate).sum();
        if rate == 0 {
            return Err(PlanError::Idle(server));
        }
        let sessions = pinned.len();
        pinned.sort_by_key(|target| (std::cmp::Reverse(target.rate), target.client));
        let mut carried = 0;
        let enough = pinned.iter().position(|target| {
            carried += u128::from(target.rate) * 100;
            carried >= u128::from(rate) * u128::from(percent)
        });
        pinned.truncate(enough.map_or(sessions, |last| last + 1));
        let seconds = pinned.len().div_ceil(CLOSED_PER_SECOND);
        let least = Duration::from_secs(seconds as u64);
        if over < least {
            let sessions = pinned.len();
            return Err(PlanError::TooFast { sessions, least });
        }
        Ok(Self {
            server,
            percent,
            over,
            rate,
            sessions,
            targets: pinned,
        })
    }

    /// The rate, in bits per second, at which there is enough room.
    #[must_use]
    pub fn target_rate(&self) -> u64 {
        let left = u128::from(self.rate) * u128::from(100 - self.percent) / 100;
        u64::try_from(left).unwrap_or(u64::MAX)
    }

    /// Time between two sessions.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.over / u32::try_from(self.targets.len()).unwrap_or(u32::MAX).max(1)
    }

    /// In words: how many sessions, how much they carry, and when.
    #[must_use]
    pub fn summary(&self) -> String {
        let closed = self.targets.len();
        let carried = self.targets.iter().map(|target| target.rate).sum();
        let pace = if closed == 1 {
            "at once".to_owned()
        } else {
            // Whole seconds where there are some.
            let interval = self.interval();
            let interval = match interval.as_secs() {
                0 => Duration::from_millis(u64::from(interval.subsec_millis())),
                seconds => Duration::from_secs(seconds),
            };
            format!("one every {}", humantime::format_duration(interval))
        };
        format!(
            "{closed} of the {} sessions of {}, which carry {} of its {}, {pace}, until it carries at \
             most {}",
            self.sessions,
            self.server,
            units::rate(carried),
            units::rate(self.rate),
            units::rate(self.target_rate())
        )
    }

    /// What a dry run answers: every session, up to a number of lines.
    #[must_use]
    pub fn dry_run(&self) -> String {
        let mut text = format!("would close {}:", self.summary());
        for target in self.targets.iter().take(NAMED) {
            let Target {
                client,
                session,
                rate,
            } = target;
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "\n  {client}  {:#x}  {}",
                session.id,
                units::rate(*rate)
            );
        }
        if self.targets.len() > NAMED {
            let _ = write!(text, "\n  and {} more", self.targets.len() - NAMED);
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests;
