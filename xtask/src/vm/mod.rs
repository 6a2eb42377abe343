//! `vm-test`: every kernel of the matrix, booted in an emulated machine.

mod expect;
mod initramfs;
mod kernels;
mod qemu;
mod report;

use crate::results::Counts;
use crate::{setup, sh};
use anyhow::{Context, Result, bail};
use expect::{KERNELS, Kernel, SHORT};
use initramfs::Programs;
use report::Report;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `vm-test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these: 5.10, 6.1, 6.12 or newest; more than one by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    kernel: Vec<String>,
    /// Boot, every program, most packets, a limit each way, detach; and only 6.1,
    /// unless --kernel says otherwise
    #[arg(long)]
    short: bool,
    /// Fetch kernels anew: what a suite has changes
    #[arg(long)]
    update: bool,
    /// Write the table to a file too, as Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Boots the kernels one after the other, goes on after failures, and closes
/// with a table and the counts.
pub fn run(args: &Args) -> Result<ExitCode> {
    let kernels = chosen(args)?;
    if let Err(error) = can_run() {
        println!("NOT RUN: no virtual machine can be had here, so no kernel was tried: {error:#}");
        return Ok(close(args, &vec![Counts::SKIPPED; kernels.len()]));
    }
    let programs = build()?;
    let directory = sh::target_dir()?.join("vm");
    fs::create_dir_all(&directory)?;
    let mut counts = Vec::new();
    let mut rows = Vec::new();
    for kernel in kernels {
        println!("\n==> kernel {}", kernel.name);
        let started = Instant::now();
        let (of_kernel, row) = one(kernel, args, &programs, &directory);
        println!(
            "<== kernel {}: {of_kernel}, {:.0} s",
            kernel.name,
            started.elapsed().as_secs_f32()
        );
        rows.push(row);
        counts.push(of_kernel);
    }
    println!("\n{}", report::table(&rows));
    if let Some(file) = &args.report {
        fs::write(file, report::document(&rows, &sum(&counts)))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(close(args, &counts))
}

/// Prints the counts. Where nothing could run, the short form is no failure: it
/// is one check among others. The whole form is all there is.
fn close(args: &Args, counts: &[Counts]) -> ExitCode {
    let total = sum(counts);
    println!("{total}");
    if total.good() || (args.short && total.failed == 0) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn sum(counts: &[Counts]) -> Counts {
    let mut total = Counts::default();
    for counts in counts {
        total += *counts;
    }
    total
}

/// Installs what is missing of QEMU and the rest.
fn can_run() -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the kernels are for x86-64 and run with this machine's own programs");
    }
    setup::machines()
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
    if args.kernel.is_empty() {
        return if args.short {
            Ok(vec![known(SHORT)?])
        } else {
            Ok(KERNELS.iter().collect())
        };
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
fn one(kernel: &Kernel, args: &Args, programs: &Programs, directory: &Path) -> (Counts, String) {
    let unpacked = match kernels::fetch(kernel, directory, args.update) {
        Ok(unpacked) => unpacked,
        Err(error) => {
            println!("NOT RUN on kernel {}: {error:#}", kernel.name);
            return (
                Counts::SKIPPED,
                report::row(kernel.name, "NOT RUN: not to be had"),
            );
        }
    };
    println!("vm-test: booting {}", unpacked.release);
    let boot = || -> Result<Report> {
        let arguments = if args.short { "--short" } else { "" };
        let at = directory.join(kernel.name);
        let archive = initramfs::pack(programs, &unpacked, arguments, &at)?;
        let most = Duration::from_secs(60 * kernel.minutes);
        let run = qemu::boot(&unpacked.image, &archive, most, report::show)?;
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

    fn args(kernel: &[&str], short: bool) -> Args {
        Args {
            kernel: kernel.iter().map(|name| (*name).to_owned()).collect(),
            short,
            update: false,
            report: None,
        }
    }

    #[test]
    fn an_unknown_kernel_is_refused_by_name() {
        assert_eq!(chosen(&args(&[], false)).unwrap().len(), KERNELS.len());
        assert_eq!(chosen(&args(&[], true)).unwrap().len(), 1);
        assert_eq!(chosen(&args(&["6.12", "5.10"], true)).unwrap().len(), 2);
        let error = chosen(&args(&["4.19"], false)).err().unwrap();
        assert!(error.to_string().contains("5.10"), "{error}");
    }

    #[test]
    fn nothing_run_is_a_failure_of_the_whole_form_only() {
        let code = |short, counts: &[Counts]| format!("{:?}", close(&args(&[], short), counts));
        let success = format!("{:?}", ExitCode::SUCCESS);
        assert_eq!(code(true, &[Counts::SKIPPED]), success);
        assert_ne!(code(false, &[Counts::SKIPPED]), success);
        assert_eq!(code(false, &[Counts::SKIPPED, Counts::PASSED]), success);
        assert_ne!(code(true, &[Counts::PASSED, Counts::FAILED]), success);
    }
}
