//! `vm-test`: every kernel of the matrix, booted in an emulated machine.

mod expect;
mod initramfs;
mod kernels;
mod qemu;
mod report;

use crate::results::Counts;
use crate::{setup, sh};
use anyhow::{Context, Result, bail};
use expect::{KERNELS, Kernel, QUICK};
use initramfs::Programs;
use report::Report;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Options of `vm-test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these: 5.10, 6.1, 6.12 or newest; more than one by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Only 6.1, the furthest from those that people build on
    #[arg(long, conflicts_with = "kernel")]
    quick: bool,
    /// Fetch kernels anew: what a suite has changes
    #[arg(long)]
    update: bool,
}

/// Boots the kernels one after the other, goes on after failures, and closes
/// with a table and the counts.
pub fn run(args: &Args) -> Result<ExitCode> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the kernels are for x86-64 and run with this machine's own programs");
    }
    let kernels = chosen(args)?;
    setup::machines()?;
    let programs = build()?;
    let directory = sh::target_dir()?.join("vm");
    fs::create_dir_all(&directory)?;
    let mut total = Counts::default();
    let mut rows = Vec::new();
    for kernel in kernels {
        println!("\n==> kernel {}", kernel.name);
        let started = Instant::now();
        let (counts, row) = one(kernel, args.update, &programs, &directory);
        println!(
            "<== kernel {}: {counts}, {:.0} s",
            kernel.name,
            started.elapsed().as_secs_f32()
        );
        rows.push(row);
        total += counts;
    }
    println!("\n{}\n\n{total}", report::table(&rows));
    Ok(if total.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn chosen(args: &Args) -> Result<Vec<&'static Kernel>> {
    let known = |name: &str| {
        KERNELS
            .iter()
            .find(|kernel| kernel.name == name)
            .with_context(|| {
                let names = KERNELS.each_ref().map(|kernel| kernel.name).join(", ");
                format!("there is no kernel {name} here, but {names}")
            })
    };
    if args.quick {
        return Ok(vec![known(QUICK)?]);
    }
    if args.kernel.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    args.kernel.iter().map(|name| known(name)).collect()
}

/// The daemon, the checks and the packet tests.
fn build() -> Result<Programs> {
    sh::run(&mut sh::cargo([
        "build",
        "--release",
        "--package=shaper-user",
        "--package=shaper-tests",
        "--bin=shaper",
        "--bin=shaper-guest",
    ])?)?;
    let messages = sh::output(&mut sh::cargo([
        "test",
        "--release",
        "--no-run",
        // As above, so that both share what they are built from.
        "--package=shaper-user",
        "--package=shaper-tests",
        "--test=packets",
        "--message-format=json",
    ])?)?;
    Ok(Programs {
        shaper: sh::release_bin("shaper")?,
        guest: sh::release_bin("shaper-guest")?,
        packets: executable(&messages).context("cargo does not say where the packet tests are")?,
    })
}

/// The program in cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "packets")
        .find_map(|message| Some(message["executable"].as_str()?.into()))
}

/// One kernel: its counts and its row of the table.
fn one(kernel: &Kernel, update: bool, programs: &Programs, directory: &Path) -> (Counts, String) {
    let unpacked = match kernels::fetch(kernel, directory, update) {
        Ok(unpacked) => unpacked,
        Err(error) => {
            println!("SKIPPED, NOT RUN ON THIS KERNEL: {error:#}");
            return (
                Counts::SKIPPED,
                report::row(kernel.name, "not to be had, so not run"),
            );
        }
    };
    println!("vm-test: booting {}", unpacked.release);
    let boot = || -> Result<Report> {
        let archive = initramfs::pack(programs, &unpacked, &directory.join(kernel.name))?;
        let run = qemu::boot(&unpacked.image, &archive, report::show)?;
        let log = directory.join(format!("{}.log", kernel.name));
        fs::write(&log, run.lines.join("\n"))?;
        let report = Report::new(&run, kernel);
        if report.counts().failed > 0 {
            println!("{}", run.tail());
            println!("vm-test: the whole console is in {}", log.display());
        }
        Ok(report)
    };
    match boot() {
        Ok(report) => (report.counts(), report.row(&unpacked.release)),
        Err(error) => {
            println!("FAILED: {error:#}");
            (Counts::FAILED, report::row(&unpacked.release, "no run"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_packet_tests_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"shaper_tests"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"packets"},"executable":"/somewhere/packets-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/somewhere/packets-1".into()));
        assert_eq!(executable("{}"), None);
    }

    #[test]
    fn an_unknown_kernel_is_refused_by_name() {
        let args = |kernel: &[&str], quick| Args {
            kernel: kernel.iter().map(|name| (*name).to_owned()).collect(),
            quick,
            update: false,
        };
        assert_eq!(chosen(&args(&[], false)).unwrap().len(), KERNELS.len());
        assert_eq!(chosen(&args(&[], true)).unwrap().len(), 1);
        assert_eq!(chosen(&args(&["6.12", "5.10"], false)).unwrap().len(), 2);
        let error = chosen(&args(&["4.19"], false)).err().unwrap();
        assert!(error.to_string().contains("5.10"), "{error}");
    }
}
