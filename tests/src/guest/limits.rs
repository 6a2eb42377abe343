//! The daemon under real traffic: limits with backpressure and without, for
//! connections of before and of now, while it is dead, and the end.

use super::Report;
use crate::lab::{INTERFACE, Lab, LabSpec, PORT, PROXY_V4, SOURCE_PORT, client_v4};
use crate::netns::Namespace;
use crate::process;
use crate::shaper::Shaper;
use crate::traffic::Meter;
use crate::traffic::tcp::{Role, Server, Transfer, connect};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use shaper_user::model::{Client, Status};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const ROUND_TRIP: Duration = Duration::from_millis(20);
const POLICY: &str = "[default]\n\
    upload = { rate = \"8mbit\" }\n\
    download = { rate = \"8mbit\" }\n";
const LIMIT: f64 = 8e6;
/// On a veth, where native XDP would cost its segmentation.
const SHIELD: &str = "generic";
/// From TCP payload to IP packets: full IPv4 segments with timestamps.
const OVERHEAD: f64 = 1500.0 / 1448.0;
/// Of the limit, with backpressure. Wide: the machine's own clock is slow.
const HELD: RangeInclusive<f64> = 0.85..=1.1;
/// Of the limit, where drops alone hold it: never more, but TCP makes less of it.
const DROPPED: RangeInclusive<f64> = 0.1..=1.1;
/// A flow that nothing limits reaches so much of the limit on a machine that is
/// ten times slower than it seems.
const FREE: f64 = 1.5;
/// A processor that stands still for a while, as those of an emulated machine do
/// beside other work, makes a transfer slow, never fast: it is given so many
/// chances to be as fast as it should.
const CHANCES: usize = 6;
/// Segments sent again in some seconds: a processor that stands still for a
/// moment makes TCP take some for lost, whatever the limit does.
const SENT_AGAIN: u32 = 25;

/// All of it, in one lab.
pub fn run(report: &mut Report) {
    let Some(mut bed) = report.get("a_path_of_20_ms_with_fq", Bed::new) else {
        return;
    };
    report.fact("fq", "present");
    let before = report.get("nothing_limits_before", || bed.free());
    let Some(status) = report.get("the_daemon_starts", || bed.start()) else {
        println!("{}", bed.shaper.log());
        return;
    };
    facts(report, &status);
    if let Some(before) = before {
        report.check_at_length("connections_of_before_are_held", || {
            bed.of_before(&before, &status)
        });
    }
    for (key, way, check) in [
        ("upload", Way::Up, "an_upload_limit_loses_nothing"),
        ("download", Way::Down, "a_download_limit_loses_nothing"),
    ] {
        if let Some(reached) = report.get(check, || bed.limited(way)) {
            report.fact(key, reached);
        }
    }
    report.check_at_length("limits_hold_while_the_daemon_is_dead", || bed.killed());
    if report.check("the_shield_blocks", || bed.shield()) {
        report.fact("xdp", SHIELD);
    }
    let detached = report.check("detach_leaves_nothing", || {
        let remaining = bed.shaper.detach()?;
        ensure!(remaining.is_empty(), "left behind: {remaining:?}");
        Ok(())
    });
    report.fact(
        "detach",
        if detached {
            "nothing left"
        } else {
            "incomplete"
        },
    );
    report.check("nothing_limits_afterwards", || bed.free().map(drop));
    println!("{}", bed.shaper.log());
}

/// What this kernel does, by the daemon's own word.
fn facts(report: &Report, status: &Status) {
    let none = || "none".to_owned();
    if let Some(interface) = status.interfaces.first() {
        report.fact("ingress", interface.ingress.clone().unwrap_or_else(none));
        report.fact("egress", interface.egress.clone().unwrap_or_else(none));
    }
    let works = &status.backpressure;
    report.fact("backpressure.upload", works.upload);
    report.fact("backpressure.download", works.download);
    report.fact("window_updates", works.window_updates);
    if let Some(adopted) = works.adopted {
        report.fact("adopted.upload", adopted.upload);
        report.fact("adopted.download", adopted.download);
    }
    report.fact("reason", works.reason.clone().unwrap_or_else(none));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A transfer under way, measured where it arrives.
struct Bulk {
    transfer: Transfer,
    arrives: Option<Arc<Meter>>,
}

impl Bulk {
    /// The share of the limit that it reaches in some time from now.
    fn share(&self, time: Duration) -> f64 {
        let from = Instant::now();
        sleep(time);
        let meter = self.arrives.as_deref().unwrap_or(self.transfer.meter());
        meter.rate_bps(from, Instant::now()) * OVERHEAD / LIMIT
    }

    /// The same, where it is within a range in one of the next [`CHANCES`] and
    /// above in none before.
    fn share_within(&self, what: &str, time: Duration, range: &RangeInclusive<f64>) -> Result<f64> {
        let mut shares = Vec::new();
        for _ in 0..CHANCES {
            let share = self.share(time);
            if range.contains(&share) {
                return Ok(share);
            }
            shares.push(format!("{:.2}", share * LIMIT / 1e6));
            if share > *range.end() {
                break;
            }
        }
        bail!(
            "{what}: {} Mbit/s, which is not {range:?} of the limit",
            shares.join(", ")
        )
    }
}

struct Bed {
    // Goes before the namespaces that it is in.
    shaper: Shaper,
    sink: Server,
    source: Server,
    lab: Lab,
}

impl Bed {
    fn new() -> Result<Self> {
        let lab = Lab::new(LabSpec {
            clients: 6,
            ..LabSpec::direct(true)
        })?;
        qdisc(&lab.client, "netem delay 20ms limit 100000")?;
        qdisc(&lab.proxy, "fq")?;
        let mut show = lab.proxy.command("tc");
        show.args(["qdisc", "show", "dev", INTERFACE, "root"]);
        let there = process::output(show)?;
        let there = String::from_utf8_lossy(&there.stdout);
        ensure!(there.starts_with("qdisc fq "), "no fq but {there}");
        let bed = Self {
            shaper: Shaper::new(&lab)?,
            sink: Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?,
            source: Server::start(&lab.proxy, SOURCE_PORT, Role::Source(None), "cubic")?,
            lab,
        };
        bed.shaper.write_policy(POLICY)?;
        // The first one pays for neighbour discovery.
        bed.connect(0, PORT)?;
        let started = Instant::now();
        bed.connect(0, PORT)?;
        let took = started.elapsed();
        ensure!(took >= ROUND_TRIP, "a handshake took {took:?}");
        Ok(bed)
    }

    fn connect(&self, client: u8, port: u16) -> Result<TcpStream> {
        self.connect_within(client, port, 10 * SECOND)
    }

    fn connect_within(&self, client: u8, port: u16, timeout: Duration) -> Result<TcpStream> {
        let to = SocketAddr::new(PROXY_V4, port);
        connect(&self.lab.client, client_v4(client), to, "cubic", timeout)
    }

    fn bulk(&self, client: u8, way: Way) -> Result<Bulk> {
        Ok(match way {
            Way::Up => {
                let stream = self.connect(client, PORT)?;
                let arrives = Some(self.sink.accepted(&stream)?);
                Bulk {
                    transfer: Transfer::send(stream, None)?,
                    arrives,
                }
            }
            Way::Down => Bulk {
                transfer: Transfer::receive(self.connect(client, SOURCE_PORT)?)?,
                arrives: None,
            },
        })
    }

    /// Two transfers that nothing limits: up by client 0 and down by client 1.
    fn free(&self) -> Result<[Bulk; 2]> {
        let bulks = [self.bulk(0, Way::Up)?, self.bulk(1, Way::Down)?];
        sleep(SECOND);
        for bulk in &bulks {
            bulk.share_within("free", SECOND, &(FREE..=f64::INFINITY))?;
        }
        Ok(bulks)
    }

    fn start(&mut self) -> Result<Status> {
        self.shaper.run(&[])?;
        self.shaper.status()
    }

    fn row(&self, client: u8) -> Result<Client> {
        self.shaper.client(client_v4(client))
    }

    /// Each as `status` says that it is held.
    fn of_before(&self, [up, down]: &[Bulk; 2], status: &Status) -> Result<()> {
        let adopted = status.backpressure.adopted.context("nothing was adopted")?;
        let only = status.hard_limit_only;
        ensure!(
            (only.upload > 0, only.download > 0) == (!adopted.upload, !adopted.download),
            "{adopted:?}, but held by the hard limit alone are {only:?}"
        );
        // What was under way comes in first.
        sleep(3 * SECOND);
        for (what, bulk, paced) in [
            ("upload", up, adopted.upload),
            ("download", down, adopted.download),
        ] {
            let range = if paced { &HELD } else { &DROPPED };
            bulk.share_within(what, 4 * SECOND, range)?;
        }
        Ok(())
    }

    /// A transfer that opens under a limit. Returns what it reached, in words.
    fn limited(&self, way: Way) -> Result<String> {
        let client = match way {
            Way::Up => 2,
            Way::Down => 3,
        };
        let bulk = self.bulk(client, way)?;
        sleep(2 * SECOND);
        let share = bulk.share_within("held", 5 * SECOND, &HELD)?;
        let row = self.row(client)?;
        let (row, again) = match way {
            Way::Up => (row.upload, bulk.transfer.retransmits()?),
            Way::Down => {
                let info = self.source.info(bulk.transfer.stream())?;
                (row.download, info.tcpi_total_retrans)
            }
        };
        let reached = format!(
            "{:.2} Mbit/s, {} dropped, {again} sent again",
            share * LIMIT / 1e6,
            row.traffic.dropped_packets
        );
        ensure!(
            row.traffic.dropped_packets == 0 && again <= SENT_AGAIN,
            "{reached}"
        );
        Ok(reached)
    }

    fn killed(&mut self) -> Result<()> {
        let bulk = self.bulk(4, Way::Up)?;
        sleep(2 * SECOND);
        let before = self.row(4)?.upload.traffic.bytes;
        self.shaper.stop(Signal::SIGKILL)?;
        let dead = bulk.share_within("without a daemon", 4 * SECOND, &HELD);
        self.shaper.run(&[])?;
        let after = self.row(4)?.upload.traffic.bytes;
        dead?;
        // Four seconds at the limit are 4 MB.
        ensure!(
            after > before + 3_000_000,
            "{before} bytes before, {after} after the restart"
        );
        let share = bulk.share_within("after the restart", 3 * SECOND, &HELD);
        share.map(drop)
    }

    fn shield(&self) -> Result<()> {
        self.shaper
            .reload(&format!("xdp = \"{SHIELD}\"\n{POLICY}"))?;
        let status = self.shaper.status()?;
        let xdp = status.interfaces.first().and_then(|i| i.xdp.clone());
        ensure!(xdp.as_deref() == Some(SHIELD), "{:?}", status.interfaces);
        let client = client_v4(5).to_string();
        self.shaper.cli(&["block", &client])?.ok()?;
        ensure!(
            self.connect_within(5, PORT, 2 * SECOND).is_err(),
            "a blocked client has connected"
        );
        self.shaper.cli(&["unblock", &client])?.ok()?;
        self.connect(5, PORT).map(drop)
    }
}

/// Puts a queueing discipline at the root of the interface.
fn qdisc(namespace: &Namespace, what: &str) -> Result<()> {
    let mut command = namespace.command("tc");
    command
        .args(["qdisc", "replace", "dev", INTERFACE, "root"])
        .args(what.split(' '));
    process::output(command).map(drop)
}
