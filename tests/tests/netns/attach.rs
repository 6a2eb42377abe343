//! Where the programs are attached, and that they go.

use crate::Test;
use crate::tools::{SECOND, Servers, open};
use anyhow::{Result, ensure};
use shaper_tests::lab::{INTERFACE, Lab, LabSpec, PORT, client_v4};
use shaper_tests::shaper::Shaper;
use shaper_tests::traffic::tcp::Transfer;

pub const TESTS: &[Test] = &[
    ("attach_on_tcx", tcx),
    ("attach_on_clsact", clsact),
    ("detach_leaves_nothing_and_succeeds_twice", twice),
];

const POLICY: &str = "[default]\nupload = { rate = \"100mbit\" }\n";

fn attached_as(hook: &str, arguments: &[&str]) -> Result<()> {
    let lab = Lab::new(LabSpec::direct(false))?;
    let mut shaper = Shaper::start(&lab, POLICY, arguments)?;
    let interfaces = shaper.status()?.interfaces;
    ensure!(
        interfaces.len() == 1
            && interfaces.iter().all(|interface| {
                interface.name == INTERFACE
                    && interface.state == "attached"
                    && interface.ingress.as_deref() == Some(hook)
                    && interface.egress.as_deref() == Some(hook)
            }),
        "{interfaces:?}"
    );
    let _servers = Servers::start(&lab, None)?;
    let stream = open(&lab, client_v4(0), PORT, 5 * SECOND)?;
    Transfer::send(stream, Some(1 << 20))?.finish(10 * SECOND)?;
    let row = shaper.client(client_v4(0))?;
    ensure!(row.upload.traffic.bytes > 1 << 20, "{row:?}");
    ensure!(row.download.traffic.bytes > 0, "{row:?}");
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    Ok(())
}

fn tcx() -> Result<()> {
    let release = nix::sys::utsname::uname()?;
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>());
    let version = (
        numbers.next().transpose()?.unwrap_or(0),
        numbers.next().transpose()?.unwrap_or(0),
    );
    if version < (6, 6) {
        println!("no TCX before Linux 6.6; this is {release}");
        return Ok(());
    }
    attached_as("tcx", &[])
}

fn clsact() -> Result<()> {
    attached_as("clsact", &["--tc-hook", "clsact"])
}

fn twice() -> Result<()> {
    let lab = Lab::new(LabSpec::direct(true))?;
    let mut shaper = Shaper::start(&lab, POLICY, &[])?;
    ensure!(!shaper.pins().is_empty(), "nothing is pinned");
    ensure!(!shaper.owned().programs.is_empty(), "no programs seen");
    ensure!(!shaper.owned().links.is_empty(), "no links seen");
    // The daemon runs: detach stops it first.
    let remaining = shaper.detach()?;
    ensure!(remaining.is_empty(), "left behind: {remaining:?}");
    ensure!(shaper.detach()?.is_empty());
    Ok(())
}
