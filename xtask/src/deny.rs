//! `deny`: cargo-deny on everything that is built in, as `deny.toml` has it.

use crate::{setup, sh};
use anyhow::Result;
use std::process::{Command, ExitCode};

/// What needs nothing but the lock files and the registry.
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// What is shipped: the workspace, and the kernel programs that it carries.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "shaper-ebpf/Cargo.toml"];

/// Checks licences, sources and bans; then advisories, where their database can be
/// fetched. One that can't be reached is said and fails nothing.
pub fn run() -> Result<ExitCode> {
    setup::cargo_tool("cargo-deny", setup::CARGO_DENY)?;
    let mut code = ExitCode::SUCCESS;
    for manifest in MANIFESTS {
        println!("deny: licences, sources and bans of {manifest}");
        if !sh::status(deny(manifest)?.arg("check").args(CHECKS))?.success() {
            code = ExitCode::FAILURE;
        }
    }
    println!("deny: advisories");
    let fetched = sh::status(deny(MANIFESTS[0])?.args(["fetch", "db"]))?;
    if !fetched.success() {
        println!(
            "SKIPPED: the advisory database cannot be fetched from here; known holes were not \
             looked for"
        );
        return Ok(code);
    }
    for manifest in MANIFESTS {
        let mut check = deny(manifest)?;
        check.args(["check", "--disable-fetch", "advisories"]);
        if !sh::status(&mut check)?.success() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn deny(manifest: &str) -> Result<Command> {
    let root = sh::workspace()?;
    let mut command = sh::cargo(["deny", "--all-features", "--manifest-path"])?;
    command
        .arg(root.join(manifest))
        .arg("--config")
        .arg(root.join("deny.toml"));
    Ok(command)
}
