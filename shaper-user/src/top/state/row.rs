//! Rows: what they are, and what they are sorted by.

use super::history::Rates;
use super::list::SORTS;
use crate::model::{Client, Flow, Server};
use crate::protocol::SortKey;
use ipnet::IpNet;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// How far a value may drift before the row is sorted anew.
pub struct Tolerance {
    part: f64,
    least: f64,
}

impl Tolerance {
    /// Whether a value has left what is held.
    pub fn left(&self, held: f64, value: f64) -> bool {
        let room = (held.abs().max(value.abs()) * self.part).max(self.least);
        (value - held).abs() > room
    }
}

/// Below one kbit/s all is silence.
pub const RATE: Tolerance = Tolerance {
    part: 0.1,
    least: 1_000.0,
};
/// Ages and times held.
pub const MILLISECONDS: Tolerance = Tolerance {
    part: 0.0,
    least: 2_000.0,
};

/// A row that can be told from the others.
pub trait Row {
    /// What it is, whatever its numbers.
    type Key: Clone + Ord + Hash;
    /// Its identity.
    fn key(&self) -> Self::Key;
    /// Upload and download rate.
    fn rates(&self) -> Rates;
    /// Its age in milliseconds.
    fn age_ms(&self) -> u64;
    /// What [`SortKey::Limited`] means here.
    fn limited(&self) -> u64;
    /// How far that may drift.
    const LIMITED: Tolerance;
    /// Characters of its first column.
    fn width(&self) -> usize;
    /// Its orders, as `s` goes through them.
    const SORTS: &'static [SortKey] = &SORTS;

    /// What an order is called here.
    fn order(sort: SortKey) -> &'static str {
        match sort {
            SortKey::Upload => "upload",
            SortKey::Download => "download",
            SortKey::Total => "up+down",
            SortKey::Client => "client",
            SortKey::Age => "age",
            SortKey::Limited => "limited",
        }
    }
}

/// A client's identity, in numeric order of addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    net: Option<IpNet>,
    /// As the daemon prints it.
    pub name: String,
}

impl ClientKey {
    /// The key of a client as it is printed.
    pub fn new(name: &str) -> Self {
        let net = name
            .parse()
            .ok()
            .or_else(|| name.parse::<IpAddr>().ok().map(IpNet::from));
        Self {
            net,
            name: name.to_owned(),
        }
    }

    /// Whether an address is of this client.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.net.is_some_and(|net| net.contains(&ip))
    }
}

/// A flow's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The remote end.
    pub client: SocketAddr,
    /// This host's end.
    pub local: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
}

/// A server's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey {
    /// HAProxy's backend.
    pub backend: String,
    /// HAProxy's server.
    pub server: String,
}

impl std::fmt::Display for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

impl Row for Client {
    type Key = ClientKey;
    const LIMITED: Tolerance = MILLISECONDS;

    fn key(&self) -> ClientKey {
        ClientKey::new(&self.client)
    }

    fn rates(&self) -> Rates {
        [self.upload.traffic.rate_bps, self.download.traffic.rate_bps]
    }

    fn age_ms(&self) -> u64 {
        self.age_ms
    }

    fn limited(&self) -> u64 {
        self.upload
            .limited_ms
            .saturating_add(self.download.limited_ms)
    }

    fn width(&self) -> usize {
        self.client.len()
    }
}

impl Row for Flow {
    type Key = FlowKey;
    const LIMITED: Tolerance = RATE;

    fn key(&self) -> FlowKey {
        FlowKey {
            client: SocketAddr::new(self.client, self.client_port),
            local: SocketAddr::new(self.local, self.local_port),
            protocol: self.protocol.clone(),
        }
    }

    fn rates(&self) -> Rates {
        [self.upload.rate_bps, self.download.rate_bps]
    }

    fn age_ms(&self) -> u64 {
        self.age_ms
    }

    fn limited(&self) -> u64 {
        self.upload
            .dropped_bytes
            .saturating_add(self.download.dropped_bytes)
    }

    fn width(&self) -> usize {
        // An upper bound; a port has at most five digits.
        match self.client {
            IpAddr::V4(_) => 21,
            IpAddr::V6(ip) => ip.to_string().len() + 8,
        }
    }
}

impl Row for Server {
    type Key = ServerKey;
    const LIMITED: Tolerance = RATE;
    /// Without the age, which a server has not.
    const SORTS: &'static [SortKey] = &[
        SortKey::Total,
        SortKey::Upload,
        SortKey::Download,
        SortKey::Limited,
        SortKey::Client,
    ];

    fn order(sort: SortKey) -> &'static str {
        match sort {
            SortKey::Client | SortKey::Age => "name",
            SortKey::Limited => "dropped",
            sort => Flow::order(sort),
        }
    }

    fn key(&self) -> ServerKey {
        ServerKey {
            backend: self.backend.clone(),
            server: self.server.clone(),
        }
    }

    fn rates(&self) -> Rates {
        [self.upload.rate_bps, self.download.rate_bps]
    }

    fn age_ms(&self) -> u64 {
        0
    }

    fn limited(&self) -> u64 {
        self.upload
            .dropped_bytes
            .saturating_add(self.download.dropped_bytes)
    }

    fn width(&self) -> usize {
        self.backend.chars().count() + 1 + self.server.chars().count()
    }
}
