//! Programs on their hooks, and the pins that keep them there.
//!
//! A pinned link holds its program without the daemon; a start replaces the
//! program behind the link, so that no packet passes between two programs.
//! Filters of clsact, below kernel 6.6, stay by themselves.

use super::netlink::{Link, clsact_in_use, has_clsact, remove_clsact};
use super::sys::{detach_pinned_link, link_sock_ops, pin_link, update_pinned_link};
use crate::steps::{self, Step};
use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::xdp::XdpMode;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, SockOps, TcAttachType, Xdp, tc};
use shaper_common::names;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Priority and handle of our filters on clsact: fixed, so that a restart
/// replaces them and `detach` finds them.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x5a);

/// Which TC hook to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TcHook {
    /// TCX where the kernel has it, else clsact.
    #[default]
    Auto,
    /// TCX links (kernel 6.6).
    Tcx,
    /// Filters on the clsact qdisc.
    Clsact,
}

/// Which hook a program is on, as `status` says it.
pub const TCX: &str = "tcx";
/// See [`TCX`].
pub const CLSACT: &str = "clsact";
/// XDP in the driver.
pub(super) const NATIVE: &str = "native";
/// XDP in the stack.
pub(super) const GENERIC: &str = "generic";

/// What the pins of an interface's links end in.
pub(super) const LINK_HOOKS: [&str; 4] = ["ingress", "egress", NATIVE, GENERIC];

/// The pin of a TCX or XDP link: by the interface's index, which stays when it is
/// renamed. `link_sock_ops` is none of them.
pub(super) fn link_pin(pins: &Path, index: u32, hook: &str) -> PathBuf {
    pins.join(format!("link_{index}_{hook}"))
}

/// The pin of the sock_ops link.
pub(super) const SOCK_OPS_PIN: &str = "link_sock_ops";

/// The mark that the clsact qdisc of an interface is ours to remove. A file in
/// bpffs must be a BPF object, so it lies beside the control socket.
pub(super) fn clsact_mark(index: u32, netns_cookie: u64) -> PathBuf {
    Path::new("/run/shaper/clsact").join(format!("{netns_cookie}-{index}"))
}

/// Whether something of ours is attached there, by us or a daemon before us.
pub fn present(pins: &Path, link: &Link, netns_cookie: u64) -> bool {
    link_pin(pins, link.index, "ingress").exists() || clsact_mark(link.index, netns_cookie).exists()
}

/// Removes a pin, and takes its link off the hook at once.
pub(super) fn unpin(pin: &Path) -> io::Result<()> {
    // A link of a device that is gone is off already.
    if detach_pinned_link(pin).is_ok() {
        steps::done(Step::Unhooked);
    }
    fs::remove_file(pin)?;
    steps::done(Step::Unpinned);
    Ok(())
}

fn is_missing(error: &LinkError) -> bool {
    matches!(error, LinkError::SyscallError(e) if e.io_error.kind() == io::ErrorKind::NotFound)
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

/// Attaches one classifier, replacing what an earlier daemon left. Returns the
/// hook's name.
///
/// # Errors
/// When no hook takes it.
pub fn classifier(
    ebpf: &mut Ebpf,
    pins: &Path,
    link: &Link,
    direction: TcAttachType,
    hook: TcHook,
    netns_cookie: u64,
) -> Result<&'static str> {
    let (name, suffix) = match direction {
        TcAttachType::Ingress => (names::INGRESS, "ingress"),
        _ => (names::EGRESS, "egress"),
    };
    let pin = link_pin(pins, link.index, suffix);
    let program: &mut SchedClassifier = program(ebpf, name)?;
    if hook != TcHook::Clsact {
        match tcx(program, &pin, link, direction) {
            Ok(()) => {
                // A daemon of before, told to use clsact, may have left filters.
                let _ = tc::qdisc_detach_program(&link.name, direction, name);
                return Ok(TCX);
            }
            Err(error) if hook == TcHook::Auto && unsupported(&error) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("attaching {name} to {} (TCX)", link.name));
            }
        }
    }
    clsact(program, link, direction, netns_cookie)
        .with_context(|| format!("attaching {name} to {} (clsact)", link.name))?;
    let _ = unpin(&pin);
    Ok(CLSACT)
}

/// Kernels before 6.6 do not know the attach type.
fn unsupported(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<ProgramError>()
        .and_then(errno)
        .is_some_and(|e| e == libc::EINVAL || e == libc::EOPNOTSUPP)
}

fn tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    link: &Link,
    direction: TcAttachType,
) -> Result<()> {
    match PinnedLink::from_pin(pin) {
        Ok(old) => {
            match program.attach_to_link(FdLink::from(old).try_into()?) {
                Ok(id) => {
                    // The link stays by its pin; kept open, it would outlive it.
                    drop(program.take_link(id)?);
                    if on_interface(pin, link.index) && runs(program, link, direction) {
                        steps::done(Step::Classifier);
                        return Ok(());
                    }
                    // Its device is in another network namespace, and this one has
                    // the same index here.
                }
                Err(error) if errno(&error) == Some(libc::ENOLINK) => {}
                Err(error) => return Err(error.into()),
            }
            unpin(pin)?;
        }
        Err(error) if is_missing(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let id = program.attach_with_options(
        &link.name,
        direction,
        TcAttachOptions::TcxOrder(LinkOrder::default()),
    )?;
    let attached: FdLink = program.take_link(id)?.try_into()?;
    steps::done(Step::Linked);
    attached.pin(pin)?;
    // It was found by its name.
    if !on_interface(pin, link.index) {
        unpin(pin)?;
        bail!("{} is another interface now", link.name);
    }
    steps::done(Step::Classifier);
    Ok(())
}

/// Whether the interface runs the program; also where the kernel can't tell.
fn runs(program: &SchedClassifier, link: &Link, direction: TcAttachType) -> bool {
    let (Ok(info), Ok((_, there))) = (
        program.info(),
        SchedClassifier::query_tcx(&link.name, direction),
    ) else {
        return true;
    };
    there.iter().any(|program| program.id() == info.id())
}

/// Whether a pinned link still sits on the interface of this index.
fn on_interface(pin: &Path, index: u32) -> bool {
    super::sys::link_ifindex(pin).is_ok_and(|found| found == index)
}

fn clsact(
    program: &mut SchedClassifier,
    link: &Link,
    direction: TcAttachType,
    netns_cookie: u64,
) -> Result<()> {
    // The mark comes first: a crash in between must not leave a qdisc that nobody
    // knows to be ours.
    if !has_clsact(link.index)? {
        let mark = clsact_mark(link.index, netns_cookie);
        if let Some(parent) = mark.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(&mark)?;
        steps::done(Step::QdiscMarked);
        if let Err(error) = tc::qdisc_add_clsact(&link.name) {
            fs::remove_file(&mark)?;
            // Another's, of just now.
            if !already_there(&error) {
                return Err(error).context("adding the clsact qdisc");
            }
        }
        steps::done(Step::Qdisc);
    }
    let options = NlOptions {
        priority: FILTER_PRIORITY,
        handle: FILTER_HANDLE,
        classid: None,
    };
    let id =
        match program.attach_with_options(&link.name, direction, TcAttachOptions::Netlink(options))
        {
            Ok(id) => id,
            Err(ProgramError::TcError(error)) if already_there(&error) => {
                let old = SchedClassifierLink::attached(
                    &link.name,
                    direction,
                    FILTER_PRIORITY,
                    FILTER_HANDLE,
                    None,
                )?;
                program.attach_to_link(old)?
            }
            Err(error) => return Err(error.into()),
        };
    // Dropping the link would take the filter away; it is to outlive us.
    std::mem::forget(program.take_link(id)?);
    steps::done(Step::Classifier);
    Ok(())
}

fn already_there(error: &TcError) -> bool {
    matches!(error, TcError::AlreadyAttached)
        || matches!(error, TcError::NetlinkError(e) if e.raw_os_error() == Some(libc::EEXIST))
}

/// Attaches the shield; returns the mode, `None` where the device has none.
///
/// # Errors
/// When `native` was asked for and the device has none, or another program is
/// there.
pub fn shield(
    ebpf: &mut Ebpf,
    pins: &Path,
    link: &Link,
    policy: crate::policy::Xdp,
) -> Result<Option<&'static str>> {
    use crate::policy::Xdp as Policy;
    let wanted = match policy {
        Policy::Off => None,
        // Native XDP on a veth costs nine tenths of its throughput, because
        // segmentation offload is lost.
        Policy::Auto if link.veth => None,
        Policy::Auto | Policy::Native => Some((XdpMode::Driver, NATIVE)),
        Policy::Generic => Some((XdpMode::Skb, GENERIC)),
    };
    for name in [NATIVE, GENERIC] {
        if wanted.is_none_or(|(_, wanted)| wanted != name) {
            let _ = unpin(&link_pin(pins, link.index, name));
        }
    }
    let Some((mode, name)) = wanted else {
        return Ok(None);
    };
    let pin = link_pin(pins, link.index, name);
    let program: &mut Xdp = program(ebpf, names::SHIELD)?;
    if let Ok(old) = PinnedLink::from_pin(&pin) {
        if on_interface(&pin, link.index)
            && let Ok(id) = program.attach_to_link(FdLink::from(old).try_into()?)
        {
            drop(program.take_link(id)?);
            steps::done(Step::Shield);
            return Ok(Some(name));
        }
        unpin(&pin)?;
    }
    match program.attach(&link.name, mode) {
        Ok(id) => {
            let link: FdLink = program.take_link(id)?.try_into()?;
            steps::done(Step::Linked);
            link.pin(&pin)?;
            steps::done(Step::Shield);
            Ok(Some(name))
        }
        Err(error) if policy == Policy::Auto => {
            tracing::debug!("no native XDP on {}: {error}; TC shields it", link.name);
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "attaching the XDP shield to {} in {name} mode: another program may be there, or the driver has none; xdp = \"auto\" falls back to TC",
                link.name
            )
        }),
    }
}

/// Attaches `sock_ops` to the root of cgroup v2, or replaces the program there.
///
/// # Errors
/// When the kernel refuses.
pub fn sock_ops(ebpf: &mut Ebpf, pins: &Path, cgroup: &Path) -> Result<()> {
    let pin = pins.join(SOCK_OPS_PIN);
    let program: &mut SockOps = program(ebpf, names::SOCK_OPS)?;
    let program = program.fd()?.as_fd();
    match update_pinned_link(&pin, program) {
        Ok(()) => {
            steps::done(Step::SockOps);
            return Ok(());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!("the old sock_ops link cannot be updated ({error}): attaching anew");
            unpin(&pin)?;
        }
    }
    let root = File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
    let link = link_sock_ops(program, root.as_fd())
        .with_context(|| format!("attaching sock_ops to the cgroup {}", cgroup.display()))?;
    steps::done(Step::Linked);
    pin_link(link.as_fd(), &pin).context("pinning the sock_ops link")?;
    steps::done(Step::SockOps);
    Ok(())
}

/// A program of the object, loaded.
fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let Some(program) = ebpf.program_mut(name) else {
        bail!("the kernel object has no program {name}: it is not of this version");
    };
    Ok(program.try_into()?)
}

/// Takes everything of ours off one interface; says what was there. One that is
/// not `here` is gone or in another network namespace: its links are taken off
/// there, and its filters went with its qdisc.
pub fn remove(pins: &Path, link: &Link, here: bool, netns_cookie: u64) -> Vec<String> {
    let (index, name) = (link.index, &link.name);
    let mut gone = Vec::new();
    for hook in LINK_HOOKS {
        if unpin(&link_pin(pins, index, hook)).is_ok() {
            gone.push(format!("{hook} program on {name}"));
        }
    }
    if here {
        for (direction, program) in [
            (TcAttachType::Ingress, names::INGRESS),
            (TcAttachType::Egress, names::EGRESS),
        ] {
            if tc::qdisc_detach_program(name, direction, program).is_ok() {
                gone.push(format!("{program} filter on {name}"));
            }
        }
    }
    let mark = clsact_mark(index, netns_cookie);
    if mark.exists() {
        if here {
            match clsact_in_use(index) {
                // Others have put filters of theirs there since: theirs now.
                Ok(true) => {}
                _ if remove_clsact(index).is_ok() => gone.push(format!("clsact qdisc on {name}")),
                _ => {}
            }
            steps::done(Step::QdiscGone);
        }
        remove_mark(&mark);
    }
    gone
}

/// Removes such a mark.
pub(super) fn remove_mark(mark: &Path) {
    let _ = fs::remove_file(mark);
    // Stays while another interface has a mark there.
    let _ = mark.parent().map(fs::remove_dir);
}
