//! A new, empty directory takes the place of a leg that is away: what its first superblock says, and which
//! directories are fit for that. Pure.
//!
//! ```text
//!   R1  new leg    a superblock of its own: events = 0, target of a recovery from the survivor
//!   S1  survivor   its peer is the new leg from here on, which it recovers    as in [`advance`](super::advance)
//!   S2  new leg    the survivor's events; twice
//!   S3  survivor   events_cleared
//! ```
//!
//! | crash | with the old leg | with the new leg | the new leg alone |
//! |---|---|---|---|
//! | before R1 | as before | refused: empty | refused: empty |
//! | R1, S1 | as before | refused: not taken in | refused: incomplete |
//! | after S1 | refused: replaced | recovery of the new leg, everything compared | refused: incomplete |
//!
//! The survivor alone goes on in each row, and takes the leg back in that it had then.
//!
//! Why `events` is 0 in R1: fewer than any `events_cleared`, which starts at 1, so that no bitmap reaches back
//! to a leg that has nothing. Why the generation is the survivor's: between S1 and S2 the new leg is behind
//! within it, and has not diverged.
//!
//! A leg that *returns* and has everything compared is filled in the same way, and is what it was until then: stale.
//! But once the first file has been copied to it it holds neither what it held nor what the survivor holds. So before that
//! it loses its history:
//!
//! ```text
//!   T1  returned leg   events = 0, target of a recovery from the survivor; twice
//!   S1 to S3           when it is complete
//! ```
//!
//! | crash | with the survivor | with an old copy of the survivor | alone |
//! |---|---|---|---|
//! | before T1 | stale, by the bitmap or everything compared | by their histories | goes on with what it had |
//! | T1, S1 | stale, everything compared | stale, everything compared | refused: incomplete |
//!
//! With the events it had, an old copy of the survivor, from before the leg was left behind, would pass for its peer in step.

use uuid::Uuid;

use super::{Found, PeerState, SlotFault, Superblock};

impl Superblock {
    /// R1: for a new leg in the place of the one that the leg with this superblock goes on without.
    pub fn new_peer(&self) -> Superblock {
        Superblock {
            leg: Uuid::new_v4(),
            peer: self.leg,
            role: self.role.other(),
            events: 0,
            events_cleared: 0,
            peer_state: PeerState::InSync,
            source: Some(self.role),
            alone_since: None,
            clean: false,
            sequence: 0,
            ..self.clone()
        }
    }

    /// T1: for a leg that returns, before it is filled.
    pub fn without_history(&self) -> Superblock {
        Superblock {
            events: 0,
            events_cleared: 0,
            peer_state: PeerState::InSync,
            source: Some(self.role.other()),
            clean: false,
            ..self.clone()
        }
    }

    /// Whether this was to become the peer of `survivor`, and has not.
    fn was_to_be_peer_of(&self, survivor: &Superblock) -> bool {
        self.peer == survivor.leg && self.role != survivor.role && self.source == Some(survivor.role)
    }
}

/// Why a directory cannot become a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is the very leg that is to be replaced.
    IsTheLeg,
    /// It is a leg of this mirror or another one: which mirror's.
    IsALeg(Uuid),
    /// It holds files.
    HasFiles,
    /// It has a superblock that cannot be trusted.
    Damaged([SlotFault; 2]),
    /// It has a superblock of this later format version.
    NewerVersion(u32),
}

/// Whether a directory in which this was found, and perhaps files, is fit to take the place of the peer
/// of `survivor`: a new one, or one of which that was begun before.
pub fn fits(found: &Found, has_files: bool, survivor: &Superblock) -> Result<(), Unfit> {
    match found {
        Found::Leg { superblock, .. } if superblock.mirror != survivor.mirror => {
            Err(Unfit::IsALeg(superblock.mirror))
        }
        Found::Leg { superblock, .. } if superblock.leg == survivor.peer => Err(Unfit::IsTheLeg),
        Found::Leg { superblock, .. } if !superblock.was_to_be_peer_of(survivor) => {
            Err(Unfit::IsALeg(superblock.mirror))
        }
        Found::Damaged(slots) => Err(Unfit::Damaged(slots.clone())),
        Found::NewerVersion(version) => Err(Unfit::NewerVersion(*version)),
        // What it holds was copied to it: it was empty before it was that.
        Found::Leg { .. } => Ok(()),
        _ if has_files => Err(Unfit::HasFiles),
        Found::Missing(_) | Found::Empty | Found::NotAMirror => Ok(()),
    }
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;
