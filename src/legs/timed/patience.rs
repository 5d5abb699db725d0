//! How long one leg is waited for, and the end of all waiting when it is given up.
//!
//! Shared by everything that asks the leg: its calls, its copy of the bitmap, its superblock.
//!
//! ```text
//!   a call is late -> whoever is to be told is told, on a thread of its own
//!                       the mirror can do without the leg: left behind, durably -> give_up: all are let go
//!                       it cannot:                        the call is waited for on, and told of again
//!                  -> nobody is to be told: ETIMEDOUT
//! ```
//!
//! So a late answer of the last leg is an answer, as it is without a mirror: a write that was called off
//! could still land, after one that was asked for later (O5).
//!
//! A call's time is waited for in parts, each by the clock. A machine that is paused or a process that
//! is stopped loses one part and not all of it: when it goes on, an answer has the other parts to arrive.
//!
//! What may take long by nature (a sync of gigabytes, a walk over the whole leg) is not hung for that
//! alone. Half the time is waited for the answer; then the leg is *probed*: asked for something small that
//! only a living leg can answer. If that is answered within the other half, the waiting begins anew, up to
//! [`LONGEST`] times the timeout. So a dead leg is found out after the timeout whatever it was asked.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::couriers::Couriers;
use super::errand::{Errand, Waiter};
use super::watch::Watch;
use crate::error::errno;
#[cfg(feature = "simulation")]
use crate::sim::scheduler;
use crate::sync::{Mutex, Rank};

/// Parts in which a timeout is waited for.
pub(super) const PARTS: u32 = 8;

/// How many timeouts something long may take while the leg answers probes.
pub(super) const LONGEST: u32 = 20;

/// How many probes may be on their way. More than one, as one may be lost by a server that is alive.
pub(super) const MOST_PROBES: usize = 4;

/// How soon an answer is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Within the timeout.
    Prompt,
    /// Within the timeout, or else probes are.
    Long,
}

/// Asks the leg for something small. Any answer will do, an error too.
pub type Probe = Arc<dyn Fn() + Send + Sync>;

/// Who is told that the leg does not answer.
type Tell = Arc<dyn Fn() + Send + Sync>;

/// See the module.
pub struct Patience {
    /// `None` waits for ever.
    timeout: Option<Duration>,
    couriers: Couriers,
    probe: Probe,
    /// Set under the lock of `waiting`, read without.
    given_up: AtomicBool,
    waiting: Mutex<Waiting>,
    /// Calls that a courier has not come back from, whether or not somebody waits for them.
    under_way: AtomicUsize,
    /// Probes that have not come back.
    probes: AtomicUsize,
    on_hung: Mutex<Option<Tell>>,
    /// Somebody is being told just now.
    telling: AtomicBool,
}

/// Who waits for this leg.
struct Waiting {
    next: u64,
    calls: Vec<(u64, Arc<dyn Waiter>)>,
}

impl Patience {
    /// For a leg that `probe` asks. A `timeout` of zero is none.
    pub fn new(couriers: Couriers, timeout: Duration, probe: Probe) -> Arc<Patience> {
        Arc::new(Patience {
            timeout: (!timeout.is_zero()).then_some(timeout),
            couriers,
            probe,
            given_up: AtomicBool::new(false),
            waiting: Mutex::new(Rank::Leaf, Waiting { next: 0, calls: Vec::new() }),
            under_way: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            on_hung: Mutex::new(Rank::Leaf, None),
            telling: AtomicBool::new(false),
        })
    }

    /// Who is told that the leg does not answer, on a thread of its own; again and again until it does or
    /// is given up. `None`: nobody, and what is late is answered with ETIMEDOUT.
    pub fn on_hung(&self, tell: Option<Tell>) {
        let was = std::mem::replace(&mut *self.on_hung.lock(), tell);
        drop(was);
    }

    /// How long an answer may take; `None` for ever.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Makes every call that waits, and every later one, return ENOTCONN.
    pub fn give_up(&self) {
        let mut waiting = self.waiting.lock();
        self.given_up.store(true, Ordering::SeqCst);
        let calls = std::mem::take(&mut waiting.calls);
        drop(waiting);
        calls.iter().for_each(|(_, call)| call.call_off(libc::ENOTCONN));
    }

    /// ENOTCONN once the leg has been given up.
    pub fn check(&self) -> io::Result<()> {
        if self.given_up.load(Ordering::SeqCst) { Err(errno(libc::ENOTCONN)) } else { Ok(()) }
    }

    /// Calls that couriers have under way. While it is not zero, a leg that was given up may still change:
    /// it must not be taken back (what hangs on in place is counted by its [`Watch`](super::watch::Watch)).
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    #[cfg(test)]
    pub(super) fn couriers(&self) -> &Couriers {
        &self.couriers
    }

    /// Does `work` on a courier and waits for its answer.
    ///
    /// # Errors
    /// ENOTCONN when the leg has been given up, also meanwhile; ETIMEDOUT when the answer is late and nobody
    /// is to be told.
    pub fn call<T: Send + 'static>(
        self: &Arc<Self>,
        pace: Pace,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.ask(work, |errand| self.wait(errand, pace))
    }

    /// The same for what is asked while the one who is told would have to wait for it: ETIMEDOUT when it
    /// is late, whoever is told.
    pub fn call_once<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.ask(work, |errand| {
            self.wait_once(errand, Pace::Prompt).unwrap_or_else(|| {
                self.report();
                errand.close(libc::ETIMEDOUT)
            })
        })
    }

    fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
        wait: impl FnOnce(&Errand<T>) -> io::Result<T>,
    ) -> io::Result<T> {
        let errand = Errand::new();
        // ORDER: counted before it is enlisted. After giving up nothing begins that is not counted.
        let out = Out::new(self.clone());
        let enlisted = self.enlist(errand.clone())?;
        self.send(out, &errand, work);
        let answer = wait(&errand);
        drop(enlisted);
        self.check()?;
        answer
    }

    /// Makes a call on this thread, seen by the watchdog of `watch`.
    pub(super) fn in_place<T>(&self, watch: &Watch, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        // ORDER: seen by the watchdog before it looks whether the leg has been given up. After that nothing begins
        // that is not counted.
        let answer = watch.during(|| self.check().and_then(|()| call()));
        // The mirror may have gone on without this leg meanwhile: what it says is old.
        self.check()?;
        answer
    }

    /// Has something done that nobody waits for, also after the leg was given up. Counted as under way.
    pub fn leave_to_a_courier(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) {
        self.send(Out::new(self.clone()), &Errand::new(), || {
            work();
            Ok(())
        });
    }

    fn send<T: Send + 'static>(
        &self,
        out: Out,
        errand: &Arc<Errand<T>>,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) {
        #[cfg(feature = "simulation")]
        let out = (!scheduler::breaks(scheduler::Rule::CountedUntilBack)).then_some(out);
        self.couriers.send(errand.job(move || {
            let _out = out;
            work()
        }));
    }

    fn wait<T: Send + 'static>(self: &Arc<Self>, errand: &Errand<T>, pace: Pace) -> io::Result<T> {
        loop {
            if let Some(answer) = self.wait_once(errand, pace) {
                return answer;
            }
            if !self.report() {
                return errand.close(libc::ETIMEDOUT);
            }
        }
    }

    /// The answer, if it is not late.
    fn wait_once<T: Send + 'static>(
        self: &Arc<Self>,
        errand: &Errand<T>,
        pace: Pace,
    ) -> Option<io::Result<T>> {
        let Some(timeout) = self.timeout else { return errand.wait(None) };
        if pace == Pace::Prompt {
            return in_parts(errand, timeout / PARTS, PARTS);
        }
        for _ in 0..2 * LONGEST {
            if let Some(answer) = in_parts(errand, timeout / PARTS, PARTS / 2) {
                return Some(answer);
            }
            if !self.answers(timeout / 2) {
                return errand.wait(Some(Duration::ZERO));
            }
        }
        None
    }

    /// Whether the leg answers a probe within `time`. What tells nothing of the leg counts for it: that it has
    /// been given up, that there is no thread to be had.
    ///
    /// A leg that hangs for good and cannot be given up is asked again and again, and each probe that does not come back
    /// has a thread. So when there are [`MOST_PROBES`] of them no further one is sent: the leg answers when one comes back.
    pub fn answers(self: &Arc<Self>, time: Duration) -> bool {
        let errand = Errand::new();
        let probing = Probing::begin(self);
        let Ok(enlisted) = self.enlist(errand.clone()) else { return true };
        let answered = match probing {
            Some((out, probing)) => {
                let probe = self.probe.clone();
                self.send(out, &errand, move || {
                    let _probing = probing;
                    probe();
                    Ok(())
                });
                in_parts(&errand, time / PARTS, PARTS).is_some()
            }
            None => (0..PARTS).any(|_| {
                let called_off = errand.wait(Some(time / PARTS)).is_some();
                called_off || self.probes.load(Ordering::Acquire) < MOST_PROBES
            }),
        };
        drop(enlisted);
        answered || errand.close(libc::ETIMEDOUT).is_ok()
    }

    /// The leg does not answer: says so, unless that is being done. Whether there is anybody to be told.
    pub(super) fn report(self: &Arc<Self>) -> bool {
        let Some(tell) = self.on_hung.lock().clone() else { return false };
        if !self.telling.swap(true, Ordering::AcqRel) {
            let telling = Telling(self.clone());
            // Not on this thread: it may hold the locks that whoever is told needs.
            self.couriers.send(Errand::new().job(move || {
                let _telling = telling;
                tell();
                Ok(())
            }));
        }
        true
    }

    fn enlist(self: &Arc<Self>, call: Arc<dyn Waiter>) -> io::Result<Enlisted<'_>> {
        let mut waiting = self.waiting.lock();
        self.check()?;
        let number = waiting.next;
        waiting.next += 1;
        waiting.calls.push((number, call));
        Ok(Enlisted { patience: self, number })
    }
}

fn in_parts<T: Send + 'static>(errand: &Errand<T>, part: Duration, parts: u32) -> Option<io::Result<T>> {
    (0..parts).find_map(|_| errand.wait(Some(part)))
}

/// A call among those that wait.
struct Enlisted<'a> {
    patience: &'a Patience,
    number: u64,
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        let mut waiting = self.patience.waiting.lock();
        let place = waiting.calls.iter().position(|(number, _)| *number == self.number);
        let call = place.map(|place| waiting.calls.swap_remove(place));
        drop(waiting);
        drop(call);
    }
}

/// Somebody is being told.
struct Telling(Arc<Patience>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.telling.store(false, Ordering::Release);
    }
}

/// A probe that has not come back.
struct Probing(Arc<Patience>);

impl Probing {
    /// `None` if there are enough of them.
    fn begin(patience: &Arc<Patience>) -> Option<(Out, Probing)> {
        let fewer = |probes| (probes < MOST_PROBES).then_some(probes + 1);
        let begun = patience.probes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
        begun.is_ok().then(|| (Out::new(patience.clone()), Probing(patience.clone())))
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.probes.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call under way, counted until the courier is back.
struct Out(Arc<Patience>);

impl Out {
    fn new(patience: Arc<Patience>) -> Out {
        patience.under_way.fetch_add(1, Ordering::AcqRel);
        Out(patience)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}
