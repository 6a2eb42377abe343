//! Sessions are ended here: at most so many a second, one drain a server at a
//! time, and each ending in the log.

mod run;

use super::drain::{CLOSED_PER_SECOND, Plan};
use super::kill::{Ended, KillError, Target};
use crate::control::server::Peer;
use crate::model;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

/// Drains that are over and still in `status`.
const REMEMBERED: usize = 16;
const SECOND: Duration = Duration::from_secs(1);

/// Why a session was not ended, or a drain not begun or stopped.
#[derive(Debug, Error)]
pub enum ActionError {
    /// The session.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// Too many.
    #[error("{CLOSED_PER_SECOND} sessions were closed within a second already; try again")]
    TooMany,
    /// One at a time.
    #[error("{0} is being drained already; `shaper drain {0} --stop` ends that")]
    Running(String),
    /// None to stop.
    #[error("{0} is not being drained; `shaper status` lists the drains")]
    NotRunning(String),
}

/// Everything that ends sessions.
#[derive(Debug, Default)]
pub struct Actions {
    /// When the last sessions were looked at to be ended.
    recent: Mutex<VecDeque<Instant>>,
    /// By `backend/server`.
    drains: Mutex<BTreeMap<String, Drain>>,
}

#[derive(Debug)]
struct Drain {
    status: model::Drain,
    /// Ends it when it is sent or dropped; `None` when it is over.
    stop: Option<watch::Sender<()>>,
}

impl Actions {
    /// Ends the session of a flow, or with `dry_run` only looks at it; says what
    /// was done.
    ///
    /// # Errors
    /// When it is not known to be closed.
    pub async fn kill(&self, target: &Target, dry_run: bool) -> Result<String, ActionError> {
        if !self.permit() {
            return Err(ActionError::TooMany);
        }
        let ended = if dry_run {
            if target.is_open().await? {
                return Ok(format!("would close {target}"));
            }
            Ended::Gone
        } else {
            target.kill().await?
        };
        Ok(match ended {
            Ended::Closed => format!("closed {target}"),
            Ended::Gone => format!("{target} is already gone"),
        })
    }

    /// Begins a drain, which asks `load` every second what the server carries,
    /// in bits per second; says what it will do.
    ///
    /// # Errors
    /// When the server is being drained already.
    pub fn drain<F, L>(
        self: &Arc<Self>,
        plan: Plan,
        peer: Peer,
        load: F,
    ) -> Result<String, ActionError>
    where
        F: Fn() -> L + Send + Sync + 'static,
        L: Future<Output = Result<u64, String>> + Send,
    {
        let message = format!(
            "draining {}: closes {}; `shaper status` shows how far it is, `shaper drain {} --stop` ends it",
            plan.server,
            plan.summary(),
            plan.server
        );
        let (stop, stopped) = watch::channel(());
        {
            let mut drains = lock(&self.drains);
            if drains
                .get(&plan.server)
                .is_some_and(|drain| drain.stop.is_some())
            {
                return Err(ActionError::Running(plan.server));
            }
            forget(&mut drains);
            let status = begun(&plan, Timestamp::now());
            let stop = Some(stop);
            drains.insert(plan.server.clone(), Drain { status, stop });
        }
        let actions = Arc::clone(self);
        tokio::spawn(async move {
            let end = actions.run(&plan, peer, load, stopped).await;
            actions.ended(&plan.server, peer, end);
        });
        Ok(message)
    }

    /// Ends a drain; says so.
    ///
    /// # Errors
    /// When none runs there.
    pub fn stop(&self, server: &str) -> Result<String, ActionError> {
        let mut drains = lock(&self.drains);
        let stop = drains.get_mut(server).and_then(|drain| drain.stop.as_ref());
        let Some(stop) = stop else {
            return Err(ActionError::NotRunning(server.to_owned()));
        };
        stop.send_replace(());
        Ok(format!(
            "the drain of {server} ends; what it closed stays closed"
        ))
    }

    /// Every drain that runs, and the last that did, by server.
    #[must_use]
    pub fn drains(&self) -> Vec<model::Drain> {
        let drains = lock(&self.drains);
        drains.values().map(|drain| drain.status.clone()).collect()
    }

    fn tell(&self, server: &str, change: impl FnOnce(&mut model::Drain)) {
        if let Some(drain) = lock(&self.drains).get_mut(server) {
            change(&mut drain.status);
        }
    }

    /// Whether one more session may be ended now.
    fn permit(&self) -> bool {
        let mut recent = lock(&self.recent);
        let now = Instant::now();
        while recent.front().is_some_and(|at| now - *at >= SECOND) {
            recent.pop_front();
        }
        let free = recent.len() < CLOSED_PER_SECOND;
        if free {
            recent.push_back(now);
        }
        free
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room for one more.
fn forget(drains: &mut BTreeMap<String, Drain>) {
    let over = drains.iter().filter(|(_, drain)| drain.stop.is_none());
    if over.clone().count() < REMEMBERED {
        return;
    }
    let oldest = over
        .min_by_key(|(_, drain)| drain.status.since)
        .map(|(server, _)| server.clone());
    if let Some(oldest) = oldest {
        drains.remove(&oldest);
    }
}

fn begun(plan: &Plan, now: Timestamp) -> model::Drain {
    let over = SignedDuration::try_from(plan.over).unwrap_or(SignedDuration::ZERO);
    model::Drain {
        server: plan.server.clone(),
        state: "running".to_owned(),
        share: f64::from(plan.percent) / 100.0,
        rate_bps: plan.rate,
        target_bps: plan.target_rate(),
        now_bps: plan.rate,
        planned: plan.targets.len() as u64,
        closed: 0,
        gone: 0,
        since: now,
        until: now.checked_add(over).unwrap_or(now),
        reason: None,
    }
}

#[cfg(test)]
mod tests;
