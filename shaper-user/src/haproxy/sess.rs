//! The short form of `show sess`.
//!
//! Its fields differ by version, and may change within one: what is not known is
//! passed over, and a line that lacks something is left out.

use std::net::{IpAddr, SocketAddr};

/// A line of the short form of `show sess`: a stream that a TCP client opened
/// and that is pinned to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream<'a> {
    /// HAProxy's id.
    pub id: u64,
    /// The client's end; IPv4 never as `::ffff:`.
    pub client: SocketAddr,
    /// `fe=`
    pub frontend: &'a str,
    /// `be=`
    pub backend: &'a str,
    /// `srv=`
    pub server: &'a str,
}

/// The streams in the short form of `show sess` that are pinned to a server.
/// A last line without its end may be cut anywhere, and is left out.
pub fn streams(answer: &str) -> impl Iterator<Item = Stream<'_>> {
    answer
        .split_inclusive('\n')
        .filter_map(|line| stream(line.strip_suffix('\n')?))
}

fn stream(line: &str) -> Option<Stream<'_>> {
    let (id, fields) = line.strip_prefix("0x")?.split_once(':')?;
    let id = u64::from_str_radix(id, 16).ok()?;
    let field = |name: &str| {
        fields
            .split_ascii_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    // QUIC runs over UDP, whose ports are others.
    field("proto").filter(|protocol| protocol.contains("tcp"))?;
    // `<NONE>` and `<none>`, where it is not known yet.
    let named = |name| field(name).filter(|name| !name.is_empty() && !name.starts_with('<'));
    Some(Stream {
        id,
        client: client(field("src")?)?,
        frontend: named("fe")?,
        backend: named("be")?,
        server: named("srv")?,
    })
}

/// `192.0.2.1:4000`, `2001:db8::1:4000`, `::ffff:192.0.2.1:4000`, but not
/// `unix:1`.
pub(super) fn client(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address: IpAddr = address.parse().ok()?;
    Some(SocketAddr::new(address.to_canonical(), port.parse().ok()?))
}

#[cfg(test)]
mod tests;
