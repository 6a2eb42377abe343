//! The table of quotas.

use super::super::quota::{Counts, Per, Quota, Then};
use super::super::units::Size;
use super::Policy;
use super::places::table;
use std::fmt::Write;

/// The table, with what it means; empty where the policy has no quota.
pub(super) fn quotas(policy: &Policy) -> String {
    let of_rules = policy.rules.iter().map(|rule| {
        let quota = policy.effective(rule).quota;
        (rule.name.as_str(), quota, rule.limits.quota.is_none())
    });
    let rows: Vec<Vec<String>> = of_rules
        .chain([("default", policy.default.quota.clone(), false)])
        .filter_map(|(name, quota, inherited)| Some(row(name, &*quota?, inherited)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let zone = policy.time_zone.iana_name().unwrap_or("UTC");
    let mut text = String::new();
    // Infallible for a String.
    let _ = writeln!(
        text,
        "\nWhat each client may move, by the clock of {zone}:\n"
    );
    text.push_str(&table(&["RULE", "QUOTA", "PER", "COUNTS", "THEN"], rows));
    text
}

fn row(name: &str, quota: &Quota, inherited: bool) -> Vec<String> {
    let mark = if inherited { "*" } else { "" };
    let per = match quota.per {
        Per::Rolling(_) => format!("the last {}", quota.per),
        per => per.to_string(),
    };
    let counts = match quota.counts {
        Counts::Upload => "upload",
        Counts::Download => "download",
        Counts::Both => "both ways",
    };
    let then = match &quota.then {
        Then::Block => "blocked".to_owned(),
        Then::Rule(name) => format!("as rule {name}"),
    };
    vec![
        name.to_owned(),
        format!("{}{mark}", Size(quota.bytes)),
        per,
        counts.to_owned(),
        then,
    ]
}
