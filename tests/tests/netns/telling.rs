//! What the daemon tells those who run it: events as they happen, and metrics, of
//! real traffic.

use crate::tools::{Bulk, SECOND, Servers};
use crate::{NotRun, Test};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, client_v4};
use shaper_tests::shaper::Shaper;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("events_are_told_as_they_happen", events),
    ("events_are_in_the_journal_with_their_fields", journal),
    ("a_real_prometheus_reads_a_held_client", prometheus),
];

const POLICY: &str = "[default]\nupload = { rate = \"8mbit\" }\n[metrics]\n";
const LONG: Duration = Duration::from_secs(30);

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `shaper events --follow --json`, line by line.
struct Follower {
    _process: Running,
    lines: Receiver<Value>,
}

impl Follower {
    fn start(shaper: &Shaper) -> Result<Self> {
        let mut child = shaper
            .shaper(&["events", "--follow", "--json", "-n", "1"])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str(&line) else {
                    return;
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            _process: Running(child),
            lines,
        })
    }

    /// The next event of that name; the others are passed over.
    fn next(&self, name: &str) -> Result<Value> {
        let until = Instant::now() + LONG;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.lines.recv_timeout(left);
            let event = event.with_context(|| format!("no event {name}"))?;
            if event["event"] == name {
                return Ok(event);
            }
        }
    }
}

fn events() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let watching = ["--interface", INTERFACE, "--interface", "wan*"];
    let mut shaper = Shaper::start(&lab, POLICY, &watching)?;
    let follower = Follower::start(&shaper)?;
    let started = follower.next("daemon_started")?;
    ensure!(
        started["seq"] == 1 && started["mode"] == "enforce",
        "{started}"
    );

    let servers = Servers::start(&lab, None)?;
    let client = client_v4(0).to_string();
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    let limited = follower.next("limited")?;
    ensure!(
        limited["client"] == *client && limited["direction"] == "upload",
        "{limited}"
    );
    ensure!(
        limited["limit_bps"] == 8_000_000 && limited["rule"] == "default",
        "{limited}"
    );

    lab.client.ip(&format!(
        "link add peer7 type veth peer name wan7 netns {}",
        lab.proxy.name()
    ))?;
    lab.proxy.ip("link set wan7 up")?;
    let back = follower.next("interface_back")?;
    ensure!(
        back["interface"] == "wan7" && !back["ingress"].is_null(),
        "{back}"
    );
    lab.proxy.ip("link del wan7")?;
    ensure!(follower.next("interface_gone")?["interface"] == "wan7");

    shaper.cli(&["limit", &client, "--upload", "4mbit"])?.ok()?;
    let set = follower.next("limit_set")?;
    ensure!(
        set["uid"] == 0 && set["after"] == "upload 4mbit/64KiB",
        "{set}"
    );
    shaper.reload(&POLICY.replace("8mbit", "9mbit"))?;
    let changed = follower.next("policy_changed")?;
    ensure!(
        changed["user"] == "root" && changed["changes"][0]["part"] == "default",
        "{changed}"
    );
    shaper.cli(&["block", &client])?.ok()?;
    ensure!(follower.next("block_set")?["client"] == *client);
    let blocked = follower.next("blocked")?;
    ensure!(blocked["client"] == *client, "{blocked}");
    drop(bulk);
    let released = follower.next("released")?;
    ensure!(released["limited_ms"].as_u64() > Some(0), "{released}");

    // What was followed is remembered, and is in the log.
    let kept = shaper
        .cli(&["events", "--json", "event:limit_set,blocked"])?
        .ok()?;
    ensure!(kept.lines().count() == 2, "{kept}");
    let text = shaper.cli(&["events", &client])?.ok()?;
    ensure!(
        text.contains(&format!("{client} limited: upload 8.00 Mbit/s")),
        "{text}"
    );
    let wrong = shaper.cli(&["events", "event:blok"])?;
    ensure!(
        wrong.code == 2 && wrong.stderr.contains("expected daemon_started"),
        "{wrong:?}"
    );
    ensure!(
        shaper.log().contains("event=\"interface_gone\""),
        "not in the log"
    );
    shaper.stop(Signal::SIGTERM)?;
    ensure!(follower.next("daemon_stopping")?["signal"] == "SIGTERM");
    ensure!(
        shaper.log().contains("event=\"daemon_stopping\""),
        "not in the log"
    );
    Ok(())
}

/// The fields of an entry, as systemd's "Native Journal Protocol" has them.
fn entry(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
        } else if let Some((length, rest)) = bytes.split_first_chunk() {
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
            let length = length.min(rest.len());
            fields.insert(line, String::from_utf8_lossy(&rest[..length]).into_owned());
            bytes = rest.get(length + 1..).unwrap_or_default();
        }
    }
    fields
}

/// With a socket in the place of the journal's.
fn journal() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let mut shaper = Shaper::new(&lab)?;
    shaper.write_policy(POLICY)?;
    let directory = shaper.root().join("run/systemd/journal");
    std::fs::create_dir_all(&directory)?;
    let journal = UnixDatagram::bind(directory.join("socket"))?;
    journal.set_read_timeout(Some(LONG))?;
    shaper.run(&["--log-format", "journal"])?;
    let servers = Servers::start(&lab, None)?;
    let client = client_v4(0);
    let _bulk = Bulk::upload(&lab, &servers, client)?;
    let next = |name: &str| loop {
        let mut bytes = vec![0; 65536];
        let length = journal.recv(&mut bytes).with_context(|| name.to_owned())?;
        let entry = entry(&bytes[..length]);
        if entry.get("SHAPER_EVENT").is_some_and(|event| event == name) {
            return anyhow::Ok(entry);
        }
    };
    ensure!(next("daemon_started")?["SHAPER_MODE"] == "enforce");
    let limited = next("limited")?;
    ensure!(
        limited["SHAPER_CLIENT"] == client.to_string()
            && limited["SHAPER_LIMIT_BPS"] == "8000000"
            && limited["MESSAGE"] == format!("{client} limited: upload 8.00 Mbit/s, rule default")
            && limited["PRIORITY"] == "5"
            && limited["SYSLOG_IDENTIFIER"] == "shaper",
        "{limited:?}"
    );
    shaper.cli(&["block", &client.to_string()])?.ok()?;
    let blocked = next("block_set")?;
    ensure!(
        blocked["SHAPER_USER"] == "root" && blocked["SHAPER_AFTER"] == "blocked",
        "{blocked:?}"
    );
    // The journal may go and come back: nobody waits for it.
    std::fs::remove_file(directory.join("socket"))?;
    drop(journal);
    shaper.cli(&["unblock", &client.to_string()])?.ok()?;
    Ok(())
}

/// The value of an instant query; `None` while there is none.
fn query(lab: &Lab, query: &str) -> Result<Option<f64>> {
    let output = lab
        .proxy
        .command("promtool")
        .args(["query", "instant", "http://127.0.0.1:9090", query])
        .output()?;
    // `{labels} => value @[time]`
    let text = String::from_utf8(output.stdout)?;
    let value = text
        .split(" => ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    Ok(value.and_then(|value| value.parse().ok()))
}

fn prometheus() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let config = lab.directory().join("prometheus.yml");
    std::fs::write(
        &config,
        "global: { scrape_interval: 1s }\nscrape_configs:\n  - job_name: shaper\n    \
         static_configs: [ { targets: [ \"127.0.0.1:9750\" ] } ]\n",
    )?;
    let there = std::process::Command::new("prometheus")
        .arg("--version")
        .output();
    if there.is_err() {
        bail!(NotRun("there is no prometheus: cargo xtask setup"));
    }
    let process = lab
        .proxy
        .command("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            lab.directory().join("tsdb").display()
        ))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _prometheus = Running(process);
    let servers = Servers::start(&lab, None)?;
    let client = client_v4(0);
    let _bulk = Bulk::upload(&lab, &servers, client)?;
    // It takes some seconds to start, and more on a busy machine.
    let begun = Instant::now();
    while query(&lab, "up{job=\"shaper\"}")? != Some(1.0) {
        ensure!(begun.elapsed() < 2 * LONG, "the target is not up");
        sleep(SECOND / 5);
    }
    sleep(12 * SECOND);
    let of = format!("{{client=\"{client}\", direction=\"upload\"}}");
    let rate = query(
        &lab,
        &format!("8 * rate(shaper_client_bytes_total{of}[10s])"),
    )?;
    let rate = rate.context("no rate of the client")?;
    ensure!(
        (6.8e6..=9.2e6).contains(&rate),
        "{rate} bit/s in Prometheus, limited to 8 Mbit/s"
    );
    let limit = query(
        &lab,
        &format!("8 * shaper_client_limit_bytes_per_second{of}"),
    )?;
    ensure!(limit == Some(8e6), "{limit:?}");
    let held = query(
        &lab,
        &format!("increase(shaper_client_held_seconds_total{of}[10s])"),
    )?;
    ensure!(held.is_some_and(|held| held > 0.0), "never held: {held:?}");
    let rule = query(
        &lab,
        "sum(rate(shaper_rule_bytes_total{rule=\"default\"}[10s])) * 8",
    )?;
    ensure!(rule.is_some_and(|rule| rule > 6.8e6), "{rule:?}");
    let attached = format!("shaper_interface_attached{{interface=\"{INTERFACE}\"}}");
    ensure!(query(&lab, &attached)? == Some(1.0));
    // Each series of the client is what `shaper clients` says.
    let row = shaper.client(client)?;
    let total = query(&lab, &format!("shaper_client_bytes_total{of}"))?.unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
    let counted = row.upload.traffic.bytes as f64;
    ensure!(
        total > 0.0 && total <= counted,
        "{total}, and then {counted}"
    );
    Ok(())
}
