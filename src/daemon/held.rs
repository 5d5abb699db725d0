//! What the daemon holds of its legs beside the mirror: their locks, and what is asked of them.
//!
//! Invariant: the lock on a leg is not given back while a call is under way on it. Such a call can change the
//! leg yet, so nobody may make it equal to the other one before the call has come back: not this daemon, and
//! no other.

use std::sync::Arc;
use std::time::Duration;

use crate::legs::timed::Calls;
use crate::legs::{LegId, PerLeg};
use crate::owner::Owner;
use crate::sync::{self, Mutex, Rank};

use super::waits::Waits;

/// How long what is about to end may take: closing files that were open.
const A_LITTLE: Duration = Duration::from_secs(2);

/// See the module.
pub struct Held {
    legs: PerLeg<Mutex<One>>,
    /// Of what is no leg, or none any more.
    dismissed: Mutex<Vec<Arc<One>>>,
    waits: Waits,
}

/// What is held of one leg.
struct One {
    owner: Option<Owner>,
    calls: Option<Calls>,
}

impl One {
    fn under_way(&self) -> usize {
        self.calls.as_ref().map_or(0, Calls::under_way)
    }
}

impl Held {
    /// The locks that are held, and what is asked of the legs that are there.
    pub fn new(mut owners: PerLeg<Option<Owner>>, mut calls: PerLeg<Option<Calls>>, waits: Waits) -> Held {
        let one = |leg| One { owner: owners[leg].take(), calls: calls[leg].take() };
        let legs = PerLeg::from_fn(one).map(|one| Mutex::new(Rank::Leaf, one));
        Held { legs, dismissed: Mutex::new(Rank::Leaf, Vec::new()), waits }
    }

    /// A leg has been taken in.
    pub fn take(&self, leg: LegId, owner: Owner, calls: Calls) {
        *self.legs[leg].lock() = One { owner: Some(owner), calls: Some(calls) };
    }

    /// A leg has taken another's place, of which nothing is asked any more.
    pub fn take_over(&self, leg: LegId, owner: Owner, calls: Calls) {
        let new = One { owner: Some(owner), calls: Some(calls) };
        let old = std::mem::replace(&mut *self.legs[leg].lock(), new);
        self.dismiss_one(old);
    }

    /// A directory has not become a leg, and nothing is asked of it any more.
    pub fn dismiss(&self, owner: Owner, calls: Calls) {
        self.dismiss_one(One { owner: Some(owner), calls: Some(calls) });
    }

    fn dismiss_one(&self, one: One) {
        self.dismissed.lock().push(Arc::new(one));
        self.let_go_of_dismissed();
    }

    /// Gives the locks back of what was dismissed and is quiet by now.
    pub fn let_go_of_dismissed(&self) {
        let dismissed = self.dismissed.lock().clone();
        let quiet: Vec<_> = dismissed.into_iter().filter(|one| one.under_way() == 0).collect();
        self.dismissed.lock().retain(|one| !quiet.iter().any(|quiet| Arc::ptr_eq(one, quiet)));
        if !quiet.is_empty() {
            // They are files on disks that may hang.
            self.waits.within(move || drop(quiet));
        }
    }

    /// What is asked of a leg.
    pub fn calls(&self, leg: LegId) -> Option<Calls> {
        self.legs[leg].lock().calls.clone()
    }

    /// Calls on a leg that have not come back.
    pub fn under_way(&self, leg: LegId) -> usize {
        self.calls(leg).map_or(0, |calls| calls.under_way())
    }

    /// Whether nothing is under way on a leg, after waiting a little for what is about to end.
    pub fn is_quiet(&self, leg: LegId) -> bool {
        self.calls(leg).is_none_or(|calls| is_quiet(&calls))
    }

    /// Gives the lock of a leg back, of which nothing is asked any more; not while calls are under way on it.
    /// Whether it has been given back. `old`: what was asked of it, from before it was known to be away. One that has taken
    /// its place since keeps its lock.
    pub fn let_go(&self, leg: LegId, old: Option<&Calls>) -> bool {
        if !old.is_none_or(is_quiet) {
            return false;
        }
        let mut now = self.legs[leg].lock();
        let is_old = match (&now.calls, old) {
            (Some(now), Some(old)) => now.is_same(old),
            (now, old) => now.is_none() && old.is_none(),
        };
        let owner = if is_old { now.owner.take() } else { None };
        drop(now);
        // It is a file on the leg: closing it may hang, too.
        owner.is_none_or(|owner| self.waits.within(move || drop(owner)).is_some())
    }

    /// At the end of the mount. The process itself may not end for long: a thread that hangs in one leg keeps
    /// it, and with it the lock on the other, which the next mount needs.
    pub fn let_go_of_all(&self) {
        for leg in LegId::ALL {
            if !self.let_go(leg, self.calls(leg).as_ref()) {
                log::warn!(
                    "leg {leg} still has calls under way: its lock is kept until they come back and the process ends"
                );
                // ORDER: it ends with the process, and so with the last call.
                std::mem::forget(self.legs[leg].lock().owner.take());
            }
        }
        self.let_go_of_dismissed();
        // ORDER: likewise.
        std::mem::forget(self.dismissed.lock().clone());
    }

    /// Nothing is waited for any longer than `leg_timeout`, whether or not the mirror could do without the leg.
    pub fn stop_waiting(&self) {
        for calls in LegId::ALL.into_iter().filter_map(|leg| self.calls(leg)) {
            calls.patience().on_hung(None);
        }
    }

    /// Whether calls are under way on a leg that was given up.
    pub fn is_stuck(&self) -> bool {
        LegId::ALL
            .into_iter()
            .filter_map(|leg| self.calls(leg))
            .any(|calls| calls.patience().check().is_err() && calls.under_way() > 0)
    }
}

fn is_quiet(calls: &Calls) -> bool {
    #[cfg(feature = "simulation")]
    if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::TakenWhenQuiet) {
        return true;
    }
    let end = sync::now() + A_LITTLE;
    while calls.under_way() > 0 {
        if sync::now() >= end {
            return false;
        }
        sync::sleep(Duration::from_millis(5));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::timed::{Couriers, Patience};
    use std::os::fd::AsFd;

    fn calls(couriers: &Couriers) -> Calls {
        Calls::of(Patience::new(couriers.clone(), Duration::ZERO, Arc::new(|| ())))
    }

    /// The directory of a leg, and the lock on it.
    fn owned() -> (tempfile::TempDir, Owner) {
        let top = tempfile::tempdir().unwrap();
        let state = std::fs::File::open(top.path()).unwrap();
        let owner = Owner::exclusive(state.as_fd(), LegId::B, top.path()).unwrap();
        (top, owner)
    }

    fn is_locked(leg: &tempfile::TempDir) -> bool {
        let state = std::fs::File::open(leg.path()).unwrap();
        Owner::exclusive(state.as_fd(), LegId::B, leg.path()).is_err()
    }

    /// Who lets go of the old one still waits for it when the new one is there.
    #[test]
    fn the_lock_of_a_leg_that_has_taken_the_place_stays_and_the_old_one_is_kept_while_it_hangs() {
        let couriers = Couriers::start().unwrap();
        let (old, new) = (calls(&couriers), calls(&couriers));
        let ((old_at, old_owner), (new_at, new_owner)) = (owned(), owned());
        let (go_on, hangs) = crossbeam_channel::bounded::<()>(0);
        old.patience().leave_to_a_courier(move || hangs.recv().unwrap_or_default());
        let held = Held::new(
            PerLeg::new(None, Some(old_owner)),
            PerLeg::new(None, Some(old.clone())),
            Waits::start(Duration::ZERO).unwrap(),
        );
        std::thread::scope(|scope| {
            let letting_go = scope.spawn(|| held.let_go(LegId::B, Some(&old)));
            held.take_over(LegId::B, new_owner, new);
            assert!(is_locked(&old_at) && is_locked(&new_at));
            drop(go_on);
            letting_go.join().unwrap();
        });
        assert!(is_quiet(&old));
        held.let_go_of_dismissed();
        assert!(!is_locked(&old_at));
        assert!(is_locked(&new_at));
    }
}
