//! One leg serves, and the other one comes back.

use std::ffi::OsStr;

use super::world::{NOBODY, Naming, World, content, file, sweep, write};
use crate::inode::Ino;
use crate::legs::simulated::Call;
use crate::legs::{LegId, Make, RenameMode};

#[test]
fn a_leg_without_room_for_what_it_missed_can_be_brought_back_when_there_is_room() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = world.mount();
        world.fail(leg, Call::Make, libc::EIO);
        let made = mirror.make(Ino::ROOT, OsStr::new("d"), Make::Directory { mode: 0o755 }, NOBODY).unwrap();
        world.heal();
        file(&mirror, "large", b"text");
        world.fail(leg, Call::Make, libc::ENOSPC);
        world.bring_back(&mirror, leg);
        assert!(mirror.health.lost(leg).is_some(), "it has no room");
        // The user goes on, and makes room.
        mirror.unlink(Ino::ROOT, OsStr::new("large")).unwrap();
        mirror.make(made.attr.ino, OsStr::new("in d"), Make::File { mode: 0o600 }, NOBODY).unwrap();
        world.heal();
        world.bring_back(&mirror, leg);
        assert!(mirror.health.lost(leg).is_none());
        sweep(&mirror);
        world.assert_equal();
        world.unmount(mirror);
        world.assert_equal();
    }
}

/// What was marked without handles is known by another name when the next mount has them: what it says of
/// the leg that is away counts all the same.
#[test]
fn what_moved_while_a_leg_was_away_is_found_there_though_the_privilege_has_changed_since() {
    for [first, second] in [[Naming::Numbers, Naming::Handles], [Naming::Handles, Naming::Numbers]] {
        let mut world = World::new();
        let mirror = world.mount();
        for name in ["f", "g"] {
            let (_, fh) = file(&mirror, name, format!("{name} {}", "old ".repeat(3000)).as_bytes());
            mirror.release(fh);
        }
        sweep(&mirror);
        world.unmount(mirror);
        world.naming = first;
        let mirror = world.mount_those(&[LegId::A]);
        let (f, g) = (OsStr::new("f"), OsStr::new("g"));
        mirror.rename(Ino::ROOT, f, Ino::ROOT, g, RenameMode::Exchange).unwrap();
        world.kill(mirror);
        world.naming = second;
        let mirror = world.mount_those(&[LegId::A]);
        write(&mirror, "g", b"new");
        world.bring_back(&mirror, LegId::B);
        assert!(content(&mirror, "g").starts_with(b"newld "));
        sweep(&mirror);
        world.assert_equal();
    }
}

/// Nothing marks the new directory itself, for it was only made.
#[test]
fn a_directory_that_took_the_name_of_another_while_a_leg_was_away_holds_nothing_of_that() {
    for (leg, known) in LegId::ALL.into_iter().flat_map(|leg| [(leg, false), (leg, true)]) {
        let world = World::new();
        let mirror = world.mount();
        let mode = Make::Directory { mode: 0o755 };
        let old = mirror.make(Ino::ROOT, OsStr::new("d"), mode, NOBODY).unwrap().attr.ino;
        mirror.make(old, OsStr::new("f"), Make::File { mode: 0o600 }, NOBODY).unwrap();
        sweep(&mirror);
        let mirror = if known {
            mirror.take_out(leg).unwrap();
            mirror.let_go(leg);
            mirror
        } else {
            world.unmount(mirror);
            world.mount_those(&[leg.other()])
        };
        let old = mirror.lookup(Ino::ROOT, OsStr::new("d")).unwrap().attr.ino;
        mirror.unlink(old, OsStr::new("f")).unwrap();
        mirror.rmdir(Ino::ROOT, OsStr::new("d")).unwrap();
        mirror.make(Ino::ROOT, OsStr::new("d"), mode, NOBODY).unwrap();
        world.bring_back(&mirror, leg);
        sweep(&mirror);
        world.assert_equal();
    }
}

#[test]
fn a_leg_that_cannot_tell_of_its_room_does_not_hide_that_of_the_other() {
    let world = World::new();
    let mirror = world.mount();
    let room = mirror.statfs().unwrap();
    world.fail(LegId::B, Call::Stat, libc::EIO);
    assert_eq!(mirror.statfs().unwrap(), room);
    world.heal();
    world.fail(LegId::A, Call::Stat, libc::EIO);
    assert_eq!(mirror.statfs().unwrap(), room, "the other one is the source now");
    assert!(mirror.health.lost(LegId::A).is_some());
}
