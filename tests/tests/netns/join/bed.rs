//! HAProxy with named servers, and what is to be true of its WebSockets.

use crate::tools::SECOND;
use anyhow::{Result, bail, ensure};
use shaper_tests::haproxy::{Haproxy, Installed, Spec};
use shaper_tests::lab::{Lab, LabSpec, PORT, client_v4, client_v6};
use shaper_tests::shaper::Shaper;
use shaper_tests::ws::{Named, Pinned};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// One poll, one sample of the daemon, and a moment of a busy machine.
const WITHIN: Duration = Duration::from_millis(2_500);
pub const POLL: &str = "poll = \"1s\"\n";

/// Dropped from the top: nobody may wait for what is gone.
pub struct Bed {
    pub haproxy: Haproxy,
    pub servers: Vec<Named>,
    pub runtime: Runtime,
    pub spec: Spec,
    pub lab: Lab,
}

impl Bed {
    /// Client and proxy joined directly, two namespaces of two servers each.
    pub fn start(program: &Installed, change: impl Fn(&mut Spec)) -> Result<Self> {
        Self::start_in(LabSpec::direct(false), program, change)
    }

    pub fn start_in(lab: LabSpec, program: &Installed, change: impl Fn(&mut Spec)) -> Result<Self> {
        let lab = Lab::new(LabSpec {
            clients: 25,
            backends: 2,
            ..lab
        })?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let mut spec = Spec {
            program: program.program.clone(),
            servers: 2,
            ..Spec::default()
        };
        change(&mut spec);
        let servers = Named::start_all(runtime.handle(), &lab, &spec)?;
        let haproxy = Haproxy::start_with(&lab, &spec)?;
        Ok(Self {
            haproxy,
            servers,
            runtime,
            spec,
            lab,
        })
    }

    /// Kills HAProxy, and starts it again with something changed once `down`
    /// is through.
    pub fn restart(
        &mut self,
        change: impl Fn(&mut Spec),
        down: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.haproxy.kill()?;
        down()?;
        change(&mut self.spec);
        self.servers.clear();
        self.servers = Named::start_all(self.runtime.handle(), &self.lab, &self.spec)?;
        self.haproxy = Haproxy::start_with(&self.lab, &self.spec)?;
        Ok(())
    }

    /// The table `[haproxy]` with these sockets, asked every second.
    pub fn policy(&self, sockets: &[&Path], rest: &str) -> String {
        format!("[haproxy]\nsockets = {sockets:?}\n{POLL}{rest}")
    }

    pub fn shaper(&self, sockets: &[&Path], rest: &str) -> Result<Shaper> {
        Shaper::start(&self.lab, &self.policy(sockets, rest), &[])
    }

    pub fn open(&self, clients: &[SocketAddr], port: u16) -> Result<Vec<Pinned>> {
        Pinned::open_all(&self.runtime, &self.lab, clients, port)
    }
}

/// `each` of both families for so many client addresses, any port.
pub fn both_families(addresses: u8, each: usize) -> Vec<SocketAddr> {
    (0..addresses)
        .flat_map(|n| [client_v4(n), client_v6(n)])
        .flat_map(|client| std::iter::repeat_n(SocketAddr::new(client, 0), each))
        .collect()
}

/// Asks until it is so.
pub fn wait(what: &str, most: Duration, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + most;
    while !ask()? {
        if Instant::now() > deadline {
            bail!("{what} did not come within {most:?}");
        }
        sleep(SECOND / 20);
    }
    Ok(())
}

/// Waits until all are joined, each to its server and its worker, and returns
/// how long that took. A wrong one is an error at once.
pub fn ensure_joined<'a>(
    shaper: &Shaper,
    open: impl Iterator<Item = (&'a Pinned, u32)>,
) -> Result<Duration> {
    ensure_joined_within(shaper, open, WITHIN)
}

pub fn ensure_joined_within<'a>(
    shaper: &Shaper,
    open: impl Iterator<Item = (&'a Pinned, u32)>,
    most: Duration,
) -> Result<Duration> {
    let began = Instant::now();
    let open: Vec<_> = open.collect();
    loop {
        let flows: HashMap<_, _> = shaper
            .flows()?
            .flows
            .into_iter()
            .map(|flow| ((flow.client, flow.client_port, flow.local_port), flow))
            .collect();
        let mut missing = 0;
        for (one, worker) in &open {
            let key = (one.client.ip(), one.client.port(), one.port);
            let Some(found) = flows.get(&key).and_then(|flow| flow.haproxy.as_ref()) else {
                missing += 1;
                continue;
            };
            let frontend = if one.port == PORT { "fe_ws" } else { "fe_feed" };
            let server = format!("{}/{}", found.backend, found.server);
            ensure!(
                server == one.server
                    && found.frontend == frontend
                    && found.worker_pid == *worker
                    && !found.stale,
                "wrongly joined: {found:?}, for {one:?} of worker {worker}"
            );
        }
        let time = began.elapsed();
        if missing == 0 {
            return Ok(time);
        }
        ensure!(
            time < most,
            "{missing} of {} are not joined after {time:?}; {:?}",
            open.len(),
            shaper.status()?.haproxy
        );
        sleep(SECOND / 20);
    }
}
