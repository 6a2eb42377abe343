//! The compiled policy: classes, and the settings of a policy generation.

use crate::bucket::Limit;
use crate::key::{Addr, ClientKey, is_v4};

/// Classes of one policy generation. Two generations have room side by side:
/// see [`bank`].
pub const MAX_CLASSES: u32 = 4096;

/// The client is counted and never limited.
pub const CLASS_EXEMPT: u32 = 1 << 0;
/// Everything the client sends to a watched port is dropped.
pub const CLASS_BLOCK: u32 = 1 << 1;

/// The policy only observes: count, mark as limited, drop nothing.
pub const SETTING_OBSERVE: u32 = 1 << 0;

/// What a client of this class is held to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Client to this host, all flows of the client together.
    pub upload: Limit,
    /// This host to the client, all flows of the client together.
    pub download: Limit,
    /// Client to this host, each flow alone.
    pub flow_upload: Limit,
    /// This host to the client, each flow alone.
    pub flow_download: Limit,
    /// Client to this host, all clients of the rule together.
    pub group_upload: Limit,
    /// This host to the client, all clients of the rule together.
    pub group_download: Limit,
    /// New connections; one connection is the unit charged.
    pub connections: Limit,
    /// Open connections of the client above which its SYNs are dropped; zero:
    /// no bound.
    pub max_connections: u32,
    /// `CLASS_*` bits.
    pub flags: u32,
    /// Index of the group's bucket; of no meaning without a limit of the group.
    pub group: u32,
    /// Always zero.
    pub _pad: u32,
}

/// Settings of one policy generation, read by every packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Mask of the client prefix for IPv4-mapped addresses.
    pub mask_v4: Addr,
    /// Mask of the client prefix for IPv6 addresses.
    pub mask_v6: Addr,
    /// `SETTING_*` bits.
    pub flags: u32,
    /// Always zero.
    pub _pad: u32,
    /// Cookie of the daemon's network namespace: `sock_ops` sees the sockets of
    /// all of them.
    pub netns_cookie: u64,
}

impl Settings {
    /// The client that an address belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn client(&self, addr: &Addr) -> ClientKey {
        let mask = if is_v4(addr) {
            &self.mask_v4
        } else {
            &self.mask_v6
        };
        ClientKey {
            addr: [
                addr[0] & mask[0],
                addr[1] & mask[1],
                addr[2] & mask[2],
                addr[3] & mask[3],
            ],
        }
    }
}

/// The mask of a prefix of `bits` bits of an [`Addr`], in network byte order.
#[must_use]
pub const fn mask(bits: u32) -> Addr {
    let mut words = [0_u32; 4];
    let mut i = 0;
    while i < 4 {
        let before = i as u32 * 32;
        words[i] = if bits >= before + 32 {
            u32::MAX
        } else if bits > before {
            (u32::MAX << (32 - (bits - before))).to_be()
        } else {
            0
        };
        i += 1;
    }
    words
}

/// Which half of the double-buffered arrays a generation uses: 0 or 1.
#[inline(always)]
#[must_use]
pub const fn bank(generation: u32) -> u32 {
    generation & 1
}

/// Words of 64 ports each that one bank of the port bitmap takes.
pub const PORT_WORDS: u32 = 65_536 / 64;

/// Index and bit of a port in the port bitmap of a generation.
#[inline(always)]
#[must_use]
pub const fn port_bit(generation: u32, port: u16) -> (u32, u64) {
    (
        bank(generation) * PORT_WORDS + port as u32 / 64,
        1 << (port as u32 % 64),
    )
}

const _: () = assert!(size_of::<Class>() == 128);
const _: () = assert!(size_of::<Settings>() == 48);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::map_v4;

    #[test]
    fn masks_are_in_network_order() {
        assert_eq!(mask(0), [0; 4]);
        assert_eq!(mask(128), [u32::MAX; 4]);
        assert_eq!(mask(64), [u32::MAX, u32::MAX, 0, 0]);
        assert_eq!(mask(96 + 24)[3].to_ne_bytes(), [255, 255, 255, 0]);
        assert_eq!(mask(33)[1].to_ne_bytes(), [128, 0, 0, 0]);
    }

    #[test]
    fn a_client_is_cut_by_its_family() {
        let settings = Settings {
            mask_v4: mask(96 + 24),
            mask_v6: mask(64),
            ..Settings::default()
        };
        let v4 = map_v4(u32::from_ne_bytes([192, 0, 2, 77]));
        assert_eq!(
            settings.client(&v4).addr,
            map_v4(u32::from_ne_bytes([192, 0, 2, 0]))
        );
        assert_eq!(settings.client(&[1, 2, 3, 4]).addr, [1, 2, 0, 0]);
    }

    #[test]
    fn each_port_has_its_bit_in_each_bank() {
        assert_eq!(port_bit(0, 0), (0, 1));
        assert_eq!(port_bit(4, 443), (6, 1 << 59));
        assert_eq!(port_bit(1, 65_535), (2047, 1 << 63));
    }
}
