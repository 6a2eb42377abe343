//! XDP on a real device.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, foreign_programs, open};
use anyhow::{Context, Result, ensure};
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, PORT, client_v4};
use shaper_tests::process;
use shaper_tests::shaper::Shaper;
use std::thread::scope;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("xdp_generic_shields_and_goes", || shields("generic")),
    ("xdp_native_shields_and_goes", || shields("native")),
    ("xdp_modes_change_by_reload", modes),
    ("a_foreign_xdp_program_stays", foreign),
];

const HALF: Duration = Duration::from_millis(500);

/// What `ip link` says of XDP on the proxy's interface.
fn seen(lab: &Lab) -> Result<String> {
    let mut command = lab.proxy.command("ip");
    command.args(["-d", "link", "show", "dev", INTERFACE]);
    let text = String::from_utf8(process::output(command)?.stdout)?;
    Ok(text
        .split_whitespace()
        .filter(|word| word.contains("xdp"))
        .collect::<Vec<_>>()
        .join(" "))
}

fn mode(shaper: &Shaper) -> Result<Option<String>> {
    let interfaces = shaper.status()?.interfaces;
    Ok(interfaces.first().context("no interface")?.xdp.clone())
}

fn shields(xdp: &str) -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let rules = "[default]\nconnection_rate = \"5/s\"\n\
        [[rule]]\nname = \"bad\"\nclients = [\"10.77.0.11\"]\nblock = true\n";
    let mut shaper = Shaper::start(&lab, &format!("xdp = \"{xdp}\"\n{rules}"), &[])?;
    ensure!(
        mode(&shaper)?.as_deref() == Some(xdp),
        "{:?}",
        mode(&shaper)?
    );
    ensure!(seen(&lab)?.contains("xdp"), "{}", seen(&lab)?);
    let _servers = Servers::start(&lab, None)?;
    ensure!(
        open(&lab, client_v4(1), PORT, HALF).is_err(),
        "a blocked client came through"
    );
    let opened = scope(|scope| {
        let attempts: Vec<_> = (0..30)
            .map(|_| scope.spawn(|| open(&lab, client_v4(0), PORT, HALF).is_ok()))
            .collect();
        attempts
            .into_iter()
            .filter_map(|attempt| attempt.join().ok())
            .filter(|opened| *opened)
            .count()
    });
    // Charged once, by XDP and not by TC again.
    ensure!((5..=8).contains(&opened), "{opened} of 30 came through");
    shaper.fresh_clients()?;
    let counters = shaper.status()?.counters;
    for name in ["blocked_packets", "syn_rate_dropped"] {
        ensure!(counters.get(name).is_some_and(|n| *n > 0), "{counters:?}");
    }
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    ensure!(seen(&lab)?.is_empty(), "{}", seen(&lab)?);
    open(&lab, client_v4(1), PORT, SECOND)?;
    Ok(())
}

fn modes() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let rules = "[default]\nupload = { rate = \"100mbit\" }\n\
        [[rule]]\nname = \"bad\"\nclients = [\"10.77.0.11\"]\nblock = true\n";
    let policy = |xdp: &str| format!("xdp = \"{xdp}\"\n{rules}");
    let mut shaper = Shaper::start(&lab, &policy("generic"), &[])?;
    let servers = Servers::start(&lab, None)?;
    // A restart adopts the links; what it holds of them must not keep them.
    shaper.stop(nix::sys::signal::Signal::SIGKILL)?;
    shaper.run(&[])?;
    // `auto` leaves a veth to TC.
    for (asked, got) in [
        ("generic", Some("generic")),
        ("native", Some("native")),
        ("generic", Some("generic")),
        ("off", None),
        ("native", Some("native")),
        ("auto", None),
    ] {
        shaper.reload(&policy(asked))?;
        ensure!(
            mode(&shaper)?.as_deref() == got,
            "{asked}: {:?}",
            mode(&shaper)?
        );
        ensure!(
            seen(&lab)?.is_empty() == got.is_none(),
            "{asked}: {}",
            seen(&lab)?
        );
        ensure!(
            open(&lab, client_v4(1), PORT, HALF).is_err(),
            "{asked}: a blocked client came through"
        );
    }
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    bulk.ensure_free("no shield")
}

fn foreign() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, "xdp = \"generic\"\n", &[])?;
    shaper.reload("xdp = \"off\"\n")?;
    let mut others = foreign_programs()?;
    lab.proxy.enter(|| others.shield(INTERFACE))?;
    let before = seen(&lab)?;
    ensure!(!before.is_empty());
    shaper.reload("xdp = \"auto\"\n")?;
    ensure!(mode(&shaper)?.is_none());
    shaper.write_policy("xdp = \"native\"\n")?;
    let answer = shaper.cli(&["reload"])?;
    ensure!(
        answer.code == 1 && answer.stderr.contains("another program may be there"),
        "{answer:?}"
    );
    ensure!(mode(&shaper)?.is_none());
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    ensure!(seen(&lab)? == before, "{} after {before}", seen(&lab)?);
    Ok(())
}
