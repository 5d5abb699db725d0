//! Which legs serve, whether the mirror takes changes, and what the superblocks say of it.
//!
//! For now a leg that fails makes the mirror read-only: the fault is recorded on the other leg, no
//! bit is cleared any more (O4), and the next mount resyncs the leg that failed from the one that did
//! not, by the bitmap.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Mirror;
use super::outcome::{Class, class};
use crate::error::errno;
use crate::legs::{Leg, LegId, PerLeg};
use crate::superblock::{NotWritten, Superblocks};
use crate::sync::{Mutex, Rank};

/// How a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LegState {
    InSync,
    /// Being made equal to the other one.
    Resyncing,
    Faulted {
        errno: i32,
    },
}

/// How the mirror is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MirrorState {
    /// Nothing is dirty.
    Clean,
    /// Something is, and will be cleared.
    Active,
    Resyncing,
    ReadOnly,
}

/// A leg that failed while mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which.
    pub leg: LegId,
    /// What it answered.
    pub errno: i32,
    /// Whether it is written on the other leg.
    pub recorded: bool,
}

/// See the module.
pub struct Health {
    /// No change is let in. Set under `state`'s lock, read without.
    read_only: AtomicBool,
    in_service: PerLeg<AtomicBool>,
    state: Mutex<State>,
}

struct State {
    /// `None` on a mount that must not change the legs.
    superblocks: Option<Superblocks>,
    fault: Option<Fault>,
    reason: Option<String>,
}

impl Health {
    /// Both legs in service. Without superblocks to write to, the mirror is read-only from the start.
    pub fn new(superblocks: Option<Superblocks>) -> Self {
        let read_only = superblocks.is_none();
        let reason = read_only.then(|| "mounted read-only".to_owned());
        Health {
            read_only: AtomicBool::new(read_only),
            in_service: PerLeg::from_fn(|_| AtomicBool::new(true)),
            state: Mutex::new(Rank::State, State { superblocks, fault: None, reason }),
        }
    }

    /// EROFS unless changes are let in.
    pub fn writable(&self) -> io::Result<()> {
        if self.read_only.load(Ordering::Acquire) { Err(errno(libc::EROFS)) } else { Ok(()) }
    }

    /// Whether this leg takes part.
    pub fn in_service(&self, leg: LegId) -> bool {
        self.in_service[leg].load(Ordering::Acquire)
    }

    /// The fault, if there was one.
    pub fn fault(&self) -> Option<Fault> {
        self.state.lock().fault
    }

    /// Why the mirror is read-only.
    pub fn reason(&self) -> Option<String> {
        self.state.lock().reason.clone()
    }

    /// Lets no further change in.
    pub fn set_read_only(&self, reason: String) {
        let mut state = self.state.lock();
        log::error!("the mirror is read-only from now on: {reason}");
        state.reason.get_or_insert(reason);
        self.read_only.store(true, Ordering::Release);
    }

    /// Writes what `change` says to the superblocks of both legs.
    ///
    /// # Errors
    /// The leg that could not be written is as a crash leaves it; the next mount sees that.
    pub fn record(
        &self,
        change: impl FnOnce(&mut Superblocks) -> std::result::Result<(), NotWritten>,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(superblocks) = &mut state.superblocks else { return Ok(()) };
        change(superblocks).map_err(|failed| {
            log::error!("leg {}: cannot write the superblock: {}", failed.leg, failed.error);
            failed.error
        })
    }

    /// Takes `leg` out of service and records on the other that it is stale. Of the last leg nothing
    /// worse can be said than what it answers: a second fault changes nothing.
    ///
    /// # Errors
    /// The fault is not durable: what the leg missed must not be acknowledged.
    fn fail(&self, leg: LegId, number: i32) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(superblocks) = &mut state.superblocks else { return Err(errno(libc::EROFS)) };
        let known = superblocks.lost().is_some();
        let recorded = superblocks.leg_failed(leg, number);
        if !known && state.fault.is_none() {
            state.fault = Some(Fault { leg, errno: number, recorded: recorded.is_ok() });
            let then = match recorded {
                Ok(()) => format!("it is then brought up to date from leg {}", leg.other()),
                Err(_) => "the legs are then made equal again".to_owned(),
            };
            let reason = format!(
                "leg {leg} failed ({}); unmount, see to leg {leg}, and mount again: {then}",
                errno(number)
            );
            log::error!("the mirror is read-only from now on: {reason}");
            state.reason = Some(reason);
            self.read_only.store(true, Ordering::Release);
            self.in_service[leg].store(recorded.is_err(), Ordering::Release);
        }
        recorded
    }
}

impl<L: Leg> Mirror<L> {
    /// The leg that reads are served from.
    pub(super) fn source(&self) -> LegId {
        self.numbered_by
    }

    /// The leg to read from. EIO when the source has failed: it may have lost writes, and a leg that
    /// missed a write is not read (P6).
    pub(super) fn readable(&self) -> io::Result<LegId> {
        let source = self.source();
        if self.health.in_service(source) { Ok(source) } else { Err(errno(libc::EIO)) }
    }

    /// Reads from the source. A leg that cannot be read in one place may be well otherwise; but if it
    /// cannot make durable what it has been given, it is gone, and that is recorded.
    pub(super) fn reading<T>(&self, read: impl FnOnce(LegId) -> io::Result<T>) -> io::Result<T> {
        let source = self.readable()?;
        let answer = read(source);
        if answer.as_ref().is_err_and(tells_of_the_leg)
            && self.health.writable().is_ok()
            && let Err(error) = self.legs[source].sync_all()
        {
            // FAIL-SAFE: if it cannot be recorded, the mirror is read-only all the same.
            let _ = self.fault(source, error.raw_os_error().unwrap_or(libc::EIO));
        }
        answer
    }

    /// What `leg` answered when it was prepared for a change: where an object is on it, or opening it.
    /// Nothing has been changed yet, so the change is refused; but a leg that is broken is recorded as
    /// such now, before the next request meets it in the middle of a change.
    pub(super) fn prepared<T>(&self, leg: LegId, answer: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &answer
            && tells_of_the_leg(error)
            && self.health.in_service(leg)
        {
            self.fault(leg, error.raw_os_error().unwrap_or(libc::EIO))?;
        }
        answer
    }

    /// `leg` gave `errno`, which tells that it is broken. Durable on the other leg when it returns.
    ///
    /// # Errors
    /// The fault cannot be recorded: what the leg missed must not be acknowledged.
    pub(super) fn fault(&self, leg: LegId, number: i32) -> io::Result<()> {
        let recorded = self.health.fail(leg, number);
        if recorded.is_ok() {
            self.bitmap.stop_using(leg);
        }
        recorded
    }
}

/// Whether what a leg answered to a look for an object says that the leg is broken. That the object
/// is gone, or its place has changed, does not.
fn tells_of_the_leg(error: &io::Error) -> bool {
    error.raw_os_error().is_none_or(|number| class(number) == Class::Failure && number != libc::ESTALE)
}
