//! A new, empty disk takes the place of a leg that is away.

use std::ffi::OsStr;
use std::sync::Arc;

use super::world::{NOBODY, Naming, World, content, file, sweep, write};
use crate::inode::Ino;
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{LegId, Make, RenameMode};
use crate::ops::Mirror;

/// A mirror that goes on without `leg`, with slots that name objects by what they are on that leg.
fn degraded(world: &World, leg: LegId) -> Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    // Made in another order than they are copied in: what is made first on the new disk gets the number of "g".
    for name in ["g", "h", "f", "e"] {
        let (_, fh) = file(&mirror, name, format!("{name} is old").as_bytes());
        mirror.release(fh);
    }
    let made = mirror.make(Ino::ROOT, OsStr::new("dir"), Make::Directory { mode: 0o755 }, NOBODY).unwrap();
    sweep(&mirror);
    write(&mirror, "g", b"G");
    write(&mirror, "f", b"F");
    world.fail(leg, Call::Write, libc::EIO);
    write(&mirror, "e", b"E");
    world.heal();
    assert!(mirror.health.lost(leg).is_some());
    mirror.unlink(Ino::ROOT, OsStr::new("h")).unwrap();
    mirror
        .rename(Ino::ROOT, OsStr::new("f"), made.attr.ino, OsStr::new("moved"), RenameMode::Replace)
        .unwrap();
    mirror.rename(Ino::ROOT, OsStr::new("dir"), Ino::ROOT, OsStr::new("z"), RenameMode::Replace).unwrap();
    mirror
}

fn has_all(mirror: &Mirror<SimLeg>) {
    assert_eq!(content(mirror, "e"), b"E is old");
    assert_eq!(content(mirror, "g"), b"G is old");
    assert!(mirror.lookup(Ino::ROOT, OsStr::new("h")).is_err());
}

#[test]
fn a_new_leg_gets_everything_and_nothing_is_taken_for_what_had_its_number_on_the_old_one() {
    for (leg, naming) in Naming::of_each_leg() {
        let mut world = World::new();
        world.naming = naming;
        let mirror = degraded(&world, leg);
        world.replace(&mirror, leg).unwrap();
        mirror.resync();
        assert!(mirror.is_equal() && mirror.health.lost(leg).is_none());
        has_all(&mirror);
        sweep(&mirror);
        world.assert_equal();
        world.unmount(mirror);
        let mirror = world.mount();
        assert!(mirror.is_equal(), "unmounted clean");
        has_all(&mirror);
    }
}

#[test]
fn what_is_open_without_a_name_stays_usable_while_a_new_leg_is_filled() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = world.mount();
        let (_, nameless) = file(&mirror, "gone", b"text");
        let (_, named) = file(&mirror, "there", b"text");
        mirror.unlink(Ino::ROOT, OsStr::new("gone")).unwrap();
        mirror.take_out(leg).unwrap();
        world.replace(&mirror, leg).unwrap();
        mirror.resync();
        for fh in [nameless, named] {
            assert_eq!(mirror.write(fh, b"more", 4, false).unwrap(), 4);
            let mut read = [0; 8];
            assert_eq!(mirror.read(fh, &mut read, 0).unwrap(), 8);
            assert_eq!(&read, b"textmore");
        }
        sweep(&mirror);
        world.assert_equal();
    }
}

/// It was known by the name that went; nobody has looked for it by the other one.
#[test]
fn what_has_lost_the_name_it_was_opened_by_is_found_on_a_new_leg_by_its_other_one() {
    for (leg, naming) in Naming::of_each_leg() {
        let mut world = World::new();
        world.naming = naming;
        let mirror = world.mount();
        let dir = mirror.make(Ino::ROOT, OsStr::new("dir"), Make::Directory { mode: 0o755 }, NOBODY).unwrap();
        let (ino, fh) = file(&mirror, "name", b"text");
        mirror.link(ino, dir.attr.ino, OsStr::new("other")).unwrap();
        // As a walk would: the place that is known is the last one that was looked up.
        mirror.lookup(Ino::ROOT, OsStr::new("name")).unwrap();
        mirror.unlink(Ino::ROOT, OsStr::new("name")).unwrap();
        mirror.take_out(leg).unwrap();
        world.replace(&mirror, leg).unwrap();
        mirror.resync();
        assert_eq!(mirror.write(fh, b"more", 4, false).unwrap(), 4, "leg {leg}, {naming:?}");
        sweep(&mirror);
        world.assert_equal();
        let other = leg.other();
        mirror.take_out(other).unwrap();
        let mut read = [0; 8];
        assert_eq!(mirror.read(fh, &mut read, 0).unwrap(), 8);
        assert_eq!(&read, b"textmore");
    }
}

/// What a resync has made equal is the leg that was there when it began.
#[test]
fn a_resync_that_is_still_at_work_does_not_call_the_leg_complete_that_was_taken_in_since() {
    let leg = LegId::B;
    let world = World::new();
    let mirror = degraded(&world, leg);
    world.bring_back(&mirror, leg);
    mirror.take_out(leg).unwrap();
    write(&mirror, "g", b"X");
    let at_sync = world.at_sync.clone();
    world.take_in(&mirror, leg);
    std::thread::scope(|scope| {
        at_sync.arm();
        let old = scope.spawn(|| mirror.resync());
        at_sync.wait_for_one();
        mirror.take_out(leg).unwrap();
        write(&mirror, "g", b"Y");
        let new = scope.spawn(|| world.take_in(&mirror, leg));
        // With nobody to wait for it would be taken in by now; it makes no difference to a mirror that is sound.
        for _ in 0..200 {
            if new.is_finished() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        at_sync.go_on();
        old.join().unwrap();
        new.join().unwrap();
    });
    assert!(!mirror.is_equal(), "nothing has been copied to it yet");
    mirror.resync();
    assert_eq!(content(&mirror, "g"), b"Y is old");
    sweep(&mirror);
    world.assert_equal();
}

#[test]
fn a_crash_before_the_leg_that_was_taken_in_is_complete_starts_its_recovery_anew() {
    for (leg, naming) in Naming::of_each_leg().filter(|(_, naming)| *naming != Naming::Fleeting) {
        let mut world = World::new();
        world.naming = naming;
        let mirror = degraded(&world, leg);
        world.take_in(&mirror, leg);
        world.kill(mirror);
        let mirror = world.mount();
        assert_eq!(mirror.source(), leg.other());
        // It has a name or two already when it fails.
        world.fail(leg, Call::Write, libc::EIO);
        mirror.resync();
        world.heal();
        assert!(mirror.health.lost(leg).is_some());
        write(&mirror, "g", b"G");
        world.kill(mirror);
        let mirror = world.mount();
        mirror.resync();
        has_all(&mirror);
        sweep(&mirror);
        world.assert_equal();
    }
}

/// Complete, but not called so yet.
#[test]
fn a_crash_right_after_a_new_leg_was_taken_in_leaves_it_equal() {
    for (leg, naming) in Naming::of_each_leg() {
        let mut world = World::new();
        world.naming = naming;
        let mirror = degraded(&world, leg);
        world.replace(&mirror, leg).unwrap();
        world.kill(mirror);
        let mirror = world.mount();
        assert_eq!(mirror.source(), leg.other());
        mirror.resync();
        assert!(mirror.is_equal() && mirror.health.lost(leg).is_none());
        has_all(&mirror);
        sweep(&mirror);
        world.assert_equal();
    }
}
