//! Addresses between the kernel's form (mapped, network order) and `std::net`.

use ipnet::IpNet;
use shaper_common::class::mask;
use shaper_common::key::{Addr, V4_MAPPED_BITS, is_v4};
use std::net::{IpAddr, Ipv6Addr};

/// The kernel's form of an address.
#[must_use]
pub fn to_kernel(ip: IpAddr) -> Addr {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    bytemuck::cast(v6.octets())
}

/// An address as people read it: IPv4 plain, never `::ffff:`.
#[must_use]
pub fn from_kernel(addr: &Addr) -> IpAddr {
    let octets: [u8; 16] = bytemuck::cast(*addr);
    Ipv6Addr::from(octets).to_canonical()
}

/// A prefix as the kernel's trie holds it: the network address and its length
/// in bits of an [`Addr`].
#[must_use]
pub fn prefix_to_kernel(net: IpNet) -> (Addr, u32) {
    let bits = u32::from(net.prefix_len())
        + match net {
            IpNet::V4(_) => V4_MAPPED_BITS,
            IpNet::V6(_) => 0,
        };
    (to_kernel(net.network()), bits)
}

/// The prefix that [`prefix_to_kernel`] made this of; `None` for lengths that
/// no prefix has.
#[must_use]
pub fn prefix_from_kernel(network: &Addr, bits: u32) -> Option<IpNet> {
    let ip = from_kernel(network);
    let bits = match ip {
        IpAddr::V4(_) => bits.checked_sub(V4_MAPPED_BITS)?,
        IpAddr::V6(_) => bits,
    };
    IpNet::new(ip, u8::try_from(bits).ok()?).ok()
}

/// A client as it is printed: plain where its prefix is a whole address, else
/// as a CIDR. `ipv4_prefix` and `ipv6_prefix` are the policy's; a client that an
/// earlier policy cut to a longer prefix is printed plain.
#[must_use]
pub fn client_name(addr: &Addr, ipv4_prefix: u8, ipv6_prefix: u8) -> String {
    let ip = from_kernel(addr);
    let bits = match ip {
        IpAddr::V4(_) => ipv4_prefix,
        IpAddr::V6(_) => ipv6_prefix,
    };
    match IpNet::new(ip, bits) {
        Ok(net) if net.prefix_len() < net.max_prefix_len() && net.network() == ip => {
            net.to_string()
        }
        _ => ip.to_string(),
    }
}

/// Whether `addr` lies within the prefix of `bits` bits at `network`.
#[must_use]
pub fn contains(network: &Addr, bits: u32, addr: &Addr) -> bool {
    let mask = mask(bits);
    (0..4).all(|i| addr[i] & mask[i] == network[i] & mask[i]) && is_v4(network) == is_v4(addr)
        || bits == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_there_and_back() {
        for text in ["192.0.2.1", "2001:db8::1", "::", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(from_kernel(&to_kernel(ip)), ip);
        }
        assert!(is_v4(&to_kernel("192.0.2.1".parse().unwrap())));
    }

    #[test]
    fn prefixes_are_counted_in_mapped_bits() {
        let (addr, bits) = prefix_to_kernel("192.0.2.77/24".parse().unwrap());
        assert_eq!(bits, 120);
        assert_eq!(from_kernel(&addr).to_string(), "192.0.2.0");
        for net in ["192.0.2.0/24", "2001:db8::/32", "::/0", "0.0.0.0/0"] {
            let net: IpNet = net.parse().unwrap();
            let (addr, bits) = prefix_to_kernel(net);
            assert_eq!(prefix_from_kernel(&addr, bits), Some(net));
        }
        assert!(contains(
            &addr,
            bits,
            &to_kernel("192.0.2.9".parse().unwrap())
        ));
        assert!(!contains(
            &addr,
            bits,
            &to_kernel("192.0.3.9".parse().unwrap())
        ));
    }

    #[test]
    fn only_aggregated_clients_are_printed_as_prefixes() {
        let v4 = to_kernel("192.0.2.1".parse().unwrap());
        let v6 = to_kernel("2001:db8:1:2::".parse().unwrap());
        assert_eq!(client_name(&v4, 32, 64), "192.0.2.1");
        let net = to_kernel("192.0.2.0".parse().unwrap());
        assert_eq!(client_name(&net, 24, 64), "192.0.2.0/24");
        assert_eq!(client_name(&v4, 24, 64), "192.0.2.1");
        assert_eq!(client_name(&v6, 32, 64), "2001:db8:1:2::/64");
        assert_eq!(client_name(&v6, 32, 128), "2001:db8:1:2::");
    }
}
