//! Changes of the mirror's state, written to both legs so that a crash between any two writes leaves
//! something that [`plan`](super::plan()) understands.
//!
//! A change that both legs take part in (mount, end of a resync, unmount) is four writes:
//!
//! ```text
//!   S1  source   events = n, events_cleared as before
//!   S2  other    events = n, events_cleared = n        and once more, so that both its slots say so
//!   S3  source   events = n, events_cleared = n
//! ```
//!
//! | crash | what is found | what the next mount does |
//! |---|---|---|
//! | before S1 | the old state on both | as if the change had not begun |
//! | S1, S2 | source ahead, its cleared <= the other's events | resync by the bitmap, which still covers all: no bit is cleared before S3 |
//! | S2, S3 | events equal, source's cleared lower than need be | as after S3 |
//! | after S3 | the new state on both | |
//!
//! Bits may be cleared only after `S3`: from then on a copy of the other leg from before the change
//! is refused as older, where the bitmap does not cover it any more. Each leg ends with the new events
//! in both of its slots, so that one damaged slot never takes a leg back to an older state.
//!
//! Something on one leg that is about to be written anew ([`Superblocks::prefer`]) is such a change, too: the
//! other leg is named as the source of a resync, and is written first; `resynced` takes it back.
//!
//! Going on with one leg (a fault while mounted, a mount without the other) is recorded on that one only,
//! twice for the same reason:
//!
//! ```text
//!   F1  survivor   a generation of its own, the old one among its ancestors; events = highest ever
//!                  tried + 1, peer stale since (the highest ever tried), events_cleared as it is, which is
//!                  never more than that; then again into the other slot
//! ```
//!
//! | crash | what is found | what the next mount does |
//! |---|---|---|
//! | before F1 | no record | an ordinary resync: no write that only one leg took was acknowledged (O2) |
//! | after F1 | the other's generation is an ancestor of the survivor's | recovery from the survivor |
//! | after F1, and the other went on alone as well | two generations, neither the other's ancestor | refused: divergent |
//!
//! A leg that comes back is taken in by the four writes of a common change, S1 to S3, in which the other
//! one's generation becomes its own. Between S1 and S2 it is still behind by its generation; from S2 on
//! it is the target of a resync, and refused without its source.
//!
//! A [new leg](super::Superblock::new_peer) in the place of one that is away is taken in by the same writes, in
//! which it becomes the source's peer. Before S1 the leg that is away is the peer, and the new one is refused;
//! from S1 on it is the other way round.
//!
//! "Highest ever tried", since a write of the lost leg that reported an error may have landed: it
//! must not have as many events as the survivor, or more than it is stale since, or it would look as if it
//! had gone on.
//!
//! Never loses the source: the fault of a leg from which a resync still reads is not recorded, for
//! the other one is not complete. That mirror can only stop.

use std::io;

use super::{ANCESTORS, PeerState, Plan, Superblock, Work, new_generation};
use crate::error::errno;
use crate::legs::{LegId, PerLeg, Timestamp};

/// One leg's superblock file. Each write goes to the slot that holds the older state.
pub trait SuperblockStore: Send + Sync {
    /// Durable when it returns. Whatever `sequence` says is replaced by the next number.
    fn write(&self, superblock: &Superblock) -> io::Result<()>;
}

/// A leg whose superblock could not be written.
#[derive(Debug)]
pub struct NotWritten {
    /// Which.
    pub leg: LegId,
    /// Why.
    pub error: io::Error,
}

/// A leg's superblock file, and what is known to be in it.
struct Side {
    store: Box<dyn SuperblockStore>,
    now: Superblock,
}

/// Both superblocks of a mounted mirror. Its owner holds it under a lock of rank `State`.
pub struct Superblocks {
    /// `None` for a leg that is not there.
    sides: PerLeg<Option<Side>>,
    /// The highest `events` that any write has carried, also one that failed.
    tried: u64,
    /// The leg that the other one goes on without.
    lost: Option<LegId>,
    /// The leg that the other one may call stale: writing that has failed, and may have landed.
    doubted: Option<LegId>,
    /// Since [`prefer`](Superblocks::prefer) nothing has been touched: both legs are complete.
    untouched: bool,
}

/// A leg's superblock as it was found, and where to write the next one.
pub type FoundSide = (Superblock, Box<dyn SuperblockStore>);

impl Superblocks {
    /// Records that the mirror is mounted, before anything is read through it. On an error nothing
    /// has been lost: the legs are as a crashed mount leaves them.
    ///
    /// `found` has the leg that the plan reads from, and the other one unless the plan is to go on alone.
    /// `born` is the birth that an object made now would have on the source.
    pub fn mount(
        found: PerLeg<Option<FoundSide>>,
        plan: &Plan,
        born: Option<Timestamp>,
    ) -> Result<Superblocks, NotWritten> {
        let sides = found.map(|side| side.map(|(now, store)| Side { now, store }));
        let tried = sides.iter().filter_map(|(_, side)| Some(side.as_ref()?.now.events)).max().unwrap_or(0);
        let mut this = Superblocks { sides, tried, lost: None, doubted: None, untouched: false };
        if plan.work == Work::Alone {
            let go_on = this.go_on_alone(plan.source, libc::ENODEV, born);
            go_on.map_err(|error| NotWritten { leg: plan.source, error })?;
            return Ok(this);
        }
        match plan.stale {
            Some(stale) => this.begin_recovery(stale)?,
            None => {
                let source = (plan.work != Work::Nothing).then_some(plan.source);
                this.change(plan.source, |sb, _| {
                    (sb.clean, sb.source, sb.peer_state) = (false, source, PeerState::InSync);
                })?;
            }
        }
        Ok(this)
    }

    /// Takes in a leg that was lost, or [a new one](Superblock::new_peer) in its place: from here on it is the
    /// target of a recovery from the other one, and that one's peer.
    ///
    /// # Errors
    /// It stays lost. What the legs say by then makes it the stale one, or the new one none at all.
    pub fn take_in(&mut self, leg: LegId, found: FoundSide) -> Result<(), NotWritten> {
        debug_assert_eq!(self.lost, Some(leg));
        let before = self.get(leg.other()).cloned();
        let cause = match self.get(leg.other()).map(|says| says.peer_state) {
            Some(PeerState::Stale { errno, .. }) => errno,
            _ => 0,
        };
        let (now, store) = found;
        self.tried = self.tried.max(now.events);
        self.sides[leg] = Some(Side { now, store });
        (self.lost, self.untouched) = (None, false);
        let begun = self.begin_recovery(leg);
        if begun.is_err() {
            // ORDER: the survivor goes on alone again with a generation that the leg has not got, should it
            // have taken the survivor's. Until that is written it is the target of a recovery that has begun,
            // or as stale as before. A new leg is not its peer after all.
            if let (Some(side), Some(before)) = (&mut self.sides[leg.other()], before) {
                (side.now.peer, side.now.alone_since) = (before.peer, before.alone_since);
            }
            let alone = self.go_on_alone(leg.other(), cause, None);
            (self.lost, self.sides[leg]) = (Some(leg), None);
            if let Err(error) = alone {
                log::error!("leg {}: cannot write the superblock: {error}", leg.other());
            }
        } else {
            // Both have been written since.
            self.doubted = None;
        }
        begun
    }

    fn begin_recovery(&mut self, stale: LegId) -> Result<(), NotWritten> {
        let source = stale.other();
        let target = self.get(stale).map(|says| says.leg);
        self.change(source, |sb, of_source| {
            if let Some(target) = target.filter(|&target| sb.role == source && sb.peer != target) {
                // Nothing that this leg has was born on a new one.
                (sb.peer, sb.alone_since) = (target, None);
            }
            (sb.clean, sb.source) = (false, Some(source));
            (sb.generation, sb.ancestors) = (of_source.generation, of_source.ancestors);
            // A leg that was away does not know where the bitmap is by now.
            (sb.bitmap_place, sb.bitmap_file) = (of_source.bitmap_place, of_source.bitmap_file);
            sb.peer_state = if sb.role == source { PeerState::Recovering } else { PeerState::InSync };
        })
    }

    /// Records that a resync after a crash has to read from `leg`: something on the other one is about to be
    /// written anew that was equal. [`resynced`](Self::resynced) takes it back.
    pub fn prefer(&mut self, leg: LegId) -> Result<(), NotWritten> {
        self.untouched = true;
        self.change(leg, |sb, _| (sb.clean, sb.source) = (false, Some(leg)))
    }

    /// What is written anew may be neither the old nor the new from now on: until
    /// [`resynced`](Self::resynced), the leg that is preferred cannot be lost.
    pub fn touching(&mut self) {
        self.untouched = false;
    }

    /// Records that the resync is done: both legs are equal and durable. Does nothing when a leg has
    /// been lost since.
    pub fn resynced(&mut self) -> Result<(), NotWritten> {
        self.untouched = false;
        self.change(self.first(), |sb, _| {
            (sb.source, sb.alone_since, sb.peer_state) = (None, None, PeerState::InSync);
        })?;
        if self.lost.is_none() {
            self.doubted = None;
        }
        Ok(())
    }

    /// Records a clean unmount: nothing is in flight, both legs are durable. A resync that is not
    /// done stays recorded, and a lost leg stale.
    pub fn unmount(&mut self) -> Result<(), NotWritten> {
        let Some(lost) = self.lost else {
            return self.change(self.first(), |sb, _| sb.clean = true);
        };
        let survivor = lost.other();
        let failed = |error| NotWritten { leg: survivor, error };
        let mut next = self.side(survivor).map_err(failed)?.now.clone();
        (next.clean, next.events) = (true, self.tried + 1);
        self.write_twice(survivor, next).map_err(failed)
    }

    /// Records on the other leg that this one failed with `cause`. On Ok the fact is durable, and a
    /// change that only the survivor took may be acknowledged (O2, P6). `born` as for
    /// [`mount`](Self::mount), on the survivor.
    ///
    /// EIO when there is nothing to go on with: the other leg is lost already, or may be recorded as lost, or this is
    /// the source of an unfinished resync. Any other error is the survivor's own.
    pub fn leg_failed(&mut self, leg: LegId, cause: i32, born: Option<Timestamp>) -> io::Result<()> {
        let survivor = leg.other();
        if self.lost == Some(leg) {
            return Ok(());
        }
        if !self.can_lose(leg) {
            return Err(errno(libc::EIO));
        }
        self.go_on_alone(survivor, cause, born)
    }

    /// Whether the other leg can do without this one: it is complete, and not perhaps called stale by this one. If each
    /// went on alone, they would have diverged.
    pub fn can_lose(&self, leg: LegId) -> bool {
        let survivor = self.sides[leg.other()].as_ref();
        let alone = self.lost.is_none() && self.doubted != Some(leg.other());
        alone && survivor.is_some_and(|side| side.now.source != Some(leg) || self.untouched)
    }

    /// Lets go of the file of the leg that was left behind, for the caller to close.
    pub fn let_go(&mut self, leg: LegId) -> Option<Box<dyn SuperblockStore>> {
        if self.lost != Some(leg) {
            return None;
        }
        self.sides[leg].take().map(|side| side.store)
    }

    fn go_on_alone(&mut self, survivor: LegId, cause: i32, born: Option<Timestamp>) -> io::Result<()> {
        let mut next = self.side(survivor)?.now.clone();
        let was = next.peer_state;
        let since_events = self.tried;
        if !matches!(was, PeerState::Stale { .. }) {
            // O4: events_cleared stands still from here on.
            debug_assert!(next.events_cleared <= since_events, "raised before the other leg caught up");
            next.ancestors.copy_within(..ANCESTORS - 1, 1);
            next.ancestors[0] = next.generation;
            next.generation = new_generation();
            next.peer_state = PeerState::Stale { since_events, errno: cause };
        }
        if was == PeerState::InSync {
            // One that was being recovered may lack what was born since it was lost before.
            next.alone_since = born;
        }
        (next.clean, next.source, next.events) = (false, None, self.tried + 1);
        self.doubted = Some(survivor.other());
        self.write_twice(survivor, next)?;
        (self.lost, self.doubted) = (Some(survivor.other()), None);
        Ok(())
    }

    /// What a leg's superblock is known to say; `None` when the leg was not there.
    pub fn get(&self, leg: LegId) -> Option<&Superblock> {
        self.sides[leg].as_ref().map(|side| &side.now)
    }

    /// The leg that the other one goes on without.
    pub fn lost(&self) -> Option<LegId> {
        self.lost
    }

    fn first(&self) -> LegId {
        self.get(LegId::A).and_then(|sb| sb.source).unwrap_or(LegId::A)
    }

    fn side(&self, leg: LegId) -> io::Result<&Side> {
        self.sides[leg].as_ref().ok_or_else(|| errno(libc::ENODEV))
    }

    /// Writes a change in which both legs take part. `edit` is given what the source says before it.
    fn change(
        &mut self,
        source: LegId,
        edit: impl Fn(&mut Superblock, &Superblock),
    ) -> Result<(), NotWritten> {
        if self.lost.is_some() {
            return Ok(());
        }
        let failed = |leg| move |error| NotWritten { leg, error };
        let events = self.tried + 1;
        let of_source = self.side(source).map_err(failed(source))?.now.clone();
        let next = |this: &Self, leg| {
            let mut sb = this.side(leg)?.now.clone();
            edit(&mut sb, &of_source);
            (sb.events, sb.events_cleared) = (events, events);
            io::Result::Ok(sb)
        };
        let other = source.other();
        let of_other = next(self, other).map_err(failed(other))?;
        let of_source_next = next(self, source).map_err(failed(source))?;
        // ORDER: the source first (O8), and with its old events_cleared, as the other leg may stay
        // behind if we crash now.
        let ahead = Superblock { events_cleared: of_source.events_cleared, ..of_source_next.clone() };
        self.write(source, ahead).map_err(failed(source))?;
        self.write_twice(other, of_other).map_err(failed(other))?;
        // ORDER: raised only now that the other leg has caught up; bits are cleared only after this.
        self.write(source, of_source_next).map_err(failed(source))
    }

    fn write(&mut self, leg: LegId, next: Superblock) -> io::Result<()> {
        self.tried = self.tried.max(next.events);
        let side = self.sides[leg].as_mut().ok_or_else(|| errno(libc::ENODEV))?;
        side.store.write(&next)?;
        side.now = next;
        Ok(())
    }

    fn write_twice(&mut self, leg: LegId, next: Superblock) -> io::Result<()> {
        self.write(leg, next.clone())?;
        self.write(leg, next)
    }
}

#[cfg(test)]
#[path = "advance_tests.rs"]
mod tests;
