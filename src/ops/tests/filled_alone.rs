//! A new disk is filled while one leg serves alone, and takes the place of the one that is away. Or that one comes back, has
//! everything compared, and is filled so.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::world::{CALLER, NOBODY, Naming, World, content, file, sweep, write};
use crate::inode::Ino;
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{LegId, Make, RenameMode, Timestamp};
use crate::ops::{LegState, Mirror, SetAttr, SetTime};
use crate::superblock::{Refusal, Work, plan_alone};

/// How a leg went away.
const WAYS: [Away; 3] = [Away::TakenOut, Away::Failed, Away::Missing];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    TakenOut,
    Failed,
    /// It was not there at the mount.
    Missing,
}

/// A mirror that goes on without `leg`, which misses something.
fn alone(world: &World, leg: LegId, way: Away) -> Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    for name in ["g", "h", "f", "e"] {
        let (_, fh) = file(&mirror, name, format!("{name} is old").as_bytes());
        mirror.release(fh);
    }
    sweep(&mirror);
    let mirror = match way {
        Away::TakenOut => {
            mirror.take_out(leg).unwrap();
            mirror
        }
        Away::Failed => {
            world.fail(leg, Call::Write, libc::EIO);
            write(&mirror, "e", b"E");
            world.heal();
            mirror
        }
        Away::Missing => {
            world.unmount(mirror);
            world.mount_those(&[leg.other()])
        }
    };
    assert!(mirror.health.lost(leg).is_some());
    write(&mirror, "g", b"G");
    mirror.unlink(Ino::ROOT, OsStr::new("h")).unwrap();
    mirror.rename(Ino::ROOT, OsStr::new("f"), Ino::ROOT, OsStr::new("z"), RenameMode::Replace).unwrap();
    mirror
}

fn has_all(mirror: &Mirror<SimLeg>) {
    assert_eq!(content(mirror, "g"), b"G is old");
    assert_eq!(content(mirror, "z"), b"f is old");
    assert!(mirror.lookup(Ino::ROOT, OsStr::new("h")).is_err());
}

/// Forty files are made, each at a call to what is filled while changes are let in. How many there are, and what is to
/// run before each call.
fn busy(mirror: &Arc<Mirror<SimLeg>>) -> (Arc<AtomicU32>, impl FnMut() + Send + 'static) {
    let made = Arc::new(AtomicU32::new(0));
    let (mirror, count) = (mirror.clone(), made.clone());
    let hook = move || {
        let number = count.load(Ordering::SeqCst);
        if mirror.gate.is_open() && number < 40 {
            count.fetch_add(1, Ordering::SeqCst);
            let mirror = mirror.clone();
            let work = move || {
                let (_, fh) = file(&mirror, &format!("new{number}"), b"new");
                mirror.release(fh);
            };
            std::thread::spawn(work).join().unwrap();
        }
    };
    (made, hook)
}

#[test]
fn a_leg_that_is_away_is_replaced_while_changes_are_let_in() {
    for (leg, way) in LegId::ALL.into_iter().flat_map(|leg| WAYS.map(|way| (leg, way))) {
        for naming in Naming::ALL {
            let mut world = World::new();
            world.naming = naming;
            let mirror = alone(&world, leg, way);
            let (made, hook) = busy(&mirror);
            world.replace_with(&mirror, leg, hook).unwrap();
            assert!(made.load(Ordering::SeqCst) >= 40, "changes had to wait");
            assert!(!mirror.bitmap.compare_all(), "{way:?}: nothing is compared again");
            mirror.resync();
            assert!(mirror.is_equal() && mirror.health.lost(leg).is_none());
            has_all(&mirror);
            sweep(&mirror);
            world.assert_equal();
            assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
            world.unmount(mirror);
            assert!(world.mount().is_equal(), "unmounted clean");
        }
    }
}

/// The old leg misses what it missed, and no more: the bitmap has forgotten nothing.
#[test]
fn a_new_disk_that_fails_leaves_the_old_leg_to_come_back() {
    for (leg, way) in LegId::ALL.into_iter().flat_map(|leg| WAYS.map(|way| (leg, way))) {
        for (call, number) in [(Call::Write, libc::ENOSPC), (Call::Make, libc::EIO), (Call::Sync, libc::EIO)]
        {
            let mut world = World::new();
            let mirror = alone(&world, leg, way);
            world.fail_new(call, number);
            world.replace(&mirror, leg).unwrap_err();
            assert!(mirror.gate.is_open() && !mirror.bitmap.compare_all());
            write(&mirror, "e", b"X");
            world.bring_back(&mirror, leg);
            assert!(mirror.is_equal());
            has_all(&mirror);
            sweep(&mirror);
            world.assert_equal();
        }
    }
}

#[test]
fn after_a_crash_it_is_given_again_and_goes_on_with_what_was_copied() {
    for (leg, power_cut) in LegId::ALL.into_iter().flat_map(|leg| [(leg, false), (leg, true)]) {
        let mut world = World::new();
        let mirror = alone(&world, leg, Away::TakenOut);
        world.fail_new(Call::Sync, libc::EIO);
        world.replace(&mirror, leg).unwrap_err();
        world.heal();
        if power_cut {
            world.cut_power(mirror, 3)
        } else {
            world.kill(mirror)
        }
        let mirror = world.mount_those(&[leg.other()]);
        write(&mirror, "e", b"Y");
        world.replace_again(&mirror, leg, || {}).unwrap();
        mirror.resync();
        // Nothing was synced before the power went.
        if !power_cut {
            has_all(&mirror);
        }
        sweep(&mirror);
        world.assert_equal();
    }
}

#[test]
fn a_bitmap_that_had_no_room_for_all_that_the_old_leg_misses_is_used_again() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = alone(&world, leg, Away::TakenOut);
        for number in 0..200 {
            let (_, fh) = file(&mirror, &format!("f{number}"), b"many");
            mirror.release(fh);
        }
        for number in 0..200 {
            let name = format!("f{number}");
            mirror
                .rename(
                    Ino::ROOT,
                    OsStr::new(&name),
                    Ino::ROOT,
                    OsStr::new(&format!("r{number}")),
                    RenameMode::Replace,
                )
                .unwrap();
        }
        assert!(mirror.bitmap.compare_all(), "it is full");
        world.replace(&mirror, leg).unwrap();
        assert!(!mirror.bitmap.compare_all());
        mirror.resync();
        write(&mirror, "e", b"Z");
        assert!(mirror.bitmap_stats().dirty_slots > 0, "what is changed is marked again");
        sweep(&mirror);
        world.assert_equal();
    }
}

/// With one leg left, a new one that lacks what cannot be read is better than none. While the old leg serves it is not.
#[test]
fn what_the_last_leg_cannot_read_is_all_that_the_new_one_misses() {
    for (leg, power_cut) in LegId::ALL.into_iter().flat_map(|leg| [(leg, false), (leg, true)]) {
        let mut world = World::new();
        let mirror = alone(&world, leg, Away::TakenOut);
        let (_, fh) = file(&mirror, "bad", &[7; 4096]);
        mirror.fsync(fh, false).unwrap();
        mirror.release(fh);
        world.spoil(leg.other(), "bad", 512..1024);
        world.replace(&mirror, leg).unwrap();
        mirror.resync();
        let LegState::Lost(lost) = mirror.leg_state(leg) else { panic!("it is not complete") };
        assert_eq!(lost.errno, libc::EIO);
        let why = mirror.why_lost(leg).unwrap();
        assert!(why.contains("cannot read 1 file") && why.contains("bad"), "{why}");
        assert!(!mirror.bitmap.compare_all());
        assert_eq!(mirror.bitmap_stats().dirty_slots, 1, "all else is equal");
        let mirror = match power_cut {
            true => {
                world.cut_power(mirror, 5);
                world.mount_those(&[leg.other()])
            }
            false => mirror,
        };
        mirror.unlink(Ino::ROOT, OsStr::new("bad")).unwrap();
        world.bring_back(&mirror, leg);
        assert!(mirror.is_equal() && mirror.health.lost(leg).is_none(), "{:?}", mirror.why_lost(leg));
        has_all(&mirror);
        sweep(&mirror);
        world.assert_equal();
    }
}

#[test]
fn what_one_of_two_legs_cannot_read_ends_it_with_both_as_they_were() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = world.mount();
        let (_, fh) = file(&mirror, "bad", &[7; 4096]);
        mirror.release(fh);
        sweep(&mirror);
        world.spoil(leg.other(), "bad", 512..1024);
        let failed = world.replace(&mirror, leg).unwrap_err();
        assert!(failed.contains("cannot read 1 file"), "{failed}");
        assert!(mirror.is_equal() && LegId::ALL.iter().all(|&leg| mirror.health.lost(leg).is_none()));
    }
}

#[test]
fn a_leg_that_returns_has_everything_compared_while_changes_are_let_in() {
    for (leg, way) in LegId::ALL.into_iter().flat_map(|leg| WAYS.map(|way| (leg, way))) {
        for naming in Naming::ALL {
            let mut world = World::new();
            world.naming = naming;
            let mirror = alone(&world, leg, way);
            mirror.bitmap.set_compare_all(&*mirror).unwrap();
            let moved = world.number(leg, "f");
            let (made, hook) = busy(&mirror);
            world.fill_again(&mirror, leg, hook).unwrap();
            assert!(made.load(Ordering::SeqCst) >= 40, "changes had to wait");
            mirror.resync();
            assert!(mirror.is_equal() && mirror.health.lost(leg).is_none());
            assert!(!mirror.bitmap.compare_all());
            has_all(&mirror);
            if naming != Naming::Fleeting {
                assert_eq!(world.number(leg, "z"), moved, "{way:?}: a rename is a rename");
            }
            sweep(&mirror);
            world.assert_equal();
            assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
            world.unmount(mirror);
            assert!(world.mount().is_equal(), "unmounted clean");
        }
    }
}

/// It holds neither what it held nor what the other one holds.
#[test]
fn one_that_is_filled_in_part_is_stale_and_never_alone() {
    for (leg, call) in LegId::ALL.into_iter().flat_map(|leg| [(leg, Call::Write), (leg, Call::Sync)]) {
        let world = World::new();
        let mirror = alone(&world, leg, Away::TakenOut);
        mirror.bitmap.set_compare_all(&*mirror).unwrap();
        world.fail_new(call, libc::ENOSPC);
        let why = world.fill_again(&mirror, leg, || {}).unwrap_err();
        world.heal();
        let LegState::Lost(lost) = mirror.leg_state(leg) else { panic!("it is not complete") };
        assert_eq!((lost.errno, lost.missing), (libc::ENOSPC, false));
        assert_eq!(mirror.why_lost(leg), Some(why));
        assert!(mirror.gate.is_open());
        assert_eq!(plan_alone(leg, &world.found(leg)), Err(Refusal::Incomplete(leg)));
        let plan = world.plan();
        assert_eq!((plan.work, plan.stale, plan.source), (Work::CompareAll, Some(leg), leg.other()));
        write(&mirror, "e", b"X");
        world.fill_again(&mirror, leg, || {}).unwrap();
        mirror.resync();
        has_all(&mirror);
        assert_eq!(content(&mirror, "e"), b"X is old");
        sweep(&mirror);
        world.assert_equal();
    }
}

/// What slots tell of it is not yet that it has been compared: somebody moves it again before it is met.
#[test]
fn what_was_moved_while_the_leg_was_away_and_is_moved_again_meanwhile_is_compared() {
    for (leg, naming) in Naming::of_each_leg() {
        for at in 0.. {
            let mut world = World::new();
            world.naming = naming;
            let mirror = world.mount();
            let [p, d, sub] = ["p", "d", "sub"].map(|name| dir(&mirror, Ino::ROOT, name));
            let inner = dir(&mirror, sub, "inner");
            for (at, name) in [(p, "old"), (inner, "deep")] {
                let (_, fh) = mirror.create(at, OsStr::new(name), 0o644, NOBODY, libc::O_RDWR).unwrap();
                mirror.write(fh, b"old data", 0, false).unwrap();
                mirror.release(fh);
            }
            sweep(&mirror);
            mirror.take_out(leg).unwrap();
            let moves = |from: (Ino, &str), to: (Ino, &str)| {
                let [from, to] = [from, to].map(|(dir, name)| (dir, OsStr::new(name)));
                mirror.rename(from.0, from.1, to.0, to.1, RenameMode::Replace).unwrap();
            };
            moves((p, "old"), (d, "new"));
            moves((Ino::ROOT, "sub"), (d, "sub"));
            for (at, name) in [(d, "new"), (inner, "deep")] {
                let found = mirror.lookup(at, OsStr::new(name)).unwrap();
                let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
                mirror.write(fh, b"new", 0, false).unwrap();
                mirror.release(fh);
                // As a program that keeps times does: lengths and times tell nothing.
                let set = SetAttr {
                    mtime: Some(SetTime::At(Timestamp { secs: 7, nanos: 0 })),
                    ..SetAttr::default()
                };
                mirror.setattr(found.attr.ino, &set, None, CALLER).unwrap();
            }
            mirror.bitmap.set_compare_all(&*mirror).unwrap();
            let calls = Arc::new(AtomicU32::new(0));
            let hook = {
                let (mirror, calls) = (mirror.clone(), calls.clone());
                move || {
                    if calls.fetch_add(1, Ordering::SeqCst) == at && mirror.gate.is_open() {
                        let mirror = mirror.clone();
                        let work = move || {
                            for (from, to) in [("new", "foo"), ("sub", "bar")] {
                                let (from, to) = (OsStr::new(from), OsStr::new(to));
                                mirror.rename(d, from, Ino::ROOT, to, RenameMode::Replace).unwrap();
                            }
                            // One name of it is told: that is not all there is to look at in it.
                            let made = mirror.create(sub, OsStr::new("made"), 0o644, NOBODY, libc::O_RDWR);
                            mirror.release(made.unwrap().1);
                        };
                        std::thread::spawn(work).join().unwrap();
                    }
                }
            };
            world.fill_again(&mirror, leg, hook).unwrap();
            // From here on it would wait for itself.
            let all_calls = calls.swap(u32::MAX / 2, Ordering::SeqCst);
            mirror.resync();
            sweep(&mirror);
            let [a, b] = LegId::ALL.map(|leg| world.tree(leg));
            assert!(a == b, "leg {leg}, {naming:?}, moved at call {at}");
            if all_calls <= at {
                break;
            }
        }
    }
}

fn dir(mirror: &Mirror<SimLeg>, at: Ino, name: &str) -> Ino {
    mirror.make(at, OsStr::new(name), Make::Directory { mode: 0o755 }, NOBODY).unwrap().attr.ino
}

/// In a call to the leg that is away, which hangs: nobody else waits for that, and the new one is taken in when it has ended.
#[test]
fn a_request_that_does_not_end_keeps_the_new_disk_from_its_place_and_nobody_else_waiting() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = alone(&world, leg, Away::TakenOut);
        let (stuck, go_on) = crossbeam_channel::bounded::<()>(0);
        let (inside, is_inside) = crossbeam_channel::bounded::<()>(0);
        let mut held = Some((stuck, inside));
        let hook = {
            let mirror = mirror.clone();
            move || {
                let Some((stuck, inside)) = held.take() else { return };
                let mirror = mirror.clone();
                std::thread::spawn(move || {
                    let _inside = mirror.enter().unwrap();
                    drop(inside);
                    // Until nobody keeps it there any more.
                    let _ = stuck.send(());
                });
                let _ = is_inside.recv();
            }
        };
        std::thread::scope(|scope| {
            let replacing = scope.spawn(|| world.replace_with(&mirror, leg, hook));
            for number in 0..200 {
                let (_, fh) = file(&mirror, &format!("meanwhile{number}"), b"new");
                mirror.release(fh);
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            assert!(!replacing.is_finished() && mirror.health.lost(leg).is_some());
            drop(go_on);
            replacing.join().unwrap().unwrap();
        });
        mirror.resync();
        has_all(&mirror);
        sweep(&mirror);
        world.assert_equal();
    }
}
