use super::expose::{Format, expose};
use super::families::{Family, Kind, families};
use super::process::Process;
use super::snapshot::{Health, Snapshot};
use crate::sampler::rules::{Passed, Rule};
use crate::testing::at;
use serde_json::{Value, json};
use shaper_common::stats::STATS_LEN;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use std::time::Duration;

/// A value of every metric.
fn example() -> Snapshot {
    let direction = |bytes: u64| {
        json!({
            "bytes": bytes, "packets": bytes / 100, "rate_bps": 8_000_000,
            "dropped_bytes": 3, "dropped_packets": 1
        })
    };
    let limited = |bytes: u64| {
        let mut limited = direction(bytes);
        limited["limit_bps"] = json!(8_000_000);
        limited["burst_bytes"] = json!(100_000);
        limited["limited_ms"] = json!(1_500);
        limited["limited"] = json!(true);
        limited
    };
    let mut group = direction(700);
    group["limit_bps"] = json!(80_000_000);
    group["burst_bytes"] = json!(1_000_000);
    group["active_clients"] = json!(3);
    let time = at(0);
    let status = json!({
        "version": "0.1.0", "mode": "enforce", "policy": null, "since": time,
        "interfaces": [
            {"name": "eth0", "state": "attached", "ingress": "tcx", "egress": "tcx", "xdp": "native"},
            {"name": "eth1", "state": "gone", "ingress": null, "egress": null, "xdp": null}
        ],
        "backpressure": {"upload": true, "download": true, "reason": null},
        "hard_limit_only": {"upload": 1, "download": 2, "udp": 3},
        "tables": [{"name": "flows", "entries": 3, "max": 131_072, "bytes": 1_000_000}],
        "overflow": {
            "connections": 1, "clients_full": true,
            "upload": direction(400), "download": direction(500)
        },
        "groups": [{
            "rule": "tenant", "upload": group, "download": {
                "bytes": 0, "packets": 0, "rate_bps": 0, "dropped_bytes": 0, "dropped_packets": 0,
                "limit_bps": null, "burst_bytes": null, "active_clients": 0
            }
        }],
        "haproxy": [{
            "path": "/run/haproxy/admin.sock", "kind": "stats", "version": "3.0", "level": "admin",
            "sessions": 7, "workers": 1, "age_ms": 1_200, "cost_ms": 2.5, "poll_ms": 5_000,
            "error": null
        }],
        "flows": 3, "clients": 2,
        "counters": {
            "samples": 10, "sample_failures": 1, "placed_flows": 2, "agent_checks": 5,
            "agent_checks_unknown": 1
        },
        "limited": 1, "upload": direction(1_000_000), "download": direction(2_000_000),
        "ports": [443], "pid": 9, "at": time, "warnings": ["something"]
    });
    let clients = json!({
        "at": time, "interval_ms": 1000, "matched": 2,
        "clients": [{
            "client": "2001:db8:1:2::/64", "rule": "odd \"\\\nname", "connections": 4,
            "exempt": false, "blocked": false, "upload": limited(100), "download": limited(200),
            "age_ms": 1, "idle_ms": 1, "runtime": null,
            "quota": {
                "bytes": 10, "used": 5, "per": "hour", "counts": "both", "then": "block",
                "state": "within", "resets_at": at(3600)
            }
        }]
    });
    let servers = json!({
        "at": time, "interval_ms": 1000, "matched": 1,
        "servers": [{
            "backend": "be_ws", "server": "srv1", "connections": 2, "upload": direction(100),
            "download": direction(200), "top_client": "192.0.2.1", "top_client_share": 0.75,
            "limit_upload_bps": 80_000_000, "limit_download_bps": null
        }],
        "backends": [{"backend": "be_ws", "servers": 1, "imbalance": 1.25}]
    });
    let health = Health::default();
    health.sampled(Duration::from_millis(2));
    health.late(Duration::from_micros(200));
    let mut stats = [0; STATS_LEN];
    for (value, stat) in (1..).zip(&mut stats) {
        *stat = value;
    }
    Snapshot {
        status: serde_json::from_value(status).unwrap(),
        stats,
        rules: vec![Rule {
            name: "default".to_owned(),
            clients: 2,
            limited: 1,
            connections: 3,
            passed: [Passed {
                bytes: 1_000,
                packets: 10,
                dropped_bytes: 100,
                dropped_packets: 1,
                held: 1_500_000_000,
            }; 2],
            limits: ["8mbit", "32mbit"].map(|rate| {
                let rate: crate::policy::Rate = rate.parse().unwrap();
                Some(crate::policy::RateLimit::of(rate))
            }),
        }],
        servers: serde_json::from_value(servers).unwrap(),
        clients: serde_json::from_value(clients).unwrap(),
        events: 12,
        health,
        scrapes: [20, 1],
        process: Process {
            cpu_seconds: Some(1.25),
            resident_bytes: Some(20_000_000),
            open_fds: Some(40),
            max_fds: Some(1024),
        },
    }
}

#[test]
fn every_metric_in_both_formats() {
    let example = example();
    let text = expose(&example, Format::OpenMetrics).unwrap();
    assert!(text.ends_with("# EOF\n"));
    insta::assert_snapshot!("openmetrics", text);
    insta::assert_snapshot!("prometheus", expose(&example, Format::Prometheus).unwrap());
}

#[test]
fn the_format_is_the_one_that_is_asked_for() {
    let accepted = Format::accepted;
    assert_eq!(accepted(""), Format::Prometheus);
    assert_eq!(accepted("*/*"), Format::Prometheus);
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                      version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(accepted(prometheus), Format::OpenMetrics);
}

/// As Prometheus names it.
fn name(family: &Family) -> String {
    let suffix = match family.kind {
        Kind::Gauge => "",
        Kind::Counter => "_total",
        Kind::Info => "_info",
    };
    format!("{}{suffix}", family.name)
}

const HISTOGRAMS: [(&str, &str); 2] = [
    (
        "shaper_sample_duration_seconds",
        "What reading the kernel's tables took",
    ),
    (
        "shaper_loop_lag_seconds",
        "How much later than due the kernel's tables were read",
    ),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

/// The table of `docs/metrics.md` is what the exporter has.
/// `UPDATE_EXPECTED=1` writes it anew.
#[test]
fn the_document_has_every_metric() {
    let mut table = "| metric | type | labels | is |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, help) in HISTOGRAMS {
        table += &format!("| `{name}` | histogram | | {help} |\n");
    }
    for family in families(&example()) {
        assert!(!family.values.is_empty(), "no example of {}", family.name);
        let kind = format!("{:?}", family.kind).to_lowercase();
        let labels: Vec<_> = family.values[0]
            .0
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let (name, labels) = (name(&family), labels.join(", "));
        table +=
            &format!("| `{name}` | {kind} | {labels} | {} |\n", family.help).replace("|  |", "| |");
    }
    let document = read("docs/metrics.md");
    let (begin, end) = ("<!-- metrics -->\n", "<!-- end -->\n");
    let (before, rest) = document.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        let document = format!("{before}{begin}{table}{end}{after}");
        std::fs::write(repository().join("docs/metrics.md"), document).unwrap();
    } else {
        assert_eq!(found, table);
    }
}

/// Everything in a text that looks like one of our metrics.
fn mentioned(text: &str) -> BTreeSet<&str> {
    let part = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':';
    text.split(part)
        .filter(|word| word.starts_with("shaper_") || word.starts_with("process_"))
        .collect()
}

/// Every series, by name.
fn series() -> BTreeSet<String> {
    let names = families(&example());
    let mut names: BTreeSet<_> = names.iter().map(name).collect();
    for (histogram, _) in HISTOGRAMS {
        let parts = ["bucket", "sum", "count"];
        names.extend(parts.map(|part| format!("{histogram}_{part}")));
    }
    names
}

#[test]
fn the_dashboard_and_the_alerts_name_metrics_that_there_are() {
    let series = series();
    for file in ["packaging/alerts.yml", "packaging/grafana-dashboard.json"] {
        let text = read(file);
        let mentioned = mentioned(&text);
        assert!(mentioned.len() > 10, "{file}: {mentioned:?}");
        for name in mentioned {
            assert!(series.contains(name), "{file}: no metric is called {name}");
        }
    }
}

#[test]
fn the_dashboard_is_one() {
    let board: Value = serde_json::from_str(&read("packaging/grafana-dashboard.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap(), title).is_none());
        let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(of("x") + of("w") <= 24, "{title}");
        for x in of("x")..of("x") + of("w") {
            for y in of("y")..of("y") + of("h") {
                assert!(taken.insert((x, y)), "{title} lies over another");
            }
        }
        if panel["type"] != "row" {
            let queries = panel["targets"].as_array().unwrap();
            assert!(
                queries.iter().all(|query| query["expr"].is_string()),
                "{title}"
            );
        }
    }
    assert!(panels.len() > 10);
}
