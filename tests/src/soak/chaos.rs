//! What happens, by chance.

use super::checks::Check;
use super::policy::{self, EXTRA_PORT, Plan, SPARE};
use super::{Soak, census, roles, vitals};
use crate::lab::{PORT, PROXY_V4, PROXY_V6};
use crate::process::{self, Background};
use crate::traffic::{tcp, udp};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Until a change of policy by signal, or of interfaces, has had its effect.
const EFFECT: Duration = Duration::from_secs(6);

/// Connections to a port that is not always watched.
#[derive(Debug, Default)]
pub(super) enum Found {
    /// There are none.
    #[default]
    None,
    /// They are open, and the port is not watched until then.
    Unwatched(Vec<TcpStream>, Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Limit,
    Clear,
    Block,
    Unblock,
    Policy,
    PolicyBySignal,
    Invalid,
    InvalidBySignal,
    Nonsense,
    Second,
    Haproxy,
    Udp,
    Interface,
    Ports,
    Visit,
    Kill,
    Terminate,
    KillAtStart,
    KillInReload,
}

/// With their weight, and whether they end the daemon.
const ACTIONS: [(Action, &str, u32, bool); 19] = [
    (Action::Limit, "limit set", 22, false),
    (Action::Clear, "limit cleared", 8, false),
    (Action::Block, "client blocked", 6, false),
    (Action::Unblock, "client unblocked", 4, false),
    (Action::Policy, "policy changed, shaper reload", 9, false),
    (Action::PolicyBySignal, "policy changed, SIGHUP", 5, false),
    (Action::Invalid, "invalid policy, shaper reload", 4, false),
    (Action::InvalidBySignal, "invalid policy, SIGHUP", 2, false),
    (Action::Nonsense, "nonsense asked for", 3, false),
    (Action::Second, "second daemon started", 2, false),
    (Action::Haproxy, "HAProxy reloaded", 5, false),
    (Action::Udp, "burst of UDP", 7, false),
    (Action::Interface, "an interface removed or down", 4, false),
    (Action::Ports, "port watched no more, and again", 4, false),
    (Action::Visit, "visit of a client", 14, false),
    (Action::Kill, "daemon killed by SIGKILL", 9, true),
    (Action::Terminate, "daemon ended by SIGTERM", 4, true),
    (
        Action::KillAtStart,
        "daemon killed while it started",
        5,
        true,
    ),
    (Action::KillInReload, "daemon killed in a reload", 3, true),
];

impl Soak<'_> {
    /// Something happens.
    pub(super) fn act(&mut self, kills: bool) -> Result<()> {
        let running = self.down.is_none();
        let possible = |action: Action, ends: bool| match action {
            Action::Haproxy | Action::Udp | Action::Visit => true,
            _ => running && (kills || !ends),
        };
        let weights = ACTIONS
            .iter()
            .filter(|(action, _, _, ends)| possible(*action, *ends));
        let sum: u32 = weights.clone().map(|(_, _, weight, _)| weight).sum();
        let mut left = self.rng.u32(..sum);
        for (action, name, weight, _) in weights {
            if left < *weight {
                if self.perform(*action)? {
                    *self.happened.entry(name).or_default() += 1;
                }
                return Ok(());
            }
            left -= weight;
        }
        Ok(())
    }

    /// Each kind that was possible, whether or not it came about.
    pub(super) fn actions() -> impl Iterator<Item = &'static str> {
        ACTIONS.iter().map(|(_, name, _, _)| *name)
    }

    fn perform(&mut self, action: Action) -> Result<bool> {
        let client = {
            let clients = roles::churn();
            clients[self.rng.usize(..clients.len())]
        };
        match action {
            Action::Limit => {
                let command = self.settings.limit(&mut self.rng, client, Instant::now());
                self.command(&command);
            }
            Action::Clear => {
                let command = self.settings.clear(&mut self.rng, client);
                self.command(&command);
            }
            Action::Block => {
                let command = self.settings.block(&mut self.rng, client, Instant::now());
                self.command(&command);
            }
            Action::Unblock => {
                let command = self.settings.unblock(&mut self.rng, client);
                self.command(&command);
            }
            Action::Policy => self.random_policy(false)?,
            Action::PolicyBySignal => self.random_policy(true)?,
            Action::Invalid => self.invalid(false)?,
            Action::InvalidBySignal => self.invalid(true)?,
            Action::Nonsense => self.nonsense()?,
            Action::Second => self.second()?,
            Action::Haproxy => {
                let reloaded = self.haproxy.reload().map(drop);
                self.checks.result(Check::Reload, reloaded);
            }
            Action::Udp => self.udp(client)?,
            Action::Interface => self.interface()?,
            Action::Ports => return self.open_found(),
            Action::Visit => return Ok(self.visit()),
            Action::Kill => self.kill(Signal::SIGKILL)?,
            Action::Terminate => self.kill(Signal::SIGTERM)?,
            Action::KillAtStart => {
                self.kill(Signal::SIGKILL)?;
                self.kill_at_start()?;
            }
            Action::KillInReload => self.kill_in_reload()?,
        }
        Ok(true)
    }

    /// A command that must succeed.
    pub(super) fn command(&mut self, arguments: &[String]) {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let done = self.shaper.cli(&words).and_then(|answer| answer.ok());
        let done = done.map(drop).with_context(|| words.join(" "));
        self.checks.result(Check::Answers, done);
    }

    fn random_policy(&mut self, by_signal: bool) -> Result<()> {
        let mut plan = Plan::random(&mut self.rng, &self.sockets);
        plan.extra = matches!(self.found, Found::None);
        // Not for long: nothing is limited, and the machine is small.
        self.hurry = plan.observe;
        self.apply(plan, by_signal)
    }

    /// Puts a policy in force and sees that it is.
    pub(super) fn apply(&mut self, plan: Plan, by_signal: bool) -> Result<()> {
        self.gauges_change();
        std::fs::write(self.shaper.policy(), plan.text())?;
        self.plan = plan;
        let asked = if by_signal {
            self.shaper.signal(Signal::SIGHUP)
        } else {
            self.shaper.cli(&["reload"])?.ok().map(drop)
        };
        let wait = if by_signal { EFFECT } else { Duration::ZERO };
        let result = asked.and_then(|()| self.wait_in_force(wait));
        self.checks.result(Check::Policy, result);
        self.gauges_hold();
        Ok(())
    }

    fn wait_in_force(&self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            match self.in_force() {
                Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)),
                result => return result,
            }
        }
    }

    /// Whether the policy is the one that was last asked for, as far as can be
    /// seen.
    fn in_force(&self) -> Result<()> {
        let (_, clients, status) = self.ask()?;
        let plan = &self.plan;
        ensure!(status.mode == plan.mode(), "mode {}", status.mode);
        let mut ports = status.ports.clone();
        ports.sort_unstable();
        ensure!(ports == plan.ports(), "ports {ports:?}");
        for (client, direction) in [(roles::uploader(), 0), (roles::downloader(), 1)] {
            // Before its first connection it is not there.
            if let Some(row) = crate::shaper::row(&clients.clients, client) {
                let limits = [row.upload.limit_bps, row.download.limit_bps];
                let wanted = plan.heavy.map(|mbit| Some(u64::from(mbit) * 1_000_000));
                ensure!(
                    limits[direction] == wanted[direction],
                    "{client}: limits {limits:?}, not {wanted:?}"
                );
            }
        }
        Ok(())
    }

    /// A policy with a mistake changes nothing.
    fn invalid(&mut self, by_signal: bool) -> Result<()> {
        let valid = self.plan.text();
        let wrong = policy::invalid(&mut self.rng, &valid);
        std::fs::write(self.shaper.policy(), &wrong)?;
        let refusals = |log: &str| log.matches("not reloaded").count();
        let result = if by_signal {
            let before = refusals(&self.shaper.log());
            self.shaper.signal(Signal::SIGHUP)?;
            let deadline = Instant::now() + EFFECT;
            while refusals(&self.shaper.log()) == before && Instant::now() < deadline {
                sleep(Duration::from_millis(50));
            }
            if refusals(&self.shaper.log()) == before {
                Err(anyhow::anyhow!("SIGHUP with a mistake: nothing in the log"))
            } else {
                Ok(())
            }
        } else {
            let answer = self.shaper.cli(&["reload"])?;
            if answer.code == 1 && !answer.stderr.is_empty() {
                Ok(())
            } else {
                Err(anyhow::anyhow!(
                    "reload with a mistake: {answer:?}\n{wrong}"
                ))
            }
        };
        std::fs::write(self.shaper.policy(), valid)?;
        let result = result.and_then(|()| self.in_force());
        self.checks.result(Check::Refused, result);
        Ok(())
    }

    fn nonsense(&mut self) -> Result<()> {
        let commands: [&[&str]; 5] = [
            &["limit", "300.1.1.1", "--upload", "1mbit"],
            &["limit", "10.77.0.20", "--upload", "5mbps"],
            &["block", "0.0.0.0/99"],
            &["limit", "10.77.0.20"],
            &["kill", "10.77.0.20"],
        ];
        let command = commands[self.rng.usize(..commands.len())];
        let answer = self.shaper.cli(command)?;
        self.checks.that(
            Check::Refused,
            matches!(answer.code, 1 | 2) && !answer.stderr.is_empty(),
            || format!("{command:?}: {answer:?}"),
        );
        Ok(())
    }

    fn second(&mut self) -> Result<()> {
        let policy = self.shaper.policy().display().to_string();
        let answer = self.shaper.cli(&["run", "--policy", &policy])?;
        self.checks.that(
            Check::Second,
            answer.code == 1 && !answer.stderr.is_empty(),
            || format!("{answer:?}"),
        );
        Ok(())
    }

    fn udp(&mut self, client: IpAddr) -> Result<()> {
        let (client, proxy) = match client {
            IpAddr::V4(_) => (client, PROXY_V4),
            IpAddr::V6(_) => (client, PROXY_V6),
        };
        let rate = self.rng.u64(1..12) * 1_000_000;
        let time = Duration::from_millis(self.rng.u64(100..1_500));
        let payload = self.rng.usize(50..1_300);
        let socket = self
            .lab
            .client
            .enter(|| Ok(UdpSocket::bind((client, 0))?))?;
        self.udp_sent.insert(client);
        self.bursts.retain(|burst| !burst.is_finished());
        self.bursts.push(thread::spawn(move || {
            udp::blast_from(&socket, SocketAddr::new(proxy, PORT), payload, rate, time)
        }));
        Ok(())
    }

    /// Takes an interface down and up, or away and back.
    fn interface(&mut self) -> Result<()> {
        if self.rng.bool() {
            self.lab.proxy.ip(&format!("link set {SPARE} down"))?;
            sleep(Duration::from_millis(self.rng.u64(..300)));
            self.lab.proxy.ip(&format!("link set {SPARE} up"))?;
        } else {
            self.lab.proxy.ip(&format!("link del {SPARE}"))?;
            sleep(Duration::from_millis(self.rng.u64(..300)));
            self.lab.proxy.ip(&super::spare())?;
        }
        let deadline = Instant::now() + EFFECT;
        let attached = loop {
            let interfaces = self.shaper.status()?.interfaces;
            let row = interfaces.into_iter().find(|row| row.name == SPARE);
            let attached = row.as_ref().is_some_and(|row| {
                row.state == "attached" && row.ingress.is_some() && row.egress.is_some()
            });
            // A removed one is noticed a moment later: it must last.
            if attached && self.linked() {
                break Ok(());
            }
            if Instant::now() > deadline {
                break Err(anyhow::anyhow!("{SPARE}: {row:?}"));
            }
            sleep(Duration::from_millis(100));
        };
        self.checks.result(Check::Interface, attached);
        Ok(())
    }

    /// Whether the daemon has all the links that it had at first.
    fn linked(&self) -> bool {
        let pid = self.shaper.pid();
        pid.is_some_and(|pid| vitals::objects(pid).is_ok_and(|there| there == self.objects))
    }

    /// Opens connections to a port, which is then not watched for a while.
    fn open_found(&mut self) -> Result<bool> {
        if !matches!(self.found, Found::None) || self.plan.observe {
            return Ok(false);
        }
        let streams = roles::found()
            .into_iter()
            .map(|client| {
                let proxy = if client.is_ipv4() { PROXY_V4 } else { PROXY_V6 };
                let to = SocketAddr::new(proxy, EXTRA_PORT);
                tcp::connect(
                    &self.lab.client,
                    client,
                    to,
                    "cubic",
                    Duration::from_secs(5),
                )
            })
            .collect::<Result<Vec<_>>>()?;
        let until = Instant::now() + Duration::from_millis(self.rng.u64(2_000..8_000));
        self.found = Found::Unwatched(streams, until);
        let mut plan = self.plan.clone();
        plan.extra = false;
        self.apply(plan, false)?;
        let gone = self.wait_found(0, "watched no more");
        self.checks.result(Check::Ports, gone);
        Ok(true)
    }

    /// Watches the port again when it is time; or now.
    pub(super) fn tick_found(&mut self, now: bool) -> Result<()> {
        let Found::Unwatched(_, until) = &self.found else {
            return Ok(());
        };
        if !now && Instant::now() < *until {
            return Ok(());
        }
        let Found::Unwatched(streams, _) = std::mem::take(&mut self.found) else {
            return Ok(());
        };
        let mut plan = self.plan.clone();
        plan.extra = true;
        self.apply(plan, false)?;
        let found = self.wait_found(streams.len(), "watched again");
        self.checks.result(Check::Ports, found);
        drop(streams);
        let gone = self.wait_found(0, "closed");
        self.checks.result(Check::Ports, gone);
        Ok(())
    }

    fn wait_found(&self, count: usize, what: &str) -> Result<()> {
        let deadline = Instant::now() + EFFECT;
        loop {
            let (flows, _, _) = self.ask()?;
            let flows = flows.flows.iter();
            let there = flows.filter(|flow| flow.local_port == EXTRA_PORT).count();
            if there == count {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{what}: {there} flows, not {count}"
            );
            sleep(Duration::from_millis(200));
        }
    }

    /// Somebody who was away, or never here.
    fn visit(&mut self) -> bool {
        let away: Vec<IpAddr> = roles::visitors()
            .into_iter()
            .filter(|client| {
                // Their time comes when nothing is known of them any more.
                self.visited
                    .get(client)
                    .is_none_or(|visited| visited.elapsed() > super::AWAY)
            })
            .collect();
        let Some(client) = self.rng.choice(away) else {
            return false;
        };
        self.visited.insert(client, Instant::now());
        let connections = self.rng.u64(3..25);
        self.churn.visit(client, connections);
        true
    }

    /// Ends the daemon; it comes again some time later.
    fn kill(&mut self, signal: Signal) -> Result<()> {
        self.gauges_change();
        let status = self.shaper.stop(signal)?;
        if signal == Signal::SIGTERM {
            self.checks
                .that(Check::Exit, status.code() == Some(0), || status.to_string());
        } else {
            let by = status.signal();
            self.checks
                .that(Check::Alive, by == Some(signal as i32), || {
                    status.to_string()
                });
        }
        let pause = Duration::from_millis(self.rng.u64(..5_000));
        self.down = Some(Instant::now() + pause);
        self.gauges_hold();
        Ok(())
    }

    /// One more, that does not get far.
    fn kill_at_start(&mut self) -> Result<()> {
        let mut command = self.shaper.shaper(&["run", "--policy"]);
        command.arg(self.shaper.policy());
        let log = self.lab.directory().join("killed.log");
        let mut daemon = Background::start("shaper run", command, &log)?;
        sleep(Duration::from_micros(self.rng.u64(..250_000)));
        daemon.signal(Signal::SIGKILL)?;
        daemon.wait(Duration::from_secs(10)).map(drop)
    }

    /// The policy of the file is in force after the restart, whichever was
    /// before.
    fn kill_in_reload(&mut self) -> Result<()> {
        let mut plan = Plan::random(&mut self.rng, &self.sockets);
        (plan.extra, plan.observe) = (self.plan.extra, false);
        self.gauges_change();
        std::fs::write(self.shaper.policy(), plan.text())?;
        self.plan = plan;
        let mut reload = self.shaper.shaper(&["reload"]);
        reload.stdout(Stdio::null()).stderr(Stdio::null());
        let mut reload = process::spawn(reload)?;
        sleep(Duration::from_micros(self.rng.u64(..40_000)));
        self.kill(Signal::SIGKILL)?;
        // Nobody knows by which of the two the heavy clients are held.
        self.gauges_free();
        reload.wait()?;
        Ok(())
    }

    /// Starts the daemon again, and looks whether all is there.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.gauges_change();
        let started = self.shaper.run(&[]);
        let failed = started.is_err();
        self.checks.result(Check::Starts, started);
        ensure!(!failed, "the daemon does not start");
        self.down = None;
        self.up_since = Instant::now();
        let pid = self.shaper.pid().context("no daemon")?;
        self.vitals.born(pid);
        let in_force = self.in_force();
        self.checks.result(Check::Policy, in_force);
        let objects = vitals::wait_objects(pid, self.objects);
        self.checks.result(Check::Objects, objects);
        self.gauges_hold();
        Ok(())
    }

    /// The open connections to the ports that are watched now.
    pub(super) fn sockets_now(&self) -> Result<HashSet<census::Connection>> {
        census::open(self.lab, &self.plan.ports())
    }
}
