//! Crashes at every superblock write, again and again: the next mount always finds a way, never reads
//! from a leg that missed an acknowledged write, and never believes that unequal legs are equal.

use super::*;
use crate::superblock::testing::Random;
use crate::superblock::{BitmapPlace, DivergentBecause, Found, Geometry, Refusal, plan, plan_alone};
use crate::sync::{Mutex, Rank};
use std::sync::Arc;

/// Both legs' superblocks as they are on the medium, and the power supply.
struct Medium {
    slots: PerLeg<Superblock>,
    /// Writes until the power fails or the leg does.
    left: u64,
    /// Whether the write at which it fails reaches the medium all the same.
    lands: bool,
}

struct Store(Arc<Mutex<Medium>>, LegId);

impl SuperblockStore for Store {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let mut medium = self.0.lock();
        if medium.left == 0 {
            if std::mem::take(&mut medium.lands) {
                medium.slots[self.1] = superblock.clone();
            }
            return Err(errno(libc::EIO));
        }
        medium.left -= 1;
        medium.slots[self.1] = superblock.clone();
        Ok(())
    }
}

/// What was found on a leg, and where to write the next one.
fn side(medium: &Arc<Mutex<Medium>>, slots: &PerLeg<Superblock>, leg: LegId) -> FoundSide {
    (slots[leg].clone(), Box::new(Store(medium.clone(), leg)))
}

/// Mounts both, or those that the plan is about.
fn mount(
    medium: &Arc<Mutex<Medium>>,
    slots: &PerLeg<Superblock>,
    plan: &Plan,
) -> Result<Superblocks, NotWritten> {
    let there = |leg| plan.work != Work::Alone || leg == plan.source;
    let found = PerLeg::from_fn(|leg| there(leg).then(|| side(medium, slots, leg)));
    Superblocks::mount(found, plan, None)
}

fn new_medium() -> Arc<Mutex<Medium>> {
    let geometry = Geometry { chunk_size: 1 << 22, bitmap_slots: 64, bitmap_place: BitmapPlace::Leg };
    let slots = Superblock::new_pair(geometry);
    Arc::new(Mutex::new(Rank::Leaf, Medium { slots, left: u64::MAX, lands: false }))
}

fn find(medium: &Mutex<Medium>) -> (PerLeg<Superblock>, Result<Plan, crate::superblock::Refusal>) {
    let slots = medium.lock().slots.clone();
    let found = PerLeg::from_fn(|leg| Found::Leg { superblock: slots[leg].clone(), damaged_slot: None });
    let decided = plan(&found);
    (slots, decided)
}

/// What is true of the legs' content, whatever the superblocks say.
#[derive(Debug, Default)]
struct Truth {
    /// Some region may differ.
    unequal: bool,
    /// This leg lacks writes that were acknowledged.
    missed_by: Option<LegId>,
}

/// Mounts, works and ends somehow; the power fails somewhere in between, or not at all.
fn one_mount(medium: &Arc<Mutex<Medium>>, truth: &mut Truth, random: &mut Random) {
    let (slots, decided) = find(medium);
    let mut plan = decided.unwrap_or_else(|refusal| panic!("{refusal:?} of {slots:?}, truth {truth:?}"));
    if random.below(4) == 0 {
        // The other leg is not there this time.
        let leg = *random.pick(&LegId::ALL);
        let found = Found::Leg { superblock: slots[leg].clone(), damaged_slot: None };
        match plan_alone(leg, &found) {
            // Who takes the wrong one alone makes a split brain, which is another test's business.
            Ok(_) if slots[leg.other()].peer_state != PeerState::InSync => {}
            Ok(alone) => plan = alone,
            Err(_) => assert_eq!(slots[leg].source, Some(leg.other())),
        }
    }
    assert_ne!(truth.missed_by, Some(plan.source), "{slots:?}");
    assert!(!truth.unequal || plan.work != Work::Nothing, "{slots:?}");
    if truth.missed_by.is_some() {
        assert_eq!(plan.stale, truth.missed_by, "{slots:?}");
    }
    {
        let mut medium = medium.lock();
        medium.left = if random.below(2) == 1 { random.below(12) } else { u64::MAX };
        medium.lands = random.below(2) == 1;
    }
    let Ok(mut mounted) = mount(medium, &slots, &plan) else { return };
    if plan.work == Work::Alone {
        (truth.unequal, truth.missed_by) = (true, plan.stale);
    }
    let mut resyncing = matches!(plan.work, Work::Resync | Work::CompareAll);
    for _ in 0..random.below(8) {
        let done = match random.below(5) {
            0 | 1 => {
                truth.unequal = true;
                Ok(())
            }
            2 if resyncing && mounted.lost().is_none() => {
                *truth = Truth::default();
                resyncing = false;
                mounted.resynced().map_err(|failed| failed.error)
            }
            3 if !resyncing && mounted.lost().is_none() => {
                truth.unequal = false;
                Ok(())
            }
            4 => {
                let leg = *random.pick(&LegId::ALL);
                let recorded = mounted.leg_failed(leg, libc::EIO, None);
                if recorded.is_ok() {
                    // Only now may a write that this leg missed be acknowledged.
                    (truth.unequal, truth.missed_by) = (true, Some(leg));
                } else if truth.missed_by != Some(leg) && medium.lock().left > 0 {
                    assert!(resyncing || mounted.lost().is_some(), "refused without a reason");
                }
                Ok(())
            }
            _ => Ok(()),
        };
        if done.is_err() {
            return;
        }
    }
    if random.below(2) == 1 && (mounted.lost().is_some() || resyncing || !truth.unequal) {
        let _ = mounted.unmount();
    }
}

#[test]
fn whatever_fails_the_next_mount_goes_on_from_a_complete_leg() {
    let mut random = Random::announced();
    for _ in 0..3000 {
        let medium = new_medium();
        let mut truth = Truth::default();
        for _ in 0..12 {
            one_mount(&medium, &mut truth, &mut random);
        }
    }
}

/// A leg that fails a write of its superblock, which lands all the same, is stale and not divergent.
#[test]
fn a_failed_write_that_landed_does_not_look_like_going_on() {
    for lost in LegId::ALL {
        for left in 0..4 {
            let medium = new_medium();
            let (slots, plan_then) = find(&medium);
            let mut mounted = mount(&medium, &slots, &plan_then.unwrap()).unwrap();
            (medium.lock().left, medium.lock().lands) = (left, true);
            let Err(failed) = mounted.unmount() else { continue };
            if failed.leg != lost {
                continue;
            }
            medium.lock().left = u64::MAX;
            mounted.leg_failed(lost, libc::EIO, None).unwrap();
            let expected = Plan { source: lost.other(), work: Work::Resync, stale: Some(lost) };
            assert_eq!(find(&medium).1, Ok(expected), "after {left} writes");
        }
    }
}

#[test]
fn of_an_image_of_a_leg_from_before_the_mount_everything_is_compared_once_bits_may_have_been_cleared() {
    for restored in LegId::ALL {
        let medium = new_medium();
        let (old, decided) = find(&medium);
        mount(&medium, &old, &decided.unwrap()).unwrap();
        medium.lock().slots[restored] = old[restored].clone();
        let expected = Plan { source: restored.other(), work: Work::CompareAll, stale: Some(restored) };
        assert_eq!(find(&medium).1, Ok(expected));
    }
}

#[test]
fn the_source_of_an_unfinished_resync_is_never_recorded_as_lost() {
    let medium = new_medium();
    let (slots, decided) = find(&medium);
    drop(mount(&medium, &slots, &decided.unwrap()).unwrap());
    let (slots, decided) = find(&medium);
    let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
    let before = medium.lock().slots.clone();
    assert_eq!(mounted.leg_failed(LegId::A, libc::EIO, None).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(medium.lock().slots, before);
    mounted.resynced().unwrap();
    mounted.leg_failed(LegId::A, libc::EIO, None).unwrap();
}

/// Wherever a crash falls while a leg is mended, the next mount reads from the other one; before and
/// after from either.
#[test]
fn a_leg_that_is_being_mended_is_not_the_source_of_the_next_mount() {
    for good in LegId::ALL {
        for (writes, lands) in (0..9).flat_map(|writes| [(writes, false), (writes, true)]) {
            let medium = new_medium();
            let (slots, decided) = find(&medium);
            let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
            (medium.lock().left, medium.lock().lands) = (writes, lands);
            let begun = mounted.prefer(good).is_ok();
            if begun {
                assert!(LegId::ALL.into_iter().all(|leg| mounted.can_lose(leg)), "both are complete");
                mounted.touching();
                assert!(!mounted.can_lose(good) && mounted.can_lose(good.other()));
                assert_eq!(find(&medium).1.unwrap().source, good, "after {writes} writes");
            }
            let ended = begun && mounted.resynced().is_ok();
            let (_, decided) = find(&medium);
            let plan = decided.unwrap();
            assert_eq!((plan.work, plan.stale), (Work::Resync, None));
            if ended {
                assert!(mounted.can_lose(good));
                assert_eq!(plan.source, LegId::A);
            }
        }
    }
}

/// Before anything is touched, the one that is preferred may be left behind as ever, and is not the source then.
#[test]
fn a_leg_that_is_preferred_can_be_lost_until_something_is_touched() {
    for good in LegId::ALL {
        let medium = new_medium();
        let (slots, decided) = find(&medium);
        let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
        mounted.prefer(good).unwrap();
        mounted.leg_failed(good, libc::EIO, None).unwrap();
        mounted.resynced().unwrap();
        let plan = find(&medium).1.unwrap();
        assert_eq!((plan.source, plan.stale), (good.other(), Some(good)));
    }
}

/// Its record has failed and may have landed: if it were left behind itself, each would have gone on alone.
#[test]
fn a_leg_that_perhaps_calls_the_other_one_stale_is_not_recorded_as_lost() {
    for first in LegId::ALL {
        for (writes, lands) in [(0, false), (0, true), (1, false)] {
            let medium = new_medium();
            let (slots, decided) = find(&medium);
            let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
            (medium.lock().left, medium.lock().lands) = (writes, lands);
            assert!(mounted.leg_failed(first, libc::EIO, None).is_err());
            medium.lock().left = u64::MAX;
            assert!(mounted.can_lose(first) && !mounted.can_lose(first.other()));
            let refused = mounted.leg_failed(first.other(), libc::EIO, None).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
            assert!(find(&medium).1.is_ok(), "after {writes} writes, {lands}");
            mounted.leg_failed(first, libc::EIO, None).unwrap();
            assert_eq!(find(&medium).1.unwrap().stale, Some(first));
        }
    }
}

#[test]
fn a_leg_that_was_taken_in_at_the_second_try_and_is_equal_may_be_the_only_one() {
    for lost in LegId::ALL {
        let medium = new_medium();
        let (slots, decided) = find(&medium);
        let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
        mounted.leg_failed(lost, libc::EIO, None).unwrap();
        mounted.let_go(lost);
        let (slots, _) = find(&medium);
        medium.lock().left = 0;
        mounted.take_in(lost, side(&medium, &slots, lost)).unwrap_err();
        medium.lock().left = u64::MAX;
        let (slots, _) = find(&medium);
        mounted.take_in(lost, side(&medium, &slots, lost)).unwrap();
        mounted.resynced().unwrap();
        assert!(LegId::ALL.into_iter().all(|leg| mounted.can_lose(leg)));
        mounted.leg_failed(lost.other(), libc::EIO, None).unwrap();
        assert_eq!(find(&medium).1.unwrap().stale, Some(lost.other()));
    }
}

#[test]
fn the_last_leg_is_never_recorded_as_lost() {
    for first in LegId::ALL {
        let medium = new_medium();
        let (slots, decided) = find(&medium);
        let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
        mounted.leg_failed(first, libc::EIO, None).unwrap();
        mounted.leg_failed(first, libc::EIO, None).unwrap();
        for _ in 0..2 {
            let refused = mounted.leg_failed(first.other(), libc::EIO, None).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EIO));
            // The next time its file is closed, too.
            mounted.let_go(first);
        }
    }
}

#[test]
fn a_crash_while_the_bitmap_is_given_another_place_is_no_contradiction() {
    for left in 0..4 {
        let medium = new_medium();
        let (mut slots, plan) = find(&medium);
        for leg in LegId::ALL {
            slots[leg].bitmap_place = BitmapPlace::Elsewhere;
        }
        medium.lock().left = left;
        assert!(mount(&medium, &slots, &plan.unwrap()).is_err());
        let (_, decided) = find(&medium);
        assert!(decided.is_ok(), "after {left} writes: {decided:?}");
    }
}

/// One leg alone, perhaps with a crash after some writes.
fn alone(medium: &Arc<Mutex<Medium>>, leg: LegId, writes: u64) {
    let slots = medium.lock().slots.clone();
    let found = Found::Leg { superblock: slots[leg].clone(), damaged_slot: None };
    medium.lock().left = writes;
    if let Ok(mut mounted) = mount(medium, &slots, &plan_alone(leg, &found).unwrap()) {
        let _ = mounted.unmount();
    }
    medium.lock().left = u64::MAX;
}

#[test]
fn each_leg_alone_is_a_split_brain_whatever_the_order_and_wherever_a_crash_falls() {
    for first in LegId::ALL {
        for writes in 1..5 {
            for again in [false, true] {
                let medium = new_medium();
                alone(&medium, first, writes);
                alone(&medium, first.other(), writes);
                if again {
                    alone(&medium, first, u64::MAX);
                }
                let divergent = Refusal::Divergent(DivergentBecause::Generations);
                assert_eq!(find(&medium).1, Err(divergent), "{first} first, {writes} writes");
            }
        }
    }
}

#[test]
fn an_old_copy_of_a_leg_that_went_on_alone_has_diverged_from_the_leg_that_went_on_with_the_original() {
    for restored in LegId::ALL {
        for writes in [1, u64::MAX] {
            let medium = new_medium();
            let (old, decided) = find(&medium);
            mount(&medium, &old, &decided.unwrap()).unwrap();
            medium.lock().slots[restored] = old[restored].clone();
            alone(&medium, restored, writes);
            let divergent = Refusal::Divergent(DivergentBecause::WentOn(restored.other()));
            assert_eq!(find(&medium).1, Err(divergent));
        }
    }
}

#[test]
fn a_discarded_leg_stays_so_while_the_kept_one_goes_on_alone() {
    for discarded in LegId::ALL {
        let kept = discarded.other();
        let medium = new_medium();
        LegId::ALL.into_iter().for_each(|leg| alone(&medium, leg, u64::MAX));
        let slots = medium.lock().slots.clone();
        medium.lock().slots[discarded] = slots[discarded].announced();
        alone(&medium, kept, u64::MAX);
        assert!(matches!(find(&medium).1, Err(Refusal::Divergent(_))));
        let slots = medium.lock().slots.clone();
        medium.lock().slots[discarded] = slots[discarded].handed_over(&slots[kept]);
        for writes in [1, u64::MAX, 2] {
            let expected = Plan { source: kept, work: Work::CompareAll, stale: Some(discarded) };
            assert_eq!(find(&medium).1, Ok(expected));
            alone(&medium, kept, writes);
        }
        // Its recovery may be interrupted as any other.
        let (slots, decided) = find(&medium);
        for writes in 0..8 {
            medium.lock().left = writes;
            let _ = mount(&medium, &slots, &decided.clone().unwrap());
            medium.lock().left = u64::MAX;
            assert_eq!(find(&medium).1.unwrap().source, kept, "{writes} writes");
        }
    }
}

#[test]
fn one_leg_alone_however_often_leaves_the_other_one_stale() {
    for one in LegId::ALL {
        let medium = new_medium();
        for writes in [1, u64::MAX, 2, 3, u64::MAX] {
            alone(&medium, one, writes);
            let expected = Plan { source: one, work: Work::Resync, stale: Some(one.other()) };
            assert_eq!(find(&medium).1, Ok(expected), "{:?}", medium.lock().slots);
        }
    }
}

#[test]
fn a_leg_that_is_being_recovered_is_refused_alone_and_the_source_is_not() {
    for source in LegId::ALL {
        for writes in 0..8 {
            let medium = new_medium();
            alone(&medium, source, u64::MAX);
            let (slots, decided) = find(&medium);
            medium.lock().left = writes;
            let _ = mount(&medium, &slots, &decided.unwrap());
            medium.lock().left = u64::MAX;
            let slots = medium.lock().slots.clone();
            let says = |leg: LegId| Found::Leg { superblock: slots[leg].clone(), damaged_slot: None };
            assert!(plan_alone(source, &says(source)).is_ok());
            // Before the first write has reached it, it does not know. Then it is a split brain.
            if writes >= 2 {
                let refused = plan_alone(source.other(), &says(source.other()));
                assert_eq!(refused, Err(Refusal::Incomplete(source.other())), "{writes} writes");
            }
            assert_eq!(find(&medium).1.unwrap().source, source);
        }
    }
}

#[test]
fn what_was_born_alone_is_known_until_the_legs_are_equal_again() {
    let medium = new_medium();
    let (slots, decided) = find(&medium);
    let mut mounted = mount(&medium, &slots, &decided.unwrap()).unwrap();
    let early = Timestamp { secs: 5, nanos: 6 };
    let since = |mounted: &Superblocks| mounted.get(LegId::A).unwrap().alone_since;
    mounted.leg_failed(LegId::B, libc::EIO, Some(early)).unwrap();
    assert_eq!(since(&mounted), Some(early));
    let slots = medium.lock().slots.clone();
    mounted.take_in(LegId::B, side(&medium, &slots, LegId::B)).unwrap();
    assert_eq!(since(&mounted), Some(early), "what was born since is perhaps not there yet");
    mounted.leg_failed(LegId::B, libc::EIO, Some(Timestamp { secs: 9, nanos: 0 })).unwrap();
    assert_eq!(since(&mounted), Some(early));
    let slots = medium.lock().slots.clone();
    mounted.take_in(LegId::B, side(&medium, &slots, LegId::B)).unwrap();
    mounted.resynced().unwrap();
    assert_eq!(since(&mounted), None);
}

/// Else a crash would look like one while the place was being changed, and the legs' old copies would count.
#[test]
fn a_leg_that_is_taken_in_knows_where_the_bitmap_is_by_now() {
    for leg in LegId::ALL {
        let medium = new_medium();
        alone(&medium, leg.other(), u64::MAX);
        let (mut slots, decided) = find(&medium);
        let file = uuid::Uuid::new_v4();
        let survivor = &mut slots[leg.other()];
        (survivor.bitmap_place, survivor.bitmap_file) = (BitmapPlace::Elsewhere, file);
        mount(&medium, &slots, &decided.unwrap()).unwrap();
        for id in LegId::ALL {
            let says = medium.lock().slots[id].clone();
            assert_eq!((says.bitmap_place, says.bitmap_file), (BitmapPlace::Elsewhere, file), "leg {id}");
        }
    }
}

#[test]
fn a_leg_that_cannot_be_taken_in_stays_behind_and_never_takes_the_lead() {
    for leg in LegId::ALL {
        for (writes, lands) in (0..4).flat_map(|writes| [(writes, false), (writes, true)]) {
            for stays_broken in [false, true] {
                let medium = new_medium();
                let (slots, plan) = find(&medium);
                let mut mounted = mount(&medium, &slots, &plan.unwrap()).unwrap();
                mounted.leg_failed(leg, libc::EIO, None).unwrap();
                mounted.let_go(leg);
                let slots = medium.lock().slots.clone();
                (medium.lock().left, medium.lock().lands) = (writes, lands);
                let broken = Broken { medium: medium.clone(), leg, stays_broken };
                mounted.take_in(leg, (slots[leg].clone(), Box::new(broken))).unwrap_err();
                medium.lock().left = u64::MAX;
                assert_eq!(mounted.lost(), Some(leg));
                assert!(!mounted.can_lose(leg.other()));
                mounted.leg_failed(leg.other(), libc::EIO, None).unwrap_err();
                let plan = find(&medium).1.unwrap();
                assert_eq!((plan.source, plan.stale), (leg.other(), Some(leg)), "before the unmount");
                mounted.unmount().unwrap();
                let plan = find(&medium).1.unwrap();
                assert_eq!((plan.source, plan.stale), (leg.other(), Some(leg)));
            }
        }
    }
}

/// A leg that fails for good, or for this once: the other one can be written again then.
struct Broken {
    medium: Arc<Mutex<Medium>>,
    leg: LegId,
    stays_broken: bool,
}

impl SuperblockStore for Broken {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let written = Store(self.medium.clone(), self.leg).write(superblock);
        if written.is_err() && !self.stays_broken {
            self.medium.lock().left = u64::MAX;
        }
        written
    }
}
