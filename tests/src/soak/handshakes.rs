//! Handshakes that are never completed: from clients that take them back, and
//! from addresses that nobody has.

use super::roles;
use crate::lab::{Lab, PORT, PROXY_V4};
use anyhow::{Result, bail};
use etherparse::PacketBuilder;
use fastrand::Rng;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(400);
/// What they move is remembered in a small table and never anybody's: so many of
/// them fit there with room to spare, and can be counted at the end.
const MOST: u64 = 6_000;

/// Asks for connections that it does not want.
#[derive(Debug)]
pub(super) struct Handshakes {
    socket: Socket,
    clients: Vec<IpAddr>,
    ghosts: Vec<IpAddr>,
    next: Instant,
    /// Sent so far.
    pub(super) sent: u64,
}

impl Handshakes {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let socket = lab.client.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
            socket.set_header_included_v4(true)?;
            Ok(socket)
        })?;
        let mut clients = roles::churn();
        clients.retain(IpAddr::is_ipv4);
        Ok(Self {
            socket,
            clients,
            ghosts: roles::ghosts(),
            next: Instant::now(),
            sent: 0,
        })
    }

    /// Sends what is due.
    pub(super) fn tick(&mut self, rng: &mut Rng) -> Result<()> {
        if Instant::now() < self.next || self.sent >= MOST {
            return Ok(());
        }
        self.next = Instant::now() + EVERY;
        let of = if rng.u8(..3) == 0 {
            &self.ghosts
        } else {
            &self.clients
        };
        let (IpAddr::V4(from), IpAddr::V4(to)) = (of[rng.usize(..of.len())], PROXY_V4) else {
            bail!("only IPv4");
        };
        // Below the range that real connections use.
        let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64)
            .tcp(rng.u16(2_000..9_000), PORT, rng.u32(..), 64_240)
            .syn();
        let mut packet = Vec::with_capacity(40);
        builder.write(&mut packet, &[])?;
        let to = SockAddr::from(SocketAddr::new(PROXY_V4, PORT));
        self.socket.send_to(&packet, &to)?;
        self.sent += 1;
        Ok(())
    }
}
