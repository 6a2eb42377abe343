//! One cell: a lab of its own, a limiter, greedy connections, and what came of
//! them.

use super::limiter::Running;
use super::machine::Machine;
use super::matrix::{Cell, Conditions, Direction, PACKET, PAYLOAD};
use super::outcome::{Measured, Outcome, jain};
use crate::lab::{Lab, LabSpec, PORT, PROXY_V4, client_v4};
use crate::netns::Namespace;
use crate::relay::PathSpec;
use crate::traffic::tcp::{self, Transfer};
use anyhow::{Context, Result, ensure};
use shaper_common::key::TCP;
use socket2::Socket;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// To know the round trip by.
const HANDSHAKES: usize = 5;
/// Between two looks at what has arrived.
const STEP: Duration = Duration::from_millis(5);

/// Measures a cell, for at least so long.
///
/// # Errors
/// When it cannot be set up, or nothing arrives.
pub fn run(cell: Cell, least: Duration) -> Result<Outcome> {
    let conditions = cell.conditions;
    let machine = Machine::now()?;
    let lab = Lab::new(LabSpec {
        path: Some(PathSpec {
            one_way: conditions.rtt.0 / 2,
            ..PathSpec::default()
        }),
        clients: 1,
        ..LabSpec::default()
    })?;
    for namespace in [&lab.client, &lab.proxy] {
        buffers(namespace, &conditions)?;
    }
    let congestion = conditions.congestion.to_string();
    let listener = tcp::listen(&lab.proxy, PORT, &congestion)?;
    listener.set_read_timeout(Some(TIMEOUT))?;
    let round_trip = round_trip(&lab, &listener, &congestion)?;
    let limiter = Running::start(&lab, cell)?;

    let pairs = (0..conditions.flows)
        .map(|_| pair(&lab, &listener, &congestion))
        .collect::<Result<Vec<_>>>()?;
    let flows = Flows::start(&lab, conditions.direction, pairs)?;
    let seen = flows.observe(&conditions, least)?;

    // Asked before the connections end, so that their end is not counted.
    let drops = limiter.drops()?;
    let (mut retransmitted, mut segments, mut wasted) = (0, 0, 0);
    for sender in &flows.senders {
        let info = sender.info()?;
        retransmitted += u64::from(info.tcpi_total_retrans);
        let sent = u64::from(info.tcpi_data_segs_out);
        segments += sent;
        // What is selectively acknowledged is delivered and still in flight.
        let useful = info.tcpi_delivered + info.tcpi_unacked.saturating_sub(info.tcpi_sacked);
        wasted += sent.saturating_sub(u64::from(useful));
    }
    let lost = lab.relay()?.lost();
    let backlog = Machine::now()?.dropped_since(&machine);
    let bytes: f64 = seen.shares.iter().sum();
    let allowed = conditions.bytes_per_second() * PAYLOAD as f64 / PACKET as f64;
    Ok(Outcome {
        cell,
        measured: Some(Measured {
            rtt_measured_ms: round_trip.as_secs_f64() * 1e3,
            seconds: seen.time.as_secs_f64(),
            goodput_percent: 100.0 * bytes / (allowed * seen.time.as_secs_f64()),
            first_second_excess: seen.first_second,
            burst: conditions.burst(),
            window: conditions.window(),
            peak_excess: seen.peak,
            retransmitted,
            segments,
            wasted,
            drops,
            jain: jain(&seen.shares),
            cpu_percent: seen.cpu_percent,
        }),
        void: if lost > 0 {
            Some(format!("the path lost {lost} frames"))
        } else if backlog > 0 {
            Some(format!("the machine's backlog dropped {backlog} frames"))
        } else {
            None
        },
    })
}

/// Gives TCP's autotuning room for four times what the path holds at the rate,
/// where the namespace's own setting is smaller.
fn buffers(namespace: &Namespace, conditions: &Conditions) -> Result<()> {
    let room = (4.0 * conditions.window()) as u64 + (1 << 20);
    for key in ["ipv4/tcp_rmem", "ipv4/tcp_wmem"] {
        let text = namespace
            .enter(|| fs::read_to_string(format!("/proc/sys/net/{key}")).map_err(Into::into))?;
        let values: Vec<&str> = text.split_whitespace().collect();
        let [least, default, most] = values[..] else {
            anyhow::bail!("net/{key} is {text}");
        };
        if most.parse::<u64>()? < room {
            namespace.sysctl(key, &format!("{least} {default} {room}"))?;
        }
    }
    Ok(())
}

/// A connection: the client's end and the proxy's.
fn pair(lab: &Lab, listener: &Socket, congestion: &str) -> Result<(TcpStream, TcpStream)> {
    let to = SocketAddr::new(PROXY_V4, PORT);
    let client = tcp::connect(&lab.client, client_v4(0), to, congestion, TIMEOUT)?;
    let (server, _) = listener.accept().context("a connection was not accepted")?;
    Ok((client, server.into()))
}

/// What the idle path really takes: median of the handshakes' round trips.
fn round_trip(lab: &Lab, listener: &Socket, congestion: &str) -> Result<Duration> {
    // The first one pays for neighbour discovery.
    pair(lab, listener, congestion)?;
    let mut times = Vec::new();
    for _ in 0..HANDSHAKES {
        let (client, _) = pair(lab, listener, congestion)?;
        times.push(tcp::info(&client)?.tcpi_min_rtt);
    }
    times.sort_unstable();
    let median = times.get(HANDSHAKES / 2).context("no handshake")?;
    Ok(Duration::from_micros((*median).into()))
}

/// Greedy connections under way. Receivers come first, so that they end first:
/// what a sender has still buffered is then answered by a reset.
struct Flows<'a> {
    receivers: Vec<Transfer>,
    senders: Vec<Transfer>,
    direction: Direction,
    lab: &'a Lab,
    /// What the path had delivered to the client before.
    before: u64,
}

/// What arrived when.
struct Seen {
    /// Bytes of the first second less rate × 1 s, IP-level.
    first_second: f64,
    /// The most above rate × t, IP-level bytes.
    peak: f64,
    /// Payload bytes of each flow in the measured time.
    shares: Vec<f64>,
    /// The measured time.
    time: Duration,
    /// The machine's load in it.
    cpu_percent: f64,
}

impl<'a> Flows<'a> {
    /// Lets all of them send.
    fn start(
        lab: &'a Lab,
        direction: Direction,
        pairs: Vec<(TcpStream, TcpStream)>,
    ) -> Result<Self> {
        let before = to_client(lab)?;
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for (client, server) in pairs {
            let (sender, receiver) = match direction {
                Direction::Upload => (client, server),
                Direction::Download => (server, client),
            };
            receivers.push(Transfer::receive(receiver)?);
            senders.push(sender);
        }
        let senders = senders
            .into_iter()
            .map(|sender| Transfer::send(sender, None))
            .collect::<Result<_>>()?;
        Ok(Self {
            receivers,
            senders,
            direction,
            lab,
            before,
        })
    }

    /// Payload bytes that each flow has delivered.
    fn delivered(&self) -> Vec<u64> {
        let meters = self.receivers.iter().map(Transfer::meter);
        meters.map(|meter| meter.total()).collect()
    }

    /// Bytes that the limiter has let through, from the IP header on. For
    /// uploads what the proxy's TCP could deliver in order: the path is in
    /// front of the limiter there, so it can't tell.
    fn passed(&self) -> Result<f64> {
        Ok(match self.direction {
            Direction::Upload => {
                let payload: u64 = self.delivered().iter().sum();
                payload as f64 * PACKET as f64 / PAYLOAD as f64
            }
            Direction::Download => (to_client(self.lab)? - self.before) as f64,
        })
    }

    fn first_byte(&self) -> Result<Instant> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let meters = self.receivers.iter().map(Transfer::meter);
            if let Some(first) = meters.filter_map(|meter| meter.first()).min() {
                return Ok(first);
            }
            ensure!(Instant::now() < deadline, "nothing arrives");
            sleep(Duration::from_millis(1));
        }
    }

    /// Watches the transfers: first second, warm-up, measured time.
    fn observe(&self, conditions: &Conditions, least: Duration) -> Result<Seen> {
        let rate = conditions.bytes_per_second();
        let first = self.first_byte()?;
        let mut peak = 0.0_f64;
        let mut watch = |until: Instant| -> Result<f64> {
            loop {
                let now = Instant::now();
                let excess = self.passed()? - rate * (now - first).as_secs_f64();
                peak = peak.max(excess);
                if now >= until {
                    return Ok(excess);
                }
                sleep(STEP.min(until - now));
            }
        };
        let first_second = watch(first + SECOND)?;
        watch(first + conditions.warm_up())?;
        let (from, before, machine) = (Instant::now(), self.delivered(), Machine::now()?);
        watch(from + conditions.measured(least))?;
        let (to, after) = (Instant::now(), self.delivered());
        let cpu_percent = Machine::now()?.busy_since(&machine);
        Ok(Seen {
            first_second,
            peak,
            shares: before
                .iter()
                .zip(&after)
                .map(|(before, after)| (after - before) as f64)
                .collect(),
            time: to - from,
            cpu_percent,
        })
    }
}

/// What the path has delivered to the client, from the IP header on.
fn to_client(lab: &Lab) -> Result<u64> {
    Ok(lab.relay()?.down().of(client_v4(0), PORT, TCP).bytes)
}
