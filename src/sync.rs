//! Locks with a rank, so that their order is written once and checked in debug builds; and the
//! seam at which the simulation takes over scheduling (feature `simulation`).
//!
//! A thread may take a lock only if its rank is higher than that of every lock it holds, or equal
//! where [`Rank`] says that several of one rank may be held in a stated order. All of the mirror's locks come from
//! here. `parking_lot` is named by the simulation's scheduler, which lies under this, and by what the daemon keeps
//! around a mirror, which is not simulated.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(feature = "simulation")]
use crate::sim::scheduler as turns;

/// Who runs next is the system's business: every hook is empty.
#[cfg(not(feature = "simulation"))]
mod turns {
    use super::Rank;

    #[inline(always)]
    pub fn acquire<G>(_: Rank, _: usize, _: impl FnMut() -> Option<G>) -> Option<G> {
        None
    }

    #[inline(always)]
    pub fn released(_: usize) {}
}

/// The order in which locks are taken: from the top of this list downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// One resync at a time, and none while a leg is taken in. Held as long as that takes.
    Resync,
    /// One clearing of slots at a time, and none while a leg is taken in, or takes another's place. I/O happens under it.
    Sweep,
    /// The gate that lets changes wait for the namespace phase of a resync. I/O happens under it.
    Gate,
    /// Taken by a rename that concerns two directories, before their locks: with at most one such
    /// rename at a time "ancestor first, else by number" cannot form a circle (O6).
    Rename,
    /// An object's own lock: entries of a directory, data and metadata of a file. I/O happens under
    /// it. Several may be held: directories first (ancestor before descendant, else by inode
    /// number), then what is in them (O6).
    Object,
    /// The mirror's state (active, read-only, which leg is faulted) and the superblocks. I/O
    /// happens under it.
    State,
    /// The inode table and the open handles. Never I/O.
    Table,
    /// How one object is found. Never I/O.
    Names,
    /// The cache of pinned nodes. Never I/O.
    Pins,
    /// The bitmap's slots. Never I/O.
    Bitmap,
    /// The bitmap's flush state. Never I/O.
    Flush,
    /// That only one syncs all of a leg at a time. I/O happens under it.
    Sync,
    /// Leaves: counters, progress, the simulated leg's own state. Nothing is taken under them.
    Leaf,
}

#[cfg(debug_assertions)]
mod held {
    use super::Rank;
    use std::cell::RefCell;

    thread_local!(static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) });

    pub fn push(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            if let Some(&highest) = held.iter().max() {
                let repeatable = rank == Rank::Object;
                assert!(
                    rank > highest || (rank == highest && repeatable),
                    "lock order: {rank:?} wanted while {highest:?} is held"
                );
            }
            held.push(rank);
        });
    }

    pub fn pop(rank: Rank) {
        // A thread being torn down has no list any more, and no order to check.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|&one| one == rank) {
                held.remove(at);
            }
        });
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;
    #[inline(always)]
    pub fn push(_: Rank) {}
    #[inline(always)]
    pub fn pop(_: Rank) {}
}

/// Gives a guard's rank back when the guard is dropped, and tells the simulation. Declared after the
/// guard's inner field, so that the lock itself is free first.
struct Ranked {
    rank: Rank,
    address: usize,
}

impl Drop for Ranked {
    fn drop(&mut self) {
        held::pop(self.rank);
        turns::released(self.address);
    }
}

/// Where a lock or condition is: its name while it lives.
fn address<T: ?Sized>(of: &T) -> usize {
    std::ptr::from_ref(of).addr()
}

/// A mutual exclusion lock of a known rank.
pub struct Mutex<T: ?Sized> {
    rank: Rank,
    inner: parking_lot::Mutex<T>,
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T: ?Sized> {
    inner: parking_lot::MutexGuard<'a, T>,
    _ranked: Ranked,
}

impl<T> Mutex<T> {
    /// A free lock of this rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Mutex { rank, inner: parking_lot::Mutex::new(value) }
    }

    /// Takes the lock, waiting for it if need be.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        held::push(self.rank);
        let ranked = Ranked { rank: self.rank, address: address(self) };
        let inner = turns::acquire(ranked.rank, ranked.address, || self.inner.try_lock());
        MutexGuard { inner: inner.unwrap_or_else(|| self.inner.lock()), _ranked: ranked }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A lock of a known rank that many may hold to read, or one to change.
pub struct RwLock<T: ?Sized> {
    rank: Rank,
    inner: parking_lot::RwLock<T>,
}

/// Holds a [`RwLock`] to read.
pub struct ReadGuard<'a, T: ?Sized> {
    inner: parking_lot::RwLockReadGuard<'a, T>,
    _ranked: Ranked,
}

/// Holds a [`RwLock`] to change.
pub struct WriteGuard<'a, T: ?Sized> {
    inner: Exclusive<'a, T>,
    _ranked: Ranked,
}

/// What a [`WriteGuard`] holds.
enum Exclusive<'a, T: ?Sized> {
    Really(parking_lot::RwLockWriteGuard<'a, T>),
    /// Shared with others who believe the same: a lock that a test has broken on purpose.
    #[cfg(feature = "simulation")]
    Broken(parking_lot::RwLockReadGuard<'a, T>),
}

impl<T> RwLock<T> {
    /// A free lock of this rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        RwLock { rank, inner: parking_lot::RwLock::new(value) }
    }

    /// Takes the lock to read, waiting for it if need be.
    pub fn read(&self) -> ReadGuard<'_, T> {
        held::push(self.rank);
        let ranked = Ranked { rank: self.rank, address: address(self) };
        let inner = turns::acquire(ranked.rank, ranked.address, || self.inner.try_read());
        ReadGuard { inner: inner.unwrap_or_else(|| self.inner.read()), _ranked: ranked }
    }

    /// Takes the lock to change, waiting for it if need be.
    pub fn write(&self) -> WriteGuard<'_, T> {
        held::push(self.rank);
        let ranked = Ranked { rank: self.rank, address: address(self) };
        #[cfg(feature = "simulation")]
        if turns::lock_is_broken(self.rank) {
            let inner = turns::acquire(ranked.rank, ranked.address, || self.inner.try_read());
            let inner = inner.unwrap_or_else(|| self.inner.read());
            return WriteGuard { inner: Exclusive::Broken(inner), _ranked: ranked };
        }
        let inner = turns::acquire(ranked.rank, ranked.address, || self.inner.try_write());
        let inner = inner.unwrap_or_else(|| self.inner.write());
        WriteGuard { inner: Exclusive::Really(inner), _ranked: ranked }
    }
}

/// For so long who comes to read waits behind [`RwLock::write_unless`].
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);

impl<T> RwLock<T> {
    /// As [`write`](Self::write), unless `enough` says meanwhile that it is not wanted any more: that is asked
    /// every now and then. Who comes to read waits behind it at times, and at others is let in before it.
    pub fn write_unless(&self, enough: impl Fn() -> bool) -> Option<WriteGuard<'_, T>> {
        #[cfg(feature = "simulation")]
        if turns::is_simulated() {
            return Some(self.write());
        }
        held::push(self.rank);
        let ranked = Ranked { rank: self.rank, address: address(self) };
        for tries in 0.. {
            if let Some(inner) = self.inner.try_write_for(PATIENCE * (1 + tries).min(20)) {
                return Some(WriteGuard { inner: Exclusive::Really(inner), _ranked: ranked });
            }
            if enough() {
                return None;
            }
            // Whoever comes to read has waited meanwhile. Who holds it may do so for very long.
            std::thread::sleep(PATIENCE * tries.min(10));
        }
        unreachable!("there is no end of tries")
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match &self.inner {
            Exclusive::Really(guard) => guard,
            #[cfg(feature = "simulation")]
            Exclusive::Broken(guard) => guard,
        }
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Exclusive::Really(guard) => guard,
            #[cfg(feature = "simulation")]
            Exclusive::Broken(_) => unreachable!("a broken lock guards nothing but the order of calls"),
        }
    }
}

/// A condition variable for [`Mutex`]. Wake-ups may be spurious: wait in a loop on the condition.
#[derive(Default)]
pub struct Condvar {
    inner: parking_lot::Condvar,
}

impl Condvar {
    /// One that nobody waits for yet.
    pub const fn new() -> Self {
        Condvar { inner: parking_lot::Condvar::new() }
    }

    /// Gives the lock up, waits to be notified, takes the lock again.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        #[cfg(feature = "simulation")]
        if self.wait_for_turn(guard, false) {
            return;
        }
        self.inner.wait(&mut guard.inner);
    }

    /// As [`wait`](Self::wait), but for `timeout` at most.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: std::time::Duration) {
        #[cfg(feature = "simulation")]
        if self.wait_for_turn(guard, true) {
            return;
        }
        self.inner.wait_for(&mut guard.inner, timeout);
    }

    /// The wait of a simulated thread; false, and nothing done, on any other.
    #[cfg(feature = "simulation")]
    fn wait_for_turn<T>(&self, guard: &mut MutexGuard<'_, T>, timed: bool) -> bool {
        if !turns::is_simulated() {
            return false;
        }
        let lock = guard._ranked.address;
        let mutex = parking_lot::MutexGuard::mutex(&guard.inner);
        parking_lot::MutexGuard::unlocked(&mut guard.inner, || {
            turns::wait(address(self), lock, timed, || !mutex.is_locked());
        });
        turns::after_wait();
        true
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.inner.notify_all();
        turns::released(address(self));
    }
}

/// The time by which waits and rates are judged; on simulated threads it is simulated too.
pub fn now() -> std::time::Instant {
    #[cfg(feature = "simulation")]
    if let Some(now) = turns::now() {
        return now;
    }
    std::time::Instant::now()
}

/// Lets `time` pass; on simulated threads that is simulated too.
pub fn sleep(time: std::time::Duration) {
    #[cfg(feature = "simulation")]
    if turns::is_simulated() {
        let (nobody, end) = (Condvar::new(), now() + time);
        let lock = Mutex::new(Rank::Leaf, ());
        let mut asleep = lock.lock();
        while now() < end {
            nobody.wait_for(&mut asleep, time);
        }
        return;
    }
    std::thread::sleep(time);
}

/// Runs both, at the same time where that helps, and returns both results.
///
/// For what blocks on a device: fsync on the two legs, the two copies of a bitmap page. Page-cache
/// writes are cheaper one after another in place.
pub fn join<A, B>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B)
where
    A: Send,
    B: Send,
{
    #[cfg(feature = "simulation")]
    if turns::is_simulated() {
        return turns::join(a, b);
    }
    crate::sys::helpers::join(a, b)
}

/// Does `work` for each of `items`, by as many at the same time as there are `workers`, and returns the results in the
/// order of the items. They are begun in that order, too.
///
/// On simulated threads it follows from the run's seed who does what, and when.
pub fn each<W: Send, T: Sync, R: Send>(
    workers: &mut [W],
    items: &[T],
    work: impl Fn(&mut W, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let mut results = take_turns(workers, items, &next, &work);
    results.sort_unstable_by_key(|&(at, _)| at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The first of the workers takes items as long as there are any, and so do the others beside him.
fn take_turns<W: Send, T: Sync, R: Send>(
    workers: &mut [W],
    items: &[T],
    next: &AtomicUsize,
    work: &(impl Fn(&mut W, &T) -> R + Sync),
) -> Vec<(usize, R)> {
    let Some((first, others)) = workers.split_first_mut() else { return Vec::new() };
    let mut take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(first, item)));
        }
    };
    if others.is_empty() {
        return take();
    }
    let (mut done, more) = join(take, || take_turns(others, items, next, work));
    done.extend(more);
    done
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn each_item_has_its_turn_once_and_results_come_in_their_order() {
        for workers in 1..5 {
            let mut counts = vec![0; workers];
            let items: Vec<usize> = (0..500).collect();
            let results = each(&mut counts, &items, |count, item| {
                *count += 1;
                2 * item
            });
            assert_eq!(results, items.iter().map(|item| 2 * item).collect::<Vec<_>>());
            assert_eq!(counts.iter().sum::<usize>(), 500);
        }
    }

    #[test]
    fn as_many_are_at_work_at_the_same_time_as_there_are_workers() {
        let all_are_here = Barrier::new(4);
        each(&mut [(); 4], &[(); 4], |(), ()| {
            all_are_here.wait();
        });
    }
}
