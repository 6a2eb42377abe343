//! Segmentation and checksum offloads, by the ioctl that `ethtool -K` uses.

use anyhow::{Context, Result};
use nix::libc;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// `ETHTOOL_STXCSUM`, `ETHTOOL_STSO`, `ETHTOOL_SGSO`, `ETHTOOL_SGRO`
/// (include/uapi/linux/ethtool.h), in the order that switches all off: TSO
/// goes with the checksum.
const FEATURES: [u32; 4] = [0x17, 0x1f, 0x24, 0x2c];
const SIOCETHTOOL: libc::c_ulong = 0x8946;

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Switches transmit checksum, TSO, GSO and GRO of an interface in the calling
/// thread's namespace. Off, every packet is one frame with a real checksum.
///
/// # Errors
/// When there is no such interface, or it refuses.
pub fn set(interface: &str, on: bool) -> Result<()> {
    set_features(&FEATURES, interface, on)
}

/// Switches GRO alone, which joins the segments that arrive.
///
/// # Errors
/// When there is no such interface, or it refuses.
pub fn set_gro(interface: &str, on: bool) -> Result<()> {
    set_features(&FEATURES[3..], interface, on)
}

fn set_features(features: &[u32], interface: &str, on: bool) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"))?;
    for command in features {
        let mut value = Value {
            command: *command,
            data: u32::from(on),
        };
        // SAFETY: ifreq is plain data, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(15)) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the request and the value it points to live through the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        nix::errno::Errno::result(result)
            .with_context(|| format!("cannot switch offload {command:#x} of {interface}"))?;
    }
    Ok(())
}
