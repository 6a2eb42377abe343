//! What `systemd-analyze security` says of the unit. Counts as ignored where that
//! is not installed.

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::path::Path;
use std::process::Command;

fn main() {
    let arguments = Arguments::from_args();
    let trial = Trial::ignorable_test("systemd_rates_the_unit_below_two", rated);
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

fn rated() -> Result<Completion, Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=19"])
        .arg(root.join("packaging/shaper.service"))
        .output();
    let Ok(output) = output else {
        let why = "systemd-analyze is not installed: as root, cargo xtask setup";
        eprintln!("NOT RUN: systemd_rates_the_unit_below_two: {why}");
        return Ok(Completion::ignored_with(why));
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let rated = text.lines().last().unwrap_or_default();
    if output.status.success() && rated.contains("Overall exposure level") {
        return Ok(Completion::Completed);
    }
    Err(format!("{rated}\n{text}").into())
}
