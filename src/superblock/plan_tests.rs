//! The tables of `plan`, row by row, and what must hold in every cell of them.

use super::*;
use crate::superblock::BitmapPlace;
use PeerState::{InSync, Recovering};
use Refusal::Divergent;

const STALE: PeerState = PeerState::Stale { since_events: 5, errno: libc::EIO };
const GEOMETRY: Geometry = Geometry { chunk_size: 1 << 22, bitmap_slots: 64, bitmap_place: BitmapPlace::Leg };

fn pair() -> PerLeg<Superblock> {
    Superblock::new_pair(GEOMETRY)
}

fn found(legs: &PerLeg<Superblock>) -> PerLeg<Found> {
    PerLeg::from_fn(|leg| Found::Leg { superblock: legs[leg].clone(), damaged_slot: None })
}

/// One leg's words: events, events_cleared, clean, what it says of its peer, source.
type Says = (u64, u64, bool, PeerState, Option<LegId>);

fn plan_of(one: LegId, this: Says, that: Says) -> Result<Plan, Refusal> {
    let mut legs = pair();
    for (leg, says) in [(one, this), (one.other(), that)] {
        let sb = &mut legs[leg];
        (sb.events, sb.events_cleared, sb.clean, sb.peer_state, sb.source) = says;
    }
    plan(&found(&legs))
}

fn resync(source: LegId, stale: Option<LegId>) -> Result<Plan, Refusal> {
    Ok(Plan { source, work: Work::Resync, stale })
}

fn compare_all(source: LegId) -> Result<Plan, Refusal> {
    Ok(Plan { source, work: Work::CompareAll, stale: Some(source.other()) })
}

#[test]
fn clean_legs_with_equal_events_need_nothing() {
    let clean = (5, 5, true, InSync, None);
    let nothing = Plan { source: LegId::A, work: Work::Nothing, stale: None };
    assert_eq!(plan_of(LegId::A, clean, clean), Ok(nothing));
    // A crash between S2 and S3 of a clean unmount.
    assert_eq!(plan_of(LegId::A, (5, 4, true, InSync, None), clean), Ok(nothing));
}

#[test]
fn an_unclean_leg_needs_a_resync_from_a() {
    for one in LegId::ALL {
        let unclean = (5, 5, false, InSync, None);
        assert_eq!(plan_of(one, unclean, (5, 5, true, InSync, None)), resync(LegId::A, None));
        assert_eq!(plan_of(one, unclean, unclean), resync(LegId::A, None));
    }
}

#[test]
fn an_unfinished_resync_goes_on_in_its_direction_even_after_a_clean_unmount() {
    for source in LegId::ALL {
        for clean in [false, true] {
            let says = (5, 5, clean, InSync, Some(source));
            assert_eq!(plan_of(LegId::A, says, says), resync(source, None));
            // Recorded on one leg only: the crash fell between the two writes.
            let ahead = (6, 5, clean, InSync, Some(source));
            assert_eq!(plan_of(source, ahead, (5, 5, true, InSync, None)), resync(source, None));
        }
    }
}

#[test]
fn a_crash_between_the_writes_of_both_superblocks_needs_a_resync_from_the_leg_ahead() {
    for one in LegId::ALL {
        // By one, and by two after a second such crash.
        for ahead in [6, 7] {
            let says = (ahead, 5, false, InSync, None);
            assert_eq!(plan_of(one, says, (5, 5, true, InSync, None)), resync(one, None));
        }
    }
}

#[test]
fn of_a_leg_from_before_bits_were_cleared_everything_is_compared() {
    for one in LegId::ALL {
        for state in [InSync, STALE, Recovering] {
            let ahead = (6, 5, false, state, None);
            assert_eq!(plan_of(one, ahead, (4, 4, true, InSync, None)), compare_all(one), "{state:?}");
        }
    }
}

#[test]
fn a_leg_that_failed_is_resynced_from_the_one_that_went_on() {
    for one in LegId::ALL {
        for clean in [false, true] {
            let survivor = (6, 5, clean, STALE, None);
            let left_behind = (5, 5, false, InSync, None);
            assert_eq!(plan_of(one, survivor, left_behind), resync(one, Some(one.other())));
        }
    }
}

#[test]
fn a_leg_that_was_left_behind_and_went_on_is_divergent() {
    for one in LegId::ALL {
        for (state, theirs) in [(STALE, 6), (STALE, 7), (Recovering, 7)] {
            assert_eq!(
                plan_of(one, (6, 5, false, state, None), (theirs, 5, false, InSync, None)),
                Err(Divergent(DivergentBecause::WentOn(one.other())))
            );
        }
    }
}

#[test]
fn a_recovery_goes_on_whichever_leg_learnt_of_it() {
    for one in LegId::ALL {
        let recovering = (6, 5, false, Recovering, Some(one));
        for theirs in [(5, 5, false, InSync, None), (6, 6, false, InSync, Some(one))] {
            assert_eq!(plan_of(one, recovering, theirs), resync(one, Some(one.other())));
        }
    }
}

#[test]
fn legs_that_both_call_the_other_stale_are_divergent() {
    for (mine, theirs) in [(STALE, STALE), (STALE, Recovering), (Recovering, STALE), (Recovering, Recovering)]
    {
        let refusal = plan_of(LegId::A, (6, 5, true, mine, None), (6, 5, true, theirs, None));
        assert_eq!(refusal, Err(Divergent(DivergentBecause::BothCallTheOtherStale)));
    }
}

#[test]
fn contradicting_sources_are_divergent() {
    for one in LegId::ALL {
        let other = Some(one.other());
        let sources = Err(Divergent(DivergentBecause::Sources));
        let in_sync = (5, 5, false, InSync, Some(one));
        assert_eq!(plan_of(one, in_sync, (5, 5, false, InSync, other)), sources);
        for state in [STALE, Recovering] {
            assert_eq!(plan_of(one, (6, 5, false, state, None), (5, 5, false, InSync, other)), sources);
        }
    }
}

/// Every combination of a few values on both legs.
fn every_cell(mut check: impl FnMut(Says, Says)) {
    let mut all = Vec::new();
    for events in 4..=6 {
        for cleared in 3..=events {
            for clean in [false, true] {
                for state in [InSync, STALE, Recovering] {
                    for source in [None, Some(LegId::A), Some(LegId::B)] {
                        all.push((events, cleared, clean, state, source));
                    }
                }
            }
        }
    }
    for &a in &all {
        for &b in &all {
            check(a, b);
        }
    }
}

#[test]
fn in_every_cell_no_stale_leg_is_the_source_and_nothing_means_nothing() {
    every_cell(|a, b| {
        let Ok(plan) = plan_of(LegId::A, a, b) else { return };
        let says = PerLeg::new(a, b);
        let context = format!("A {a:?}, B {b:?}: {plan:?}");
        let (source, other) = (says[plan.source], says[plan.source.other()]);
        assert_eq!(other.3, InSync, "the leg that is not read complains of the source: {context}");
        let complains = source.3 != InSync || plan.work == Work::CompareAll;
        assert_eq!(plan.stale.is_some(), complains, "{context}");
        assert_ne!(plan.stale, Some(plan.source), "{context}");
        assert!(source.0.max(other.0) == source.0 || plan.stale.is_none(), "{context}");
        // Where the bitmap does not reach, it is not believed.
        assert!(plan.work == Work::CompareAll || other.0 >= source.1 || source.0 < other.0, "{context}");
        for recorded in [a.4, b.4].into_iter().flatten() {
            assert_eq!(recorded, plan.source, "{context}");
        }
        if plan.work == Work::Nothing {
            assert!(a.2 && b.2 && a.0 == b.0 && a.4.is_none() && b.4.is_none(), "{context}");
        }
    });
}

#[test]
fn in_every_cell_the_answer_does_not_depend_on_which_leg_is_called_a() {
    let swapped = |says: Says| (says.0, says.1, says.2, says.3, says.4.map(LegId::other));
    every_cell(|a, b| {
        let (one, other) = (plan_of(LegId::A, a, b), plan_of(LegId::B, swapped(a), swapped(b)));
        match (one, other) {
            (Ok(one), Ok(other)) => {
                assert_eq!(one.work, other.work, "{a:?} {b:?}");
                assert_eq!(one.stale.map(LegId::other), other.stale, "{a:?} {b:?}");
                let decided = one.stale.is_some() || a.0 != b.0 || a.4.or(b.4).is_some();
                assert!(!decided || one.source == other.source.other(), "{a:?} {b:?}");
            }
            (one, other) => assert_eq!(one.is_err(), other.is_err(), "{a:?} {b:?}"),
        }
    });
}

#[test]
fn generations_tell_stale_from_divergent() {
    for stale in LegId::ALL {
        let mut legs = pair();
        let ahead = stale.other();
        (legs[ahead].generation, legs[ahead].events, legs[ahead].peer_state) = (77, 3, STALE);
        assert_eq!(plan(&found(&legs)), Err(Divergent(DivergentBecause::Generations)));
        legs[ahead].ancestors[3] = legs[stale].generation;
        assert_eq!(plan(&found(&legs)), resync(ahead, Some(stale)));
        legs[ahead].events_cleared = 2;
        assert_eq!(plan(&found(&legs)), compare_all(ahead), "the bitmap does not reach back to it");
        // The one that was left behind has gone on as well: alone, or so often that neither remembers.
        let mut both = legs.clone();
        both[stale].ancestors[0] = both[stale].generation;
        both[stale].generation = 78;
        both[stale].peer_state = STALE;
        assert_eq!(plan(&found(&both)), Err(Divergent(DivergentBecause::Generations)));
        legs[stale].peer_state = STALE;
        assert_eq!(plan(&found(&legs)), Err(Divergent(DivergentBecause::Generations)));
        legs[stale].peer_state = InSync;
        legs[stale].ancestors[0] = 77;
        assert_eq!(plan(&found(&legs)), Err(Divergent(DivergentBecause::Generations)));
    }
}

#[test]
fn a_leg_alone_goes_on_if_it_is_complete() {
    for leg in LegId::ALL {
        let alone = |sb: &Superblock, given_as: LegId| {
            plan_alone(given_as, &Found::Leg { superblock: sb.clone(), damaged_slot: None })
        };
        let mut sb = pair()[leg].clone();
        let expected = Ok(Plan { source: leg, work: Work::Alone, stale: Some(leg.other()) });
        for state in [InSync, STALE, Recovering] {
            for source in [None, Some(leg)] {
                (sb.peer_state, sb.source) = (state, source);
                assert_eq!(alone(&sb, leg), expected, "{state:?}, {source:?}");
            }
        }
        assert_eq!(alone(&sb, leg.other()), Err(Refusal::OtherRole(leg.other())));
        (sb.peer_state, sb.source) = (InSync, Some(leg.other()));
        assert_eq!(alone(&sb, leg), Err(Refusal::Incomplete(leg)));
        assert_eq!(plan_alone(leg, &Found::Empty), Err(Refusal::Empty(leg)));
    }
}

#[test]
fn what_is_not_a_leg_is_refused_by_its_name() {
    type Case = (Found, fn(LegId) -> Refusal);
    let cases: [Case; 5] = [
        (Found::Missing(libc::ENOENT), |leg| Refusal::Missing(leg, libc::ENOENT)),
        (Found::Empty, Refusal::Empty),
        (Found::NotAMirror, Refusal::NotAMirror),
        (Found::Damaged([SlotFault::BadCrc, SlotFault::Short]), |leg| {
            Refusal::Damaged(leg, [SlotFault::BadCrc, SlotFault::Short])
        }),
        (Found::NewerVersion(2), |leg| Refusal::NewerVersion(leg, 2)),
    ];
    for (bad, refusal) in cases {
        for leg in LegId::ALL {
            let mut legs = found(&pair());
            legs[leg] = bad.clone();
            assert_eq!(plan(&legs), Err(refusal(leg)));
        }
    }
    for (a, b) in [(Found::Empty, Found::Empty), (Found::NotAMirror, Found::Empty)] {
        assert_eq!(plan(&PerLeg::new(a, b)), Err(Refusal::NeitherIsAMirror));
    }
}

#[test]
fn legs_that_do_not_belong_together_are_refused() {
    let (one, other) = (pair(), pair());
    let mixed = PerLeg::new(one[LegId::A].clone(), other[LegId::B].clone());
    assert!(matches!(plan(&found(&mixed)), Err(Refusal::OtherMirror(_))));

    for leg in LegId::ALL {
        let twice = PerLeg::new(one[leg].clone(), one[leg].clone());
        assert_eq!(plan(&found(&twice)), Err(Refusal::SameLeg));

        let mut replaced = one.clone();
        replaced[leg].leg = other[leg].leg;
        assert_eq!(plan(&found(&replaced)), Err(Refusal::Replaced(leg)));
        replaced[leg].events = 0;
        assert_eq!(plan(&found(&replaced)), Err(Refusal::NotTakenIn(leg)));
        replaced[leg.other()].leg = other[leg.other()].leg;
        assert_eq!(plan(&found(&replaced)), Err(Refusal::NotPeers));
    }
    let swapped = PerLeg::new(one[LegId::B].clone(), one[LegId::A].clone());
    assert_eq!(plan(&found(&swapped)), Err(Refusal::Swapped));

    let mut odd = one.clone();
    odd[LegId::B].chunk_size *= 2;
    assert!(matches!(plan(&found(&odd)), Err(Refusal::Geometry(_))));
}

#[test]
fn every_refusal_names_a_leg_and_says_what_to_do() {
    let uuids = pair().map(|sb| sb.mirror);
    let all = [
        Refusal::Missing(LegId::B, libc::ENOTCONN),
        Refusal::Empty(LegId::B),
        Refusal::NotAMirror(LegId::B),
        Refusal::NeitherIsAMirror,
        Refusal::Damaged(LegId::B, [SlotFault::BadCrc, SlotFault::NoMagic]),
        Refusal::NewerVersion(LegId::B, 9),
        Refusal::OtherMirror(uuids),
        Refusal::SameLeg,
        Refusal::NotPeers,
        Refusal::Replaced(LegId::B),
        Refusal::NotTakenIn(LegId::B),
        Refusal::Swapped,
        Refusal::Geometry(PerLeg::new(GEOMETRY, GEOMETRY)),
        Refusal::OtherRole(LegId::B),
        Refusal::Incomplete(LegId::B),
        Divergent(DivergentBecause::Generations),
        Divergent(DivergentBecause::WentOn(LegId::B)),
    ];
    let paths = PerLeg::new(std::path::Path::new("/one"), std::path::Path::new("/two"));
    for refusal in all {
        let text = refusal.explain(&paths).to_string();
        assert!(text.lines().next().unwrap().contains("leg B at /two"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
