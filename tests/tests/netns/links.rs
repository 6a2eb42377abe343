//! Interfaces come and go: added, removed, renamed, moved to another network
//! namespace and back, on TCX and on clsact. After each change what should be
//! attached is, counts to the byte and limits; and nothing else is.

use crate::tools::SECOND;
use crate::{NotRun, Test};
use anyhow::{Context, Result, bail, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::sys::signal::Signal;
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, PORT};
use shaper_tests::leftovers::Owned;
use shaper_tests::netns::{Namespace, next_number};
use shaper_tests::process;
use shaper_tests::shaper::{Shaper, row};
use shaper_tests::traffic::udp::{self, Receiver};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("links_matching_are_attached_on_tcx", || matching(TCX)),
    ("links_matching_are_attached_on_clsact", || matching(CLSACT)),
    ("links_renamed_are_followed_on_tcx", || renamed(TCX)),
    ("links_renamed_are_followed_on_clsact", || renamed(CLSACT)),
    ("links_moved_away_and_back_on_tcx", || moved(TCX, "off")),
    ("links_moved_away_and_back_on_clsact", || {
        moved(CLSACT, "off")
    }),
    ("links_moved_away_and_back_with_xdp", || {
        moved(TCX, "generic")
    }),
    ("links_flapping_end_attached_once_on_tcx", || flapping(TCX)),
    ("links_flapping_end_attached_once_on_clsact", || {
        flapping(CLSACT)
    }),
    ("links_changed_while_down_on_tcx", || while_down(TCX)),
    ("links_changed_while_down_on_clsact", || while_down(CLSACT)),
    ("links_are_seen_after_lost_events", lost_events),
    ("links_are_listed_once", listed_once),
    ("links_of_the_default_route_are_followed", default_route),
    ("links_pinned_by_name_are_taken_over", pinned_by_name),
];

const TCX: &str = "auto";
const CLSACT: &str = "clsact";
/// Within a second, says the issue; this machine may be busy.
const BOUND: Duration = Duration::from_secs(2);
/// Payload of a packet, and what it has before it.
const PAYLOAD: usize = 1000;
const HEADERS: u64 = 28;
/// 2 mbit and the least burst.
const POLICY: &str = "[default]\nupload = { rate = \"2mbit\" }\n";
const BYTES_PER_SECOND: f64 = 250_000.0;
const BURST: f64 = 65_536.0;
const FREE: &str = "[default]\nupload = { rate = \"1gbit\" }\n";
/// Events that mean nothing.
const NOISE: &str = "link add x7 type ifb\nlink set x7 up\nlink del x7\n";

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
const PROXY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);

/// A lab whose daemon also watches every `wan*`.
fn start(hook: &str, policy: &str) -> Result<(Lab, Shaper)> {
    let lab = Lab::new(LabSpec::direct(false))?;
    // A packet that nobody sent on purpose would be counted, too.
    for namespace in [&lab.client, &lab.proxy] {
        namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
    }
    let shaper = Shaper::start(&lab, policy, &watching(hook))?;
    Ok((lab, shaper))
}

fn watching(hook: &str) -> [&str; 6] {
    let named = ["--interface", INTERFACE, "--interface", "wan*"];
    [named[0], named[1], named[2], named[3], "--tc-hook", hook]
}

/// A second way from the client to the proxy, by an interface of this name.
/// Returns when that was there.
fn add(lab: &Lab, name: &str) -> Result<Instant> {
    lab.client.ip(&format!(
        "link add peer7 type veth peer name {name} netns {}",
        lab.proxy.name()
    ))?;
    let added = Instant::now();
    lab.client.ip(&format!(
        "addr add {CLIENT}/24 dev peer7\nlink set peer7 up"
    ))?;
    up(lab, name)?;
    Ok(added)
}

fn up(lab: &Lab, name: &str) -> Result<()> {
    lab.proxy.ip(&format!(
        "addr replace {PROXY}/24 dev {name}\nlink set {name} up"
    ))
}

/// `ip` commands inside; returns when they were done.
fn ip(namespace: &Namespace, lines: &str) -> Result<Instant> {
    namespace.ip(lines)?;
    Ok(Instant::now())
}

/// Waits until `status` shows an interface so, within the bound from a change on.
/// `None`: not at all.
fn shown(shaper: &Shaper, name: &str, state: Option<&str>, from: Instant) -> Result<()> {
    loop {
        let interfaces = shaper.status()?.interfaces;
        let after = from.elapsed();
        let now = interfaces.iter().find(|row| row.name == name);
        if now.map(|row| row.state.as_str()) == state {
            let hooked = now.is_none_or(|row| row.ingress.is_some() == (state == Some("attached")));
            ensure!(hooked, "{interfaces:?}");
            println!("{name} {} after {after:.0?}", state.unwrap_or("not shown"));
            return Ok(());
        }
        if after > BOUND {
            bail!("{name} is not {state:?} within {BOUND:?}: {interfaces:?}");
        }
        sleep(Duration::from_millis(10));
    }
}

/// Upload bytes of the client, passed and dropped.
fn counted(shaper: &Shaper) -> Result<[u64; 2]> {
    let clients = shaper.fresh_clients()?.clients;
    Ok(row(&clients, CLIENT.into()).map_or([0, 0], |row| {
        let traffic = &row.upload.traffic;
        [traffic.bytes, traffic.dropped_bytes]
    }))
}

fn blast(lab: &Lab, rate_bps: u64, time: Duration) -> Result<u64> {
    let source = SocketAddr::new(CLIENT.into(), 5000);
    let to = SocketAddr::new(PROXY.into(), PORT);
    udp::blast(&lab.client, source, to, PAYLOAD, rate_bps, time)
}

/// Sends eight times the limit: every packet is counted once, and what is too
/// much is dropped.
fn ensure_limited(lab: &Lab, shaper: &Shaper, when: &str) -> Result<()> {
    let receiver = Receiver::start(&lab.proxy, IpAddr::V4(PROXY), PORT)?;
    let before = counted(shaper)?;
    let started = Instant::now();
    let sent = blast(lab, 16_000_000, SECOND / 2)? * (PAYLOAD as u64 + HEADERS);
    let after = counted(shaper)?;
    let most = BURST + BYTES_PER_SECOND * started.elapsed().as_secs_f64();
    let [passed, dropped] = [0, 1].map(|n| after[n] - before[n]);
    ensure!(
        passed + dropped == sent,
        "{when}: {sent} bytes were sent, {passed} + {dropped} counted"
    );
    ensure!(dropped > 0, "{when}: nothing was dropped of {sent} bytes");
    let arrived = receiver.meter().total();
    ensure!(
        arrived > 0 && (arrived as f64) < most,
        "{when}: {arrived} bytes arrived of {sent}, at most {most:.0} allowed"
    );
    Ok(())
}

/// Links of the daemon's programs: two an interface on TCX, none on clsact, and
/// that of `sock_ops`. None twice.
fn ensure_links(shaper: &Shaper, hook: &str, interfaces: usize) -> Result<()> {
    let wanted = if hook == TCX { 2 * interfaces + 1 } else { 1 };
    let pid = shaper.pid().context("no daemon")?;
    shaper.wait_for(&format!("{wanted} links"), || {
        Ok((Owned::by(pid)?.links.len() == wanted).then_some(()))
    })?;
    let pins = shaper.pins();
    let links = pins.iter().filter(|pin| {
        let name = pin.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("link_"))
    });
    ensure!(links.count() == wanted, "{pins:?}");
    let marks = if hook == TCX { 0 } else { interfaces };
    let found = shaper.files("/run/shaper/clsact");
    ensure!(found.len() == marks, "{found:?}");
    Ok(())
}

fn text(namespace: &Namespace, program: &str, arguments: &str) -> Result<String> {
    let mut command = namespace.command(program);
    command.args(arguments.split_whitespace());
    Ok(String::from_utf8(process::output(command)?.stdout)?)
}

/// Nothing of ours is on an interface: no program, filter, qdisc.
fn ensure_free(namespace: &Namespace, name: &str) -> Result<()> {
    let programs = namespace.enter(|| {
        let directions = [TcAttachType::Ingress, TcAttachType::Egress];
        let query = |direction| SchedClassifier::query_tcx(name, direction).ok();
        let found = directions.into_iter().filter_map(query);
        Ok(found.map(|(_, programs)| programs.len()).sum::<usize>())
    })?;
    ensure!(programs == 0, "{programs} programs on {name}");
    let qdiscs = text(namespace, "tc", &format!("qdisc show dev {name}"))?;
    ensure!(!qdiscs.contains("clsact"), "{qdiscs}");
    let link = text(namespace, "ip", &format!("-d link show dev {name}"))?;
    ensure!(!link.contains("prog/xdp"), "{link}");
    Ok(())
}

fn ensure_nothing_left(shaper: &mut Shaper) -> Result<()> {
    let left = shaper.detach()?;
    ensure!(left.is_empty(), "{left:?}");
    let marks = shaper.files("/run/shaper/clsact");
    ensure!(marks.is_empty(), "{marks:?}");
    Ok(())
}

fn matching(hook: &str) -> Result<()> {
    let (lab, mut shaper) = start(hook, POLICY)?;
    let warnings = shaper.status()?.warnings;
    ensure!(
        warnings
            .iter()
            .any(|w| w.contains("no interface matches wan*")),
        "{warnings:?}"
    );
    shown(&shaper, "wan1", None, Instant::now())?;
    for round in ["new", "made again", "made a third time"] {
        let added = add(&lab, "wan1")?;
        shown(&shaper, "wan1", Some("attached"), added)?;
        ensure_limited(&lab, &shaper, round)?;
        ensure_links(&shaper, hook, 2)?;
        let warnings = shaper.status()?.warnings;
        ensure!(warnings.is_empty(), "{warnings:?}");
        let gone = ip(&lab.proxy, "link del wan1")?;
        shown(&shaper, "wan1", Some("gone"), gone)?;
        ensure_links(&shaper, hook, 1)?;
    }
    // One that the policy does not mean.
    let added = add(&lab, "lan1")?;
    sleep(SECOND / 2);
    shown(&shaper, "lan1", None, added)?;
    ensure_free(&lab.proxy, "lan1")?;
    // A policy that means it, and not the others.
    shaper.stop(Signal::SIGTERM)?;
    shaper.run(&["--interface", "?an1", "--tc-hook", hook])?;
    shown(&shaper, "lan1", Some("attached"), Instant::now())?;
    ensure_limited(&lab, &shaper, "by another pattern")?;
    ensure_free(&lab.proxy, INTERFACE)?;
    ensure_links(&shaper, hook, 1)?;
    ensure_nothing_left(&mut shaper)?;
    ensure_free(&lab.proxy, "lan1")
}

/// Renames an interface that is up, which Linux 6.2 and later allow.
fn rename(lab: &Lab, from: &str, to: &str) -> Result<Instant> {
    match lab.proxy.ip(&format!("link set {from} name {to}")) {
        Err(error) if error.to_string().contains("busy") => {
            Err(NotRun("this kernel renames no interface that is up").into())
        }
        result => result.map(|()| Instant::now()),
    }
}

fn renamed(hook: &str) -> Result<()> {
    let (lab, mut shaper) = start(hook, FREE)?;
    let added = add(&lab, "wan1")?;
    shown(&shaper, "wan1", Some("attached"), added)?;
    let _receiver = Receiver::start(&lab.proxy, IpAddr::V4(PROXY), PORT)?;
    // Both match: not a packet is missed or counted twice.
    let [before, _] = counted(&shaper)?;
    let sent = thread::scope(|scope| -> Result<u64> {
        let sender = scope.spawn(|| blast(&lab, 8_000_000, 3 * SECOND));
        let mut name = "wan1".to_owned();
        for n in 2..=9 {
            let next = format!("wan{n}");
            sleep(SECOND / 4);
            let renamed = rename(&lab, &name, &next)?;
            shown(&shaper, &next, Some("attached"), renamed)?;
            shown(&shaper, &name, None, Instant::now())?;
            name = next;
        }
        sender.join().ok().context("the sender panicked")?
    })?;
    let bytes = counted(&shaper)?[0] - before;
    ensure!(
        bytes == sent * (PAYLOAD as u64 + HEADERS),
        "{sent} packets were sent, {bytes} bytes counted"
    );
    ensure_links(&shaper, hook, 2)?;
    // A name that does not match: let go, and nothing stays on it.
    let renamed = rename(&lab, "wan9", "lan1")?;
    shown(&shaper, "wan9", Some("gone"), renamed)?;
    shown(&shaper, "lan1", None, Instant::now())?;
    ensure_free(&lab.proxy, "lan1")?;
    ensure_links(&shaper, hook, 1)?;
    // And back.
    shaper.stop(Signal::SIGTERM)?;
    shaper.write_policy(POLICY)?;
    shaper.run(&watching(hook))?;
    drop(_receiver);
    let renamed = rename(&lab, "lan1", "wan1")?;
    shown(&shaper, "wan1", Some("attached"), renamed)?;
    ensure_limited(&lab, &shaper, "renamed back")?;
    ensure_nothing_left(&mut shaper)
}

fn moved(hook: &str, xdp: &str) -> Result<()> {
    let (lab, mut shaper) = start(hook, &format!("xdp = \"{xdp}\"\n{POLICY}"))?;
    let other = Namespace::create(next_number(), "other")?;
    let away = format!("link set wan1 netns {}", other.name());
    let back = format!("link set wan1 netns {}", lab.proxy.name());
    let added = add(&lab, "wan1")?;
    shown(&shaper, "wan1", Some("attached"), added)?;
    for round in ["back", "back again"] {
        let left = ip(&lab.proxy, &away)?;
        shown(&shaper, "wan1", Some("gone"), left)?;
        ensure_free(&other, "wan1")?;
        let returned = ip(&other, &back)?;
        shown(&shaper, "wan1", Some("attached"), returned)?;
        up(&lab, "wan1")?;
        ensure_limited(&lab, &shaper, round)?;
    }
    // So fast that both are seen at once.
    for _ in 0..5 {
        lab.proxy.ip(&away)?;
        other.ip(&back)?;
    }
    // It may still be shown as it was before.
    sleep(SECOND / 5);
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    up(&lab, "wan1")?;
    ensure_limited(&lab, &shaper, "after moving to and fro")?;
    // Away while nobody looks; the next daemon takes off what is there.
    shaper.stop(Signal::SIGKILL)?;
    lab.proxy.ip(&away)?;
    shaper.run(&watching(hook))?;
    ensure_free(&other, "wan1")?;
    shown(&shaper, "wan1", None, Instant::now())?;
    ensure_nothing_left(&mut shaper)
}

fn flapping(hook: &str) -> Result<()> {
    let (lab, mut shaper) = start(hook, POLICY)?;
    for _ in 0..50 {
        add(&lab, "wan1")?;
        lab.proxy.ip("link del wan1")?;
    }
    let added = add(&lab, "wan1")?;
    // Not the one before.
    sleep(SECOND / 5);
    shown(&shaper, "wan1", Some("attached"), added)?;
    let interfaces = shaper.status()?.interfaces;
    ensure!(interfaces.len() == 2, "{interfaces:?}");
    ensure_links(&shaper, hook, 2)?;
    ensure_limited(&lab, &shaper, "after flapping")?;
    ensure_nothing_left(&mut shaper)
}

fn while_down(hook: &str) -> Result<()> {
    let (lab, mut shaper) = start(hook, POLICY)?;
    add(&lab, "wan1")?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    // Made again.
    shaper.stop(Signal::SIGKILL)?;
    lab.proxy.ip("link del wan1")?;
    add(&lab, "wan1")?;
    shaper.run(&watching(hook))?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    ensure_links(&shaper, hook, 2)?;
    ensure_limited(&lab, &shaper, "made again while down")?;
    // Limits hold without a daemon, and under another name that matches.
    shaper.stop(Signal::SIGKILL)?;
    lab.proxy
        .ip("link set wan1 down\nlink set wan1 name wan2")?;
    up(&lab, "wan2")?;
    shaper.run(&watching(hook))?;
    shown(&shaper, "wan2", Some("attached"), Instant::now())?;
    shown(&shaper, "wan1", None, Instant::now())?;
    ensure_links(&shaper, hook, 2)?;
    ensure_limited(&lab, &shaper, "renamed while down")?;
    // A name that does not match.
    shaper.stop(Signal::SIGKILL)?;
    lab.proxy
        .ip("link set wan2 down\nlink set wan2 name lan1")?;
    shaper.run(&watching(hook))?;
    ensure_free(&lab.proxy, "lan1")?;
    ensure_links(&shaper, hook, 1)?;
    // Gone.
    lab.proxy.ip("link set lan1 name wan1")?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    shaper.stop(Signal::SIGKILL)?;
    lab.proxy.ip("link del wan1")?;
    shaper.run(&watching(hook))?;
    shown(&shaper, "wan1", None, Instant::now())?;
    ensure_links(&shaper, hook, 1)?;
    ensure_nothing_left(&mut shaper)
}

/// More events than the socket has room for while the daemon stands still.
fn lost_events() -> Result<()> {
    let (lab, mut shaper) = start(CLSACT, POLICY)?;
    add(&lab, "wan1")?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    let other = Namespace::create(next_number(), "other")?;
    shaper.signal(Signal::SIGSTOP)?;
    lab.proxy.ip(&NOISE.repeat(80))?;
    // Its filters go with it, and nobody tells.
    lab.proxy
        .ip(&format!("link set wan1 netns {}", other.name()))?;
    other.ip(&format!("link set wan1 netns {}", lab.proxy.name()))?;
    up(&lab, "wan1")?;
    lab.proxy.ip("link add wan2 type veth peer name peer8")?;
    shaper.signal(Signal::SIGCONT)?;
    let awake = Instant::now();
    shown(&shaper, "wan2", Some("attached"), awake)?;
    ensure!(shaper.log().contains("events of interfaces were lost"));
    shown(&shaper, "wan1", Some("attached"), awake)?;
    ensure_limited(&lab, &shaper, "after lost events")?;
    ensure_links(&shaper, CLSACT, 3)?;
    ensure_nothing_left(&mut shaper)
}

/// By what the daemon asks the kernel, as strace shows it: it lists the
/// interfaces when it starts and when events were lost, and at no other time.
fn listed_once() -> Result<()> {
    const LISTS: &str = "type=RTM_GETLINK";
    const LOOKS: &str = "recvfrom(";
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    shaper.write_policy(POLICY)?;
    let trace = lab.directory().join("trace");
    shaper.run_command(traced(&shaper.daemon(&watching(TCX)), &trace)?)?;
    let since = |from: usize, what: &str| -> Result<(usize, usize)> {
        let text = fs::read_to_string(&trace)?;
        let new = text.get(from..).context("it became shorter")?;
        Ok((text.len(), new.matches(what).count()))
    };
    shown(&shaper, INTERFACE, Some("attached"), Instant::now())?;
    let (started, lists) = since(0, LISTS)?;
    ensure!(lists > 0, "the start is not seen to list them");
    // Nothing happens, for some samples.
    let samples = || -> Result<u64> {
        let counters = shaper.status()?.counters;
        counters.get("samples").copied().context("no samples")
    };
    let before = samples()?;
    shaper.wait_for("four samples", || {
        Ok((samples()? >= before + 4).then_some(()))
    })?;
    let (_, looks) = since(started, LOOKS)?;
    ensure!(looks >= 4, "{looks} looks for events in four samples");
    let (idle, lists) = since(started, LISTS)?;
    ensure!(lists == 0, "{lists} lists while nothing happens");
    // What comes and goes is told.
    let added = add(&lab, "wan1")?;
    shown(&shaper, "wan1", Some("attached"), added)?;
    let gone = ip(&lab.proxy, "link del wan1")?;
    shown(&shaper, "wan1", Some("gone"), gone)?;
    let (told, lists) = since(idle, LISTS)?;
    ensure!(lists == 0, "{lists} lists for one that came and went");
    // A list later than the start would have been seen.
    shaper.signal(Signal::SIGSTOP)?;
    lab.proxy.ip(&NOISE.repeat(80))?;
    shaper.signal(Signal::SIGCONT)?;
    shaper.wait_for("a list", || Ok((since(told, LISTS)?.1 > 0).then_some(())))?;
    ensure!(shaper.log().contains("events of interfaces were lost"));
    ensure_nothing_left(&mut shaper)
}

/// The same command, with what it sends and receives written to a file.
fn traced(command: &Command, file: &Path) -> Result<Command> {
    let here = Command::new("strace").arg("--version").output();
    ensure!(
        here.is_ok_and(|output| output.status.success()),
        NotRun("strace is not installed: as root, cargo xtask setup")
    );
    let mut traced = Command::new(command.get_program());
    for argument in command.get_args() {
        traced.arg(argument);
        // Within the namespace: elsewhere it does not know what a socket speaks.
        if argument == "--" {
            // The tracer is the grandchild: the process that is started is the
            // daemon.
            traced.args(["strace", "-D", "-f", "-qq", "-e"]);
            traced.arg("trace=sendto,sendmsg,recvfrom,recvmsg");
            traced.arg("-o").arg(file);
        }
    }
    Ok(traced)
}

fn default_route() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    add(&lab, "wan1")?;
    let route = |interface: &str| {
        ip(
            &lab.proxy,
            &format!("route replace default dev {interface}"),
        )
    };
    route(INTERFACE)?;
    let mut shaper = Shaper::new(&lab)?;
    fs::write(shaper.policy(), format!("ports = [{PORT}]\n{POLICY}"))?;
    shaper.run(&[])?;
    shown(&shaper, INTERFACE, Some("attached"), Instant::now())?;
    let changed = route("wan1")?;
    shown(&shaper, "wan1", Some("attached"), changed)?;
    shown(&shaper, INTERFACE, None, changed)?;
    ensure_free(&lab.proxy, INTERFACE)?;
    ensure_limited(&lab, &shaper, "on the new default route")?;
    // Without one it stays where it was.
    let changed = ip(&lab.proxy, "route del default")?;
    sleep(SECOND / 5);
    shown(&shaper, "wan1", Some("attached"), changed)?;
    // An interface that goes down takes its route with it, and says nothing.
    lab.proxy.ip(&format!(
        "route add default dev wan1 metric 1\nroute add default dev {INTERFACE} metric 2"
    ))?;
    sleep(SECOND / 5);
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    let changed = ip(&lab.proxy, "link set wan1 down")?;
    shown(&shaper, INTERFACE, Some("attached"), changed)?;
    ensure_free(&lab.proxy, "wan1")?;
    // One by name does not care.
    fs::write(
        shaper.policy(),
        format!("interfaces = [\"wan?\"]\nports = [{PORT}]\n{POLICY}"),
    )?;
    shaper.cli(&["reload"])?.ok()?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    shown(&shaper, INTERFACE, None, Instant::now())?;
    ensure_nothing_left(&mut shaper)
}

/// Versions before this one named pins by the interface.
fn pinned_by_name() -> Result<()> {
    let (lab, mut shaper) = start(TCX, POLICY)?;
    add(&lab, "wan1")?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    let pid = shaper.pid().context("no daemon")?;
    let before = Owned::by(pid)?.links;
    shaper.stop(Signal::SIGKILL)?;
    let index = |name: &str| -> Result<u32> {
        lab.proxy.enter(|| Ok(nix::net::if_::if_nametoindex(name)?))
    };
    let (eth, wan) = (index(INTERFACE)?, index("wan1")?);
    for pin in shaper.pins() {
        let name = pin.file_name().and_then(|name| name.to_str());
        let name = name.context("a pin without a name")?;
        for (index, interface) in [(eth, INTERFACE), (wan, "wan1")] {
            if let Some(hook) = name.strip_prefix(&format!("link_{index}_")) {
                fs::rename(&pin, pin.with_file_name(format!("link_{interface}_{hook}")))?;
            }
        }
    }
    shaper.run(&watching(TCX))?;
    shown(&shaper, "wan1", Some("attached"), Instant::now())?;
    let pid = shaper.pid().context("no daemon")?;
    ensure!(Owned::by(pid)?.links == before, "the links are others now");
    ensure_links(&shaper, TCX, 2)?;
    ensure_limited(&lab, &shaper, "taken over")?;
    ensure_nothing_left(&mut shaper)
}
