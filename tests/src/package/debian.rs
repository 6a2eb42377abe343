//! A clean Debian: the release that this machine runs, from the mirror that its apt
//! is told of.

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a Debian needs to boot, beside what it always has.
const INCLUDE: &str = "systemd-sysv,dbus";

/// The root of one, made where it is not kept yet.
///
/// # Errors
/// When debootstrap is missing or fails.
pub(super) fn base(cache: &Path) -> Result<PathBuf> {
    let release = release()?;
    let root = cache.join(&release);
    if root.is_dir() {
        return Ok(root);
    }
    let mirror = mirror(&release)?;
    fs::create_dir_all(cache)?;
    // Under its own name only when it is whole.
    let unfinished = cache.join(format!("{release}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    println!("debootstrap {release}, about a minute");
    let mut command = Command::new("debootstrap");
    command
        .args(["--variant=minbase", &format!("--include={INCLUDE}")])
        .arg(&release)
        .arg(&unfinished)
        .arg(mirror)
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::output(command).context("debootstrap")?;
    fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// This machine's release by its code name.
fn release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match (value("ID").as_deref(), value("VERSION_CODENAME")) {
        (Some("debian"), Some(name)) => Ok(name),
        _ => bail!("this machine runs no release of Debian"),
    }
}

/// Where apt gets the main part of that release.
fn mirror(release: &str) -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(CODENAME) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let output = process::output(command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    found(&text, release)
        .with_context(|| format!("apt is told of no mirror for {release}, or needs an update"))
}

fn found(targets: &str, release: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let is = words.next() == Some(release) && words.next() == Some("main");
        is.then(|| words.next()).flatten().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_release_itself() {
        let text = "bookworm-security main http://a/debian-security/\n\
                    bookworm contrib http://b/debian/\nbookworm main http://c/debian/\n";
        assert_eq!(found(text, "bookworm").as_deref(), Some("http://c/debian/"));
        assert_eq!(found(text, "trixie"), None);
    }
}
