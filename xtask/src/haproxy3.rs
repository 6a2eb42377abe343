//! A newer HAProxy than the distribution's, beside it or for what it lacks: its
//! packages are unpacked below the target directory and never installed.

use crate::sh;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian 13 has HAProxy 3.0.
const SUITE: &str = "trixie";
const MIRROR: &str = "http://deb.debian.org/debian";
/// What apt checks the signature of the suite with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Runs the binary with the C library and the other libraries it was built
/// for. argv\[0\] stays this script, so that a re-execution comes back here.
const LAUNCHER: &str = r#"#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/root/@LOADER@" --argv0 "$0" --library-path "$here/root/@LIBRARIES@" \
    "$here/root/usr/sbin/haproxy" "$@"
"#;

/// Where it goes.
fn directory() -> Result<PathBuf> {
    Ok(sh::target_dir()?.join("haproxy-3"))
}

/// Unpacks it where it is missing, and says what it is.
pub fn install() -> Result<()> {
    let there = directory()?;
    if let Ok(version) = version(&there.join("haproxy")) {
        println!("setup: {version} is there, in {}", there.display());
        return Ok(());
    }
    for program in ["apt-get", "dpkg-deb"] {
        if sh::find_program(program).is_none() {
            bail!("{program} is missing: name a HAProxy 2.7 or newer in SHAPER_HAPROXY");
        }
    }
    if !Path::new(KEYRING).is_file() {
        bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
    }
    println!("setup: fetching HAProxy 3 of Debian {SUITE} and its libraries, 30 MB");
    let new = there.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    unpack(&new).with_context(|| {
        format!("no HAProxy 3 from {MIRROR}: name one that is there in SHAPER_HAPROXY")
    })?;
    if there.exists() {
        fs::remove_dir_all(&there)?;
    }
    fs::rename(&new, &there)?;
    let version = version(&there.join("haproxy"))?;
    println!("setup: {version} is there, in {}", there.display());
    Ok(())
}

/// Fetches the packages with lists and a cache of its own, so that the
/// system's apt knows nothing of it, and unpacks them.
fn unpack(new: &Path) -> Result<()> {
    let (apt, root) = (new.join("apt"), new.join("root"));
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(directory))?;
    }
    fs::create_dir_all(&root)?;
    // Nothing counts as installed: all that HAProxy needs is fetched.
    fs::write(apt.join("status"), "")?;
    fs::write(
        apt.join("sources.list"),
        format!("deb [signed-by={KEYRING}] {MIRROR} {SUITE} main\n"),
    )?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.arg("-qq");
        for (key, path) in [
            ("Dir::State", apt.clone()),
            ("Dir::State::status", apt.join("status")),
            ("Dir::Cache", apt.join("cache")),
            ("Dir::Etc::SourceList", apt.join("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        for option in [
            "APT::Sandbox::User=root",
            "Acquire::http::Timeout=20",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Debug::NoLocking=1",
        ] {
            command.arg("-o").arg(option);
        }
        command.args(arguments);
        sh::output(&mut command)
    };
    apt_get(&["update"])?;
    apt_get(&[
        "install",
        "--yes",
        "--download-only",
        "--no-install-recommends",
        "haproxy",
    ])?;
    for package in entries(&apt.join("cache/archives"))? {
        if package.extension().is_some_and(|end| end == "deb") {
            sh::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?;
        }
    }
    fs::remove_dir_all(&apt)?;
    write_launcher(new)
}

fn write_launcher(new: &Path) -> Result<()> {
    let root = new.join("root");
    // Beside libc, in the directory of the architecture.
    let loader = entries(&root.join("usr/lib"))?
        .into_iter()
        .filter(|path| path.join("libc.so.6").is_file())
        .filter_map(|libraries| entries(&libraries).ok())
        .flatten()
        .find(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ld-linux") || name.starts_with("ld64.so")
        })
        .context("the packages hold no loader")?;
    let loader = loader.strip_prefix(&root)?;
    let libraries = loader.parent().context("the loader is in no directory")?;
    let text = LAUNCHER
        .replace("@LOADER@", &loader.to_string_lossy())
        .replace("@LIBRARIES@", &libraries.to_string_lossy());
    let launcher = new.join("haproxy");
    fs::write(&launcher, text)?;
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755))?;
    version(&launcher).map(drop)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// `HAProxy version 3.0.11-…`, when it runs.
fn version(program: &Path) -> Result<String> {
    let text = sh::output(Command::new(program).arg("-v"))?;
    let line = text.split(" - ").next().unwrap_or_default().trim();
    Ok(line.to_owned())
}
