//! The soak: connections that come and go by the thousand, limits and policies
//! changed, the daemon killed and HAProxy reloaded, all by chance and for as long
//! as one likes; and what must be so throughout and at the end.
//!
//! | module | what it is |
//! | --- | --- |
//! | `churn`, `handshakes` | connections that come and go, and that never come about |
//! | `long` | connections that stay, heavy, light and silent |
//! | `chaos`, `policy`, `settings` | what happens, and what should hold after it |
//! | `census`, `lives`, `ledger` | flows, clients and bytes against the kernel's own |
//! | `gauge`, `vitals` | limits that hold, memory that does not grow |
//! | `checks`, `report` | what is said of all that |

mod census;
mod chaos;
mod checks;
mod churn;
mod end;
mod gauge;
mod handshakes;
mod ledger;
mod lives;
mod long;
mod policy;
mod report;
mod roles;
mod settings;
mod vitals;

use crate::haproxy::{Haproxy, Spec};
use crate::lab::{self, CLIENT_MAC, INTERFACE, Lab, LabSpec, PORT, PROXY_MAC, PROXY_V4, PROXY_V6};
use crate::leftovers;
use crate::shaper::Shaper;
use crate::traffic::udp::Receiver;
use crate::ws::Backend;
use anyhow::{Context, Result};
use chaos::Found;
use checks::{Check, Checks};
use churn::Churn;
use fastrand::Rng;
use gauge::{Gauge, Terms};
use handshakes::Handshakes;
use jiff::Timestamp;
use ledger::Ledger;
use lives::Lives;
use long::Long;
use policy::{EXTRA_PORT, Plan, SPARE};
use settings::Settings;
use shaper_user::control::client::Client;
use shaper_user::model::{Clients, Flows, Status};
use shaper_user::protocol::Query;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const POLL: Duration = Duration::from_secs(1);
const CENSUS: Duration = Duration::from_secs(8);
const PROGRESS: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(10);
/// The daemon is killed in the first part of the time only: after that one daemon
/// lives long enough to say that its memory is flat.
const KILLS: f64 = 0.45;
/// In ms, from one thing that happens to the next.
const PAUSE_MS: std::ops::Range<u64> = 200..2_200;
/// A visitor comes again after this.
const AWAY: Duration = Duration::from_secs(90);
/// From here on a check that never came about is a failure, in minutes.
const WHOLE: f64 = 5.0;
/// From payload to IP packets, full segments with timestamps.
const OVERHEAD: [f64; 2] = [1500.0 / 1448.0, 1500.0 / 1428.0];

/// How to run it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long connections come and go.
    pub minutes: f64,
    /// What happens, and in which order.
    pub seed: u64,
    /// Connections a second.
    pub rate: u32,
    /// Where the report goes, beside the output.
    pub report: Option<PathBuf>,
}

/// Runs it and prints the report; returns whether all checks held.
///
/// # Errors
/// When something could not be set up, or the lab itself broke.
pub fn run(options: &Options) -> Result<bool> {
    println!(
        "soak: {} minutes, seed {}, {} connections/s",
        options.minutes, options.seed, options.rate
    );
    // HAProxy inherits it, and this process has the other ends.
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let lab = lab()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (mut soak, ledger) = Soak::start(options, &lab, &runtime)
        .inspect_err(|_| eprintln!("{}", crate::shaper::last_log()))?;
    let ran = soak.run(&ledger);
    if ran.is_err() {
        eprintln!("the daemon's log ends:\n{}", tail(&soak.shaper.log()));
    }
    soak.checks.result(Check::Whole, ran);
    let mut report = soak.report();
    drop(soak);
    drop(runtime);
    drop(lab);
    let left = leftovers::namespaces();
    report
        .checks
        .that(Check::Detach, left.is_empty(), || left.join(", "));
    let text = report.to_string();
    print!("\n{text}");
    if let Some(path) = &options.report {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.checks.held())
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Commands that make the interface which carries nothing.
fn spare() -> String {
    format!("link add {SPARE} type veth peer name {SPARE}-peer\nlink set {SPARE} up")
}

/// Client and proxy joined directly. Neither asks for neighbours or routers, so
/// that the interface counts watched packets and nothing else; offloads are off,
/// so that it counts them one by one.
fn lab() -> Result<Lab> {
    let lab = Lab::new(LabSpec {
        clients: roles::ADDRESSES,
        backends: 2,
        ..LabSpec::direct(false)
    })?;
    for namespace in [&lab.client, &lab.proxy] {
        namespace.sysctl(&format!("ipv6/conf/{INTERFACE}/router_solicitations"), "0")?;
        namespace.sysctl(&format!("ipv6/conf/{INTERFACE}/accept_ra"), "0")?;
        namespace.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        // Less under way than the queue between the hook and the interface's
        // counter takes: what is lost there was counted by us only.
        namespace.sysctl("ipv4/tcp_rmem", "4096 65536 262144")?;
        namespace.sysctl("ipv4/ip_local_port_range", "10000 65000")?;
    }
    // Sockets that only wait for a FIN are in no table of ours.
    lab.proxy.sysctl("ipv4/tcp_fin_timeout", "3")?;
    // For what nobody answers.
    lab.proxy.sysctl("ipv4/tcp_synack_retries", "2")?;
    lab.proxy.ip(&spare())?;
    lab::know(&lab.client, &[PROXY_V4, PROXY_V6], PROXY_MAC)?;
    let mut clients = roles::ghosts();
    for n in 0..roles::ADDRESSES {
        clients.extend([lab::client_v4(n), lab::client_v6(n)]);
    }
    lab::know(&lab.proxy, &clients, CLIENT_MAC)?;
    Ok(lab)
}

struct Soak<'a> {
    options: &'a Options,
    lab: &'a Lab,
    runtime: &'a Runtime,
    // Traffic ends before what it goes through.
    churn: Churn,
    long: Long,
    handshakes: Handshakes,
    bursts: Vec<JoinHandle<Result<u64>>>,
    udp_sent: HashSet<IpAddr>,
    found: Found,
    _udp: [Receiver; 2],
    shaper: Shaper,
    haproxy: Haproxy,
    backends: Vec<Backend>,
    rng: Rng,
    sockets: Vec<PathBuf>,
    plan: Plan,
    /// The next thing happens soon.
    hurry: bool,
    settings: Settings,
    visited: HashMap<IpAddr, Instant>,
    checks: Checks,
    census: census::Census,
    lives: Lives,
    vitals: vitals::Vitals,
    gauges: [Gauge; 2],
    /// Programs, maps and links of the first daemon.
    objects: [usize; 3],
    map_memory: BTreeMap<String, u64>,
    /// The kernel's counters, as last seen.
    counters: BTreeMap<String, u64>,
    happened: BTreeMap<&'static str, u64>,
    warnings: BTreeMap<String, u64>,
    /// When a daemon that was ended comes again.
    down: Option<Instant>,
    up_since: Instant,
    began: Timestamp,
    most_flows: usize,
    /// Connections and time of the churn alone.
    churned: Option<(churn::Tally, Duration)>,
}

impl<'a> Soak<'a> {
    fn start(options: &'a Options, lab: &'a Lab, runtime: &'a Runtime) -> Result<(Self, Ledger)> {
        let began = Timestamp::now();
        let backends = lab
            .backends
            .iter()
            .map(|namespace| Backend::start(runtime.handle(), namespace))
            .collect::<Result<Vec<_>>>()?;
        let haproxy = Haproxy::start_with(
            lab,
            &Spec {
                master: true,
                threads: Some(2),
                frontend: vec![
                    format!("bind :::{EXTRA_PORT} v4v6"),
                    format!(
                        "http-request return status 200 content-type text/plain string {} \
                         if {{ path {} }}",
                        "x".repeat(900),
                        churn::PATH
                    ),
                ],
                ..Spec::default()
            },
        )?;
        let mut sockets = vec![haproxy.socket().to_owned()];
        sockets.extend(haproxy.master().map(ToOwned::to_owned));
        let udp = [PROXY_V4, PROXY_V6].map(|at| Receiver::start(&lab.proxy, at, PORT));
        let [udp4, udp6] = udp;
        let plan = Plan::base(&sockets);
        let mut shaper = Shaper::new(lab)?;
        std::fs::write(shaper.policy(), plan.text())?;
        shaper.run(&[])?;
        let pid = shaper.pid().context("no daemon")?;
        let mut vitals = vitals::Vitals::default();
        vitals.born(pid);
        let ledger = Ledger::open(lab, &shaper)?;
        let objects = vitals::objects(pid)?;
        let map_memory = vitals::map_memory(pid)?;
        let long = Long::start(runtime, lab)?;
        let mut soak = Self {
            options,
            lab,
            runtime,
            churn: Churn::start(lab, options.seed, options.rate)?,
            long,
            handshakes: Handshakes::new(lab)?,
            bursts: Vec::new(),
            udp_sent: HashSet::new(),
            found: Found::None,
            _udp: [udp4?, udp6?],
            shaper,
            haproxy,
            backends,
            rng: Rng::with_seed(options.seed),
            sockets,
            plan,
            hurry: false,
            settings: Settings::default(),
            visited: HashMap::new(),
            checks: Checks::new(options.minutes >= WHOLE),
            census: census::Census::default(),
            lives: Lives::default(),
            vitals,
            gauges: [
                Gauge::new(Check::LimitUp, OVERHEAD[0]),
                Gauge::new(Check::LimitDown, OVERHEAD[1]),
            ],
            objects,
            map_memory,
            counters: BTreeMap::new(),
            happened: BTreeMap::new(),
            warnings: BTreeMap::new(),
            down: None,
            up_since: Instant::now(),
            began,
            most_flows: 0,
            churned: None,
        };
        soak.gauges_hold();
        Ok((soak, ledger))
    }

    fn run(&mut self, ledger: &Ledger) -> Result<()> {
        let time = Duration::from_secs_f64(self.options.minutes * 60.0);
        let began = self.churn.began();
        let kills_until = time.mul_f64(KILLS);
        let (mut poll, mut census) = (began, began + CENSUS);
        let (mut progress, mut happens) = (began + PROGRESS, began + 2 * POLL);
        while began.elapsed() < time {
            let now = Instant::now();
            self.handshakes.tick(&mut self.rng)?;
            self.look_alive()?;
            if self.down.is_some_and(|until| now >= until) {
                self.restart()?;
            }
            if self.down.is_none() {
                self.tick_found(false)?;
            }
            if now >= poll {
                poll = now + POLL;
                self.poll();
            }
            if now >= census {
                census = now + CENSUS;
                self.take_census();
            }
            if now >= happens {
                self.hurry = false;
                self.act(began.elapsed() < kills_until)?;
                let pause = self.rng.u64(PAUSE_MS);
                happens = Instant::now() + Duration::from_millis(pause);
            }
            if self.hurry {
                // Back to a policy that limits.
                self.hurry = false;
                sleep(Duration::from_millis(1_500));
                let mut plan = self.plan.clone();
                plan.observe = false;
                self.apply(plan, false)?;
            }
            if now >= progress {
                progress = now + PROGRESS;
                self.progress();
            }
            sleep(Duration::from_millis(50));
        }
        self.end(ledger)
    }

    fn progress(&self) {
        let tally = self.churn.tally();
        let seconds = self.churn.began().elapsed().as_secs_f64();
        println!(
            "{seconds:6.0} s  {} connections ({:.0}/s), {} open, {} flows and {} clients known, \
             daemon {} {} kB, {} failures",
            tally.established,
            tally.established as f64 / seconds,
            self.churn.open(),
            self.counters.get("flows").copied().unwrap_or_default(),
            self.counters.get("clients").copied().unwrap_or_default(),
            self.vitals.lives(),
            self.vitals.rss_kb(),
            self.checks.failed()
        );
    }

    /// The daemon must not have ended by itself; if it has, a new one goes on.
    fn look_alive(&mut self) -> Result<()> {
        if self.down.is_some() {
            return Ok(());
        }
        let running = self.shaper.is_running();
        let shaper = &self.shaper;
        self.checks.that(Check::Alive, running, || {
            format!("it is gone; its log ends\n{}", tail(&shaper.log()))
        });
        if !running {
            self.shaper.wait_stopped()?;
            self.restart()?;
        }
        Ok(())
    }

    /// Flows, clients and status, as the daemon has them now.
    fn ask(&self) -> Result<(Flows, Clients, Status)> {
        let socket = self.shaper.socket();
        self.runtime.block_on(async {
            let work = async {
                let mut client = Client::connect(socket).await?;
                let flows = client.flows(Query::default()).await?;
                let clients = client.clients(Query::default()).await?;
                let status = client.status().await?;
                anyhow::Ok((flows, clients, status))
            };
            timeout(ANSWER, work).await.context("no answer in time")?
        })
    }

    /// Looks at everything that the daemon says.
    fn poll(&mut self) {
        self.gauges_tick();
        if self.down.is_some() {
            return;
        }
        self.vitals.sample();
        let asked = Instant::now();
        let (flows, clients, status) = match self.ask() {
            Ok(answers) => answers,
            Err(error) => return self.checks.result(Check::Answers, Err(error)),
        };
        self.checks.that(Check::Answers, true, String::new);
        self.most_flows = self.most_flows.max(flows.flows.len());
        let settled = self.up_since.elapsed() > Duration::from_secs(5);
        self.lives
            .see(&clients, settled, &self.udp_sent, &mut self.checks);
        self.long.see(&flows, &mut self.checks);
        let long = &self.long;
        let of = |client| long.is_one(client);
        census::sums(&flows, &clients, of, &mut self.checks);
        self.settings.compare(&clients, asked, &mut self.checks);
        self.see_counters(&status);
    }

    fn see_counters(&mut self, status: &Status) {
        for warning in &status.warnings {
            *self.warnings.entry(warning.clone()).or_default() += 1;
        }
        let full = status.warnings.iter().find(|w| w.contains("the table of"));
        self.checks.that(Check::Errors, full.is_none(), || {
            full.cloned().unwrap_or_default()
        });
        let failures = status.counters.get("sample_failures").copied();
        self.checks
            .that(Check::Errors, failures.unwrap_or_default() == 0, || {
                format!("samples failed: {:?}", status.warnings)
            });
        let fell: Vec<_> = shaper_common::stats::Stat::ALL
            .iter()
            .map(|stat| stat.name())
            .filter_map(|name| {
                let (before, now) = (self.counters.get(name)?, status.counters.get(name)?);
                (now < before).then(|| format!("{name}: {now} after {before}"))
            })
            .collect();
        self.checks
            .that(Check::Counters, fell.is_empty(), || fell.join(", "));
        self.counters.clone_from(&status.counters);
        self.counters.insert("flows".to_owned(), status.flows);
        self.counters.insert("clients".to_owned(), status.clients);
    }

    /// Flows and sockets, before and after the daemon's next sample.
    fn take_census(&mut self) {
        if self.down.is_some() {
            return;
        }
        let result = (|| -> Result<()> {
            let at = Timestamp::now();
            let before = self.sockets_now()?;
            let deadline = Instant::now() + ANSWER;
            let flows = loop {
                let (flows, _, _) = self.ask()?;
                if flows.at > at {
                    break flows;
                }
                anyhow::ensure!(Instant::now() < deadline, "no sample in time");
                sleep(Duration::from_millis(50));
            };
            let after = self.sockets_now()?;
            self.census
                .compare((at, &before), &flows, &after, &mut self.checks);
            Ok(())
        })();
        self.checks.result(Check::Answers, result);
    }

    fn gauges_change(&mut self) {
        let arrived = self.long.arrived(&self.backends);
        for (gauge, bytes) in self.gauges.iter_mut().zip(arrived) {
            gauge.change(bytes, &mut self.checks);
        }
    }

    fn gauges_tick(&mut self) {
        let arrived = self.long.arrived(&self.backends);
        for (gauge, bytes) in self.gauges.iter_mut().zip(arrived) {
            gauge.tick(bytes);
        }
    }

    fn gauges_hold(&mut self) {
        for (gauge, mbit) in self.gauges.iter_mut().zip(self.plan.heavy) {
            gauge.hold(Terms {
                limit: (!self.plan.observe).then(|| u64::from(mbit) * 1_000_000),
                daemon: self.down.is_none(),
            });
        }
    }

    /// Nobody knows what holds.
    fn gauges_free(&mut self) {
        for gauge in &mut self.gauges {
            gauge.hold(Terms {
                limit: None,
                daemon: false,
            });
        }
    }
}
