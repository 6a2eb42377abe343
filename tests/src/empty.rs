//! An empty classifier, as the measure of what a program run costs by itself.

use anyhow::{Context, Result};
use shaper_user::kernel::sys::bpf;
use std::time::Duration;

const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const SCHED_CLS: u32 = 3;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    _rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    _rest: [u64; 4],
}

/// Mean time of a run of `r0 = -1; exit`.
///
/// # Errors
/// When the kernel refuses the program or the run.
pub fn time(packet: &[u8], repeat: u32) -> Result<Duration> {
    // r0 = -1 (BPF_ALU64 | BPF_MOV | BPF_K); exit.
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"Dual MIT/GPL";
    let mut attr = LoadAttr {
        prog_type: SCHED_CLS,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: two instructions and a license that ends with a zero live on.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr) }.context("loading the empty program")?;
    let mut attr = TestAttr {
        prog_fd: u32::try_from(fd)?,
        data_size_in: u32::try_from(packet.len())?,
        data_in: packet.as_ptr() as u64,
        repeat,
        ..TestAttr::default()
    };
    // SAFETY: `packet` is as long as said, and nothing is written out.
    let run = unsafe { bpf(PROG_TEST_RUN, &mut attr) }.context("running the empty program");
    nix::unistd::close(i32::try_from(fd)?)?;
    run?;
    Ok(Duration::from_nanos(attr.duration.into()))
}
