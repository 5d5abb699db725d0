//! Gives way to the user: while the mirror is in use, the data phase does no more than its
//! guaranteed minimum; as soon as nobody uses it, all it can and may.
//!
//! Never waits while a lock is held: it is asked between two pieces of work.

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, Rank, now};

/// How fast the data phase goes, in bytes of a file a second. As md's speed limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What it may do while the mirror is in use: a resync under load still ends. Zero: it waits until nobody
    /// uses the mirror.
    pub min: u64,
    /// What it never exceeds, and that goes before `min`. Zero: as fast as it can.
    pub max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { min: 8 << 20, max: 0 }
    }
}

/// How long to wait before looking again whether the user has stopped.
const SLICE: Duration = Duration::from_millis(10);

/// How long to wait before looking again for what could not be found.
const RETRY: Duration = Duration::from_secs(1);

/// Paces one resync.
pub(super) struct Throttle {
    limits: Limits,
    seen: u64,
    piece_started: Instant,
    sleeping: Mutex<()>,
    never: Condvar,
}

impl Throttle {
    /// `user_operations` as it is now.
    pub fn new(limits: Limits, user_operations: u64) -> Throttle {
        Throttle {
            limits,
            seen: user_operations,
            piece_started: now(),
            sleeping: Mutex::new(Rank::Leaf, ()),
            never: Condvar::new(),
        }
    }

    /// Called after a piece of `bytes`: waits if the user was active meanwhile, for as long as he
    /// stays so and the minimum rate allows; and, whoever is active, for as long as the maximum demands.
    pub fn pace(&mut self, bytes: u64, user_operations: impl Fn() -> u64, stop: impl Fn() -> bool) {
        let latest = time_for(bytes, self.limits.min).unwrap_or(Duration::MAX);
        let earliest = time_for(bytes, self.limits.max).unwrap_or(Duration::ZERO);
        let mut count = user_operations();
        loop {
            let taken = now() - self.piece_started;
            if stop() || taken >= earliest && (count == self.seen || taken >= latest) {
                break;
            }
            self.seen = count;
            let slice = if taken < earliest { (earliest - taken).min(SLICE) } else { SLICE };
            self.never.wait_for(&mut self.sleeping.lock(), slice);
            count = user_operations();
        }
        self.seen = count;
        self.piece_started = now();
    }

    /// Waits for what goes on to be over, for [`RETRY`] at most.
    pub fn rest(&mut self, stop: impl Fn() -> bool) {
        let began = now();
        while now() - began < RETRY && !stop() {
            self.never.wait_for(&mut self.sleeping.lock(), SLICE);
        }
        self.piece_started = now();
    }
}

/// How long a piece takes at `rate` bytes a second; `None` at no rate.
fn time_for(bytes: u64, rate: u64) -> Option<Duration> {
    let micros = (u128::from(bytes) * 1_000_000).checked_div(u128::from(rate))?;
    Some(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const SLOWEST: Limits = Limits { min: 1, max: 0 };

    fn throttle(limits: Limits) -> Throttle {
        Throttle::new(limits, 0)
    }

    #[test]
    fn a_rate_gives_a_time() {
        assert_eq!(time_for(8 << 20, 8 << 20), Some(Duration::from_secs(1)));
        assert_eq!(time_for(0, 8 << 20), Some(Duration::ZERO));
        assert_eq!(time_for(u64::MAX, 1), Some(Duration::from_micros(u64::MAX)));
        assert_eq!(time_for(1, 0), None);
    }

    #[test]
    fn under_load_a_piece_takes_as_long_as_at_the_minimum_rate() {
        let asked = Cell::new(0u64);
        let always_active = || {
            asked.set(asked.get() + 1);
            asked.get()
        };
        let mut throttle = throttle(Limits { min: 1 << 20, max: 0 });
        let began = now();
        throttle.pace(64 << 10, always_active, || false);
        assert!(now() - began >= Duration::from_micros(62_500) - SLICE);
    }

    #[test]
    fn an_idle_mirror_does_not_lift_the_maximum_and_it_goes_before_the_minimum() {
        let mut throttle = throttle(Limits { min: 1 << 30, max: 1 << 20 });
        let began = now();
        throttle.pace(64 << 10, || 0, || false);
        assert!(now() - began >= Duration::from_micros(62_500) - SLICE);
    }

    #[test]
    fn a_stop_ends_the_wait_for_the_maximum() {
        throttle(Limits { min: 0, max: 1 }).pace(1 << 50, || 0, || true);
    }

    #[test]
    fn an_idle_mirror_is_not_waited_for() {
        let asked = Cell::new(0);
        let count = || {
            asked.set(asked.get() + 1);
            7
        };
        Throttle::new(SLOWEST, 7).pace(1 << 40, count, || false);
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn waiting_ends_when_the_user_stops() {
        let asked = Cell::new(0u64);
        let active_twice = || {
            asked.set(asked.get() + 1);
            asked.get().min(3)
        };
        for limits in [SLOWEST, Limits { min: 0, max: 0 }] {
            asked.set(0);
            throttle(limits).pace(1 << 50, active_twice, || false);
            assert_eq!(asked.get(), 4, "{limits:?}");
        }
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let asked = Cell::new(0u64);
        let always_active = || {
            asked.set(asked.get() + 1);
            asked.get()
        };
        throttle(SLOWEST).pace(1 << 50, always_active, || asked.get() > 2);
        assert_eq!(asked.get(), 3);
    }
}
