use super::reload::CHANGES_LOGGED;
use super::*;
use crate::control::server::{Answer, Peer};
use crate::daemon::lab::{ROOT, options};
use crate::daemon::logged::{logged, logged_json};
use crate::events::filter::EventFilter;
use crate::events::text::sentence;
use crate::haproxy::agent::agent;
use crate::protocol::{Command, ErrorBody, ErrorCode};
use crate::protocol::{Query, SortKey};
use crate::testing::{FakeKernel, at, client, flow};
use shaper_common::key::TCP;
use std::fs;
use tempfile::TempDir;

const POLICY: &str = r#"
ports = [443]
control = { uids = [1000] }
[default]
upload = { rate = "8mbit" }
[[rule]]
name = "partners"
clients = ["203.0.113.0/24"]
upload = { rate = "50mbit" }
"#;

struct Lab {
    dir: TempDir,
    kernel: FakeKernel,
    core: Core<FakeKernel>,
}

fn start(dir: TempDir, kernel: FakeKernel) -> Lab {
    let options = options(&dir);
    let (policy, _) = options.load().unwrap();
    let core = Core::start(kernel.clone(), policy, options, agent().0, at(0)).unwrap();
    Lab { dir, kernel, core }
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    let flows = vec![
        flow("203.0.113.9", 4000, TCP),
        flow("192.0.2.1", 4001, TCP),
        flow("192.0.2.1", 4002, TCP),
    ];
    let clients = vec![client("203.0.113.9"), client("192.0.2.1")];
    start(dir, FakeKernel::new(flows, clients))
}

impl Lab {
    fn write_policy(&self, text: &str) {
        fs::write(self.dir.path().join("policy.toml"), text).unwrap();
    }

    fn done(&mut self, command: Command) -> String {
        match self.core.handle(command, ROOT, at(10)).unwrap() {
            Answer::Done(done) => done.message,
            other => panic!("{other:?}"),
        }
    }

    fn error(&mut self, command: Command) -> ErrorBody {
        self.core.handle(command, ROOT, at(10)).unwrap_err()
    }

    fn status(&mut self) -> model::Status {
        match self.core.handle(Command::Status, ROOT, at(10)).unwrap() {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn client(&mut self, name: &str) -> model::Client {
        let query = Query {
            sort: SortKey::Client,
            ..Query::default()
        };
        let answer = self.core.handle(Command::Clients(query), ROOT, at(10));
        match answer.unwrap() {
            Answer::Clients(rows) => rows.clients.into_iter().find(|c| c.client == name),
            other => panic!("{other:?}"),
        }
        .unwrap()
    }
}

fn limit(client: &str, upload: &str, for_ms: Option<u64>) -> Command {
    Command::Limit {
        client: client.to_owned(),
        upload: Some(upload.to_owned()),
        download: None,
        for_ms,
    }
}

fn block(client: &str, for_ms: Option<u64>) -> Command {
    Command::Block {
        client: client.to_owned(),
        for_ms,
    }
}

#[test]
fn it_starts_with_the_policy_in_force_and_a_sample() {
    let mut lab = lab();
    assert_eq!(lab.kernel.state().applied.len(), 1);
    let status = lab.status();
    assert_eq!((status.flows, status.clients), (3, 2));
    assert_eq!((status.mode.as_str(), status.ports), ("enforce", vec![443]));
    assert!(status.policy.unwrap().ends_with("policy.toml"));
    assert_eq!(status.counters["samples"], 1);
    assert_eq!(status.counters["limited_packets"], 0);
    assert_eq!(status.warnings, Vec::<String>::new());
    let partner = lab.client("203.0.113.9");
    assert_eq!(
        partner.upload.limit_bps,
        Some(8_000_000),
        "class 0 in the kernel"
    );
}

#[test]
fn the_command_line_lies_over_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&dir);
    options.policy.required = false;
    let (policy, from_file) = options.load().unwrap();
    assert_eq!((policy.mode, from_file), (Mode::Observe, false));
    assert_eq!(policy.ports, [80, 443]);
    options.policy.required = true;
    assert!(options.load().is_err());
    fs::write(&options.policy.path, POLICY).unwrap();
    options.observe = true;
    options.interfaces = vec!["eth7".to_owned()];
    let (policy, from_file) = options.load().unwrap();
    assert_eq!((policy.mode, from_file), (Mode::Observe, true));
    assert_eq!(policy.interfaces, ["eth7"]);
}

#[test]
fn a_limit_holds_is_kept_and_is_taken_away() {
    let mut lab = lab();
    let message = lab.done(limit("192.0.2.1", "2mbit", Some(60_000)));
    assert_eq!(message, "limited 192.0.2.1: upload 2mbit for 1m");
    assert_eq!(lab.kernel.state().applied.len(), 2);
    let row = lab.client("192.0.2.1");
    assert_eq!(row.upload.limit_bps, Some(2_000_000));
    assert_eq!(row.runtime.unwrap().limit_expires, Some(at(70)));

    // A restart has it still.
    let Lab { dir, kernel, core } = lab;
    drop(core);
    let mut lab = start(dir, kernel);
    assert_eq!(lab.client("192.0.2.1").upload.limit_bps, Some(2_000_000));

    let clear = Command::ClearLimit {
        client: "192.0.2.1".to_owned(),
    };
    assert_eq!(
        lab.done(clear.clone()),
        "192.0.2.1 is back to the policy's limits"
    );
    assert_eq!(lab.client("192.0.2.1").upload.limit_bps, Some(8_000_000));
    let applied = lab.kernel.state().applied.len();
    assert_eq!(lab.done(clear), "192.0.2.1 had no runtime limit");
    assert_eq!(lab.kernel.state().applied.len(), applied);
}

#[test]
fn what_has_ended_is_no_part_of_what_is_set_later() {
    let mut lab = lab();
    let mut set = |command, second| lab.core.handle(command, ROOT, at(second)).unwrap();
    set(limit("192.0.2.1", "2mbit", Some(20_000)), 10);
    let download = |for_ms| Command::Limit {
        client: "192.0.2.1".to_owned(),
        upload: None,
        download: Some("1mbit".to_owned()),
        for_ms,
    };
    // While it holds, the upload stays, and ends with the new limit.
    set(download(Some(20_000)), 25);
    let row = lab.client("192.0.2.1");
    let bps = (row.upload.limit_bps, row.download.limit_bps);
    assert_eq!(bps, (Some(2_000_000), Some(1_000_000)));
    assert_eq!(row.runtime.unwrap().limit_expires, Some(at(45)));
    // It has ended, and no tick came since.
    let log = logged(|| {
        lab.core.handle(download(None), ROOT, at(45)).unwrap();
    });
    let row = lab.client("192.0.2.1");
    let bps = (row.upload.limit_bps, row.download.limit_bps);
    assert_eq!(
        bps,
        (Some(8_000_000), Some(1_000_000)),
        "the policy's upload"
    );
    let runtime = row.runtime.unwrap();
    assert_eq!((runtime.upload_bps, runtime.limit_expires), (None, None));
    assert!(
        log.contains("the runtime limit of 192.0.2.1 has ended"),
        "{log}"
    );
}

#[test]
fn a_block_closes_connections_and_ends_by_itself() {
    let mut lab = lab();
    let message = lab.done(block("192.0.2.1", Some(60_000)));
    assert_eq!(
        message,
        "blocked 192.0.2.1 for 1m; closed 2 open connections"
    );
    assert_eq!(
        lab.kernel.state().disconnected,
        ["192.0.2.1/32".parse().unwrap()]
    );
    assert!(lab.client("192.0.2.1").blocked);
    lab.core.tick(at(69));
    assert!(lab.client("192.0.2.1").blocked);
    lab.core.tick(at(70));
    assert!(!lab.client("192.0.2.1").blocked);
    assert_eq!(lab.kernel.state().applied.len(), 3);
    let kept = Overrides::load(&lab.core.options.overrides());
    assert!(kept.overrides.list().is_empty());

    lab.done(block("192.0.2.1", None));
    let unblock = Command::Unblock {
        client: "192.0.2.1".to_owned(),
    };
    assert_eq!(
        lab.done(unblock.clone()),
        "192.0.2.1 is no longer blocked at runtime"
    );
    assert_eq!(lab.done(unblock), "192.0.2.1 had no runtime block");
}

#[test]
fn a_rule_that_blocks_closes_connections_when_it_comes() {
    let mut lab = lab();
    assert!(lab.kernel.state().disconnected.is_empty());
    let blocking = format!(
        "{POLICY}\n[[rule]]\nname = \"abuser\"\nclients = [\"192.0.2.0/24\"]\nblock = true\n"
    );
    lab.write_policy(&blocking);
    let message = lab.done(Command::Reload);
    assert!(
        message.ends_with("; closed 2 open connections"),
        "{message}"
    );
    assert_eq!(
        lab.kernel.state().disconnected,
        ["192.0.2.0/24".parse().unwrap()]
    );
    lab.done(Command::Reload);
    assert_eq!(lab.kernel.state().disconnected.len(), 1);
}

#[test]
fn while_it_only_observes_a_block_closes_nothing() {
    let mut lab = lab();
    lab.write_policy(&format!("mode = \"observe\"\n{POLICY}"));
    lab.done(Command::Reload);
    assert_eq!(
        lab.done(block("192.0.2.1", None)),
        "blocked 192.0.2.1; nothing is dropped or closed while the policy only observes"
    );
    assert!(lab.kernel.state().disconnected.is_empty());
}

#[test]
fn an_end_that_the_kernel_refuses_is_tried_again() {
    let mut lab = lab();
    lab.done(block("192.0.2.1", Some(1_000)));
    lab.kernel.state().refuse_apply = Some("no memory".to_owned());
    lab.core.tick(at(20));
    assert!(lab.client("192.0.2.1").blocked);
    assert_eq!(
        lab.status().warnings,
        ["cannot end a runtime setting: the kernel did not take it: no memory"]
    );
    lab.kernel.state().refuse_apply = None;
    lab.core.tick(at(21));
    assert!(!lab.client("192.0.2.1").blocked);
    assert_eq!(lab.status().warnings, Vec::<String>::new());
}

#[test]
fn what_the_kernel_refuses_changes_nothing() {
    let mut lab = lab();
    lab.kernel.state().refuse_apply = Some("no memory".to_owned());
    let error = lab.error(limit("192.0.2.1", "2mbit", None));
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("no memory"), "{}", error.message);
    assert_eq!(lab.error(block("192.0.2.1", None)).code, ErrorCode::Failed);
    assert_eq!(lab.error(Command::Reload).code, ErrorCode::Failed);
    assert!(lab.kernel.state().disconnected.is_empty());
    let row = lab.client("192.0.2.1");
    assert_eq!((row.upload.limit_bps, row.runtime), (Some(8_000_000), None));
    assert!(!lab.core.options.overrides().exists());
}

#[test]
fn bad_values_change_nothing_and_say_why() {
    let mut lab = lab();
    for (command, part) in [
        (limit("web.example", "2mbit", None), "web.example"),
        (limit("192.0.2.1", "2mbps", None), "mbps"),
        (limit("192.0.2.1", "2mbit", Some(0)), "zero"),
        (limit("192.0.2.1", "2mbit", Some(u64::MAX)), "too long"),
        (block("192.0.2.1/33", None), "192.0.2.1/33"),
        (
            Command::Limit {
                client: "192.0.2.1".to_owned(),
                upload: None,
                download: None,
                for_ms: None,
            },
            "`upload`",
        ),
        (
            Command::Flows(Query {
                filter: "state:busy".to_owned(),
                ..Query::default()
            }),
            "state:busy",
        ),
    ] {
        let error = lab.error(command);
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert_eq!(lab.kernel.state().applied.len(), 1);
}

#[test]
fn only_root_and_named_users_change() {
    let mut lab = lab();
    let by = |uid| Peer { uid, pid: Some(9) };
    let mut change = |uid| {
        let command = limit("192.0.2.1", "2mbit", None);
        lab.core.handle(command, by(uid), at(10))
    };
    assert_eq!(change(1001).unwrap_err().code, ErrorCode::Denied);
    assert!(change(1000).is_ok());
    assert!(lab.core.handle(Command::Status, by(1001), at(10)).is_ok());
    // A reload takes the right away.
    lab.write_policy(&POLICY.replace("[1000]", "[1001]"));
    lab.done(Command::Reload);
    let denied = lab.core.handle(Command::Reload, by(1000), at(10));
    assert_eq!(denied.unwrap_err().code, ErrorCode::Denied);
    assert!(lab.core.handle(Command::Reload, by(1001), at(10)).is_ok());
}

#[test]
fn a_reload_keeps_runtime_limits_and_shows_at_once() {
    let mut lab = lab();
    lab.done(limit("192.0.2.1", "2mbit", None));
    lab.write_policy(
        "ports = [8443]\nmode = \"observe\"\n[default]\nupload = { rate = \"1mbit\" }",
    );
    let message = lab.done(Command::Reload);
    assert!(
        message.ends_with("is in force: observe, 0 rules, port 8443"),
        "{message}"
    );
    assert_eq!(lab.client("203.0.113.9").upload.limit_bps, Some(1_000_000));
    assert_eq!(lab.client("192.0.2.1").upload.limit_bps, Some(2_000_000));
    assert_eq!(lab.status().mode, "observe");
}

#[test]
fn an_invalid_policy_changes_nothing_and_says_why() {
    let mut lab = lab();
    lab.write_policy("ports = [443]\nmode = \"strict\"\n");
    let error = lab.error(Command::Reload);
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(
        error.message.contains("policy.toml:2:8"),
        "{}",
        error.message
    );
    assert!(error.message.contains("the old policy stays in force"));
    lab.write_policy("control = { group = \"no-such-group-here\" }");
    fs::write(&lab.core.options.socket, "").unwrap();
    let error = lab.error(Command::Reload);
    assert!(
        error.message.contains("no-such-group-here"),
        "{}",
        error.message
    );
    fs::remove_file(lab.dir.path().join("policy.toml")).unwrap();
    assert_eq!(lab.error(Command::Reload).code, ErrorCode::Failed);
    assert_eq!(lab.kernel.state().applied.len(), 1);
    assert_eq!(lab.status().mode, "enforce");
}

#[test]
fn a_failed_sample_is_said_and_the_last_one_served() {
    let mut lab = lab();
    lab.kernel.state().refuse_sample = Some("EPERM".to_owned());
    lab.core.tick(at(1));
    let status = lab.status();
    assert_eq!(status.warnings, ["cannot read the kernel's maps: EPERM"]);
    assert_eq!((status.flows, status.counters["sample_failures"]), (3, 1));
    lab.kernel.state().refuse_sample = None;
    lab.core.tick(at(2));
    assert_eq!(lab.status().warnings, Vec::<String>::new());
}

#[test]
fn clients_that_left_are_forgotten() {
    let mut lab = lab();
    // The fake kernel's clock goes a second with each sample.
    for second in 1..=61 {
        lab.core.tick(at(second));
    }
    assert_eq!(lab.kernel.state().forgotten.len(), 2);
    lab.core.tick(at(62));
    assert_eq!(lab.status().clients, 0);
}

#[test]
fn runtime_settings_that_cannot_be_kept_hold_all_the_same() {
    let mut lab = lab();
    fs::create_dir(lab.core.options.overrides()).unwrap();
    let message = lab.done(limit("192.0.2.1", "2mbit", None));
    assert!(message.contains("will not outlive the daemon"), "{message}");
    assert_eq!(lab.client("192.0.2.1").upload.limit_bps, Some(2_000_000));
    assert_eq!(lab.status().warnings.len(), 1);
}

#[test]
fn the_log_has_each_change_once_with_who_asked() {
    let mut lab = lab();
    let log = logged(|| {
        lab.done(Command::Reload);
        lab.done(limit("192.0.2.1", "2mbit", None));
        lab.write_policy("ports = 443");
        lab.error(Command::Reload);
        lab.core.hangup();
    });
    let starts: Vec<_> = log
        .lines()
        .filter(|line| line.contains("INFO") || line.contains("WARN"))
        .collect();
    assert_eq!(starts.len(), 4, "{log}");
    assert!(
        starts[0].contains(" reloaded: ") && starts[0].contains("uid=0 pid=7"),
        "{log}"
    );
    assert!(
        starts[1].contains(" limited 192.0.2.1: upload 2mbit uid=0 pid=7"),
        "{log}"
    );
    // As it was sent, and not as Rust prints it.
    assert!(!log.contains("Some("), "{log}");
    assert!(
        starts[2].contains(" refused: not reloaded, the old policy stays in force: "),
        "{log}"
    );
    assert!(
        starts[3].contains(" not reloaded, the old policy stays in force: "),
        "{log}"
    );
}

#[test]
fn the_log_says_which_runtime_setting_has_ended() {
    let mut lab = lab();
    lab.done(limit("192.0.2.1", "2mbit", Some(60_000)));
    lab.done(Command::Block {
        client: "203.0.113.9".to_owned(),
        for_ms: Some(1_000),
    });
    let log = logged(|| lab.core.tick(at(12)));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.starts_with(" INFO the runtime block of 203.0.113.9 has ended "),
        "{log}"
    );
    let log = logged(|| lab.core.tick(at(80)));
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(
        log.starts_with(" INFO the runtime limit of 192.0.2.1 has ended "),
        "{log}"
    );
}

#[test]
fn why_a_policy_cannot_be_read_is_said_once() {
    let mut lab = lab();
    fs::remove_file(lab.dir.path().join("policy.toml")).unwrap();
    let message = lab.error(Command::Reload).message;
    assert_eq!(message.matches("No such file").count(), 1, "{message}");
}

/// One line of the audit log, its fields in the order of the names below.
fn audited(line: &serde_json::Value) -> String {
    assert_eq!(line["audit"], true, "{line}");
    let fields = [
        "action", "outcome", "by", "uid", "pid", "user", "client", "part",
    ];
    let mut texts: Vec<_> = fields
        .iter()
        .filter_map(|name| Some(line.get(*name)?.to_string().replace('"', "")))
        .collect();
    if let (Some(before), Some(after)) = (line.get("before"), line.get("after")) {
        texts.push(format!("{before} -> {after}").replace('"', ""));
    }
    texts.join(" ")
}

#[test]
fn the_audit_log_has_who_and_from_what_to_what() {
    let mut lab = lab();
    let clear = |client: &str| Command::ClearLimit {
        client: client.to_owned(),
    };
    let unblock = |client: &str| Command::Unblock {
        client: client.to_owned(),
    };
    let lines = logged_json(|| {
        lab.done(limit("192.0.2.1", "2mbit", Some(60_000)));
        lab.done(block("192.0.2.1", None));
        lab.done(unblock("192.0.2.1"));
        lab.done(clear("192.0.2.1"));
        lab.done(limit("203.0.113.9", "1mbit", Some(5_000)));
        lab.core.tick(at(20));
        lab.error(limit("192.0.2.1", "fast", None));
    });
    let lines: Vec<_> = lines.iter().map(audited).collect();
    let ours = "control 0 7 root";
    let (all, most) = ("upload 8mbit/100kB", "upload 2mbit/64KiB");
    let until = format!("until {}", at(70));
    let soon = format!("until {}", at(15));
    assert_eq!(
        lines,
        [
            format!("limit done {ours} 192.0.2.1 {all} -> {most} {until}"),
            format!("block done {ours} 192.0.2.1 {most} {until} -> blocked"),
            format!("unblock done {ours} 192.0.2.1 blocked -> {most} {until}"),
            format!("clear done {ours} 192.0.2.1 {most} {until} -> {all}"),
            format!(
                "limit done {ours} 203.0.113.9 upload 50mbit/625kB -> upload 1mbit/64KiB {soon}"
            ),
            "expiry done expiry 203.0.113.9 upload 1mbit/64KiB -> upload 50mbit/625kB".to_owned(),
            format!("limit refused {ours}"),
        ]
    );
}

#[test]
fn the_audit_log_names_each_part_that_a_reload_changed() {
    let mut lab = lab();
    lab.write_policy(
        &POLICY
            .replace("50mbit", "40mbit")
            .replace("[443]", "[8443]"),
    );
    let changed = [
        "ports 443 -> 8443",
        "rule partners upload 50mbit/625kB for 203.0.113.0/24 -> upload 40mbit/500kB for \
         203.0.113.0/24",
    ];
    let lines = logged_json(|| {
        lab.done(Command::Reload);
        lab.core.hangup();
    });
    let lines: Vec<_> = lines.iter().map(audited).collect();
    let who = "reload done control 0 7 root";
    assert_eq!(
        lines,
        [
            who.to_owned(),
            format!("{who} {}", changed[0]),
            format!("{who} {}", changed[1]),
            "reload done SIGHUP".to_owned(),
        ]
    );
}

#[test]
fn a_reload_of_many_rules_has_a_bounded_number_of_lines() {
    let mut lab = lab();
    let rules: String = (0..200)
        .map(|n| format!("[[rule]]\nname = \"r{n}\"\nclients = [\"10.0.0.{n}\"]\nblock = true\n"))
        .collect();
    lab.write_policy(&format!("{POLICY}{rules}"));
    let lines = logged_json(|| drop(lab.done(Command::Reload)));
    assert_eq!(lines.len(), 1 + CHANGES_LOGGED + 1);
    let last = lines.last().unwrap()["message"].as_str().unwrap();
    assert_eq!(last, "changed: 136 more parts of the policy");
}

#[test]
fn denied_attempts_are_in_the_audit_log() {
    let mut lab = lab();
    let peer = Peer {
        uid: 4_000_000,
        pid: Some(9),
    };
    let lines = logged_json(|| {
        for _ in 0..100 {
            let denied = lab.core.handle(block("192.0.2.1", None), peer, at(10));
            assert_eq!(denied.unwrap_err().code, ErrorCode::Denied);
        }
    });
    assert_eq!(lines.len(), 5, "few enough to read");
    assert_eq!(audited(&lines[0]), "block denied control 4000000 9");
    assert!(lines[0]["command"].as_str().unwrap().contains("192.0.2.1"));
}

/// Every event so far, as its name and sentence.
fn told(lab: &Lab) -> Vec<String> {
    let records = lab.core.bus.last(&EventFilter::default(), None);
    let told = records.iter().map(|record| {
        let event = &record.event;
        format!("{}: {}", event.name(), sentence(event))
    });
    told.collect()
}

#[test]
fn changes_are_events_with_who_made_them() {
    let mut lab = lab();
    lab.done(limit("192.0.2.1", "2mbit", Some(5_000)));
    lab.done(block("203.0.113.9", None));
    lab.core.tick(at(20));
    lab.error(limit("192.0.2.1", "fast", None));
    let mallory = Peer {
        uid: 4_000_000,
        pid: None,
    };
    for _ in 0..100 {
        let denied = lab.core.handle(block("192.0.2.1", None), mallory, at(21));
        assert!(denied.is_err());
    }
    lab.write_policy(&POLICY.replace("50mbit", "40mbit"));
    lab.done(Command::Reload);
    lab.core.hangup();
    lab.core.stopping("SIGTERM");
    let told = told(&lab);
    let pid = std::process::id();
    assert!(
        told[0].starts_with(&format!(
            "daemon_started: daemon 0.1.0 started, process {pid}: enforce, /"
        )),
        "{told:?}"
    );
    assert_eq!(
        told[1..4],
        [
            "limit_set: limited 192.0.2.1: upload 2mbit for 5s (by root, process 7)",
            "block_set: blocked 203.0.113.9; closed 1 open connection (by root, process 7)",
            "limit_cleared: the runtime limit of 192.0.2.1 has ended",
        ]
    );
    assert!(
        told[4].starts_with("change_refused: limit refused (by root, process 7): "),
        "{told:?}"
    );
    let denied =
        "change_refused: block denied (by user 4000000): this user may not change anything";
    assert_eq!(told[5..10], [denied; 5], "as many as the log has");
    assert_eq!(
        told[10..],
        [
            "policy_changed: policy changed (by root, process 7): rule partners",
            "policy_changed: policy read again, nothing is different (by SIGHUP)",
            "daemon_stopping: daemon stopping on SIGTERM; limits hold on",
        ]
    );
    let records = lab.core.bus.last(&EventFilter::default(), None);
    assert!(records.iter().map(|record| record.seq).eq(1..=13));
    let Event::PolicyChanged { changes, more, .. } = &records[10].event else {
        panic!("{:?}", records[10]);
    };
    assert_eq!(*more, 0);
    assert!(changes[0].before.contains("50mbit") && changes[0].after.contains("40mbit"));
}

#[test]
fn every_line_of_an_event_in_the_log_names_it() {
    let mut lab = lab();
    let lines = logged_json(|| {
        lab.done(limit("192.0.2.1", "2mbit", Some(5_000)));
        lab.core.tick(at(20));
        lab.write_policy(&POLICY.replace("50mbit", "40mbit"));
        lab.done(Command::Reload);
        lab.core.set_view(Arc::new(View {
            sockets: vec![model::HaproxySocket {
                path: "/run/haproxy/admin.sock".to_owned(),
                error: Some("connection refused".to_owned()),
                ..model::HaproxySocket::default()
            }],
            ..View::default()
        }));
        lab.core.stopping("SIGTERM");
    });
    let names: Vec<_> = lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "limit_set",
            "limit_cleared",
            "policy_changed",
            "policy_changed",
            "haproxy_lost",
            "daemon_stopping"
        ]
    );
    assert_eq!(lines[4]["socket"], "/run/haproxy/admin.sock");
    assert_eq!(lines[4]["error"], "connection refused");
    assert_eq!(lines[4]["level"], "WARN");
}
