//! What a walk needs: a path with traffic on it, and a host whose daemon dies.

use super::{Act, Walk};
use crate::tools::{Bulk, SECOND, Servers, open};
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use shaper_tests::killed::{self, KILL_AT, STEPS};
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4};
use shaper_tests::leftovers::Owned;
use shaper_tests::process::Background;
use shaper_tests::shaper::{Shaper, binary, row};
use shaper_tests::traffic::tcp;
use shaper_user::model::Flow;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

/// Of the policies, for each client's upload.
const LIMIT: f64 = 8e6;
/// What the upload does while nothing holds it, in bytes per second: far above
/// the limit, and little enough that the daemons don't wait for a CPU.
const OFFERED: u32 = 10_000_000;
const WAIT: Duration = Duration::from_secs(20);

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

pub(super) struct Bed {
    walk: &'static Walk,
    traffic: Traffic,
    servers: Servers,
    shaper: Shaper,
    lab: Lab,
    steps: PathBuf,
    /// Behind which step the daemon dies that runs now, once it is armed.
    dies_at: Option<usize>,
    /// Of the silent connection: nothing may change it.
    counted: Option<Counted>,
    /// What there is while a daemon runs that nothing was repaired by.
    whole: Option<Whole>,
}

/// What is left of the traffic's counters, exactly: of the silent connection.
type Counted = (u64, u64, u64);
/// Pins; and how many programs, maps and links.
type Whole = (BTreeSet<PathBuf>, [usize; 3]);

impl Bed {
    pub(super) fn new(walk: &'static Walk) -> Result<Self> {
        let lab = Lab::new(LabSpec::default())?;
        let servers = Servers::start(&lab, None)?;
        let shaper = Shaper::new(&lab)?;
        let bulk = Bulk::upload(&lab, &servers, client_v4(0))?;
        tcp::set_max_pacing_rate(bulk.transfer.stream(), OFFERED)?;
        let client = client_v4(1);
        let idle = open(&lab, client, PORT, 5 * SECOND)?;
        let kept = open(&lab, client, PORT, 5 * SECOND)?;
        let steps = lab.directory().join("steps");
        let bed = Self {
            walk,
            traffic: Traffic { bulk, idle, kept },
            servers,
            shaper,
            lab,
            steps,
            dies_at: None,
            counted: None,
            whole: None,
        };
        let mut rates = (0..20).map(|_| bed.rate());
        ensure!(
            rates.any(|rate| rate > 5.0 * LIMIT),
            "without a limit it is almost as slow as with one"
        );
        drop(rates);
        Ok(bed)
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

    /// They do no more; those that were passed, and what the process held.
    fn disarm(&self) -> Result<(Vec<String>, Owned)> {
        let passed = killed::read(&self.steps)?;
        std::fs::remove_file(&self.steps)?;
        Ok(passed)
    }

    /// Starts a daemon that repairs nothing, or the next one to die.
    fn run(&mut self, dies_at: Option<usize>) -> Result<()> {
        let command = match self.walk.act {
            Act::Reload(_) => self.killed_daemon(dies_at)?,
            _ => self.shaper.daemon(self.walk.arguments),
        };
        self.dies_at = dies_at;
        self.shaper.run_command(command)
    }

    /// What is there before: nothing, or a daemon that runs or has run.
    fn prepare(&mut self, at: Option<usize>, counts: bool) -> Result<()> {
        let Some(policy) = self.walk.before else {
            let nothing = self.shaper.pid().is_none() && self.shaper.pins().is_empty();
            return if nothing { Ok(()) } else { self.gone() };
        };
        let reloads = matches!(self.walk.act, Act::Reload(_));
        if reloads && self.dies_at != at && self.shaper.pid().is_some() {
            self.shaper.stop(Signal::SIGTERM)?;
        }
        if self.shaper.pid().is_some() {
            self.shaper.reload(policy)?;
        } else {
            self.shaper.write_policy(policy)?;
            self.run(at)?;
        }
        if self.whole.is_none() {
            self.whole = Some(self.there()?);
        }
        if counts && self.counted.is_none() && !matches!(self.walk.act, Act::Detach) {
            self.traffic.idle.write_all(&[1; 10_000])?;
            // To the last acknowledgement.
            sleep(Duration::from_millis(200));
            let counted = self.counted(&self.shaper.fresh_flows()?.flows)?;
            ensure!(counted.0 > 10_000, "{counted:?}");
            self.counted = Some(counted);
        }
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
        Ok(())
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
    pub(super) fn rehearse(&mut self) -> Result<Vec<String>> {
        self.prepare(None, false)?;
        self.act(None)?;
        let (names, _) = self.disarm()?;
        ensure!(!names.is_empty(), "no step was noted");
        if self.whole.is_none() {
            // A first start, that nothing was left from.
            self.whole = Some(self.there()?);
        }
        Ok(names)
    }

    /// What was prepared, killed behind a step, which must be one that it passed when
    /// it was not: pins go in the order of their directory, which is any.
    fn kill(&mut self, at: usize, names: &[String], counts: bool) -> Result<()> {
        self.prepare(Some(at), counts)?;
        self.act(Some(at))?;
        let (passed, held) = self.disarm()?;
        self.shaper.own(held);
        ensure!(
            passed.len() == at && passed.last().is_some_and(|last| names.contains(last)),
            "killed elsewhere: {passed:?}"
        );
        Ok(())
    }

    /// Kills it, looks at what is left, and starts a daemon.
    pub(super) fn kill_and_start(
        &mut self,
        at: usize,
        next: Option<usize>,
        names: &[String],
    ) -> Result<(String, String)> {
        self.kill(at, names, true)?;
        let left = self.left();
        self.meanwhile()?;
        let logged = self.shaper.log().len();
        self.run(next)?;
        let log = self.shaper.log();
        let repaired = said(log.get(logged..).unwrap_or(&log));
        self.ensure_right()?;
        Ok((left, repaired))
    }

    /// Kills it, and detaches.
    pub(super) fn kill_and_detach(&mut self, at: usize, names: &[String]) -> Result<()> {
        self.kill(at, names, false)?;
        self.gone()
    }

    /// After the last start that repaired: all is as it should be a second later,
    /// and `detach` takes everything away that any daemon had.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.shaper.fresh_flows()?;
        self.ensure_right()?;
        self.gone()
    }

    /// Nothing stands in the way of a new connection, though it may be limited;
    /// the one that was kept is closed, and the new one kept.
    fn meanwhile(&mut self) -> Result<()> {
        let client = client_v4(1);
        let mut new = open(&self.lab, client, PORT, 5 * SECOND)?;
        let arrived = self.servers.sink.accepted(&new)?;
        new.write_all(&[2; 10_000])?;
        for _ in 0..500 {
            if arrived.total() == 10_000 {
                break;
            }
            sleep(Duration::from_millis(10));
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

    /// Flows and clients are those that are open, each once, limits hold, what was
    /// counted before is counted still, and there is as much as a daemon has that
    /// had nothing to repair.
    fn ensure_right(&self) -> Result<()> {
        self.ensure_known()?;
        ensure!(self.limited(), "it is not limited");
        let status = self.shaper.status()?;
        ensure!(status.warnings.is_empty(), "{:?}", status.warnings);
        let whole = self.whole.as_ref().context("never whole")?;
        let mut there = self.there()?;
        // What the dead one had is freed a moment later.
        for _ in 0..50 {
            if there == *whole {
                break;
            }
            sleep(Duration::from_millis(50));
            there = self.there()?;
        }
        ensure!(there == *whole, "{whole:?} before, {there:?} after");
        Ok(())
    }

    fn ensure_known(&self) -> Result<()> {
        let (idle, kept) = (&self.traffic.idle, &self.traffic.kept);
        let mut open = vec![
            self.traffic.bulk.transfer.stream().local_addr()?.port(),
            idle.local_addr()?.port(),
            kept.local_addr()?.port(),
        ];
        open.sort_unstable();
        // One that closed while its socket told nobody goes with the next sample,
        // and is counted no more in the one behind it.
        let what = "flows and clients to be those that are open";
        let flows = self.shaper.wait_for(what, || {
            let flows = self.shaper.flows()?.flows;
            let mut found: Vec<u16> = flows.iter().map(|flow| flow.client_port).collect();
            found.sort_unstable();
            let clients = self.shaper.clients()?.clients;
            let counted =
                [(client_v4(0), 1), (client_v4(1), 2)]
                    .into_iter()
                    .all(|(client, connections)| {
                        row(&clients, client).is_some_and(|row| row.connections == connections)
                    });
            Ok((found == open && counted).then_some(flows))
        })?;
        if let Some(before) = self.counted {
            let after = self.counted(&flows)?;
            ensure!(after == before, "{before:?} before, {after:?} after");
        }
        Ok(())
    }

    /// Whether the upload is held. What it was offered while it was free still
    /// passes.
    fn limited(&self) -> bool {
        (0..15).any(|_| self.rate() < 2.0 * LIMIT)
    }

    fn rate(&self) -> f64 {
        self.traffic.bulk.rate_over(Duration::from_millis(300))
    }

    fn counted(&self, flows: &[Flow]) -> Result<Counted> {
        let port = self.traffic.idle.local_addr()?.port();
        let flow = flows
            .iter()
            .find(|flow| flow.client_port == port)
            .context("the silent connection has no flow")?;
        Ok((flow.upload.bytes, flow.upload.packets, flow.download.bytes))
    }

    /// What is pinned, and what the daemon that runs has in the kernel.
    fn there(&self) -> Result<Whole> {
        let owned = Owned::by(self.shaper.pid().context("no daemon")?)?;
        let numbers = [owned.programs.len(), owned.maps.len(), owned.links.len()];
        Ok((self.shaper.pins().into_iter().collect(), numbers))
    }

    /// `detach` leaves nothing.
    fn gone(&mut self) -> Result<()> {
        self.counted = None;
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
