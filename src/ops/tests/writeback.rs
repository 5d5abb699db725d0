//! With `writeback` the kernel keeps the modification times of files that are open, and tells them now and then.

use super::world::{CALLER, World, file, sweep};
use crate::inode::{Fh, Ino};
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{LegId, Timestamp};
use crate::ops::{Mirror, SetAttr, SetTime};

const TOLD: Timestamp = Timestamp { secs: 1_500_000_000, nanos: 7 };

fn world() -> World {
    let mut world = World::new();
    world.writeback = true;
    world
}

fn tell(mirror: &Mirror<SimLeg>, ino: Ino, fh: Option<Fh>) {
    let set = SetAttr { mtime: Some(SetTime::At(TOLD)), ..SetAttr::default() };
    mirror.setattr(ino, &set, fh, CALLER).unwrap();
}

fn mtime(mirror: &Mirror<SimLeg>, ino: Ino) -> Timestamp {
    mirror.getattr(ino, None).unwrap().stat.mtime
}

#[test]
fn a_write_that_lands_after_the_time_was_told_does_not_move_it() {
    let world = world();
    let mirror = world.mount();
    let (ino, fh) = file(&mirror, "f", b"before");
    tell(&mirror, ino, Some(fh));
    mirror.write_back(fh, b"after", 0).unwrap();
    assert_ne!(mtime(&mirror, ino), TOLD, "each leg has given a time of its own");
    mirror.release(fh);
    assert_eq!(mtime(&mirror, ino), TOLD);
    world.unmount(mirror);
    world.assert_equal();
}

#[test]
fn the_time_that_was_told_last_counts() {
    let world = world();
    let mirror = world.mount();
    let (ino, fh) = file(&mirror, "f", b"before");
    tell(&mirror, ino, Some(fh));
    mirror.write_back(fh, b"after", 0).unwrap();
    let later = Timestamp { secs: TOLD.secs + 5, nanos: 0 };
    let set = SetAttr { mtime: Some(SetTime::At(later)), ..SetAttr::default() };
    mirror.setattr(ino, &set, Some(fh), CALLER).unwrap();
    mirror.release(fh);
    assert_eq!(mtime(&mirror, ino), later);
    // What was told while it was open says nothing of what is done to it later.
    let fh = mirror.open(ino, libc::O_RDWR, CALLER).unwrap();
    mirror.write_back(fh, b"again", 0).unwrap();
    mirror.release(fh);
    assert_ne!(mtime(&mirror, ino), later);
    world.unmount(mirror);
    world.assert_equal();
}

#[test]
fn without_the_option_a_write_moves_the_time() {
    let world = World::new();
    let mirror = world.mount();
    let (ino, fh) = file(&mirror, "f", b"before");
    tell(&mirror, ino, Some(fh));
    mirror.write_back(fh, b"after", 0).unwrap();
    mirror.release(fh);
    assert_ne!(mtime(&mirror, ino), TOLD);
}

#[test]
fn a_time_that_both_legs_have_costs_no_mark() {
    let world = world();
    let mirror = world.mount();
    let (ino, fh) = file(&mirror, "f", b"text");
    mirror.release(fh);
    tell(&mirror, ino, None);
    sweep(&mirror);
    let marks = |mirror: &Mirror<SimLeg>| mirror.bitmap_stats().marks;
    let before = marks(&mirror);
    tell(&mirror, ino, None);
    assert_eq!(marks(&mirror), before);
    // A leg that has another one gets it.
    let fh = mirror.open(ino, libc::O_RDWR, CALLER).unwrap();
    mirror.write_back(fh, b"TEXT", 0).unwrap();
    mirror.release(fh);
    tell(&mirror, ino, None);
    assert!(marks(&mirror) > before);
    assert_eq!(mtime(&mirror, ino), TOLD);
    world.unmount(mirror);
    world.assert_equal();
}

#[test]
fn what_a_leg_refuses_of_the_cache_is_an_error_and_leaves_them_equal() {
    for leg in LegId::ALL {
        let world = world();
        let mirror = world.mount();
        let (_, fh) = file(&mirror, "f", b"before");
        world.fail(leg, Call::Write, libc::ENOSPC);
        let error = mirror.write_back(fh, b"longer than before", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        world.heal();
        mirror.release(fh);
        world.unmount(mirror);
        world.assert_equal();
    }
}
