//! The interfaces of this network namespace, kept current by the events of
//! rtnetlink: they are listed once, and again only when events were lost.

use super::netlink::{self, Link};
use anyhow::{Context, Result};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// A datagram of events is never longer (`NLMSG_GOODSIZE` is a page).
const BUFFER: usize = 64 * 1024;
/// Most datagrams read at once; more wait for the next time.
const MOST: usize = 4096;
/// Groups of rtnetlink, `enum rtnetlink_groups` in `linux/rtnetlink.h`.
const GROUP_LINK: u32 = 1;
const GROUPS_ROUTE: [u32; 2] = [7, 11];
/// Message types, `RTM_*` in `linux/rtnetlink.h`: new and removed.
const LINKS: [u16; 2] = [16, 17];
const ROUTES: [u16; 2] = [24, 25];
/// Where `ifi_family` of a link and `rtm_dst_len` of a route are.
const FAMILY: usize = NETLINK_HEADER;
const PREFIX_LENGTH: usize = NETLINK_HEADER + 1;
const NETLINK_HEADER: usize = 16;

/// The interfaces, and the socket that tells of changes.
pub(super) struct Links {
    socket: Socket,
    table: Table,
    /// Whether the socket tells of routes, too.
    routes: bool,
    /// Whether events were lost since the last listing.
    lost: bool,
    /// Whether they were listed again since that was asked for.
    relisted: bool,
}

impl Links {
    /// Lists the interfaces, and listens from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self> {
        let listen = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            socket.add_membership(GROUP_LINK)?;
            Ok(socket)
        };
        Ok(Self {
            // Before the listing: what changes meanwhile is told as well.
            socket: listen().context("listening for interfaces that come and go")?,
            table: Table::of(netlink::links()?),
            routes: false,
            lost: false,
            relisted: false,
        })
    }

    /// A descriptor that is readable when there is something to read for
    /// [`Links::refresh`].
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn readiness(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Whether a change of the default route is news, too. A router may have a
    /// million other routes: they wake us, but are not looked at.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn follow_routes(&mut self, follow: bool) -> io::Result<()> {
        if follow != self.routes {
            for group in GROUPS_ROUTE {
                if follow {
                    self.socket.add_membership(group)?;
                } else {
                    self.socket.drop_membership(group)?;
                }
            }
            self.routes = follow;
        }
        Ok(())
    }

    /// Reads what has happened since the last time; whether that is news. Where
    /// nothing has it is one system call.
    ///
    /// # Errors
    /// When the kernel cannot be asked. What was known stays.
    pub fn refresh(&mut self) -> Result<bool> {
        let mut news = false;
        let mut buffer = Vec::with_capacity(BUFFER);
        for _ in 0..MOST {
            buffer.clear();
            match self.socket.recv_from(&mut buffer, libc::MSG_TRUNC) {
                // Of a process, not of the kernel.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((length, _)) if length > buffer.len() => self.lost = true,
                Ok(_) => match self.table.learn(&buffer) {
                    Ok(changed) => news |= changed,
                    Err(error) => {
                        tracing::debug!("an event of rtnetlink cannot be read: {error}");
                        self.lost = true;
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // More than the socket had room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.lost = true,
                Err(error) => return Err(error).context("reading events of interfaces"),
            }
        }
        if self.lost {
            tracing::info!("events of interfaces were lost: listing them again");
            self.table.links = Table::of(netlink::links()?).links;
            self.lost = false;
            self.relisted = true;
            news = true;
        }
        Ok(news)
    }

    /// What is there.
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// Indexes that an interface was removed from since this was last asked for,
    /// whether or not there is one again: an interface may go to another network
    /// namespace and come back, without its filters.
    pub fn take_removed(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.table.removed)
    }

    /// Whether events were lost since this was last asked for. Any interface may
    /// have gone and come back then.
    pub const fn take_relisted(&mut self) -> bool {
        std::mem::replace(&mut self.relisted, false)
    }
}

/// Interfaces by their index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    links: BTreeMap<u32, Link>,
    removed: BTreeSet<u32>,
}

impl Table {
    /// Of a listing.
    pub fn of(links: Vec<Link>) -> Self {
        Self {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            removed: BTreeSet::new(),
        }
    }

    /// All, by index: the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// One by its index, which it keeps when it is renamed.
    pub fn get(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// One by its name.
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.iter().find(|link| link.name == name)
    }

    /// Takes over one datagram of events; whether anything is other than before.
    ///
    /// # Errors
    /// When it cannot be read, or says that others were lost.
    fn learn(&mut self, datagram: &[u8]) -> io::Result<bool> {
        let mut news = false;
        for message in messages(datagram) {
            let kind = message.get(4..6).map(|k| u16::from_ne_bytes([k[0], k[1]]));
            if kind.is_some_and(|kind| ROUTES.contains(&kind)) {
                news |= message.get(PREFIX_LENGTH) == Some(&0);
                continue;
            }
            // Bridges tell of their ports by the messages of links: of a port that
            // leaves as of an interface that is removed.
            let family = message.get(FAMILY);
            if kind.is_some_and(|kind| LINKS.contains(&kind)) && family != Some(&0) {
                continue;
            }
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                .map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                    let link = netlink::link(&message)
                        .ok_or_else(|| io::Error::other("an interface without a name"))?;
                    news |= self.links.get(&link.index) != Some(&link);
                    self.links.insert(link.index, link);
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
                    let index = message.header.index;
                    if self.links.remove(&index).is_some() {
                        news = true;
                        self.removed.insert(index);
                    }
                }
                NetlinkPayload::Overrun(_) => return Err(io::Error::other("events were lost")),
                _ => {}
            }
        }
        Ok(news)
    }
}

/// The messages of a datagram, each with its header. One that says it is longer
/// than what there is comes as it is, and is an error where it is read.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = rest.first_chunk::<4>().map(|l| u32::from_ne_bytes(*l))?;
        let length = usize::try_from(length).ok()?.max(NETLINK_HEADER);
        let message = rest.get(..length).unwrap_or(rest);
        // Messages are padded to 4 bytes.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests;
