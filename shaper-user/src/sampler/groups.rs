//! Groups: what passed the limits that clients share.

use super::{NANOS_PER_SEC, Sampler};
use crate::model::{self, GroupDirection};
use crate::policy::RateLimit;
use shaper_common::group::Group;
use shaper_common::share;

/// Groups of the last two samples.
#[derive(Default)]
pub(super) struct Groups {
    now: Vec<Group>,
    before: Vec<Group>,
}

impl Groups {
    pub fn observe(&mut self, groups: Vec<Group>) {
        self.before = std::mem::replace(&mut self.now, groups);
    }

    /// After another policy a place may be another rule's.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Sampler {
    /// The rules that bound their clients together, in the order of the file.
    #[must_use]
    pub fn groups(&self) -> Vec<model::Group> {
        let named = self.compiled.groups.iter().enumerate();
        named
            .map(|(index, named)| model::Group {
                rule: named.rule.clone(),
                upload: self.group_direction(index, 0, named.limits.upload),
                download: self.group_direction(index, 1, named.limits.download),
            })
            .collect()
    }

    fn group_direction(
        &self,
        index: usize,
        direction: usize,
        limit: Option<RateLimit>,
    ) -> GroupDirection {
        let group = self.groups.now.get(index).copied().unwrap_or_default();
        let before = self.groups.before.get(index).unwrap_or(&group);
        let traffic = group.traffic[direction];
        let bytes = traffic
            .bytes
            .saturating_sub(before.traffic[direction].bytes);
        let bits = u128::from(bytes) * 8 * u128::from(NANOS_PER_SEC);
        let rate = bits.checked_div(self.interval.into()).unwrap_or(0);
        // Nobody is active where nothing passed: the kernel says 1 at least.
        let active = if bytes == 0 {
            0
        } else {
            share::active(group.active, self.now, u32::from(direction == 1))
        };
        GroupDirection {
            traffic: model::Direction {
                bytes: traffic.bytes,
                packets: traffic.packets,
                rate_bps: u64::try_from(rate).unwrap_or(u64::MAX),
                dropped_bytes: traffic.dropped_bytes,
                dropped_packets: traffic.dropped_packets,
            },
            limit_bps: limit.map(|limit| limit.rate.bps()),
            burst_bytes: limit.map(|limit| limit.burst),
            active_clients: active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Sample;
    use crate::policy::Policy;
    use crate::testing::{NOW, at, secs};
    use std::sync::Arc;

    #[test]
    fn a_group_has_its_rate_and_its_limit() {
        let policy = "[[rule]]\nname = \"tenant\"\nclients = [\"192.0.2.0/24\"]\n\
                      group_upload = { rate = \"8mbit\" }\n";
        let compiled = Policy::parse("p", policy).unwrap().compile(&[]).unwrap();
        let mut sampler = Sampler::new(Arc::new(compiled), 1, at(0));
        let mut group = Group::default();
        for seconds in 0..2 {
            sampler.observe(
                Sample {
                    now: NOW + secs(seconds),
                    groups: vec![group],
                    ..Sample::default()
                },
                at(0),
            );
            group.traffic[0].bytes += 500_000;
            group.active = share::count(0, NOW + secs(1), 0);
        }
        let groups = sampler.groups();
        assert_eq!(groups[0].rule, "tenant");
        let upload = groups[0].upload;
        assert_eq!(
            (upload.traffic.rate_bps, upload.active_clients),
            (4_000_000, 1)
        );
        assert_eq!(upload.limit_bps, Some(8_000_000));
        let download = groups[0].download;
        assert_eq!((download.limit_bps, download.active_clients), (None, 0));
        let compiled = Arc::clone(&sampler.compiled);
        sampler.set_policy(compiled, 2);
        assert_eq!(sampler.groups()[0].upload.traffic.bytes, 0);
    }
}
