//! Established connections beside a flood: one that is limited, and light ones
//! that are asked for their echo.

use super::{Kind, answer};
use crate::lab::{Lab, LabSpec, PORT, PROXY_V4, SOURCE_PORT, client_v4};
use crate::shaper::Shaper;
use crate::traffic::Meter;
use crate::traffic::tcp::{Role, Server, Transfer, connect, info};
use anyhow::{Context, Result, ensure};
use shaper_user::model;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// What the limited client is held to, in bits per second.
pub const LIMIT: f64 = 8e6;
/// What it offers, in bytes per second: more than that.
const OFFERED: u32 = 2_000_000;
const LIGHT: u8 = 3;
const MESSAGE: usize = 100;
const EVERY: Duration = Duration::from_millis(20);
/// IPv4 and TCP with timestamps.
const HEADERS: u64 = 52;

/// The policy, without `xdp`.
const POLICY: &str = "[default]\nconnection_rate = \"50/s\"\nupload = { rate = \"8mbit\" }\n";

/// The connections, and the daemon where one runs.
pub struct Scene {
    /// The namespaces.
    pub lab: Lab,
    /// The daemon.
    pub shaper: Option<Shaper>,
    echo: Server,
    light: Vec<TcpStream>,
    bulk: Transfer,
    arrived: Arc<Meter>,
    _sink: Server,
}

/// What a flood did to the connections.
pub struct Outcome {
    /// Packets that arrived at the proxy, those of the connections too.
    pub arrived: u64,
    /// How long the flood took.
    pub took: Duration,
    /// The limited one's rate at the IP level, in bits per second.
    pub limited: f64,
    /// Times from message to echo, sorted.
    pub echoes: Vec<Duration>,
    /// Light connections whose counters differ from what their sockets counted,
    /// and how; empty when none does, or no daemon runs.
    pub wrong: Vec<String>,
}

/// One light connection at rest, by its sockets and by the daemon.
struct Count {
    ours: libc::tcp_info,
    theirs: libc::tcp_info,
    flow: model::Flow,
}

impl Scene {
    /// With a daemon whose `xdp` is as given, or without one.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn new(xdp: Option<&str>) -> Result<Self> {
        let lab = Lab::new(LabSpec {
            quiet: true,
            ..LabSpec::direct(false)
        })?;
        answer(&lab)?;
        let shaper = xdp
            .map(|xdp| Shaper::start(&lab, &format!("xdp = \"{xdp}\"\n{POLICY}"), &[]))
            .transpose()?;
        let sink = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
        let echo = Server::start(&lab.proxy, SOURCE_PORT, Role::Echo, "cubic")?;
        let open = |n, port| {
            let to = SocketAddr::new(PROXY_V4, port);
            connect(
                &lab.client,
                client_v4(n),
                to,
                "cubic",
                Duration::from_secs(5),
            )
        };
        let light = (1..=LIGHT)
            .map(|n| {
                let stream = open(n, SOURCE_PORT)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                Ok(stream)
            })
            .collect::<Result<Vec<_>>>()?;
        let stream = open(0, PORT)?;
        crate::traffic::tcp::set_max_pacing_rate(&stream, OFFERED)?;
        let arrived = sink.accepted(&stream)?;
        let bulk = Transfer::send(stream, None)?;
        // The burst is used up, and the daemon has seen everybody.
        sleep(Duration::from_secs(2));
        Ok(Self {
            lab,
            shaper,
            echo,
            light,
            bulk,
            arrived,
            _sink: sink,
        })
    }

    /// Sends the flood, and looks how the connections fare meanwhile.
    ///
    /// # Errors
    /// When a connection broke.
    pub fn flood(&self, kind: Kind, packets: u64, rate: u64) -> Result<Outcome> {
        let (interface, before) = (self.received()?, self.counts()?);
        let from = Instant::now();
        let over = AtomicBool::new(false);
        let (took, mut echoes) = scope(|scope| -> Result<_> {
            let light: Vec<_> = self
                .light
                .iter()
                .map(|stream| scope.spawn(|| echo(stream, &over)))
                .collect();
            let took = super::send(&self.lab, kind, packets, rate);
            over.store(true, Relaxed);
            let mut echoes = Vec::new();
            for thread in light {
                echoes.extend(
                    thread
                        .join()
                        .map_err(|_| anyhow::anyhow!("panic in an echo"))?
                        .context("a light connection broke")?,
                );
            }
            Ok((took?, echoes))
        })?;
        let limited = self.arrived.rate_bps(from, Instant::now()) * 1500.0 / 1448.0;
        let arrived = self.received()? - interface;
        ensure!(self.bulk.is_running(), "the limited connection broke");
        echoes.sort_unstable();
        // Delayed acknowledgements have gone.
        sleep(Duration::from_millis(300));
        let after = self.counts()?;
        let wrong = before
            .iter()
            .zip(&after)
            .filter_map(|(before, after)| difference(before, after))
            .collect();
        Ok(Outcome {
            arrived,
            took,
            limited,
            echoes,
            wrong,
        })
    }

    fn received(&self) -> Result<u64> {
        Ok(self.lab.proxy.counters(crate::lab::INTERFACE)?.rx_packets)
    }

    fn counts(&self) -> Result<Vec<Count>> {
        let Some(shaper) = &self.shaper else {
            return Ok(Vec::new());
        };
        let flows = shaper.fresh_flows()?.flows;
        self.light
            .iter()
            .map(|stream| {
                let local = stream.local_addr()?;
                let flow = flows
                    .iter()
                    .find(|flow| flow.client == local.ip() && flow.client_port == local.port());
                Ok(Count {
                    ours: self.echo.info(stream)?,
                    theirs: info(stream)?,
                    flow: flow.context("a light flow is gone")?.clone(),
                })
            })
            .collect()
    }
}

/// Asks until it is over; the times.
fn echo(mut stream: &TcpStream, over: &AtomicBool) -> Result<Vec<Duration>> {
    let message = [0x55; MESSAGE];
    let mut back = [0; MESSAGE];
    let mut times = Vec::new();
    while !over.load(Relaxed) {
        let asked = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut back)?;
        times.push(asked.elapsed());
        sleep(EVERY);
    }
    Ok(times)
}

/// How the daemon's counters differ from what the proxy's socket counted. What is
/// sent again the socket counts once: each time may make a whole packet's
/// difference.
fn difference(before: &Count, after: &Count) -> Option<String> {
    let again = |count: &Count| {
        u64::from(count.ours.tcpi_total_retrans) + u64::from(count.theirs.tcpi_total_retrans)
    };
    let spare = (again(after) - again(before)) * (HEADERS + 2 * MESSAGE as u64);
    let (a, b) = (&after.ours, &before.ours);
    let upload = a.tcpi_bytes_received - b.tcpi_bytes_received
        + HEADERS * u64::from(a.tcpi_segs_in - b.tcpi_segs_in);
    let download = a.tcpi_bytes_acked - b.tcpi_bytes_acked
        + HEADERS * u64::from(a.tcpi_segs_out - b.tcpi_segs_out);
    let (a, b) = (&after.flow, &before.flow);
    let counted = [
        a.upload.bytes - b.upload.bytes,
        a.download.bytes - b.download.bytes,
    ];
    let dropped = a.upload.dropped_packets + a.download.dropped_packets;
    let right = counted[0].abs_diff(upload) <= spare
        && counted[1].abs_diff(download) <= spare
        && dropped == 0;
    (!right).then(|| {
        format!(
            "counted {} and {} bytes, passed {upload} and {download}, dropped {dropped} packets, spare {spare}",
            counted[0], counted[1]
        )
    })
}
