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
//! A fault of a leg is recorded on the survivor only, twice for the same reason:
//!
//! ```text
//!   F1  survivor   events = highest ever tried + 1, peer stale since (the other's events as last known),
//!                  events_cleared as it is, which is never more than that; then again into the other slot
//! ```
//!
//! | crash | what is found | what the next mount does |
//! |---|---|---|
//! | before F1 | no record | an ordinary resync: no write that only one leg took was acknowledged (O2) |
//! | after F1 | survivor says stale, the other has fewer events | resync from the survivor |
//!
//! "Highest ever tried", since a write of the lost leg that reported an error may have landed: it
//! must not have as many events as the survivor, or it would look as if it had gone on.
//!
//! Never loses the source: the fault of a leg from which a resync still reads is not recorded, for
//! the other one is not complete. That mirror can only stop.

use std::io;

use super::{PeerState, Plan, Superblock, Work};
use crate::error::errno;
use crate::legs::{LegId, PerLeg};

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

/// Both superblocks of a mounted mirror. Its owner holds it under a lock of rank `State`.
pub struct Superblocks {
    stores: PerLeg<Box<dyn SuperblockStore>>,
    /// What is known to be durable.
    now: PerLeg<Superblock>,
    /// The highest `events` that any write has carried, also one that failed.
    tried: u64,
    lost: Option<LegId>,
}

impl Superblocks {
    /// Records that the mirror is mounted, before anything is read through it. On an error nothing
    /// has been lost: the legs are as a crashed mount leaves them.
    pub fn mount(
        stores: PerLeg<Box<dyn SuperblockStore>>,
        found: PerLeg<Superblock>,
        plan: &Plan,
    ) -> Result<Superblocks, NotWritten> {
        let tried = found.iter().map(|(_, sb)| sb.events).max().unwrap_or(0);
        let mut this = Superblocks { stores, now: found, tried, lost: None };
        let source = (plan.work == Work::Resync).then_some(plan.source);
        this.change(plan.source, |leg, sb| {
            sb.clean = false;
            sb.source = source;
            sb.peer_state = match plan.stale {
                Some(stale) if stale != leg => PeerState::Recovering,
                _ => PeerState::InSync,
            };
        })?;
        Ok(this)
    }

    /// Records that the resync is done: both legs are equal and durable. Does nothing when a leg has
    /// been lost since.
    pub fn resynced(&mut self) -> Result<(), NotWritten> {
        self.change(self.first(), |_, sb| {
            sb.source = None;
            sb.peer_state = PeerState::InSync;
        })
    }

    /// Records a clean unmount: nothing is in flight, both legs are durable. A resync that is not
    /// done stays recorded, and a lost leg stale.
    pub fn unmount(&mut self) -> Result<(), NotWritten> {
        let Some(lost) = self.lost else {
            return self.change(self.first(), |_, sb| sb.clean = true);
        };
        let survivor = lost.other();
        let mut next = self.now[survivor].clone();
        (next.clean, next.events) = (true, self.tried + 1);
        self.write_twice(survivor, next).map_err(|error| NotWritten { leg: survivor, error })
    }

    /// Records on the other leg that this one failed with `cause`. On Ok the fact is durable, and a
    /// change that only the survivor took may be acknowledged (O2, P6).
    ///
    /// EIO when there is nothing to go on with: the other leg is lost already, or this is the source
    /// of an unfinished resync. Any other error is the survivor's own.
    pub fn leg_failed(&mut self, leg: LegId, cause: i32) -> io::Result<()> {
        let survivor = leg.other();
        if self.lost == Some(leg) {
            return Ok(());
        }
        if self.lost.is_some() || self.now[survivor].source == Some(leg) {
            return Err(errno(libc::EIO));
        }
        let since_events = self.now[leg].events;
        let mut next = self.now[survivor].clone();
        next.events = self.tried + 1;
        // O4: events_cleared stands still from here on.
        debug_assert!(next.events_cleared <= since_events, "raised before the other leg caught up");
        next.peer_state = PeerState::Stale { since_events, errno: cause };
        next.source = None;
        self.write_twice(survivor, next)?;
        self.lost = Some(leg);
        Ok(())
    }

    /// What a leg's superblock is known to say.
    pub fn get(&self, leg: LegId) -> &Superblock {
        &self.now[leg]
    }

    /// The leg that failed since the mount.
    pub fn lost(&self) -> Option<LegId> {
        self.lost
    }

    fn first(&self) -> LegId {
        self.now[LegId::A].source.unwrap_or(LegId::A)
    }

    /// Writes a change in which both legs take part.
    fn change(&mut self, source: LegId, edit: impl Fn(LegId, &mut Superblock)) -> Result<(), NotWritten> {
        if self.lost.is_some() {
            return Ok(());
        }
        let events = self.tried + 1;
        let next = PerLeg::from_fn(|leg| {
            let mut sb = self.now[leg].clone();
            edit(leg, &mut sb);
            (sb.events, sb.events_cleared) = (events, events);
            sb
        });
        let other = source.other();
        let failed = |leg| move |error| NotWritten { leg, error };
        // ORDER: the source first (O8), and with its old events_cleared, as the other leg may stay
        // behind if we crash now.
        let cleared = self.now[source].events_cleared;
        let ahead = Superblock { events_cleared: cleared, ..next[source].clone() };
        self.write(source, ahead).map_err(failed(source))?;
        self.write_twice(other, next[other].clone()).map_err(failed(other))?;
        // ORDER: raised only now that the other leg has caught up; bits are cleared only after this.
        self.write(source, next[source].clone()).map_err(failed(source))
    }

    fn write(&mut self, leg: LegId, next: Superblock) -> io::Result<()> {
        self.tried = self.tried.max(next.events);
        self.stores[leg].write(&next)?;
        self.now[leg] = next;
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
