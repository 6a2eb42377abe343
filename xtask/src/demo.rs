//! `demo`: the product on real traffic, in namespaces of its own.

use crate::{setup, sh};
use anyhow::Result;
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Command;

/// Options of `demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Length of each phase, observed and limited
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// Print the report in place of the dashboard
    #[arg(long)]
    plain: bool,
    /// Also draw the dashboard into an SVG file, and its servers and history beside it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Builds the daemon and the lab and becomes the demo; its exit status says
/// whether the claims held.
pub fn run(args: &Args) -> Result<Infallible> {
    sh::need_root("demo")?;
    setup::runtime()?;
    // One call, so that both share what they are built from.
    sh::run(&mut sh::cargo([
        "build",
        "--release",
        "--package=shaper-user",
        "--package=shaper-tests",
        "--bin=shaper",
        "--bin=shaper-demo",
    ])?)?;
    let mut demo = Command::new(sh::release_bin("shaper-demo")?);
    demo.env("SHAPER_BIN", sh::release_bin("shaper")?);
    if let Some(seconds) = args.seconds {
        demo.arg("--seconds").arg(seconds.to_string());
    }
    if args.plain {
        demo.arg("--plain");
    }
    if let Some(svg) = &args.svg {
        demo.arg("--svg").arg(svg);
    }
    Err(sh::exec(&mut demo))
}
