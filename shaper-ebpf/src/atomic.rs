//! Atomics on map memory. The BPF target has the instructions, and no
//! `core::sync::atomic` methods for them.

use core::intrinsics::{
    AtomicOrdering::{Relaxed, SeqCst},
    atomic_and, atomic_cxchg, atomic_or, atomic_xadd,
};
use shaper_common::bucket::{CAS_TRIES, Word};

/// A bucket's word in a map value.
pub struct MapWord(*mut u64);

impl MapWord {
    /// # Safety
    /// `word` points into a live map value, 8-byte aligned, and outlives the
    /// `MapWord`.
    #[inline(always)]
    pub unsafe fn new(word: *mut u64) -> Self {
        Self(word)
    }

    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u64 {
        self.0
    }
}

impl Word for MapWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: valid and aligned by the contract of `new`; volatile because
        // other CPUs write it.
        unsafe { core::ptr::read_volatile(self.0) }
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        // SAFETY: valid and aligned by the contract of `new`.
        let (found, swapped) =
            unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(self.0, current, new) };
        if swapped { Ok(found) } else { Err(found) }
    }

    #[inline(always)]
    fn fetch_add(&self, value: u64) {
        // SAFETY: valid and aligned by the contract of `new`.
        unsafe { add(self.0, value) };
    }
}

/// Adds to a counter.
///
/// # Safety
/// `counter` points into a live map value and is 8-byte aligned.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: by this function's contract.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(counter, value) };
}

/// Adds to a 32-bit counter and returns what it was.
///
/// # Safety
/// `counter` points into a live map value and is 4-byte aligned.
#[inline(always)]
pub unsafe fn fetch_add32(counter: *mut u32, value: u32) -> u32 {
    // SAFETY: by this function's contract.
    unsafe { atomic_xadd::<u32, u32, { SeqCst }>(counter, value) }
}

/// Takes one from a 32-bit counter, never below zero.
///
/// # Safety
/// `counter` points into a live map value and is 4-byte aligned.
#[inline(always)]
pub unsafe fn decrement32(counter: *mut u32) {
    // SAFETY: by this function's contract; volatile because other CPUs write it.
    let mut current = unsafe { core::ptr::read_volatile(counter) };
    let mut tries = 0;
    while tries < CAS_TRIES && current != 0 {
        // SAFETY: by this function's contract.
        let (found, swapped) =
            unsafe { atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(counter, current, current - 1) };
        if swapped {
            return;
        }
        current = found;
        tries += 1;
    }
    if current != 0 {
        // SAFETY: by this function's contract.
        unsafe { fetch_add32(counter, u32::MAX) };
    }
}

/// Sets bits and returns whether any of them was clear.
///
/// # Safety
/// `flags` points into a live map value and is 4-byte aligned.
#[inline(always)]
pub unsafe fn set_bits(flags: *mut u32, bits: u32) -> bool {
    // SAFETY: by this function's contract.
    unsafe { atomic_or::<u32, u32, { SeqCst }>(flags, bits) & bits != bits }
}

/// Clears bits and returns whether any of them was set.
///
/// # Safety
/// `flags` points into a live map value and is 4-byte aligned.
#[inline(always)]
pub unsafe fn clear_bits(flags: *mut u32, bits: u32) -> bool {
    // SAFETY: by this function's contract.
    unsafe { atomic_and::<u32, u32, { SeqCst }>(flags, !bits) & bits != 0 }
}
