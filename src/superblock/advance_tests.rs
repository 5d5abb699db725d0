//! Crashes at every superblock write, again and again: the next mount always finds a way, never reads
//! from a leg that missed an acknowledged write, and never believes that unequal legs are equal.

use super::*;
use crate::superblock::testing::Random;
use crate::superblock::{BitmapPlace, Found, Geometry, plan};
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

fn stores(medium: &Arc<Mutex<Medium>>) -> PerLeg<Box<dyn SuperblockStore>> {
    PerLeg::from_fn(|leg| Box::new(Store(medium.clone(), leg)) as Box<dyn SuperblockStore>)
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
    let plan = decided.unwrap_or_else(|refusal| panic!("{refusal:?} of {slots:?}, truth {truth:?}"));
    assert_ne!(truth.missed_by, Some(plan.source), "{slots:?}");
    assert!(!truth.unequal || plan.work == Work::Resync, "{slots:?}");
    if truth.missed_by.is_some() {
        assert_eq!(plan.stale, truth.missed_by, "{slots:?}");
    }
    {
        let mut medium = medium.lock();
        medium.left = if random.below(2) == 1 { random.below(12) } else { u64::MAX };
        medium.lands = random.below(2) == 1;
    }
    let Ok(mut mounted) = Superblocks::mount(stores(medium), slots, &plan) else { return };
    let mut resyncing = plan.work == Work::Resync;
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
                let recorded = mounted.leg_failed(leg, libc::EIO);
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
            let mut mounted = Superblocks::mount(stores(&medium), slots, &plan_then.unwrap()).unwrap();
            (medium.lock().left, medium.lock().lands) = (left, true);
            let Err(failed) = mounted.unmount() else { continue };
            if failed.leg != lost {
                continue;
            }
            medium.lock().left = u64::MAX;
            mounted.leg_failed(lost, libc::EIO).unwrap();
            let expected = Plan { source: lost.other(), work: Work::Resync, stale: Some(lost) };
            assert_eq!(find(&medium).1, Ok(expected), "after {left} writes");
        }
    }
}

#[test]
fn an_image_of_a_leg_from_before_the_mount_is_refused_once_bits_may_have_been_cleared() {
    for restored in LegId::ALL {
        let medium = new_medium();
        let (old, decided) = find(&medium);
        Superblocks::mount(stores(&medium), old.clone(), &decided.unwrap()).unwrap();
        medium.lock().slots[restored] = old[restored].clone();
        let refusal = find(&medium).1.unwrap_err();
        assert!(
            matches!(refusal, crate::superblock::Refusal::Older(leg, _) if leg == restored),
            "{refusal:?}"
        );
    }
}

#[test]
fn the_source_of_an_unfinished_resync_is_never_recorded_as_lost() {
    let medium = new_medium();
    let (slots, decided) = find(&medium);
    drop(Superblocks::mount(stores(&medium), slots, &decided.unwrap()).unwrap());
    let (slots, decided) = find(&medium);
    let mut mounted = Superblocks::mount(stores(&medium), slots, &decided.unwrap()).unwrap();
    let before = medium.lock().slots.clone();
    assert_eq!(mounted.leg_failed(LegId::A, libc::EIO).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(medium.lock().slots, before);
    mounted.resynced().unwrap();
    mounted.leg_failed(LegId::A, libc::EIO).unwrap();
}

#[test]
fn the_last_leg_is_never_recorded_as_lost() {
    for first in LegId::ALL {
        let medium = new_medium();
        let (slots, decided) = find(&medium);
        let mut mounted = Superblocks::mount(stores(&medium), slots, &decided.unwrap()).unwrap();
        mounted.leg_failed(first, libc::EIO).unwrap();
        mounted.leg_failed(first, libc::EIO).unwrap();
        assert!(mounted.leg_failed(first.other(), libc::EIO).is_err());
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
        assert!(Superblocks::mount(stores(&medium), slots, &plan.unwrap()).is_err());
        let (_, decided) = find(&medium);
        assert!(decided.is_ok(), "after {left} writes: {decided:?}");
    }
}
