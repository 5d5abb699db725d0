//! From what both legs say: which one is read, and what has to be done, or why neither may be
//! touched. Pure. A refusal changes nothing on either leg.
//!
//! First each leg by itself (A is asked before B; the first problem is the answer):
//!
//! | found | answer |
//! |---|---|
//! | no such directory | refused: missing |
//! | nothing in it | refused: empty (an unmounted disk?) |
//! | files, no superblock | refused: not a mirror |
//! | neither slot valid | refused: damaged |
//! | a later format version | refused: newer |
//!
//! Then whether they belong together: same mirror, different legs, in the order in which they were
//! created, each the other's peer, of one geometry. One that is not the other's peer has been replaced, or was to
//! replace that peer and has not been taken in: see [`super::replace`]. Then the histories:
//!
//! | A's generation | B's generation | answer |
//! |---|---|---|
//! | g | g | see below |
//! | g | among A's ancestors is B's | B is stale: A went on without it |
//! | among B's ancestors is A's | g | A is stale |
//! | so, but the stale one's cleared > the other's "stale since" | | refused: divergent, it went on with a leg of which the other is an old copy |
//! | otherwise | | refused: divergent |
//!
//! Within one generation, "ahead" is the leg with more events, `source` the recorded one of a resync:
//!
//! | one says of the other | the other says | and | answer |
//! |---|---|---|---|
//! | in sync | in sync | events equal, both clean, no source | nothing to do, source A |
//! | in sync | in sync | events equal, unclean or a source | resync from the source, else A |
//! | in sync | in sync | events differ, ahead.cleared <= behind.events | resync from the source, else the one ahead |
//! | in sync | in sync | events differ, ahead.cleared > behind.events | the one behind is stale |
//! | stale, recovering | in sync | at most as many events | the other is stale |
//! | stale, recovering | in sync | more events | refused: divergent, it went on as well |
//! | stale, recovering | stale, recovering | | refused: divergent |
//! | the sources contradict each other or the leg that says "stale" | | | refused: divergent |
//!
//! A stale leg is made equal to the other one: by the bitmap if it reaches back far enough
//! (`events_cleared` of the one <= `events` of the stale one), else by comparing everything.
//!
//! With one leg alone ([`plan_alone`]): it is refused as incomplete if it is the target of a resync
//! that was not finished; else it goes on alone, with a generation of its own from then on.
//!
//! Why events may differ by more than one without anybody being stale: a mount that crashes between
//! its superblock writes leaves one leg ahead, and the next such mount leaves it ahead by two. What
//! tells this from a leg restored from an old image is `events_cleared`: it is raised only after
//! both legs carry the new events, and no bit is cleared before it is. See [`super::advance`] for each
//! step at which a crash can fall.

use uuid::Uuid;

use super::{Found, Geometry, PeerState, SlotFault, Superblock};
use crate::legs::{LegId, PerLeg};

/// What a mount has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The leg that is read, and that the other is made equal to.
    pub source: LegId,
    /// What there is to do.
    pub work: Work,
    /// The leg that has missed writes, and must never be read before it has been recovered.
    pub stale: Option<LegId>,
}

/// See [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The legs are equal.
    Nothing,
    /// Make equal what the bitmap names.
    Resync,
    /// Make everything equal: the bitmap does not reach back far enough.
    CompareAll,
    /// The other leg is not there: go on without it.
    Alone,
}

/// Why a pair of legs is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The directory is not there: the errno.
    Missing(LegId, i32),
    /// The directory is there and has nothing in it.
    Empty(LegId),
    /// The directory has files but no superblock.
    NotAMirror(LegId),
    /// Neither directory has a superblock.
    NeitherIsAMirror,
    /// Neither slot of the superblock can be trusted.
    Damaged(LegId, [SlotFault; 2]),
    /// The superblock is of a later format version.
    NewerVersion(LegId, u32),
    /// The legs of two mirrors: their UUIDs.
    OtherMirror(PerLeg<Uuid>),
    /// Twice the same leg, or a copy of it.
    SameLeg,
    /// Of one mirror, but each has another peer.
    NotPeers,
    /// The other leg has another peer in place of this one.
    Replaced(LegId),
    /// This one was to take the place of the other leg's peer, and has not done so.
    NotTakenIn(LegId),
    /// A was given as B and B as A.
    Swapped,
    /// Of one mirror, but not of one geometry.
    Geometry(PerLeg<Geometry>),
    /// It was given as this leg, and is the other one.
    OtherRole(LegId),
    /// The target of a resync that was not finished: it cannot serve without the source.
    Incomplete(LegId),
    /// Each has been changed without the other.
    Divergent(DivergentBecause),
}

/// What shows that neither leg contains the other's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DivergentBecause {
    /// Generations of which neither is an ancestor of the other.
    Generations,
    /// Each leg calls the other one stale.
    BothCallTheOtherStale,
    /// This leg was left behind and has changed nevertheless.
    WentOn(LegId),
    /// The legs contradict each other about which is the source of a resync.
    Sources,
}

/// Decides by the tables at the head of this file.
pub fn plan(found: &PerLeg<Found>) -> Result<Plan, Refusal> {
    if found.iter().all(|(_, found)| matches!(found, Found::Empty | Found::NotAMirror)) {
        return Err(Refusal::NeitherIsAMirror);
    }
    let legs = PerLeg::from_fn(|leg| superblock_of(leg, &found[leg])).transpose()?;
    belong_together(&legs)?;
    match left_behind(&legs)? {
        // What it says of an older resync was over when the other one went on.
        Some(stale) => recovery(&legs, stale, legs[stale.other()].source),
        None => within_a_generation(&legs),
    }
}

/// Decides whether `leg`, of which `found` is what it says, may go on without the other one.
pub fn plan_alone(leg: LegId, found: &Found) -> Result<Plan, Refusal> {
    let says = superblock_of(leg, found)?;
    if says.role != leg {
        return Err(Refusal::OtherRole(leg));
    }
    if says.source == Some(leg.other()) {
        return Err(Refusal::Incomplete(leg));
    }
    Ok(Plan { source: leg, work: Work::Alone, stale: Some(leg.other()) })
}

fn superblock_of(leg: LegId, found: &Found) -> Result<&Superblock, Refusal> {
    match found {
        Found::Leg { superblock, .. } => Ok(superblock),
        Found::Missing(errno) => Err(Refusal::Missing(leg, *errno)),
        Found::Empty => Err(Refusal::Empty(leg)),
        Found::NotAMirror => Err(Refusal::NotAMirror(leg)),
        Found::Damaged(slots) => Err(Refusal::Damaged(leg, slots.clone())),
        Found::NewerVersion(version) => Err(Refusal::NewerVersion(leg, *version)),
    }
}

fn belong_together(legs: &PerLeg<&Superblock>) -> Result<(), Refusal> {
    let (a, b) = (legs[LegId::A], legs[LegId::B]);
    if a.mirror != b.mirror {
        return Err(Refusal::OtherMirror(legs.map(|sb| sb.mirror)));
    }
    if a.leg == b.leg {
        return Err(Refusal::SameLeg);
    }
    let is_known = PerLeg::from_fn(|leg| legs[leg.other()].peer == legs[leg].leg);
    if a.role == b.role || !(is_known[LegId::A] || is_known[LegId::B]) {
        return Err(Refusal::NotPeers);
    }
    if a.role == LegId::B {
        return Err(Refusal::Swapped);
    }
    if let Some(leg) = LegId::ALL.into_iter().find(|&leg| !is_known[leg]) {
        // One that was taken in has the other leg's events.
        let was_taken_in = legs[leg].events > 0;
        return Err(if was_taken_in { Refusal::Replaced(leg) } else { Refusal::NotTakenIn(leg) });
    }
    // Not where the bitmap is: a crash between two writes leaves them of two minds about that.
    if (a.chunk_size, a.bitmap_slots) != (b.chunk_size, b.bitmap_slots) {
        return Err(Refusal::Geometry(legs.map(Superblock::geometry)));
    }
    Ok(())
}

/// The leg whose history is a prefix of the other's, because that one went on alone.
fn left_behind(legs: &PerLeg<&Superblock>) -> Result<Option<LegId>, Refusal> {
    let (a, b) = (legs[LegId::A], legs[LegId::B]);
    if a.generation == b.generation {
        return Ok(None);
    }
    let stale = match (a.ancestors.contains(&b.generation), b.ancestors.contains(&a.generation)) {
        (true, false) if b.peer_state == PeerState::InSync => LegId::B,
        (false, true) if a.peer_state == PeerState::InSync => LegId::A,
        _ => return Err(Refusal::Divergent(DivergentBecause::Generations)),
    };
    // events_cleared is raised only after both legs have the new events: the one that went on would know.
    match legs[stale.other()].peer_state {
        PeerState::Stale { since_events, .. } if legs[stale].events_cleared > since_events => {
            Err(Refusal::Divergent(DivergentBecause::WentOn(stale)))
        }
        _ => Ok(Some(stale)),
    }
}

fn within_a_generation(legs: &PerLeg<&Superblock>) -> Result<Plan, Refusal> {
    let complains = legs.map(|sb| sb.peer_state != PeerState::InSync);
    let recorded = recorded_source(legs)?;
    match (complains[LegId::A], complains[LegId::B]) {
        (false, false) => both_in_sync(legs, recorded),
        (true, false) => one_behind(legs, LegId::A, recorded),
        (false, true) => one_behind(legs, LegId::B, recorded),
        (true, true) => Err(Refusal::Divergent(DivergentBecause::BothCallTheOtherStale)),
    }
}

/// The source on which the legs agree, of which either may not know yet or any more.
fn recorded_source(legs: &PerLeg<&Superblock>) -> Result<Option<LegId>, Refusal> {
    match (legs[LegId::A].source, legs[LegId::B].source) {
        (Some(a), Some(b)) if a != b => Err(Refusal::Divergent(DivergentBecause::Sources)),
        (a, b) => Ok(a.or(b)),
    }
}

fn both_in_sync(legs: &PerLeg<&Superblock>, recorded: Option<LegId>) -> Result<Plan, Refusal> {
    let (a, b) = (legs[LegId::A], legs[LegId::B]);
    if a.events == b.events {
        let equal = a.clean && b.clean && recorded.is_none();
        let work = if equal { Work::Nothing } else { Work::Resync };
        return Ok(Plan { source: recorded.unwrap_or(LegId::A), work, stale: None });
    }
    // The source is written first, so the leg ahead was the source if nobody says otherwise.
    let ahead = if a.events > b.events { LegId::A } else { LegId::B };
    if bitmap_reaches(legs[ahead], legs[ahead.other()]) {
        return Ok(Plan { source: recorded.unwrap_or(ahead), work: Work::Resync, stale: None });
    }
    if recorded == Some(ahead.other()) {
        return Err(Refusal::Divergent(DivergentBecause::Sources));
    }
    Ok(Plan { source: ahead, work: Work::CompareAll, stale: Some(ahead.other()) })
}

fn one_behind(legs: &PerLeg<&Superblock>, source: LegId, recorded: Option<LegId>) -> Result<Plan, Refusal> {
    let stale = source.other();
    let (ahead, behind) = (legs[source], legs[stale]);
    // A leg under recovery takes part in each change of state, one that was left behind in none.
    let went_on = match ahead.peer_state {
        PeerState::Stale { .. } => behind.events >= ahead.events,
        _ => behind.events > ahead.events,
    };
    if went_on {
        return Err(Refusal::Divergent(DivergentBecause::WentOn(stale)));
    }
    recovery(legs, stale, recorded)
}

fn recovery(legs: &PerLeg<&Superblock>, stale: LegId, recorded: Option<LegId>) -> Result<Plan, Refusal> {
    if recorded == Some(stale) {
        return Err(Refusal::Divergent(DivergentBecause::Sources));
    }
    let source = stale.other();
    let work = if bitmap_reaches(legs[source], legs[stale]) { Work::Resync } else { Work::CompareAll };
    Ok(Plan { source, work, stale: Some(stale) })
}

fn bitmap_reaches(ahead: &Superblock, behind: &Superblock) -> bool {
    behind.events >= ahead.events_cleared
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
