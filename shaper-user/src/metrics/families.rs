//! From a snapshot to named values. A name is as Prometheus has it, but for the
//! `_total` of a counter, which belongs to the format.

use super::help;
use super::snapshot::Snapshot;
use crate::model;
use crate::sampler::rules::Passed;
use jiff::Timestamp;
use shaper_common::stats::Stat;

/// Rules, and servers, that have series of their own.
pub const MOST: usize = 1000;

/// Labels of one value.
pub type Labels = Vec<(&'static str, String)>;

/// How values are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It goes up; from zero after a restart.
    Counter,
    /// Only its labels say something.
    Info,
}

/// A metric with all its values.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub help: &'static str,
    /// How it is meant.
    pub kind: Kind,
    /// By labels.
    pub values: Vec<(Labels, f64)>,
}

/// Every metric. Those without a value are there as well.
#[must_use]
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut all = All(Vec::new());
    daemon(&mut all, snapshot);
    totals(&mut all, snapshot);
    kernel(&mut all, snapshot);
    interfaces(&mut all, &snapshot.status.interfaces);
    rules(&mut all, snapshot);
    groups(&mut all, &snapshot.status.groups);
    haproxy(&mut all, &snapshot.status.haproxy);
    servers(&mut all, &snapshot.servers);
    clients(&mut all, snapshot);
    all.0
}

struct All(Vec<Family>);

impl All {
    fn add(
        &mut self,
        kind: Kind,
        name: impl Into<String>,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.0.push(Family {
            name: name.into(),
            help,
            kind,
            values: values.into_iter().collect(),
        });
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Gauge, name, help, values);
    }

    fn counter(
        &mut self,
        name: &str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.add(Kind::Counter, name, help, values);
    }
}

/// A value without labels.
fn one(value: impl Into<Option<u64>>) -> Option<(Labels, f64)> {
    value.into().map(|value| (Vec::new(), number(value)))
}

/// Exact up to 2^53: nine petabytes.
#[allow(clippy::cast_precision_loss)]
const fn number(value: u64) -> f64 {
    value as f64
}

/// A rate in bytes a second, the base unit.
fn rate(bits: u64) -> f64 {
    number(bits) / 8.0
}

fn seconds(ms: u64) -> f64 {
    number(ms) / 1000.0
}

#[allow(clippy::cast_precision_loss)]
fn time(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

const DIRECTIONS: [&str; 2] = ["upload", "download"];

/// The values of both directions, as far as there are any, under the labels that
/// are given and `direction`.
fn by_direction<V: Into<Option<f64>>>(labels: &Labels, values: [V; 2]) -> Vec<(Labels, f64)> {
    let values = values.into_iter().zip(DIRECTIONS);
    let labelled = values.filter_map(|(value, direction)| {
        let mut labels = labels.clone();
        labels.push(("direction", direction.to_owned()));
        Some((labels, value.into()?))
    });
    labelled.collect()
}

fn daemon(all: &mut All, snapshot: &Snapshot) {
    let status = &snapshot.status;
    let version = vec![("version", status.version.clone())];
    all.add(
        Kind::Info,
        "shaper_build",
        "The daemon's version",
        [(version, 1.0)],
    );
    all.gauge(
        "shaper_enforcing",
        "1 where limits hold, 0 where the policy only observes",
        one(u64::from(status.mode == "enforce")),
    );
    all.gauge(
        "shaper_warnings",
        "What is wrong just now, as shaper status says",
        one(status.warnings.len() as u64),
    );
    let counter = |name: &str| one(status.counters.get(name).copied().unwrap_or_default());
    all.counter(
        "shaper_samples",
        "Times that the kernel's tables were read",
        counter("samples"),
    );
    all.counter(
        "shaper_sample_failures",
        "Times that the kernel's tables could not be read",
        counter("sample_failures"),
    );
    all.gauge(
        "shaper_sample_timestamp_seconds",
        "When the numbers were read last",
        [(Vec::new(), time(status.at))],
    );
    all.counter(
        "shaper_events",
        "Events, as shaper events prints them",
        one(snapshot.events),
    );
    let [answered, refused] = snapshot.scrapes;
    all.counter("shaper_scrapes", "Scrapes answered", one(answered));
    all.counter(
        "shaper_scrapes_refused",
        "Connections of the metrics listener above its number",
        one(refused),
    );
    all.counter(
        "shaper_agent_checks",
        "Agent checks of HAProxy answered",
        counter("agent_checks"),
    );
    all.counter(
        "shaper_agent_checks_unknown",
        "Agent checks of HAProxy answered by an empty line",
        counter("agent_checks_unknown"),
    );
    let process = &snapshot.process;
    all.counter(
        "process_cpu_seconds",
        "User and system time of the daemon",
        process.cpu_seconds.map(|seconds| (Vec::new(), seconds)),
    );
    all.gauge(
        "process_resident_memory_bytes",
        "Memory of the daemon",
        one(process.resident_bytes),
    );
    all.gauge(
        "process_start_time_seconds",
        "When the daemon put the policy in force",
        [(Vec::new(), time(status.since))],
    );
    all.gauge(
        "process_open_fds",
        "Descriptors that the daemon has open",
        one(process.open_fds),
    );
    all.gauge(
        "process_max_fds",
        "Descriptors that the daemon may have open",
        one(process.max_fds),
    );
}

fn totals(all: &mut All, snapshot: &Snapshot) {
    let status = &snapshot.status;
    let both = |value: fn(&model::Direction) -> u64| {
        let values = [&status.upload, &status.download].map(|d| number(value(d)));
        by_direction(&Vec::new(), values)
    };
    all.counter(
        "shaper_bytes",
        "Bytes that passed, from the IP header on",
        both(|d| d.bytes),
    );
    all.counter("shaper_packets", "Packets that passed", both(|d| d.packets));
    all.counter(
        "shaper_dropped_bytes",
        "Bytes dropped by limits of clients",
        both(|d| d.dropped_bytes),
    );
    all.counter(
        "shaper_dropped_packets",
        "Packets dropped by limits of clients",
        both(|d| d.dropped_packets),
    );
    all.gauge("shaper_flows", "Connections tracked", one(status.flows));
    all.gauge("shaper_clients", "Clients tracked", one(status.clients));
    all.gauge(
        "shaper_clients_limited",
        "Clients held by a limit now",
        one(status.limited),
    );
    let placed = status.counters.get("placed_flows").copied();
    all.gauge(
        "shaper_flows_placed",
        "Connections whose server of HAProxy is known",
        one(placed.unwrap_or_default()),
    );
    let only = &status.hard_limit_only;
    all.gauge(
        "shaper_flows_hard_limit_only",
        "Connections that are held by dropping alone",
        [
            ("upload", only.upload),
            ("download", only.download),
            ("udp", only.udp),
        ]
        .map(|(what, count)| (vec![("what", what.to_owned())], number(count))),
    );
}

fn kernel(all: &mut All, snapshot: &Snapshot) {
    let status = &snapshot.status;
    for (stat, value) in Stat::ALL.iter().zip(snapshot.stats) {
        all.add(
            Kind::Counter,
            format!("shaper_kernel_{}", stat.name()),
            help::of(*stat),
            one(value),
        );
    }
    let table = |value: fn(&model::Table) -> Option<u64>| {
        let tables = status.tables.iter();
        let values: Vec<_> = tables
            .filter_map(|table| {
                let labels = vec![("table", table.name.clone())];
                Some((labels, number(value(table)?)))
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_table_entries",
        "Entries of a table of the kernel",
        table(|table| table.entries),
    );
    all.gauge(
        "shaper_table_max_entries",
        "Entries that a table of the kernel may have (of a ring: bytes)",
        table(|table| Some(table.max)),
    );
    all.gauge(
        "shaper_table_memory_bytes",
        "Memory of a table of the kernel",
        table(|table| table.bytes),
    );
    let overflow = &status.overflow;
    all.gauge(
        "shaper_overflow_connections",
        "Connections without a flow of their own",
        one(overflow.connections),
    );
    let values = [&overflow.upload, &overflow.download];
    all.counter(
        "shaper_overflow_clients_bytes",
        "Bytes of clients without room, through one bucket together",
        by_direction(&Vec::new(), values.map(|d| number(d.bytes))),
    );
    all.counter(
        "shaper_overflow_clients_dropped_bytes",
        "Bytes of clients without room that were dropped",
        by_direction(&Vec::new(), values.map(|d| number(d.dropped_bytes))),
    );
}

fn interfaces(all: &mut All, interfaces: &[model::Interface]) {
    let named = |interface: &model::Interface| vec![("interface", interface.name.clone())];
    all.gauge(
        "shaper_interface_attached",
        "1 where the programs are attached, 0 where the interface is gone",
        interfaces.iter().map(|interface| {
            let attached = interface.state == "attached";
            (named(interface), number(attached.into()))
        }),
    );
    all.add(
        Kind::Info,
        "shaper_interface",
        "How the programs are attached to an interface",
        interfaces.iter().map(|interface| {
            let hook = |hook: &Option<String>| hook.clone().unwrap_or_default();
            let mut labels = named(interface);
            labels.push(("ingress", hook(&interface.ingress)));
            labels.push(("egress", hook(&interface.egress)));
            labels.push(("xdp", hook(&interface.xdp)));
            (labels, 1.0)
        }),
    );
}

fn rules(all: &mut All, snapshot: &Snapshot) {
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

fn groups(all: &mut All, groups: &[model::Group]) {
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

fn haproxy(all: &mut All, sockets: &[model::HaproxySocket]) {
    let each = |value: fn(&model::HaproxySocket) -> Option<f64>| {
        let values: Vec<_> = sockets
            .iter()
            .filter_map(|socket| {
                let labels = vec![("socket", socket.path.clone())];
                Some((labels, value(socket)?))
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_haproxy_up",
        "1 where the socket of HAProxy answers",
        each(|socket| {
            let up = socket.error.is_none() && socket.age_ms.is_some();
            Some(number(up.into()))
        }),
    );
    all.gauge(
        "shaper_haproxy_sessions",
        "Sessions in the last answer of the socket",
        each(|socket| Some(number(socket.sessions))),
    );
    all.gauge(
        "shaper_haproxy_answer_age_seconds",
        "Time since the last answer of the socket",
        each(|socket| socket.age_ms.map(seconds)),
    );
    all.gauge(
        "shaper_haproxy_answer_duration_seconds",
        "What the last answer took HAProxy",
        each(|socket| socket.cost_ms.map(|ms| ms / 1000.0)),
    );
}

fn servers(all: &mut All, servers: &model::Servers) {
    let shown: Vec<_> = servers.servers.iter().take(MOST).collect();
    let named = |server: &model::Server| {
        vec![
            ("backend", server.backend.clone()),
            ("server", server.server.clone()),
        ]
    };
    let passed = |value: fn(&model::Direction) -> u64| {
        let values: Vec<_> = shown
            .iter()
            .flat_map(|server| {
                let both = [&server.upload, &server.download].map(|d| number(value(d)));
                by_direction(&named(server), both)
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_server_connections",
        "Connections that HAProxy has pinned to the server",
        shown
            .iter()
            .map(|server| (named(server), number(server.connections)))
            .collect::<Vec<_>>(),
    );
    all.counter(
        "shaper_server_bytes",
        "Bytes of connections at the server",
        passed(|d| d.bytes),
    );
    all.counter(
        "shaper_server_packets",
        "Packets of connections at the server",
        passed(|d| d.packets),
    );
    all.counter(
        "shaper_server_dropped_bytes",
        "Bytes of connections at the server that were dropped",
        passed(|d| d.dropped_bytes),
    );
    all.gauge(
        "shaper_server_limit_bytes_per_second",
        "What all clients together may have of the server",
        shown
            .iter()
            .flat_map(|server| {
                let limits = [server.limit_upload_bps, server.limit_download_bps];
                by_direction(&named(server), limits.map(|bps| bps.map(rate)))
            })
            .collect::<Vec<_>>(),
    );
    all.gauge(
        "shaper_server_top_client_ratio",
        "The part of the busiest client in what the server carries",
        shown
            .iter()
            .filter_map(|server| Some((named(server), server.top_client_share?)))
            .collect::<Vec<_>>(),
    );
    all.gauge(
        "shaper_backend_imbalance_ratio",
        "Rate of the busiest server over the mean of the backend; 1 is even",
        servers
            .backends
            .iter()
            .take(MOST)
            .filter_map(|b| Some((vec![("backend", b.backend.clone())], b.imbalance?)))
            .collect::<Vec<_>>(),
    );
    let left = servers.matched.saturating_sub(shown.len() as u64);
    all.gauge(
        "shaper_servers_left_out",
        "Servers without series of their own: there are too many",
        one(left),
    );
}

fn clients(all: &mut All, snapshot: &Snapshot) {
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
