//! Which interfaces the policy means, and what becomes of them.

use super::ebpf::EbpfKernel;
use super::netlink::{self, Link};
use super::{attach, model};
use crate::policy::Xdp;
use anyhow::{Context, Result, bail};
use aya::programs::TcAttachType;
use shaper_common::names;

/// An interface that we are attached to.
#[derive(Clone)]
pub(super) struct Attached {
    pub link: Link,
    pub gone: bool,
    ingress: &'static str,
    egress: &'static str,
    xdp: Option<&'static str>,
}

impl Attached {
    /// As `status` shows it.
    pub fn row(&self) -> model::Interface {
        let there = |hook: &str| (!self.gone).then(|| hook.to_owned());
        model::Interface {
            name: self.link.name.clone(),
            state: if self.gone { "gone" } else { "attached" }.to_owned(),
            ingress: there(self.ingress),
            egress: there(self.egress),
            xdp: self.xdp.and_then(there),
        }
    }
}

/// Finds the interfaces that a policy names, each once. One that is known and
/// went away is left out: it is no reason to refuse a policy.
pub(super) fn resolve(wanted: &[String], known: &[Attached]) -> Result<Vec<Link>> {
    let links = netlink::links()?;
    let mut found: Vec<Link> = Vec::new();
    if wanted.is_empty() {
        let index = netlink::default_route()?;
        match links.iter().find(|l| Some(l.index) == index) {
            Some(link) => found.push(link.clone()),
            None if known.is_empty() => bail!(
                "there is no default route to take the interface from: name it with --interface or `interfaces = [\"eth0\"]`"
            ),
            // The route may come back; until then it stays as it is.
            None => found.extend(
                links
                    .iter()
                    .filter(|l| known.iter().any(|a| a.link.name == l.name))
                    .cloned(),
            ),
        }
    }
    for name in wanted {
        match links.iter().find(|l| l.name == *name) {
            Some(link) if !found.contains(link) => found.push(link.clone()),
            Some(_) => {}
            None if known.iter().any(|a| a.link.name == *name) => {}
            None => {
                let there: Vec<_> = links.iter().map(|l| l.name.as_str()).collect();
                bail!(
                    "there is no interface {name}: this host has {}",
                    there.join(", ")
                );
            }
        }
    }
    if let Some(link) = found.iter().find(|l| !l.ethernet) {
        bail!(
            "{} has no Ethernet header (a tunnel?): shaper reads Ethernet frames only; name the device below it",
            link.name
        );
    }
    Ok(found)
}

impl EbpfKernel {
    pub(super) fn attach(&mut self, link: &Link, xdp: Xdp) -> Result<Attached> {
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
            gone: false,
            xdp: shield,
        })
    }

    /// Attaches to all of them and then does `finish`; or to none that was not
    /// attached to before, and to the others as before.
    pub(super) fn attach_all<T>(
        &mut self,
        links: &[Link],
        xdp: Xdp,
        finish: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Vec<Attached>, T)> {
        let (old, new): (Vec<_>, Vec<_>) = links
            .iter()
            .partition(|link| attach::present(&self.pins, link, self.netns_cookie));
        let attached: Result<Vec<_>> = links.iter().map(|link| self.attach(link, xdp)).collect();
        let result = attached.and_then(|attached| Ok((attached, finish(self)?)));
        if result.is_err() {
            for link in new {
                self.remove(link);
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

    pub(super) fn remove(&mut self, link: &Link) {
        for what in attach::remove(&self.pins, &link.name, Some(link.index), self.netns_cookie) {
            tracing::info!("removed {what}");
        }
        // A map that does not know the interface is as good as one that forgot.
        let _ = self.maps.set_interface(link.index, None);
    }

    /// Notices interfaces that went, and attaches to those that came back.
    pub(super) fn watch_interfaces(&mut self) {
        let Some(xdp) = self.applied.as_ref().map(|c| c.xdp) else {
            return;
        };
        let Ok(links) = netlink::links() else {
            return;
        };
        for i in 0..self.attached.len() {
            let (old, gone) = (self.attached[i].link.clone(), self.attached[i].gone);
            let name = &old.name;
            let there = links.iter().find(|l| l.name == *name);
            if !gone && there.is_none_or(|l| l.index != old.index) {
                tracing::warn!("{name} is gone");
                self.attached[i].gone = true;
                self.remove(&old);
                // It may only have another name now.
                if let Some(renamed) = links.iter().find(|l| l.index == old.index) {
                    self.remove(renamed);
                }
            }
            if let Some(link) = there
                && self.attached[i].gone
            {
                match self.attach(link, xdp) {
                    Ok(attached) => {
                        tracing::info!("{name} is back: attached");
                        self.attached[i] = attached;
                    }
                    Err(error) => tracing::warn!("{name} is back, attaching failed: {error:#}"),
                }
            }
        }
    }
}
