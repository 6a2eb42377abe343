//! A policy and what was set at runtime, to what the kernel is given.

use super::client::MAPPED;
use super::lookup::{PrefixMap, number};
use super::quota::{Quota, Then};
use super::{
    Compiled, GroupLimits, Limits, Mode, NamedClass, NamedGroup, Override, Policy, RateLimit, Rule,
    Tables,
};
use crate::addr::prefix_to_kernel;
use ipnet::{IpNet, Ipv4Net};
use shaper_common::bucket::Limit;
use shaper_common::class::{
    CLASS_BLOCK, CLASS_EXEMPT, Class, MAX_CLASSES, SETTING_OBSERVE, Settings, mask,
};
use shaper_common::group::MAX_GROUPS;
use shaper_common::key::V4_MAPPED_BITS;
use shaper_common::names::MAX_RULES;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Two generations share the trie.
const MAX_PREFIXES: usize = MAX_RULES as usize / 2;

/// Why a policy and the runtime overrides do not fit the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// More different limits than classes.
    #[error(
        "the policy and the runtime limits need {found} classes; allowed: at most {MAX_CLASSES}"
    )]
    Classes {
        /// How many they need.
        found: usize,
    },
    /// More groups than buckets.
    #[error(
        "the policy has {found} rules with `group_upload` or `group_download`; allowed: at most {MAX_GROUPS}"
    )]
    Groups {
        /// How many it has.
        found: usize,
    },
    /// More prefixes than the trie holds, beside those of the generation
    /// before.
    #[error(
        "the policy and the runtime limits name {found} prefixes; allowed: at most {MAX_PREFIXES}"
    )]
    Prefixes {
        /// How many they name.
        found: usize,
    },
}

impl RateLimit {
    /// As the kernel reads it.
    #[must_use]
    pub fn to_kernel(limit: Option<Self>) -> Limit {
        limit.map_or(Limit::NONE, |l| Limit::new(l.rate.bps(), l.burst))
    }
}

impl Limits {
    /// These limits, and those of `base` where these name none.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        Self {
            upload: self.upload.or(base.upload),
            download: self.download.or(base.download),
            flow_upload: self.flow_upload.or(base.flow_upload),
            flow_download: self.flow_download.or(base.flow_download),
            max_connections: self.max_connections.or(base.max_connections),
            connection_rate: self.connection_rate.or(base.connection_rate),
            quota: self.quota.clone().or_else(|| base.quota.clone()),
        }
    }
}

/// What a prefix is held to.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Target {
    /// Index of the rule; `None`: `[default]`.
    rule: Option<usize>,
    limits: Limits,
    group: GroupLimits,
    exempt: bool,
    block: bool,
    /// As the rule has it, whatever else holds.
    quota: Option<Arc<Quota>>,
}

impl Target {
    fn lay_over(&mut self, runtime: &Override) {
        if let Some(limit) = &runtime.limit {
            // A limit of somebody who was exempt is meant.
            self.exempt = false;
            self.limits.upload = limit.upload.or(self.limits.upload);
            self.limits.download = limit.download.or(self.limits.download);
        }
        if runtime.block.is_some() {
            self.exempt = false;
            self.block = true;
        }
    }

    fn class(&self) -> Class {
        let limit = RateLimit::to_kernel;
        Class {
            upload: limit(self.limits.upload),
            download: limit(self.limits.download),
            flow_upload: limit(self.limits.flow_upload),
            flow_download: limit(self.limits.flow_download),
            group_upload: limit(self.group.upload),
            group_download: limit(self.group.download),
            connections: self.limits.connection_rate.map_or(Limit::NONE, |rate| {
                let connections = u64::from(rate.connections);
                Limit::per_event(connections, rate.per_nanos, connections)
            }),
            max_connections: self.limits.max_connections.unwrap_or(0),
            flags: if self.block {
                CLASS_BLOCK
            } else if self.exempt {
                CLASS_EXEMPT
            } else {
                0
            },
            ..Class::default()
        }
    }
}

/// Classes, each target once.
struct Classes<'p> {
    policy: &'p Policy,
    index: HashMap<Target, u32>,
    list: Vec<NamedClass>,
}

impl Classes<'_> {
    fn of(&mut self, target: Target) -> u32 {
        // Saturates only far above what is accepted.
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        if let Some(index) = self.index.get(&target) {
            return *index;
        }
        let rule = target.rule.and_then(|i| self.policy.rules.get(i));
        self.list.push(NamedClass {
            rule: rule.map_or("default", |rule| &rule.name).to_owned(),
            class: Class {
                group: self.policy.group_index(target.rule),
                ..target.class()
            },
            upload: target.limits.upload,
            download: target.limits.download,
            quota: target.quota.clone(),
        });
        self.index.insert(target, next);
        next
    }
}

impl Policy {
    /// The limits of a rule with what it takes from `[default]`; none for one
    /// that is exempt or blocked.
    #[must_use]
    pub fn effective(&self, rule: &Rule) -> Limits {
        if rule.exempt || rule.block {
            return Limits::default();
        }
        let mut limits = rule.limits.over(&self.default);
        // What a quota ends in does not begin it again.
        limits.quota = limits.quota.filter(|quota| match &quota.then {
            Then::Rule(name) => *name != rule.name,
            Then::Block => true,
        });
        limits
    }

    fn target(&self, rule: Option<usize>) -> Target {
        let found = rule.and_then(|i| self.rules.get(i));
        let mut limits = found.map_or_else(|| self.default.clone(), |rule| self.effective(rule));
        Target {
            rule,
            quota: limits.quota.take(),
            limits,
            group: found.map_or_else(GroupLimits::default, |rule| rule.group),
            exempt: found.is_some_and(|rule| rule.exempt),
            block: found.is_some_and(|rule| rule.block),
        }
    }

    /// A client of `rule` that has used its quota is held to what comes then. It
    /// stays the rule's, by name and quota.
    fn after_quota(&self, target: &mut Target) {
        match target.quota.as_ref().map(|quota| &quota.then) {
            None => {}
            Some(Then::Block) => target.block = true,
            Some(Then::Rule(name)) => {
                let then = self.rules.iter().position(|rule| rule.name == *name);
                let then = self.target(then);
                target.limits = then.limits;
                target.block = then.block;
            }
        }
    }

    /// What the kernel is given.
    ///
    /// An override holds for its prefix and everything in it, over the policy:
    /// a block of any prefix that holds a client blocks it, and in each
    /// direction the limit of the longest such prefix wins. A limit ends an
    /// exemption. An override made under a longer client prefix than the
    /// policy's is cut to the client it now belongs to.
    ///
    /// # Errors
    /// When it does not fit the kernel's tables.
    pub fn compile(&self, overrides: &[Override]) -> Result<Compiled, CompileError> {
        self.compile_over(overrides, &[])
    }

    /// What the kernel is given while the clients `over` have used their quota.
    /// What is set at runtime holds over that: a limit ends a block by a quota.
    /// Where the trie has no room the last of them are left out.
    ///
    /// # Errors
    /// When it does not fit the kernel's tables.
    pub fn compile_over(
        &self,
        overrides: &[Override],
        over: &[IpNet],
    ) -> Result<Compiled, CompileError> {
        let mut rules = PrefixMap::new();
        for (index, rule) in self.rules.iter().enumerate() {
            for net in &rule.clients {
                rules.entry(*net, || index);
            }
        }
        let mut runtime = PrefixMap::new();
        for over in overrides {
            let net = self.prefixes().cut(over.client);
            runtime.entry(net, Vec::new).push(over);
        }

        let mut classes = Classes {
            policy: self,
            index: HashMap::new(),
            list: Vec::new(),
        };
        let default = classes.of(self.target(None));
        let mut nets: BTreeSet<IpNet> = rules.prefixes().chain(runtime.prefixes()).collect();
        // One is kept for the shadow of IPv4.
        let room = (MAX_PREFIXES - 1).saturating_sub(nets.len());
        let held: HashSet<IpNet> = over
            .iter()
            .filter(|net| self.prefixes().cut(**net) == **net)
            .take(room)
            .copied()
            .collect();
        nets.extend(&held);
        let mut compiled: Vec<_> = nets
            .iter()
            .map(|net| {
                let rule = rules.holding(*net).next_back().copied();
                let mut target = self.target(rule);
                let set: Vec<_> = runtime.holding(*net).flatten().collect();
                if held.contains(net) {
                    self.after_quota(&mut target);
                    if target.block && set.iter().any(|over| over.limit.is_some()) {
                        target = self.target(rule);
                    }
                }
                for over in set {
                    target.lay_over(over);
                }
                let (network, bits) = prefix_to_kernel(*net);
                (network, bits, classes.of(target))
            })
            .collect();
        if let Some(everything) = v4_shadow(&nets) {
            let (network, bits) = prefix_to_kernel(everything);
            compiled.push((network, bits, default));
        }
        compiled.sort_unstable_by_key(|(network, bits, _)| (number(network), *bits));

        let found = classes.list.len();
        if found > MAX_CLASSES as usize {
            return Err(CompileError::Classes { found });
        }
        let found = compiled.len();
        if found > MAX_PREFIXES {
            return Err(CompileError::Prefixes { found });
        }
        let groups: Vec<_> = self
            .groups()
            .map(|(_, rule)| NamedGroup {
                rule: rule.name.clone(),
                limits: rule.group,
            })
            .collect();
        let found = groups.len();
        if found > MAX_GROUPS as usize {
            return Err(CompileError::Groups { found });
        }
        let mut ports = self.ports.clone();
        ports.sort_unstable();
        Ok(Compiled {
            interfaces: self.interfaces.clone(),
            xdp: self.xdp,
            ports,
            tables: self.tables(),
            settings: self.settings(),
            classes: classes.list,
            groups,
            rules: compiled,
            over_left_out: over.len() - held.len(),
        })
    }

    /// The rules that bound their clients together, in the order of the file.
    fn groups(&self) -> impl Iterator<Item = (usize, &Rule)> {
        let rules = self.rules.iter().enumerate();
        rules.filter(|(_, rule)| rule.group.is_set())
    }

    /// Which of them a rule is; 0, which then means nothing, where it is none. By
    /// place and not by name: after a reload that moves a rule, its group may begin
    /// with the debt of another, cut to its own burst.
    fn group_index(&self, rule: Option<usize>) -> u32 {
        let index = self.groups().position(|(index, _)| Some(index) == rule);
        index
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(0)
    }

    /// How much the kernel's tables are to hold.
    #[must_use]
    pub fn tables(&self) -> Tables {
        Tables::new(self.max_flows, self.max_clients)
    }

    fn settings(&self) -> Settings {
        Settings {
            mask_v4: mask(V4_MAPPED_BITS + u32::from(self.ipv4_prefix)),
            mask_v6: mask(u32::from(self.ipv6_prefix)),
            flags: match self.mode {
                Mode::Enforce => 0,
                Mode::Observe => SETTING_OBSERVE,
            },
            ..Settings::default()
        }
    }
}

/// All of IPv4, where a prefix such as `::/0` would hold it: the kernel's trie
/// has IPv4 within IPv6, but a rule for IPv6 is not meant for it.
fn v4_shadow(nets: &BTreeSet<IpNet>) -> Option<IpNet> {
    let everything = IpNet::V4(Ipv4Net::default());
    let held = nets.iter().any(|net| net.contains(&IpAddr::V6(MAPPED)));
    (held && !nets.contains(&everything)).then_some(everything)
}

#[cfg(test)]
mod tests;
