//! A drain that runs: a look at the server every second, and a session closed
//! whenever one is due.

use super::{Actions, SECOND, lock};
use crate::control::server::Peer;
use crate::haproxy::drain::Plan;
use crate::haproxy::kill::{Ended, KillError, Target};
use crate::render::units;
use std::future::Future;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// The part of what a server carries in a second that counts at once: a second
/// of silence must not end a drain.
const SMOOTHING: f64 = 0.2;

/// How a drain ended.
pub(super) enum End {
    /// It did what it should.
    Done(&'static str),
    /// It was told to.
    Stopped,
    /// It could not go on.
    Failed(String),
}

impl Actions {
    pub(super) async fn run<F, L>(
        &self,
        plan: &Plan,
        peer: Peer,
        load: F,
        mut stopped: watch::Receiver<()>,
    ) -> End
    where
        F: Fn() -> L + Send + Sync + 'static,
        L: Future<Output = Result<u64, String>> + Send,
    {
        let mut targets = plan.targets.iter();
        let mut rate = float(plan.rate);
        let mut due = Instant::now();
        let mut ticks = interval(SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stopped.changed() => return End::Stopped,
                _ = ticks.tick() => {}
            }
            match load().await {
                Ok(now) => rate += SMOOTHING * (float(now) - rate),
                Err(why) => return End::Failed(why),
            }
            self.tell(&plan.server, |status| status.now_bps = whole(rate));
            if rate <= float(plan.target_rate()) {
                return End::Done("the server carries little enough");
            }
            while due <= Instant::now() {
                let Some(target) = targets.next() else {
                    return End::Done("every session that was to be closed is");
                };
                while !self.permit() {
                    tokio::select! {
                        _ = stopped.changed() => return End::Stopped,
                        () = sleep(SECOND / 10) => {}
                    }
                }
                if let Err(why) = self.close(plan, peer, target).await {
                    return End::Failed(why);
                }
                if stopped.has_changed().unwrap_or(true) {
                    return End::Stopped;
                }
                due += plan.interval();
            }
        }
    }

    /// Closes one session of a drain. What ends the drain is an error.
    async fn close(&self, plan: &Plan, peer: Peer, target: &Target) -> Result<(), String> {
        let server = &plan.server;
        let ended = target.kill().await;
        let closed = matches!(ended, Ok(Ended::Closed));
        self.tell(server, |status| {
            status.closed += u64::from(closed);
            status.gone += u64::from(!closed);
        });
        let (uid, pid) = (peer.uid, peer.pid);
        match ended {
            Ok(Ended::Closed) => {
                let rate = units::rate(target.rate);
                let client = target.client.to_string();
                tracing::info!(
                    uid,
                    pid,
                    by = "control",
                    audit = true,
                    action = "drain",
                    outcome = "done",
                    client,
                    before = "open",
                    after = "closed",
                    "drain of {server}: closed {target}, {rate}"
                );
            }
            Ok(Ended::Gone) => {
                tracing::info!(uid, pid, "drain of {server}: {target} is already gone")
            }
            // The next ones would fail in the same way.
            Err(error @ KillError::Ask(_)) => return Err(error.to_string()),
            Err(error) => tracing::warn!(uid, pid, "drain of {server}: {error}"),
        }
        Ok(())
    }

    pub(super) fn ended(&self, server: &str, peer: Peer, end: End) {
        let (uid, pid) = (peer.uid, peer.pid);
        let (state, reason) = match end {
            End::Done(why) => ("done", why.to_owned()),
            End::Stopped => ("stopped", "it was stopped".to_owned()),
            End::Failed(why) => ("failed", why),
        };
        let (mut closed, mut planned) = (0, 0);
        self.tell(server, |status| {
            state.clone_into(&mut status.state);
            status.reason = Some(reason.clone());
            (closed, planned) = (status.closed, status.planned);
        });
        if let Some(drain) = lock(&self.drains).get_mut(server) {
            drain.stop = None;
        }
        let text = format!("the drain of {server} is over, {closed} of {planned} closed: {reason}");
        if state == "failed" {
            tracing::warn!(uid, pid, "{text}");
        } else {
            tracing::info!(uid, pid, "{text}");
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn float(rate: u64) -> f64 {
    rate as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}
