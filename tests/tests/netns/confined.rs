//! The daemon as the systemd unit runs it: its capabilities, its system calls,
//! its sockets, its files, and nothing else.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, ensure_held, open};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::confined::Unit;
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4};
use shaper_tests::shaper::{Shaper, run_to_end};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;

pub const TESTS: &[Test] = &[
    ("the_unit_lets_the_daemon_do_everything", everything),
    ("the_unit_forbids_what_it_says", forbidden),
    ("the_unit_lets_the_daemon_use_clsact", clsact),
    ("each_capability_of_the_unit_is_needed", needed),
    ("the_agent_needs_its_drop_in", agent),
    ("metrics_need_their_drop_in", metrics),
];

const LIMITED: &str = "[default]\nupload = { rate = \"8mbit\" }\n";
const CONFINED: &str = env!("CARGO_BIN_EXE_shaper-confined");

fn packaging(file: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("../packaging").join(file)
}

/// From now on its daemons run as the unit has it; returns the unit.
pub fn confine(shaper: &mut Shaper) -> PathBuf {
    let unit = packaging("shaper.service");
    confine_by(shaper, std::slice::from_ref(&unit));
    unit
}

/// The same with another unit, or with drop-ins.
pub fn confine_by(shaper: &mut Shaper, units: &[PathBuf]) {
    shaper.confine(CONFINED.as_ref(), units);
}

/// Client and proxy are joined directly: only window updates, from a packet
/// socket, let such a short path reach its limit.
fn everything() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    confine(&mut shaper);
    let group = "[control]\ngroup = \"daemon\"\n";
    shaper.write_policy(&format!("{LIMITED}{group}"))?;
    let servers = Servers::start(&lab, None)?;
    let before = Bulk::upload(&lab, &servers, client_v4(0))?;
    shaper.run(&[])?;
    is_confined(shaper.pid().context("no daemon")?)?;
    sleep(SECOND);
    ensure_held("opened before", before.rate_over(4 * SECOND), 8e6)?;
    let after = Bulk::upload(&lab, &servers, client_v4(1))?;
    sleep(SECOND);
    ensure_held("opened after", after.rate_over(3 * SECOND), 8e6)?;
    let status = shaper.status()?;
    ensure!(status.warnings.is_empty(), "{:?}", status.warnings);

    let address = client_v4(1).to_string();
    shaper
        .cli(&["limit", &address, "--upload", "4mbit"])?
        .ok()?;
    sleep(SECOND);
    ensure_held("at runtime", after.rate_over(3 * SECOND), 4e6)?;
    let answer = shaper.cli(&["block", &address])?.ok()?;
    ensure!(answer.contains("closed 1 open connection"), "{answer}");
    ensure!(
        open(&lab, client_v4(1), PORT, SECOND).is_err(),
        "not blocked"
    );

    shaper.reload("on_exit = \"detach\"\n[default]\nupload = { rate = \"16mbit\" }\n")?;
    sleep(SECOND);
    ensure_held("reloaded", before.rate_over(3 * SECOND), 16e6)?;
    shaper.signal(Signal::SIGHUP)?;
    shaper.wait_for("the log of SIGHUP", || {
        let reloads = shaper.log().matches("reloaded: ").count();
        Ok((reloads == 2).then_some(()))
    })?;

    // What a daemon before left is taken over.
    shaper.stop(Signal::SIGKILL)?;
    shaper.run(&[])?;
    sleep(SECOND);
    ensure_held("after a restart", before.rate_over(3 * SECOND), 16e6)?;
    ensure!(
        open(&lab, client_v4(1), PORT, SECOND).is_err(),
        "the block is gone"
    );
    let status = shaper.stop(Signal::SIGTERM)?;
    ensure!(status.code() == Some(0), "{status}");
    let remaining = shaper.owned().remaining();
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    ensure!(shaper.pins().is_empty(), "pins: {:?}", shaper.pins());
    Ok(())
}

/// That the kernel holds the daemon to just what the unit says.
fn is_confined(pid: u32) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))
            .with_context(|| format!("no {name} in {status}"))
    };
    let unit = Unit::read(&[packaging("shaper.service")])?;
    let allowed = unit.capabilities()?;
    let allowed = allowed.iter().fold(0, |set, one| set | one.bitmask());
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        ensure!(u64::from_str_radix(field(set)?, 16)? == allowed, "{status}");
    }
    ensure!(field("NoNewPrivs")? == "1", "{status}");
    ensure!(field("Seccomp")? == "2", "{status}");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let options = |at: &str| {
        let of = |line: &&str| line.split(' ').nth(4) == Some(at);
        // The last one lies over the others.
        let line = mounts.lines().rfind(of);
        line.and_then(|line| line.split(' ').nth(5))
            .map(str::to_owned)
    };
    for (at, mode) in [
        ("/", "ro"),
        ("/run/shaper/bpf", "rw"),
        ("/run/shaper", "rw"),
    ] {
        let options = options(at).with_context(|| format!("{at} in {mounts}"))?;
        ensure!(options.split(',').any(|one| one == mode), "{at}: {options}");
    }
    Ok(())
}

fn clsact() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    confine(&mut shaper);
    shaper.write_policy(&format!(
        "on_exit = \"detach\"\nxdp = \"generic\"\n{LIMITED}"
    ))?;
    let servers = Servers::start(&lab, None)?;
    shaper.run(&["--tc-hook", "clsact"])?;
    let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
    sleep(SECOND);
    ensure_held("on clsact", bulk.rate_over(3 * SECOND), 8e6)?;
    shaper.stop(Signal::SIGTERM)?;
    let remaining = shaper.owned().remaining();
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    Ok(())
}

/// That the tests above can fail: commands of the same sandbox do.
fn forbidden() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let shaper = Shaper::new(&lab)?;
    let unit = packaging("shaper.service");
    let run = |script: &str| {
        let mut command = shaper.command(CONFINED.as_ref());
        command.arg("--unit").arg(&unit);
        command.args(["--", "sh", "-c", script]);
        run_to_end(command)
    };
    let answer = run("echo here > /run/shaper/x && cat /run/shaper/x && id -u")?;
    ensure!(
        answer.code == 0 && answer.stdout == "here\n0\n",
        "{answer:?}"
    );
    for (script, why) in [
        ("echo x > /etc/x", "Read-only file system"),
        ("echo x > /run/x", "Read-only file system"),
        ("cat /proc/version", "No such file"),
        (
            "touch /run/shaper/y && chmod 0 /run/shaper/y && cat /run/shaper/y",
            "Permission denied",
        ),
        ("unshare --mount true", "Operation not permitted"),
    ] {
        let answer = run(script)?;
        ensure!(
            answer.code != 0 && answer.stderr.contains(why),
            "{script}: {answer:?}"
        );
    }
    // By the filter: SIGSYS, of the shell or of what it executed.
    let answer = run("chroot / true")?;
    ensure!([128, 128 + 31].contains(&answer.code), "{answer:?}");
    Ok(())
}

/// What fails without each capability, as docs/security.md has it.
fn needed() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    shaper.write_policy("[control]\ngroup = \"daemon\"\n")?;
    let unit = fs::read_to_string(packaging("shaper.service"))?;
    let names = Unit::read(&[packaging("shaper.service")])?;
    let without = lab.directory().join("without.service");
    for name in names.words("CapabilityBoundingSet") {
        fs::write(
            &without,
            unit.replace(&format!("{name} "), "")
                .replace(&format!(" {name}\n"), "\n"),
        )?;
        confine_by(&mut shaper, std::slice::from_ref(&without));
        if name == "CAP_NET_RAW" {
            // Limits hold without; senders on short paths get less.
            shaper.run(&[])?;
            let warnings = shaper.status()?.warnings.join("\n");
            ensure!(warnings.contains(name), "{warnings}");
            shaper.stop(Signal::SIGTERM)?;
            continue;
        }
        let answer = shaper.refused(&[])?;
        ensure!(answer.stderr.contains(name), "without {name}: {answer:?}");
    }
    Ok(())
}

fn agent() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    confine(&mut shaper);
    shaper.write_policy("[haproxy.agent]\nlisten = \"127.0.0.1:9777\"\n")?;
    shaper.run(&[])?;
    shaper.wait_for("the agent's trouble", || {
        let warnings = shaper.status()?.warnings.join("\n");
        Ok(warnings.contains("packaging/agent.conf").then_some(()))
    })?;
    shaper.stop(Signal::SIGTERM)?;
    let units = ["shaper.service", "agent.conf"].map(packaging);
    confine_by(&mut shaper, &units);
    shaper.run(&[])?;
    shaper.wait_for("the agent", || {
        let answered = shaper
            .log()
            .contains("agent checks are answered on 127.0.0.1:9777");
        Ok(answered.then_some(()))
    })?;
    ensure!(shaper.status()?.warnings.is_empty());
    Ok(())
}

fn metrics() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    confine(&mut shaper);
    shaper.write_policy("[metrics]\n")?;
    shaper.run(&[])?;
    shaper.wait_for("what metrics need", || {
        let warnings = shaper.status()?.warnings.join("\n");
        Ok(warnings.contains("packaging/metrics.conf").then_some(()))
    })?;
    shaper.stop(Signal::SIGTERM)?;
    let units = ["shaper.service", "metrics.conf"].map(packaging);
    confine_by(&mut shaper, &units);
    shaper.run(&[])?;
    shaper.wait_for("metrics", || {
        let there = shaper
            .log()
            .contains("metrics are at http://127.0.0.1:9750/metrics");
        Ok(there.then_some(()))
    })?;
    ensure!(shaper.status()?.warnings.is_empty());
    Ok(())
}
