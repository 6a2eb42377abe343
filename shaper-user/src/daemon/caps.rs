//! Limits by where HAProxy sends a connection, as the policy in force has them.

use super::core::{Core, LIMITING};
use crate::caps::{Caps, changes};
use crate::kernel::Kernel;
use crate::model;
use crate::policy::{Mode, Policy};
use shaper_common::flow::{DOWNLOAD, UPLOAD};

/// How many times HAProxy's first answer is waited for, before what an earlier
/// daemon left limited is let go.
const PATIENCE: u32 = 60;

/// What is remembered for them.
#[derive(Debug, Default)]
pub(super) struct Places {
    caps: Caps,
    /// For how many seconds HAProxy has not said anything yet.
    blind: u32,
}

impl<K: Kernel> Core<K> {
    /// Limits every connection of the last sample as its place asks. What HAProxy
    /// has not spoken of lately stays as it is.
    pub(super) fn limit_places(&mut self) {
        let enforced = self.policy.mode == Mode::Enforce;
        let policy = &self.policy;
        let named =
            |policy: &Policy| !(policy.places.is_empty() && policy.server_limits.is_empty());
        if enforced && named(policy) && self.sampler.is_blind() && self.places.blind < PATIENCE {
            self.places.blind += 1;
            return;
        }
        let placed = self
            .sampler
            .placed(|at| enforced && policy.limits_place(at.backend, at.server));
        let interval = self.sampler.interval();
        let wanted = self.places.caps.limits(policy, &placed.servers, interval);
        let freed = crate::caps::freed(&placed.servers, &wanted, placed.loose);
        let changes = changes(&wanted, &freed);
        let result = if changes.is_empty() {
            Ok(())
        } else {
            self.kernel.limit_flows(&changes)
        };
        // Else the next sample has what the kernel did take.
        if result.is_ok() {
            self.sampler.limited_flows(&changes);
        }
        let names = wanted
            .into_iter()
            .map(|wanted| (wanted.flow.key, wanted.by));
        self.sampler.set_limited_by(names);
        let trouble = result
            .err()
            .map(|error| format!("cannot limit connections by their place: {error:#}"));
        self.set_trouble(LIMITING, trouble);
    }

    /// Adds what the policy says of each server.
    pub(super) fn with_limits(&self, mut servers: model::Servers) -> model::Servers {
        for row in &mut servers.servers {
            if let Some(limit) = self.policy.server_limit(&row.backend, &row.server) {
                let bps = |d: u32| limit.cap[d as usize].map(|rate| rate.bps());
                row.limit_upload_bps = bps(UPLOAD);
                row.limit_download_bps = bps(DOWNLOAD);
            }
        }
        servers
    }
}

#[cfg(test)]
mod tests;
