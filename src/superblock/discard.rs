//! One of two legs that have diverged is discarded: what its superblock says on the way. Pure.
//!
//! Only the discarded leg's superblock is written; the kept one is the source of a recovery as it is. (Of a
//! mirror that keeps its bitmap elsewhere it names a new file in between, which changes nothing here.)
//!
//! ```text
//!   D1  announced    a generation of its own without ancestors, source = the kept leg; twice
//!   D2  handed over  the kept leg's generation and ancestors, events = 0 = events_cleared, in sync with
//!                    it, source = the kept leg; twice
//! ```
//!
//! | crash | both together | the discarded leg alone | the kept leg alone |
//! |---|---|---|---|
//! | before D1 | divergent | goes on, as before | goes on, as before |
//! | D1, D2 | divergent | refused: incomplete | goes on, as before |
//! | after D2 | recovery of the discarded leg, everything compared | refused: incomplete | goes on; the other one stays stale |
//!
//! Why the generation is a fresh one in D1: legs that have diverged within one generation could become a pair
//! that [`plan`](super::plan()) accepts, by nothing but the recorded source, before the discarded
//! leg's files are aside. With generations that have nothing in common they cannot.
//!
//! Why `events` is 0 in D2: fewer than any `events_cleared`, which starts at 1. So no bitmap reaches back to
//! it, and everything is compared, whatever became of the bitmap's copies.

use super::{ANCESTORS, PeerState, Superblock, new_generation};

impl Superblock {
    /// Whether the leg with this superblock, given up for the other one, says so already (D1): only its
    /// discarding may be finished.
    pub fn is_announced(&self) -> bool {
        self.source == Some(self.role.other())
    }

    /// D1 for a leg that is to be discarded.
    pub fn announced(&self) -> Superblock {
        Superblock {
            generation: new_generation(),
            ancestors: [0; ANCESTORS],
            source: Some(self.role.other()),
            clean: false,
            ..self.clone()
        }
    }

    /// D2 for a leg that has been discarded in favour of `kept`.
    pub fn handed_over(&self, kept: &Superblock) -> Superblock {
        Superblock {
            generation: kept.generation,
            ancestors: kept.ancestors,
            events: 0,
            events_cleared: 0,
            peer_state: PeerState::InSync,
            source: Some(kept.role),
            alone_since: None,
            bitmap_place: kept.bitmap_place,
            bitmap_file: kept.bitmap_file,
            clean: false,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::{LegId, PerLeg};
    use crate::superblock::{
        BitmapPlace, DivergentBecause, Found, Geometry, Plan, Refusal, Work, plan, plan_alone,
    };

    const GEOMETRY: Geometry =
        Geometry { chunk_size: 1 << 22, bitmap_slots: 64, bitmap_place: BitmapPlace::Leg };

    fn found(superblock: &Superblock) -> Found {
        Found::Leg { superblock: superblock.clone(), damaged_slot: None }
    }

    fn plan_of(legs: &PerLeg<Superblock>) -> Result<Plan, Refusal> {
        plan(&legs.as_ref().map(found))
    }

    /// Every pair of a few values that is divergent, with a leg that can be kept.
    fn every_divergence(mut check: impl FnMut(PerLeg<Superblock>, LegId)) {
        let stale = PeerState::Stale { since_events: 3, errno: 5 };
        let states = [PeerState::InSync, stale, PeerState::Recovering];
        let mut sides = Vec::new();
        for generation in 0..3 {
            for events in [1, 5, 6] {
                for events_cleared in [1, events] {
                    for state in states {
                        for source in [None, Some(LegId::A), Some(LegId::B)] {
                            sides.push((generation, events, events_cleared, state, source));
                        }
                    }
                }
            }
        }
        let mut seen = 0;
        let base = Superblock::new_pair(GEOMETRY);
        for &a in &sides {
            for &b in &sides {
                let says = PerLeg::new(a, b);
                let legs = PerLeg::from_fn(|leg| {
                    let (generation, events, events_cleared, peer_state, source) = says[leg];
                    let mut sb =
                        Superblock { events, events_cleared, peer_state, source, ..base[leg].clone() };
                    // 0: as created; 1: went on alone from there; 2: has nothing to do with it.
                    if generation > 0 {
                        sb.generation = 70 + generation + 10 * leg as u64;
                        sb.ancestors[0] = if generation == 1 { base[leg].generation } else { 0 };
                    }
                    sb
                });
                if !matches!(plan_of(&legs), Err(Refusal::Divergent(_))) {
                    continue;
                }
                for kept in LegId::ALL.into_iter().filter(|&kept| !legs[kept].is_announced()) {
                    seen += 1;
                    check(legs.clone(), kept);
                }
            }
        }
        assert!(seen > 10_000, "{seen}");
    }

    #[test]
    fn while_files_are_moved_aside_the_legs_stay_divergent_and_the_discarded_one_is_refused_alone() {
        every_divergence(|mut legs, kept| {
            let discarded = kept.other();
            let alone = plan_alone(kept, &found(&legs[kept]));
            legs[discarded] = legs[discarded].announced();
            let refused = Err(Refusal::Divergent(DivergentBecause::Generations));
            assert_eq!(plan_of(&legs), refused, "{legs:?}");
            assert!(legs[discarded].is_announced());
            let incomplete = Err(Refusal::Incomplete(discarded));
            assert_eq!(plan_alone(discarded, &found(&legs[discarded])), incomplete);
            assert_eq!(plan_alone(kept, &found(&legs[kept])), alone);
            assert!(alone.is_ok());
        });
    }

    #[test]
    fn a_discarded_leg_is_recovered_from_the_kept_one_by_comparing_everything() {
        every_divergence(|mut legs, kept| {
            let discarded = kept.other();
            for announced_first in [true, false] {
                let before =
                    if announced_first { legs[discarded].announced() } else { legs[discarded].clone() };
                legs[discarded] = before.handed_over(&legs[kept]);
                let expected = Plan { source: kept, work: Work::CompareAll, stale: Some(discarded) };
                assert_eq!(plan_of(&legs), Ok(expected), "{legs:?}");
                let incomplete = Err(Refusal::Incomplete(discarded));
                assert_eq!(plan_alone(discarded, &found(&legs[discarded])), incomplete);
                assert!(plan_alone(kept, &found(&legs[kept])).is_ok());
            }
        });
    }
}
