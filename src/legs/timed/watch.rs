//! Noticing that a call which a thread makes itself does not come back.
//!
//! Each thread has a cell for each leg it asks: odd while a call is under way, and another number for
//! each call. Only its thread writes it: one plain store before a call, one after. The watchdog reads all
//! cells in rounds, [`PARTS`] of them in a timeout. A call's age is counted in rounds and not by the
//! clock, so that a machine which was paused has not aged it.
//!
//! A call that has been under way for half the timeout makes the watchdog probe the leg, as in
//! [`patience`](super::patience). The stuck thread itself goes on when the kernel lets it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::patience::{LONGEST, PARTS, Patience};
use crate::sync::{Mutex, Rank};

/// A line of the cache each, as others are written by other threads.
#[repr(align(64))]
struct Cell(AtomicU64);

thread_local!(static CELLS: RefCell<Vec<(u64, Arc<Cell>)>> = const { RefCell::new(Vec::new()) });

/// The calls that threads make to one leg in place.
pub struct Watch {
    /// Which: an address could be used again.
    id: u64,
    cells: Mutex<Vec<Arc<Cell>>>,
}

impl Watch {
    /// Nobody asks yet.
    pub fn new() -> Arc<Watch> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Watch { id, cells: Mutex::new(Rank::Leaf, Vec::new()) })
    }

    /// Does `work`, seen by the watchdog.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut work = Some(work);
        let mut run = |cell: Option<&Cell>| {
            let _seen = cell.map(Seen::new);
            work.take().map(|work| work())
        };
        let done = CELLS.try_with(|cells| {
            let known = cells.borrow().iter().any(|(id, _)| *id == self.id);
            // Refused within another call of this thread: the inner one goes unseen.
            if !known && let Ok(mut cells) = cells.try_borrow_mut() {
                // Those of legs that are gone are nobody's but ours.
                cells.retain(|(_, cell)| Arc::strong_count(cell) > 1);
                cells.push((self.id, self.new_cell()));
            }
            let cells = cells.borrow();
            run(cells.iter().find(|(id, _)| *id == self.id).map(|(_, cell)| &**cell))
        });
        // A thread that is being torn down has no cells any more, and goes unseen.
        let done = done.ok().flatten().or_else(|| run(None));
        done.expect("the work has been done once, by the one or by the other")
    }

    fn new_cell(&self) -> Arc<Cell> {
        let cell = Arc::new(Cell(AtomicU64::new(0)));
        self.cells.lock().push(cell.clone());
        cell
    }

    /// Calls under way.
    pub fn under_way(&self) -> usize {
        self.cells.lock().iter().filter(|cell| is_call(cell.0.load(Ordering::SeqCst))).count()
    }

    /// The numbers of the calls under way, with their cells'. Forgets cells whose threads have ended.
    fn look(&self) -> Vec<(usize, u64)> {
        let mut cells = self.cells.lock();
        cells.retain(|cell| Arc::strong_count(cell) > 1);
        let calls = cells.iter().map(|cell| (Arc::as_ptr(cell).addr(), cell.0.load(Ordering::Relaxed)));
        calls.filter(|(_, number)| is_call(*number)).collect()
    }
}

fn is_call(number: u64) -> bool {
    number % 2 == 1
}

/// While it lives, a call is under way.
struct Seen<'a>(&'a Cell);

impl<'a> Seen<'a> {
    fn new(cell: &'a Cell) -> Self {
        let this = Seen(cell);
        this.step();
        this
    }

    /// One order with giving a leg up: a call that does not see that it has been given up is counted.
    fn step(&self) {
        self.0.0.store(self.0.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::SeqCst);
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        self.step();
    }
}

/// A call that was under way at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Age {
    number: u64,
    /// Rounds since it began.
    rounds: u32,
    /// Rounds since it began or the leg answered a probe.
    unproven: u32,
}

/// The calls that were under way at the last look, by their cells. Pure.
#[derive(Default)]
struct Ages(HashMap<usize, Age>);

/// What the ages of the calls mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Well,
    /// One has been under way for half the timeout.
    Doubtful,
    /// One has been under way for longer than anything may.
    Hung,
}

impl Ages {
    fn round(&mut self, calls: &[(usize, u64)]) -> Finding {
        let mut now = HashMap::with_capacity(calls.len());
        for &(cell, number) in calls {
            let age = match self.0.get(&cell) {
                Some(age) if age.number == number => {
                    Age { rounds: age.rounds + 1, unproven: age.unproven + 1, ..*age }
                }
                _ => Age { number, ..Age::default() },
            };
            now.insert(cell, age);
        }
        self.0 = now;
        if self.0.values().any(|age| age.rounds >= PARTS * LONGEST) {
            Finding::Hung
        } else if self.0.values().any(|age| age.unproven >= PARTS / 2) {
            Finding::Doubtful
        } else {
            Finding::Well
        }
    }

    /// The leg answers.
    fn proven(&mut self) {
        self.0.values_mut().for_each(|age| age.unproven = 0);
    }
}

/// Ends the watchdog when dropped.
pub struct Leash(#[allow(dead_code)] Sender<()>);

/// Starts a thread that reports to `patience` when a call of `watch` does not come back in time, until
/// the leash is dropped.
pub fn watchdog(watch: Weak<Watch>, patience: Weak<Patience>, timeout: Duration) -> io::Result<Leash> {
    let (leash, ended) = bounded(0);
    let round = timeout / PARTS;
    #[cfg(feature = "simulation")]
    if crate::sim::scheduler::is_simulated() {
        crate::sim::scheduler::spawn(move || guard(&watch, &patience, round, &ended));
        return Ok(Leash(leash));
    }
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .stack_size(128 << 10)
        .spawn(move || guard(&watch, &patience, round, &ended))?;
    Ok(Leash(leash))
}

fn guard(watch: &Weak<Watch>, patience: &Weak<Patience>, round: Duration, ended: &Receiver<()>) {
    let mut ages = Ages::default();
    while goes_on(ended, round) {
        let (Some(watch), Some(patience)) = (watch.upgrade(), patience.upgrade()) else { return };
        if patience.check().is_err() {
            return;
        }
        match ages.round(&watch.look()) {
            Finding::Well => {}
            Finding::Doubtful if patience.answers(round * PARTS / 2) => ages.proven(),
            Finding::Doubtful => report_if_still(&watch, &patience, &mut ages),
            Finding::Hung => {
                patience.report();
            }
        }
    }
}

/// Waits for one round. Whether the leash is still held.
fn goes_on(ended: &Receiver<()>, round: Duration) -> bool {
    #[cfg(feature = "simulation")]
    if crate::sim::scheduler::is_simulated() {
        crate::sync::sleep(round);
        return ended.try_recv() == Err(crossbeam_channel::TryRecvError::Empty);
    }
    ended.recv_timeout(round) == Err(RecvTimeoutError::Timeout)
}

/// The probe was not answered; but if the call has come back meanwhile, the leg has only been slow.
fn report_if_still(watch: &Watch, patience: &Arc<Patience>, ages: &mut Ages) {
    if ages.round(&watch.look()) != Finding::Well {
        patience.report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::AssertUnwindSafe;

    #[test]
    fn a_call_is_doubted_after_half_its_time_and_hung_after_the_longest() {
        let mut ages = Ages::default();
        let same = [(1, 7), (2, 9)];
        for _ in 0..PARTS / 2 {
            assert_eq!(ages.round(&same), Finding::Well);
        }
        assert_eq!(ages.round(&same), Finding::Doubtful);
        ages.proven();
        assert_eq!(ages.round(&same), Finding::Well);
        for _ in 0..PARTS * LONGEST {
            ages.round(&same);
            ages.proven();
        }
        assert_eq!(ages.round(&same), Finding::Hung);
    }

    #[test]
    fn calls_that_follow_each_other_do_not_grow_old() {
        let mut ages = Ages::default();
        for round in 0..u64::from(4 * PARTS * LONGEST) {
            assert_eq!(ages.round(&[(1, 2 * round + 1)]), Finding::Well);
        }
        assert_eq!(ages.round(&[]), Finding::Well);
    }

    #[test]
    fn what_is_under_way_is_seen_until_it_ends_however_it_ends() {
        let watch = Watch::new();
        let other = Watch::new();
        watch.during(|| {
            other.during(|| assert_eq!(other.under_way(), 0, "a call within a call goes unseen"));
            assert_eq!((watch.under_way(), other.under_way()), (1, 0));
        });
        let panics = AssertUnwindSafe(|| watch.during(|| panic!("on purpose")));
        let panicked = std::panic::catch_unwind(panics);
        assert!(panicked.is_err());
        assert_eq!(watch.under_way(), 0);
        assert!(watch.look().is_empty());
    }

    #[test]
    fn cells_of_threads_that_have_ended_are_forgotten() {
        let watch = Watch::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(|| watch.during(|| ()))).collect();
            // The scope alone does not wait for what a thread does after its work.
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        watch.during(|| assert_eq!(watch.look().len(), 1));
        assert_eq!(watch.cells.lock().len(), 1);
    }
}
