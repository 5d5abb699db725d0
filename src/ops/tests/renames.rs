//! A rename within a directory costs no slot where that of the directory tells enough; and whatever each leg has
//! of such renames after a crash, the legs become equal.

use std::ffi::OsStr;
use std::sync::Arc;

use super::world::{CALLER, NOBODY, World, sweep};
use crate::inode::Ino;
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{LegId, Make, RenameMode, Timestamp};
use crate::ops::{Mirror, SetAttr, SetTime};

/// Power cuts: each leaves each leg with another part of what was done.
const CUTS: u64 = 60;

fn mkdir(mirror: &Mirror<SimLeg>, dir: Ino, name: &str) -> Ino {
    mirror.make(dir, OsStr::new(name), Make::Directory { mode: 0o755 }, NOBODY).unwrap().attr.ino
}

/// A new file of four bytes, and of times that tell nothing.
fn file(mirror: &Mirror<SimLeg>, dir: Ino, name: &str, text: &[u8; 4]) {
    let (found, fh) = mirror.create(dir, OsStr::new(name), 0o644, NOBODY, libc::O_RDWR).unwrap();
    assert_eq!(mirror.write(fh, text, 0, false).unwrap(), text.len());
    let time = Some(SetTime::At(Timestamp { secs: 7, nanos: 0 }));
    let times = SetAttr { atime: time, mtime: time, ..SetAttr::default() };
    mirror.setattr(found.attr.ino, &times, Some(fh), CALLER).unwrap();
    mirror.release(fh);
    mirror.forget(found.attr.ino, 1);
}

fn rename(mirror: &Mirror<SimLeg>, dir: Ino, from: &str, to: &str) {
    mirror.rename(dir, OsStr::new(from), dir, OsStr::new(to), RenameMode::Replace).unwrap();
}

/// A mirror with a clean directory, in which `make` has been done.
fn clean(world: &World, make: impl Fn(&Mirror<SimLeg>, Ino)) -> (Arc<Mirror<SimLeg>>, Ino) {
    let mirror = world.mount();
    let dir = mkdir(&mirror, Ino::ROOT, "d");
    make(&mirror, dir);
    // Born after all that was made: no slot that is taken from now on covers that.
    file(&mirror, Ino::ROOT, "younger", b"....");
    sweep(&mirror);
    assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
    (mirror, dir)
}

/// Does `before`, makes it durable, does `after`, and lets the power fail in the midst of it, again and again.
fn is_recovered(before: impl Fn(&Mirror<SimLeg>, Ino), after: impl Fn(&Mirror<SimLeg>, Ino)) {
    let mut unequal = 0;
    for seed in 0..CUTS {
        let world = World::new();
        let (mirror, dir) = clean(&world, &before);
        after(&mirror, dir);
        world.cut_power(mirror, seed);
        unequal += u64::from(world.tree(LegId::A) != world.tree(LegId::B));
        let mirror = world.mount();
        mirror.resync();
        world.unmount(mirror);
        assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "seed {seed}");
    }
    assert!(unequal > CUTS / 4, "{unequal} of {CUTS} cuts left something to do");
}

#[test]
fn a_thousand_new_files_get_their_final_names_for_the_mark_of_their_directory() {
    let world = World::new();
    let (mirror, dir) = clean(&world, |_, _| {});
    let before = mirror.bitmap_stats();
    for number in 0..1000 {
        file(&mirror, dir, ".tmp", b"text");
        rename(&mirror, dir, ".tmp", &format!("f{number}"));
    }
    let after = mirror.bitmap_stats();
    assert!(after.flushes <= before.flushes + 2, "{} flushes", after.flushes - before.flushes);
    assert_eq!((after.dirty_slots, after.spared), (1, before.spared + 1000));
    sweep(&mirror);
    world.unmount(mirror);
    world.assert_equal();
}

/// As editors and package managers do.
#[test]
fn a_new_file_in_place_of_an_old_one_costs_nothing_more() {
    let world = World::new();
    let (mirror, dir) = clean(&world, |mirror, dir| {
        (0..100).for_each(|number| file(mirror, dir, &format!("f{number}"), b"old."));
    });
    let before = mirror.bitmap_stats();
    for number in 0..100 {
        file(&mirror, dir, ".tmp", b"new!");
        rename(&mirror, dir, ".tmp", &format!("f{number}"));
    }
    let after = mirror.bitmap_stats();
    assert!(after.flushes <= before.flushes + 2, "{} flushes", after.flushes - before.flushes);
    assert_eq!(after.dirty_slots, 1);
    world.unmount(mirror);
    world.assert_equal();
}

#[test]
fn a_new_file_under_its_final_name_is_made_equal() {
    is_recovered(
        |_, _| {},
        |mirror, dir| {
            for (name, text) in [("f", b"one."), ("g", b"two."), ("f", b"more")] {
                file(mirror, dir, ".tmp", text);
                rename(mirror, dir, ".tmp", name);
            }
            rename(mirror, dir, "f", "h");
            rename(mirror, dir, "g", "f");
        },
    );
}

/// Length and times are those of the old one: only that the other is new tells that they differ, on whichever
/// leg that is.
#[test]
fn a_new_file_in_place_of_an_old_one_that_looks_like_it_is_made_equal() {
    is_recovered(
        |mirror, dir| file(mirror, dir, "f", b"old."),
        |mirror, dir| {
            file(mirror, dir, ".tmp", b"new!");
            rename(mirror, dir, ".tmp", "f");
        },
    );
}

#[test]
fn a_new_file_in_place_of_one_that_has_another_name_is_not_written_to_that() {
    is_recovered(
        |mirror, dir| {
            file(mirror, dir, "f", b"old.");
            let found = mirror.lookup(dir, OsStr::new("f")).unwrap();
            mirror.link(found.attr.ino, Ino::ROOT, OsStr::new("other")).unwrap();
        },
        |mirror, dir| {
            file(mirror, dir, ".tmp", b"new!");
            rename(mirror, dir, ".tmp", "f");
        },
    );
}

#[test]
fn a_new_directory_in_place_of_an_old_one_is_looked_into() {
    is_recovered(
        |mirror, dir| {
            mkdir(mirror, dir, "e");
        },
        |mirror, dir| {
            mirror.rmdir(dir, OsStr::new("e")).unwrap();
            file(mirror, mkdir(mirror, dir, "e"), "f", b"text");
        },
    );
}

#[test]
fn a_new_file_that_was_renamed_may_move_on() {
    is_recovered(
        |mirror, _| {
            mkdir(mirror, Ino::ROOT, "elsewhere");
        },
        |mirror, dir| {
            let elsewhere = mirror.lookup(Ino::ROOT, OsStr::new("elsewhere")).unwrap().attr.ino;
            file(mirror, dir, ".tmp", b"text");
            rename(mirror, dir, ".tmp", "f");
            let (from, to) = ((dir, OsStr::new("f")), (elsewhere, OsStr::new("g")));
            mirror.rename(from.0, from.1, to.0, to.1, RenameMode::Replace).unwrap();
            rename(mirror, elsewhere, "g", "h");
            file(mirror, dir, "f", b"more");
        },
    );
}

/// Two clean files that look alike, and that anything born from now on is younger than.
fn alike(mirror: &Mirror<SimLeg>, dir: Ino) {
    file(mirror, dir, "f", b"one.");
    file(mirror, dir, "g", b"two.");
}

#[test]
fn a_thousand_clean_files_are_renamed_and_back_for_the_mark_of_their_directory() {
    let world = World::new();
    let (mirror, dir) = clean(&world, |mirror, dir| {
        (0..1000).for_each(|number| file(mirror, dir, &format!("f{number}"), b"text"));
    });
    let before = mirror.bitmap_stats();
    (0..1000).for_each(|number| rename(&mirror, dir, &format!("f{number}"), &format!("g{number}")));
    (0..1000).for_each(|number| rename(&mirror, dir, &format!("g{number}"), &format!("f{number}")));
    let after = mirror.bitmap_stats();
    assert!(after.flushes <= before.flushes + 2, "{} flushes", after.flushes - before.flushes);
    assert_eq!((after.dirty_slots, after.spared), (1, before.spared + 2000));
    world.unmount(mirror);
    world.assert_equal();
}

#[test]
fn a_clean_file_under_a_new_name_is_made_equal() {
    is_recovered(alike, |mirror, dir| {
        rename(mirror, dir, "f", "i");
        rename(mirror, dir, "g", "h");
        file(mirror, dir, "f", b"more");
        rename(mirror, dir, "h", "k");
        assert_eq!(mirror.bitmap_stats().dirty_slots, 1);
    });
}

/// One leg may have the one file under the name, and the other leg the other.
#[test]
fn a_name_that_was_another_files_is_given_with_a_mark() {
    let given_up: [fn(&Mirror<SimLeg>, Ino); 4] = [
        |mirror, dir| mirror.unlink(dir, OsStr::new("f")).unwrap(),
        |mirror, dir| rename(mirror, dir, "f", "h"),
        |mirror, dir| {
            mirror.unlink(dir, OsStr::new("f")).unwrap();
            let known = mirror.known_objects();
            mirror.forget(dir, 1);
            assert_eq!(mirror.known_objects(), known - 1, "the kernel has forgotten the directory");
            assert_eq!(mirror.lookup(Ino::ROOT, OsStr::new("d")).unwrap().attr.ino, dir);
        },
        |mirror, dir| {
            file(mirror, dir, ".tmp", b"new!");
            rename(mirror, dir, ".tmp", "f");
            mirror.unlink(dir, OsStr::new("f")).unwrap();
        },
    ];
    for give_up in given_up {
        is_recovered(alike, |mirror, dir| {
            give_up(mirror, dir);
            rename(mirror, dir, "g", "f");
        });
    }
    is_recovered(alike, |mirror, dir| rename(mirror, dir, "g", "f"));
}

/// It was refused by one leg, so the other one has had the name for a moment.
#[test]
fn a_name_that_was_given_back_is_given_with_a_mark() {
    for leg in LegId::ALL {
        for seed in 0..CUTS {
            let world = World::new();
            let (mirror, dir) = clean(&world, alike);
            world.fail(leg, Call::Rename, libc::ENOSPC);
            let (from, to) = (OsStr::new("f"), OsStr::new("h"));
            mirror.rename(dir, from, dir, to, RenameMode::Replace).unwrap_err();
            world.heal();
            rename(&mirror, dir, "g", "h");
            world.cut_power(mirror, seed);
            let mirror = world.mount();
            mirror.resync();
            world.unmount(mirror);
            assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "seed {seed}");
        }
    }
}

/// What is done to its names under the slot of the directory above is not known, nor when it has got its own.
#[test]
fn names_in_a_directory_that_was_covered_tell_nothing() {
    for (seed, moves) in (0..CUTS).flat_map(|seed| [(seed, false), (seed, true)]) {
        let world = World::new();
        let (mirror, dir) = clean(&world, alike);
        let new = mkdir(&mirror, Ino::ROOT, "new");
        for name in ["f", "g"].map(OsStr::new) {
            mirror.rename(dir, name, new, name, RenameMode::Replace).unwrap();
        }
        for _ in 0..5 {
            // The root's slot is in use all the time; all others are cleared.
            file(&mirror, Ino::ROOT, "busy", b"....");
            mirror.unlink(Ino::ROOT, OsStr::new("busy")).unwrap();
            mirror.sweep();
        }
        assert_eq!(mirror.bitmap_stats().dirty_slots, 1);
        mirror.unlink(new, OsStr::new("f")).unwrap();
        if moves {
            rename(&mirror, Ino::ROOT, "new", "moved");
        }
        rename(&mirror, new, "g", "f");
        world.cut_power(mirror, seed);
        let mirror = world.mount();
        mirror.resync();
        world.unmount(mirror);
        assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "seed {seed}");
    }
}

/// What the source cannot read of a clean file is not lost by a rename.
#[test]
fn what_was_renamed_and_cannot_be_read_is_kept() {
    let world = World::new();
    let mirror = world.mount();
    file(&mirror, Ino::ROOT, "f", b"one.");
    file(&mirror, Ino::ROOT, "younger", b"....");
    sweep(&mirror);
    rename(&mirror, Ino::ROOT, "f", "h");
    assert_eq!(mirror.bitmap_stats().spared, 1);
    world.kill(mirror);
    world.rename(LegId::B, "h", "f");
    world.spoil(LegId::A, "h", 0..4);
    let mirror = world.mount();
    mirror.resync();
    drop(mirror);
    assert!(world.tree(LegId::B).values().any(|text| text.ends_with("one.")));
}

#[test]
fn a_clean_file_with_two_names_is_renamed_with_a_mark() {
    is_recovered(
        |mirror, dir| {
            file(mirror, dir, "f", b"one.");
            let found = mirror.lookup(dir, OsStr::new("f")).unwrap();
            mirror.link(found.attr.ino, Ino::ROOT, OsStr::new("other")).unwrap();
        },
        |mirror, dir| rename(mirror, dir, "f", "h"),
    );
}

/// As for covers: what was put together while a leg was away is told object by object until it is cleared.
#[test]
fn a_slot_from_before_a_leg_was_away_tells_no_names() {
    for leg in LegId::ALL {
        let world = World::new();
        let (mirror, dir) = clean(&world, alike);
        file(&mirror, dir, "new", b"text");
        world.fail(leg, Call::Attributes, libc::EIO);
        let found = mirror.lookup(dir, OsStr::new("new")).unwrap();
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        mirror.setattr(found.attr.ino, &mode, None, CALLER).unwrap();
        world.heal();
        rename(&mirror, dir, "f", "h");
        assert_eq!(mirror.bitmap_stats().spared, 0, "a leg is away");
        mirror.let_go(leg);
        world.bring_back(&mirror, leg);
        rename(&mirror, dir, "g", "i");
        assert_eq!(mirror.bitmap_stats().spared, 0);
        sweep(&mirror);
        rename(&mirror, dir, "i", "g");
        assert_eq!(mirror.bitmap_stats().spared, 1);
        world.unmount(mirror);
        world.assert_equal();
    }
}
