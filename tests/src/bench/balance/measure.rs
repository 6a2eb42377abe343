//! One order, once.

use super::Args;
use super::order::{Opening, Order, imbalance};
use crate::haproxy::{Haproxy, Installed, Spec};
use crate::lab::{Lab, LabSpec, PORT, client_v4, client_v6};
use crate::shaper::Shaper;
use crate::ws::{Named, Pinned};
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// Where our daemon answers agent checks.
const AGENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9777);
/// Between two messages of a light and of a heavy client.
const EVERY: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(100)];
/// From the last opening on, until all send.
const SETTLE: Duration = Duration::from_secs(1);
/// Until agents were asked, before the first client opens.
const AHEAD: Duration = Duration::from_secs(2);
/// Client addresses of each family: few, as the neighbour table is one for all
/// labs.
const CLIENTS: u8 = 6;

/// What came of it, server by server.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) bytes: Vec<u64>,
    pub(super) connections: Vec<u64>,
    /// Of those, heavy clients.
    pub(super) heavy: Vec<u64>,
    /// The weights in the end, as HAProxy says them.
    pub(super) weights: Vec<String>,
    /// Clients whose connection failed or ended: none may.
    pub(super) lost: u64,
}

impl Measured {
    pub(super) fn imbalance(&self) -> f64 {
        let bytes: Vec<f64> = self.bytes.iter().map(|bytes| *bytes as f64).collect();
        imbalance(&bytes)
    }
}

/// Whether it was heavy, and its server's name.
type Placed = Arc<Mutex<Vec<(bool, String)>>>;

pub(super) fn case(
    args: &Args,
    haproxy: &Installed,
    order: &Order,
    ours: bool,
) -> Result<Measured> {
    let lab = Lab::new(LabSpec {
        clients: CLIENTS,
        backends: 2,
        ..LabSpec::direct(true)
    })?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let spec = Spec {
        program: haproxy.program.clone(),
        threads: Some(1),
        agent: ours.then_some(AGENT),
        ..Spec::default()
    };
    let servers = Named::start_all(runtime.handle(), &lab, &spec)?;
    let haproxy = Haproxy::start_with(&lab, &spec)?;
    let _shaper = ours
        .then(|| Shaper::start(&lab, &policy(args, haproxy.socket()), &[]))
        .transpose()?;
    let ends: Vec<SocketAddr> = (0..order.openings.len())
        .map(|n| SocketAddr::new(address(n), 0))
        .collect();
    let sockets = Pinned::sockets(&runtime, &lab, &ends)?;
    let placed = Placed::default();
    let start = Instant::now() + AHEAD;
    let clients: Vec<_> = order
        .openings
        .iter()
        .zip(sockets)
        .map(|(opening, socket)| {
            let at = start + args.opening().mul_f64(opening.at);
            let rate = args.rates()[usize::from(opening.heavy)];
            runtime.spawn(client(*opening, socket, at, rate, placed.clone()))
        })
        .collect();
    let received = || -> Vec<u64> { servers.iter().map(|one| one.meter().total()).collect() };
    let bytes = runtime.block_on(async {
        sleep_until(start + args.opening() + SETTLE).await;
        let before = received();
        tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        let after = received();
        after.into_iter().zip(before).map(|(a, b)| a - b).collect()
    });
    let lost = clients.iter().filter(|client| client.is_finished()).count() as u64;
    let placed = placed.lock().unwrap_or_else(PoisonError::into_inner);
    let count = |which: &dyn Fn(bool) -> bool| -> Vec<u64> {
        let on = |name: &str| {
            placed
                .iter()
                .filter(|(h, s)| which(*h) && s == name)
                .count()
        };
        servers.iter().map(|one| on(&one.name) as u64).collect()
    };
    let measured = Measured {
        bytes,
        connections: count(&|_| true),
        heavy: count(&|heavy| heavy),
        weights: servers
            .iter()
            .map(|one| {
                let answer = haproxy.ask(&format!("get weight {}", one.name))?;
                let weight = answer.split_whitespace().next();
                Ok(weight.context("no weight")?.to_owned())
            })
            .collect::<Result<_>>()?,
        lost,
    };
    for client in clients {
        client.abort();
    }
    Ok(measured)
}

fn address(n: usize) -> IpAddr {
    let client = (n / 2 % usize::from(CLIENTS)) as u8;
    if n.is_multiple_of(2) {
        client_v4(client)
    } else {
        client_v6(client)
    }
}

fn policy(args: &Args, socket: &Path) -> String {
    format!(
        "[haproxy]\n\
         sockets = [{socket:?}]\n\
         poll = \"{}s\"\n\
         [haproxy.agent]\n\
         listen = \"{AGENT}\"\n",
        args.poll
    )
}

/// Opens at its moment, and uploads from then on; ends only when it breaks.
async fn client(
    opening: Opening,
    socket: TcpSocket,
    at: Instant,
    rate: f64,
    placed: Placed,
) -> Result<()> {
    sleep_until(at).await;
    let mut open = Pinned::open(socket, PORT).await?;
    placed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((opening.heavy, open.server.clone()));
    let every = EVERY[usize::from(opening.heavy)];
    let length = (rate / 8.0 * every.as_secs_f64()) as usize;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        open.send(length).await?;
    }
}
