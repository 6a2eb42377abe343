//! TCP sockets through sock_diag: which are open, and closing them.

use super::netlink::request;
use crate::addr::{contains, prefix_to_kernel, to_kernel};
use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags, Timer};
use netlink_packet_sock_diag::message::SockDiagDestroy;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use shaper_common::key::{FlowKey, TCP};
use std::io;

/// An open connection to a watched port.
#[derive(Clone, Debug)]
pub struct OpenSocket {
    /// The flow it is.
    pub key: FlowKey,
    /// Scale of the window that it offers, where that was asked for and the
    /// kernel said.
    pub scale: Option<u8>,
    id: SocketId,
    family: u8,
}

/// States in which data may still come or go: all but LISTEN, SYN_SENT,
/// SYN_RECV, TIME_WAIT and CLOSE, which no flow is in. Of FIN_WAIT2 there are two
/// kinds: see [`dump`].
fn tracked_states() -> StateFlags {
    StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING
}

/// What to ask for of each socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its addresses.
    Addresses,
    /// Its window scale too.
    Scale,
}

/// Of `struct tcp_info` in `linux/tcp.h`: the options that the handshake agreed
/// on, and the scales of both sides.
const OPTIONS_AT: usize = 5;
const SCALES_AT: usize = 6;
/// `TCPI_OPT_WSCALE`.
const OPTION_SCALE: u8 = 4;

/// The scale of the window that the socket of a `tcp_info` offers; 0 where the
/// handshake agreed on none (RFC 7323, 2.2).
fn scale(info: &[u8]) -> Option<u8> {
    let (options, scales) = (*info.get(OPTIONS_AT)?, *info.get(SCALES_AT)?);
    // A pair of bit fields: which half comes first depends on the machine.
    let ours = if cfg!(target_endian = "little") {
        scales >> 4
    } else {
        scales & 0xf
    };
    Some(if options & OPTION_SCALE != 0 { ours } else { 0 })
}

fn dump(family: u8, states: StateFlags, ask: Ask) -> Result<Vec<(SocketId, u8, Option<u8>)>> {
    let mut found = Vec::new();
    request(
        NETLINK_SOCK_DIAG,
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: match ask {
                Ask::Addresses => ExtensionFlags::empty(),
                Ask::Scale => ExtensionFlags::INFO,
            },
            states,
            socket_id: if family == AF_INET {
                SocketId::new_v4()
            } else {
                SocketId::new_v6()
            },
        }),
        NLM_F_DUMP,
        |answer| {
            if let SockDiagMessage::InetResponse(response) = answer {
                let scale = response.nlas.iter().find_map(|nla| match nla {
                    Nla::TcpInfo(info) => scale(info),
                    _ => None,
                });
                let header = &response.header;
                // The program has closed it and the socket is gone: what stands for
                // it until the other side's FIN comes is no connection any more.
                if header.timer == Some(Timer::TimeWait) {
                    return;
                }
                found.push((header.socket_id.clone(), header.family, scale));
            }
        },
    )
    .context("listing TCP sockets (sock_diag; module inet_diag, tcp_diag)")?;
    Ok(found)
}

/// Every open connection whose local port is watched. One that this host opened
/// itself from that very port would be taken for a client's; watched ports lie
/// outside the ephemeral range where operators choose them well.
///
/// # Errors
/// When sock_diag is not there.
pub fn open(watched: impl Fn(u16) -> bool, ask: Ask) -> Result<Vec<OpenSocket>> {
    let mut sockets = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for (id, family, scale) in dump(family, tracked_states(), ask)? {
            if watched(id.source_port) {
                sockets.push(OpenSocket {
                    key: FlowKey {
                        client: to_kernel(id.destination_address),
                        local: to_kernel(id.source_address),
                        client_port: id.destination_port,
                        local_port: id.source_port,
                        protocol: TCP,
                        _pad: [0; 3],
                    },
                    scale,
                    id,
                    family,
                });
            }
        }
    }
    Ok(sockets)
}

/// Closes the open connections of a prefix, with a reset (`SOCK_DESTROY`);
/// returns how many.
///
/// # Errors
/// When sock_diag is not there or refuses (`CONFIG_INET_DIAG_DESTROY`).
pub fn destroy(prefix: IpNet, watched: impl Fn(u16) -> bool) -> Result<usize> {
    let (network, bits) = prefix_to_kernel(prefix);
    let mut closed = 0;
    for socket in open(watched, Ask::Addresses)? {
        if !contains(&network, bits, &socket.key.client) {
            continue;
        }
        let result = request(
            NETLINK_SOCK_DIAG,
            SockDiagDestroy::new(SockDiagMessage::InetRequest(InetRequest {
                family: socket.family,
                protocol: IPPROTO_TCP,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id: socket.id,
            })),
            NLM_F_ACK,
            |_: SockDiagMessage| {},
        );
        match result {
            Ok(()) => closed += 1,
            // It closed by itself meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).context(
                    "closing connections (SOCK_DESTROY): the kernel needs CONFIG_INET_DIAG_DESTROY=y; the block itself holds",
                );
            }
        }
    }
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_scale_is_this_sides_and_counts_only_if_agreed_on() {
        // Ours is 10, the other side's 7.
        assert_eq!(scale(&[1, 0, 0, 0, 0, 7, 0xa7, 0]), Some(10));
        assert_eq!(scale(&[1, 0, 0, 0, 0, 3, 0xa7, 0]), Some(0));
        assert_eq!(scale(&[1, 0, 0, 0, 0, 7]), None);
    }
}
