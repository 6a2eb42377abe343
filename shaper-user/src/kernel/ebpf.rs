//! The real kernel behind [`Kernel`].

use super::attach::{self, TcHook};
pub use super::detach::detach;
use super::detach::{Fresh, remove_all};
use super::full::{self, Full};
use super::interfaces::{Attached, Interfaces};
use super::maps::{self, Maps};
use super::migrate::{self, Found, Migration};
use super::support::Support;
use super::updates::WindowUpdates;
use super::{FlowLimit, Kernel, Sample, place, sockets, sys, visits};
use crate::model;
use crate::policy::{Compiled, RateLimit, Tables};
use crate::steps::{self, Step};
use anyhow::{Context, Result, bail};
use aya::programs::{SchedClassifier, SockOps, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ipnet::IpNet;
use shaper_common::class::SETTING_OBSERVE;
use shaper_common::control::{Control, DONE, op};
use shaper_common::key::{ClientKey, FlowKey, UDP};
use shaper_common::names;
use shaper_common::stats::Stat;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The kernel programs, built by `cargo xtask build-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../shaper-ebpf/dist/shaper.bpf.o");

/// A client without connections is remembered so long after its last packet, in
/// ns.
pub const CLIENT_MEMORY: u64 = 60_000_000_000;
/// A UDP flow is removed so long after its last packet, in ns.
const UDP_MEMORY: u64 = 2 * CLIENT_MEMORY;

/// How to open the kernel side.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which TC hook to use.
    pub tc_hook: TcHook,
    /// Whether the programs log each connection, at debug level.
    pub log_connections: bool,
    /// How much the tables hold.
    pub tables: Tables,
}

/// Programs and maps of this network namespace.
pub struct EbpfKernel {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Maps,
    updates: Option<WindowUpdates>,
    pub(super) support: Support,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    pub(super) pins: PathBuf,
    pub(super) options: Options,
    pub(super) netns_cookie: u64,
    generation: u32,
    pub(super) applied: Option<Compiled>,
    pub(super) interfaces: Interfaces,
    pub(super) next_reap: Instant,
    /// Flows that the start found no socket for, and when they were created: too
    /// young then to be sure.
    pub(super) unsure: HashMap<FlowKey, u64>,
    /// To tables that fit, until the first policy is in force.
    migration: Option<Migration>,
    /// Which tables these are: the network namespace, and the directory of their pins,
    /// which tells those of before a detach from those of now.
    place: u64,
    /// Whether all maps were made here, none adopted.
    made: bool,
    /// Whether the socket program is attached.
    hooked: bool,
    /// What an interrupted start or detach left: counted anew once.
    interrupted: bool,
    pub(super) full: Full,
    warnings: Vec<String>,
    /// Why the tables still have another size than the policy says.
    not_resized: Option<String>,
    /// The last field: what it removes, the others hold open.
    fresh: Fresh,
}

/// Loads the programs; adopts the maps that an earlier daemon left pinned.
///
/// # Errors
/// What is missing (rights, BTF, kernel features), and what would fix it.
pub fn open(mut options: Options) -> Result<EbpfKernel> {
    place::check_privileges()?;
    let netns_cookie = sys::netns_cookie()?;
    let mut pins = place::pins(&place::bpffs()?, netns_cookie);
    let mut warnings = Vec::new();
    let mut migration = None;
    match migrate::inspect(&pins, &mut options.tables)? {
        Found::Fits => {}
        Found::Moves(found) => migration = Some(found),
        Found::Unreadable(why) => {
            let warning = format!("{why}: starting over, counters and debts of before are lost");
            tracing::warn!("{warning}");
            warnings.push(warning);
            remove_all(&pins, netns_cookie);
            // The mount may have gone with them.
            pins = place::pins(&place::bpffs()?, netns_cookie);
        }
    }
    let interfaces = Interfaces::open()?;
    let fresh = Fresh::new(&pins, netns_cookie);
    let interrupted = migration.is_some() || is_interrupted(&pins);
    fs::create_dir_all(&pins).with_context(|| format!("making {}", pins.display()))?;
    steps::done(Step::Directory);
    if migration.is_none() {
        migrate::write_version(&pins)?;
        steps::done(Step::Version);
    }
    let directory = fs::metadata(&pins).with_context(|| format!("reading {}", pins.display()))?;
    let place = netns_cookie ^ directory.ino().rotate_left(32);
    let made = migration.is_none() && !pins.join(names::CLIENTS).exists();
    let path = |name: &str| match &migration {
        Some(migration) => migration.path(name),
        None => pins.join(name),
    };
    let mut support = Support::default();
    let mut ebpf = load(path, &options, &mut support)?;
    steps::done(Step::Loaded);
    let logger = if options.log_connections {
        Some(EbpfLogger::init(&mut ebpf).context("opening the log of the kernel programs")?)
    } else {
        None
    };
    let maps = Maps::new(&mut ebpf)?;
    let ring = maps::window_updates(&mut ebpf)?;
    let updates = WindowUpdates::start(ring)
        .inspect_err(|error| {
            let warning = format!("senders on short paths get less than their limit: {error:#}");
            tracing::warn!("{warning}");
            support.updates = Some(format!("{error:#}"));
            warnings.push(warning);
        })
        .ok();
    support.refused.0 = maps.stat(Stat::PacingRefused)?;
    let generation = maps.generation()?;
    Ok(EbpfKernel {
        ebpf,
        maps,
        updates,
        support,
        logger,
        pins,
        options,
        netns_cookie,
        generation,
        applied: None,
        interfaces,
        next_reap: Instant::now(),
        unsure: HashMap::new(),
        migration,
        place,
        made,
        hooked: false,
        interrupted,
        full: Full::default(),
        warnings,
        not_resized: None,
        fresh,
    })
}

/// Whether pins are there, and not all that belongs together: flows may have
/// ended while nothing watched.
fn is_interrupted(pins: &Path) -> bool {
    let there = |name: &&str| pins.join(name).exists();
    let maps = names::PINNED_MAPS.iter().filter(|name| there(name)).count();
    maps > 0 && (maps < names::PINNED_MAPS.len() || !there(&attach::SOCK_OPS_PIN))
}

/// The object with its maps, pinned at their paths; no program is loaded yet.
pub(super) fn object(
    path: impl Fn(&str) -> PathBuf,
    tables: &Tables,
    log_connections: bool,
) -> Result<Ebpf> {
    let paths: Vec<_> = names::PINNED_MAPS
        .iter()
        .map(|name| (*name, path(name)))
        .collect();
    let level: u8 = if log_connections { 4 } else { 0 };
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, &level, false);
    for (name, path) in &paths {
        loader.map_pin_path(name, path);
    }
    for (name, entries) in tables.by_name() {
        loader.map_max_entries(name, entries);
    }
    loader.load(OBJECT).with_context(|| {
        format!(
            "loading the kernel object; it needs kernel 5.15 or later with CONFIG_BPF_SYSCALL (uname -r), and bpffs for its pins at {}",
            path("").display()
        )
    })
}

fn load(path: impl Fn(&str) -> PathBuf, options: &Options, support: &mut Support) -> Result<Ebpf> {
    let mut ebpf = object(path, &options.tables, options.log_connections)?;
    for (name, program) in ebpf.programs_mut() {
        let name = name.to_owned();
        match program {
            aya::programs::Program::SchedClassifier(p) => SchedClassifier::load(p),
            aya::programs::Program::SockOps(p) => SockOps::load(p),
            aya::programs::Program::Xdp(p) => p.load(),
            aya::programs::Program::Iter(p) => {
                let refused = visits::load(p).err();
                if let Some(error) = &refused {
                    tracing::warn!("the kernel refused the program {name}: {error}");
                }
                match name.as_str() {
                    names::ADOPT => support.adopt = refused,
                    _ => support.release = refused,
                }
                continue;
            }
            _ => bail!("the kernel object has a program {name} of a type it should not have"),
        }
        .with_context(|| {
            format!(
                "the kernel refused the program {name}: kernel 5.15 or later is needed (uname -r)"
            )
        })?;
    }
    Ok(ebpf)
}

impl EbpfKernel {
    /// Runs one request in the kernel.
    pub(super) fn control(&self, operation: u32, key: FlowKey, value: u64) -> Result<bool> {
        self.request(&Control {
            op: operation,
            value,
            key,
            ..Control::default()
        })
    }

    pub(super) fn request(&self, request: &Control) -> Result<bool> {
        let program: &SchedClassifier = self
            .ebpf
            .program(names::CONTROL)
            .context("the kernel object has no control program")?
            .try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(bytemuck::bytes_of(request));
        let result = program
            .test_run(options)
            .context("running the control program")?;
        Ok(result.return_value == DONE)
    }

    /// Puts a policy in force with the tables as they are.
    fn put_in_force(&mut self, compiled: &Compiled) -> Result<()> {
        let choice = self.resolve(compiled)?;
        let before = self.maps.settings()?;
        if let Some(migration) = &mut self.migration {
            migration.copy(&mut self.maps)?;
            if migration.moves_policy() {
                self.maps.write(compiled, self.netns_cookie)?;
            }
        }
        let (attached, generation) = self.attach_all(&choice.links, compiled, |kernel| {
            kernel.hook_sockets()?;
            kernel.maps.write(compiled, kernel.netns_cookie)
        })?;
        self.generation = generation;
        if let Some(updates) = &self.updates {
            // Who waits by the old limit need not by the new one.
            updates.hurry();
        }
        self.fresh.keep();
        self.settle(&choice, attached, &compiled.interfaces);
        let ports_changed = self
            .applied
            .as_ref()
            .is_none_or(|c| c.ports != compiled.ports);
        let masks_changed = before.is_some_and(|b| {
            (b.mask_v4, b.mask_v6) != (compiled.settings.mask_v4, compiled.settings.mask_v6)
        });
        self.applied = Some(compiled.clone());
        if let Some(migration) = self.migration.take()
            && let Err(error) = migration.finish(self)
        {
            let warning = format!("counters of before come back with the next start: {error:#}");
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
        // The policy is in force: what follows completes the picture of
        // connections, and must not undo it.
        let mut complete = || -> Result<()> {
            if ports_changed {
                self.drop_unwatched()?;
                let adopted = self.adopt()?;
                if adopted > 0 {
                    tracing::info!("adopted {adopted} open connections");
                }
                steps::done(Step::Adopted);
            }
            if masks_changed || std::mem::take(&mut self.interrupted) {
                self.recount(&compiled.settings)?;
                steps::done(Step::Recounted);
            }
            Ok(())
        };
        if let Err(error) = complete() {
            let warning = format!("open connections are not all tracked: {error:#}");
            tracing::warn!("{warning}");
            self.warnings.push(warning);
        }
        Ok(())
    }

    /// Attaches the program that sees sockets open and close, once.
    fn hook_sockets(&mut self) -> Result<()> {
        if !self.hooked {
            attach::sock_ops(&mut self.ebpf, &self.pins, &place::cgroup2()?)?;
            self.hooked = true;
        }
        Ok(())
    }

    /// Moves to tables of the policy's sizes, by the way of a start: programs of
    /// new tables take the place of these. On a failure these stay.
    fn resize(&mut self, compiled: &Compiled) -> Result<()> {
        let options = Options {
            tables: compiled.tables,
            ..self.options.clone()
        };
        // Its ring has one reader at a time.
        let updating = self.updates.take().is_some();
        let moved = open(options).and_then(|mut new| {
            // Its events are waited for by their descriptor.
            std::mem::swap(&mut new.interfaces, &mut self.interfaces);
            new.warnings.clone_from(&self.warnings);
            match new.put_in_force(compiled) {
                Ok(()) => Ok(new),
                Err(error) => {
                    std::mem::swap(&mut new.interfaces, &mut self.interfaces);
                    Err(error)
                }
            }
        });
        match moved {
            Ok(new) => {
                *self = new;
                Ok(())
            }
            Err(error) => {
                if updating {
                    self.updates = maps::pinned_updates(&self.pins)
                        .and_then(WindowUpdates::start)
                        .ok();
                }
                self.hooked = false;
                // The hooks are theirs again, as far as they were not.
                self.put_in_force(compiled)?;
                migrate::discard(&self.pins)?;
                Err(error)
            }
        }
    }

    pub(super) fn watches(&self) -> impl Fn(u16) -> bool + use<> {
        let ports: HashSet<u16> = self
            .applied
            .iter()
            .flat_map(|c| c.ports.iter().copied())
            .collect();
        move |port| ports.contains(&port)
    }
}

impl Kernel for EbpfKernel {
    fn sample(&mut self) -> Result<Sample> {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        self.follow_interfaces();
        let mut sample = self.maps.sample()?;
        self.support.refused.1 = sample.stats[Stat::PacingRefused as usize];
        self.reap(sample.now, &mut sample.flows)?;
        self.look_for_room(&sample)?;
        let since = sample.now.saturating_sub(UDP_MEMORY);
        for (key, flow) in &sample.flows {
            if key.protocol == UDP && flow.last_seen < since {
                self.control(op::CLOSE, *key, 0)?;
            }
        }
        Ok(sample)
    }

    fn apply(&mut self, compiled: &Compiled) -> Result<()> {
        self.put_in_force(compiled)?;
        self.not_resized = None;
        if compiled.tables != self.options.tables
            && let Err(error) = self.resize(compiled)
        {
            let warning = format!("the tables keep their size until the next start: {error:#}");
            tracing::warn!("{warning}");
            self.not_resized = Some(warning);
        }
        Ok(())
    }

    fn generation(&self) -> u32 {
        self.generation
    }

    fn counters(&self) -> (u64, bool) {
        (self.place, self.made)
    }

    fn forget(&mut self, clients: &[ClientKey]) -> Result<()> {
        let since = sys::ktime().saturating_sub(CLIENT_MEMORY);
        for client in clients {
            let key = FlowKey {
                client: client.addr,
                ..FlowKey::default()
            };
            self.control(op::FORGET, key, since)?;
        }
        Ok(())
    }

    fn limit_flows(&mut self, limits: &[FlowLimit]) -> Result<()> {
        for flow in limits {
            self.request(&Control {
                op: op::LIMIT,
                key: flow.key,
                limits: flow.limits.map(RateLimit::to_kernel),
                ..Control::default()
            })?;
        }
        Ok(())
    }

    fn disconnect(&mut self, prefix: IpNet) -> Result<usize> {
        sockets::destroy(prefix, self.watches())
    }

    fn interfaces(&self) -> Vec<model::Interface> {
        self.interfaces.rows.iter().map(Attached::row).collect()
    }

    fn backpressure(&self) -> model::Backpressure {
        let observe = self
            .applied
            .as_ref()
            .is_some_and(|c| c.settings.flags & SETTING_OBSERVE != 0);
        self.support
            .report(observe, &self.interfaces.rows, self.updates.as_ref())
    }

    fn tables(&self) -> Vec<model::Table> {
        full::tables(&self.pins, &self.maps.entries)
    }

    fn overflow(&self) -> model::Overflow {
        self.full.overflow
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.clone();
        warnings.extend_from_slice(&self.interfaces.warnings);
        warnings.extend(self.not_resized.clone());
        warnings.extend(self.full.warnings());
        warnings
    }

    fn changes(&self) -> Result<OwnedFd> {
        self.interfaces
            .links
            .readiness()
            .context("copying the descriptor of the events of interfaces")
    }

    fn follow(&mut self) {
        self.follow_interfaces();
    }
}
