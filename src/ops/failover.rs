//! Asking both legs, judging who is broken, and going on without that one.
//!
//! ```text
//!   a leg answers with a failure -> ask the other -> fails alike: an answer, nobody is broken
//!                                                 -> does it: the first one is left behind
//!   leave behind:  durable on the other leg (O2) -> out of service -> if it was the source: turn
//!   turn:          what is known gets its identity on the new source; who finds names waits for that
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::health::Left;
use super::outcome::{Class, class};
use super::{Mirror, News};
use crate::error::errno;
use crate::legs::{Leg, LegId, PerLeg};
#[cfg(feature = "simulation")]
use crate::sim::scheduler;
use crate::sync::{Condvar, Mutex, Rank};

/// Legs that are being left behind just now, for those who must wait until that is over.
pub(super) struct Turning {
    now: Mutex<Now>,
    over: Condvar,
}

#[derive(Default)]
struct Now {
    /// How many are at it.
    faults: usize,
    /// One of them changes the source.
    turns: bool,
    /// The leg from which the other one is being mended: it cannot be left behind just now.
    mends_from: Option<LegId>,
}

impl Turning {
    pub fn new() -> Turning {
        Turning { now: Mutex::new(Rank::Leaf, Now::default()), over: Condvar::new() }
    }

    /// Begins to leave `leg` behind; over when the guard is dropped. Waits, if that changes the source, while
    /// somebody else changes it; and while the other leg is mended from this one, which takes no lock meanwhile
    /// that anybody who waits here could hold.
    fn begin(&self, leg: LegId, turns: bool) -> UnderWay<'_> {
        let mut now = self.now.lock();
        while turns && now.turns || now.mends_from == Some(leg) {
            self.over.wait(&mut now);
        }
        now.turns |= turns;
        now.faults += 1;
        UnderWay { of: self, turns }
    }

    /// Begins to mend one leg from `good`; over when the guard is dropped. `None` while a leg is being left behind
    /// or mended.
    pub fn begin_mending(&self, good: LegId) -> Option<Mending<'_>> {
        let mut now = self.now.lock();
        if now.faults > 0 || now.mends_from.is_some() {
            return None;
        }
        now.mends_from = Some(good);
        Some(Mending { of: self })
    }

    /// Returns when no change of the source is under way.
    pub fn wait(&self) {
        self.wait_while(|now| now.turns);
    }

    /// Returns when no leg is being left behind.
    pub fn wait_for_all(&self) {
        #[cfg(feature = "simulation")]
        if scheduler::breaks(scheduler::Rule::FaultsAreOver) {
            return;
        }
        self.wait_while(|now| now.faults > 0);
    }

    fn wait_while(&self, goes_on: impl Fn(&Now) -> bool) {
        let mut now = self.now.lock();
        while goes_on(&now) {
            self.over.wait(&mut now);
        }
    }
}

/// A leg is being mended.
pub(super) struct Mending<'a> {
    of: &'a Turning,
}

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        self.of.now.lock().mends_from = None;
        self.of.over.notify_all();
    }
}

/// A leg is being left behind.
struct UnderWay<'a> {
    of: &'a Turning,
    turns: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut now = self.of.now.lock();
        now.faults -= 1;
        now.turns &= !self.turns;
        drop(now);
        self.of.over.notify_all();
    }
}

impl<L: Leg> Mirror<L> {
    /// The leg that reads are served from. Waits while that is being changed.
    pub(super) fn source(&self) -> LegId {
        loop {
            let source = self.health.source();
            if self.health.in_service(source) {
                return source;
            }
            self.turning.wait();
        }
    }

    /// The leg itself; ENODEV when it is not there.
    pub(super) fn leg(&self, leg: LegId) -> io::Result<Arc<L>> {
        self.legs[leg].read().clone().ok_or_else(|| errno(libc::ENODEV))
    }

    /// For who learns something of `leg` from here on: whether it is still that one.
    pub(super) fn term(&self, leg: LegId) -> impl Fn() -> bool + '_ {
        let term = self.terms[leg].load(Ordering::SeqCst);
        move || self.terms[leg].load(Ordering::SeqCst) == term
    }

    /// Both legs, for what makes one equal to the other.
    pub(super) fn both_legs(&self) -> io::Result<PerLeg<Arc<L>>> {
        PerLeg::from_fn(|leg| self.leg(leg)).transpose()
    }

    /// Reads from the source. If that is broken and the other leg is not, from the other one, which is the
    /// source from then on.
    pub(super) fn reading<T>(&self, read: impl FnMut(LegId) -> io::Result<T>) -> io::Result<T> {
        self.reading_of(|| None, read)
    }

    /// The same; `file` says of what, for people.
    pub(super) fn reading_of<T>(
        &self,
        file: impl Fn() -> Option<String>,
        mut read: impl FnMut(LegId) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let source = self.source();
            let asked = self.leg(source).ok();
            let answer = read(source);
            let failed = answer.as_ref().err().and_then(|error| self.failure_of(source, error));
            let Some(number) = failed else { return answer };
            if source != self.source() {
                continue;
            }
            // What the other leg gives is not returned: it may be another object there. Only that it gives
            // something counts.
            if self.may_lose(source) {
                let other = source.other();
                let theirs = read(other).err().filter(|error| self.failure_of(other, error).is_some());
                let Some(theirs) = theirs else {
                    self.fault_asked(source, asked.as_ref(), number)?;
                    continue;
                };
                if self.health.in_service(source) {
                    self.note_neither(source, &errno(number), &theirs, &file);
                }
            }
            // Else somebody else has met it, and it is left behind.
            if self.health.in_service(source) {
                return answer;
            }
        }
    }

    /// What each leg in service answers that `takes_part`, before anything is changed. A leg that is broken
    /// is left behind now, before the change meets it half way.
    ///
    /// # Errors
    /// The answer of the source, or what both say alike.
    pub(super) fn asking_each<T>(
        &self,
        takes_part: impl Fn(LegId) -> bool,
        ask: impl Fn(LegId) -> io::Result<T>,
    ) -> io::Result<PerLeg<Option<T>>> {
        loop {
            let source = self.source();
            let other = source.other();
            let legs = PerLeg::from_fn(|leg| self.leg(leg).ok());
            let fault = |leg: LegId, number| self.fault_asked(leg, legs[leg].as_ref(), number);
            let asked =
                |leg: LegId| (self.health.in_service(leg) && takes_part(leg)).then(|| ask(leg)).transpose();
            let (of_source, of_other) = (asked(source), asked(other));
            match (of_source, of_other) {
                (Ok(of_source), Ok(of_other)) => {
                    let mut both = PerLeg::new(None, None);
                    (both[source], both[other]) = (of_source, of_other);
                    return Ok(both);
                }
                (Err(error), of_other) => match self.failure_of(source, &error) {
                    Some(number) if matches!(of_other, Ok(Some(_))) && self.may_lose(source) => {
                        fault(source, number)?;
                    }
                    // Somebody else has met it, and it is left behind.
                    Some(_) if source != self.source() => {}
                    _ => {
                        if let Err(theirs) = of_other {
                            self.note_neither(source, &error, &theirs, || None);
                        }
                        return Err(error);
                    }
                },
                (Ok(_), Err(error)) => match self.failure_of(other, &error) {
                    Some(number) if self.health.in_service(other) => fault(other, number)?,
                    Some(_) => {}
                    None => return Err(error),
                },
            }
        }
    }

    /// What `error`, which `leg` gave, says of that leg, if it says that it is broken. ESTALE says so when all of the leg is
    /// gone, as with an export of NFS that is not there any more.
    fn failure_of(&self, leg: LegId, error: &io::Error) -> Option<i32> {
        failure(error).or_else(|| {
            let is_gone = || self.leg(leg).is_ok_and(|leg| leg.statfs().is_err_and(|error| is_stale(&error)));
            (is_stale(error) && is_gone()).then_some(libc::ESTALE)
        })
    }

    /// Whether the mirror could go on without this leg. A leg of which it is the target of a resync could.
    pub(super) fn may_lose(&self, leg: LegId) -> bool {
        self.health.in_service(leg.other()) && self.health.can_lose(leg)
    }

    /// `leg` gave `number`, which tells that it is broken: it is left behind. Durable on the other leg, and
    /// the other leg is the source, when it returns.
    ///
    /// # Errors
    /// That cannot be recorded, or the other leg cannot serve alone: what the leg missed must not be
    /// acknowledged.
    pub(super) fn fault(&self, leg: LegId, number: i32) -> io::Result<()> {
        self.fault_because(leg, number, None)
    }

    /// The same of the directory that gave `number`, for who is not let in as changes are: it may have been left behind and
    /// another one, or the same one come back, may serve by now, which has not given it.
    pub(super) fn fault_asked(&self, leg: LegId, asked: Option<&Arc<L>>, number: i32) -> io::Result<()> {
        // ORDER: whoever takes a leg in has taken the one before out, and waits for this.
        let _nobody_takes_its_place = self.turning.begin(leg, false);
        let is_that_one = asked.is_some_and(|asked| self.leg(leg).is_ok_and(|now| Arc::ptr_eq(&now, asked)));
        #[cfg(feature = "simulation")]
        let is_that_one = is_that_one || scheduler::breaks(scheduler::Rule::AskedLeg);
        if is_that_one { self.fault(leg, number) } else { Ok(()) }
    }

    /// The same, for a reason that tells more than the number.
    pub(super) fn fault_because(&self, leg: LegId, number: i32, why: Option<String>) -> io::Result<()> {
        if let Some(recovering) = self.leave_behind(leg, number, why.clone())? {
            self.tell(News::Left { leg, errno: number, recovering, why });
        }
        Ok(())
    }

    /// The same, and nobody is told. Whether the leg was being made equal; `None` if it has been left behind before.
    pub(super) fn leave_behind(
        &self,
        leg: LegId,
        number: i32,
        why: Option<String>,
    ) -> io::Result<Option<bool>> {
        let survivor = leg.other();
        let leaving = self.leg(leg);
        let born = self.leg(survivor).and_then(|survivor| survivor.birth_now()).ok().flatten();
        let now = (self.options.clock)();
        // ORDER: begun before the leg is out of service, so that nobody finds a source that does not serve.
        let under_way = self.turning.begin(leg, self.health.source() == leg);
        match self.health.leave(leg, number, now, born, why) {
            Ok(Left::Now) => {}
            Ok(Left::Before) => {
                drop(under_way);
                self.turning.wait();
                return Ok(None);
            }
            Err(error) => {
                if self.may_lose(leg) {
                    self.turn_read_only(format!(
                        "leg {leg} failed ({}), and that cannot be recorded on leg {survivor} ({error}); unmount, \
                         see to both, and mount again: the legs are then made equal",
                        errno(number)
                    ));
                }
                return Err(error);
            }
        }
        self.bitmap.stop_using(leg);
        self.bitmap.set_away(Some(leg));
        if let Ok(leaving) = leaving {
            // ORDER: durable before anybody who waits for it is let go.
            leaving.give_up();
        }
        if self.health.source() == leg {
            self.turn_to(survivor);
        }
        // What was waiting for the legs to be equal need not wait any more: one of them counts.
        self.gate.open();
        let recovering = self.unequal.swap(false, Ordering::AcqRel);
        drop(under_way);
        Ok(Some(recovering))
    }

    /// `leg` does not answer: it is left behind, if the mirror can do without it and the other one answers.
    /// Whether it is, or has been before: `is_given_up` tells. On no lock that is held while a leg is waited for, but
    /// for the superblocks', which ends.
    pub fn leg_hangs(&self, leg: LegId, is_given_up: impl Fn() -> bool) -> bool {
        // What makes both hang is not the fault of one: a network that is down, a machine that is out of memory.
        let other_answers = || self.leg(leg.other()).is_ok_and(|other| other.answers());
        if is_given_up() || !self.may_lose(leg) || !other_answers() {
            return is_given_up();
        }
        // ORDER: as for `fault_asked`.
        let _nobody_takes_its_place = self.turning.begin(leg, false);
        is_given_up() || self.fault(leg, libc::ETIMEDOUT).is_ok()
    }

    /// Takes a leg out by hand.
    ///
    /// # Errors
    /// EBUSY if the mirror cannot do without it: it is the last one, or the other one is not complete.
    pub fn take_out(&self, leg: LegId) -> io::Result<()> {
        if !self.may_lose(leg) {
            return Err(errno(libc::EBUSY));
        }
        self.fault(leg, 0)
    }

    /// A leg that is away is there again, and was not taken in: for this reason it stays away from now on.
    pub fn stays_away(&self, leg: LegId, number: Option<i32>, why: String) {
        self.health.stays_away(leg, number, (self.options.clock)(), why);
    }

    /// Lets go of all that is open on a leg that was left behind, so that its filesystem can be unmounted. May
    /// wait for that leg for ever, if it hangs.
    pub fn let_go(&self, leg: LegId) {
        let held = {
            // Who takes it in again waits for this, or has done so before.
            let _inside = self.inside.read();
            self.health.lost(leg).map(|_| self.take_leg(leg))
        };
        drop(held);
    }

    /// All that is open on a leg.
    pub(super) fn take_leg(&self, leg: LegId) -> impl Sized + use<L> {
        // ORDER: first. Readers are not waited for: what one of them still learns of the leg is not kept from here on.
        self.terms[leg].fetch_add(1, Ordering::SeqCst);
        let opened = (self.handles.take_leg(leg), self.table.take_leg(leg), self.pins.take_leg(leg));
        let state = (self.bitmap.take_copy(leg), self.health.let_go(leg));
        (opened, state, self.legs[leg].write().take())
    }

    /// Makes `to` the source.
    ///
    /// ORDER: nobody learns of a name on the new source before it is known of every object what it is there:
    /// one object must not become two.
    fn turn_to(&self, to: LegId) {
        let unknown = self.table.turn(to);
        for object in unknown {
            // One that is not found keeps its old names; who uses it gets ESTALE or ENOENT.
            if let Err(error) = self.identity_on(&object, to) {
                log::warn!("inode {} is not found on leg {to}: {error}", object.ino.0);
            }
            self.table.reap(Some(object));
        }
        self.table.turned();
        self.health.set_source(to);
    }
}

/// The errno, if it tells that the leg is broken. That an object is gone, or its place has changed, does
/// not.
pub(super) fn failure(error: &io::Error) -> Option<i32> {
    let number = error.raw_os_error().unwrap_or(libc::EIO);
    (class(number) == Class::Failure && !is_stale(error)).then_some(number)
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESTALE)
}
