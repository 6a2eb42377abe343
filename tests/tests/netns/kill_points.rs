//! A crash behind every step of a start, an upgrade, a reload, a change of the
//! tables and a detach: traffic passes, and the next start or detach repairs
//! what is left.

use crate::Test;
use crate::tools::{Bulk, SECOND, Servers, open};
use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;
use nix::sys::signal::Signal;
use shaper_tests::killed::{self, KILL_AT, STEPS};
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4};
use shaper_tests::process::Background;
use shaper_tests::shaper::{Shaper, binary, row};
use shaper_user::model::Flow;
use shaper_user::steps::Step;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

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

const LIMIT: f64 = 8e6;
const POLICY: &str = "xdp = \"generic\"\n[default]\nupload = { rate = \"8mbit\" }\n";
/// With other tables.
const SMALL: &str = "max_flows = 1000\nmax_clients = 500\n\
    xdp = \"generic\"\n[default]\nupload = { rate = \"8mbit\" }\n";
/// For a reload: other classes and rules, the same limit.
const OTHER: &str = "xdp = \"generic\"\n[default]\nupload = { rate = \"8mbit\" }\n\
    [[rule]]\nname = \"other\"\nclients = [\"10.77.0.12\"]\nupload = { rate = \"4mbit\" }\n";
const WAIT: Duration = Duration::from_secs(20);

/// What is killed, and what was there before.
struct Walk {
    name: &'static str,
    /// A daemon runs, or ran, under this policy.
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

/// The connections of a walk.
struct Traffic {
    /// Client 0 uploads all the time.
    bulk: Bulk,
    /// Client 1 sent something once and is silent.
    idle: TcpStream,
    /// Client 1 too: opened while the daemon before lay dead, closed while this
    /// one does.
    kept: TcpStream,
}

struct Bed {
    walk: &'static Walk,
    traffic: Traffic,
    servers: Servers,
    shaper: Shaper,
    lab: Lab,
    steps: PathBuf,
}

/// What is left of the traffic's counters, exactly: of the silent connection.
type Counted = (u64, u64, u64);

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
    println!("{}: killed behind | left | the next start", walk.name);
    let first = walk.from.map(killed::name);
    let first = names.iter().position(|name| first.as_ref() == Some(name));
    for at in first.unwrap_or(0) + 1..=names.len() {
        let name = &names[at - 1];
        // One of many alike is enough in the middle.
        if at > 2 && at < names.len() && names[at - 3..=at].iter().all(|other| other == name) {
            continue;
        }
        let what = format!("{} killed behind step {at}, {name}", walk.name);
        let (left, repaired) = bed.kill_and_start(at).context(what.clone())?;
        println!("{at}. {name} | {left} | {repaired}");
        if walk.detaches {
            bed.kill_and_detach(at).context(what)?;
        }
    }
    Ok(())
}

impl Bed {
    fn new(walk: &'static Walk) -> Result<Self> {
        let lab = Lab::new(LabSpec::default())?;
        let servers = Servers::start(&lab, None)?;
        let shaper = Shaper::new(&lab)?;
        let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
        let client = client_v4(1);
        let mut idle = open(&lab, client, PORT, 5 * SECOND)?;
        idle.write_all(&[1; 10_000])?;
        let kept = open(&lab, client, PORT, 5 * SECOND)?;
        let steps = lab.directory().join("steps");
        Ok(Self {
            walk,
            traffic: Traffic { bulk, idle, kept },
            servers,
            shaper,
            lab,
            steps,
        })
    }

    /// `shaper`, to be killed behind a step, or never.
    fn killed(&self, at: Option<usize>, arguments: &[&str]) -> Result<Command> {
        let program = binary()?.with_file_name("shaper-killed");
        let mut command = self.shaper.command(&program);
        command
            .env(STEPS, &self.steps)
            .env(KILL_AT, at.unwrap_or_default().to_string())
            .arg("--socket")
            .arg(self.shaper.socket())
            .args(arguments);
        Ok(command)
    }

    fn killed_daemon(&self, at: Option<usize>) -> Result<Command> {
        let mut command = self.killed(at, &["run", "--policy"])?;
        command.arg(self.shaper.policy()).args(self.walk.arguments);
        Ok(command)
    }

    /// From now on steps count.
    fn arm(&self) -> Result<()> {
        std::fs::write(&self.steps, "").map_err(Into::into)
    }

    fn disarm(&self) -> Result<()> {
        match std::fs::remove_file(&self.steps) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What is there before; and what was counted of the silent connection.
    fn prepare(&mut self, at: Option<usize>) -> Result<Option<Counted>> {
        self.disarm()?;
        let Some(policy) = self.walk.before else {
            return Ok(None);
        };
        self.shaper.write_policy(policy)?;
        let command = match self.walk.act {
            Act::Reload(_) => self.killed_daemon(at)?,
            _ => self.shaper.daemon(self.walk.arguments),
        };
        self.shaper.run_command(command)?;
        self.traffic.idle.write_all(&[1; 10_000])?;
        sleep(Duration::from_millis(200));
        let counted = self.counted(&self.shaper.fresh_flows()?.flows)?;
        match self.walk.act {
            Act::Run(_) => {
                self.shaper.stop(Signal::SIGKILL)?;
            }
            Act::Detach => {
                let client = client_v4(3).to_string();
                self.shaper
                    .cli(&["limit", &client, "--upload", "1mbit"])?
                    .ok()?;
                self.shaper.stop(Signal::SIGTERM)?;
            }
            Act::Reload(_) => {}
        }
        Ok(Some(counted))
    }

    /// Does it, behind [`Bed::prepare`], until it dies or is done.
    fn act(&mut self, at: Option<usize>) -> Result<()> {
        let log = self.lab.directory().join("killed.log");
        match self.walk.act {
            Act::Run(policy) => {
                self.shaper.write_policy(policy)?;
                self.arm()?;
                let command = self.killed_daemon(at)?;
                if at.is_none() {
                    return self.shaper.run_command(command);
                }
                let mut daemon = Background::start("the daemon to die", command, &log)?;
                ensure_killed(daemon.wait(WAIT)?, &log)
            }
            Act::Reload(policy) => {
                self.shaper.write_policy(policy)?;
                self.arm()?;
                let answer = self.shaper.cli(&["reload"])?;
                if at.is_none() {
                    return answer.ok().map(drop);
                }
                ensure!(answer.code == 1, "{answer:?}");
                let status = self.shaper.wait_stopped()?;
                ensure_killed(status, &log)
            }
            Act::Detach => {
                self.arm()?;
                let command = self.killed(at, &["detach"])?;
                let mut detach = Background::start("the detach to die", command, &log)?;
                let status = detach.wait(WAIT)?;
                if at.is_none() {
                    ensure!(status.success(), "{status}");
                    return Ok(());
                }
                ensure_killed(status, &log)
            }
        }
    }

    /// The steps that it passes, when nothing kills it.
    fn rehearse(&mut self) -> Result<Vec<String>> {
        self.prepare(None)?;
        self.act(None)?;
        let (names, _) = killed::read(&self.steps)?;
        self.disarm()?;
        ensure!(!names.is_empty(), "no step was noted");
        self.gone()?;
        Ok(names)
    }

    /// Kills it, looks at what is left, and starts a daemon.
    fn kill_and_start(&mut self, at: usize) -> Result<(String, String)> {
        let before = self.prepare(Some(at))?;
        self.act(Some(at))?;
        let (_, held) = killed::read(&self.steps)?;
        self.shaper.own(held);
        self.disarm()?;
        let left = self.left();
        self.meanwhile()?;
        let logged = self.shaper.log().len();
        self.shaper.run(self.walk.arguments)?;
        let log = self.shaper.log();
        let repaired = said(log.get(logged..).unwrap_or(&log));
        self.ensure_right(before)?;
        self.gone()?;
        Ok((left, repaired))
    }

    fn kill_and_detach(&mut self, at: usize) -> Result<()> {
        self.prepare(Some(at))?;
        self.act(Some(at))?;
        let (_, held) = killed::read(&self.steps)?;
        self.shaper.own(held);
        self.disarm()?;
        self.gone()
    }

    /// Nothing stands in the way of a new connection, though it may be limited;
    /// the one that was kept is closed, and the new one kept.
    fn meanwhile(&mut self) -> Result<()> {
        let client = client_v4(1);
        let mut new = open(&self.lab, client, PORT, 5 * SECOND)?;
        let arrived = self.servers.sink.accepted(&new)?;
        new.write_all(&[2; 10_000])?;
        for _ in 0..100 {
            if arrived.total() == 10_000 {
                break;
            }
            sleep(Duration::from_millis(50));
        }
        ensure!(
            arrived.total() == 10_000,
            "{} bytes arrived",
            arrived.total()
        );
        self.traffic.kept = new;
        // The close of the one before, both ways.
        sleep(Duration::from_millis(100));
        Ok(())
    }

    /// Flows and clients are those that are open, each once, limits hold, and
    /// what was counted before is counted still.
    fn ensure_right(&self, before: Option<Counted>) -> Result<()> {
        let flows = self.shaper.fresh_flows()?.flows;
        let mut found: Vec<u16> = flows.iter().map(|flow| flow.client_port).collect();
        let (idle, kept) = (&self.traffic.idle, &self.traffic.kept);
        let mut open = vec![
            self.traffic.bulk.transfer.stream().local_addr()?.port(),
            idle.local_addr()?.port(),
            kept.local_addr()?.port(),
        ];
        found.sort_unstable();
        open.sort_unstable();
        ensure!(found == open, "open are {open:?}, flows are {flows:?}");
        let clients = self.shaper.clients()?.clients;
        for (client, connections) in [(client_v4(0), 1), (client_v4(1), 2)] {
            let row = row(&clients, client).with_context(|| format!("no {client}"))?;
            ensure!(row.connections == connections, "{row:?}");
        }
        if let Some(before) = before
            && !matches!(self.walk.act, Act::Detach)
        {
            let after = self.counted(&flows)?;
            ensure!(after == before, "{before:?} before, {after:?} after");
        }
        // Free it does ten times as much and more. What it was offered while it was
        // free, some megabytes, still passes.
        let bulk = &self.traffic.bulk;
        let rate = (0..10)
            .map(|_| bulk.rate_over(Duration::from_millis(500)))
            .find(|rate| *rate < 2.0 * LIMIT);
        ensure!(rate.is_some(), "it is not limited");
        let status = self.shaper.status()?;
        ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        Ok(())
    }

    fn counted(&self, flows: &[Flow]) -> Result<Counted> {
        let port = self.traffic.idle.local_addr()?.port();
        let flow = flows
            .iter()
            .find(|flow| flow.client_port == port)
            .context("the silent connection has no flow")?;
        Ok((flow.upload.bytes, flow.upload.packets, flow.download.bytes))
    }

    /// `detach` leaves nothing.
    fn gone(&mut self) -> Result<()> {
        let remaining = self.shaper.detach()?;
        if !remaining.is_empty() {
            bail!("left behind by detach: {remaining:?}");
        }
        let files = self.shaper.files("/run/shaper");
        ensure!(
            files
                .iter()
                .all(|file| !file.contains("clsact") && !file.contains("overrides")),
            "left behind: {files:?}"
        );
        Ok(())
    }

    /// What is pinned, in a few words.
    fn left(&self) -> String {
        let pins = self.shaper.pins();
        let (mut maps, mut next, mut other) = (0, 0, BTreeSet::new());
        for pin in &pins {
            let name = pin.file_name().unwrap_or_default().to_string_lossy();
            let moving = pin.parent().is_some_and(|parent| parent.ends_with("next"));
            match (moving, name.starts_with(char::is_uppercase)) {
                (true, true) => next += 1,
                (false, true) => maps += 1,
                (true, false) if name == "stage" => {
                    let stage = std::fs::read_link(pin).unwrap_or_default();
                    other.insert(format!("stage {}", stage.display()));
                }
                (true, false) => {}
                (false, false) => {
                    other.insert(name.replace("link_", "").replace("eth0_", ""));
                }
            }
        }
        let mut words = vec![format!("{maps} maps")];
        if next > 0 {
            words.push(format!("{next} new ones"));
        }
        words.extend(other);
        if pins.is_empty() {
            words = vec!["nothing".to_owned()];
        }
        words.join(", ")
    }
}

fn ensure_killed(status: std::process::ExitStatus, log: &std::path::Path) -> Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let text = || std::fs::read_to_string(log).unwrap_or_default();
    // `nsenter` is replaced by what it starts.
    ensure!(
        status.signal() == Some(Signal::SIGKILL as i32),
        "it was not killed, {status}: {}",
        text()
    );
    Ok(())
}

/// What a start says of a repair.
fn said(log: &str) -> String {
    let told = ["migration", "adopted", "moved", "updated", "starting over"];
    let lines: Vec<_> = log
        .lines()
        .filter(|line| told.iter().any(|word| line.contains(word)))
        .map(|line| {
            line.split_once("INFO ")
                .map_or(line, |(_, text)| text)
                .trim()
                .to_owned()
        })
        .collect();
    lines.join("; ")
}
