//! The policy file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| shaper_user::fuzz::policy(data));
