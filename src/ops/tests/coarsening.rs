//! While a leg is away, a directory's slot stands for the files in it.

use std::ffi::OsStr;
use std::sync::Arc;

use super::world::{CALLER, NOBODY, Naming, World, sweep};
use crate::inode::Ino;
use crate::legs::simulated::SimLeg;
use crate::legs::{LegId, Make, RenameMode};
use crate::ops::{Mirror, MirrorState, SetAttr, SetTime};

fn dir(mirror: &Mirror<SimLeg>, name: &str) -> Ino {
    mirror.lookup(Ino::ROOT, OsStr::new(name)).unwrap().attr.ino
}

fn make_dir(mirror: &Mirror<SimLeg>, name: &str) {
    mirror.make(Ino::ROOT, OsStr::new(name), Make::Directory { mode: 0o755 }, NOBODY).unwrap();
}

fn create(mirror: &Mirror<SimLeg>, at: &str, name: &str, content: &[u8]) {
    let at = dir(mirror, at);
    let (found, fh) = mirror.create(at, OsStr::new(name), 0o644, NOBODY, libc::O_RDWR).unwrap();
    assert_eq!(mirror.write(fh, content, 0, false).unwrap(), content.len());
    mirror.release(fh);
    mirror.forget(found.attr.ino, 1);
}

/// Overwrites the start, and sets the modification time back: nothing but its content tells of it.
fn overwrite(mirror: &Mirror<SimLeg>, at: &str, name: &str, content: &[u8]) {
    let found = mirror.lookup(dir(mirror, at), OsStr::new(name)).unwrap();
    let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
    assert_eq!(mirror.write(fh, content, 0, false).unwrap(), content.len());
    mirror.release(fh);
    let mtime = Some(SetTime::At(found.attr.stat.mtime));
    mirror.setattr(found.attr.ino, &SetAttr { mtime, ..SetAttr::default() }, None, CALLER).unwrap();
    mirror.forget(found.attr.ino, 1);
}

fn names() -> Vec<String> {
    (0..80).map(|i| format!("f{i}")).collect()
}

/// Directories `d`, full of files, and `e`, with two; clean.
fn prepared(world: &World) -> Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    ["d", "e"].into_iter().for_each(|name| make_dir(&mirror, name));
    names().iter().for_each(|name| create(&mirror, "d", name, format!("clean {name}").as_bytes()));
    ["one", "two"].into_iter().for_each(|name| create(&mirror, "e", name, b"clean"));
    // More than is copied while names are made equal.
    ["large", "moves"].into_iter().for_each(|name| create(&mirror, "d", name, &vec![b'-'; 20_000]));
    sweep(&mirror);
    mirror
}

fn covers_d(mirror: &Mirror<SimLeg>) {
    let stats = mirror.bitmap_stats();
    assert_eq!((stats.covered_directories, stats.compare_all), (1, false), "{stats:?}");
}

/// What can happen to what lies in a directory whose slot stands for it.
fn change(mirror: &Mirror<SimLeg>) {
    let (d, e) = (dir(mirror, "d"), dir(mirror, "e"));
    let name = OsStr::new;
    for moving in ["moves", "f1"] {
        mirror.rename(d, name(moving), e, name(moving), RenameMode::NoReplace).unwrap();
    }
    mirror.rename(d, name("f2"), e, name("one"), RenameMode::Exchange).unwrap();
    mirror.rename(d, name("f3"), d, name("f4"), RenameMode::Replace).unwrap();
    let linked = mirror.lookup(d, name("f5")).unwrap().attr.ino;
    mirror.link(linked, e, name("link")).unwrap();
    mirror.unlink(d, name("f5")).unwrap();
    mirror.unlink(d, name("f6")).unwrap();
    create(mirror, "d", "f6", b"another");
    create(mirror, "d", "f3", b"another");
    mirror.rename(Ino::ROOT, name("d"), e, name("d"), RenameMode::NoReplace).unwrap();
    mirror.rename(e, name("d"), Ino::ROOT, name("d"), RenameMode::NoReplace).unwrap();
}

#[test]
fn what_a_directory_stood_for_is_made_equal_wherever_it_went() {
    for naming in [Naming::Handles, Naming::Numbers] {
        for (remount, crash) in [(false, false), (true, false), (true, true)] {
            let mut world = World::new();
            world.naming = naming;
            let mut mirror = prepared(&world);
            world.unmount(mirror);
            mirror = world.mount_those(&[LegId::A]);
            overwrite(&mirror, "d", "large", b"alone");
            overwrite(&mirror, "d", "moves", b"alone");
            names().iter().for_each(|name| overwrite(&mirror, "d", name, b"alone"));
            overwrite(&mirror, "e", "two", b"alone");
            covers_d(&mirror);
            if remount {
                if crash {
                    world.kill(mirror)
                } else {
                    world.unmount(mirror)
                }
                mirror = world.mount_those(&[LegId::A]);
                covers_d(&mirror);
            }
            change(&mirror);
            names()[10..].iter().for_each(|name| overwrite(&mirror, "d", name, b"again"));
            covers_d(&mirror);
            world.bring_back(&mirror, LegId::B);
            assert_eq!(mirror.state(), MirrorState::Active, "{:?}", mirror.reason());
            assert!(!mirror.bitmap.compare_all());
            sweep(&mirror);
            world.assert_equal();
            assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
        }
    }
}

#[test]
fn a_leg_that_fails_while_mounted_misses_a_directory_and_not_everything() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = prepared(&world);
        mirror.take_out(leg).unwrap();
        names().iter().for_each(|name| overwrite(&mirror, "d", name, b"alone"));
        (0..80).for_each(|i| create(&mirror, "d", &format!("new{i}"), b"born alone"));
        covers_d(&mirror);
        change(&mirror);
        world.bring_back(&mirror, leg);
        assert_eq!(mirror.state(), MirrorState::Active, "{leg}: {:?}", mirror.reason());
        assert!(!mirror.bitmap.compare_all());
        sweep(&mirror);
        world.assert_equal();
    }
}
