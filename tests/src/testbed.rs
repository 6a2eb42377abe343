//! The kernel programs by themselves: loaded from the same object as the
//! daemon's, attached nowhere, pinned nowhere, fed by `BPF_PROG_TEST_RUN`.

mod loaded;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use loaded::Loaded;
use shaper_common::bucket::Limit;
use shaper_common::class::{Class, Settings, mask};
use shaper_common::control::{Control, DONE, op};
use shaper_common::flow::{Client, Flow, Handshake};
use shaper_common::key::{ClientKey, FlowKey, V4_MAPPED_BITS};
use shaper_common::names;
use shaper_common::stats::Stat;
use shaper_user::addr::{from_kernel, prefix_to_kernel, to_kernel};
use shaper_user::kernel::Sample;
use shaper_user::kernel::maps::Maps;
use shaper_user::kernel::sys;
use shaper_user::policy::{Compiled, NamedClass, Tables, Xdp as XdpPolicy};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// `TC_ACT_UNSPEC`: on to the next program.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
pub const DROP: i32 = 2;
/// `XDP_PASS`.
pub const XDP_PASS: u32 = 2;
/// `XDP_DROP`.
pub const XDP_DROP: u32 = 1;

/// The port that test policies watch.
pub const PORT: u16 = 443;

/// Which of the TC programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Client to this host.
    Ingress,
    /// This host to the client.
    Egress,
}

/// The programs with their maps.
pub struct Testbed {
    /// Given back when this is dropped.
    loaded: Option<Loaded>,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            loaded::give_back(loaded);
        }
    }
}

/// A policy that watches [`PORT`]: `default`, and further classes by prefix.
#[must_use]
pub fn policy(default: Class, rules: &[(&str, Class)]) -> Compiled {
    let named = |rule: &str, class| NamedClass {
        rule: rule.to_owned(),
        class,
        upload: None,
        download: None,
        quota: None,
    };
    let mut classes = vec![named("default", default)];
    let mut prefixes = Vec::new();
    for (index, (prefix, class)) in (1..).zip(rules) {
        classes.push(named(prefix, *class));
        if let Ok(net) = prefix.parse() {
            let (addr, bits) = prefix_to_kernel(net);
            prefixes.push((addr, bits, index));
        }
    }
    prefixes.sort_unstable();
    Compiled {
        interfaces: Vec::new(),
        xdp: XdpPolicy::Off,
        ports: vec![PORT],
        tables: Tables::default(),
        settings: Settings {
            mask_v4: mask(V4_MAPPED_BITS + 32),
            mask_v6: mask(64),
            ..Settings::default()
        },
        classes,
        groups: Vec::new(),
        rules: prefixes,
        over_left_out: 0,
    }
}

/// The key of a flow from `client` to [`PORT`] of `local`.
#[must_use]
pub fn key(client: IpAddr, client_port: u16, local: IpAddr, protocol: u8) -> FlowKey {
    FlowKey {
        client: to_kernel(client),
        local: to_kernel(local),
        client_port,
        local_port: PORT,
        protocol,
        _pad: [0; 3],
    }
}

impl Testbed {
    /// Loads the programs, or takes some that an earlier testbed has left and
    /// empties their maps; then puts a policy in force.
    ///
    /// # Errors
    /// When the kernel refuses a program or a map.
    pub fn new(compiled: &Compiled) -> Result<Self> {
        let loaded = Some(loaded::take(&compiled.tables)?);
        let mut testbed = Self { loaded };
        testbed.apply(compiled)?;
        Ok(testbed)
    }

    fn loaded(&self) -> Result<&Loaded> {
        self.loaded.as_ref().context(GONE)
    }

    fn maps(&mut self) -> Result<&mut Maps> {
        Ok(&mut self.loaded.as_mut().context(GONE)?.maps)
    }

    fn tc(&self, name: &str) -> Result<&SchedClassifier> {
        let program = self.loaded()?.ebpf.program(name).context("program")?;
        Ok(program.try_into()?)
    }

    /// Switches to another policy, as a reload does.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn apply(&mut self, compiled: &Compiled) -> Result<()> {
        self.maps()?.write(compiled, 0)?;
        Ok(())
    }

    /// The policy generation in force.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn generation(&self) -> Result<u32> {
        self.loaded()?.maps.generation()
    }

    /// Says of an interface whether XDP shields it.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_interface(&mut self, index: u32, flags: Option<u32>) -> Result<()> {
        self.maps()?.set_interface(index, flags)
    }

    /// Names of the maps that are not as they were after loading; rings are not
    /// looked into.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn changed(&self) -> Result<Vec<&str>> {
        self.loaded()?.changed()
    }

    /// Puts the maps back to what they were after loading, for the next testbed.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn reset(&mut self) -> Result<()> {
        self.loaded.as_mut().context(GONE)?.reset()
    }

    /// Opens a flow as the end of a handshake does.
    ///
    /// # Errors
    /// When there is one already, or no room.
    pub fn open(&self, key: FlowKey) -> Result<()> {
        ensure!(self.control(op::ADOPT, key, 0)?, "the flow was not opened");
        Ok(())
    }

    /// One request to the control program; whether it was done.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn control(&self, op: u32, key: FlowKey, value: u64) -> Result<bool> {
        self.request(&Control {
            op,
            key,
            value,
            ..Control::default()
        })
    }

    /// Limits one flow, by direction; whether it is there.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn limit_flow(&self, key: FlowKey, limits: [Limit; 2]) -> Result<bool> {
        self.request(&Control {
            op: op::LIMIT,
            key,
            limits,
            ..Control::default()
        })
    }

    fn request(&self, request: &Control) -> Result<bool> {
        Ok(self
            .classifier(names::CONTROL, bytes_of(request), None, 1)?
            .0
            == DONE.cast_signed())
    }

    /// The verdict on one packet.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn run(&self, hook: Hook, packet: &[u8]) -> Result<i32> {
        Ok(self.classifier(name(hook), packet, None, 1)?.0)
    }

    /// The verdict on one packet, and what became of it.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn run_out(&self, hook: Hook, packet: &[u8]) -> Result<(i32, Vec<u8>)> {
        let program = self.tc(name(hook))?;
        let mut out = vec![0; packet.len()];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let verdict = program.test_run(options)?.return_value.cast_signed();
        Ok((verdict, out))
    }

    /// The verdict on an aggregate of `segments` packets.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn run_aggregate(
        &self,
        hook: Hook,
        packet: &[u8],
        segments: u32,
        size: u32,
    ) -> Result<i32> {
        // Offsets of `gso_segs` and `gso_size` in `struct __sk_buff`.
        let mut context = [0_u8; 192];
        context[164..168].copy_from_slice(&segments.to_ne_bytes());
        context[176..180].copy_from_slice(&size.to_ne_bytes());
        Ok(self.classifier(name(hook), packet, Some(&context), 1)?.0)
    }

    /// The shield's verdict on one packet.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn run_shield(&self, packet: &[u8]) -> Result<u32> {
        let program: &Xdp = self
            .loaded()?
            .ebpf
            .program(names::SHIELD)
            .context("shield")?
            .try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        Ok(program.test_run(options)?.return_value)
    }

    /// Mean time of a run over `repeat` runs of one packet.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn time(&self, hook: Hook, packet: &[u8], repeat: u32) -> Result<Duration> {
        Ok(self.classifier(name(hook), packet, None, repeat)?.1)
    }

    fn classifier(
        &self,
        name: &str,
        packet: &[u8],
        context: Option<&[u8]>,
        repeat: u32,
    ) -> Result<(i32, Duration)> {
        let program = self.tc(name)?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.ctx_in = context;
        options.repeat = repeat;
        let result = program.test_run(options)?;
        Ok((result.return_value.cast_signed(), result.duration))
    }

    /// A program to run from several threads.
    ///
    /// # Errors
    /// When it is not loaded.
    pub fn runner(&self, hook: Hook) -> Result<Runner> {
        let program = self.tc(name(hook))?.fd()?.as_fd();
        let program = program.try_clone_to_owned()?;
        Ok(Runner { program })
    }

    /// Everything in the maps.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn sample(&mut self) -> Result<Sample> {
        self.maps()?.sample()
    }

    /// A counter.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn stat(&mut self, stat: Stat) -> Result<u64> {
        Ok(self.sample()?.stats[stat as usize])
    }

    /// How many entries a table has.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn entries(&self, name: &str) -> Result<usize> {
        let entries = self.loaded()?.maps.entries;
        Ok(match name {
            names::FLOWS => entries.flows,
            names::CLIENTS => entries.clients,
            names::HANDSHAKES => self.keys::<FlowKey, Handshake>(name)?,
            _ => self.keys::<ClientKey, u64>(name)?,
        })
    }

    fn keys<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> Result<usize> {
        let map = self.loaded()?.ebpf.map(name).context("map")?;
        Ok(aya::maps::HashMap::<_, K, V>::try_from(map)?.keys().count())
    }

    /// A flow, where it is tracked.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn flow(&mut self, key: &FlowKey) -> Result<Option<Flow>> {
        let flows = self.sample()?.flows;
        Ok(flows
            .into_iter()
            .find(|(k, _)| k == key)
            .map(|(_, flow)| flow))
    }

    /// A client by its address, where it is known.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn client(&mut self, ip: IpAddr) -> Result<Option<Client>> {
        let clients = self.sample()?.clients;
        Ok(clients
            .into_iter()
            .find(|(key, _)| from_kernel(&key.addr) == ip)
            .map(|(_, client)| client))
    }
}

/// A program by itself.
#[derive(Debug)]
pub struct Runner {
    program: OwnedFd,
}

impl Runner {
    /// Runs it on one packet, again and again; the last verdict. Several threads
    /// may do so at once.
    ///
    /// # Errors
    /// When the test run fails.
    pub fn run(&self, packet: &[u8], repeat: u32) -> Result<i32> {
        /// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` reads.
        #[repr(C)]
        #[derive(Default)]
        struct Attr {
            prog_fd: u32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
        }
        const PROG_TEST_RUN: libc::c_long = 10;
        let mut attr = Attr {
            prog_fd: self.program.as_raw_fd().cast_unsigned(),
            data_size_in: u32::try_from(packet.len())?,
            data_in: packet.as_ptr().addr() as u64,
            repeat,
            ..Attr::default()
        };
        // SAFETY: the fields that the command takes, in its order; the packet lives
        // through the call, and nothing is written to it.
        unsafe { sys::bpf(PROG_TEST_RUN, &mut attr) }?;
        Ok(attr.retval.cast_signed())
    }
}

/// Why there are no programs, which only a testbed that is being dropped has not.
const GONE: &str = "the testbed has given its programs back";

fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => names::INGRESS,
        Hook::Egress => names::EGRESS,
    }
}

fn bytes_of(request: &Control) -> &[u8] {
    bytemuck::bytes_of(request)
}
