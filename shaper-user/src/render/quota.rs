//! Quotas: of one client, of a row, of the store.

use super::units;
use crate::model;
use jiff::Timestamp;
use std::io::{self, Write};

/// The answer to `quota` for people.
///
/// # Errors
/// When `out` cannot be written to.
pub fn quota(out: &mut dyn Write, answer: &model::ClientQuota) -> io::Result<()> {
    let Some(quota) = &answer.quota else {
        return writeln!(
            out,
            "{} (rule {}) has no quota: `quota` in the policy gives it one",
            answer.client, answer.rule
        );
    };
    writeln!(out, "{} (rule {})", answer.client, answer.rule)?;
    writeln!(
        out,
        "  used    {} of {}, {}%, {}, per {}",
        units::bytes(quota.used),
        units::bytes(quota.bytes),
        percent(quota),
        match quota.counts.as_str() {
            "both" => "both ways",
            way => way,
        },
        quota.per,
    )?;
    if quota.added > 0 {
        writeln!(out, "  added   {} by hand", units::bytes(quota.added))?;
    }
    if let Some(at) = quota.resets_at {
        writeln!(out, "  resets  {at}, in {}", left(at, answer.at))?;
    }
    let then = match quota.then.as_str() {
        "block" => "it is blocked".to_owned(),
        rule => format!("the limits of rule {rule} hold"),
    };
    let when = match quota.state.as_str() {
        "reached" => "now",
        _ => "then",
    };
    writeln!(out, "  {when:<6}  {then}")
}

/// How much of it is used.
#[must_use]
pub fn percent(quota: &model::Quota) -> u64 {
    let percent = u128::from(quota.used) * 100 / u128::from(quota.bytes.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// How long until then.
#[must_use]
pub fn left(at: Timestamp, now: Timestamp) -> String {
    let left = at.duration_since(now).as_millis().max(0);
    units::duration(u64::try_from(left).unwrap_or(u64::MAX))
}

/// Of a row: how much is used, and how long until it resets.
pub(super) fn cell(quota: &model::Quota, now: Timestamp) -> String {
    let left = quota.resets_at.map(|at| format!(" {}", left(at, now)));
    format!("{}%{}", percent(quota), left.unwrap_or_default())
}

/// A line of `status`.
pub(super) fn store(store: &model::QuotaStore, now: Timestamp) -> String {
    let written = store.written.map_or_else(
        || "not written yet".to_owned(),
        |at| format!("written {} ago", left(now, at)),
    );
    format!(
        "usage of {} clients, {} at the end of it; {} {}, {written}",
        store.clients, store.reached, store.path, store.state
    )
}
