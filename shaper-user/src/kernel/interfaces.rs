//! The interfaces that the policy means: attached to as they come, let go of as
//! they go.

use super::choice::Choice;
use super::ebpf::EbpfKernel;
use super::links::Links;
use super::netlink::{self, Link};
use super::{attach, sweep};
use crate::model;
use crate::policy::{Compiled, Xdp, interface};
use anyhow::{Context, Result, bail};
use aya::programs::TcAttachType;
use nix::net::if_::if_nametoindex;
use shaper_common::names;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long an interface that only a pattern names is shown when it is gone.
const GONE_MEMORY: Duration = Duration::from_secs(60);
/// How soon a failed attempt is made again.
const RETRY: Duration = Duration::from_secs(1);
/// How often in a row events are followed: who makes more than that waits.
const ROUNDS: usize = 8;

/// An interface that we are or were attached to.
#[derive(Clone)]
pub(super) struct Attached {
    pub link: Link,
    /// Since when it is gone.
    pub gone: Option<Instant>,
    ingress: &'static str,
    egress: &'static str,
    xdp: Option<&'static str>,
}

impl Attached {
    /// As `status` shows it.
    pub fn row(&self) -> model::Interface {
        let there = |hook: &str| self.gone.is_none().then(|| hook.to_owned());
        model::Interface {
            name: self.link.name.clone(),
            state: match self.gone {
                Some(_) => "gone",
                None => "attached",
            }
            .to_owned(),
            ingress: there(self.ingress),
            egress: there(self.egress),
            xdp: self.xdp.and_then(there),
        }
    }
}

/// The interfaces of the host, and what has been made of them.
pub(super) struct Interfaces {
    pub links: Links,
    /// Attached and gone, in the policy's order.
    pub rows: Vec<Attached>,
    /// What is wrong with them, for people.
    pub warnings: Vec<String>,
    /// When to try again what failed.
    retry: Option<Instant>,
}

impl Interfaces {
    /// Lists what there is; nothing is attached.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self> {
        Ok(Self {
            links: Links::open()?,
            rows: Vec::new(),
            warnings: Vec::new(),
            retry: None,
        })
    }

    /// What the policy means just now.
    fn choose(&mut self, wanted: &[String]) -> Result<Choice> {
        self.links
            .follow_routes(wanted.is_empty())
            .context("listening for routes")?;
        if !wanted.is_empty() {
            return Ok(Choice::named(wanted, self.links.table()));
        }
        let had: Vec<_> = self.rows.iter().map(|row| row.link.clone()).collect();
        let route = netlink::default_route()?;
        Ok(Choice::of_route(route, self.links.table(), &had))
    }

    /// Drops rows that say nothing any more, and puts the others in order.
    fn tidy(&mut self, wanted: &[String]) {
        let attached: Vec<_> = self.rows.iter().filter(|row| row.gone.is_none()).collect();
        let indexes: BTreeSet<_> = attached.iter().map(|row| row.link.index).collect();
        let called: BTreeSet<_> = attached.iter().map(|row| row.link.name.clone()).collect();
        self.rows.retain(|row| {
            let name = &row.link.name;
            let Some(since) = row.gone else { return true };
            if called.contains(name) {
                false
            } else if wanted.is_empty() {
                indexes.is_empty()
            } else {
                wanted.contains(name)
                    || wanted.iter().any(|w| interface::matches(w, name))
                        && !indexes.contains(&row.link.index)
                        && since.elapsed() < GONE_MEMORY
            }
        });
        self.rows.sort_by_key(|row| {
            let name = &row.link.name;
            let place = wanted.iter().position(|w| interface::matches(w, name));
            (place, row.link.index)
        });
    }

    fn warn(&mut self, warnings: Vec<String>) {
        for warning in warnings.iter().filter(|w| !self.warnings.contains(w)) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;
    }
}

impl EbpfKernel {
    fn attach(&mut self, link: &Link, xdp: Xdp) -> Result<Attached> {
        let hook = self.options.tc_hook;
        let shield = attach::shield(&mut self.ebpf, &self.pins, link, xdp)?;
        let flags = if shield.is_some() {
            names::IFACE_SHIELDED
        } else {
            0
        };
        self.maps.set_interface(link.index, Some(flags))?;
        let mut on = |direction| {
            attach::classifier(
                &mut self.ebpf,
                &self.pins,
                link,
                direction,
                hook,
                self.netns_cookie,
            )
        };
        Ok(Attached {
            ingress: on(TcAttachType::Ingress)?,
            egress: on(TcAttachType::Egress)?,
            link: link.clone(),
            gone: None,
            xdp: shield,
        })
    }

    /// What a policy means; refuses one that means what is not there.
    pub(super) fn resolve(&mut self, compiled: &Compiled) -> Result<Choice> {
        if self.applied.is_none() {
            sweep::rename_pins(&self.pins);
            self.interfaces.links.refresh()?;
        } else {
            self.follow_interfaces();
        }
        let choice = self.interfaces.choose(&compiled.interfaces)?;
        let known: Vec<_> = self
            .interfaces
            .rows
            .iter()
            .map(|row| &*row.link.name)
            .collect();
        if compiled.interfaces.is_empty() && choice.links.is_empty() && known.is_empty() {
            bail!(
                "there is no default route to take the interface from: name it with --interface or `interfaces = [\"eth0\"]`"
            );
        }
        choice.accept(&known, self.interfaces.links.table())?;
        Ok(choice)
    }

    /// Attaches to all of them and then does `finish`; or to none that was not
    /// attached to before, and to the others as before.
    pub(super) fn attach_all<T>(
        &mut self,
        links: &[Link],
        compiled: &Compiled,
        finish: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Vec<Attached>, T)> {
        let (old, new): (Vec<_>, Vec<_>) = links
            .iter()
            .partition(|link| attach::present(&self.pins, link, self.netns_cookie));
        let mut attach = || -> Result<Vec<_>> {
            let mut rows = Vec::with_capacity(links.len());
            for link in links {
                match self.attach(link, compiled.xdp) {
                    Ok(row) => rows.push(row),
                    // One of many that come and go.
                    Err(error) if !compiled.interfaces.contains(&link.name) && vanished(link) => {
                        tracing::debug!("{} went meanwhile: {error:#}", link.name);
                        self.remove(link, false);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(rows)
        };
        let attached = attach();
        let result = attached.and_then(|attached| Ok((attached, finish(self)?)));
        if result.is_err() {
            for link in new {
                self.remove(link, true);
            }
            if let Some(xdp) = self.applied.as_ref().map(|c| c.xdp) {
                for link in old {
                    self.attach(link, xdp)
                        .context("going back to the old policy")?;
                }
            }
        }
        result
    }

    /// Takes over what [`EbpfKernel::attach_all`] has made for a policy, and lets
    /// go of what that does not mean any more.
    pub(super) fn settle(&mut self, choice: &Choice, rows: Vec<Attached>, wanted: &[String]) {
        let kept: Vec<_> = rows.iter().map(|row| row.link.index).collect();
        for mut old in std::mem::replace(&mut self.interfaces.rows, rows) {
            if kept.contains(&old.link.index) {
                continue;
            }
            if old.gone.is_none() {
                let here = self.interfaces.links.table().get(old.link.index).is_some();
                self.remove(&old.link, here);
                if here {
                    continue;
                }
                old.gone = Some(Instant::now());
            }
            self.interfaces.rows.push(old);
        }
        if self.applied.is_none() {
            let links: Vec<_> = self.interfaces.links.table().iter().cloned().collect();
            for what in sweep::sweep(&self.pins, &links, &kept, self.netns_cookie) {
                tracing::info!("removed {what}");
            }
            self.maps.keep_interfaces(&kept);
        }
        self.interfaces.tidy(wanted);
        self.interfaces.warn(choice.warnings());
    }

    fn remove(&mut self, link: &Link, here: bool) {
        for what in attach::remove(&self.pins, link, here, self.netns_cookie) {
            tracing::info!("removed {what}");
        }
        // A map that does not know the interface is as good as one that forgot.
        let _ = self.maps.set_interface(link.index, None);
    }

    /// Attaches to interfaces that have come, and lets go of those that went or
    /// are called otherwise. Where nothing has happened it is one system call.
    pub(super) fn follow_interfaces(&mut self) {
        let Some(applied) = self.applied.as_ref() else {
            return;
        };
        let (wanted, xdp) = (applied.interfaces.clone(), applied.xdp);
        for _ in 0..ROUNDS {
            let due = self.interfaces.retry.is_some_and(|at| Instant::now() >= at);
            let followed = match self.interfaces.links.refresh() {
                Ok(false) if !due => break,
                Ok(_) => self.reconcile(&wanted, xdp),
                Err(error) => Err(error),
            };
            if let Err(error) = followed {
                let warning = format!("interfaces that come and go are not seen: {error:#}");
                self.interfaces.warn(vec![warning]);
                self.interfaces.retry = Some(Instant::now() + RETRY);
                break;
            }
        }
        self.interfaces.tidy(&wanted);
    }

    /// Makes what is attached what the policy means.
    fn reconcile(&mut self, wanted: &[String], xdp: Xdp) -> Result<()> {
        let choice = self.interfaces.choose(wanted)?;
        let removed = self.interfaces.links.take_removed();
        let doubtful = self.interfaces.links.take_relisted();
        let mut failed = Vec::new();
        for i in 0..self.interfaces.rows.len() {
            let row = &mut self.interfaces.rows[i];
            let old = row.link.clone();
            if row.gone.is_some() {
                continue;
            }
            let chosen = choice.links.iter().find(|link| link.index == old.index);
            if let Some(link) = chosen.filter(|_| !removed.contains(&old.index)) {
                if link.name != old.name {
                    tracing::info!("{} is called {} now: stays attached", old.name, link.name);
                }
                row.link = link.clone();
                continue;
            }
            row.gone = Some(Instant::now());
            let now = self.interfaces.links.table().get(old.index).cloned();
            let now = now.filter(|_| !removed.contains(&old.index));
            match &now {
                None => tracing::warn!("{} is gone", old.name),
                Some(now) if now.name == old.name => {
                    tracing::warn!("{} is let go: the policy means others now", old.name);
                }
                Some(now) => tracing::warn!("{} is gone: it is called {} now", old.name, now.name),
            }
            self.remove(now.as_ref().unwrap_or(&old), now.is_some());
        }
        for link in &choice.links {
            let there = |row: &&Attached| row.gone.is_none() && row.link.index == link.index;
            let known = self.interfaces.rows.iter().any(|row| there(&row));
            if known && !doubtful {
                continue;
            }
            match self.attach(link, xdp) {
                Ok(row) => {
                    if !known {
                        tracing::info!("{} is there: attached", link.name);
                    }
                    self.interfaces.rows.retain(|row| !there(&row));
                    self.interfaces.rows.push(row);
                }
                Err(error) => failed.push((link, format!("{error:#}"))),
            }
        }
        self.interfaces.retry = None;
        let mut warnings = choice.warnings();
        for (link, error) in failed {
            let here = !vanished(link);
            // Not half of it.
            self.remove(link, here);
            for row in &mut self.interfaces.rows {
                if row.link.index == link.index {
                    row.gone.get_or_insert_with(Instant::now);
                }
            }
            if !here {
                // The next round learns of it.
                tracing::debug!("{} went meanwhile: {error}", link.name);
                continue;
            }
            warnings.push(format!("{} is there, but not attached: {error}", link.name));
            self.interfaces.retry = Some(Instant::now() + RETRY);
        }
        self.interfaces.tidy(wanted);
        self.interfaces.warn(warnings);
        Ok(())
    }
}

/// Whether there is no interface any more of this index and name.
fn vanished(link: &Link) -> bool {
    if_nametoindex(link.name.as_str()) != Ok(link.index)
}
