//! Calls of bpf(2) that aya has no function for. The only raw syscalls of the
//! daemon.

use anyhow::{Context, Result, bail};
use bytemuck::Pod;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Command numbers of bpf(2), `enum bpf_cmd` in `linux/bpf.h`.
mod command {
    pub(super) const MAP_UPDATE_ELEM: libc::c_long = 2;
    pub(super) const OBJ_GET: libc::c_long = 7;
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    pub(super) const MAP_LOOKUP_BATCH: libc::c_long = 24;
    pub(super) const MAP_UPDATE_BATCH: libc::c_long = 26;
    pub(super) const LINK_UPDATE: libc::c_long = 29;
    pub(super) const LINK_DETACH: libc::c_long = 34;
}

/// Entries asked for at once; the size hardly matters for the speed.
const CHUNK: usize = 4096;

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Of `BPF_MAP_UPDATE_ELEM`; only where the key is not there yet.
const BPF_NOEXIST: u64 = 1;

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjGetAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info`, as far as TCX and XDP links fill it.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    ifindex: u32,
    attach_type: u32,
    _rest: [u64; 4],
}

/// One call of bpf(2).
///
/// # Errors
/// What the kernel says.
///
/// # Safety
/// `attr` is the structure that the command takes, and pointers inside it are to
/// live buffers of the lengths that it says.
pub unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: by this function's contract, and of the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Reads a whole hash map by `BPF_MAP_LOOKUP_BATCH` (kernel 5.6).
///
/// Entries that come or go meanwhile may be missed or not; none is torn apart
/// from its key.
///
/// # Errors
/// What the kernel says, but for the end of the map.
pub fn read_map<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> Result<Vec<(K, V)>> {
    let (keys, values) = read_raw(map, size_of::<K>(), size_of::<V>())?;
    let keys = keys.chunks_exact(size_of::<K>());
    let values = values.chunks_exact(size_of::<V>());
    Ok(keys
        .zip(values)
        .map(|(key, value)| {
            (
                bytemuck::pod_read_unaligned(key),
                bytemuck::pod_read_unaligned(value),
            )
        })
        .collect())
}

/// [`read_map`], for keys and values of sizes that are known from the map: all
/// keys, all values.
///
/// # Errors
/// What the kernel says, but for the end of the map.
pub fn read_raw(
    map: BorrowedFd<'_>,
    key_size: usize,
    value_size: usize,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut all_keys, mut all_values) = (Vec::new(), Vec::new());
    let mut chunk = CHUNK;
    let mut keys = vec![0_u8; chunk * key_size];
    let mut values = vec![0_u8; chunk * value_size];
    // The kernel's cursor: a bucket number for hash maps, of 4 bytes.
    let (mut cursor, mut next) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { &raw const cursor as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(chunk).unwrap_or(u32::MAX),
            map_fd: u32::try_from(map.as_raw_fd()).context("map descriptor")?,
            ..BatchAttr::default()
        };
        // SAFETY: `keys` and `values` have room for `count` entries of the
        // sizes that the caller read from the map.
        let result = unsafe { bpf(command::MAP_LOOKUP_BATCH, &mut attr) };
        let error = result.err();
        match error.as_ref().and_then(io::Error::raw_os_error) {
            // ENOENT marks the last chunk, whose count is valid.
            None | Some(libc::ENOENT) => {}
            // A bucket with more entries than a chunk has room for.
            Some(libc::ENOSPC) if chunk < 1 << 20 => {
                chunk *= 2;
                keys.resize(chunk * key_size, 0);
                values.resize(chunk * value_size, 0);
                continue;
            }
            Some(_) => {
                return Err(error.unwrap_or_else(io::Error::last_os_error))
                    .context("reading a map in batches (BPF_MAP_LOOKUP_BATCH, kernel 5.6)");
            }
        }
        let count = attr.count as usize;
        if count > chunk {
            bail!("the kernel returned {count} entries for a chunk of {chunk}");
        }
        all_keys.extend_from_slice(&keys[..count * key_size]);
        all_values.extend_from_slice(&values[..count * value_size]);
        if error.is_some() {
            return Ok((all_keys, all_values));
        }
        first = false;
        cursor = next;
    }
}

/// Puts entries into a map by `BPF_MAP_UPDATE_BATCH` (kernel 5.6). They must be
/// of the map's types, which is what `K` and `V` are for.
///
/// # Errors
/// What the kernel says: `E2BIG` where the map is full.
pub fn write_map<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> io::Result<()> {
    for chunk in entries.chunks(CHUNK) {
        let keys: Vec<K> = chunk.iter().map(|(key, _)| *key).collect();
        let values: Vec<V> = chunk.iter().map(|(_, value)| *value).collect();
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
            map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
            ..BatchAttr::default()
        };
        // SAFETY: `count` keys and values of the map's sizes.
        unsafe { bpf(command::MAP_UPDATE_BATCH, &mut attr) }?;
    }
    Ok(())
}

/// Puts one entry into a map unless the key is there; whether it was put.
///
/// # Errors
/// What the kernel says: `E2BIG` where the map is full.
pub fn insert_new<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        key: &raw const *key as u64,
        value: &raw const *value as u64,
        flags: BPF_NOEXIST,
        ..ElemAttr::default()
    };
    // SAFETY: a key and a value of the map's sizes.
    match unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until every program that is running now has ended: the kernel's own
/// grace period, which `membarrier` waits for.
pub fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // A kernel with nohz_full has none: no program runs for so long.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjGetAttr {
        pathname: path.as_ptr() as u64,
        ..ObjGetAttr::default()
    };
    // SAFETY: `path` lives on, and ends with a zero.
    let fd = unsafe { bpf(command::OBJ_GET, &mut attr) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Index of the interface that a pinned TCX or XDP link is on; 0 when that is
/// gone.
///
/// # Errors
/// When there is no such pin.
pub fn link_ifindex(pin: &Path) -> io::Result<u32> {
    let link = open_pin(pin)?;
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: &raw mut info as u64,
    };
    // SAFETY: `info` is as long as said.
    unsafe { bpf(command::OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.ifindex)
}

/// Puts another program behind a pinned link, atomically (`BPF_LINK_UPDATE`,
/// kernel 5.7).
///
/// # Errors
/// `NotFound` where there is no pin, else what the kernel says.
pub fn update_pinned_link(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attr = LinkUpdateAttr {
        link_fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        new_prog_fd: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        ..LinkUpdateAttr::default()
    };
    // SAFETY: descriptors only.
    unsafe { bpf(command::LINK_UPDATE, &mut attr) }?;
    Ok(())
}

/// Takes a pinned link off its hook at once, whoever else holds it
/// (`BPF_LINK_DETACH`, kernel 5.9). Without it the hook would stay in use until
/// the kernel has freed the last reference, which it does later.
///
/// # Errors
/// `NotFound` where there is no pin, else what the kernel says.
pub fn detach_pinned_link(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut fd = u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: the structure of this command is one descriptor.
    unsafe { bpf(command::LINK_DETACH, &mut fd) }?;
    Ok(())
}

/// Nanoseconds of the clock that `bpf_ktime_get_ns` reads.
#[must_use]
pub fn ktime() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |t| {
        u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000
            + u64::try_from(t.tv_nsec()).unwrap_or(0)
    })
}

/// The cookie of this thread's network namespace (`SO_NETNS_COOKIE`, 5.14). The
/// first that an older kernel is asked for, so its refusal names what is needed
/// for all of it.
///
/// # Errors
/// When the kernel has no such option.
pub fn netns_cookie() -> Result<u64> {
    // Any socket knows it; one of this kind is allowed in every sandbox.
    let socket = std::os::unix::net::UnixDatagram::unbound()
        .context("opening a socket to ask for the network namespace")?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>())?;
    // SAFETY: `cookie` and `len` are valid for writes of the lengths given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        let why = match error.raw_os_error() {
            Some(libc::ENOPROTOOPT) => {
                "kernel 5.15 or later is needed (uname -r): this one has no SO_NETNS_COOKIE"
            }
            _ => "asking for the network namespace (SO_NETNS_COOKIE)",
        };
        return Err(error).context(why);
    }
    Ok(cookie)
}

/// `SO_NETNS_COOKIE` of `asm-generic/socket.h`; libc has no name for it.
const SO_NETNS_COOKIE: libc::c_int = 71;
