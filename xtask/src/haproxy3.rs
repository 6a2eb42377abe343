//! A newer HAProxy than the distribution's, beside it or for what it lacks: its
//! packages are unpacked below the target directory and never installed.

use crate::debian::{MIRROR, Suite, entries};
use crate::sh;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian 13 has HAProxy 3.0.
const SUITE: &str = "trixie";
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

fn unpack(new: &Path) -> Result<()> {
    let apt = new.join("apt");
    let suite = Suite::open(SUITE, &apt)?;
    suite.unpack_with_dependencies("haproxy", &new.join("root"))?;
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

/// `HAProxy version 3.0.11-…`, when it runs.
fn version(program: &Path) -> Result<String> {
    let text = sh::output(Command::new(program).arg("-v"))?;
    let line = text.split(" - ").next().unwrap_or_default().trim();
    Ok(line.to_owned())
}
