use super::*;
use crate::testing::at;
use serde_json::Value;

fn by(uid: u32, user: Option<&str>) -> By {
    By {
        by: "control".to_owned(),
        uid: Some(uid),
        pid: Some(4711),
        user: user.map(str::to_owned),
    }
}

fn change(client: &str, [before, after]: [&str; 2], message: &str, by: By) -> Change {
    Change {
        client: client.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
        by,
        message: message.to_owned(),
    }
}

/// One of each kind, in the order of [`Event::NAMES`].
pub(crate) fn examples() -> Vec<Event> {
    let [client, rule] = ["203.0.113.9", "partners"].map(str::to_owned);
    let direction = Direction::Upload;
    let expired = By {
        by: "expiry".to_owned(),
        ..By::default()
    };
    let hangup = By {
        by: "SIGHUP".to_owned(),
        ..By::default()
    };
    let part = |part: &str, [before, after]: [&str; 2]| Part {
        part: part.to_owned(),
        before: before.to_owned(),
        after: after.to_owned(),
    };
    vec![
        Event::DaemonStarted {
            version: "0.1.0".to_owned(),
            pid: 4711,
            mode: "enforce".to_owned(),
            policy: Some("/etc/shaper/policy.toml".to_owned()),
        },
        Event::DaemonStopping {
            signal: "SIGTERM".to_owned(),
            on_exit: "keep".to_owned(),
        },
        Event::Limited {
            client: client.clone(),
            rule: rule.clone(),
            direction,
            limit_bps: Some(8_000_000),
            observed: false,
        },
        Event::Released {
            client: client.clone(),
            rule: rule.clone(),
            direction,
            limited_ms: 14_000,
            observed: true,
        },
        Event::Blocked {
            client: "2001:db8:1:2::/64".to_owned(),
            rule: "abuser".to_owned(),
        },
        Event::ConnectionRate {
            client: client.clone(),
            rule: rule.clone(),
        },
        Event::MaxConnections {
            client: client.clone(),
            rule: rule.clone(),
        },
        Event::TableFull {
            client: client.clone(),
            rule: rule.clone(),
            tables: vec!["flows".to_owned()],
        },
        Event::LeftOut(LeftOut {
            over_ms: 10_000,
            limited: 1200,
            kernel: 300,
            ..LeftOut::default()
        }),
        Event::QuotaReached {
            client,
            rule,
            percent: 100,
            used_bytes: 50_000_000_000,
            quota_bytes: 50_000_000_000,
            resets: Some(at(3600)),
            then: Some("slow".to_owned()),
        },
        Event::InterfaceGone {
            interface: "eth0".to_owned(),
        },
        Event::InterfaceBack {
            interface: "eth0".to_owned(),
            ingress: Some("tcx".to_owned()),
            egress: Some("tcx".to_owned()),
            xdp: Some("native".to_owned()),
        },
        Event::HaproxyLost {
            socket: "/run/haproxy/admin.sock".to_owned(),
            error: "connection refused".to_owned(),
        },
        Event::HaproxyBack {
            socket: "/run/haproxy/admin.sock".to_owned(),
            version: Some("3.0.11".to_owned()),
        },
        Event::PolicyChanged {
            by: hangup,
            message: "reloaded".to_owned(),
            changes: vec![
                part("ports", ["443", "8443"]),
                part("rule partners", ["none", "upload 8mbit/100kB"]),
            ],
            more: 3,
        },
        Event::LimitSet(change(
            "192.0.2.1",
            ["none", "upload 2mbit/64KiB"],
            "limited 192.0.2.1: upload 2mbit for 1m",
            by(0, Some("root")),
        )),
        Event::LimitCleared(change(
            "192.0.2.1",
            ["upload 2mbit/64KiB", "none"],
            "the runtime limit of 192.0.2.1 has ended",
            expired,
        )),
        Event::BlockSet(change(
            "192.0.2.1",
            ["none", "blocked"],
            "blocked 192.0.2.1; closed 2 open connections",
            by(1000, None),
        )),
        Event::BlockCleared(change(
            "192.0.2.1",
            ["blocked", "none"],
            "192.0.2.1 is no longer blocked at runtime",
            by(0, Some("root")),
        )),
        Event::SessionKilled(change(
            "192.0.2.1:4000",
            ["open", "closed"],
            "closed 192.0.2.1:4000",
            by(0, Some("root")),
        )),
        Event::DrainStarted(change(
            "be_ws/srv1",
            ["open", "draining"],
            "draining be_ws/srv1",
            by(0, Some("root")),
        )),
        Event::DrainStopped(change(
            "be_ws/srv1",
            ["draining", "open"],
            "the drain of be_ws/srv1 is ended",
            by(0, Some("root")),
        )),
        Event::ChangeRefused {
            by: by(1001, Some("mallory")),
            action: "block".to_owned(),
            outcome: "denied".to_owned(),
            message: "this user may not\nchange anything".to_owned(),
        },
    ]
}

#[test]
fn each_event_is_written_as_it_is_named_and_read_back() {
    let events = examples();
    let names: Vec<_> = events.iter().map(Event::name).collect();
    assert_eq!(names, Event::NAMES);
    for (seq, event) in (1..).zip(events) {
        let record = Record {
            at: at(0),
            seq,
            event,
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains('\n'), "{text}");
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["event"], record.event.name());
        assert_eq!(json["at"], "2027-01-15T08:00:00Z");
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }
}

#[test]
fn the_json_of_each_event() {
    let lines: Vec<_> = (1..)
        .zip(examples())
        .map(|(seq, event)| {
            let record = Record {
                at: at(0),
                seq,
                event,
            };
            serde_json::to_string(&record).unwrap()
        })
        .collect();
    insta::assert_snapshot!("json", lines.join("\n"));
}

#[test]
fn an_event_of_a_later_version_is_one_all_the_same() {
    let line = r#"{"at":"2027-01-15T08:00:00Z","seq":1,"event":"moon_full","phase":1}"#;
    let record: Record = serde_json::from_str(line).unwrap();
    assert_eq!(record.event, Event::Unknown);
}

#[test]
fn what_others_wrote_has_an_end() {
    assert_eq!(cut("short"), "short");
    let long = cut(&"é".repeat(1000));
    assert_eq!(long.chars().count(), TEXT + 1);
}

/// Each name and each field is in `docs/events.md`, and no other name.
#[test]
fn the_document_has_every_event_and_field() {
    let document = include_str!("../../../docs/events.md");
    for (event, name) in examples().iter().zip(Event::NAMES) {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")))
            .unwrap_or_else(|| panic!("no row for {name}"));
        let Value::Object(fields) = serde_json::to_value(event).unwrap() else {
            panic!("{event:?}");
        };
        for field in fields.keys().filter(|field| *field != "event") {
            let by = ["by", "uid", "pid", "user"].contains(&field.as_str());
            let shown = row.contains(&format!("`{field}`")) || by && row.contains("*who*");
            assert!(shown, "{field} of {name}: {row}");
        }
    }
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    for (name, _) in rows {
        assert!(Event::NAMES.contains(&name) || name == "missed", "{name}");
    }
}
