//! The socket options that are set, by their kernel numbers.

pub const SOL_SOCKET: i32 = 1;
/// Bytes per second: the kernel takes 32 bits from a program.
pub const SO_MAX_PACING_RATE: i32 = 47;
/// All bits: not paced.
pub const UNPACED: u32 = u32::MAX;

pub const SOL_TCP: i32 = 6;
/// Segments.
pub const TCP_BPF_SNDCWND_CLAMP: i32 = 1002;
/// The most that it takes: any number of segments.
pub const ANY: u32 = i32::MAX as u32;
/// Linux 6.12.
pub const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;
