//! Changes while it runs: reload, limit, block.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, ensure_held, open};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4};
use shaper_tests::shaper::Shaper;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("reload_applies_to_open_connections_within_a_second", reload),
    ("an_invalid_policy_changes_nothing", invalid),
    ("a_limit_at_runtime_holds_and_expires", limit),
    ("a_block_closes_connections_and_expires", block),
    ("runtime_limits_survive_reload_and_restart", kept),
];

const LIMITED: &str = "[default]\nupload = { rate = \"8mbit\" }\n";
const OBSERVE: &str = "mode = \"observe\"\n[default]\nupload = { rate = \"8mbit\" }\n";

fn reload() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, OBSERVE, &[])?;
    let servers = Servers::start(&lab, None)?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(SECOND);
    bulk.ensure_free("observed")?;
    shaper.reload(LIMITED)?;
    sleep(SECOND);
    ensure_held("reloaded", bulk.rate_over(4 * SECOND), 8e6)?;
    // By signal, to another limit.
    shaper.write_policy("[default]\nupload = { rate = \"16mbit\" }\n")?;
    shaper.signal(Signal::SIGHUP)?;
    sleep(SECOND);
    ensure_held("reloaded by SIGHUP", bulk.rate_over(4 * SECOND), 16e6)
}

fn invalid() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, LIMITED, &[])?;
    shaper.write_policy("[default]\nupload = { rate = \"8mbps\" }\n")?;
    let answer = shaper.cli(&["reload"])?;
    ensure!(answer.code == 1, "{answer:?}");
    // interfaces and ports are lines 1 and 2.
    ensure!(answer.stderr.contains("policy.toml:4:"), "{answer:?}");
    let servers = Servers::start(&lab, None)?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(SECOND);
    ensure_held("the old policy", bulk.rate_over(3 * SECOND), 8e6)
}

fn limit() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, OBSERVE.replace("observe", "enforce").as_str(), &[])?;
    let servers = Servers::start(&lab, None)?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    let address = client_v4(0).to_string();
    shaper
        .cli(&["limit", &address, "--upload", "4mbit", "--for", "7s"])?
        .ok()?;
    let set = Instant::now();
    sleep(SECOND);
    ensure_held("limited at runtime", bulk.rate_over(4 * SECOND), 4e6)?;
    let row = shaper.client(client_v4(0))?;
    ensure!(row.upload.limit_bps == Some(4_000_000), "{row:?}");
    let runtime = row.runtime.context("no runtime limit is shown")?;
    ensure!(runtime.upload_bps == Some(4_000_000), "{runtime:?}");
    ensure!(runtime.limit_expires.is_some(), "{runtime:?}");
    sleep(Duration::from_millis(8_500).saturating_sub(set.elapsed()));
    let row = shaper.client(client_v4(0))?;
    ensure!(
        row.runtime.is_none() && row.upload.limit_bps == Some(8_000_000),
        "still there after its time: {row:?}"
    );
    shaper
        .cli(&["limit", &address, "--upload", "2mbit"])?
        .ok()?;
    ensure!(shaper.client(client_v4(0))?.upload.limit_bps == Some(2_000_000));
    shaper.cli(&["limit", &address, "--clear"])?.ok()?;
    ensure!(shaper.client(client_v4(0))?.upload.limit_bps == Some(8_000_000));
    Ok(())
}

fn block() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let shaper = Shaper::start(&lab, LIMITED, &[])?;
    let servers = Servers::start(&lab, None)?;
    let blocked = Bulk::upload(&lab, &servers, client_v4(0))?;
    let other = Bulk::upload(&lab, &servers, client_v4(1))?;
    sleep(SECOND);
    let address = client_v4(0).to_string();
    shaper.cli(&["block", &address])?.ok()?;
    let deadline = Instant::now() + SECOND;
    let open_flows = || -> Result<usize> {
        let flows = shaper.flows()?.flows;
        Ok(flows
            .iter()
            .filter(|flow| flow.client == client_v4(0))
            .count())
    };
    let sockets = || -> Result<String> {
        let mut command = lab.proxy.command("ss");
        command.args(["-Htn", "state", "established", "dst", &address]);
        Ok(String::from_utf8(
            shaper_tests::process::output(command)?.stdout,
        )?)
    };
    while !sockets()?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "open after a second: {}",
            sockets()?
        );
        sleep(Duration::from_millis(50));
    }
    ensure!(other.transfer.is_running(), "another client was cut off");
    shaper.wait_for("the flow's end", || Ok((open_flows()? == 0).then_some(())))?;
    ensure!(
        open(&lab, client_v4(0), PORT, 2 * SECOND).is_err(),
        "a blocked client could connect"
    );
    drop(blocked);
    let row = shaper.client(client_v4(0))?;
    ensure!(row.blocked, "{row:?}");
    shaper.cli(&["unblock", &address])?.ok()?;
    open(&lab, client_v4(0), PORT, 2 * SECOND).context("after unblock")?;
    shaper.cli(&["block", &address, "--for", "2s"])?.ok()?;
    ensure!(
        open(&lab, client_v4(0), PORT, SECOND).is_err(),
        "blocked again"
    );
    sleep(2 * SECOND);
    open(&lab, client_v4(0), PORT, 3 * SECOND).context("after its time")?;
    Ok(())
}

fn kept() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let mut shaper = Shaper::start(&lab, LIMITED, &[])?;
    let servers = Servers::start(&lab, None)?;
    let address = client_v4(0).to_string();
    shaper
        .cli(&["limit", &address, "--upload", "4mbit", "--for", "1h"])?
        .ok()?;
    shaper.cli(&["block", &client_v4(1).to_string()])?.ok()?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    let still = |shaper: &Shaper, when: &str| -> Result<()> {
        let row = shaper.client(client_v4(0))?;
        ensure!(row.upload.limit_bps == Some(4_000_000), "{when}: {row:?}");
        ensure!(
            open(&lab, client_v4(1), PORT, SECOND).is_err(),
            "{when}: the block is gone"
        );
        Ok(())
    };
    still(&shaper, "at first")?;
    shaper.reload("[default]\nupload = { rate = \"16mbit\" }\n")?;
    still(&shaper, "after reload")?;
    shaper.stop(Signal::SIGTERM)?;
    shaper.run(&[])?;
    still(&shaper, "after restart")?;
    sleep(SECOND);
    ensure_held("after restart", bulk.rate_over(3 * SECOND), 4e6)
}
