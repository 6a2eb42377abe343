//! The backend's link: what drowns.

use super::limiter::run_lines;
use crate::lab::{INTERFACE, Lab, backend_v4};
use crate::netns::{Namespace, next_number};
use anyhow::{Context, Result};

/// How long a packet may wait in front of the link.
pub(super) const QUEUE_MS: u32 = 50;
/// The router's address on both sides.
const ROUTER: &str = "10.78.1.3";

/// Puts the lab's backend behind a router whose link to it carries so many bits
/// per second, and returns the namespace where the server is then, at the
/// address that HAProxy knows.
///
/// The bottleneck is a hop away from the proxy's host: of a queue on its own
/// interfaces TCP would know, and keep it short. Towards the backend the proxy
/// uses cubic, as most hosts do, whatever this machine's default is.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn behind_router(lab: &Lab, rate: u64) -> Result<Namespace> {
    let server = Namespace::create(next_number(), "server")?;
    let router = lab.backends.first().context("no backend")?;
    let address = backend_v4(1);
    let burst = (rate / 8 / 1000).max(5_000);
    router.ip(&format!(
        "addr del {address}/24 dev {INTERFACE}\n\
         addr add {ROUTER}/24 dev {INTERFACE}\n\
         link add srv type veth peer name {INTERFACE} netns {}\n\
         link set srv up\n\
         route add {address}/32 dev srv",
        server.name()
    ))?;
    router.sysctl("ipv4/ip_forward", "1")?;
    server.ip(&format!(
        "addr add {address}/32 dev {INTERFACE}\n\
         link set {INTERFACE} up\n\
         route add default via {ROUTER} dev {INTERFACE} onlink"
    ))?;
    lab.proxy.ip(&format!(
        "route add {address}/32 via {ROUTER} dev be1 congctl cubic"
    ))?;
    let queue =
        format!("tc qdisc add dev srv root tbf rate {rate}bit burst {burst}b latency {QUEUE_MS}ms");
    run_lines(router, &[&queue])?;
    Ok(server)
}
