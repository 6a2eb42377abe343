//! The `shaper` command: usage, exit status, and every command against a daemon
//! with a kernel of memory only.

#![allow(clippy::unwrap_used, reason = "so a test fails")]

use assert_cmd::Command;
use serde_json::Value;
use shaper_common::key::{TCP, UDP};
use shaper_user::control::socket::Socket;
use shaper_user::daemon::{Options, PolicyFile, run};
use shaper_user::testing::{FakeKernel, POLICY, client, flow};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

fn shaper(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shaper"));
    command
        .args(args)
        .env_remove("SHAPER_SOCKET")
        .env_remove("SHAPER_LOG");
    command
}

/// What a command printed, and its exit status.
fn output(command: &mut Command) -> (String, String, i32) {
    let output = command.output().unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
        output.status.code().unwrap(),
    )
}

/// A daemon in this process. Everything of it ends with the runtime.
struct Daemon {
    dir: TempDir,
    socket: PathBuf,
    kernel: FakeKernel,
    _runtime: tokio::runtime::Runtime,
}

fn daemon() -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shaper.sock");
    let file = dir.path().join("policy.toml");
    fs::write(&file, POLICY).unwrap();
    let options = Options {
        policy: PolicyFile {
            path: file,
            required: true,
        },
        interfaces: Vec::new(),
        observe: false,
        socket: path.clone(),
        state: dir.path().join("state"),
    };
    let kernel = FakeKernel::new(
        vec![
            flow("203.0.113.9", 4000, TCP),
            flow("203.0.113.9", 4001, UDP),
            flow("192.0.2.1", 4002, TCP),
        ],
        vec![client("203.0.113.9"), client("192.0.2.1")],
    );
    let (policy, _) = options.load().unwrap();
    let socket = Socket::bind(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let fake = kernel.clone();
    runtime.spawn(async move {
        run(fake, &socket, policy, options).await.unwrap();
    });
    Daemon {
        dir,
        socket: path,
        kernel,
        _runtime: runtime,
    }
}

impl Daemon {
    fn shaper(&self, args: &[&str]) -> Command {
        let mut command = shaper(args);
        command.env("SHAPER_SOCKET", &self.socket);
        command
    }

    fn json(&self, args: &[&str]) -> Value {
        let (out, _, code) = output(&mut self.shaper(args));
        assert_eq!(code, 0);
        assert_eq!(out.lines().count(), 1, "one line for a program");
        serde_json::from_str(&out).unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let (out, err, code) = output(&mut self.shaper(args));
        assert_eq!((err.as_str(), code), ("", 0));
        out
    }
}

#[test]
fn help_of_every_command() {
    let mut all = output(&mut shaper(&["--help"])).0;
    for command in [
        "run", "top", "flows", "clients", "servers", "status", "limit", "block", "unblock", "kill",
        "drain", "check", "reload", "detach",
    ] {
        let (out, err, code) = output(&mut shaper(&[command, "--help"]));
        assert_eq!((err.as_str(), code), ("", 0));
        all += &format!("\n==== {command}\n{out}");
    }
    insta::assert_snapshot!("help", all);
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["flow"],
        &["flows", "--sort", "size"],
        &["flows", "-n", "-1"],
        &["flows", "state:busy"],
        &["clients", "client:web.example"],
        &["events", "event:blok"],
        &["run", "--interface", "eth[0-9]"],
        &["run", "--interface", "an-interface-016*"],
        &["limit", "192.0.2.1"],
        &["limit", "192.0.2.1", "--upload", "8mbps"],
        &["limit", "192.0.2.1", "--upload", "8mbit", "--clear"],
        &["limit", "192.0.2.1", "--upload", "8mbit", "--for", "soon"],
        &["limit", "--upload", "8mbit"],
        &["block", "web.example"],
        &["block", "192.0.2.1", "--for", "0s"],
        &["unblock"],
        &["kill"],
        &["kill", "203.0.113.9"],
        &["kill", "2001:db8::9:4000"],
        &["kill", "0x"],
        &["drain", "be_ws/srv1"],
        &["drain", "be_ws/srv1", "--share", "0.3"],
        &["drain", "srv1", "--share", "0.3", "--over", "10m"],
        &["drain", "be_ws/srv1", "--share", "0", "--over", "10m"],
        &["drain", "be_ws/srv1", "--share", "30", "--over", "10m"],
        &["drain", "be_ws/srv1", "--share", "nan", "--over", "10m"],
        &["drain", "be_ws/srv1", "--stop", "--dry-run"],
        &["check"],
        &["run", "--log-format", "xml"],
        &["run", "--tc-hook", "xdp"],
    ] {
        let (out, err, code) = output(&mut shaper(args));
        assert_eq!((out.as_str(), code), ("", 2), "{args:?}: {err}");
    }
    let (_, err, _) = output(&mut shaper(&["flows", "rule:gold", "state:busy"]));
    assert!(err.contains("`state:busy`: expected limited"), "{err}");
}

#[test]
fn without_a_daemon_it_is_1_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none.sock");
    for args in [
        &["flows"][..],
        &["status", "--json"],
        &["block", "192.0.2.1"],
        &["limit", "192.0.2.1", "--clear"],
        &["kill", "192.0.2.1:4000"],
        &["drain", "be_ws/srv1", "--stop"],
        &["reload"],
    ] {
        let (out, err, code) = output(shaper(args).arg("--socket").arg(&socket));
        assert_eq!((out.as_str(), code), ("", 1), "{args:?}");
        assert!(err.contains("shaper run"), "{err}");
    }
}

#[test]
fn check_prints_the_policy_or_its_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, POLICY).unwrap();
    let (out, err, code) = output(shaper(&["check"]).arg(&file));
    assert_eq!((err.as_str(), code), ("", 0));
    assert!(
        out.contains("partners") && out.contains("monitoring"),
        "{out}"
    );

    fs::write(&file, "ports = [443]\nmode = \"strict\"\n").unwrap();
    let (out, err, code) = output(shaper(&["check"]).arg(&file));
    assert_eq!((out.as_str(), code), ("", 1));
    assert!(
        err.starts_with(&format!("{}:2:8: ", file.display())),
        "{err}"
    );

    let (_, err, code) = output(shaper(&["check"]).arg(dir.path().join("none")));
    assert_eq!(code, 1);
    assert!(err.contains("cannot read"), "{err}");
}

#[test]
fn run_names_its_mistakes_before_it_touches_anything() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("shaper.sock");
    let file = dir.path().join("policy.toml");
    let mut command = shaper(&["run", "--policy"]);
    let (_, err, code) = output(command.arg(&file).arg("--socket").arg(&socket));
    assert_eq!(code, 1);
    assert!(err.contains("policy.toml"), "{err}");

    let daemon = daemon();
    fs::write(&file, POLICY).unwrap();
    let mut command = daemon.shaper(&["run", "--policy"]);
    let (_, err, code) = output(command.arg(&file));
    assert_eq!(code, 1);
    let pid = format!("process {}", std::process::id());
    assert!(err.contains(&pid), "{err}");
    assert!(daemon.socket.exists());
}

#[test]
fn flows_as_json_have_the_contracts_fields() {
    let daemon = daemon();
    let answer = daemon.json(&["flows", "--json", "--sort", "client", "-n", "1"]);
    assert_eq!(answer["matched"], 3);
    let flow = &answer["flows"][0];
    for (key, value) in [
        ("client", "192.0.2.1".into()),
        ("client_port", 4002.into()),
        ("local", "10.0.0.1".into()),
        ("local_port", 443.into()),
        ("protocol", "tcp".into()),
        ("rule", "default".into()),
        ("haproxy", Value::Null),
    ] {
        assert_eq!(flow[key], value, "{key}");
    }
    for key in [
        "bytes",
        "packets",
        "rate_bps",
        "dropped_bytes",
        "dropped_packets",
    ] {
        assert_eq!(flow["upload"][key], 0, "{key}");
        assert_eq!(flow["download"][key], 0, "{key}");
    }
    assert!(answer["at"].as_str().unwrap().ends_with('Z'));
    let answer = daemon.json(&["flows", "--json", "client:203.0.113.0/24", "protocol:udp"]);
    assert_eq!(answer["flows"].as_array().unwrap().len(), 1);
    assert_eq!(answer["flows"][0]["client_port"], 4001);
}

#[test]
fn tables_are_plain_where_no_terminal_is() {
    let daemon = daemon();
    let out = daemon.done(&["clients", "--sort", "client"]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("CLIENT"));
    assert!(lines[1].starts_with("192.0.2.1"));
    assert!(!out.contains('\x1b'));
    assert!(daemon.done(&["flows", "rule:nobody"]).starts_with("CLIENT"));
    for (order, first) in [(&[][..], "192.0.2.1"), (&["--reverse"], "203.0.113.9")] {
        let args = [&["clients", "--json", "--sort", "client"], order].concat();
        assert_eq!(daemon.json(&args)["clients"][0]["client"], first);
    }
    let status = daemon.done(&["status"]);
    assert!(
        status.contains("3 flows, 2 clients, 0 limited now"),
        "{status}"
    );
}

#[test]
fn without_servers_the_reason_is_on_standard_error() {
    let daemon = daemon();
    assert_eq!(
        daemon.json(&["servers", "--json"])["servers"],
        Value::Array(vec![])
    );
    for args in [&["servers"][..], &["servers", "--json", "backend:be_ws"]] {
        let (out, err, code) = output(&mut daemon.shaper(args));
        assert_eq!(code, 0);
        assert!(out.starts_with("BACKEND") || out.starts_with('{'), "{out}");
        assert!(
            err.starts_with("shaper: ") && err.contains("HAProxy"),
            "{err}"
        );
    }
    let (_, err, code) = output(&mut daemon.shaper(&["servers", "server:"]));
    assert_eq!(code, 2);
    assert!(err.contains("expected the name of a server"), "{err}");
}

/// The daemon runs as this user, so the commands have the right only as root.
#[test]
fn changes_are_done_as_root_and_refused_to_others() {
    let daemon = daemon();
    let root = nix::unistd::geteuid().is_root();
    if !root {
        let (_, err, code) = output(&mut daemon.shaper(&["block", "192.0.2.1"]));
        assert_eq!(code, 1);
        assert!(err.contains("may not change anything"), "{err}");
        return;
    }
    assert_eq!(
        daemon.done(&["limit", "192.0.2.1", "--upload", "2mbit", "--for", "1h 30m"]),
        "limited 192.0.2.1: upload 2mbit for 1h 30m\n"
    );
    let answer = daemon.json(&["clients", "--json", "client:192.0.2.1"]);
    assert_eq!(answer["clients"][0]["upload"]["limit_bps"], 2_000_000);
    assert_eq!(
        daemon.done(&["block", "203.0.113.9"]),
        "blocked 203.0.113.9; closed 2 open connections\n"
    );
    assert!(
        daemon
            .kernel
            .state()
            .disconnected
            .contains(&"203.0.113.9/32".parse().unwrap())
    );
    assert!(
        daemon
            .done(&["clients", "state:blocked"])
            .contains("203.0.113.9")
    );
    assert_eq!(
        daemon.done(&["unblock", "203.0.113.9"]),
        "203.0.113.9 is no longer blocked at runtime\n"
    );
    daemon.done(&["limit", "192.0.2.1", "--clear"]);
    let answer = daemon.json(&["clients", "--json", "client:192.0.2.1"]);
    assert_eq!(answer["clients"][0]["runtime"], Value::Null);

    // Longer than a client is: only the daemon knows.
    let (_, err, code) = output(&mut daemon.shaper(&["block", "2001:db8::/65"]));
    assert_eq!(code, 1);
    assert!(err.contains("ipv6_prefix"), "{err}");

    assert!(daemon.done(&["reload"]).contains("3 rules"));
    fs::write(daemon.dir.path().join("policy.toml"), "ports = 443").unwrap();
    let (_, err, code) = output(&mut daemon.shaper(&["reload"]));
    assert_eq!(code, 1);
    assert!(err.contains("policy.toml:1:"), "{err}");
    assert_eq!(daemon.json(&["status", "--json"])["ports"][0], 443);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let daemon = daemon();
    let policy = daemon.dir.path().join("policy.toml");
    for args in [
        &["clients"][..],
        &["flows"],
        &["flows", "--json"],
        &["status"],
        &["check", policy.to_str().unwrap()],
        &["--help"],
    ] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_shaper"))
            .args(args)
            .env("SHAPER_SOCKET", &daemon.socket)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(
            (err.as_str(), ended.status.code()),
            ("", Some(0)),
            "{args:?}"
        );
    }
}

/// What a command shows on a terminal of 80 columns.
fn on_a_terminal(daemon: &Daemon, command: &str) -> Option<String> {
    let shaper = env!("CARGO_BIN_EXE_shaper");
    // Both streams are the terminal. What a command asks of the environment is its own.
    let line = format!(
        "stty cols 80 rows 24; {}",
        command.replace("shaper", shaper)
    );
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("SHAPER_SOCKET", &daemon.socket)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR")
        .env_remove("CLICOLOR_FORCE")
        .stdin(std::process::Stdio::null())
        .output();
    match output {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) => {
            eprintln!("NOT RUN: script (package bsdutils) makes the terminal: {error}");
            None
        }
    }
}

#[test]
fn a_terminal_of_80_columns_shows_colours_unless_told_not_to() {
    let daemon = daemon();
    {
        let mut state = daemon.kernel.state();
        let long = "2001:db8:1234:5678:9abc:def0:1234:5678";
        state.sample.flows.push(flow(long, 65_000, TCP));
        state.sample.clients.push(client(long));
    }
    // For the daemon's next sample.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    for command in [
        "shaper clients",
        "shaper flows",
        "shaper status",
        "shaper servers",
        "shaper --help",
        "shaper flows --help",
        "shaper drain --help",
        "shaper run --help",
        "shaper --socket /nonexistent/shaper.sock status",
        "shaper kill 192.0.2.1:4002",
    ] {
        let Some(coloured) = on_a_terminal(&daemon, command) else {
            return;
        };
        let Some(plain) = on_a_terminal(&daemon, &format!("NO_COLOR=1 {command}")) else {
            return;
        };
        assert!(!plain.trim().is_empty(), "{command}");
        assert!(!plain.contains('\x1b'), "{command}: {plain}");
        for line in plain.lines() {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
        if matches!(command, "shaper clients" | "shaper flows" | "shaper status") {
            assert!(coloured.contains('\x1b'), "{command}: {coloured}");
        }
        if command == "shaper flows" {
            assert!(plain.contains("[2001:db8:1234:5678:9abc:def0:1234:5678]:65000"));
        }
    }
}

#[test]
fn every_counter_of_the_daemon_is_explained() {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md");
    let guide = fs::read_to_string(guide).unwrap();
    let status = daemon().json(&["status", "--json"]);
    let counters = status["counters"].as_object().unwrap();
    assert!(!counters.is_empty());
    for name in counters.keys() {
        assert!(
            guide.contains(&format!("`{name}`")),
            "{name} is not explained"
        );
    }
}

#[test]
fn packages_get_pages_and_completions() {
    let dir = tempfile::tempdir().unwrap();
    let (out, err, code) = output(shaper(&["generate"]).arg(dir.path()));
    assert_eq!((out.as_str(), err.as_str(), code), ("", "", 0));
    let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
    let page = read("man/shaper-limit.8");
    assert!(page.contains("Example: shaper limit"), "{page}");
    assert!(read("man/shaper.8").contains("shaper\\-limit(8)"));
    assert!(!dir.path().join("man/shaper-generate.8").exists());
    for file in ["shaper.bash", "_shaper", "shaper.fish"] {
        let text = read(&format!("completions/{file}"));
        assert!(text.contains("limit"), "{file}");
        assert!(text.contains("upload"), "{file}");
    }
}

#[test]
fn a_policy_that_is_not_there_is_said_with_where_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["check"][..], &["run", "--policy"]] {
        let (out, err, code) = output(shaper(args).arg(dir.path().join("none.toml")));
        assert_eq!((out.as_str(), code), ("", 1));
        assert!(err.contains("`cp /usr/share/doc/shaper/"), "{err}");
    }
}

#[test]
fn sessions_are_closed_only_where_the_policy_names_it() {
    let daemon = daemon();
    let drain = [
        "drain",
        "be_ws/srv1",
        "--share",
        "0.3",
        "--over",
        "10m",
        "--dry-run",
    ];
    for (args, action) in [(&["kill", "192.0.2.1:4002"][..], "kill"), (&drain, "drain")] {
        let (out, err, code) = output(&mut daemon.shaper(args));
        assert_eq!((out.as_str(), code), ("", 1), "{args:?}");
        let line =
            format!("write `actions = [\"{action}\"]` under [haproxy], then `shaper reload`");
        assert!(err.contains(&line), "{err}");
    }
    let file = daemon.dir.path().join("policy.toml");
    let allowed = format!("{POLICY}\n[haproxy]\nactions = [\"kill\", \"drain\"]\n");
    fs::write(&file, allowed).unwrap();
    daemon.done(&["reload"]);
    let error = |args: &[&str]| {
        let (out, err, code) = output(&mut daemon.shaper(args));
        assert_eq!((out.as_str(), code), ("", 1), "{args:?}");
        err
    };
    let err = error(&["kill", "192.0.2.1:4002"]);
    assert!(
        err.contains("HAProxy has not told of 192.0.2.1:4002"),
        "{err}"
    );
    let err = error(&["kill", "203.0.113.9:4001"]);
    assert!(
        err.contains("no TCP flow 203.0.113.9:4001 is open"),
        "{err}"
    );
    let err = error(&drain);
    assert!(
        err.contains("no open session is pinned to be_ws/srv1"),
        "{err}"
    );
    let err = error(&["drain", "be_ws/srv1", "--stop"]);
    assert!(err.contains("be_ws/srv1 is not being drained"), "{err}");
}
