//! An address or prefix as the name of a client, in the policy and on the
//! command line.

use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv6Addr};

/// A text that names no client; says what is wrong and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Neither an address nor a prefix.
    #[error(
        "`{0}` is not a client; allowed: an address such as 192.0.2.10 or 2001:db8::1, \
         or a prefix such as 203.0.113.0/24"
    )]
    Syntax(String),
    /// The address of a prefix goes on where the prefix has ended.
    #[error(
        "`{text}` has bits set beyond its length; allowed: {net} for the whole prefix, or {address} for one client"
    )]
    HostBits {
        /// As it was written.
        text: String,
        /// The prefix it lies in.
        net: IpNet,
        /// The address in it.
        address: IpAddr,
    },
    /// A prefix longer than a client.
    #[error(
        "`{text}` is longer than a client, which is a /{prefix} here ({key}); allowed: a prefix of at most /{prefix}, or {key} = {len} in [client]"
    )]
    Long {
        /// As it was written.
        text: String,
        /// Its length.
        len: u8,
        /// The client prefix of its family.
        prefix: u8,
        /// The key that sets it.
        key: &'static str,
    },
}

/// The client prefixes: how many bits of an address name a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Of an IPv4 address, at most 32.
    pub ipv4: u8,
    /// Of an IPv6 address, at most 128.
    pub ipv6: u8,
}

impl Prefixes {
    const fn of(self, net: IpNet) -> (u8, &'static str) {
        match net {
            IpNet::V4(_) => (self.ipv4, "ipv4_prefix"),
            IpNet::V6(_) => (self.ipv6, "ipv6_prefix"),
        }
    }

    /// The prefix cut to its client prefix, where it is longer, and its host
    /// bits cleared.
    #[must_use]
    pub fn cut(self, net: IpNet) -> IpNet {
        let len = net.prefix_len().min(self.of(net).0);
        IpNet::new(net.addr(), len).map_or(net, |net| net.trunc())
    }
}

/// Reads a client. An address stands for its client and is cut to the client
/// prefix; a prefix must not be longer than that. IPv4-mapped IPv6 addresses
/// are taken as IPv4, as HAProxy logs them for dual-stack listeners.
///
/// # Errors
/// See [`ClientError`].
pub fn parse(text: &str, prefixes: Prefixes) -> Result<IpNet, ClientError> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(prefixes.cut(address.to_canonical().into()));
    }
    let net: IpNet = text
        .parse()
        .map_err(|_| ClientError::Syntax(text.to_owned()))?;
    let net = unmap(net);
    if net.addr() != net.network() {
        return Err(ClientError::HostBits {
            text: text.to_owned(),
            net: net.trunc(),
            address: net.addr(),
        });
    }
    let (prefix, key) = prefixes.of(net);
    if net.prefix_len() > prefix {
        return Err(ClientError::Long {
            text: text.to_owned(),
            len: net.prefix_len(),
            prefix,
            key,
        });
    }
    Ok(net)
}

/// A prefix of IPv4-mapped addresses as the IPv4 prefix that it maps.
fn unmap(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(len)) => Ipv4Net::new(v4, len).map_or(net, IpNet::V4),
        _ => net,
    }
}

/// The prefix of all IPv4-mapped addresses.
pub(super) const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

/// A client as people write it: plain where it is one address.
#[must_use]
pub fn display(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Prefixes = Prefixes { ipv4: 32, ipv6: 64 };
    const CUT: Prefixes = Prefixes { ipv4: 24, ipv6: 48 };

    #[test]
    fn an_address_is_cut_to_its_client() {
        for (text, prefixes, client) in [
            ("192.0.2.10", WHOLE, "192.0.2.10"),
            ("192.0.2.10", CUT, "192.0.2.0/24"),
            ("2001:db8::1", WHOLE, "2001:db8::/64"),
            ("2001:db8:1:2::1", CUT, "2001:db8:1::/48"),
            ("::ffff:192.0.2.10", WHOLE, "192.0.2.10"),
            (" 192.0.2.10 ", WHOLE, "192.0.2.10"),
        ] {
            assert_eq!(display(parse(text, prefixes).unwrap()), client, "{text}");
        }
    }

    #[test]
    fn a_prefix_stays_as_it_is_or_is_refused() {
        for text in ["0.0.0.0/0", "203.0.113.0/24", "2001:db8::/32", "::/0"] {
            assert_eq!(parse(text, WHOLE).unwrap().to_string(), text);
        }
        let mapped = parse("::ffff:192.0.2.0/120", WHOLE).unwrap();
        assert_eq!(mapped.to_string(), "192.0.2.0/24");
        assert!(matches!(
            parse("192.0.2.10/32", CUT),
            Err(ClientError::Long {
                len: 32,
                prefix: 24,
                key: "ipv4_prefix",
                ..
            })
        ));
        assert!(matches!(
            parse("2001:db8::1/128", WHOLE),
            Err(ClientError::Long {
                len: 128,
                prefix: 64,
                key: "ipv6_prefix",
                ..
            })
        ));
        assert!(matches!(
            parse("192.0.2.7/24", WHOLE),
            Err(ClientError::HostBits { .. })
        ));
    }

    #[test]
    fn what_names_no_client_is_refused() {
        for text in [
            "",
            "localhost",
            "192.0.2",
            "192.0.2.1/33",
            "::/129",
            "192.0.2.1/",
            "/24",
        ] {
            assert!(
                matches!(parse(text, WHOLE), Err(ClientError::Syntax(_))),
                "{text}"
            );
        }
    }
}
