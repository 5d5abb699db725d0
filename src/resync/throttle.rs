//! Gives way to the user: while the mirror is in use, the data phase does no more than its
//! guaranteed minimum; as soon as nobody uses it, all it can.
//!
//! Never waits while a lock is held: it is asked between two pieces of work.

use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, Rank, now};

/// What the data phase may always do, in bytes a second: a resync under load still ends.
const MINIMUM_RATE: u64 = 8 << 20;

/// How long to wait before looking again whether the user has stopped.
const SLICE: Duration = Duration::from_millis(10);

/// How long to wait before looking again for what could not be found.
const RETRY: Duration = Duration::from_secs(1);

/// Paces one resync.
pub(super) struct Throttle {
    seen: u64,
    piece_started: Instant,
    sleeping: Mutex<()>,
    never: Condvar,
}

impl Throttle {
    /// `user_operations` as it is now.
    pub fn new(user_operations: u64) -> Throttle {
        Throttle {
            seen: user_operations,
            piece_started: now(),
            sleeping: Mutex::new(Rank::Leaf, ()),
            never: Condvar::new(),
        }
    }

    /// Called after a piece of `bytes`: waits if the user was active meanwhile, for as long as he
    /// stays so and the minimum rate allows.
    pub fn pace(&mut self, bytes: u64, user_operations: impl Fn() -> u64, stop: impl Fn() -> bool) {
        let due = due_after(bytes);
        let mut count = user_operations();
        while count != self.seen && now() - self.piece_started < due && !stop() {
            self.seen = count;
            self.never.wait_for(&mut self.sleeping.lock(), SLICE);
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

/// How long a piece may take at the minimum rate.
fn due_after(bytes: u64) -> Duration {
    Duration::from_micros((u128::from(bytes) * 1_000_000 / u128::from(MINIMUM_RATE)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_minimum_rate_bounds_the_wait() {
        assert_eq!(due_after(MINIMUM_RATE), Duration::from_secs(1));
        assert_eq!(due_after(0), Duration::ZERO);
    }

    #[test]
    fn an_idle_mirror_is_not_waited_for() {
        let asked = Cell::new(0);
        let count = || {
            asked.set(asked.get() + 1);
            7
        };
        Throttle::new(7).pace(1 << 40, count, || false);
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn waiting_ends_when_the_user_stops() {
        let asked = Cell::new(0u64);
        let active_twice = || {
            asked.set(asked.get() + 1);
            asked.get().min(3)
        };
        // At the minimum rate this piece would take days.
        Throttle::new(0).pace(1 << 50, active_twice, || false);
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let asked = Cell::new(0u64);
        let always_active = || {
            asked.set(asked.get() + 1);
            asked.get()
        };
        Throttle::new(0).pace(1 << 50, always_active, || asked.get() > 2);
        assert_eq!(asked.get(), 3);
    }
}
