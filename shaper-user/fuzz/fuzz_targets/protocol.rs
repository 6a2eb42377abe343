//! What a peer writes on the control socket.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shaper_user::fuzz::protocol(data));
