//! Pins of other versions: what can be read is moved, the rest is said.

use crate::Test;
use crate::tools::{SECOND, Servers, open};
use anyhow::{Context as _, Result, ensure};
use shaper_common::flow::{Client, Flow, Traffic};
use shaper_common::key::{ClientKey, FlowKey, TCP};
use shaper_common::names;
use shaper_tests::lab::{Lab, LabSpec, PORT, PROXY_V4, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_user::addr::to_kernel;
use shaper_user::kernel::sys;
use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("an_earlier_layout_is_moved", earlier),
    ("a_newer_version_is_said_before_starting_over", newer),
];

/// `BPF_MAP_CREATE` and `BPF_OBJ_PIN` of `enum bpf_cmd`.
const MAP_CREATE: libc::c_long = 0;
const OBJ_PIN: libc::c_long = 6;
const BPF_MAP_TYPE_HASH: u32 = 1;

/// Words of a flow before it had limits of its own, without a version.
const EARLIER: usize = 17;
const BYTES: u64 = 7_000_000;

#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// A hash map, pinned.
fn pinned(path: &Path, key_size: usize, value_size: usize, entries: u32) -> Result<OwnedFd> {
    let mut create = Create {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: u32::try_from(key_size)?,
        value_size: u32::try_from(value_size)?,
        max_entries: entries,
        flags: 0,
    };
    // SAFETY: integers only.
    let fd = unsafe { sys::bpf(MAP_CREATE, &mut create) }.context("making a map")?;
    // SAFETY: the kernel has just returned it.
    let map = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin {
        path: name.as_ptr() as u64,
        fd: u32::try_from(map.as_raw_fd())?,
        flags: 0,
    };
    // SAFETY: `name` lives on, and ends with a zero.
    unsafe { sys::bpf(OBJ_PIN, &mut pin) }.context("pinning a map")?;
    Ok(map)
}

/// Where this host's daemon has its pins, made.
fn directory(lab: &Lab, shaper: &Shaper) -> Result<PathBuf> {
    let cookie = lab.proxy.enter(sys::netns_cookie)?;
    let pins = shaper.bpffs().join("shaper").join(format!("net-{cookie}"));
    std::fs::create_dir_all(&pins)?;
    Ok(pins)
}

fn earlier() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::new(&lab)?;
    shaper.write_policy("[default]\nupload = { rate = \"80mbit\" }\n")?;
    let servers = Servers::start(&lab, None)?;
    let mut stream = open(&lab, client_v4(0), PORT, 5 * SECOND)?;
    servers.sink.accepted(&stream)?;

    let pins = directory(&lab, &shaper)?;
    let mut traffic = [Traffic::NEW; 2];
    traffic[0].bytes = BYTES;
    traffic[0].packets = 5_000;
    let key = FlowKey {
        client: to_kernel(client_v4(0)),
        local: to_kernel(PROXY_V4),
        client_port: stream.local_addr()?.port(),
        local_port: PORT,
        protocol: TCP,
        ..FlowKey::default()
    };
    let flow = Flow {
        traffic,
        created: 1,
        last_seen: sys::ktime(),
        ..Flow::NEW
    };
    let words: &[u64] = bytemuck::cast_slice(bytemuck::bytes_of(&flow));
    let words: [u64; EARLIER] = words[..EARLIER].try_into()?;
    let flows = pinned(
        &pins.join(names::FLOWS),
        size_of::<FlowKey>(),
        size_of_val(&words),
        names::MAX_FLOWS,
    )?;
    sys::write_map(flows.as_fd(), &[(key, words)])?;
    let client = Client {
        traffic,
        connections: 3,
        last_seen: sys::ktime(),
        ..Client::default()
    };
    let clients = pinned(
        &pins.join(names::CLIENTS),
        size_of::<ClientKey>(),
        size_of::<Client>(),
        names::MAX_CLIENTS / 2,
    )?;
    sys::write_map(clients.as_fd(), &[(ClientKey { addr: key.client }, client)])?;
    drop((flows, clients));

    shaper.run(&[])?;
    stream.write_all(&[3; 10_000])?;
    sleep(Duration::from_millis(200));
    let log = shaper.log();
    ensure!(log.contains("to new tables"), "{log}");
    let flows = shaper.fresh_flows()?.flows;
    ensure!(flows.len() == 1, "{flows:?}");
    let row = shaper.client(client_v4(0))?;
    ensure!(row.connections == 1, "counted anew: {row:?}");
    for bytes in [flows[0].upload.bytes, row.upload.traffic.bytes] {
        ensure!(
            (BYTES + 10_000..BYTES + 20_000).contains(&bytes),
            "{bytes} bytes, {BYTES} of them before"
        );
    }
    let version = std::fs::read_link(pins.join(names::ABI_PIN))?;
    ensure!(version == Path::new(&names::ABI.to_string()), "{version:?}");
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    Ok(())
}

fn newer() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, "", &[])?;
    shaper.stop(nix::sys::signal::Signal::SIGTERM)?;
    let pins = directory(&lab, &shaper)?;
    let version = pins.join(names::ABI_PIN);
    std::fs::remove_file(&version)?;
    symlink("99", &version)?;
    shaper.run(&[])?;
    let log = shaper.log();
    let told = "a newer version left maps of version 99";
    ensure!(log.contains(told) && log.contains("starting over"), "{log}");
    let warnings = shaper.status()?.warnings;
    ensure!(
        warnings.iter().any(|warning| warning.contains(told)),
        "{warnings:?}"
    );
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    Ok(())
}
