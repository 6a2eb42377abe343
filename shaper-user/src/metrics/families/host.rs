//! The daemon, the kernel and its interfaces.

use super::{All, Kind, by_direction, number, one, time};
use crate::metrics::help;
use crate::metrics::snapshot::Snapshot;
use crate::model;
use shaper_common::stats::Stat;

pub(super) fn daemon(all: &mut All, snapshot: &Snapshot) {
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

pub(super) fn totals(all: &mut All, snapshot: &Snapshot) {
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

pub(super) fn kernel(all: &mut All, snapshot: &Snapshot) {
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

pub(super) fn interfaces(all: &mut All, interfaces: &[model::Interface]) {
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
