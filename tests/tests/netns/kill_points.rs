//! A crash behind every step of a start, an upgrade, a reload, a change of the
//! tables and a detach: traffic passes, and the next start or detach repairs
//! what is left.
//!
//! The daemon that repaired one is the one that the next crash is prepared in: so
//! each step costs the start that must be tested anyway, and no other.

mod bed;

use crate::Test;
use anyhow::{Context as _, Result, ensure};
use bed::Bed;
use clap::ValueEnum as _;
use shaper_tests::killed;
use shaper_user::steps::Step;

pub const TESTS: &[Test] = &[
    ("killed_anywhere_in_a_start", || walk(&START)),
    ("killed_anywhere_in_a_start_on_clsact", || walk(&CLSACT)),
    ("killed_anywhere_in_an_upgrade", || walk(&UPGRADE)),
    ("killed_anywhere_in_a_migration", || walk(&MIGRATION)),
    ("killed_anywhere_in_a_reload", || walk(&RELOAD)),
    ("killed_anywhere_in_a_resizing_reload", || walk(&RESIZE)),
    ("killed_anywhere_in_a_detach", || walk(&DETACH)),
    ("every_step_is_in_one_of_these_walks", every_step),
];

const POLICY: &str = "xdp = \"generic\"\n[default]\nupload = { rate = \"8mbit\" }\n";
/// With other tables.
const SMALL: &str = "max_flows = 1000\nmax_clients = 500\n\
    xdp = \"generic\"\n[default]\nupload = { rate = \"8mbit\" }\n";
/// For a reload: other classes and rules, the same limit.
const OTHER: &str = "xdp = \"generic\"\n[default]\nupload = { rate = \"8mbit\" }\n\
    [[rule]]\nname = \"other\"\nclients = [\"10.77.0.12\"]\nupload = { rate = \"4mbit\" }\n";

/// What is killed, and what was there before.
struct Walk {
    name: &'static str,
    /// A daemon runs, or ran, under this policy; else there is nothing.
    before: Option<&'static str>,
    arguments: &'static [&'static str],
    act: Act,
    /// From where on; what comes before is in another walk.
    from: Option<Step>,
    /// Whether a detach is tried too behind every step, where no start came before
    /// it.
    detaches: bool,
    /// Steps that must be among those it passes.
    passes: &'static [Step],
}

enum Act {
    /// `run` under this policy, where the daemon before was killed too.
    Run(&'static str),
    /// `reload` to this policy, in a running daemon.
    Reload(&'static str),
    /// `detach`.
    Detach,
}

const START: Walk = Walk {
    name: "start",
    before: None,
    arguments: &[],
    act: Act::Run(POLICY),
    from: None,
    detaches: true,
    passes: &[
        Step::Locked,
        Step::Directory,
        Step::Version,
        Step::Loaded,
        Step::Linked,
        Step::Shield,
        Step::Classifier,
        Step::SockOps,
        Step::Classes,
        Step::Rules,
        Step::InForce,
        Step::OldRules,
        Step::Adopted,
    ],
};

const CLSACT: Walk = Walk {
    name: "start on clsact",
    before: None,
    arguments: &["--tc-hook", "clsact"],
    act: Act::Run(POLICY),
    from: None,
    detaches: false,
    passes: &[Step::QdiscMarked, Step::Qdisc],
};

const UPGRADE: Walk = Walk {
    name: "upgrade",
    before: Some(POLICY),
    arguments: &[],
    act: Act::Run(POLICY),
    from: None,
    detaches: false,
    passes: &[Step::Loaded, Step::Classifier, Step::SockOps, Step::InForce],
};

const MIGRATION: Walk = Walk {
    name: "migration",
    before: Some(POLICY),
    arguments: &[],
    act: Act::Run(SMALL),
    from: None,
    detaches: true,
    passes: &MIGRATES,
};

const MIGRATES: [Step; 9] = [
    Step::Next,
    Step::Copied,
    Step::Switching,
    Step::MergedOne,
    Step::Merged,
    Step::Settling,
    Step::Renamed,
    Step::NextGone,
    Step::Recounted,
];

const RELOAD: Walk = Walk {
    name: "reload",
    before: Some(POLICY),
    arguments: &[],
    act: Act::Reload(OTHER),
    from: None,
    detaches: false,
    passes: &[Step::Classes, Step::Rules, Step::InForce, Step::OldRules],
};

const RESIZE: Walk = Walk {
    name: "reload with other tables",
    before: Some(POLICY),
    arguments: &[],
    act: Act::Reload(SMALL),
    from: Some(Step::Next),
    detaches: false,
    passes: &MIGRATES,
};

const DETACH: Walk = Walk {
    name: "detach",
    before: Some(POLICY),
    arguments: &["--tc-hook", "clsact"],
    act: Act::Detach,
    from: None,
    detaches: true,
    passes: &[
        Step::Released,
        Step::Unhooked,
        Step::Unpinned,
        Step::QdiscGone,
        Step::DirectoryGone,
        Step::OverridesGone,
    ],
};

fn every_step() -> Result<()> {
    let passed: Vec<Step> = [
        &START, &CLSACT, &UPGRADE, &MIGRATION, &RELOAD, &RESIZE, &DETACH,
    ]
    .into_iter()
    .flat_map(|walk| walk.passes.iter().copied())
    .collect();
    let left: Vec<_> = Step::value_variants()
        .iter()
        .filter(|step| !passed.contains(step))
        .collect();
    ensure!(left.is_empty(), "no walk passes {left:?}");
    Ok(())
}

fn walk(walk: &'static Walk) -> Result<()> {
    let mut bed = Bed::new(walk)?;
    let names = bed.rehearse()?;
    for step in walk.passes {
        let name = killed::name(*step);
        ensure!(
            names.contains(&name),
            "{} does not pass {name}: {names:?}",
            walk.name
        );
    }
    let points = points(walk, &names);
    let what = |at: usize| format!("{} killed behind step {at}, {}", walk.name, names[at - 1]);
    println!("{}: killed behind | left | the next start", walk.name);
    for (nth, &at) in points.iter().enumerate() {
        let next = points.get(nth + 1).copied();
        let (left, repaired) = bed
            .kill_and_start(at, next, &names)
            .with_context(|| what(at))?;
        println!("{at}. {} | {left} | {repaired}", names[at - 1]);
    }
    bed.finish()?;
    if walk.detaches {
        for &at in &points {
            bed.kill_and_detach(at, &names).with_context(|| what(at))?;
        }
    }
    Ok(())
}

/// The steps to die behind, counted from 1.
fn points(walk: &Walk, names: &[String]) -> Vec<usize> {
    let first = walk.from.map(killed::name);
    let first = names.iter().position(|name| first.as_ref() == Some(name));
    (first.unwrap_or(0) + 1..=names.len())
        .filter(|&at| {
            // One of many alike is enough in the middle.
            let middle = at > 2 && at < names.len();
            !middle || names[at - 3..=at].iter().any(|name| *name != names[at - 1])
        })
        .collect()
}
