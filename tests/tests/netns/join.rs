//! The join with HAProxy, against every version here.
//!
//! Which server a WebSocket is on is what that server said in its first
//! message, never what HAProxy says.

mod actions;
pub mod bed;
mod broken;
mod fake;
mod places;

use crate::tools::SECOND;
use crate::twice;
use anyhow::{Context, Result, ensure};
use bed::{Bed, both_families, ensure_joined, wait};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::unistd::Group;
use shaper_tests::haproxy::{Installed, VARIABLE, choose, installed};
use shaper_tests::lab::{Lab, LabSpec, PORT, SOURCE_PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_tests::ws::Pinned;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

pub type Test = (&'static str, fn(&Installed) -> Result<()>);

/// With every HAProxy.
const TESTS: &[Test] = &[
    ("join_names_the_right_server", right_server),
    ("join_goes_on_after_a_reload", reload),
    ("join_after_a_restart_is_new", restart),
    ("join_marks_what_is_stale", broken::stopped),
    ("join_kills_one_websocket", actions::kill),
    ("join_drains_the_heaviest", actions::drain),
];
/// With the newest alone: HAProxy has little or no part in them.
const ONCE: &[Test] = &[
    ("join_is_silent_without_haproxy", silent),
    ("join_limits_by_server", places::held),
    ("join_works_as_the_unit_has_it", confined),
    ("join_outlives_broken_sockets", broken::sockets),
    ("join_is_not_fooled_by_a_port_used_again", used_again),
];
/// What these tests are made for; `SHAPER_HAPROXY` names another.
const BRANCHES: [(u16, u16); 2] = [(2, 6), (3, 0)];

/// One trial for each test and version. A version that is not here is ignored,
/// and said.
pub fn trials(root: bool) -> Vec<Trial> {
    let found = installed().unwrap_or_else(|error| {
        eprintln!("NOT RUN: {error:#}");
        Vec::new()
    });
    let mut branches: BTreeSet<(u16, u16)> = found.iter().map(|one| one.branch).collect();
    if std::env::var_os(VARIABLE).is_none() {
        branches.extend(BRANCHES);
    }
    let mut trials = Vec::new();
    let newest = found.iter().map(|one| one.branch).max();
    for branch in branches {
        let program = found.iter().find(|one| one.branch == branch);
        if program.is_none() {
            eprintln!(
                "NOT RUN: the join with HAProxy {}.{}, which is not here (`cargo xtask setup \
                 --haproxy3` fetches 3.0, {VARIABLE} names another)",
                branch.0, branch.1
            );
        }
        let once = if newest == Some(branch) { ONCE } else { &[] };
        for (name, test) in TESTS.iter().chain(once) {
            let program = program.cloned();
            let ignored = !root || program.is_none();
            let name = format!("{name}_haproxy_{}_{}", branch.0, branch.1);
            let trial = Trial::ignorable_test(name.clone(), move || {
                twice(&name, &|| test(program.as_ref().context("no HAProxy")?))
            });
            trials.push(trial.with_ignored_flag(ignored));
        }
    }
    trials
}

/// Tests that only pass through HAProxy: with the one that is chosen.
pub fn through_one(tests: &'static [Test], root: bool) -> Vec<Trial> {
    let program = choose(None).inspect_err(|error| eprintln!("NOT RUN: {error:#}"));
    let ignored = !root || program.is_err();
    let trial = |(name, test): &'static Test| {
        let program = program.as_ref().ok().cloned();
        let trial = Trial::ignorable_test(*name, move || {
            twice(name, &|| test(program.as_ref().context("no HAProxy")?))
        });
        trial.with_ignored_flag(ignored)
    };
    tests.iter().map(trial).collect()
}

/// 200 WebSockets, over two frontends and eight servers.
fn right_server(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |spec| spec.feed = true)?;
    let shaper = bed.shaper(&[bed.haproxy.socket()], "")?;
    let mut open = bed.open(&both_families(25, 2), PORT)?;
    open.extend(bed.open(&both_families(25, 2), SOURCE_PORT)?);
    let worker = bed.haproxy.pid();
    let everything = |open: &[Pinned]| ensure_joined(&shaper, open.iter().map(|o| (o, worker)));
    let time = everything(&open)?;
    println!("{} WebSockets were joined after {time:?}", open.len());
    ensure_servers(&shaper, &open, 8)?;
    let status = shaper.status()?;
    let [socket] = &status.haproxy[..] else {
        anyhow::bail!("{:?}", status.haproxy);
    };
    ensure!(
        socket.kind.as_deref() == Some("stats")
            && socket.version.as_deref() == Some(haproxy.version.as_str())
            && socket.level.as_deref() == Some("admin")
            && socket.sessions >= 200
            && socket.workers == 1
            && socket.error.is_none(),
        "{socket:?}"
    );
    // Of each server the same share goes, and the others stay.
    open.truncate(150);
    wait("the end of fifty flows", 3 * SECOND, || {
        Ok(shaper.flows()?.flows.len() == 150)
    })?;
    everything(&open)?;
    ensure_servers(&shaper, &open, 8)
}

/// `shaper servers` against what the servers said.
fn ensure_servers(shaper: &Shaper, open: &[Pinned], servers: usize) -> Result<()> {
    let mut truth = BTreeMap::new();
    for one in open {
        *truth.entry(one.server.clone()).or_insert(0) += 1_u64;
    }
    ensure!(truth.len() == servers, "{truth:?}");
    let mut last = BTreeMap::new();
    wait("the servers' connections", 3 * SECOND, || {
        last = shaper
            .servers()?
            .servers
            .into_iter()
            .map(|row| (format!("{}/{}", row.backend, row.server), row.connections))
            .collect();
        Ok(last == truth)
    })
    .with_context(|| format!("{last:?}, where the servers have {truth:?}"))
}

/// WebSockets stay on the old worker, which only the master knows.
fn reload(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |spec| spec.master = true)?;
    let master = bed.haproxy.master().context("no master")?;
    let shaper = bed.shaper(&[master], "")?;
    let &[first] = &bed.haproxy.workers()?[..] else {
        anyhow::bail!("one worker was to be expected");
    };
    let old = bed.open(&both_families(10, 3), PORT)?;
    ensure_joined(&shaper, old.iter().map(|o| (o, first)))?;
    let second = bed.haproxy.reload()?;
    let new = bed.open(&both_families(10, 3), PORT)?;
    ensure!(second != first, "the worker is the same");
    ensure!(
        bed.haproxy.workers()?.len() == 2,
        "the old worker has not stayed"
    );
    let both = || {
        let old = old.iter().map(|one| (one, first));
        ensure_joined(&shaper, old.chain(new.iter().map(|one| (one, second))))
    };
    let time = both()?;
    println!("old and new were joined after {time:?}");
    let status = shaper.status()?;
    ensure!(
        matches!(&status.haproxy[..], [socket] if socket.kind.as_deref() == Some("master")
            && socket.workers == 2 && socket.sessions >= 120 && socket.error.is_none()),
        "{:?}",
        status.haproxy
    );
    // Both of its sockets know of the new ones: no less right.
    shaper.reload(&bed.policy(&[bed.haproxy.socket(), master], ""))?;
    wait("the second socket", 3 * SECOND, || {
        let sockets = shaper.status()?.haproxy;
        Ok(sockets.len() == 2 && sockets.iter().all(|socket| socket.sessions >= 60))
    })?;
    both()?;
    drop(old);
    wait("the old worker's end", 5 * SECOND, || {
        let sockets = shaper.status()?.haproxy;
        Ok(sockets.iter().all(|socket| socket.workers == 1))
    })?;
    ensure_joined(&shaper, new.iter().map(|one| (one, second))).map(drop)
}

/// Everything comes back from the same ports, on other servers.
fn restart(haproxy: &Installed) -> Result<()> {
    let mut bed = Bed::start(haproxy, |spec| spec.prefix = "old")?;
    let shaper = bed.shaper(&[bed.haproxy.socket()], "")?;
    let old = bed.open(&both_families(10, 2), PORT)?;
    ensure_joined(&shaper, old.iter().map(|one| (one, bed.haproxy.pid())))?;
    let ends: Vec<SocketAddr> = old.iter().map(|one| one.client).collect();
    let before = bed.haproxy.pid();
    bed.restart(
        |spec| spec.prefix = "new",
        || {
            drop(old);
            wait("a word on the dead socket", 5 * SECOND, || {
                let status = shaper.status()?;
                Ok(matches!(&status.haproxy[..], [socket] if socket.error.is_some()))
            })
        },
    )?;
    let new = bed.open(&ends, PORT)?;
    let worker = bed.haproxy.pid();
    ensure!(before != worker, "the process is the same");
    // None of them on an old server, not for one sample.
    let time = bed::ensure_joined_within(
        &shaper,
        new.iter().map(|one| (one, worker)),
        // It asked a dead socket less and less often.
        10 * SECOND,
    )?;
    println!("the new ones were joined after {time:?}");
    ensure!(new.iter().all(|one| one.server.contains("/new")), "{new:?}");
    let status = shaper.status()?;
    ensure!(
        matches!(&status.haproxy[..], [socket] if socket.error.is_none() && socket.sessions >= 40),
        "{:?}",
        status.haproxy
    );
    Ok(())
}

/// Between two questions every connection comes back from the same port, and
/// most are sent to another server.
fn used_again(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |_| ())?;
    let policy = bed.policy(&[bed.haproxy.socket()], "");
    let policy = policy.replace(bed::POLL, "poll = \"4s\"\n");
    let shaper = Shaper::start(&bed.lab, &policy, &[])?;
    // An odd number, so that the servers' turns are others the next time.
    let mut ends = both_families(5, 2);
    ends.push(SocketAddr::new(client_v4(5), 0));
    let old = bed.open(&ends, PORT)?;
    let worker = bed.haproxy.pid();
    let most = 6 * SECOND;
    bed::ensure_joined_within(&shaper, old.iter().map(|one| (one, worker)), most)?;
    let ends: Vec<SocketAddr> = old.iter().map(|one| one.client).collect();
    let before: Vec<String> = old.iter().map(|one| one.server.clone()).collect();
    drop(old);
    let new = bed.open(&ends, PORT)?;
    let moved = new.iter().zip(&before);
    let moved = moved.filter(|(one, before)| one.server != **before).count();
    ensure!(moved > 5, "only {moved} are on another server: no test");
    // The last sample was of the old ones.
    shaper.fresh_flows()?;
    let time = bed::ensure_joined_within(&shaper, new.iter().map(|one| (one, worker)), most)?;
    println!(
        "{moved} of {} had moved, and were joined after {time:?}",
        new.len()
    );
    Ok(())
}

/// Under the systemd unit; and a stats socket of another user, for whose group
/// the unit needs a line more.
fn confined(haproxy: &Installed) -> Result<()> {
    const NOBODY: u32 = 65_534;
    const GROUP: &str = "daemon";
    let bed = Bed::start(haproxy, |_| ())?;
    let socket = bed.haproxy.socket();
    let group = Group::from_name(GROUP)?.context("no group daemon")?.gid;
    let mut shaper = Shaper::new(&bed.lab)?;
    let unit = crate::confined::confine(&mut shaper);
    shaper.write_policy(&bed.policy(&[socket], "actions = [\"kill\"]\n"))?;
    shaper.run(&[])?;
    let open = bed.open(&both_families(5, 1), PORT)?;
    let worker = bed.haproxy.pid();
    ensure_joined(&shaper, open.iter().map(|one| (one, worker)))?;
    shaper.cli(&["kill", &open[3].client.to_string()])?.ok()?;
    wait(
        "the killed one's end",
        3 * SECOND,
        || Ok(!open[3].is_open()),
    )?;
    ensure!(open.iter().filter(|one| one.is_open()).count() == 9);
    let log = shaper.log();
    let line = log.lines().find(|line| line.contains("action=\"kill\""));
    let line = line.with_context(|| format!("no audit line: {log}"))?;
    ensure!(
        line.contains("audit=true") && line.contains("uid=0 "),
        "{line}"
    );

    shaper.stop(Signal::SIGTERM)?;
    std::os::unix::fs::chown(socket, Some(NOBODY), Some(group.as_raw()))?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o660))?;
    shaper.run(&[])?;
    wait("what is missing", 3 * SECOND, || {
        let warnings = shaper.status()?.warnings.join("\n");
        Ok(warnings.contains("SupplementaryGroups="))
    })?;
    shaper.stop(Signal::SIGTERM)?;
    let drop_in = bed.lab.directory().join("group.conf");
    std::fs::write(
        &drop_in,
        format!("[Service]\nSupplementaryGroups={GROUP}\n"),
    )?;
    crate::confined::confine_by(&mut shaper, &[unit, drop_in]);
    shaper.run(&[])?;
    let left = open.iter().filter(|one| one.is_open());
    ensure_joined(&shaper, left.map(|one| (one, worker)))?;
    Ok(())
}

/// Not a word where nobody asked for the join.
fn silent(_: &Installed) -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let _servers = crate::tools::Servers::start(&lab, None)?;
    for policy in ["", "[haproxy]\n", "[haproxy]\nsockets = []\n"] {
        let shaper = Shaper::start(&lab, policy, &[])?;
        let _stream = crate::tools::open(&lab, client_v4(0), PORT, 2 * SECOND)?;
        std::thread::sleep(2 * SECOND);
        let flows = shaper.fresh_flows()?.flows;
        ensure!(
            matches!(&flows[..], [flow] if flow.haproxy.is_none()),
            "{flows:?}"
        );
        ensure!(shaper.servers()?.servers.is_empty());
        let status = shaper.status()?;
        ensure!(
            status.haproxy.is_empty() && status.warnings.is_empty(),
            "{:?} {:?}",
            status.haproxy,
            status.warnings
        );
        let log = shaper.log();
        ensure!(!log.to_lowercase().contains("haproxy"), "{log}");
        drop(shaper);
        std::fs::remove_file(lab.directory().join("shaper.log"))?;
    }
    Ok(())
}
