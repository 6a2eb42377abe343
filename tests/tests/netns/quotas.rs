//! Quotas of WebSockets through HAProxy: over a kill, and over new maps.

use crate::join::Test;
use crate::join::bed::{Bed, wait};
use crate::tools::SECOND;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::haproxy::Installed;
use shaper_tests::lab::{PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_user::model::{Client, ClientQuota, Quota};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A client at its full rate needs some two seconds for its quota.
const POLICY: &str = r#"
[default]
upload = { rate = "16mbit" }
quota = { bytes = "4MB", per = "month", then = "slow" }
[[rule]]
name = "slow"
upload = { rate = "1mbit" }
"#;
const FULL: u64 = 16_000_000;
const SLOW: u64 = 1_000_000;
/// What a WebSocket is to send, far more than it can in one test.
const ENDLESS: usize = 500_000_000;

pub const TESTS: &[Test] = &[
    (
        "a_quota_slows_a_websocket_over_kills_and_new_maps_until_its_reset",
        quota,
    ),
    ("a_quota_counts_nothing_of_tables_without_one", other_tables),
    ("a_full_disk_ends_no_limit_and_loses_no_usage", full_disk),
];

/// The client's row, and its quota in the same sample.
fn row(shaper: &Shaper) -> Result<(Client, Quota)> {
    let row = shaper.client(client_v4(0))?;
    let quota = row.quota.clone().context("no quota")?;
    Ok((row, quota))
}

fn counted(row: &Client) -> u64 {
    row.upload.traffic.bytes + row.download.traffic.bytes
}

/// The kernel counts on while no daemon looks.
fn ensure_held(shaper: &Shaper, what: &str) -> Result<()> {
    let (before, quota) = row(shaper)?;
    ensure!(quota.state == "reached", "{what}: {quota:?}");
    ensure!(
        before.upload.limit_bps == Some(SLOW) && before.rule == "default",
        "{what}: {before:?}"
    );
    let start = Instant::now();
    sleep(4 * SECOND);
    let (after, _) = row(shaper)?;
    let bytes = after.upload.traffic.bytes - before.upload.traffic.bytes;
    let rate = bytes as f64 * 8.0 / start.elapsed().as_secs_f64();
    // A sample may be a second older or newer; 16 Mbit/s would be far off.
    ensure!(rate < 2e6 && rate > 2e5, "{what}: {rate} bit/s");
    Ok(())
}

fn wait_reached(shaper: &Shaper) -> Result<()> {
    wait("the end of the quota", 20 * SECOND, || {
        let (row, quota) = row(shaper)?;
        Ok(quota.state == "reached" && row.upload.limit_bps == Some(SLOW))
    })
}

/// A WebSocket of the client that sends until the test ends.
fn flood(bed: &Bed) -> Result<()> {
    let mut open = bed.open(&[SocketAddr::new(client_v4(0), 0)], PORT)?;
    let mut websocket = open.remove(0);
    bed.runtime.spawn(async move {
        let _ = websocket.send(ENDLESS).await;
    });
    Ok(())
}

fn quota(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |_| {})?;
    let mut shaper = Shaper::start(&bed.lab, POLICY, &[])?;
    let address = client_v4(0).to_string();
    flood(&bed)?;
    wait_reached(&shaper)?;
    let (row_now, quota) = row(&shaper)?;
    ensure!(quota.used == counted(&row_now), "{quota:?} of {row_now:?}");
    let events = shaper.cli(&["events", "--json"])?.ok()?;
    let told = |percent: u8| {
        let field = format!("\"percent\":{percent}");
        let mut lines = events.lines();
        lines.any(|line| line.contains("quota_reached") && line.contains(&field))
    };
    ensure!(told(80) && told(100), "{events}");
    sleep(SECOND);
    ensure_held(&shaper, "at its end")?;

    // Every byte that passed while no daemon ran counts, once.
    let (_, before) = row(&shaper)?;
    shaper.stop(Signal::SIGKILL)?;
    sleep(3 * SECOND);
    shaper.run(&[])?;
    let (row_now, quota) = row(&shaper)?;
    ensure!(quota.used > before.used, "{before:?}, then {quota:?}");
    ensure!(quota.used == counted(&row_now), "{quota:?} of {row_now:?}");
    ensure_held(&shaper, "after a kill")?;

    let said = shaper.cli(&["quota", &address, "--reset"])?.ok()?;
    ensure!(said.contains("begins its quota anew"), "{said}");
    let (row_now, quota) = row(&shaper)?;
    ensure!(
        row_now.upload.limit_bps == Some(FULL) && quota.state == "within",
        "{row_now:?}"
    );
    wait_reached(&shaper)?;

    // A reboot: the maps go, with all counters; what was used ten seconds before
    // is there.
    let (_, before) = row(&shaper)?;
    sleep(Duration::from_secs(10));
    shaper.stop(Signal::SIGKILL)?;
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "{remaining:?}");
    shaper.run(&[])?;
    let (row_now, quota) = row(&shaper)?;
    ensure!(quota.used >= before.used, "{before:?}, then {quota:?}");
    ensure!(
        counted(&row_now) < quota.used,
        "counters of before: {row_now:?}"
    );
    ensure_held(&shaper, "after a reboot")?;
    let said = shaper.cli(&["quota", &address, "--json"])?.ok()?;
    let said: ClientQuota = serde_json::from_str(&said)?;
    ensure!(said.quota.is_some_and(|quota| quota.state == "reached"));

    // As much more as is needed, and a little.
    shaper.cli(&["quota", &address, "--add", "900MB"])?.ok()?;
    let (row_now, quota) = row(&shaper)?;
    ensure!(
        row_now.upload.limit_bps == Some(FULL) && quota.added == 900_000_000,
        "{row_now:?}"
    );
    let status = shaper.status()?;
    let store = status.quotas.context("no store")?;
    ensure!(
        store.error.is_none() && store.damaged.is_none(),
        "{store:?}"
    );
    shaper.stop(Signal::SIGTERM)?;

    // A store that makes no sense is set aside, and the daemon runs.
    let mut spoil = shaper.command("sh".as_ref());
    spoil.args(["-c", "printf garbage > \"$1\"", "sh", &store.path]);
    ensure!(spoil.status()?.success());
    shaper.run(&[])?;
    let warnings = shaper.status()?.warnings;
    ensure!(
        warnings
            .iter()
            .any(|warning| warning.contains("was damaged")),
        "{warnings:?}"
    );
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "{remaining:?}");
    Ok(())
}

/// Tables that are made anew and used without a quota, then with the one of before.
fn other_tables(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |_| {})?;
    let mut shaper = Shaper::start(&bed.lab, POLICY, &[])?;
    flood(&bed)?;
    wait_reached(&shaper)?;
    shaper.stop(Signal::SIGTERM)?;
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "{remaining:?}");

    shaper.write_policy("[default]\nupload = { rate = \"16mbit\" }\n")?;
    shaper.run(&[])?;
    // More than the quota has seen.
    wait("other counters", 30 * SECOND, || {
        Ok(counted(&shaper.client(client_v4(0))?) > 12_000_000)
    })?;
    shaper.stop(Signal::SIGKILL)?;
    shaper.write_policy(POLICY)?;
    shaper.run(&[])?;
    let (_, quota) = row(&shaper)?;
    ensure!(
        (4_000_000..8_000_000).contains(&quota.used),
        "{quota:?} of other tables"
    );
    ensure_held(&shaper, "after other tables")?;
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "{remaining:?}");
    Ok(())
}

/// Runs a line of shell on the daemon's host.
fn shell(shaper: &Shaper, line: &str) -> Result<()> {
    let status = shaper.command("sh".as_ref()).args(["-c", line]).status()?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

const STATE: &str = "/var/lib/shaper";

fn full_disk(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |_| {})?;
    let mut shaper = Shaper::new(&bed.lab)?;
    shaper.write_policy(POLICY)?;
    let mount = format!("mkdir {STATE} && mount -t tmpfs -o size=16m,mode=700 tmpfs {STATE}");
    shell(&shaper, &mount)?;
    let fill = format!("! dd if=/dev/zero of={STATE}/fill bs=64k 2>/dev/null");
    let free = format!("rm {STATE}/fill");
    shell(&shaper, &fill)?;
    shaper.run(&[])?;
    flood(&bed)?;
    wait_reached(&shaper)?;
    ensure_held(&shaper, "with a full disk")?;
    let status = shaper.status()?;
    let store = status.quotas.context("no store")?;
    ensure!(store.state == "failing", "{store:?}");
    for what in [
        "usage will not outlive the daemon",
        "the history cannot be written",
    ] {
        let mut warnings = status.warnings.iter();
        ensure!(
            warnings.any(|warning| warning.contains(what)),
            "{what}: {:?}",
            status.warnings
        );
    }

    shell(&shaper, &free)?;
    wait("the store", 30 * SECOND, || {
        let store = shaper.status()?.quotas.context("no store")?;
        Ok(store.error.is_none() && store.written.is_some())
    })?;
    let (_, before) = row(&shaper)?;
    sleep(Duration::from_secs(10));
    // It is full again, and the maps go.
    shell(&shaper, &fill)?;
    sleep(Duration::from_secs(10));
    ensure_held(&shaper, "full again")?;
    shaper.stop(Signal::SIGKILL)?;
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "{remaining:?}");
    shell(&shaper, &free)?;
    shaper.run(&[])?;
    let (_, quota) = row(&shaper)?;
    ensure!(quota.used >= before.used, "{before:?}, then {quota:?}");
    ensure_held(&shaper, "with room again")?;
    let status = shaper.status()?;
    let store = status.quotas.context("no store")?;
    ensure!(
        store.error.is_none() && store.damaged.is_none(),
        "{store:?}"
    );
    ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
    shaper.cli(&["history", "--json"])?.ok()?;
    shaper.stop(Signal::SIGTERM)?;
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "{remaining:?}");
    Ok(())
}
