//! What is done to HAProxy's sessions: planned by the kernel's thread, done here,
//! where a slow HAProxy holds nobody up.

use super::core::Plan;
use super::{Handle, Message, audit, stopping};
use crate::control::server::{Answer, Peer};
use crate::haproxy::actions::ActionError;
use crate::haproxy::drain::server_name;
use crate::protocol::{Command, Done, ErrorBody, ErrorCode};
use jiff::Timestamp;

impl Handle {
    /// Kills, drains or ends a drain; the log has who asked and what came of it.
    pub(super) async fn act(&self, command: Command, peer: Peer) -> Result<Answer, ErrorBody> {
        let plan = |reply| Message::Plan {
            command: command.clone(),
            peer,
            reply,
        };
        let plan = self.ask(plan).await.ok_or_else(stopping)??;
        let result = match plan {
            Plan::Kill { target, dry_run } => self.actions.kill(&target, dry_run).await,
            Plan::DryDrain(plan) => Ok(plan.dry_run()),
            Plan::Drain(plan) => self.drain(plan, peer),
            Plan::StopDrain { server } => self.actions.stop(&server),
        };
        let result = result.map_err(|error| {
            let code = match error {
                ActionError::TooMany => ErrorCode::TooMuch,
                _ => ErrorCode::Failed,
            };
            ErrorBody::new(code, error.to_string())
        });
        if let Some(event) = audit::session(&command, peer, &result) {
            self.bus.record(event, Timestamp::now());
        }
        result.map(|message| Answer::Done(Done { message }))
    }

    fn drain(&self, plan: crate::haproxy::drain::Plan, peer: Peer) -> Result<String, ActionError> {
        let (handle, server) = (self.clone(), server_name(&plan.server));
        self.actions.drain(plan, peer, move || {
            let (handle, server) = (handle.clone(), server.clone());
            async move {
                let server = server.map_err(|error| error.to_string())?;
                let load = handle.ask(|reply| Message::Load { server, reply }).await;
                load.unwrap_or_else(|| Err("the daemon is stopping".to_owned()))
            }
        })
    }
}

#[cfg(test)]
mod tests;
