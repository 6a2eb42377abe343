//! Interfaces that are absent, named twice, go and come back, or are others' too;
//! ports and client prefix that change under open connections.

use crate::Test;
use crate::tools::{SECOND, Servers, foreign_programs, open};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, PORT, SOURCE_PORT, client_v4};
use shaper_tests::leftovers::Owned;
use shaper_tests::process;
use shaper_tests::shaper::Shaper;
use std::fs;

pub const TESTS: &[Test] = &[
    ("a_failed_start_leaves_nothing", failed_start),
    ("a_failed_start_takes_nothing", failed_restart),
    ("a_failed_reload_leaves_nothing_new", failed_reload),
    ("an_interface_named_twice_is_one", twice),
    ("an_interface_goes_and_comes_back", comes_back),
    ("others_filters_keep_their_qdisc", foreign_filter),
    ("a_missing_bpffs_is_mounted_and_unmounted", no_bpffs),
    ("changing_limits_opens_no_descriptors", descriptors),
    ("ports_and_prefix_change_under_open_connections", reloaded),
];

const POLICY: &str = "[default]\nupload = { rate = \"100mbit\" }\n";

/// Links of the daemon's programs: two an interface, and that of `sock_ops`.
fn attached(shaper: &Shaper, wanted: usize) -> Result<()> {
    let pid = shaper.pid().context("no daemon")?;
    shaper.wait_for(&format!("{wanted} links"), || {
        Ok((Owned::by(pid)?.links.len() == wanted).then_some(()))
    })
}

fn run_with(shaper: &Shaper, policy: &str) -> Result<shaper_tests::shaper::Answer> {
    fs::write(shaper.policy(), policy)?;
    let path = shaper.policy().display().to_string();
    shaper.cli(&["run", "--policy", &path])
}

fn failed_start() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let shaper = Shaper::new(&lab)?;
    let answer = run_with(
        &shaper,
        "interfaces = [\"eth0\", \"absent0\"]\nports = [8080]\n",
    )?;
    ensure!(answer.code == 1, "{answer:?}");
    ensure!(answer.stderr.contains("absent0"), "{answer:?}");
    ensure!(shaper.pins().is_empty(), "{:?}", shaper.pins());
    // The second interface fails after the first was attached to.
    lab.proxy.ip("link add tun7 type ifb\nlink set tun7 up")?;
    let answer = run_with(
        &shaper,
        "interfaces = [\"eth0\", \"tun7\"]\nports = [8080]\nxdp = \"native\"\n",
    )?;
    ensure!(answer.code == 1, "{answer:?}");
    ensure!(shaper.pins().is_empty(), "{:?}", shaper.pins());
    Ok(())
}

fn failed_restart() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, POLICY, &[])?;
    shaper.stop(Signal::SIGKILL)?;
    let pins = shaper.pins().len();
    let answer = run_with(
        &shaper,
        "interfaces = [\"eth0\", \"absent0\"]\nports = [8080]\n",
    )?;
    ensure!(answer.code == 1, "{answer:?}");
    ensure!(shaper.pins().len() == pins, "{:?}", shaper.pins());
    ensure!(shaper.detach()?.is_empty());
    Ok(())
}

fn failed_reload() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    lab.proxy.ip(
        "link add veth.7 type veth peer name peer7\nlink set veth.7 up\n\
         link add tun7 type ifb\nlink set tun7 up",
    )?;
    let mut shaper = Shaper::start(&lab, POLICY, &[])?;
    let pins = shaper.pins().len();
    fs::write(
        shaper.policy(),
        "interfaces = [\"eth0\", \"veth.7\", \"tun7\"]\nports = [8080]\nxdp = \"native\"\n",
    )?;
    ensure!(shaper.cli(&["reload"])?.code == 1);
    ensure!(shaper.pins().len() == pins, "{:?}", shaper.pins());
    attached(&shaper, 3)?;
    // A name with a dot.
    fs::write(
        shaper.policy(),
        "interfaces = [\"eth0\", \"veth.7\"]\nports = [8080]\n",
    )?;
    shaper.cli(&["reload"])?.ok()?;
    attached(&shaper, 5)?;
    shaper.reload(POLICY)?;
    attached(&shaper, 3)?;
    ensure!(shaper.detach()?.is_empty());
    Ok(())
}

fn twice() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let shaper = Shaper::start(
        &lab,
        POLICY,
        &["--interface", INTERFACE, "--interface", INTERFACE],
    )?;
    let interfaces = shaper.status()?.interfaces;
    ensure!(interfaces.len() == 1, "{interfaces:?}");
    Ok(())
}

fn comes_back() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    lab.proxy
        .ip("link add ext7 type veth peer name peer7\nlink set ext7 up")?;
    let mut shaper = Shaper::start(
        &lab,
        POLICY,
        &["--interface", INTERFACE, "--interface", "ext7"],
    )?;
    let state = |shaper: &Shaper, wanted: &str| {
        shaper.wait_for(wanted, || {
            let interfaces = shaper.status()?.interfaces;
            let row = interfaces.iter().find(|row| row.name == "ext7");
            Ok((row.context("ext7 is not shown")?.state == wanted).then_some(()))
        })
    };
    state(&shaper, "attached")?;
    // Renamed: gone, and nothing of ours stays on it.
    lab.proxy
        .ip("link set ext7 down\nlink set ext7 name old7\nlink set old7 up")?;
    state(&shaper, "gone")?;
    attached(&shaper, 3)?;
    // A policy is taken all the same.
    shaper.cli(&["block", "10.77.0.13"])?.ok()?;
    state(&shaper, "gone")?;
    lab.proxy
        .ip("link del old7\nlink add ext7 type veth peer name peer7\nlink set ext7 up")?;
    state(&shaper, "attached")?;
    attached(&shaper, 5)?;
    ensure!(shaper.detach()?.is_empty());
    Ok(())
}

fn foreign_filter() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, POLICY, &["--tc-hook", "clsact"])?;
    let tc = |arguments: &str| -> Result<String> {
        let mut command = lab.proxy.command("tc");
        command.args(arguments.split_whitespace());
        Ok(String::from_utf8(process::output(command)?.stdout)?)
    };
    let mut others = foreign_programs()?;
    lab.proxy.enter(|| others.filter(INTERFACE, 7))?;
    shaper.cli(&["detach"])?.ok()?;
    shaper.wait_stopped()?;
    ensure!(tc(&format!("qdisc show dev {INTERFACE}"))?.contains("clsact"));
    let filters = tc(&format!("filter show dev {INTERFACE} egress"))?;
    ensure!(
        filters.contains("pref 7") && !filters.contains("shaper_egress"),
        "{filters}"
    );
    let marks = shaper.files("/run/shaper");
    ensure!(
        !marks.iter().any(|path| path.contains("clsact")),
        "{marks:?}"
    );
    Ok(())
}

fn no_bpffs() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    let mount = |arguments: &[&str]| -> Result<String> {
        let mut command = shaper.command(std::path::Path::new("sh"));
        command.args(["-c"]).args(arguments);
        Ok(String::from_utf8(process::output(command)?.stdout)?)
    };
    mount(&["while umount /sys/fs/bpf 2>/dev/null; do :; done; umount -a -t bpf,cgroup2"])?;
    let left = mount(&["grep -cE ' (bpf|cgroup2) ' /proc/mounts || true"])?;
    ensure!(left.trim() == "0", "{left} mounts could not be removed");
    shaper.write_policy(POLICY)?;
    shaper.run(&[])?;
    let servers = Servers::start(&lab, None)?;
    let _stream = open(&lab, client_v4(0), PORT, 2 * SECOND)?;
    ensure!(shaper.fresh_flows()?.flows.len() == 1);
    drop(servers);
    ensure!(shaper.detach()?.is_empty());
    let mut command = shaper.command(std::path::Path::new("cat"));
    command.arg("/proc/mounts");
    let mounts = String::from_utf8(process::output(command)?.stdout)?;
    ensure!(
        !mounts.contains(" bpf ") && !mounts.contains(" cgroup2 "),
        "{mounts}"
    );
    Ok(())
}

fn descriptors() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, "xdp = \"generic\"\n", &[])?;
    shaper.stop(Signal::SIGKILL)?;
    shaper.run(&[])?;
    let pid = shaper.pid().context("no daemon")?;
    let open = || -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    shaper.cli(&["block", "10.77.0.13"])?.ok()?;
    let before = open()?;
    for _ in 0..5 {
        shaper.cli(&["unblock", "10.77.0.13"])?.ok()?;
        shaper.cli(&["block", "10.77.0.13"])?.ok()?;
    }
    shaper.wait_for("the clients' sockets to close", || {
        Ok((open()? <= before).then_some(()))
    })
}

fn reloaded() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, POLICY, &[])?;
    let _servers = Servers::start(&lab, Some(1000))?;
    let streams = [0, 0, 1, 2]
        .map(|n| open(&lab, client_v4(n), PORT, 2 * SECOND))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    ensure!(shaper.client(client_v4(0))?.connections == 2);
    // One client for the whole network; idle connections count at once.
    shaper.reload("[client]\nipv4_prefix = 24\n[default]\nmax_connections = 4\n")?;
    let row = shaper.client(client_v4(3))?;
    ensure!(
        row.client == "10.77.0.0/24" && row.connections == 4,
        "{row:?}"
    );
    ensure!(
        open(&lab, client_v4(3), PORT, SECOND / 2).is_err(),
        "a fifth connection of the prefix"
    );
    // Not watched any more: the flows leave, the connections stay.
    fs::write(
        shaper.policy(),
        format!("interfaces = [\"{INTERFACE}\"]\nports = [{SOURCE_PORT}]\n"),
    )?;
    shaper.cli(&["reload"])?.ok()?;
    ensure!(shaper.fresh_flows()?.flows.is_empty());
    shaper.reload(POLICY)?;
    ensure!(shaper.fresh_flows()?.flows.len() == 4, "not adopted again");
    ensure!(shaper.client(client_v4(0))?.connections == 2);
    drop(streams);
    shaper.wait_for("the flows' end", || {
        Ok(shaper.flows()?.flows.is_empty().then_some(()))
    })?;
    ensure!(shaper.client(client_v4(0))?.connections == 0);
    ensure!(shaper.detach()?.is_empty());
    Ok(())
}
