//! A replacement that breaks off after each of its writes, and what each pair of directories is by then.

use std::io;
use std::sync::Arc;

use super::*;
use crate::error::errno;
use crate::legs::{LegId, PerLeg, Timestamp};
use crate::superblock::{
    BitmapPlace, FoundSide, Geometry, Plan, Refusal, SuperblockStore, Superblocks, Work, plan, plan_alone,
};
use crate::sync::{Mutex, Rank};

/// The survivor's directory, the one that is replaced, and the new one.
#[derive(Clone, Copy)]
enum Dir {
    Survivor,
    Old,
    New,
}

/// What is on the three disks, and the power supply.
struct Medium {
    says: [Option<Superblock>; 3],
    /// Writes until one fails.
    left: u64,
    /// Whether the write that fails is on the medium all the same.
    lands: bool,
    /// Nothing is written any more after one has failed.
    for_good: bool,
}

#[derive(Clone)]
struct Disks(Arc<Mutex<Medium>>);

struct Store(Disks, Dir);

impl SuperblockStore for Store {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let mut medium = self.0.0.lock();
        let fails = medium.left == 0;
        medium.left = medium.left.saturating_sub(1);
        if fails && !medium.for_good {
            medium.left = u64::MAX;
        }
        if !fails || std::mem::take(&mut medium.lands) {
            medium.says[self.1 as usize] = Some(superblock.clone());
        }
        if fails { Err(errno(libc::EIO)) } else { Ok(()) }
    }
}

impl Disks {
    fn says(&self, dir: Dir) -> Superblock {
        self.0.lock().says[dir as usize].clone().expect("it has been written")
    }

    fn side(&self, dir: Dir) -> FoundSide {
        (self.says(dir), Box::new(Store(self.clone(), dir)))
    }

    fn found(&self, dir: Dir) -> Found {
        match &self.0.lock().says[dir as usize] {
            Some(superblock) => Found::Leg { superblock: superblock.clone(), damaged_slot: None },
            None => Found::Empty,
        }
    }

    /// The survivor together with `dir`, which is given as `leg`.
    fn plan_with(&self, dir: Dir, leg: LegId) -> Result<Plan, Refusal> {
        let which = |id| if id == leg { dir } else { Dir::Survivor };
        plan(&PerLeg::from_fn(|id| self.found(which(id))))
    }

    fn break_after(&self, writes: u64, lands: bool, for_good: bool) {
        let mut medium = self.0.lock();
        (medium.left, medium.lands, medium.for_good) = (writes, lands, for_good);
    }
}

/// A mirror of which `leg` has been left behind, mounted.
fn degraded(leg: LegId) -> (Disks, Superblocks) {
    let geometry = Geometry { chunk_size: 1 << 22, bitmap_slots: 64, bitmap_place: BitmapPlace::Leg };
    let pair = Superblock::new_pair(geometry);
    let says = [Some(pair[leg.other()].clone()), Some(pair[leg].clone()), None];
    let medium = Medium { says, left: u64::MAX, lands: false, for_good: true };
    let disks = Disks(Arc::new(Mutex::new(Rank::Leaf, medium)));
    let plan = disks.plan_with(Dir::Old, leg).unwrap();
    let which = |id| if id == leg { Dir::Old } else { Dir::Survivor };
    let mut mounted =
        Superblocks::mount(PerLeg::from_fn(|id| Some(disks.side(which(id)))), &plan, None).unwrap();
    mounted.leg_failed(leg, libc::EIO, Some(Timestamp { secs: 5, nanos: 6 })).unwrap();
    drop(mounted.let_go(leg));
    (disks, mounted)
}

/// R1.
fn write_new(disks: &Disks) {
    let new = disks.says(Dir::Survivor).new_peer();
    disks.0.lock().says[Dir::New as usize] = Some(new);
}

fn stale(leg: LegId, work: Work) -> Result<Plan, Refusal> {
    Ok(Plan { source: leg.other(), work, stale: Some(leg) })
}

#[test]
fn before_the_new_leg_has_a_superblock_all_is_as_it_was() {
    for leg in LegId::ALL {
        let (disks, _) = degraded(leg);
        assert_eq!(disks.plan_with(Dir::Old, leg), stale(leg, Work::Resync));
        assert_eq!(disks.plan_with(Dir::New, leg), Err(Refusal::Empty(leg)));
    }
}

/// T1, with the survivor as it is now and as it was before the leg was left behind.
#[test]
fn a_leg_that_has_lost_its_history_has_everything_compared_and_is_never_alone() {
    for leg in LegId::ALL {
        let (disks, _) = degraded(leg);
        let survivor = disks.says(Dir::Survivor);
        let mut of_survivor = vec![survivor.clone()];
        // Clean, mounted, crashed: as any copy of it can be that was in step with the leg.
        let old = disks.says(Dir::Old);
        for (clean, source) in [(true, None), (false, None), (false, Some(leg.other()))] {
            let in_step = Superblock {
                leg: survivor.leg,
                peer: old.leg,
                role: survivor.role,
                peer_state: PeerState::InSync,
                clean,
                source,
                ..old.clone()
            };
            of_survivor.push(in_step);
        }
        let found = Found::Leg { superblock: old.without_history(), damaged_slot: None };
        assert_eq!(plan_alone(leg, &found), Err(Refusal::Incomplete(leg)));
        for says in of_survivor {
            let survivor = Found::Leg { superblock: says, damaged_slot: None };
            let which = |id| if id == leg { found.clone() } else { survivor.clone() };
            assert_eq!(plan(&PerLeg::from_fn(which)), stale(leg, Work::CompareAll));
        }
    }
}

#[test]
fn a_crash_after_each_write_leaves_the_old_leg_or_the_new_one_and_never_both() {
    for leg in LegId::ALL {
        for (writes, lands) in (0..4).flat_map(|writes| [(writes, false), (writes, true)]) {
            let (disks, mut mounted) = degraded(leg);
            write_new(&disks);
            let side = disks.side(Dir::New);
            disks.break_after(writes, lands, true);
            mounted.take_in(leg, side).unwrap_err();
            let done = writes + u64::from(lands);
            let with = [Dir::Old, Dir::New].map(|dir| disks.plan_with(dir, leg));
            if done == 0 {
                assert_eq!(with, [stale(leg, Work::Resync), Err(Refusal::NotTakenIn(leg))]);
            } else {
                assert_eq!(with[0], Err(Refusal::Replaced(leg)), "{done} writes");
                // From S2 on the bitmap says that everything is to be compared.
                let work = if done == 1 { Work::CompareAll } else { Work::Resync };
                assert_eq!(with[1], stale(leg, work), "{done} writes");
            }
            let alone = |dir, id| plan_alone(id, &disks.found(dir));
            assert_eq!(alone(Dir::New, leg), Err(Refusal::Incomplete(leg)));
            assert!(alone(Dir::Survivor, leg.other()).is_ok());
            // The survivor alone changes nothing of that.
            disks.break_after(u64::MAX, false, true);
            let plan = alone(Dir::Survivor, leg.other()).unwrap();
            let there = |id| (id != leg).then(|| disks.side(Dir::Survivor));
            Superblocks::mount(PerLeg::from_fn(there), &plan, None).unwrap().unmount().unwrap();
            let after = [Dir::Old, Dir::New].map(|dir| disks.plan_with(dir, leg).map(|plan| plan.stale));
            assert_eq!(after, with.map(|plan| plan.map(|plan| plan.stale)), "{done} writes");
        }
    }
}

#[test]
fn a_new_leg_that_cannot_be_taken_in_leaves_the_old_one_the_peer() {
    for leg in LegId::ALL {
        for (writes, lands) in (0..4).flat_map(|writes| [(writes, false), (writes, true)]) {
            let (disks, mut mounted) = degraded(leg);
            let before = disks.says(Dir::Survivor);
            write_new(&disks);
            let side = disks.side(Dir::New);
            disks.break_after(writes, lands, false);
            mounted.take_in(leg, side).unwrap_err();
            assert_eq!(mounted.lost(), Some(leg));
            let says = disks.says(Dir::Survivor);
            assert_eq!((says.peer, says.alone_since), (before.peer, before.alone_since));
            assert_eq!(disks.plan_with(Dir::Old, leg).map(|plan| plan.stale), Ok(Some(leg)));
            assert!(disks.plan_with(Dir::New, leg).is_err());
            // It is fit for another try.
            assert_eq!(fits(&disks.found(Dir::New), false, &says), Ok(()));
            write_new(&disks);
            mounted.take_in(leg, disks.side(Dir::New)).unwrap();
            assert_eq!(disks.plan_with(Dir::Old, leg), Err(Refusal::Replaced(leg)));
        }
    }
}

#[test]
fn a_new_leg_that_is_complete_is_the_mirrors_and_the_old_one_is_not_whatever_comes() {
    for leg in LegId::ALL {
        let (disks, mut mounted) = degraded(leg);
        write_new(&disks);
        mounted.take_in(leg, disks.side(Dir::New)).unwrap();
        assert_eq!(mounted.get(leg.other()).unwrap().alone_since, None, "nothing was born on the new leg");
        mounted.resynced().unwrap();
        assert_eq!(disks.plan_with(Dir::New, leg).map(|plan| plan.stale), Ok(None));
        assert_eq!(disks.plan_with(Dir::Old, leg), Err(Refusal::Replaced(leg)));
        // The survivor may fail now, or the new leg once more.
        for lost in LegId::ALL {
            let (disks, mut mounted) = degraded(leg);
            write_new(&disks);
            mounted.take_in(leg, disks.side(Dir::New)).unwrap();
            mounted.resynced().unwrap();
            mounted.leg_failed(lost, libc::EIO, None).unwrap();
            assert_eq!(disks.plan_with(Dir::New, leg), stale(lost, Work::Resync));
            assert!(disks.plan_with(Dir::Old, leg).is_err());
        }
    }
}

#[test]
fn a_new_leg_that_fails_before_it_is_complete_is_recovered_and_never_read() {
    for leg in LegId::ALL {
        let (disks, mut mounted) = degraded(leg);
        write_new(&disks);
        mounted.take_in(leg, disks.side(Dir::New)).unwrap();
        mounted.leg_failed(leg.other(), libc::EIO, None).unwrap_err();
        mounted.leg_failed(leg, libc::EIO, None).unwrap();
        assert_eq!(disks.plan_with(Dir::New, leg), stale(leg, Work::Resync));
        assert_eq!(plan_alone(leg, &disks.found(Dir::New)), Err(Refusal::Incomplete(leg)));
        // Another directory may take its place in turn.
        assert_eq!(fits(&disks.found(Dir::New), true, &disks.says(Dir::Survivor)), Err(Unfit::IsTheLeg));
        write_new(&disks);
        mounted.take_in(leg, disks.side(Dir::New)).unwrap();
        assert_eq!(disks.plan_with(Dir::Old, leg), Err(Refusal::Replaced(leg)));
    }
}

#[test]
fn only_an_empty_directory_is_fit_and_one_of_which_it_was_begun() {
    let (disks, _) = degraded(LegId::B);
    let survivor = disks.says(Dir::Survivor);
    let leg = |superblock: &Superblock| Found::Leg { superblock: superblock.clone(), damaged_slot: None };
    let begun = survivor.new_peer();
    let other = Superblock { mirror: Uuid::new_v4(), ..begun.clone() };
    let former = Superblock { leg: Uuid::new_v4(), ..disks.says(Dir::Old) };
    let of_another_survivor = Superblock { peer: Uuid::new_v4(), ..begun.clone() };
    let is_a_leg = Err(Unfit::IsALeg(survivor.mirror));
    for (found, has_files, answer) in [
        (Found::Empty, false, Ok(())),
        (Found::NotAMirror, true, Err(Unfit::HasFiles)),
        (leg(&begun), false, Ok(())),
        (leg(&begun), true, Ok(())),
        (leg(&of_another_survivor), true, is_a_leg.clone()),
        (leg(&former), false, is_a_leg.clone()),
        (leg(&of_another_survivor), false, is_a_leg.clone()),
        (leg(&survivor), false, is_a_leg),
        (leg(&disks.says(Dir::Old)), false, Err(Unfit::IsTheLeg)),
        (leg(&other), false, Err(Unfit::IsALeg(other.mirror))),
        (Found::NewerVersion(9), false, Err(Unfit::NewerVersion(9))),
        (
            Found::Damaged([SlotFault::BadCrc, SlotFault::Short]),
            false,
            Err(Unfit::Damaged([SlotFault::BadCrc, SlotFault::Short])),
        ),
    ] {
        assert_eq!(fits(&found, has_files, &survivor), answer, "{found:?}, files: {has_files}");
    }
}
