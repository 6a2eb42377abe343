//! `test`: every check there is, one after the other, and one line that counts.

use crate::results::{self, Counts};
use crate::{ebpf, haproxy3, setup, sh, toolchain};
use anyhow::{Context, Result};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the documentation and the tests that need a kernel
    #[arg(long)]
    quick: bool,
}

/// How a step is judged.
enum Step {
    /// By its exit status.
    Check(Command),
    /// By the tests it counts.
    Tests(Command),
    /// Not at all, for this reason.
    Skip(String),
}

/// Runs the steps, goes on after failures, and closes with the counts.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut total = Counts::default();
    let mut summary = Vec::new();
    for (name, prepare) in steps(args.quick) {
        let started = Instant::now();
        println!("\n==> {name}");
        let counts = prepare().and_then(execute).unwrap_or_else(|error| {
            println!("{error:#}");
            Counts::FAILED
        });
        let word = match counts {
            _ if counts.failed > 0 => "FAILED",
            Counts { passed: 0, .. } => "SKIPPED",
            _ => "ok",
        };
        let line = format!(
            "{word:7} {name}: {counts}, {:.1} s",
            started.elapsed().as_secs_f32()
        );
        println!("<== {line}");
        summary.push(line);
        total += counts;
    }
    println!("\n{}\n\n{total}", summary.join("\n"));
    Ok(if total.good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

type Prepare = fn() -> Result<Step>;

fn steps(quick: bool) -> Vec<(&'static str, Prepare)> {
    let mut steps: Vec<(&'static str, Prepare)> = vec![
        ("format of the workspace", || {
            needs("fmt", &["--all", "--", "--check"])
        }),
        ("format of the kernel programs", || {
            needs(
                "fmt",
                &["--manifest-path=shaper-ebpf/Cargo.toml", "--", "--check"],
            )
        }),
        ("clippy on the workspace", || {
            needs(
                "clippy",
                &["--workspace", "--all-targets", "--", "-Dwarnings"],
            )
        }),
        ("clippy on the kernel programs", bpf_clippy),
    ];
    if !quick {
        steps.push(("documentation", || {
            let mut command = sh::cargo(["doc", "--workspace", "--no-deps"])?;
            command.env("RUSTDOCFLAGS", "-Dwarnings");
            Ok(Step::Check(command))
        }));
    }
    steps.push(("unit and property tests", || {
        if sh::is_root()
            && let Err(error) = setup::examiners()
        {
            // Tests that need them say so and count as skipped.
            println!("{error:#}");
        }
        let packages = ["-pshaper-common", "-pshaper-user", "-pxtask"];
        sh::cargo(["test", "--no-fail-fast"].iter().chain(&packages)).map(Step::Tests)
    }));
    if !quick {
        steps.push(("tests with a kernel, HAProxy and traffic", kernel_tests));
    }
    steps
}

fn execute(step: Step) -> Result<Counts> {
    match step {
        Step::Check(mut command) => Ok(if sh::status(&mut command)?.success() {
            Counts::PASSED
        } else {
            Counts::FAILED
        }),
        Step::Tests(mut command) => {
            let mut counts = Counts::default();
            let status = sh::stream(&mut command, |line| {
                if let Some(found) = results::parse(line) {
                    counts += found;
                }
            })?;
            Ok(results::of_run(counts, status.success()))
        }
        Step::Skip(why) => {
            println!("SKIPPED: {why}");
            Ok(Counts::SKIPPED)
        }
    }
}

/// A cargo subcommand that is a component of its own.
fn needs(component: &str, args: &[&str]) -> Result<Step> {
    sh::output(&mut sh::cargo([component, "--version"])?).with_context(|| {
        let name = if component == "fmt" {
            "rustfmt"
        } else {
            component
        };
        format!("{name} is not installed: rustup component add {name}")
    })?;
    let mut command = sh::cargo([component])?;
    command.args(args);
    Ok(Step::Check(command))
}

fn bpf_clippy() -> Result<Step> {
    let mut found = toolchain::compilers();
    if !found.iter().any(toolchain::Compiler::has_clippy)
        && sh::is_root()
        && let Err(error) = setup::distribution()
    {
        println!("{error:#}");
    } else {
        found = toolchain::compilers();
    }
    found.retain(toolchain::Compiler::has_clippy);
    Ok(match found.pop() {
        Some(compiler) => Step::Check(ebpf::clippy_command(compiler)?),
        None => Step::Skip(
            "no compiler that builds the kernel programs, with clippy beside it: as root, \
             cargo xtask setup"
                .to_owned(),
        ),
    })
}

fn kernel_tests() -> Result<Step> {
    if !sh::is_root() {
        return Ok(Step::Skip(
            "packet, namespace, HAProxy and command-line tests need root: sudo -E env \
             \"PATH=$PATH\" cargo xtask test"
                .to_owned(),
        ));
    }
    setup::tested()?;
    if std::env::var_os("SHAPER_HAPROXY").is_none()
        && let Err(error) = haproxy3::install()
    {
        // Tests that need it say so and count as skipped.
        println!("{error:#}");
    }
    sh::run(&mut sh::cargo([
        "build",
        "--release",
        "--package=shaper-user",
        "--package=shaper-tests",
        "--bins",
    ])?)?;
    let mut command = sh::cargo(["test", "--release", "--no-fail-fast", "-pshaper-tests"])?;
    command.env("SHAPER_BIN", sh::release_bin("shaper")?);
    Ok(Step::Tests(command))
}
