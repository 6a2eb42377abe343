//! Every answer in 80 columns, whatever is in it. As JSON, as another version of the
//! daemon would send it.

use super::rows::tests::plain;
use super::*;
use crate::model;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const V6: &str = "2001:db8:1234:5678:9abc:def0:1234:5678";
/// As long as a rule's name may be.
const LONG: &str = "a-rule-with-a-name-that-is-as-long-as-the-policy-lets-a-name-be.";

fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn traffic() -> Value {
    json!({
        "bytes": 123_456_789_012_u64, "packets": 1, "rate_bps": 123_456_789,
        "dropped_bytes": 123_456_789, "dropped_packets": 1,
    })
}

fn limited() -> Value {
    let mut value = traffic();
    value["limit_bps"] = json!(100_000_000);
    value["burst_bytes"] = json!(1_000_000);
    value["limited_ms"] = json!(192_000);
    value["limited"] = json!(true);
    value
}

fn joined() -> Value {
    json!({
        "frontend": "fe", "backend": LONG, "server": LONG, "session": "0x1",
        "worker_pid": 1, "stale": true,
    })
}

fn fits(what: &str, text: &str, columns: &[&str]) {
    let long: Vec<_> = text
        .lines()
        .filter(|line| textwrap::core::display_width(line) > 80)
        .collect();
    assert!(long.is_empty(), "{what}: {long:#?}");
    let head = text.lines().next().unwrap_or_default();
    for column in columns {
        assert!(head.contains(column), "{what}: {column} is gone: {head}");
    }
}

#[test]
fn flows_fit() {
    for rule in ["default", LONG] {
        for haproxy in [Value::Null, joined()] {
            let answer: model::Flows = from(json!({
                "at": "2027-01-15T08:00:00Z", "interval_ms": 1000, "matched": 100_000,
                "flows": [{
                    "client": V6, "client_port": 65535, "local": V6, "local_port": 65535,
                    "protocol": "udp", "rule": rule, "age_ms": 8_640_000_000_u64, "idle_ms": 1,
                    "upload": traffic(), "download": traffic(), "haproxy": haproxy,
                    "backpressure": {"upload": false, "download": false},
                }],
            }));
            let text = plain(|out| flows(out, &answer, Some(80)));
            fits("flows", &text, &["CLIENT", "UPLOAD", "DOWNLOAD"]);
            assert!(text.contains(V6), "the address stays whole: {text}");
        }
    }
}

#[test]
fn clients_fit() {
    for rule in ["default", LONG] {
        let answer: model::Clients = from(json!({
            "at": "2027-01-15T08:00:00Z", "interval_ms": 1000, "matched": 100_000,
            "clients": [{
                "client": V6, "rule": rule, "connections": 123_456, "exempt": false,
                "blocked": true, "upload": limited(), "download": limited(),
                "age_ms": 1, "idle_ms": 1, "servers": [LONG, LONG],
                "runtime": {
                    "upload_bps": null, "download_bps": null, "blocked": true,
                    "limit_expires": null, "block_expires": "2027-02-15T08:00:00Z",
                },
            }],
        }));
        let text = plain(|out| clients(out, &answer, Some(80)));
        fits("clients", &text, &["CLIENT", "UPLOAD", "DOWNLOAD", "STATE"]);
        assert!(text.contains("blocked"), "{text}");
    }
}

#[test]
fn servers_fit() {
    let answer: model::Servers = from(json!({
        "at": "2027-01-15T08:00:00Z", "interval_ms": 1000, "matched": 100_000,
        "servers": [{
            "backend": LONG, "server": LONG, "connections": 123_456,
            "upload": traffic(), "download": traffic(), "top_client": V6,
            "top_client_share": 1.0,
        }],
        "backends": [{"backend": LONG.repeat(2), "servers": 1000, "rate_bps": 1, "imbalance": 1.5}],
    }));
    let text = plain(|out| servers(out, &answer, Some(80)));
    fits(
        "servers",
        &text,
        &["BACKEND", "SERVER", "UPLOAD", "TOP CLIENT"],
    );
}

#[test]
fn status_fits() {
    let counters: serde_json::Map<String, Value> = shaper_common::stats::Stat::ALL
        .iter()
        .map(|stat| (stat.name().to_owned(), json!(u64::MAX)))
        .collect();
    let why = "the kernel is too old for it, which has a reason that takes more than one line to \
               tell, as reasons do";
    let answer: model::Status = from(json!({
        "version": "0.1.0", "mode": "observe", "policy": "/etc/shaper/policy.toml",
        "since": "2027-01-15T08:00:00Z", "at": "2027-02-15T08:00:00Z", "pid": 1,
        "ports": (1..=40).map(|n| 60_000 + n).collect::<Vec<u16>>(),
        "interfaces": [{
            "name": "an-interface-16", "state": "attached", "ingress": "clsact",
            "egress": "clsact", "xdp": "generic",
        }],
        "backpressure": {
            "upload": true, "download": true, "adopted": {"upload": true, "download": false},
            "reason": why,
        },
        "hard_limit_only": {"upload": 100_000, "download": 100_000, "udp": 100_000},
        "tables": [{"name": "udp_flows", "entries": 1, "max": 131_072, "bytes": 1}],
        "overflow": {
            "connections": 100_000, "clients_full": true, "upload": traffic(),
            "download": traffic(),
        },
        "haproxy": [{"path": "/run/haproxy/admin.sock", "poll_ms": 5000, "sessions": 0,
            "workers": 0, "error": why}],
        "drains": [{
            "server": "be_ws/srv1", "state": "running", "share": 0.3, "rate_bps": 1, "target_bps": 1,
            "now_bps": 1, "planned": 1000, "closed": 1000, "gone": 1000,
            "since": "2027-01-15T08:00:00Z", "until": "2027-01-15T08:00:00Z", "reason": why,
        }],
        "flows": 100_000, "clients": 100_000, "limited": 100_000,
        "upload": traffic(), "download": traffic(), "counters": counters, "warnings": [why, why],
    }));
    let text = plain(|out| status(out, &answer, Some(80)));
    fits("status", &text, &["daemon"]);
    let whole = plain(|out| status(out, &answer, None));
    assert!(whole.contains(why), "no terminal, no wrapping: {whole}");
}

#[test]
fn what_a_terminal_is_too_narrow_for_is_cut_and_nowhere_else() {
    let answer: model::Clients = from(json!({
        "at": "2027-01-15T08:00:00Z", "interval_ms": 1000, "matched": 1,
        "clients": [{
            "client": V6, "rule": LONG, "connections": 1, "exempt": false, "blocked": false,
            "upload": limited(), "download": limited(), "age_ms": 1, "idle_ms": 1,
        }],
    }));
    assert!(plain(|out| clients(out, &answer, Some(40))).contains('…'));
    let whole = plain(|out| clients(out, &answer, None));
    assert!(whole.contains(LONG) && !whole.contains('…'), "{whole}");
}
