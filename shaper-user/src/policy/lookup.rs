//! The longest prefix: in the sorted rules of a [`Compiled`], for every client
//! of every sample, and in a set of prefixes while one is compiled.

use super::Compiled;
use crate::addr::{prefix_from_kernel, prefix_to_kernel};
use ipnet::IpNet;
use shaper_common::class::CLASS_BLOCK;
use shaper_common::key::{Addr, ClientKey};
use std::collections::{BTreeSet, HashMap};

/// An address as a number, the first bit of the network being the highest.
pub(super) fn number(addr: &Addr) -> u128 {
    let octets: [u8; 16] = bytemuck::cast(*addr);
    u128::from_be_bytes(octets)
}

/// The highest `bits` bits of an address.
const fn truncate(addr: u128, bits: u32) -> u128 {
    match u128::MAX.checked_shl(128 - bits) {
        Some(mask) => addr & mask,
        None => 0,
    }
}

impl Compiled {
    /// Index of the class a client falls under: the longest prefix, as the
    /// kernel's trie finds it.
    ///
    /// In the order of network and length, the last prefix that is not beyond
    /// the client either holds it, and then is the longest that does, or shares
    /// only its first bits, and then so do all longer ones: a few binary
    /// searches whatever the number of rules.
    #[must_use]
    pub fn class_of(&self, client: &ClientKey) -> usize {
        let addr = number(&client.addr);
        let mut last = (addr, 128);
        loop {
            let end = self
                .rules
                .partition_point(|(network, bits, _)| (number(network), *bits) <= last);
            let Some((network, bits, class)) = end.checked_sub(1).and_then(|i| self.rules.get(i))
            else {
                return 0;
            };
            let shared = (number(network) ^ addr).leading_zeros();
            if shared >= *bits {
                return *class as usize;
            }
            last = (truncate(addr, shared), shared);
        }
    }
}

impl Compiled {
    /// The rule of a client, or `default`.
    #[must_use]
    pub fn rule_of(&self, client: IpNet) -> &str {
        let (addr, _) = prefix_to_kernel(client);
        let class = self.classes.get(self.class_of(&ClientKey { addr }));
        class.map_or("", |class| class.rule.as_str())
    }

    /// The prefixes whose clients are blocked.
    #[must_use]
    pub fn blocked(&self) -> Vec<IpNet> {
        self.rules
            .iter()
            .filter(|(_, _, class)| {
                let class = self.classes.get(*class as usize);
                class.is_some_and(|c| c.class.flags & CLASS_BLOCK != 0)
            })
            .filter_map(|(network, bits, _)| prefix_from_kernel(network, *bits))
            .collect()
    }
}

/// Values by prefix, the two families apart.
#[derive(Debug)]
pub(super) struct PrefixMap<T> {
    values: HashMap<IpNet, T>,
    v4_lengths: BTreeSet<u8>,
    v6_lengths: BTreeSet<u8>,
}

impl<T> PrefixMap<T> {
    pub(super) fn new() -> Self {
        Self {
            values: HashMap::new(),
            v4_lengths: BTreeSet::new(),
            v6_lengths: BTreeSet::new(),
        }
    }

    /// The value of a prefix, made when there was none.
    pub(super) fn entry(&mut self, net: IpNet, new: impl FnOnce() -> T) -> &mut T {
        match net {
            IpNet::V4(_) => self.v4_lengths.insert(net.prefix_len()),
            IpNet::V6(_) => self.v6_lengths.insert(net.prefix_len()),
        };
        self.values.entry(net).or_insert_with(new)
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.values.keys().copied()
    }

    /// The values of all prefixes that hold `net`, from the shortest to the
    /// longest, its own among them.
    pub(super) fn holding(&self, net: IpNet) -> impl DoubleEndedIterator<Item = &T> {
        let lengths = match net {
            IpNet::V4(_) => &self.v4_lengths,
            IpNet::V6(_) => &self.v6_lengths,
        };
        lengths.range(..=net.prefix_len()).filter_map(move |len| {
            let shorter = IpNet::new(net.addr(), *len).ok()?.trunc();
            self.values.get(&shorter)
        })
    }
}
