//! What the policy holds: rules, groups and the busiest clients.

use super::{All, MOST, by_direction, number, rate, seconds, time};
use crate::metrics::snapshot::Snapshot;
use crate::model;
use crate::sampler::rules::Passed;

pub(super) fn rules(all: &mut All, snapshot: &Snapshot) {
    let shown: Vec<_> = snapshot.rules.iter().take(MOST).collect();
    let named = |name: &String| vec![("rule", name.clone())];
    let count = |value: fn(&crate::sampler::rules::Rule) -> u64| {
        let values: Vec<_> = shown
            .iter()
            .map(|rule| (named(&rule.name), number(value(rule))))
            .collect();
        values
    };
    let passed = |value: fn(&Passed) -> f64| {
        let values: Vec<_> = shown
            .iter()
            .flat_map(|rule| {
                let [up, down] = &rule.passed;
                by_direction(&named(&rule.name), [value(up), value(down)])
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_rule_clients",
        "Clients under the rule",
        count(|r| r.clients),
    );
    all.gauge(
        "shaper_rule_clients_limited",
        "Clients under the rule that are held now",
        count(|rule| rule.limited),
    );
    all.gauge(
        "shaper_rule_connections",
        "Connections of clients under the rule",
        count(|rule| rule.connections),
    );
    all.counter(
        "shaper_rule_bytes",
        "Bytes that the rule's clients passed since the daemon began",
        passed(|passed| number(passed.bytes)),
    );
    all.counter(
        "shaper_rule_packets",
        "Packets that the rule's clients passed",
        passed(|passed| number(passed.packets)),
    );
    all.counter(
        "shaper_rule_dropped_bytes",
        "Bytes of the rule's clients that were dropped",
        passed(|passed| number(passed.dropped_bytes)),
    );
    all.counter(
        "shaper_rule_dropped_packets",
        "Packets of the rule's clients that were dropped",
        passed(|passed| number(passed.dropped_packets)),
    );
    all.counter(
        "shaper_rule_held_seconds",
        "Time that the rule's clients were held by their limits, together",
        passed(|passed| number(passed.held) / 1e9),
    );
    let limits = shown.iter().flat_map(|rule| {
        let limits = rule.limits.map(|limit| Some(rate(limit?.rate.0)));
        by_direction(&named(&rule.name), limits)
    });
    all.gauge(
        "shaper_rule_limit_bytes_per_second",
        "What each client under the rule may have",
        limits.collect::<Vec<_>>(),
    );
}

pub(super) fn groups(all: &mut All, groups: &[model::Group]) {
    let each = |value: fn(&model::GroupDirection) -> Option<f64>| {
        let values: Vec<_> = groups
            .iter()
            .take(MOST)
            .flat_map(|group| {
                let both = [value(&group.upload), value(&group.download)];
                by_direction(&vec![("rule", group.rule.clone())], both)
            })
            .collect();
        values
    };
    // Without a limit nothing is counted.
    all.counter(
        "shaper_group_bytes",
        "Bytes that the clients of a rule passed through the limit that they share",
        each(|d| d.limit_bps.map(|_| number(d.traffic.bytes))),
    );
    all.counter(
        "shaper_group_dropped_bytes",
        "Bytes that the limit which the clients of a rule share dropped",
        each(|d| d.limit_bps.map(|_| number(d.traffic.dropped_bytes))),
    );
    all.gauge(
        "shaper_group_active_clients",
        "Clients of a rule that share its limit just now",
        each(|d| d.limit_bps.map(|_| number(d.active_clients))),
    );
    all.gauge(
        "shaper_group_limit_bytes_per_second",
        "What all clients of a rule may have together",
        each(|d| d.limit_bps.map(rate)),
    );
}

pub(super) fn clients(all: &mut All, snapshot: &Snapshot) {
    let clients = &snapshot.clients.clients;
    let named = |client: &model::Client| {
        vec![
            ("client", client.client.clone()),
            ("rule", client.rule.clone()),
        ]
    };
    let both = |value: fn(&model::Limited) -> Option<f64>| {
        let values: Vec<_> = clients
            .iter()
            .flat_map(|client| {
                let both = [value(&client.upload), value(&client.download)];
                by_direction(&named(client), both)
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_client_connections",
        "Connections of a client, of those that move most",
        clients
            .iter()
            .map(|client| (named(client), number(client.connections))),
    );
    all.counter(
        "shaper_client_bytes",
        "Bytes that a client passed since it was first seen",
        both(|l| Some(number(l.traffic.bytes))),
    );
    all.counter(
        "shaper_client_dropped_bytes",
        "Bytes of a client that were dropped",
        both(|l| Some(number(l.traffic.dropped_bytes))),
    );
    all.counter(
        "shaper_client_held_seconds",
        "Time that a client was held by its limit",
        both(|l| Some(seconds(l.limited_ms))),
    );
    all.gauge(
        "shaper_client_limited",
        "1 where a client is held now",
        both(|l| Some(number(l.limited.into()))),
    );
    all.gauge(
        "shaper_client_limit_bytes_per_second",
        "What a client may have",
        both(|l| l.limit_bps.map(rate)),
    );
    let quotas = |value: fn(&model::Quota) -> Option<f64>| {
        let values: Vec<_> = clients
            .iter()
            .filter_map(|client| {
                let value = value(client.quota.as_ref()?)?;
                Some((vec![("client", client.client.clone())], value))
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_client_quota_used_bytes",
        "What a client has used of its quota",
        quotas(|quota| Some(number(quota.used))),
    );
    all.gauge(
        "shaper_client_quota_bytes",
        "What a client may use by its quota",
        quotas(|quota| Some(number(quota.bytes))),
    );
    all.gauge(
        "shaper_client_quota_reset_timestamp_seconds",
        "When the quota of a client begins anew",
        quotas(|quota| quota.resets_at.map(time)),
    );
}
