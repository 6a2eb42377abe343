//! Limits by where HAProxy sends a connection.

use super::{Policy, Rate};
use crate::haproxy::weights::ServerName;
use ipnet::IpNet;
use shaper_common::flow::{DOWNLOAD, UPLOAD};

/// Limits of each client at a place: all its connections there together, at however
/// many servers, or each alone. They come on top of what the client is held to anyway, and the tighter
/// holds: a place can take, never give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRule {
    /// Its name, unique among all rules.
    pub name: String,
    /// Clients it is for; empty: all.
    pub clients: Vec<IpNet>,
    /// HAProxy's backends it is for.
    pub backends: Vec<String>,
    /// Single servers it is for.
    pub servers: Vec<ServerName>,
    /// By direction, what a client may send there with all its connections. What
    /// is not named is no limit: that of `[default]` holds anyway.
    pub client: [Option<Rate>; 2],
    /// By direction, what each connection alone may.
    pub flow: [Option<Rate>; 2],
}

/// What a server may get of all clients together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    /// HAProxy's backend and server.
    pub server: ServerName,
    /// By direction, of all clients together. Clients that are exempt are not
    /// held, but what they take is taken from it.
    pub cap: [Option<Rate>; 2],
    /// What one client may have of it.
    pub share: Option<Share>,
}

/// While a direction of a server carries more than `above`, no client may have
/// more than a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// In millionths, 1 to [`Share::WHOLE`].
    pub millionths: u32,
    /// Below it nobody is held.
    pub above: Rate,
}

impl Share {
    /// All of it.
    pub const WHOLE: u32 = 1_000_000;

    /// As a number up to 1.
    #[must_use]
    pub fn part(self) -> f64 {
        f64::from(self.millionths) / f64::from(Self::WHOLE)
    }
}

impl PlaceRule {
    /// How well it fits a client at a server; `None`: it is not for it. The
    /// highest of several rules holds, of equals the first.
    fn fit(&self, backend: &str, server: &str, client: IpNet) -> Option<(bool, u8)> {
        let named = |name: &ServerName| &*name.0 == backend && &*name.1 == server;
        let by_server = self.servers.iter().any(named);
        if !by_server && !self.backends.iter().any(|name| name == backend) {
            return None;
        }
        let length = if self.clients.is_empty() {
            0
        } else {
            let holding = self.clients.iter().filter(|net| net.contains(&client));
            // One more than its length: `0.0.0.0/0` is nearer than no prefix.
            holding.map(|net| net.prefix_len() + 1).max()?
        };
        Some((by_server, length))
    }
}

impl Policy {
    /// The place rule that a client falls under at a server: one that names the
    /// server before one that names its backend, then the longest prefix, then the
    /// first of the file.
    #[must_use]
    pub fn place_rule(&self, backend: &str, server: &str, client: IpNet) -> Option<&PlaceRule> {
        let mut best = None;
        for rule in &self.places {
            if let Some(fit) = rule.fit(backend, server, client)
                && best.is_none_or(|(other, _)| fit > other)
            {
                best = Some((fit, rule));
            }
        }
        best.map(|(_, rule)| rule)
    }

    /// The limit of a server.
    #[must_use]
    pub fn server_limit(&self, backend: &str, server: &str) -> Option<&ServerLimit> {
        self.server_limits
            .iter()
            .find(|limit| &*limit.server.0 == backend && &*limit.server.1 == server)
    }

    /// Whether connections at a server are limited because they are there.
    #[must_use]
    pub fn limits_place(&self, backend: &str, server: &str) -> bool {
        self.server_limit(backend, server).is_some()
            || self.places.iter().any(|rule| {
                rule.backends.iter().any(|name| name == backend)
                    || rule
                        .servers
                        .iter()
                        .any(|name| &*name.0 == backend && &*name.1 == server)
            })
    }
}

/// A value of each direction, by its index in the kernel's entries.
pub(super) fn by_direction<T: Default>(upload: T, download: T) -> [T; 2] {
    let mut values: [T; 2] = Default::default();
    values[UPLOAD as usize] = upload;
    values[DOWNLOAD as usize] = download;
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
[[rule]]
name = "backend"
backends = ["be_ws"]
upload = { rate = "1mbit" }
[[rule]]
name = "later"
backends = ["be_ws"]
[[rule]]
name = "net"
clients = ["192.0.2.0/24", "2001:db8::/32"]
backends = ["be_ws"]
[[rule]]
name = "all"
clients = ["0.0.0.0/0"]
backends = ["be_ws"]
[[rule]]
name = "server"
servers = ["be_ws/srv3", "be_api/srv1"]
"#;

    #[test]
    fn the_server_wins_then_the_longest_prefix_then_the_first() {
        let policy = Policy::parse("p", RULES).unwrap();
        assert_eq!((policy.places.len(), policy.rules.len()), (5, 0));
        for (place, client, rule) in [
            ("be_ws/srv1", "192.0.2.7/32", Some("net")),
            ("be_ws/srv1", "2001:db8:1:2::/64", Some("net")),
            ("be_ws/srv1", "198.51.100.1/32", Some("all")),
            ("be_ws/srv1", "2001:db9::/64", Some("backend")),
            ("be_ws/srv3", "192.0.2.7/32", Some("server")),
            ("be_api/srv1", "192.0.2.7/32", Some("server")),
            ("be_api/srv2", "192.0.2.7/32", None),
            ("be_wss/srv1", "192.0.2.7/32", None),
        ] {
            let (backend, server) = place.split_once('/').unwrap();
            let found = policy.place_rule(backend, server, client.parse().unwrap());
            assert_eq!(
                found.map(|rule| rule.name.as_str()),
                rule,
                "{place} {client}"
            );
            assert_eq!(policy.limits_place(backend, server), rule.is_some());
        }
    }
}
