//! Where things live: bpffs, cgroup v2, and the directory of our pins.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const BPFFS: &str = "/sys/fs/bpf";
/// Where our own mounts go when the system has none.
const OWN_BPFFS: &str = "/run/shaper/bpf";
const OWN_CGROUP: &str = "/run/shaper/cgroup2";

/// First mount point of a file system type, from the text of `/proc/self/mounts`,
/// where `visible` finds it: another mount may lie over it.
fn find_mount(
    mounts: &str,
    kind: &str,
    prefer: &str,
    visible: impl Fn(&str) -> bool,
) -> Option<PathBuf> {
    let mut found: Option<PathBuf> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(at), Some(fs)) = (fields.next(), fields.next()) else {
            continue;
        };
        if fs == kind && visible(at) {
            if at == prefer {
                return Some(at.into());
            }
            found.get_or_insert_with(|| at.into());
        }
    }
    found
}

/// Whether a path is on a file system of a type, just now.
fn is_on(at: &str, magic: FsType) -> bool {
    statfs(at).is_ok_and(|found| found.filesystem_type() == magic)
}

/// Whether two paths are one directory: the unit binds the system's own BPF file
/// system to the place of ours, and takes it away again by itself.
fn is_same(one: &str, other: &str) -> bool {
    let id = |at| fs::metadata(at).map(|found| (found.dev(), found.ino()));
    matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

fn mounts() -> Result<String> {
    // Not its alias /proc/mounts, which a /proc of processes only lacks.
    fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts: is /proc mounted?")
}

fn mount_own(kind: &str, at: &str) -> Result<PathBuf> {
    fs::create_dir_all(at).with_context(|| format!("making the mount point {at}"))?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).with_context(|| {
        format!("mounting {kind} at {at}: needs CAP_SYS_ADMIN, or mount it beforehand")
    })?;
    tracing::info!("mounted {kind} at {at}");
    Ok(at.into())
}

/// The BPF file system, mounted where it is missing.
///
/// # Errors
/// When it is neither there nor can be mounted.
pub fn bpffs() -> Result<PathBuf> {
    // Ours first: pins are there, though the system may have mounted one since.
    if is_on(OWN_BPFFS, BPF_FS_MAGIC) {
        return Ok(OWN_BPFFS.into());
    }
    let visible = |at: &str| is_on(at, BPF_FS_MAGIC);
    match find_mount(&mounts()?, "bpf", BPFFS, visible) {
        Some(at) => Ok(at),
        // Not at the usual place, which `detach` could not know to be ours.
        None => mount_own("bpf", OWN_BPFFS),
    }
}

/// The root of cgroup v2, mounted where it is missing.
///
/// # Errors
/// When it is neither there nor can be mounted.
pub fn cgroup2() -> Result<PathBuf> {
    let visible = |at: &str| is_on(at, CGROUP2_SUPER_MAGIC);
    match find_mount(&mounts()?, "cgroup2", "/sys/fs/cgroup", visible) {
        Some(at) => Ok(at),
        None => mount_own("cgroup2", OWN_CGROUP),
    }
}

/// Unmounts what [`bpffs`] and [`cgroup2`] mounted below `/run/shaper`.
pub fn unmount_own() -> Vec<String> {
    let mut gone = Vec::new();
    for at in [OWN_BPFFS, OWN_CGROUP] {
        let mounted = mounts().is_ok_and(|m| m.lines().any(|l| l.split(' ').nth(1) == Some(at)))
            && !is_same(at, BPFFS);
        // bpffs holds the pins of other network namespaces too.
        let used = at == OWN_BPFFS && Path::new(at).join("shaper").exists();
        if mounted && !used && nix::mount::umount(at).is_ok() {
            let _ = fs::remove_dir(at);
            gone.push(format!("mount {at}"));
        }
    }
    gone
}

/// The directory of our pins. Each network namespace has its own, because one
/// daemon serves one.
#[must_use]
pub fn pins(bpffs: &Path, netns_cookie: u64) -> PathBuf {
    bpffs.join("shaper").join(format!("net-{netns_cookie}"))
}

/// A capability that the daemon can't do without: its name, its number in
/// `linux/capability.h`, and what for. All are there from kernel 5.8 on, and
/// the programs need 5.15.
type Needed = (&'static str, u32, &'static str);

const NEEDED: [Needed; 3] = [
    ("CAP_BPF", 39, "maps and programs"),
    (
        "CAP_NET_ADMIN",
        12,
        "attaching them, and closing connections",
    ),
    ("CAP_PERFMON", 38, "the verifier's view of packets"),
];
/// Stands for `CAP_BPF` and `CAP_PERFMON` too.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_NET_ADMIN: u32 = 12;

/// Refuses early, with the way out, where the daemon cannot work. Which user it
/// is does not matter.
///
/// # Errors
/// Names what is missing and what would fix it.
pub fn check_privileges() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let missing = missing(effective_capabilities(&status).unwrap_or(0));
    if !missing.is_empty() {
        bail!(
            "not allowed to load kernel programs: missing {}. Run it as root (sudo), or as the systemd unit, whose CapabilityBoundingSet must have {}",
            missing.join(" and "),
            NEEDED.map(|(name, ..)| name).join(" ")
        );
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "the kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y, as the kernels of Debian, Ubuntu and RHEL have"
        );
    }
    Ok(())
}

/// What a set of capabilities lacks, with what it is for.
fn missing(effective: u64) -> Vec<String> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    NEEDED
        .iter()
        .filter(|(_, bit, _)| !has(*bit) && (*bit == CAP_NET_ADMIN || !has(CAP_SYS_ADMIN)))
        .map(|(name, _, what)| format!("{name} ({what})"))
        .collect()
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "proc /proc proc rw 0 0\n\
        cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
        bpf /mnt/other bpf rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n";

    #[test]
    fn mounts_are_found_by_type_and_the_usual_place_is_preferred() {
        let find = |kind, prefer| find_mount(MOUNTS, kind, prefer, |_| true);
        assert_eq!(find("bpf", BPFFS), Some(BPFFS.into()));
        assert_eq!(find("bpf", "/nowhere"), Some("/mnt/other".into()));
        let cgroup = find("cgroup2", "/sys/fs/cgroup");
        assert_eq!(cgroup, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find("tmpfs", "/tmp"), None);
        // Another file system lies over it.
        let hidden = find_mount(MOUNTS, "bpf", BPFFS, |at| at != BPFFS);
        assert_eq!(hidden, Some("/mnt/other".into()));
    }

    #[test]
    fn capabilities_are_read_from_status() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            Some((1 << 41) - 1)
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn each_missing_capability_is_named_with_its_use() {
        let set = |bits: &[u32]| bits.iter().fold(0, |set, bit| set | 1_u64 << bit);
        assert_eq!(missing(set(&[12, 38, 39])), [""; 0]);
        // As before there were CAP_BPF and CAP_PERFMON.
        assert_eq!(missing(set(&[12, 21])), [""; 0]);
        assert_eq!(
            missing(set(&[21])),
            ["CAP_NET_ADMIN (attaching them, and closing connections)"]
        );
        assert_eq!(
            missing(set(&[12, 39])),
            ["CAP_PERFMON (the verifier's view of packets)"]
        );
        assert_eq!(missing(0).len(), 3);
    }
}
