//! A kernel that is none, for tests of everything above [`Kernel`].

use crate::addr::to_kernel;
use crate::haproxy::{Session, View};
use crate::kernel::{FlowLimit, Kernel, Sample};
use crate::model;
use crate::policy::{Compiled, Policy, RateLimit, RuntimeLimit};
use anyhow::{Result, anyhow};
use ipnet::IpNet;
use jiff::{Timestamp, ToSpan};
use shaper_common::flow::{Client, Flow};
use shaper_common::key::{Addr, ClientKey, FlowKey};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A time of the kernel's clock to start from, in ns.
pub const NOW: u64 = 1_000_000_000_000;

/// Seconds in ns.
#[must_use]
pub const fn secs(seconds: u64) -> u64 {
    seconds * 1_000_000_000
}

/// A wall-clock time, in seconds after a fixed one.
#[must_use]
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000)
        .and_then(|start| start.checked_add(seconds.seconds()))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An address in the kernel's form; 0.0.0.0 for what is none.
fn address(ip: &str) -> Addr {
    to_kernel(ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// A flow from `ip` to port 443, opened at [`NOW`], without traffic.
#[must_use]
pub fn flow(ip: &str, client_port: u16, protocol: u8) -> (FlowKey, Flow) {
    let key = FlowKey {
        client: address(ip),
        local: address("10.0.0.1"),
        client_port,
        local_port: 443,
        protocol,
        ..FlowKey::default()
    };
    let flow = Flow {
        created: NOW - secs(5),
        last_seen: NOW,
        ..Flow::default()
    };
    (key, flow)
}

/// A client without traffic, of class 0 and generation 1.
#[must_use]
pub fn client(ip: &str) -> (ClientKey, Client) {
    let client = Client {
        last_seen: NOW,
        generation: 1,
        ..Client::default()
    };
    (ClientKey { addr: address(ip) }, client)
}

/// A session of the backend `be_ws`.
#[must_use]
pub fn session(id: u64, server: &str) -> Session {
    Session {
        id,
        frontend: "fe_ws".into(),
        backend: "be_ws".into(),
        server: server.into(),
        worker_pid: 4242,
        socket: Path::new("/run/haproxy/admin.sock").into(),
        through_master: false,
        stale: false,
        answered: u64::MAX,
    }
}

/// A view of HAProxy with a session for each client's end and `backend/server`.
/// What is neither is left out.
#[must_use]
pub fn view(sessions: &[(&str, &str)]) -> Arc<View> {
    let session = |(id, (client, place)): (u64, &(&str, &str))| {
        let (backend, server) = place.split_once('/')?;
        let session = Session {
            backend: backend.into(),
            ..session(0x55df_672d_6cc0 + id, server)
        };
        Some((client.parse().ok()?, session))
    };
    Arc::new(View {
        sessions: (0..).zip(sessions).filter_map(session).collect(),
        ..View::default()
    })
}

/// A runtime limit of the upload, such as `8mbit`.
#[must_use]
pub fn limit(upload: &str, expires: Option<Timestamp>) -> RuntimeLimit {
    RuntimeLimit {
        upload: upload.parse().ok().map(RateLimit::of),
        download: None,
        expires,
    }
}

/// The policy of the contract's example.
pub const POLICY: &str = r#"
ports = [443]

[default]
upload = { rate = "8mbit" }
download = { rate = "32mbit" }

[[rule]]
name = "partners"
clients = ["203.0.113.0/24"]
upload = { rate = "50mbit" }

[[rule]]
name = "monitoring"
clients = ["192.0.2.10"]
exempt = true

[[rule]]
name = "abuser"
clients = ["198.51.100.7"]
block = true
"#;

/// [`POLICY`], compiled.
#[must_use]
#[allow(clippy::expect_used, reason = "a wrong constant here is a failed test")]
pub fn compiled() -> Compiled {
    Policy::parse("policy.toml", POLICY)
        .expect("a valid policy")
        .compile(&[])
        .expect("a small policy")
}

/// What a [`FakeKernel`] was told, and what it says.
#[derive(Debug, Default)]
pub struct FakeState {
    /// What the next sample has; `now` grows by a second with each.
    pub sample: Sample,
    /// Every policy applied.
    pub applied: Vec<Compiled>,
    /// Every client to forget.
    pub forgotten: Vec<ClientKey>,
    /// Every prefix whose connections were closed.
    pub disconnected: Vec<IpNet>,
    /// What single connections are held to.
    pub flow_limits: HashMap<FlowKey, [Option<RateLimit>; 2]>,
    /// When set, [`Kernel::apply`] fails so.
    pub refuse_apply: Option<String>,
    /// When set, [`Kernel::sample`] fails so.
    pub refuse_sample: Option<String>,
    /// When set, [`Kernel::limit_flows`] fails so.
    pub refuse_limits: Option<String>,
    /// What [`Kernel::counters`] says.
    pub counters: (u64, bool),
    /// What is wrong, for people.
    pub warnings: Vec<String>,
    /// How often [`Kernel::follow`] was called.
    pub followed: usize,
    /// What [`Kernel::changes`] becomes readable by, once that was called.
    pub changes: Option<UnixStream>,
}

/// A kernel of memory only. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    state: Arc<Mutex<FakeState>>,
}

impl FakeKernel {
    /// With these entries, at [`NOW`].
    #[must_use]
    pub fn new(flows: Vec<(FlowKey, Flow)>, clients: Vec<(ClientKey, Client)>) -> Self {
        let kernel = Self::default();
        kernel.state().sample = Sample {
            now: NOW,
            flows,
            clients,
            ..Sample::default()
        };
        kernel
    }

    /// What it was told and says.
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel for FakeKernel {
    fn sample(&mut self) -> Result<Sample> {
        let mut state = self.state();
        if let Some(reason) = &state.refuse_sample {
            return Err(anyhow!(reason.clone()));
        }
        let sample = state.sample.clone();
        state.sample.now += secs(1);
        state.sample.events.clear();
        Ok(sample)
    }

    fn apply(&mut self, compiled: &Compiled) -> Result<()> {
        let mut state = self.state();
        if let Some(reason) = &state.refuse_apply {
            return Err(anyhow!(reason.clone()));
        }
        state.applied.push(compiled.clone());
        Ok(())
    }

    fn generation(&self) -> u32 {
        u32::try_from(self.state().applied.len()).unwrap_or(u32::MAX)
    }

    fn counters(&self) -> (u64, bool) {
        self.state().counters
    }

    fn forget(&mut self, clients: &[ClientKey]) -> Result<()> {
        let mut state = self.state();
        state.forgotten.extend_from_slice(clients);
        state
            .sample
            .clients
            .retain(|(key, _)| !clients.contains(key));
        Ok(())
    }

    fn limit_flows(&mut self, limits: &[FlowLimit]) -> Result<()> {
        let mut state = self.state();
        if let Some(reason) = &state.refuse_limits {
            return Err(anyhow!(reason.clone()));
        }
        for limit in limits {
            state.flow_limits.insert(limit.key, limit.limits);
            let open = state.sample.flows.iter_mut();
            for (_, flow) in open.filter(|(key, _)| *key == limit.key) {
                flow.own = limit.limits.map(RateLimit::to_kernel);
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, prefix: IpNet) -> Result<usize> {
        let mut state = self.state();
        state.disconnected.push(prefix);
        let before = state.sample.flows.len();
        state
            .sample
            .flows
            .retain(|(key, _)| !prefix.contains(&crate::addr::from_kernel(&key.client)));
        Ok(before - state.sample.flows.len())
    }

    fn interfaces(&self) -> Vec<model::Interface> {
        vec![model::Interface {
            name: "eth0".to_owned(),
            state: "attached".to_owned(),
            ingress: Some("tcx".to_owned()),
            egress: Some("tcx".to_owned()),
            xdp: None,
        }]
    }

    fn backpressure(&self) -> model::Backpressure {
        model::Backpressure {
            upload: false,
            download: false,
            window_updates: false,
            adopted: None,
            reason: Some("not built into this version".to_owned()),
        }
    }

    fn changes(&self) -> Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.state().changes = Some(ours);
        Ok(theirs.into())
    }

    fn follow(&mut self) {
        self.state().followed += 1;
    }

    fn warnings(&self) -> Vec<String> {
        self.state().warnings.clone()
    }
}
