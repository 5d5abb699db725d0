//! Which legs serve, whether the mirror takes changes, and what the superblocks say of it.
//!
//! A leg that fails is left behind: the other one goes on alone, durably recorded before anything that only
//! one leg has is acknowledged (O2). No bit is cleared from then on (O4), and the leg that failed is
//! not read again before it has been recovered. The last leg is never left behind.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::errno;
use crate::legs::{LegId, PerLeg, Timestamp};
use crate::superblock::{FoundSide, NotWritten, PeerState, Superblock, SuperblockStore, Superblocks};
use crate::sync::{Mutex, Rank};

/// How a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LegState {
    InSync,
    /// Being made equal to the other one.
    Resyncing,
    /// Left behind since it failed, or was not there.
    Lost(Lost),
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
    /// One leg serves.
    Degraded,
    ReadOnly,
}

/// Why a leg was left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What it answered; 0 when it was taken out by hand.
    pub errno: i32,
    /// When, in the mirror's own clock.
    pub since: Timestamp,
    /// It was not there when the mirror was mounted.
    pub missing: bool,
}

/// See the module.
pub struct Health {
    /// No change is let in. Set under the lock of `shown`, read without.
    read_only: AtomicBool,
    /// The source is leg B. Changes only while `Mirror::turning` holds readers back.
    source_is_b: AtomicBool,
    in_service: PerLeg<AtomicBool>,
    /// Superblocks are written under it, which may take as long as a leg is waited for. `None` on a mount that
    /// must not change the legs.
    superblocks: Mutex<Option<Superblocks>>,
    /// For who only wants to know, and must not wait for a leg. Changed under the lock above.
    shown: Mutex<Shown>,
}

struct Shown {
    superblocks: PerLeg<Option<Superblock>>,
    lost: PerLeg<Option<Lost>>,
    /// Why a leg was left behind, where there is more to say than the errno.
    why: PerLeg<Option<String>>,
    reason: Option<String>,
}

impl Shown {
    fn now(&mut self, superblocks: Option<&Superblocks>) {
        self.superblocks = PerLeg::from_fn(|leg| superblocks?.get(leg).cloned());
    }
}

/// What came of leaving a leg behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It was recorded just now, by this call.
    Now,
    /// It had been left behind already.
    Before,
}

impl Health {
    /// Those legs in service that are there. Without superblocks to write to, the mirror is read-only.
    pub fn new(superblocks: Option<Superblocks>, source: LegId, lost: PerLeg<Option<Lost>>) -> Self {
        let read_only = superblocks.is_none();
        let reason = read_only.then(|| "mounted read-only".to_owned());
        let in_service = lost.map(|lost| AtomicBool::new(lost.is_none()));
        let mut shown = Shown { superblocks: PerLeg::new(None, None), lost, why: PerLeg::default(), reason };
        shown.now(superblocks.as_ref());
        Health {
            read_only: AtomicBool::new(read_only),
            source_is_b: AtomicBool::new(source == LegId::B),
            in_service,
            superblocks: Mutex::new(Rank::State, superblocks),
            shown: Mutex::new(Rank::Leaf, shown),
        }
    }

    /// EROFS unless changes are let in.
    pub fn writable(&self) -> io::Result<()> {
        if self.read_only.load(Ordering::Acquire) { Err(errno(libc::EROFS)) } else { Ok(()) }
    }

    /// The leg that is read.
    pub fn source(&self) -> LegId {
        if self.source_is_b.load(Ordering::Acquire) { LegId::B } else { LegId::A }
    }

    /// Reads are served from this leg from now on.
    pub fn set_source(&self, leg: LegId) {
        self.source_is_b.store(leg == LegId::B, Ordering::Release);
    }

    /// Whether this leg takes part.
    pub fn in_service(&self, leg: LegId) -> bool {
        self.in_service[leg].load(Ordering::Acquire)
    }

    /// Whether one leg serves alone.
    pub fn is_degraded(&self) -> bool {
        LegId::ALL.into_iter().any(|leg| !self.in_service(leg))
    }

    /// Why this leg was left behind.
    pub fn lost(&self, leg: LegId) -> Option<Lost> {
        self.shown.lock().lost[leg]
    }

    /// What there is to say beyond the errno of [`lost`](Self::lost).
    pub fn why(&self, leg: LegId) -> Option<String> {
        self.shown.lock().why[leg].clone()
    }

    /// Why the mirror is read-only.
    pub fn reason(&self) -> Option<String> {
        self.shown.lock().reason.clone()
    }

    /// Lets no further change in. Whether this is the first reason.
    pub fn set_read_only(&self, reason: String) -> bool {
        let mut shown = self.shown.lock();
        let is_first = shown.reason.is_none();
        shown.reason.get_or_insert(reason);
        self.read_only.store(true, Ordering::Release);
        is_first
    }

    /// Writes what `change` says to the superblocks of both legs.
    ///
    /// # Errors
    /// The leg that could not be written is as a crash leaves it; the next mount sees that.
    pub fn record(
        &self,
        change: impl FnOnce(&mut Superblocks) -> std::result::Result<(), NotWritten>,
    ) -> std::result::Result<(), NotWritten> {
        let mut superblocks = self.superblocks.lock();
        let Some(both) = superblocks.as_mut() else { return Ok(()) };
        let changed = change(both).inspect_err(|failed| {
            log::error!("leg {}: cannot write the superblock: {}", failed.leg, failed.error);
        });
        self.shown.lock().now(superblocks.as_ref());
        changed
    }

    /// Whether the mirror can go on without this leg: the other one is in service and complete.
    pub fn can_lose(&self, leg: LegId) -> bool {
        self.superblocks.lock().as_ref().is_some_and(|both| both.can_lose(leg))
    }

    /// Takes `leg` out of service and records on the other that it is stale. `born` as for
    /// [`Superblocks::leg_failed`].
    ///
    /// # Errors
    /// The leg cannot be left behind, or that is not durable: what it missed must not be acknowledged.
    pub fn leave(
        &self,
        leg: LegId,
        errno: i32,
        since: Timestamp,
        born: Option<Timestamp>,
        why: Option<String>,
    ) -> io::Result<Left> {
        let mut superblocks = self.superblocks.lock();
        if self.lost(leg).is_some() {
            return Ok(Left::Before);
        }
        let Some(both) = superblocks.as_mut() else { return Err(crate::error::errno(libc::EROFS)) };
        both.leg_failed(leg, errno, born)?;
        let mut shown = self.shown.lock();
        shown.now(superblocks.as_ref());
        shown.lost[leg] = Some(Lost { errno, since, missing: false });
        shown.why[leg] = why;
        self.in_service[leg].store(false, Ordering::Release);
        Ok(Left::Now)
    }

    /// A leg that is away came back, and could not be made equal; or, without an errno, not be opened.
    pub fn stays_away(&self, leg: LegId, errno: Option<i32>, since: Timestamp, why: String) {
        let mut shown = self.shown.lock();
        if let Some(lost) = &mut shown.lost[leg] {
            if let Some(errno) = errno {
                *lost = Lost { errno, since, missing: false };
            }
            shown.why[leg] = Some(why);
        }
    }

    /// Takes `leg` into service again, as the target of a recovery; recorded when it returns.
    pub fn take_in(&self, leg: LegId, found: FoundSide) -> std::result::Result<(), NotWritten> {
        let mut superblocks = self.superblocks.lock();
        let taken = superblocks.as_mut().map_or(Ok(()), |both| both.take_in(leg, found));
        let mut shown = self.shown.lock();
        shown.now(superblocks.as_ref());
        taken?;
        shown.lost[leg] = None;
        self.in_service[leg].store(true, Ordering::Release);
        Ok(())
    }

    /// Lets go of the superblock of a leg that was left behind.
    pub fn let_go(&self, leg: LegId) -> Option<Box<dyn SuperblockStore>> {
        let mut superblocks = self.superblocks.lock();
        let store = superblocks.as_mut()?.let_go(leg);
        self.shown.lock().now(superblocks.as_ref());
        store
    }

    /// What a leg's superblock says.
    pub fn superblock(&self, leg: LegId) -> Option<Superblock> {
        self.shown.lock().superblocks[leg].clone()
    }

    /// While a leg is away: from when on what was born on the other one was perhaps not born on it.
    /// `None` if that is not known.
    pub fn alone_since(&self) -> Option<Timestamp> {
        let shown = self.shown.lock();
        let lost = LegId::ALL.into_iter().find(|&leg| shown.lost[leg].is_some())?;
        let says = shown.superblocks[lost.other()].as_ref()?;
        // It is called recovering where taking it in has failed, and so has taking that back.
        debug_assert!(says.peer_state != PeerState::InSync);
        says.alone_since
    }
}
