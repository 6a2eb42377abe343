//! What the kernel has to be told.

use super::{DIRECTIONS, ServerNow, Wanted};
use crate::kernel::FlowLimit;
use crate::policy::{Rate, RateLimit};
use shaper_common::bucket::Limit;
use shaper_common::key::FlowKey;
use std::collections::HashSet;

/// Changes of less than this part are left out.
const SMALL: f64 = 0.03;
/// One that uses less than this part of a shared limit can wait for a higher one, …
const USED: f64 = 0.5;
/// … unless that is so many times as high.
const HIGHER: f64 = 2.0;

/// The connections that are limited and need not be: `loose` ones, and those at a
/// server that nothing is wanted of any more.
#[must_use]
pub fn freed(servers: &[ServerNow], wanted: &[Wanted], loose: Vec<FlowKey>) -> Vec<FlowKey> {
    let held: HashSet<_> = wanted.iter().map(|wanted| wanted.flow.key).collect();
    let flows = servers.iter().flat_map(|server| &server.clients);
    let flows = flows.flat_map(|client| &client.flows).filter(|flow| {
        DIRECTIONS.iter().any(|d| flow.own[*d].is_set()) && !held.contains(&flow.key)
    });
    let mut freed = loose;
    freed.extend(flows.map(|flow| flow.key));
    freed
}

/// The limits that differ from what the kernel has; none for the connections that
/// are to be `freed`.
#[must_use]
pub fn changes(wanted: &[Wanted], freed: &[FlowKey]) -> Vec<FlowLimit> {
    let limited = wanted.iter().filter(|wanted| differs(wanted));
    let limited = limited.map(|wanted| FlowLimit {
        key: wanted.flow.key,
        limits: wanted.limits.map(|rate| rate.map(RateLimit::of)),
    });
    let freed = freed.iter().map(|key| FlowLimit {
        key: *key,
        limits: [None; 2],
    });
    limited.chain(freed).collect()
}

fn differs(wanted: &Wanted) -> bool {
    DIRECTIONS.iter().any(|d| {
        let (own, rate) = (&wanted.flow.own[*d], wanted.flow.rate(*d));
        match wanted.limits[*d] {
            None => own.is_set(),
            Some(_) if !own.is_set() => true,
            Some(limit) if wanted.shared => shared_differs(own, limit, rate),
            Some(limit) => own.bits_per_sec().abs_diff(limit.bps()) > limit.bps() / 1000,
        }
    })
}

fn shared_differs(own: &Limit, limit: Rate, rate: f64) -> bool {
    let (old, new) = (own.bits_per_sec() as f64, limit.bps() as f64);
    let uses = rate > USED * old || new > HIGHER * old;
    new < old * (1.0 - SMALL) || new > old * (1.0 + SMALL) && uses
}
