//! Threads that go to a leg and may not come back.
//!
//! ```text
//!   caller ---job---> an idle courier, the one that was busy last; else a new one
//!          <--answer- and the courier is idle again; after a while without a job it ends
//!          <--ETIMEDOUT when the time is over; the courier is not counted on any more
//! ```
//!
//! There is no upper limit that the dead could fill: a courier that hangs is simply not among the idle
//! ones. How many there are is bounded by how many callers wait at once, and by the hung.
//!
//! New couriers are started by one thread of their own, the recruiter: a thread inherits the priority, the
//! umask and the identity of the one that starts it, and callers change theirs.
//!
//! Invariants:
//! - a courier is among the idle before its caller gets the answer, so calls one after another use one;
//! - it is not before a late answer has been dropped, for that may hang as well;
//! - one wake-up each way, and nobody spins.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::errand::{Errand, Job};
use crate::sync::{Condvar, Mutex, Rank};

/// How long a courier stays without a job.
const STAY: Duration = Duration::from_secs(20);

/// The pool. Clones are the same pool.
#[derive(Clone)]
pub struct Couriers {
    pool: Arc<Pool>,
}

struct Pool {
    /// Who was idle last is on top: it is warm, and those below can grow old and end.
    idle: Mutex<Vec<Arc<Desk>>>,
    recruiter: Sender<(Arc<Pool>, Box<dyn Job>)>,
    stay: Duration,
    alive: AtomicUsize,
}

/// Where a courier waits for its next job.
struct Desk {
    job: Mutex<Option<Box<dyn Job>>>,
    given: Condvar,
}

impl Couriers {
    /// An empty pool. To be called by a thread whose priority and identity the couriers may have, and
    /// after the daemon has forked.
    pub fn start() -> io::Result<Couriers> {
        Couriers::staying(STAY)
    }

    /// The same, with idle couriers ending after `stay`.
    pub fn staying(stay: Duration) -> io::Result<Couriers> {
        let (recruiter, wanted) = unbounded();
        std::thread::Builder::new().name("recruiter".to_owned()).spawn(move || recruit(&wanted))?;
        let idle = Mutex::new(Rank::Leaf, Vec::new());
        Ok(Couriers { pool: Arc::new(Pool { idle, recruiter, stay, alive: AtomicUsize::new(0) }) })
    }

    /// Does `work` on a courier and waits for the answer, at most `timeout`, then ETIMEDOUT: what comes
    /// later is dropped. EAGAIN when no thread can be had.
    pub fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let errand = Errand::new();
        self.send(errand.job(work));
        errand.wait(Some(timeout)).unwrap_or_else(|| errand.close(libc::ETIMEDOUT))
    }

    /// Has something done, and does not wait. Dropped if no thread can be had.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) {
        self.send(Errand::new().job(move || {
            work();
            Ok(())
        }));
    }

    /// Has a job done, and does not wait.
    pub(super) fn send(&self, job: Box<dyn Job>) {
        let idle = self.pool.idle.lock().pop();
        match idle {
            Some(desk) => desk.give(job),
            None => self.pool.hire(job),
        }
    }

    /// Couriers that there are, the hung ones included.
    pub fn alive(&self) -> usize {
        self.pool.alive.load(Ordering::Acquire)
    }
}

fn recruit(wanted: &Receiver<(Arc<Pool>, Box<dyn Job>)>) {
    for (pool, job) in wanted {
        pool.alive.fetch_add(1, Ordering::AcqRel);
        let hired = pool.clone();
        let started = std::thread::Builder::new().name("courier".to_owned()).spawn(move || hired.work(job));
        if let Err(error) = started {
            log::error!("cannot start a thread: {error}");
            pool.alive.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Pool {
    /// Has a new courier do a job.
    fn hire(self: &Arc<Self>, job: Box<dyn Job>) {
        #[cfg(feature = "simulation")]
        if crate::sim::scheduler::is_simulated() {
            let hired = self.clone();
            self.alive.fetch_add(1, Ordering::AcqRel);
            crate::sim::scheduler::spawn(move || hired.work(job));
            return;
        }
        // A job that cannot be sent is dropped, which answers it.
        drop(self.recruiter.send((self.clone(), job)));
    }

    /// A courier's life.
    fn work(&self, first: Box<dyn Job>) {
        let desk = Arc::new(Desk { job: Mutex::new(Rank::Leaf, None), given: Condvar::new() });
        let mut next = Some(first);
        while let Some(job) = next {
            let waiter = job.run();
            self.idle.lock().push(desk.clone());
            if let Some(waiter) = waiter {
                waiter.deliver();
            }
            next = desk.wait(self.stay).or_else(|| self.leave(&desk));
        }
        self.alive.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes a courier from among the idle. If somebody has just taken it to give it a job, that one.
    fn leave(&self, desk: &Arc<Desk>) -> Option<Box<dyn Job>> {
        let mut idle = self.idle.lock();
        let place = idle.iter().position(|one| Arc::ptr_eq(one, desk));
        if let Some(place) = place {
            idle.remove(place);
            return None;
        }
        drop(idle);
        desk.expect()
    }
}

impl Desk {
    fn give(&self, job: Box<dyn Job>) {
        *self.job.lock() = Some(job);
        self.given.notify_all();
    }

    /// The next job, if it comes within `time`.
    fn wait(&self, time: Duration) -> Option<Box<dyn Job>> {
        let end = crate::sync::now() + time;
        let mut job = self.job.lock();
        loop {
            let left = end.saturating_duration_since(crate::sync::now());
            if job.is_some() || left.is_zero() {
                return job.take();
            }
            self.given.wait_for(&mut job, left);
        }
    }

    /// The job that is on its way.
    fn expect(&self) -> Option<Box<dyn Job>> {
        let mut job = self.job.lock();
        while job.is_none() {
            self.given.wait(&mut job);
        }
        job.take()
    }
}
