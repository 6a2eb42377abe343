//! The policy parser: what is valid compiles and survives being written and read
//! again, what is not has its place.

use crate::policy::{Limits, PlaceRule, Policy, RateLimit, Rule, ServerLimit, report};
use crate::policy::{Rate, units::Size};
use ipnet::IpNet;
use shaper_common::flow::{DOWNLOAD, UPLOAD};
use std::fmt::Display;
use toml::{Table, Value};

/// Checks one text.
///
/// # Panics
/// When something does not hold.
pub fn policy(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    match Policy::parse("p", text) {
        Ok(policy) => {
            let compiled = policy.compile(&[]);
            assert!(compiled.is_ok(), "valid, and not compiled: {compiled:?}");
            assert!(report(&policy).ends_with('\n'));
            let written = write(&policy).to_string();
            let read = Policy::parse("written", &written);
            assert_eq!(read.as_ref(), Ok(&policy), "written as\n{written}");
        }
        Err(errors) => {
            assert!(!errors.mistakes.is_empty(), "invalid, and nothing wrong");
            let lines = text.split('\n').count();
            let mut last = 1;
            for mistake in &errors.mistakes {
                assert!((last..=lines).contains(&mistake.line), "{mistake:?}");
                assert!(mistake.column >= 1 && !mistake.message.is_empty());
                last = mistake.line;
            }
            assert!(errors.to_string().starts_with("p:"));
        }
    }
}

/// A policy as the file would say it.
fn write(policy: &Policy) -> Table {
    let mut root = Table::new();
    if !policy.interfaces.is_empty() {
        put(&mut root, "interfaces", texts(&policy.interfaces));
    }
    put(&mut root, "ports", numbers(&policy.ports));
    put(&mut root, "mode", text(policy.mode));
    put(&mut root, "xdp", text(policy.xdp));
    put(&mut root, "on_exit", text(policy.on_exit));
    put(&mut root, "max_flows", number(policy.max_flows));
    put(&mut root, "max_clients", number(policy.max_clients));
    let zone = policy.time_zone.iana_name().unwrap_or_default();
    put(&mut root, "time_zone", text(zone));
    let mut client = Table::new();
    put(&mut client, "ipv4_prefix", number(policy.ipv4_prefix));
    put(&mut client, "ipv6_prefix", number(policy.ipv6_prefix));
    put(&mut root, "client", client.into());
    put(&mut root, "default", limits(&policy.default).into());
    let rules = policy.rules.iter().map(rule);
    let rules = rules.chain(policy.places.iter().map(place)).collect();
    put(&mut root, "rule", Value::Array(rules));
    let servers = policy.server_limits.iter().map(server_limit).collect();
    put(&mut root, "server_limit", Value::Array(servers));
    let mut control = Table::new();
    put(&mut control, "uids", numbers(&policy.control_uids));
    if let Some(group) = &policy.control_group {
        put(&mut control, "group", text(group));
    }
    put(&mut root, "control", control.into());
    put(&mut root, "haproxy", haproxy(policy).into());
    if let Some(metrics) = &policy.metrics {
        let mut table = Table::new();
        put(&mut table, "listen", text(metrics.listen));
        put(&mut table, "top_clients", number(metrics.top_clients));
        put(&mut root, "metrics", table.into());
    }
    put(&mut root, "history", history(policy).into());
    root
}

fn haproxy(policy: &Policy) -> Table {
    let mut table = Table::new();
    if let Some(sockets) = &policy.haproxy.sockets {
        let sockets: Vec<_> = sockets.iter().map(|path| path.display()).collect();
        put(&mut table, "sockets", texts(&sockets));
    }
    let poll = humantime::format_duration(policy.haproxy.poll);
    put(&mut table, "poll", text(poll));
    if let Some(address) = policy.haproxy.agent {
        let mut agent = Table::new();
        put(&mut agent, "listen", text(address));
        put(&mut table, "agent", agent.into());
    }
    put(&mut table, "actions", texts(&policy.haproxy.actions));
    table
}

fn history(policy: &Policy) -> Table {
    let mut table = Table::new();
    let history = &policy.history;
    put(&mut table, "enabled", history.enabled.into());
    put(&mut table, "hours", number(history.hours));
    put(&mut table, "max_size", text(Size(history.max_size)));
    put(&mut table, "flow_min", text(Size(history.flow_min)));
    if let Some(path) = &history.path {
        put(&mut table, "path", text(path.display()));
    }
    table
}

fn limit(table: &mut Table, key: &str, limit: Option<RateLimit>) {
    if let Some(RateLimit { rate, burst }) = limit {
        let mut limit = Table::new();
        put(&mut limit, "rate", text(rate));
        put(&mut limit, "burst", text(Size(burst)));
        put(table, key, limit.into());
    }
}

fn limits(limits: &Limits) -> Table {
    let mut table = Table::new();
    limit(&mut table, "upload", limits.upload);
    limit(&mut table, "download", limits.download);
    limit(&mut table, "flow_upload", limits.flow_upload);
    limit(&mut table, "flow_download", limits.flow_download);
    if let Some(max) = limits.max_connections {
        put(&mut table, "max_connections", number(max));
    }
    if let Some(rate) = limits.connection_rate {
        put(&mut table, "connection_rate", text(rate));
    }
    if let Some(limit) = &limits.quota {
        let mut quota = Table::new();
        put(&mut quota, "bytes", text(Size(limit.bytes)));
        put(&mut quota, "per", text(limit.per));
        put(&mut quota, "counts", text(limit.counts));
        put(&mut quota, "then", text(&limit.then));
        put(&mut table, "quota", quota.into());
    }
    table
}

fn rule(rule: &Rule) -> Value {
    let mut table = limits(&rule.limits);
    limit(&mut table, "group_upload", rule.group.upload);
    limit(&mut table, "group_download", rule.group.download);
    put(&mut table, "name", text(&rule.name));
    if !rule.clients.is_empty() {
        put(&mut table, "clients", clients(&rule.clients));
    }
    put(&mut table, "exempt", rule.exempt.into());
    put(&mut table, "block", rule.block.into());
    table.into()
}

fn place(rule: &PlaceRule) -> Value {
    let mut table = Table::new();
    put(&mut table, "name", text(&rule.name));
    if !rule.clients.is_empty() {
        put(&mut table, "clients", clients(&rule.clients));
    }
    if !rule.backends.is_empty() {
        put(&mut table, "backends", texts(&rule.backends));
    }
    let servers = rule.servers.iter();
    let servers: Vec<_> = servers.map(|(b, s)| format!("{b}/{s}")).collect();
    if !servers.is_empty() {
        put(&mut table, "servers", texts(&servers));
    }
    rates(&mut table, ["upload", "download"], rule.client);
    rates(&mut table, ["flow_upload", "flow_download"], rule.flow);
    table.into()
}

fn server_limit(limit: &ServerLimit) -> Value {
    let mut table = Table::new();
    let (backend, server) = &limit.server;
    put(&mut table, "server", text(format!("{backend}/{server}")));
    rates(&mut table, ["upload", "download"], limit.cap);
    if let Some(share) = limit.share {
        put(&mut table, "share", share.part().into());
        put(&mut table, "above", text(share.above));
    }
    table.into()
}

fn rates(table: &mut Table, [up, down]: [&str; 2], rates: [Option<Rate>; 2]) {
    for (key, direction) in [(up, UPLOAD), (down, DOWNLOAD)] {
        if let Some(rate) = rates[direction as usize] {
            let mut limit = Table::new();
            put(&mut limit, "rate", text(rate));
            put(table, key, limit.into());
        }
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    table.insert(key.to_owned(), value);
}

fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

fn texts(values: &[impl Display]) -> Value {
    values.iter().map(text).collect::<Vec<_>>().into()
}

fn clients(nets: &[IpNet]) -> Value {
    texts(nets)
}

fn number(value: impl Into<i64>) -> Value {
    Value::Integer(value.into())
}

fn numbers<T: Copy + Into<i64>>(values: &[T]) -> Value {
    Value::Array(values.iter().map(|value| number(*value)).collect())
}
