//! Which of the interfaces that are there a policy means.

use super::links::Table;
use super::netlink::Link;
use crate::policy::interface::{is_pattern, matches};
use anyhow::{Result, bail};
use shaper_common::names::MAX_INTERFACES;

/// What a policy means of the interfaces that are there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// To attach to, each once: in the policy's order, then by age.
    pub links: Vec<Link>,
    /// Plain names that are not there.
    pub absent: Vec<String>,
    /// Without an Ethernet header, named plainly or as the default route's.
    pub unfit: Vec<String>,
    /// Without an Ethernet header, and only matched by a pattern.
    pub passed_over: Vec<String>,
    /// Patterns that match nothing.
    pub waiting: Vec<String>,
    /// Matched, but more than there may be.
    pub too_many: usize,
}

impl Choice {
    /// Of a policy that names interfaces.
    pub fn named(wanted: &[String], there: &Table) -> Self {
        let mut choice = Self::default();
        for wanted in wanted {
            if !is_pattern(wanted) {
                match there.named(wanted) {
                    Some(link) => choice.add(link, true),
                    None => choice.absent.push(wanted.clone()),
                }
                continue;
            }
            let mut any = false;
            for link in there.iter().filter(|link| matches(wanted, &link.name)) {
                any = true;
                choice.add(link, false);
            }
            if !any {
                choice.waiting.push(wanted.clone());
            }
        }
        choice
    }

    /// Of a policy that means the default route's. While there is none, or one
    /// that cannot be, it stays with those it had.
    pub fn of_route(route: Option<u32>, there: &Table, had: &[Link]) -> Self {
        let mut choice = Self::default();
        let by_route = route.and_then(|index| there.get(index));
        if let Some(link) = by_route {
            choice.add(link, true);
        }
        if choice.links.is_empty() {
            for old in had {
                let same = there.get(old.index).or_else(|| there.named(&old.name));
                if let Some(link) = same {
                    choice.add(link, false);
                }
            }
        }
        choice
    }

    fn add(&mut self, link: &Link, plain: bool) {
        let known = |names: &[String]| names.contains(&link.name);
        if self.links.iter().any(|l| l.index == link.index)
            || known(&self.unfit)
            || known(&self.passed_over)
        {
            return;
        }
        if !link.ethernet {
            let names = if plain {
                &mut self.unfit
            } else {
                &mut self.passed_over
            };
            names.push(link.name.clone());
        } else if self.links.len() >= MAX_INTERFACES as usize {
            self.too_many += 1;
        } else {
            self.links.push(link.clone());
        }
    }

    /// Refuses what a policy must not name; `known` is what was attached before
    /// and may be gone.
    ///
    /// # Errors
    /// The first that is not there, or has no Ethernet header.
    pub fn accept(&self, known: &[&str], there: &Table) -> Result<()> {
        if let Some(name) = self
            .absent
            .iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            let there: Vec<_> = there.iter().map(|l| l.name.as_str()).collect();
            bail!(
                "there is no interface {name}: this host has {}",
                there.join(", ")
            );
        }
        if let Some(name) = self.unfit.first() {
            bail!(
                "{name} has no Ethernet header (a tunnel?): shaper reads Ethernet frames only; name the device below it"
            );
        }
        Ok(())
    }

    /// What people should know of it.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for pattern in &self.waiting {
            warnings.push(format!(
                "no interface matches {pattern}: waiting for one to come"
            ));
        }
        let unfit: Vec<_> = self.unfit.iter().chain(&self.passed_over).collect();
        if !unfit.is_empty() {
            let names: Vec<_> = unfit.iter().map(|name| name.as_str()).collect();
            warnings.push(format!(
                "not attached, without an Ethernet header: {}",
                names.join(", ")
            ));
        }
        if self.too_many > 0 {
            warnings.push(format!(
                "{} more interfaces match than the {MAX_INTERFACES} that can be attached to",
                self.too_many
            ));
        }
        warnings
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "so a test fails")]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            ethernet: !name.starts_with("tun"),
            veth: false,
            up: true,
        }
    }

    fn table(links: &[(u32, &str)]) -> Table {
        Table::of(links.iter().map(|(i, name)| link(*i, name)).collect())
    }

    fn indexes(choice: &Choice) -> Vec<u32> {
        choice.links.iter().map(|l| l.index).collect()
    }

    fn named(wanted: &[&str], there: &Table) -> Choice {
        let wanted: Vec<_> = wanted.iter().map(|w| (*w).to_owned()).collect();
        Choice::named(&wanted, there)
    }

    #[test]
    fn names_and_patterns_choose_each_interface_once() {
        let there = table(&[(1, "lo"), (5, "eth1"), (7, "bond0"), (2, "eth0")]);
        let choice = named(&["bond0", "eth*", "eth1"], &there);
        assert_eq!(indexes(&choice), [7, 2, 5]);
        assert_eq!(choice.warnings(), [""; 0]);
        choice.accept(&[], &there).unwrap();
        assert_eq!(indexes(&named(&["*"], &there)), [1, 2, 5, 7]);
    }

    #[test]
    fn a_pattern_waits_and_a_name_does_not() {
        let there = table(&[(2, "eth0")]);
        let choice = named(&["eth0", "wan?"], &there);
        choice.accept(&[], &there).unwrap();
        assert_eq!(
            choice.warnings(),
            ["no interface matches wan?: waiting for one to come"]
        );
        let choice = named(&["eth0", "wan0"], &there);
        let error = choice.accept(&["eth0"], &there).unwrap_err().to_string();
        assert_eq!(error, "there is no interface wan0: this host has eth0");
        choice.accept(&["eth0", "wan0"], &there).unwrap();
    }

    #[test]
    fn what_has_no_ethernet_header_is_refused_by_name_and_passed_over_by_pattern() {
        let there = table(&[(2, "eth0"), (3, "tun0"), (4, "tun1")]);
        assert!(
            named(&["eth0", "tun0"], &there)
                .accept(&[], &there)
                .is_err()
        );
        let choice = named(&["*"], &there);
        choice.accept(&[], &there).unwrap();
        assert_eq!(indexes(&choice), [2]);
        assert_eq!(
            choice.warnings(),
            ["not attached, without an Ethernet header: tun0, tun1"]
        );
        // A pattern that matches one waits for no other.
        assert_eq!(named(&["tun*"], &there).waiting, [""; 0]);
    }

    #[test]
    fn there_is_an_end_to_what_a_pattern_takes() {
        let links = (1..=MAX_INTERFACES + 3).map(|n| link(n, &format!("veth{n}")));
        let there = Table::of(links.collect());
        let choice = named(&["veth*"], &there);
        assert_eq!(choice.links.len(), MAX_INTERFACES as usize);
        assert_eq!(
            choice.warnings(),
            ["3 more interfaces match than the 256 that can be attached to"]
        );
    }

    #[test]
    fn the_default_route_is_followed_where_it_leads_to_one_that_can_be() {
        let there = table(&[(2, "eth0"), (3, "eth1"), (4, "tun0")]);
        let had = [link(2, "eth0")];
        assert_eq!(indexes(&Choice::of_route(Some(3), &there, &had)), [3]);
        assert_eq!(indexes(&Choice::of_route(None, &there, &had)), [2]);
        let choice = Choice::of_route(Some(4), &there, &had);
        assert_eq!(indexes(&choice), [2]);
        assert!(choice.accept(&[], &there).is_err());
        assert_eq!(
            choice.warnings(),
            ["not attached, without an Ethernet header: tun0"]
        );
        assert_eq!(indexes(&Choice::of_route(None, &there, &[])), [0; 0]);
    }

    #[test]
    fn without_a_default_route_the_interface_is_known_by_index_and_then_by_name() {
        let had = [link(2, "eth0")];
        for (there, chosen) in [
            (table(&[(2, "lan0"), (9, "eth0")]), vec![2]),
            (table(&[(9, "eth0")]), vec![9]),
            (table(&[(9, "eth1")]), vec![]),
        ] {
            assert_eq!(indexes(&Choice::of_route(None, &there, &had)), chosen);
        }
    }
}
