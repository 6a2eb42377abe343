//! Whether this kernel takes the programs, one by one.

use super::Report;
use crate::lab::{Lab, LabSpec};
use crate::shaper::Shaper;
use anyhow::{Context, Result, ensure};
use aya::programs::Program;
use aya::{Btf, Ebpf, EbpfLoader};
use shaper_user::kernel::ebpf::OBJECT;

/// What the refusal has to name, for its reader to know what to do.
const OLDEST: &str = "5.15";

/// Loads every program of the object. `false` where the kernel refuses one that
/// limits can't do without.
pub fn load(report: &mut Report) -> bool {
    let refused = try_load(report).err();
    report.fact(
        "programs",
        if refused.is_some() {
            "refused"
        } else {
            "loaded"
        },
    );
    if let Some(error) = &refused {
        report.fact("verifier", format!("{error:#}"));
    }
    refused.is_none()
}

fn try_load(report: &Report) -> Result<()> {
    let mut ebpf: Ebpf = EbpfLoader::new()
        .override_global(aya_log::LEVEL, &0_u8, false)
        .load(OBJECT)
        .context("the maps")?;
    let btf = Btf::from_sys_fs()?;
    let mut iterators = true;
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::SchedClassifier(program) => program.load().context(name.to_owned())?,
            Program::SockOps(program) => program.load().context(name.to_owned())?,
            Program::Xdp(program) => program.load().context(name.to_owned())?,
            // The daemon goes on without these, and says so.
            Program::Iter(program) => {
                if let Err(error) = program.load("tcp", &btf) {
                    println!("{name} is refused: {error}");
                    iterators = false;
                    continue;
                }
            }
            _ => anyhow::bail!("{name} is of a type that this does not know"),
        }
        report.fact(&format!("verified.{name}"), verified(program));
    }
    report.fact("iterators", if iterators { "loaded" } else { "refused" });
    Ok(())
}

/// How many instructions the verifier looked at (kernel 5.16).
fn verified(program: &Program) -> String {
    let info = program.info().ok();
    match info.and_then(|info| info.verified_instruction_count()) {
        Some(count) => count.to_string(),
        None => "unknown".to_owned(),
    }
}

/// The daemon on a kernel that refuses the programs: it ends, says what is
/// needed, and leaves nothing.
pub fn refusal(report: &mut Report) {
    if let Some(said) = report.get("the_refusal_is_one_clear_line", refused_daemon) {
        report.fact("refusal", said);
    }
}

fn refused_daemon() -> Result<String> {
    let lab = Lab::new(LabSpec::direct(true))?;
    let shaper = Shaper::new(&lab)?;
    shaper.write_policy("[default]\nupload = { rate = \"8mbit\" }\n")?;
    let policy = shaper.policy().display().to_string();
    let answer = shaper.cli(&["run", "--policy", &policy])?;
    let said = answer.stderr.trim();
    println!("{said}");
    ensure!(answer.code == 1, "exit code {}", answer.code);
    ensure!(said.contains(OLDEST), "it does not name {OLDEST}: {said}");
    ensure!(
        said.lines().count() == 1,
        "it takes more than a line: {said}"
    );
    ensure!(shaper.pins().is_empty(), "it left {:?}", shaper.pins());
    let programs = aya::programs::loaded_programs().flatten();
    let ours: Vec<_> = programs
        .filter_map(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| name.starts_with("shaper"))
        .collect();
    ensure!(ours.is_empty(), "it left {ours:?}");
    Ok(said.to_owned())
}
