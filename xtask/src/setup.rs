//! `setup`: what the other commands need of the machine.

use crate::manifest::Tools;
use crate::toolchain::{self, Toolchain};
use crate::{haproxy3, sh};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program and Debian's package of it.
struct Need {
    program: &'static str,
    package: &'static str,
}

/// What the demo and the tests run.
const RUNTIME: [Need; 2] = [
    Need {
        program: "haproxy",
        package: "haproxy",
    },
    Need {
        program: "ip",
        package: "iproute2",
    },
];

/// What the tests run beside that.
const TESTED: [Need; 1] = [Need {
    program: "nginx",
    package: "nginx",
}];

/// What makes a clean Debian to install the package in.
const DEBIAN_ROOT: [Need; 2] = [
    Need {
        program: "debootstrap",
        package: "debootstrap",
    },
    Need {
        program: "ip",
        package: "iproute2",
    },
];

/// Cargo's subcommands that `dist` and `deny` run: the versions they were tried with.
pub const CARGO_DEB: &str = "3.8.0";
/// Likewise.
pub const CARGO_DENY: &str = "0.20.2";

/// What reads metrics, with promtool: without it the tests of that are not run.
const MONITORING: [Need; 1] = [Need {
    program: "prometheus",
    package: "prometheus",
}];

/// What tests run beside that: to rate the unit's sandbox, and to see which system
/// calls a daemon makes.
const EXAMINERS: [Need; 2] = [
    Need {
        program: "systemd-analyze",
        package: "systemd",
    },
    Need {
        program: "strace",
        package: "strace",
    },
];

/// What the benchmarks run beside that, to compare with.
const INCUMBENTS: [Need; 2] = [
    Need {
        program: "nft",
        package: "nftables",
    },
    Need {
        program: "iptables",
        package: "iptables",
    },
];

/// What boots other kernels, and what is packed for them.
const MACHINES: [Need; 4] = [
    Need {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Need {
        program: "busybox",
        package: "busybox-static",
    },
    Need {
        program: "xz",
        package: "xz-utils",
    },
    Need {
        program: "ip",
        package: "iproute2",
    },
];

/// Options of `setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Only unpack a HAProxy 3 (Debian's, for the benchmarks) into the target directory
    #[arg(long)]
    haproxy3: bool,
}

/// Installs what any command needs and is missing, and says what it does.
pub fn run(args: &Args) -> Result<()> {
    if args.haproxy3 {
        return haproxy3::install();
    }
    runtime()?;
    examiners()?;
    println!("setup: haproxy, iproute2, systemd-analyze and strace are there");
    let tools = toolchain(None)?;
    println!(
        "setup: {} and {} are there",
        tools.compiler.version, tools.linker.version
    );
    Ok(())
}

/// Installs what the demo and the tests run, where it is missing.
pub fn runtime() -> Result<()> {
    install(&RUNTIME)
}

/// Installs what the tests run, where it is missing.
pub fn tested() -> Result<()> {
    runtime()?;
    if let Err(error) = install(&TESTED) {
        // Tests that need it say so and count as skipped.
        println!("{error:#}");
    }
    Ok(())
}

/// Installs what makes a clean Debian root, where it is missing.
pub fn debian_root() -> Result<()> {
    install(&DEBIAN_ROOT)
}

/// A subcommand of cargo, built into cargo's own directory where it is missing. One
/// that is there is used, whatever its version.
pub fn cargo_tool(name: &str, version: &str) -> Result<()> {
    if sh::find_program(name).is_some() || sh::is_executable(&cargo_bin().join(name)) {
        return Ok(());
    }
    println!("setup: building {name} {version}, some minutes");
    sh::run(&mut sh::cargo([
        "install",
        "--locked",
        name,
        "--version",
        version,
    ])?)
    .with_context(|| format!("{name} could not be installed"))
}

/// Where `cargo install` puts programs; cargo itself looks there.
fn cargo_bin() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    home.join("bin")
}

/// Installs what tests examine the daemon with, where it is missing. They do
/// without, and say so.
pub fn examiners() -> Result<()> {
    // Each by itself: that one cannot be had keeps the other from nobody.
    let examiners = install(&EXAMINERS);
    install(&MONITORING).and(examiners)
}

/// Installs what the benchmarks with traffic run, where it is missing.
pub fn incumbents() -> Result<()> {
    runtime()?;
    install(&INCUMBENTS)
}

/// Installs what virtual machines need, where it is missing.
pub fn machines() -> Result<()> {
    install(&MACHINES)
}

fn install(needs: &[Need]) -> Result<()> {
    let missing = missing(needs, |program| sh::find_program(program).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing)
}

fn missing(needs: &[Need], is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    needs
        .iter()
        .filter(|need| !is_there(need.program))
        .map(|need| need.package)
        .collect()
}

/// The toolchain for the kernel programs, installed where it is missing.
pub fn toolchain(wanted: Option<&Tools>) -> Result<Toolchain> {
    if let Ok(found) = toolchain::find(wanted) {
        return Ok(found);
    }
    if toolchain::compilers().is_empty() {
        distribution().context(
            "or install a nightly: rustup toolchain install nightly --component rust-src",
        )?;
    }
    if toolchain::find_linker().is_err() {
        install_linker()?;
    }
    toolchain::find(wanted)
}

/// Installs the distribution's compiler with the source of its library, and its
/// clippy.
pub fn distribution() -> Result<()> {
    apt_install(&toolchain::DISTRIBUTION_PACKAGES)
}

fn install_linker() -> Result<()> {
    let llvm = Path::new("/usr/lib/llvm-22");
    if !llvm.join("include").is_dir() {
        apt_install(&["llvm-22-dev"])?;
    }
    println!(
        "setup: building bpf-linker {}, about three minutes",
        toolchain::LINKER_VERSION
    );
    sh::run(
        sh::cargo([
            "install",
            "bpf-linker",
            "--version",
            toolchain::LINKER_VERSION,
            "--no-default-features",
            "--features",
            "llvm-22",
        ])?
        .env("LLVM_PREFIX", llvm),
    )
}

/// Keeps services that come with a package from being started by its
/// installation (invoke-rc.d(8)), also when the installation is interrupted.
const APT_SCRIPT: &str = r#"
set -e
if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
# Another apt may be at work: its end is waited for.
install() { apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; }
install "$@" || { apt-get update; install "$@"; }
"#;

fn apt_install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if sh::find_program("apt-get").is_none() {
        bail!("install these by hand, this machine has no apt (the names are Debian's): {list}");
    }
    if !sh::is_root() {
        bail!("install these as root: apt-get install {list}");
    }
    println!("setup: apt-get install {list}");
    for service in ["haproxy", "nginx", "prometheus"] {
        if packages.contains(&service) {
            println!(
                "setup: the {service} service is not started now; it is enabled for the next boot"
            );
        }
    }
    sh::run(
        Command::new("sh")
            .args(["-c", APT_SCRIPT, "apt"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(|| format!("install these by hand: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_the_packages_of_missing_programs_only() {
        assert_eq!(
            missing(&RUNTIME, |program| program == "haproxy"),
            ["iproute2"]
        );
        assert!(missing(&RUNTIME, |_| true).is_empty());
    }
}
