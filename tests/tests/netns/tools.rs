//! What several tests do.

use anyhow::{Context, Result, ensure};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::xdp::XdpMode;
use aya::programs::{SchedClassifier, TcAttachType, Xdp};
use shaper_common::names;
use shaper_tests::lab::{Lab, PORT, PROXY_V4, PROXY_V6, SOURCE_PORT};
use shaper_tests::traffic::Meter;
use shaper_tests::traffic::tcp::{Role, Server, Transfer, connect};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const SECOND: Duration = Duration::from_secs(1);

/// The proxy's address of the client's family.
pub fn proxy_of(client: IpAddr) -> IpAddr {
    if client.is_ipv4() { PROXY_V4 } else { PROXY_V6 }
}

/// A sink and a source on the watched ports.
pub struct Servers {
    pub sink: Server,
    pub source: Server,
}

impl Servers {
    pub fn start(lab: &Lab, source_bytes: Option<u64>) -> Result<Self> {
        Ok(Self {
            sink: Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?,
            source: Server::start(&lab.proxy, SOURCE_PORT, Role::Source(source_bytes), "cubic")?,
        })
    }
}

pub fn open(lab: &Lab, client: IpAddr, port: u16, timeout: Duration) -> Result<TcpStream> {
    let to = SocketAddr::new(proxy_of(client), port);
    connect(&lab.client, client, to, "cubic", timeout)
}

/// A transfer under way, measured where it arrives.
pub struct Bulk {
    pub transfer: Transfer,
    arrived: Option<Arc<Meter>>,
    /// From TCP payload to IP packets, full segments with timestamps.
    overhead: f64,
}

impl Bulk {
    pub fn upload(lab: &Lab, servers: &Servers, client: IpAddr) -> Result<Self> {
        Self::upload_by(lab, servers, client, "cubic")
    }

    pub fn upload_by(
        lab: &Lab,
        servers: &Servers,
        client: IpAddr,
        congestion: &str,
    ) -> Result<Self> {
        Self::upload_to(lab, &servers.sink, client, PORT, congestion)
    }

    pub fn upload_to(
        lab: &Lab,
        sink: &Server,
        client: IpAddr,
        port: u16,
        congestion: &str,
    ) -> Result<Self> {
        let to = SocketAddr::new(proxy_of(client), port);
        let stream = connect(&lab.client, client, to, congestion, 5 * SECOND)?;
        let arrived = Some(sink.accepted(&stream)?);
        Ok(Self {
            transfer: Transfer::send(stream, None)?,
            arrived,
            overhead: overhead(client),
        })
    }

    pub fn download(lab: &Lab, client: IpAddr) -> Result<Self> {
        let stream = open(lab, client, SOURCE_PORT, 5 * SECOND)?;
        Ok(Self {
            transfer: Transfer::receive(stream)?,
            arrived: None,
            overhead: overhead(client),
        })
    }

    /// The IP-level rate between two moments, in bits per second.
    pub fn rate(&self, from: Instant, to: Instant) -> f64 {
        let meter = self.arrived.as_deref().unwrap_or(self.transfer.meter());
        meter.rate_bps(from, to) * self.overhead
    }

    /// Whether it gets far above any limit of these tests, in one of ten tries:
    /// a machine that is busy for a moment slows a free flow too.
    pub fn ensure_free(&self, what: &str) -> Result<()> {
        let mut result = Ok(());
        for _ in 0..10 {
            result = ensure_free(what, self.rate_over(SECOND));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The IP-level rate of the next while.
    pub fn rate_over(&self, time: Duration) -> f64 {
        let from = Instant::now();
        sleep(time);
        self.rate(from, Instant::now())
    }
}

fn overhead(client: IpAddr) -> f64 {
    if client.is_ipv4() {
        1500.0 / 1448.0
    } else {
        1500.0 / 1428.0
    }
}

/// A limited flow's rate: what the demo promises.
pub fn ensure_held(what: &str, rate: f64, limit: f64) -> Result<()> {
    between(what, rate, limit, 0.85, 1.02)
}

/// A rate as a share of its limit.
pub fn between(what: &str, rate: f64, limit: f64, least: f64, most: f64) -> Result<()> {
    let share = rate / limit;
    ensure!(
        (least..=most).contains(&share),
        "{what}: {:.2} Mbit/s is {:.1} % of the limit",
        rate / 1e6,
        share * 100.0
    );
    Ok(())
}

/// Far above any limit of these tests.
pub fn ensure_free(what: &str, rate: f64) -> Result<()> {
    ensure!(rate > 40e6, "{what}: only {:.2} Mbit/s", rate / 1e6);
    Ok(())
}

/// Programs that are not the daemon's.
pub struct Foreign(aya::Ebpf);

/// Loads them: any will do.
pub fn foreign_programs() -> Result<Foreign> {
    Ok(Foreign(aya::Ebpf::load(shaper_user::kernel::ebpf::OBJECT)?))
}

impl Foreign {
    /// A filter on the clsact qdisc, egress; it stays when this is dropped.
    pub fn filter(&mut self, interface: &str, priority: u16) -> Result<()> {
        let program = self.0.program_mut(names::CONTROL).context("control")?;
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        let options = TcAttachOptions::Netlink(NlOptions {
            priority,
            handle: TcHandle::new(0, 1),
            classid: None,
        });
        let id = program.attach_with_options(interface, TcAttachType::Egress, options)?;
        std::mem::forget(program.take_link(id)?);
        Ok(())
    }

    /// XDP, until this is dropped.
    pub fn shield(&mut self, interface: &str) -> Result<()> {
        let program = self.0.program_mut(names::SHIELD).context("shield")?;
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        program.attach(interface, XdpMode::Skb)?;
        Ok(())
    }
}
