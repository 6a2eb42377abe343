//! What `packaging/shaper.service` forbids, done to one process, as systemd does
//! it: the daemon is tested under its unit on machines without systemd.
//!
//! Stricter in one thing: a system call that the unit does not allow ends the
//! process, where systemd would have it fail. What the unit has beyond this
//! (`ProtectHome`, `PrivateTmp`, namespaces, clocks and more) forbids what these
//! settings do not let through anyway, or hides where the lab itself is.

mod syscalls;
mod unit;

pub use syscalls::allowed;
pub use unit::Unit;

use anyhow::{Context, Result};
use caps::{CapSet, CapsHashSet};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::setgroups;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Confines this process, and whatever it executes.
///
/// # Errors
/// When the unit has something this does not know, or the kernel refuses.
pub fn confine(unit: &Unit, writable: &[PathBuf]) -> Result<()> {
    let mut kept = unit.writable();
    kept.extend(writable.iter().map(|path| (path.clone(), path.clone())));
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    seal(&kept)?;
    if let Some(options) = unit.proc() {
        mount(
            Some("proc"),
            "/proc",
            Some("proc"),
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .with_context(|| format!("mounting /proc with {options}"))?;
    }
    setgroups(&unit.groups()?)?;
    umask(Mode::from_bits_truncate(unit.umask()?));
    // For root, what a program may is the bounding set; the rest goes now.
    let keep = unit.capabilities()?;
    for capability in caps::all().difference(&keep) {
        // Newer than this kernel: not there to be dropped.
        if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::set(None, CapSet::Ambient, &CapsHashSet::new())?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    nix::sys::prctl::set_no_new_privs()?;
    for filter in syscalls::filters(unit)? {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

/// Everything becomes read-only, but for what is bound to the places in `writable`.
fn seal(writable: &[(PathBuf, PathBuf)]) -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    for (from, to) in writable {
        fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(from), to, None::<&str>, bind, None::<&str>)
            .with_context(|| format!("binding {}", from.display()))?;
    }
    read_only(Path::new("/"), true)?;
    for (_, path) in writable {
        read_only(path, false)?;
    }
    Ok(())
}

/// `mount_setattr(2)`, recursive (kernel 5.12).
fn read_only(path: &Path, yes: bool) -> Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    if yes {
        attributes.attr_set = libc::MOUNT_ATTR_RDONLY;
    } else {
        attributes.attr_clr = libc::MOUNT_ATTR_RDONLY;
    }
    // SAFETY: the path ends with a zero, the structure is as long as said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            name.as_ptr(),
            AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error())
            .with_context(|| format!("mount_setattr {}", path.display()));
    }
    Ok(())
}
