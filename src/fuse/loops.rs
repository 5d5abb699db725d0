//! Which thread answers a request: the event loop that has read it, unless it is the last one that is free.
//!
//! ```text
//!   event loops   busy  busy  busy  busy  free: reads the next request, hands it over, and is free again
//!   couriers                                    `--> one each
//! ```
//!
//! A request whose leg hangs keeps its thread until the leg is given up; in a call to a local disk, until the
//! kernel lets it go. So one event loop never makes a call itself while the others do, and however many
//! requests hang, the next one is read and answered. There is no upper limit that the dead could fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::legs::timed::Couriers;
use crate::sync::{Condvar, Mutex, Rank};

/// See the module.
pub(super) struct Loops {
    /// Event loops that may be busy at once: all but one.
    most: usize,
    busy: AtomicUsize,
    couriers: Couriers,
    handed_over: Arc<HandedOver>,
}

/// Requests that couriers have.
struct HandedOver {
    number: Mutex<usize>,
    fewer: Condvar,
}

/// One of them.
struct One(Arc<HandedOver>);

impl One {
    fn new(of: &Arc<HandedOver>) -> One {
        *of.number.lock() += 1;
        One(of.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        *self.0.number.lock() -= 1;
        self.0.fewer.notify_all();
    }
}

impl Loops {
    /// For a session with one event loop more than `most`. To be called as [`Couriers::start`] is.
    pub fn new(most: usize, couriers: Couriers) -> Loops {
        let handed_over = HandedOver { number: Mutex::new(Rank::Leaf, 0), fewer: Condvar::new() };
        Loops { most, busy: AtomicUsize::new(0), couriers, handed_over: Arc::new(handed_over) }
    }

    /// The right to answer on this thread, while it is held; `None` for the last event loop that is free.
    pub fn stay(&self) -> Option<Staying<'_>> {
        // Relaxed: nothing but the number is told by it.
        if self.busy.fetch_add(1, Ordering::Relaxed) < self.most {
            return Some(Staying(self));
        }
        self.busy.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Has a request answered on another thread. One for which there is none is dropped, and fuser answers
    /// it with EIO.
    pub fn hand_over(&self, work: impl FnOnce() + Send + 'static) {
        let one = One::new(&self.handed_over);
        self.couriers.run(move || {
            let _one = one;
            work();
        });
    }

    /// Returns when nothing that was handed over is under way any more.
    pub fn wait_for_all(&self) {
        let mut number = self.handed_over.number.lock();
        while *number > 0 {
            self.handed_over.fewer.wait(&mut number);
        }
    }
}

/// An event loop is busy.
pub(super) struct Staying<'a>(&'a Loops);

impl Drop for Staying<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

    #[test]
    fn the_last_one_that_is_free_hands_over_however_many_hang() {
        let loops = Loops::new(2, Couriers::start().unwrap());
        let first = loops.stay();
        let second = loops.stay();
        assert!(first.is_some() && second.is_some());
        let (opener, closed) = bounded::<()>(0);
        for _ in 0..50 {
            assert!(loops.stay().is_none());
            let closed = closed.clone();
            loops.hand_over(move || assert!(closed.recv().is_err()));
        }
        let (told, answer) = bounded(1);
        loops.hand_over(move || told.send(7).unwrap());
        assert_eq!(answer.recv().unwrap(), 7);
        drop((first, opener));
        assert!(loops.stay().is_some());
        loops.wait_for_all();
        assert_eq!(*loops.handed_over.number.lock(), 0);
    }
}
