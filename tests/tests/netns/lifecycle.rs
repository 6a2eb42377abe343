//! The daemon goes, the limits stay; or go too, where asked.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, ensure_held};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::lab::{Lab, LabSpec, client_v4};
use shaper_tests::shaper::Shaper;
use std::thread::sleep;

pub const TESTS: &[Test] = &[
    ("limits_hold_after_sigkill_and_restart", || {
        stays(Signal::SIGKILL)
    }),
    ("limits_hold_after_sigterm_and_restart", || {
        stays(Signal::SIGTERM)
    }),
    ("limits_hold_after_sigkill_on_clsact", clsact_stays),
    ("on_exit_detach_leaves_nothing", on_exit),
    ("two_daemons_do_not_share_a_host", second),
];

const POLICY: &str = "[default]\nupload = { rate = \"8mbit\" }\n";

fn stays(signal: Signal) -> Result<()> {
    daemon_goes(signal, &[])
}

fn clsact_stays() -> Result<()> {
    daemon_goes(Signal::SIGKILL, &["--tc-hook", "clsact"])
}

fn daemon_goes(signal: Signal, arguments: &[&str]) -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let mut shaper = Shaper::start(&lab, POLICY, arguments)?;
    let servers = Servers::start(&lab, None)?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(SECOND);
    let before = shaper.client(client_v4(0))?.upload.traffic.bytes;
    let status = shaper.stop(signal)?;
    ensure!(
        (signal == Signal::SIGTERM) == (status.code() == Some(0)),
        "{signal}: {status}"
    );
    ensure_held("without a daemon", bulk.rate_over(3 * SECOND), 8e6)?;
    shaper.run(arguments)?;
    let after = shaper.client(client_v4(0))?.upload.traffic.bytes;
    // Three seconds at 8 Mbit/s are 3 MB: counted while no daemon ran.
    ensure!(
        after > before + 2_000_000,
        "{before} bytes before, {after} after the restart"
    );
    ensure_held("after the restart", bulk.rate_over(3 * SECOND), 8e6)?;
    drop(bulk);
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    Ok(())
}

fn on_exit() -> Result<()> {
    let lab = Lab::new(LabSpec::default())?;
    let policy = format!("on_exit = \"detach\"\n{POLICY}");
    let mut shaper = Shaper::start(&lab, &policy, &[])?;
    let servers = Servers::start(&lab, None)?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(SECOND);
    ensure_held("while it runs", bulk.rate_over(3 * SECOND), 8e6)?;
    let status = shaper.stop(Signal::SIGTERM)?;
    ensure!(status.code() == Some(0), "{status}");
    let remaining = shaper.owned().remaining();
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    ensure!(shaper.pins().is_empty(), "pins: {:?}", shaper.pins());
    // A sender that was held for long is slow to find out.
    drop(bulk);
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    bulk.ensure_free("afterwards")
}

fn second() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let pid = format!("process {}", shaper.pid().unwrap_or_default());
    let socket = shaper.socket().display().to_string();
    // On the same socket, and on one of its own.
    for answer in [
        shaper.refused(&[])?,
        shaper.refused_on(&lab.directory().join("second.sock"))?,
    ] {
        ensure!(answer.code == 1, "{answer:?}");
        ensure!(
            answer.stderr.contains(&pid) && answer.stderr.contains(&socket),
            "it does not name {pid} on {socket}: {answer:?}"
        );
    }
    shaper.status()?;
    Ok(())
}
