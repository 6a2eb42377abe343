//! The kernel programs' packet parser.

#![no_main]

extern crate self as aya_ebpf;

#[path = "../packet.rs"]
mod packet;

use packet::{bindings, helpers, programs};

libfuzzer_sys::fuzz_target!(|data: &[u8]| packet::packet(data));
