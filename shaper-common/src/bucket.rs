//! The token bucket: the virtual-scheduling form of the generic cell rate
//! algorithm (ITU-T I.371, annex A), with bytes in the place of cells.
//!
//! A bucket is one 64-bit word, its *theoretical arrival time* (TAT) in
//! nanoseconds of the kernel's monotonic clock. A TAT in the past is a full
//! bucket. How far it lies ahead of the clock is the bucket's *debt*; a packet
//! is refused while the debt exceeds `tau`, the time in which the rate refills
//! the burst.
//!
//! The check comes before the charge, so one aggregate larger than the burst
//! still passes and is paid for afterwards: the long-run rate is exact. With
//! several CPUs on one bucket the bytes passed in any interval `t` never exceed
//! rate × t + burst + one aggregate per CPU.
//!
//! Times are compared as TCP compares sequence numbers (RFC 1982): a word that
//! was taken below zero is in the past, and not 584 years ahead.

/// Binary places of the fixed-point emission interval. 20 of them hold
/// 1 kbit/s (8 ms a byte) times a 512 KiB aggregate in 64 bits, and 400 Gbit/s
/// (0.02 ns a byte) to 0.005 %.
pub const INTERVAL_SHIFT: u32 = 20;

/// How often a lost compare-and-swap is tried again before the packet is
/// charged by addition and passes (fail open, nothing uncounted).
pub const CAS_TRIES: u32 = 4;

/// The most that a bucket can owe: 146 years. More is not added, or it would
/// become the past.
pub const MAX_DEBT: u64 = 1 << 62;

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// One direction's limit as the kernel reads it. All zero: no limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Emission interval: nanoseconds per byte, shifted left by
    /// [`INTERVAL_SHIFT`]. Zero: no limit.
    pub interval: u64,
    /// Tolerance in nanoseconds: burst ÷ rate.
    pub tau: u64,
}

impl Limit {
    /// No limit.
    pub const NONE: Self = Self {
        interval: 0,
        tau: 0,
    };

    /// The limit of `bits_per_sec` with a burst of `burst_bytes`. The emission
    /// interval is rounded up, so the rate is never exceeded; a rate of zero is
    /// taken as 1 bit/s, because an interval of zero means no limit.
    #[must_use]
    pub const fn new(bits_per_sec: u64, burst_bytes: u64) -> Self {
        let rate = if bits_per_sec == 0 { 1 } else { bits_per_sec };
        let scaled = (8 * NANOS_PER_SEC as u128) << INTERVAL_SHIFT;
        let interval = saturate(scaled.div_ceil(rate as u128));
        let tau = saturate(burst_bytes as u128 * 8 * NANOS_PER_SEC as u128 / rate as u128);
        Self { interval, tau }
    }

    /// The slower of two limits; one that is unset is none.
    #[inline(always)]
    #[must_use]
    pub const fn tighter(self, other: Self) -> Self {
        if self.interval > other.interval {
            self
        } else {
            other
        }
    }

    /// `events` in `per_nanos` nanoseconds, with one event as the unit that is
    /// charged, and a burst of `burst` events.
    #[must_use]
    pub const fn per_event(events: u64, per_nanos: u64, burst: u64) -> Self {
        let events = if events == 0 { 1 } else { events } as u128;
        let interval = saturate(((per_nanos as u128) << INTERVAL_SHIFT).div_ceil(events));
        // The check comes before the charge: n events pass at once with a
        // tolerance of n - 1 intervals.
        let tau = saturate(burst.saturating_sub(1) as u128 * per_nanos as u128 / events);
        Self { interval, tau }
    }

    /// Whether there is a limit at all.
    #[inline(always)]
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.interval != 0
    }

    /// The rate in bits per second, as near as the fixed point holds it.
    #[must_use]
    pub const fn bits_per_sec(&self) -> u64 {
        if self.interval == 0 {
            return u64::MAX;
        }
        let scaled = (8 * NANOS_PER_SEC as u128) << INTERVAL_SHIFT;
        saturate((scaled + self.interval as u128 / 2) / self.interval as u128)
    }

    /// The burst in bytes, as near as the fixed point holds it.
    #[must_use]
    pub const fn burst_bytes(&self) -> u64 {
        if self.interval == 0 {
            return u64::MAX;
        }
        let scaled = (self.tau as u128) << INTERVAL_SHIFT;
        saturate((scaled + self.interval as u128 / 2) / self.interval as u128)
    }

    /// What `len` bytes cost, in nanoseconds, rounded up so that the rate is never
    /// exceeded: 1 ns a packet at most is lost. At 1 kbit/s 2 MiB fit.
    #[inline(always)]
    #[must_use]
    pub const fn cost(&self, len: u64) -> u64 {
        const UP: u64 = (1 << INTERVAL_SHIFT) - 1;
        len.wrapping_mul(self.interval).wrapping_add(UP) >> INTERVAL_SHIFT
    }
}

const fn saturate(value: u128) -> u64 {
    if value > u64::MAX as u128 {
        u64::MAX
    } else {
        value as u64
    }
}

/// The word that a bucket lives in. The kernel implements it with BPF atomics,
/// tests with `AtomicU64`.
pub trait Word {
    /// Reads the word.
    fn load(&self) -> u64;
    /// Stores `new` if the word still is `current`; `Err` has what it was.
    ///
    /// # Errors
    /// The value found, when it was another.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// Adds, wrapping.
    fn fetch_add(&self, value: u64);
}

/// What a bucket says to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Charged.
    Admitted {
        /// Nanoseconds that the bucket is now ahead of the clock.
        debt: u64,
        /// Nanoseconds that this packet cost: all of the debt, where the bucket
        /// was full.
        cost: u64,
    },
    /// Refused, and not charged.
    Refused,
}

/// Nanoseconds that the bucket is ahead of the clock; zero when it is full.
#[inline(always)]
#[must_use]
pub const fn debt(tat: u64, now: u64) -> u64 {
    let ahead = tat.wrapping_sub(now);
    if ahead.cast_signed() > 0 { ahead } else { 0 }
}

/// Checks the bucket and, when it admits, charges `len` bytes.
#[inline(always)]
pub fn admit<W: Word>(word: &W, now: u64, len: u64, limit: &Limit) -> Verdict {
    admitted(limit.cost(len), |cost| take(word, now, cost, limit.tau))
}

/// Charges `len` bytes whatever the bucket says: for packets that are never
/// dropped (SYN, FIN, RST, a bare ACK) and for traffic that has passed already.
#[inline(always)]
pub fn charge<W: Word>(word: &W, now: u64, len: u64, limit: &Limit) -> Verdict {
    admitted(limit.cost(len), |cost| take(word, now, cost, u64::MAX))
}

#[inline(always)]
fn admitted(cost: u64, take: impl FnOnce(u64) -> Option<u64>) -> Verdict {
    match take(cost) {
        Some(debt) => Verdict::Admitted { debt, cost },
        None => Verdict::Refused,
    }
}

/// Charges a cost in ns where the debt is at most `tau`, and returns the debt with
/// it. [`admit`] and [`charge`] in the kernel's terms.
#[inline(always)]
pub fn take<W: Word>(word: &W, now: u64, cost: u64, tau: u64) -> Option<u64> {
    let mut tat = word.load();
    let mut tries = 0;
    while tries < CAS_TRIES {
        let before = debt(tat, now);
        if before > tau {
            return None;
        }
        let debt = raise(before, cost);
        match word.compare_exchange(tat, now.wrapping_add(debt)) {
            Ok(_) => return Some(debt),
            Err(found) => tat = found,
        }
        tries += 1;
    }
    let before = debt(tat, now);
    let debt = raise(before, cost);
    word.fetch_add(debt - before);
    Some(debt)
}

/// A debt with a cost on top.
#[inline(always)]
const fn raise(debt: u64, cost: u64) -> u64 {
    if debt < MAX_DEBT { debt + cost } else { debt }
}

/// Cuts a debt to what this limit allows. A debt is time, so what was owed to a
/// slow limit would hold its client for as long under a fast one.
#[inline(always)]
pub fn forgive<W: Word>(word: &W, now: u64, limit: &Limit) {
    cut(word, now, limit.tau);
}

/// [`forgive`] in the kernel's terms: cuts a debt to `tau`.
#[inline(always)]
pub fn cut<W: Word>(word: &W, now: u64, tau: u64) {
    let mut tat = word.load();
    let mut tries = 0;
    while tries < CAS_TRIES && debt(tat, now) > tau {
        match word.compare_exchange(tat, now.wrapping_add(tau)) {
            Ok(_) => return,
            Err(found) => tat = found,
        }
        tries += 1;
    }
}

/// Takes a charge back, for a packet that another bucket refused afterwards.
#[inline(always)]
pub fn refund<W: Word>(word: &W, len: u64, limit: &Limit) {
    word.fetch_add(limit.cost(len).wrapping_neg());
}

/// Replaces a word by what `next` makes of it; given up, and false, when other
/// CPUs were faster each time.
#[inline(always)]
pub fn update<W: Word>(word: &W, next: impl Fn(u64) -> u64) -> bool {
    let mut current = word.load();
    let mut tries = 0;
    while tries < CAS_TRIES {
        match word.compare_exchange(current, next(current)) {
            Ok(_) => return true,
            Err(found) => current = found,
        }
        tries += 1;
    }
    false
}

#[cfg(test)]
mod interleaved;
#[cfg(test)]
mod tests;
