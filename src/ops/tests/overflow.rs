//! More is dirty than the bitmap has slots for.

use std::ffi::OsStr;

use super::world::{CALLER, NOBODY, World, file, sweep, write};
use crate::inode::Ino;
use crate::legs::simulated::SimLeg;
use crate::legs::{LegId, Make, RenameMode};
use crate::ops::{Mirror, MirrorState, SetAttr, SetTime};
use crate::resync::{Outcome, Resync, Scope};

/// Names of more files than there are slots.
fn names() -> Vec<String> {
    (0..80).map(|i| format!("f{i}")).collect()
}

/// All of these files, clean.
fn with_files(world: &World) -> std::sync::Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    for name in names() {
        let (ino, fh) = file(&mirror, &name, b"clean");
        mirror.release(fh);
        mirror.forget(ino, 1);
    }
    sweep(&mirror);
    assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
    mirror
}

#[test]
fn a_third_crash_in_a_row_is_recovered_from_by_comparing_everything() {
    let world = World::new();
    let mirror = with_files(&world);
    names()[..48].iter().for_each(|name| write(&mirror, name, b"dirty"));
    world.kill(mirror);
    for part in [48..56, 56..64] {
        let mirror = world.mount();
        let legs = mirror.both_legs().unwrap();
        let resync = Resync::new(&legs, &mirror.bitmap, LegId::A, Scope::Dirty, &*mirror, &mirror.progress);
        assert_eq!(resync.namespace_and_metadata().unwrap(), Outcome::Done);
        mirror.gate.open();
        names()[part].iter().for_each(|name| write(&mirror, name, b"dirty"));
        drop(resync);
        world.kill(mirror);
    }
    let mirror = world.mount();
    assert!(mirror.bitmap.compare_all());
    mirror.resync();
    assert_eq!(mirror.state(), MirrorState::Active, "{:?}", mirror.reason());
    sweep(&mirror);
    world.assert_equal();
}

#[test]
fn a_leg_that_missed_more_than_fits_the_bitmap_is_brought_back_by_comparing_everything() {
    for (before, alone) in [(0, 80), (48, 70), (48, 60)] {
        let world = World::new();
        let mirror = with_files(&world);
        names()[..before].iter().for_each(|name| write(&mirror, name, b"dirty"));
        world.kill(mirror);
        let mirror = world.mount_those(&[LegId::A]);
        names()[..alone].iter().for_each(|name| write(&mirror, name, b"alone"));
        world.bring_back(&mirror, LegId::B);
        assert_eq!(mirror.state(), MirrorState::Active, "{before} dirty, then {alone}");
        sweep(&mirror);
        world.assert_equal();
        names().iter().for_each(|name| write(&mirror, name, b"after"));
        sweep(&mirror);
        world.assert_equal();
    }
}

/// What is in a directory is compared where the directory has come to.
#[test]
fn what_lies_in_a_directory_that_was_moved_is_compared_when_everything_is() {
    for deeper in [false, true] {
        let world = World::new();
        let mirror = world.mount();
        let make = |at: Ino, name: &str| {
            mirror.make(at, OsStr::new(name), Make::Directory { mode: 0o755 }, NOBODY).unwrap().attr.ino
        };
        let top = make(Ino::ROOT, "before");
        let dir = if deeper { make(top, "deeper") } else { top };
        let (found, fh) = mirror.create(dir, OsStr::new("file"), 0o644, NOBODY, libc::O_RDWR).unwrap();
        mirror.write(fh, b"clean", 0, false).unwrap();
        sweep(&mirror);
        mirror.take_out(LegId::B).unwrap();
        mirror.bitmap.limit_while_away(2);
        let (from, to) = (OsStr::new("before"), OsStr::new("after"));
        mirror.rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::NoReplace).unwrap();
        mirror.write(fh, b"alone", 0, false).unwrap();
        let mtime = Some(SetTime::At(found.attr.stat.mtime));
        mirror.setattr(found.attr.ino, &SetAttr { mtime, ..SetAttr::default() }, None, CALLER).unwrap();
        assert!(mirror.bitmap.compare_all());
        mirror.release(fh);
        world.bring_back(&mirror, LegId::B);
        sweep(&mirror);
        world.assert_equal();
    }
}

/// One name of it lies in a directory that was moved, another one in a directory that is looked at before that.
#[test]
fn a_file_with_a_name_in_a_directory_that_was_moved_stays_one_file() {
    for slots in 1..8 {
        let world = World::new();
        let mirror = world.mount();
        let make = |name: &str| {
            mirror
                .make(Ino::ROOT, OsStr::new(name), Make::Directory { mode: 0o755 }, NOBODY)
                .unwrap()
                .attr
                .ino
        };
        let [moved, other] = ["before", "other"].map(make);
        let (found, fh) = mirror.create(moved, OsStr::new("file"), 0o644, NOBODY, libc::O_RDWR).unwrap();
        mirror.write(fh, b"clean", 0, false).unwrap();
        sweep(&mirror);
        mirror.take_out(LegId::B).unwrap();
        mirror.bitmap.limit_while_away(slots);
        let (from, to) = (OsStr::new("before"), OsStr::new("after"));
        mirror.rename(Ino::ROOT, from, Ino::ROOT, to, RenameMode::NoReplace).unwrap();
        for name in names() {
            let (ino, fh) = file(&mirror, &name, b"alone");
            mirror.release(fh);
            mirror.forget(ino, 1);
        }
        mirror.link(found.attr.ino, other, OsStr::new("second")).unwrap();
        mirror.write(fh, b"alone", 0, false).unwrap();
        mirror.release(fh);
        world.bring_back(&mirror, LegId::B);
        sweep(&mirror);
        world.assert_equal();
    }
}
