//! Who may do what through the control socket, asked by other users.

use crate::Test;
use crate::tools::SECOND;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::unistd::Group;
use shaper_tests::lab::{Lab, LabSpec};
use shaper_tests::shaper::{Answer, Shaper};
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("only_root_may_change", rights),
    ("a_group_reads_and_named_users_change", group),
    ("a_place_that_others_may_write_to_is_refused", places),
    ("a_reader_keeps_nobody_else_out", reader),
];

const POLICY: &str = "[default]\nupload = { rate = \"8mbit\" }\n";
const NOBODY: u32 = 65_534;
/// A user without a name, who may change.
const OPERATOR: u32 = 4_001;
/// A group that every system has.
const GROUP: &str = "daemon";

fn gid() -> Result<u32> {
    let group = Group::from_name(GROUP)?.context("no group daemon")?;
    Ok(group.gid.as_raw())
}

/// That it failed, and with what advice.
fn ensure_refused(what: &str, answer: &Answer, advice: &str) -> Result<()> {
    ensure!(
        answer.code == 1 && answer.stderr.contains(advice),
        "{what}: {answer:?}"
    );
    Ok(())
}

fn rights() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let shaper = Shaper::start(&lab, POLICY, &[])?;
    let answer = shaper.cli_as(NOBODY, NOBODY, &["status"])?;
    ensure_refused("a stranger", &answer, "be root")?;
    // In root's group: may read.
    shaper.cli_as(NOBODY, 0, &["status"])?.ok()?;
    for change in [
        &["limit", "10.77.0.10", "--upload", "1mbit"][..],
        &["limit", "10.77.0.10", "--clear"],
        &["block", "10.77.0.10"],
        &["unblock", "10.77.0.10"],
        &["kill", "10.77.0.10:4000"],
        &["reload"],
    ] {
        let answer = shaper.cli_as(NOBODY, 0, change)?;
        let advice = "be root, or be named in `uids` of [control]";
        ensure_refused(&format!("{change:?}"), &answer, advice)?;
    }
    Ok(())
}

fn group() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let control = format!("{POLICY}[control]\ngroup = \"{GROUP}\"\nuids = [{OPERATOR}]\n");
    let shaper = Shaper::start(&lab, &control, &[])?;
    let gid = gid()?;
    let block = &["block", "10.77.0.10"];
    shaper.cli_as(NOBODY, gid, &["clients"])?.ok()?;
    let answer = shaper.cli_as(NOBODY, gid, block)?;
    ensure_refused("a member", &answer, "`uids` of [control]")?;
    shaper.cli_as(OPERATOR, gid, block)?.ok()?;
    for stranger in [NOBODY, OPERATOR] {
        let answer = shaper.cli_as(stranger, NOBODY, &["status"])?;
        ensure_refused(
            "outside of the group",
            &answer,
            "be root or a member of the group",
        )?;
    }
    let log = shaper.log();
    for (uid, outcome) in [(NOBODY, "denied"), (OPERATOR, "done")] {
        let line = log.lines().find(|line| {
            line.contains(&format!("uid={uid} "))
                && line.contains("action=\"block\"")
                && line.contains(&format!("outcome=\"{outcome}\""))
        });
        let line = line.with_context(|| format!("no line of {uid}: {log}"))?;
        ensure!(
            line.contains("pid=") && line.contains("audit=true"),
            "{line}"
        );
    }
    // A reload takes both away.
    shaper.reload(POLICY)?;
    let answer = shaper.cli_as(OPERATOR, gid, &["unblock", "10.77.0.10"])?;
    ensure_refused("after the reload", &answer, "be root")
}

fn places() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let shaper = Shaper::new(&lab)?;
    shaper.write_policy(POLICY)?;
    let directory = lab.directory().join("place");
    fs::create_dir(&directory)?;
    let socket = directory.join("shaper.sock");
    let refused = |what: &str, why: &str| -> Result<()> {
        let answer = shaper.refused_on(&socket)?;
        ensure_refused(what, &answer, why)?;
        ensure!(shaper.pins().is_empty(), "{what}: {:?}", shaper.pins());
        Ok(())
    };
    let precious = lab.directory().join("precious");
    fs::write(&precious, "precious")?;
    for foreign in [true, false] {
        if foreign {
            fs::write(&socket, "precious")?;
        } else {
            symlink(&precious, &socket)?;
        }
        refused("something in its place", "is in the way and is no socket")?;
        ensure!(fs::read_to_string(&socket)? == "precious");
        fs::remove_file(&socket)?;
    }
    fs::set_permissions(&directory, Permissions::from_mode(0o777))?;
    refused("world-writable", "is writable by everybody")?;
    fs::set_permissions(&directory, Permissions::from_mode(0o775))?;
    chown(&directory, None, Some(gid()?))?;
    refused("group-writable", "is writable by group")?;
    fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
    chown(&directory, Some(NOBODY), None)?;
    refused("another user's", "belongs to user 65534")?;
    // Another user's link to a place that is safe.
    fs::remove_dir(&directory)?;
    symlink("/run/shaper", &directory)?;
    std::os::unix::fs::lchown(&directory, Some(NOBODY), None)?;
    refused("another user's link", "belongs to user 65534")
}

/// A member of the group opens as many connections as it can, asks all the time
/// and never reads.
fn reader() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let control = format!("{POLICY}[control]\ngroup = \"{GROUP}\"\nuids = [{OPERATOR}]\n");
    let shaper = Shaper::start(&lab, &control, &[])?;
    let gid = gid()?;
    fs::set_permissions(lab.directory(), Permissions::from_mode(0o711))?;
    let flood = thread::scope(|scope| {
        let asker = scope.spawn(|| -> Result<Vec<UnixStream>> {
            become_user(NOBODY, gid)?;
            (0..64).map(|_| ask_for_ever(shaper.socket())).collect()
        });
        asker.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })?;
    let answer = shaper.cli_as(NOBODY, gid, &["status"])?;
    ensure_refused("the reader itself", &answer, "has 8 connections already")?;
    let samples = || -> Result<u64> { Ok(shaper.status()?.counters["samples"]) };
    let before = samples()?;
    let began = Instant::now();
    shaper
        .cli_as(OPERATOR, gid, &["block", "10.77.0.10"])?
        .ok()?;
    shaper.cli(&["unblock", "10.77.0.10"])?.ok()?;
    sleep((3 * SECOND).saturating_sub(began.elapsed()));
    let after = samples()?;
    ensure!(after >= before + 2, "{before} samples, then {after}");
    drop(flood);
    // Its places come back.
    shaper.wait_for("a place", || {
        let answer = shaper.cli_as(NOBODY, gid, &["status"])?;
        Ok((answer.code == 0).then_some(()))
    })
}

/// Makes this thread, and no other, another user's.
fn become_user(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no pointers but to nothing; the raw calls are of this thread alone.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_setgroups,
            0,
            std::ptr::null::<u32>(),
        ))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// A connection with as many requests in it as fit.
fn ask_for_ever(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).context("as a member of the group")?;
    stream.set_write_timeout(Some(Duration::from_millis(20)))?;
    let request = b"{\"v\":1,\"command\":\"clients\"}\n".repeat(1000);
    // Until it is full, or closed because there are too many.
    for _ in 0..20 {
        if stream.write_all(&request).is_err() {
            break;
        }
    }
    Ok(stream)
}
