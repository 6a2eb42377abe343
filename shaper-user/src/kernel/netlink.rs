//! Netlink, blocking: one request, its answers. Links and the default route
//! (rtnetlink), sockets (sock_diag).

use anyhow::{Context, Result};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::tc::{TcHandle, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;

/// Sends one message and hands every answer to `each` until the kernel is done.
///
/// # Errors
/// What the kernel answers, or a message that cannot be read.
pub(super) fn request<S, D>(
    protocol: isize,
    message: S,
    flags: u16,
    mut each: impl FnMut(D),
) -> io::Result<()>
where
    S: NetlinkSerializable,
    D: NetlinkDeserializable,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    socket.send(&buffer, 0)?;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkMessage::<D>::deserialize(rest).map_err(io::Error::other)?;
            let len = answer.header.length as usize;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => each(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                _ => {}
            }
            // Messages are padded to 4 bytes.
            rest = rest
                .get(len.max(1).next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether frames start with an Ethernet header.
    pub ethernet: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Whether it is up, as the administrator wants it.
    pub up: bool,
}

/// What a message says of an interface; `None` when that has no name.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let veth = message.attributes.iter().any(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos
            .iter()
            .any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth))),
        _ => false,
    });
    Some(Link {
        index: message.header.index,
        name,
        ethernet: matches!(
            message.header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Loopback
        ),
        veth,
        up: message.header.flags.contains(LinkFlags::Up),
    })
}

/// Every interface of this network namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn links() -> Result<Vec<Link>> {
    let mut found = Vec::new();
    request(
        NETLINK_ROUTE,
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        NLM_F_DUMP,
        |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                found.extend(link(&message));
            }
        },
    )
    .context("listing network interfaces")?;
    Ok(found)
}

/// Index of the interface that the default route leaves by: IPv4's with the
/// lowest metric, else IPv6's.
///
/// # Errors
/// When the kernel refuses.
pub fn default_route() -> Result<Option<u32>> {
    // (IPv6, metric, interface): the smallest is the one.
    let mut routes: Vec<(bool, u32, u32)> = Vec::new();
    for v6 in [false, true] {
        let mut message = RouteMessage::default();
        message.header.address_family = if v6 {
            netlink_packet_route::AddressFamily::Inet6
        } else {
            netlink_packet_route::AddressFamily::Inet
        };
        request(
            NETLINK_ROUTE,
            RouteNetlinkMessage::GetRoute(message),
            NLM_F_DUMP,
            |answer| {
                if let RouteNetlinkMessage::NewRoute(route) = answer {
                    routes.extend(default_of(&route).map(|(metric, oif)| (v6, metric, oif)));
                }
            },
        )
        .context("listing routes")?;
    }
    routes.sort_unstable();
    Ok(routes.first().map(|(_, _, oif)| *oif))
}

/// Metric and interface of a default route of the main table.
fn default_of(route: &RouteMessage) -> Option<(u32, u32)> {
    const MAIN_TABLE: u8 = 254;
    if route.header.destination_prefix_length != 0 || route.header.table != MAIN_TABLE {
        return None;
    }
    let (mut metric, mut oif) = (0, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) if !ip.is_unspecified() => {
                return None;
            }
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => oif = Some(*index),
            _ => {}
        }
    }
    oif.map(|index| (metric, index))
}

/// Whether a clsact qdisc has filters, anybody's, in either direction.
///
/// # Errors
/// When the kernel refuses.
pub fn clsact_in_use(index: u32) -> io::Result<bool> {
    let mut used = false;
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let mut message = TcMessage::with_index(i32::try_from(index).map_err(io::Error::other)?);
        message.header.parent = TcHandle {
            major: 0xffff,
            minor,
        };
        request(
            NETLINK_ROUTE,
            RouteNetlinkMessage::GetTrafficFilter(message),
            NLM_F_DUMP,
            |answer| used |= matches!(answer, RouteNetlinkMessage::NewTrafficFilter(_)),
        )?;
    }
    Ok(used)
}

/// Whether an interface has a clsact qdisc, anybody's.
///
/// # Errors
/// When the kernel refuses.
pub fn has_clsact(index: u32) -> io::Result<bool> {
    let mut found = false;
    request(
        NETLINK_ROUTE,
        RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()),
        NLM_F_DUMP,
        |answer| {
            if let RouteNetlinkMessage::NewQueueDiscipline(message) = answer {
                found |= message.header.index == index.cast_signed()
                    && message.header.parent == TcHandle::CLSACT;
            }
        },
    )?;
    Ok(found)
}

/// Removes the clsact qdisc of an interface.
///
/// # Errors
/// When there is none, or the kernel refuses.
pub fn remove_clsact(index: u32) -> io::Result<()> {
    let mut message = TcMessage::with_index(i32::try_from(index).map_err(io::Error::other)?);
    message.header.handle = TcHandle {
        major: 0xffff,
        minor: 0,
    };
    message.header.parent = TcHandle::CLSACT;
    request(
        NETLINK_ROUTE,
        RouteNetlinkMessage::DelQueueDiscipline(message),
        NLM_F_ACK,
        |_: RouteNetlinkMessage| {},
    )
}
