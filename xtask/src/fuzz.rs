//! `fuzz`: every fuzz target for a while, one after the other.

use crate::{sh, toolchain};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// What has a target in `shaper-user/fuzz`.
const TARGETS: [&str; 4] = ["policy", "protocol", "haproxy", "packet"];
/// The test that sends packets made up likewise through the kernel.
const KERNEL: &str = "mutated_packets_are_counted_as_another_parser_reads_them";
/// What that test takes for how long it goes on.
const SECONDS_ENV: &str = "SHAPER_FUZZ_SECONDS";

const INSTALL: &str = "cargo install cargo-fuzz --locked";

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these targets: policy, protocol, haproxy, packet or kernel
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(
        TARGETS.into_iter().chain(["kernel"])
    ))]
    targets: Vec<String>,
}

/// Runs the targets; goes on after one that finds something.
pub fn run(args: &Args) -> Result<ExitCode> {
    let chosen = |name: &str| args.targets.is_empty() || args.targets.iter().any(|t| t == name);
    let mut failed = Vec::new();
    if TARGETS.iter().any(|target| chosen(target)) {
        install()?;
    }
    for target in TARGETS.into_iter().filter(|target| chosen(target)) {
        println!("\n==> {target}, for {} s", args.seconds);
        if !sh::status(&mut fuzz(target, args.seconds)?)?.success() {
            failed.push(target);
        }
    }
    if chosen("kernel") {
        println!("\n==> kernel, for {} s", args.seconds);
        if sh::is_root() {
            let mut test = sh::cargo(["test", "--package=shaper-tests", "--test=packets", "--"])?;
            test.arg(KERNEL).env(SECONDS_ENV, args.seconds.to_string());
            if !sh::status(&mut test)?.success() {
                failed.push("kernel");
            }
        } else {
            println!("SKIPPED: running the kernel programs needs root");
        }
    }
    if failed.is_empty() {
        println!("\nnothing was found");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\nfound by: {}; the inputs are in shaper-user/fuzz/artifacts. With the fix, add each to \
         shaper-user/fuzz/corpus: the tests replay that",
        failed.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn fuzz(target: &str, seconds: u32) -> Result<Command> {
    let dir = sh::workspace()?.join("shaper-user/fuzz");
    // Made up inputs are kept beside the committed ones, and not among them.
    let found = dir.join("target/corpus").join(target);
    std::fs::create_dir_all(&found)
        .with_context(|| format!("{} cannot be made", found.display()))?;
    // No sanitizer: there is one `unsafe` in what is fuzzed, and the verifier
    // checks that. cargo-fuzz passes unstable options all the same.
    let mut command = sh::cargo(["fuzz", "run", "--sanitizer=none", target])?;
    command
        .args([found, dir.join("corpus").join(target)])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-dict=dictionaries/{target}.dict"))
        .args(["-max_len=4096", "-print_final_stats=1"])
        .env("RUSTC_BOOTSTRAP", "1")
        // Set for this program's own package.
        .env_remove("CARGO_MANIFEST_DIR")
        .current_dir(dir);
    Ok(command)
}

/// Installs cargo-fuzz where it is missing.
fn install() -> Result<()> {
    if find().is_some() {
        return Ok(());
    }
    println!("cargo-fuzz is not installed: {INSTALL}");
    sh::run(&mut sh::cargo(INSTALL.split(' ').skip(1))?)?;
    if find().is_none() {
        bail!("cargo-fuzz is still not there; by hand: {INSTALL}");
    }
    Ok(())
}

fn find() -> Option<PathBuf> {
    let own = toolchain::cargo_home().map(|home| home.join("bin/cargo-fuzz"));
    sh::find_program("cargo-fuzz").or_else(|| own.filter(|path| sh::is_executable(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_dictionary_and_its_corpus() {
        let dir = sh::workspace().unwrap().join("shaper-user/fuzz");
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{target}\"")));
            assert!(dir.join(format!("dictionaries/{target}.dict")).exists());
            let corpus = std::fs::read_dir(dir.join("corpus").join(target)).unwrap();
            assert!(corpus.count() >= 15, "{target}");
        }
    }
}
