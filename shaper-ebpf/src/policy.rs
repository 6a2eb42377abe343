//! The policy in force, as the kernel sees it.

use crate::maps::{CLASSES, GENERATION, PORTS, RULES, SETTINGS};
use crate::report::count;
use aya_ebpf::maps::lpm_trie::Key;
use shaper_common::bucket::Limit;
use shaper_common::class::{
    CLASS_EXEMPT, Class, MAX_CLASSES, SETTING_OBSERVE, Settings, bank, port_bit,
};
use shaper_common::flow::{Flow, UPLOAD};
use shaper_common::key::{ClientKey, RULE_KEY_BITS, RuleKey};
use shaper_common::stats::Stat;

/// One generation of the policy: everything a packet decides by comes from the
/// same one, whatever the daemon writes meanwhile.
#[derive(Clone, Copy)]
pub struct Policy {
    /// Its number.
    pub generation: u32,
}

impl Policy {
    /// The generation in force; `None` before the first one.
    #[inline(always)]
    pub fn current() -> Option<Self> {
        let generation = *GENERATION.get(0)?;
        if generation == 0 {
            return None;
        }
        Some(Self { generation })
    }

    /// Whether a port of this host is watched.
    #[inline(always)]
    pub fn watches(self, port: u16) -> bool {
        let (word, bit) = port_bit(self.generation, port);
        PORTS.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Masks and flags.
    #[inline(always)]
    pub fn settings(self) -> Option<&'static Settings> {
        let settings = SETTINGS.get(bank(self.generation));
        if settings.is_none() {
            count(Stat::Internal, 1);
        }
        settings
    }

    /// A class by its index.
    #[inline(always)]
    pub fn class(self, index: u32) -> Option<&'static Class> {
        let class = CLASSES.get(bank(self.generation) * MAX_CLASSES + index);
        if class.is_none() {
            count(Stat::Internal, 1);
        }
        class
    }

    /// Index of a client's class: the rule with the longest prefix, else class
    /// 0, the default.
    #[inline(never)]
    pub fn rule(generation: u32, client: &ClientKey) -> u32 {
        let key = Key::new(
            RULE_KEY_BITS,
            RuleKey {
                generation: generation.to_be(),
                addr: client.addr,
            },
        );
        RULES.get(key).copied().unwrap_or(0)
    }
}

/// Whether backpressure holds a client's flow in a direction; `own` is the
/// limit of the flow alone.
#[inline(always)]
pub fn holds<const DIR: usize>(class: &Class, own: &Limit, settings: &Settings) -> bool {
    let limited = if DIR == UPLOAD as usize {
        class.upload.is_set() || class.group_upload.is_set()
    } else {
        class.download.is_set() || class.group_download.is_set()
    };
    (limited || own.is_set()) && class.flags & CLASS_EXEMPT == 0 && !observes(settings)
}

/// The limit of a flow alone: its class's or its own, whichever is tighter.
#[inline(always)]
pub fn flow_limit<const DIR: usize>(class: &Class, flow: *const Flow) -> Limit {
    // SAFETY: `flow` is a live map value, the words aligned; the daemon may be
    // writing, and then one packet is held to half of each.
    let own = unsafe { core::ptr::read_volatile(&raw const (*flow).own[DIR]) };
    (*class_limit::<DIR>(class)).tighter(own)
}

/// The limit of each flow of a class.
#[inline(always)]
pub const fn class_limit<const DIR: usize>(class: &Class) -> &Limit {
    if DIR == UPLOAD as usize {
        &class.flow_upload
    } else {
        &class.flow_download
    }
}

/// Whether the policy only observes.
#[inline(always)]
pub fn observes(settings: &Settings) -> bool {
    settings.flags & SETTING_OBSERVE != 0
}
