//! What the core knows of HAProxy's sessions, for those who act on them.

use super::Core;
use crate::control::server::Peer;
use crate::daemon::audit;
use crate::haproxy::drain::{self, server_name};
use crate::haproxy::kill::{FlowName, Target};
use crate::haproxy::weights::ServerName;
use crate::kernel::Kernel;
use crate::policy::Action;
use crate::protocol::{Command, ErrorBody, ErrorCode};
use jiff::Timestamp;
use std::time::Duration;

/// What is to be done to HAProxy's sessions.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// End one session, or only look at it.
    Kill { target: Target, dry_run: bool },
    /// End the heaviest sessions of a server.
    Drain(drain::Plan),
    /// Say what that would do.
    DryDrain(drain::Plan),
    /// End a drain of `backend/server`.
    StopDrain { server: String },
}

impl<K: Kernel> Core<K> {
    /// Whether `peer` may do this and the policy allows it, and to which sessions.
    pub fn plan(&mut self, command: &Command, peer: Peer) -> Result<Plan, ErrorBody> {
        self.allow(command, peer)?;
        self.resolve(command).inspect_err(|error| {
            let event = audit::session(command, peer, &Err(error.clone()));
            self.record(event, Timestamp::now());
        })
    }

    fn resolve(&self, command: &Command) -> Result<Plan, ErrorBody> {
        let failed = |why: String| ErrorBody::new(ErrorCode::Failed, why);
        match command {
            Command::Kill { flow, dry_run } => {
                self.allowed(Action::Kill).map_err(failed)?;
                let flow: FlowName = flow.parse().map_err(bad)?;
                let target = self.sampler.target(&flow);
                Ok(Plan::Kill {
                    target: target.map_err(|error| failed(error.to_string()))?,
                    dry_run: *dry_run,
                })
            }
            Command::Drain {
                server,
                percent,
                over_ms,
                dry_run,
            } => {
                self.allowed(Action::Drain).map_err(failed)?;
                let server = server_name(server).map_err(bad)?;
                let pinned = self.sampler.pinned(&server);
                if let Some(stale) = pinned.iter().find(|target| target.session.stale) {
                    let socket = stale.session.socket.display();
                    return Err(failed(format!(
                        "{socket} has not answered for a while, so nothing is closed there; \
                         `shaper status` says why"
                    )));
                }
                let over = Duration::from_millis(*over_ms);
                let plan = drain::Plan::new(&server, pinned, *percent, over).map_err(bad)?;
                Ok(if *dry_run {
                    Plan::DryDrain(plan)
                } else {
                    Plan::Drain(plan)
                })
            }
            Command::StopDrain { server } => Ok(Plan::StopDrain {
                server: server.clone(),
            }),
            _ => Err(ErrorBody::bad("nothing that is done to a session")),
        }
    }

    /// What the sessions of a server carry, in bits per second of both directions.
    ///
    /// # Errors
    /// When the policy does not allow drains any more.
    pub fn load(&self, server: &ServerName) -> Result<u64, String> {
        self.allowed(Action::Drain)?;
        let pinned = self.sampler.pinned(server);
        Ok(pinned.iter().map(|target| target.rate).sum())
    }

    /// The agent's part of every second.
    pub(super) fn feed_agent(&mut self) {
        if self.feed.wanted() {
            let view = self.sampler.view();
            self.feed.update(view, &self.sampler.loads());
        }
    }

    fn allowed(&self, action: Action) -> Result<(), String> {
        let actions = &self.policy.haproxy.actions;
        if actions.contains(&action) {
            return Ok(());
        }
        let mut needed = actions.clone();
        needed.push(action);
        let needed: Vec<_> = needed
            .iter()
            .map(|action| format!("\"{action}\""))
            .collect();
        Err(format!(
            "the policy does not allow to {action}: write `actions = [{}]` under [haproxy], then \
             `shaper reload`",
            needed.join(", ")
        ))
    }
}

fn bad(error: impl std::fmt::Display) -> ErrorBody {
    ErrorBody::bad(error.to_string())
}

#[cfg(test)]
mod tests;
