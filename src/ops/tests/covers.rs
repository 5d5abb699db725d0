//! New files are covered by the slot of the directory that they are born in: they cost no mark, and nothing of
//! what was done to them is lost when the legs come out of a crash with two versions of it.

use std::ffi::OsStr;
use std::sync::Arc;

use super::world::{CALLER, NOBODY, Naming, World, sweep};
use crate::bitmap::{ChunkSize, Kinds};
use crate::inode::{Fh, Ino};
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{LegId, Make, RenameMode, Timestamp};
use crate::ops::{Mirror, SetAttr, SetTime};
use crate::sim::rng::Rng;

const TEXT: &[u8] = b"as it was written";

fn mkdir(mirror: &Mirror<SimLeg>, dir: Ino, name: &str) -> Ino {
    let made = mirror.make(dir, OsStr::new(name), Make::Directory { mode: 0o755 }, NOBODY).unwrap();
    made.attr.ino
}

/// A new file, written to, with times that tell nothing.
fn file(mirror: &Mirror<SimLeg>, dir: Ino, name: &str) -> (Ino, Fh) {
    file_of(mirror, dir, name, TEXT)
}

fn file_of(mirror: &Mirror<SimLeg>, dir: Ino, name: &str, text: &[u8]) -> (Ino, Fh) {
    let (found, fh) = mirror.create(dir, OsStr::new(name), 0o644, NOBODY, libc::O_RDWR).unwrap();
    assert_eq!(mirror.write(fh, text, 0, false).unwrap(), text.len());
    let time = Some(SetTime::At(Timestamp { secs: 7, nanos: 0 }));
    let times = SetAttr { atime: time, mtime: time, ..SetAttr::default() };
    mirror.setattr(found.attr.ino, &times, Some(fh), CALLER).unwrap();
    (found.attr.ino, fh)
}

/// As [`file`], and something is born after it: no directory that is marked from now on covers it.
fn older_file(mirror: &Mirror<SimLeg>, dir: Ino, name: &str) -> (Ino, Fh) {
    let made = file(mirror, dir, name);
    let (_, younger) = file(mirror, dir, "younger");
    mirror.release(younger);
    made
}

/// A clean directory that no directory covers which is marked from now on.
fn elsewhere(mirror: &Mirror<SimLeg>) -> Ino {
    let dir = mkdir(mirror, Ino::ROOT, "elsewhere");
    let (_, fh) = file(mirror, dir, "g");
    mirror.release(fh);
    sweep(mirror);
    assert_eq!(slots(mirror), 0);
    dir
}

/// What is dirty, as it is on disk.
fn slots(mirror: &Mirror<SimLeg>) -> u64 {
    mirror.bitmap_stats().dirty_slots
}

/// The machine dies, and `leg` has lost what was written to the file at `path`, but neither its length nor its times.
fn crash(world: &World, mirror: Arc<Mirror<SimLeg>>, leg: LegId, path: &str) {
    world.kill(mirror);
    world.lose_data(leg, path);
    assert_ne!(world.tree(LegId::A), world.tree(LegId::B));
    let mirror = world.mount();
    mirror.resync();
    world.unmount(mirror);
    world.assert_equal();
    assert!(world.tree(LegId::A).values().any(|text| text.contains("as it was written") || leg == LegId::A));
}

#[test]
fn a_new_tree_costs_the_mark_of_the_directory_that_it_lies_in() {
    let world = World::new();
    let mirror = world.mount();
    let top = mkdir(&mirror, Ino::ROOT, "top");
    let marks = mirror.bitmap_stats().marks;
    for number in 0..40 {
        let dir = mkdir(&mirror, top, &format!("d{number}"));
        let (_, fh) = file(&mirror, dir, "f");
        mirror.release(fh);
    }
    assert_eq!(mirror.bitmap_stats().marks, marks);
    assert_eq!(slots(&mirror), 1);
    sweep(&mirror);
    assert_eq!(slots(&mirror), 0);
    world.unmount(mirror);
    world.assert_equal();
}

#[test]
fn what_was_written_to_a_new_file_is_made_equal_wherever_it_lies() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, mkdir(&mirror, Ino::ROOT, "a"), "b");
        file(&mirror, dir, "f");
        crash(&world, mirror, leg, "a/b/f");
    }
}

#[test]
fn a_new_file_that_moves_takes_a_mark_of_all_of_it_along() {
    for leg in LegId::ALL {
        for exchange in [false, true] {
            let world = World::new();
            let mirror = world.mount();
            let elsewhere = elsewhere(&mirror);
            let dir = mkdir(&mirror, Ino::ROOT, "a");
            older_file(&mirror, dir, "f");
            let (mode, to) =
                if exchange { (RenameMode::Exchange, "g") } else { (RenameMode::NoReplace, "h") };
            mirror.rename(dir, OsStr::new("f"), elsewhere, OsStr::new(to), mode).unwrap();
            crash(&world, mirror, leg, &format!("elsewhere/{to}"));
        }
    }
}

#[test]
fn a_new_file_that_gets_a_second_name_takes_a_mark_of_all_of_it_along() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = world.mount();
        let elsewhere = elsewhere(&mirror);
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        let (ino, _) = older_file(&mirror, dir, "f");
        mirror.link(ino, elsewhere, OsStr::new("l")).unwrap();
        mirror.unlink(dir, OsStr::new("f")).unwrap();
        crash(&world, mirror, leg, "elsewhere/l");
    }
}

#[test]
fn a_new_directory_that_moves_takes_the_cover_of_what_is_in_it_along() {
    for leg in LegId::ALL {
        // Written before it moves, or after.
        for late in [false, true] {
            let world = World::new();
            let mirror = world.mount();
            let elsewhere = elsewhere(&mirror);
            let dir = mkdir(&mirror, Ino::ROOT, "a");
            let inner = mkdir(&mirror, dir, "inner");
            let (_, fh) = older_file(&mirror, inner, "f");
            mirror
                .rename(dir, OsStr::new("inner"), elsewhere, OsStr::new("inner"), RenameMode::NoReplace)
                .unwrap();
            if late {
                // Whatever could be cleared has been; the root and what it covers are in use.
                let marks = mirror.bitmap_stats().marks;
                for _ in 0..5 {
                    let (found, busy) =
                        mirror.create(dir, OsStr::new("busy"), 0o644, NOBODY, libc::O_RDWR).unwrap();
                    mirror.release(busy);
                    mirror.forget(found.attr.ino, 1);
                    mirror.unlink(dir, OsStr::new("busy")).unwrap();
                    mirror.sweep();
                }
                mirror.write(fh, TEXT, 0, false).unwrap();
                assert_eq!(mirror.bitmap_stats().marks, marks, "it is still covered");
                let time = Some(SetTime::At(Timestamp { secs: 7, nanos: 0 }));
                let times = SetAttr { atime: time, mtime: time, ..SetAttr::default() };
                let found = mirror.lookup(inner, OsStr::new("f")).unwrap();
                mirror.setattr(found.attr.ino, &times, Some(fh), CALLER).unwrap();
            }
            crash(&world, mirror, leg, "elsewhere/inner/f");
        }
    }
}

/// What only the object in memory knows must not go with it.
#[test]
fn what_is_covered_and_was_forgotten_by_the_kernel_moves_as_if_it_was_not() {
    for leg in LegId::ALL {
        for (what, path) in
            [("file", "elsewhere/f"), ("link", "elsewhere/f"), ("directory", "elsewhere/inner/f")]
        {
            let world = World::new();
            let mirror = world.mount();
            let elsewhere = elsewhere(&mirror);
            let top = mkdir(&mirror, Ino::ROOT, "a");
            let inner = mkdir(&mirror, top, "inner");
            let (ino, fh) = older_file(&mirror, inner, "f");
            mirror.release(fh);
            mirror.forget(ino, 1);
            match what {
                "file" => {
                    mirror.rename(inner, OsStr::new("f"), elsewhere, OsStr::new("f"), RenameMode::NoReplace)
                }
                "link" => {
                    let found = mirror.lookup(inner, OsStr::new("f")).unwrap();
                    mirror.link(found.attr.ino, elsewhere, OsStr::new("f")).unwrap();
                    mirror.unlink(inner, OsStr::new("f"))
                }
                _ => {
                    let younger = mirror.lookup(inner, OsStr::new("younger")).unwrap();
                    mirror.forget(younger.attr.ino, 2);
                    mirror.forget(inner, 1);
                    mirror.rename(
                        top,
                        OsStr::new("inner"),
                        elsewhere,
                        OsStr::new("inner"),
                        RenameMode::NoReplace,
                    )
                }
            }
            .unwrap();
            crash(&world, mirror, leg, path);
        }
    }
}

/// The next mount knows nothing of what a cover stood for, so that has to be durable before anything moves.
#[test]
fn what_was_covered_in_the_last_mount_may_move_in_the_next() {
    for seed in 0..300 {
        let world = World::new();
        let mirror = world.mount();
        let elsewhere = elsewhere(&mirror);
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        older_file(&mirror, dir, "f");
        world.kill(mirror);
        let mirror = world.mount();
        mirror.resync();
        let dir = mirror.lookup(Ino::ROOT, OsStr::new("a")).unwrap().attr.ino;
        assert_eq!(mirror.lookup(Ino::ROOT, OsStr::new("elsewhere")).unwrap().attr.ino, elsewhere);
        mirror.rename(dir, OsStr::new("f"), elsewhere, OsStr::new("f"), RenameMode::NoReplace).unwrap();
        world.cut_power(mirror, seed);
        let mirror = world.mount();
        mirror.resync();
        world.unmount(mirror);
        assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "seed {seed}");
    }
}

/// What a leg that lost the removal has under the name is older than the watermark, and tells nothing: what the other
/// one has there does.
#[test]
fn what_took_the_name_of_something_older_is_made_equal_whichever_leg_has_lost_it() {
    for seed in 0..300 {
        let world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        mkdir(&mirror, dir, "d");
        let (_, fh) = file_of(&mirror, dir, "f", b"as it was BEFORE.");
        mirror.release(fh);
        mkdir(&mirror, dir, "younger");
        sweep(&mirror);
        assert_eq!(slots(&mirror), 0);
        mirror.unlink(dir, OsStr::new("f")).unwrap();
        let (_, fh) = file(&mirror, dir, "f");
        mirror.fsync(fh, false).unwrap();
        mirror.rmdir(dir, OsStr::new("d")).unwrap();
        let inner = mkdir(&mirror, mkdir(&mirror, dir, "d"), "e");
        file(&mirror, inner, "g");
        world.cut_power(mirror, seed);
        let mirror = world.mount();
        mirror.resync();
        world.unmount(mirror);
        assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "seed {seed}");
    }
}

/// A daemon that may not use handles takes what has the number of an object that is gone for that object, if one that
/// may has marked it.
#[test]
fn what_has_the_number_of_something_marked_and_gone_is_compared_for_its_birth() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        let (old, fh) = file(&mirror, dir, "old");
        let behind = ChunkSize::MIN.bytes();
        mirror.write(fh, TEXT, behind, false).unwrap();
        sweep(&mirror);
        mirror.write(fh, TEXT, behind, false).unwrap();
        mirror.release(fh);
        mirror.unlink(dir, OsStr::new("old")).unwrap();
        mirror.forget(old, 1);
        // The first of the next two gets the old number on one leg, the second on the other.
        world.take_number(leg);
        file(&mirror, dir, "f");
        world.take_number(leg);
        file_of(&mirror, dir, "g", b"another's content");
        world.kill(mirror);
        world.naming = Naming::Numbers;
        let mirror = world.mount();
        mirror.resync();
        world.unmount(mirror);
        world.assert_equal();
    }
}

/// Nobody's clock has to be right, and births may be as coarse as they like.
#[test]
fn clocks_that_step_and_coarse_births_lose_nothing() {
    for seed in 0..300 {
        let world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        older_file(&mirror, dir, "old");
        let elsewhere = elsewhere(&mirror);
        let leg = LegId::ALL[seed as usize % 2];
        world.coarse_births(leg, 64);
        world.coarse_births(leg.other(), 3);
        let mut rng = Rng::new(seed);
        for number in 0..6 {
            let inner = mkdir(&mirror, dir, &format!("d{number}"));
            world.step_clock(leg, rng.below(101) as i64 - 50);
            let (_, fh) = file(&mirror, inner, "f");
            mirror.release(fh);
            if rng.one_in(2) {
                let name = format!("g{number}");
                let to = (elsewhere, OsStr::new(&name));
                mirror.rename(inner, OsStr::new("f"), to.0, to.1, RenameMode::NoReplace).unwrap();
            }
        }
        if rng.one_in(2) {
            mirror.rename(dir, OsStr::new("d3"), elsewhere, OsStr::new("d"), RenameMode::NoReplace).unwrap();
        }
        world.cut_power(mirror, seed);
        let mirror = world.mount();
        mirror.resync();
        world.unmount(mirror);
        assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "seed {seed}");
    }
}

#[test]
fn what_is_covered_is_let_go_of_when_it_is_gone_or_clean() {
    let world = World::new();
    let mirror = world.mount();
    let dir = mkdir(&mirror, Ino::ROOT, "a");
    let known = mirror.known_objects();
    let (ino, fh) = file(&mirror, dir, "f");
    mirror.release(fh);
    mirror.forget(ino, 1);
    assert_eq!(mirror.known_objects(), known + 1, "it is kept while it is covered");
    mirror.unlink(dir, OsStr::new("f")).unwrap();
    assert_eq!(mirror.known_objects(), known);
    let (ino, fh) = file(&mirror, dir, "g");
    mirror.release(fh);
    mirror.forget(ino, 1);
    sweep(&mirror);
    assert_eq!(mirror.known_objects(), known);
}

#[test]
fn what_was_born_before_is_not_compared() {
    let world = World::new();
    let mirror = world.mount();
    let dir = mkdir(&mirror, Ino::ROOT, "a");
    for number in 0..10 {
        file(&mirror, dir, &format!("old{number}"));
    }
    sweep(&mirror);
    assert_eq!(slots(&mirror), 0);
    file(&mirror, dir, "new");
    world.kill(mirror);
    let mirror = world.mount();
    mirror.resync();
    // The new one, and the last of the old: its birth is the watermark. On both legs.
    assert_eq!(mirror.progress().report().bytes_read, 4 * TEXT.len() as u64);
    world.unmount(mirror);
    world.assert_equal();
}

/// All that a recovery has built was born late on that leg.
#[test]
fn what_was_built_on_a_leg_that_was_away_is_not_compared_either() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        sweep(&mirror);
        mirror.take_out(leg).unwrap();
        mirror.let_go(leg);
        for number in 0..10 {
            let (_, fh) = file(&mirror, dir, &format!("old{number}"));
            mirror.release(fh);
        }
        world.take_in(&mirror, leg);
        world.step_clock(leg, 10_000_000);
        mirror.resync();
        sweep(&mirror);
        file(&mirror, Ino::ROOT, "new");
        world.kill(mirror);
        let mirror = world.mount();
        mirror.resync();
        assert_eq!(mirror.progress().report().bytes_read, 2 * TEXT.len() as u64);
        world.unmount(mirror);
        world.assert_equal();
    }
}

#[test]
fn the_times_of_what_is_covered_are_alike_before_it_is_cleared() {
    let world = World::new();
    let mirror = world.mount();
    let dir = mkdir(&mirror, Ino::ROOT, "a");
    let (_, fh) = file(&mirror, dir, "f");
    mirror.write(fh, TEXT, 0, false).unwrap();
    assert_ne!(world.tree(LegId::A), world.tree(LegId::B), "each leg has its own clock");
    sweep(&mirror);
    assert_eq!(slots(&mirror), 0);
    world.assert_equal();
}

#[test]
fn what_a_leg_misses_is_told_object_by_object() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        let (_, f) = file(&mirror, dir, "f");
        let (_, g) = file(&mirror, dir, "g");
        world.fail(leg, Call::Write, libc::EIO);
        assert_eq!(mirror.write(g, b"what", 0, false).unwrap(), 4);
        world.heal();
        let before = slots(&mirror);
        assert_eq!(mirror.write(f, b"only one leg has", 0, false).unwrap(), 16);
        assert_eq!(slots(&mirror), before + 1);
        mirror.let_go(leg);
        world.bring_back(&mirror, leg);
        world.assert_equal();
    }
}

/// While a leg is away slots are put together, and what was to outlive a cover may be cleared before it.
#[test]
fn a_cover_from_before_a_leg_was_away_covers_nothing_new() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = world.mount();
        let dir = mkdir(&mirror, Ino::ROOT, "a");
        let (_, f) = file(&mirror, dir, "f");
        world.fail(leg, Call::Write, libc::EIO);
        assert_eq!(mirror.write(f, b"what", 0, false).unwrap(), 4);
        world.heal();
        mirror.let_go(leg);
        world.bring_back(&mirror, leg);
        let before = slots(&mirror);
        assert_eq!(mirror.write(f, b"told by itself", 0, false).unwrap(), 14);
        assert_eq!(slots(&mirror), before + 1);
        // Nor what is made under it now; what is made under a new one is.
        let (_, g) = file(&mirror, dir, "g");
        assert_eq!(slots(&mirror), before + 2);
        mirror.release(g);
        sweep(&mirror);
        let (_, h) = file(&mirror, dir, "h");
        mirror.release(h);
        assert_eq!(slots(&mirror), 1, "only the directory's");
        world.unmount(mirror);
        world.assert_equal();
    }
}

#[test]
fn a_slot_that_covers_is_read_as_it_was_written() {
    let world = World::new();
    let mirror = world.mount();
    file(&mirror, mkdir(&mirror, Ino::ROOT, "a"), "f");
    let births = mirror.bitmap.born_since(LegId::A);
    assert!(births.is_some());
    world.kill(mirror);
    let mirror = world.mount();
    assert_eq!(mirror.bitmap.born_since(LegId::A), births);
    assert!(mirror.bitmap.unresynced().iter().all(|slot| slot.kinds.contains(Kinds::BORN)));
}
