//! Addresses and the keys of the maps.

/// An address in network byte order; IPv4 as an IPv4-mapped IPv6 address
/// (RFC 4291, 2.5.5.2), so that there is one key type for both.
pub type Addr = [u32; 4];

/// TCP (IANA protocol numbers).
pub const TCP: u8 = 6;
/// UDP (IANA protocol numbers).
pub const UDP: u8 = 17;

/// Bits of an [`Addr`] in front of the IPv4 address it maps.
pub const V4_MAPPED_BITS: u32 = 96;

/// The third word of every IPv4-mapped address.
pub const V4_MAPPED_WORD: u32 = 0x0000_ffff_u32.to_be();

/// Maps an IPv4 address, given in network byte order.
#[inline(always)]
#[must_use]
pub const fn map_v4(addr: u32) -> Addr {
    [0, 0, V4_MAPPED_WORD, addr]
}

/// Whether the address is an IPv4-mapped one.
#[inline(always)]
#[must_use]
pub const fn is_v4(addr: &Addr) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == V4_MAPPED_WORD
}

/// A client: the source address, cut to the client prefix of its family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    /// The address; bits beyond the client prefix are zero.
    pub addr: Addr,
}

/// A flow: one connection, named from this host's point of view.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The remote host's whole address.
    pub client: Addr,
    /// This host's address.
    pub local: Addr,
    /// The remote host's port, in host byte order.
    pub client_port: u16,
    /// The watched port, in host byte order.
    pub local_port: u16,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Always zero: the kernel compares every byte of a key.
    pub _pad: [u8; 3],
}

/// The data of the rule trie's key: the generation stands in front of the
/// address, so the rules of the next policy live beside those of the current
/// one until the generation is switched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleKey {
    /// The policy generation, in network byte order.
    pub generation: u32,
    /// The prefix; bits beyond its length are zero.
    pub addr: Addr,
}

/// Bits of a [`RuleKey`] in front of the address.
pub const GENERATION_BITS: u32 = 32;

/// Prefix length of a whole [`RuleKey`], as a lookup uses it.
pub const RULE_KEY_BITS: u32 = GENERATION_BITS + 128;

const _: () = assert!(size_of::<ClientKey>() == 16);
const _: () = assert!(size_of::<FlowKey>() == 40);
const _: () = assert!(size_of::<RuleKey>() == 20);
