//! A new disk takes the place of a leg that serves.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::world::{NOBODY, Naming, World, content, file, sweep, write};
use crate::inode::Ino;
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{ByPlace, LegId, Make, RenameMode};
use crate::ops::{Mirror, SetAttr};
use crate::resync::RehearsalHost;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn dir(mirror: &Mirror<SimLeg>, at: Ino, called: &str) -> Ino {
    mirror.make(at, name(called), Make::Directory { mode: 0o755 }, NOBODY).unwrap().attr.ino
}

fn some_tree(mirror: &Mirror<SimLeg>) -> (Ino, Ino) {
    for called in ["e", "f", "g", "h"] {
        let (_, fh) = file(mirror, called, format!("{called} is old").as_bytes());
        mirror.release(fh);
    }
    let (big, fh) = file(mirror, "big", &[7; 40 << 10]);
    mirror.release(fh);
    let (a, b) = (dir(mirror, Ino::ROOT, "a"), dir(mirror, Ino::ROOT, "b"));
    let below = dir(mirror, a, "below");
    mirror.link(big, below, name("linked")).unwrap();
    mirror.make(below, name("there"), Make::Symlink { target: name("../e") }, NOBODY).unwrap();
    (a, b)
}

/// Something of every sort, in a tree of [`some_tree`].
fn change_all_sorts(mirror: &Mirror<SimLeg>, (a, b): (Ino, Ino)) {
    write(mirror, "g", b"G");
    mirror.unlink(Ino::ROOT, name("h")).unwrap();
    mirror.rename(Ino::ROOT, name("f"), b, name("moved"), RenameMode::Replace).unwrap();
    mirror.rename(a, name("below"), b, name("under"), RenameMode::Replace).unwrap();
    mirror.rename(b, name("under"), Ino::ROOT, name("e"), RenameMode::Exchange).unwrap();
    let (born, fh) = file(mirror, "born", b"new");
    mirror.release(fh);
    let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    mirror.setattr(born, &mode, None, super::world::CALLER).unwrap();
    let found = mirror.lookup(Ino::ROOT, name("big")).unwrap();
    let fh = mirror.open(found.attr.ino, libc::O_RDWR, super::world::CALLER).unwrap();
    mirror.write(fh, b"in the middle", 20 << 10, false).unwrap();
    mirror.release(fh);
}

#[test]
fn a_leg_that_serves_is_replaced_and_nothing_is_left_to_do() {
    for (leg, naming) in Naming::of_each_leg() {
        let mut world = World::new();
        world.naming = naming;
        let mirror = world.mount();
        let dirs = some_tree(&mirror);
        sweep(&mirror);
        change_all_sorts(&mirror, dirs);
        world.replace(&mirror, leg).unwrap();
        assert!(mirror.health.lost(leg).is_none());
        assert!(!mirror.bitmap.compare_all(), "leg {leg}: nothing is compared again");
        assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
        mirror.resync();
        assert!(mirror.is_equal());
        assert_eq!(content(&mirror, "g"), b"G is old");
        sweep(&mirror);
        world.assert_equal();
        write(&mirror, "g", b"on");
        sweep(&mirror);
        world.assert_equal();
        world.unmount(mirror);
        let mirror = world.mount();
        assert!(mirror.is_equal(), "unmounted clean");
        assert_eq!(content(&mirror, "g"), b"onis old");
    }
}

#[test]
fn what_is_changed_while_it_is_filled_is_on_the_new_leg() {
    // Between any two calls to the new disk.
    for (leg, naming) in Naming::of_each_leg() {
        let mut at = 0;
        loop {
            let mut world = World::new();
            world.naming = naming;
            let mirror = world.mount();
            let dirs = some_tree(&mirror);
            let changed = Arc::new(AtomicBool::new(false));
            let hook = {
                let (mirror, changed, mut calls) = (mirror.clone(), changed.clone(), 0);
                move || {
                    calls += 1;
                    // Once changes have to wait there is nobody to make them.
                    if calls == at && mirror.gate.is_open() {
                        changed.store(true, Ordering::SeqCst);
                        let working = mirror.clone();
                        std::thread::spawn(move || change_all_sorts(&working, dirs)).join().unwrap();
                    }
                }
            };
            world.replace_with(&mirror, leg, hook).unwrap();
            mirror.resync();
            assert!(mirror.is_equal());
            if changed.load(Ordering::SeqCst) {
                assert_eq!(content(&mirror, "g"), b"G is old");
            }
            sweep(&mirror);
            assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "leg {leg}, changed at call {at}");
            if at > 0 && !changed.load(Ordering::SeqCst) {
                break;
            }
            at += 1 + at / 40;
        }
        assert!(at > 40, "it was tried at {at} places only");
    }
}

#[test]
fn a_change_is_noted_when_it_was_made_and_not_before() {
    for (from, naming) in Naming::of_each_leg() {
        let mut world = World::new();
        world.naming = naming;
        let mirror = world.mount();
        some_tree(&mirror);
        let by_place = || Arc::new(ByPlace::new(mirror.leg(from).unwrap()));
        mirror.noting.begin(from, (naming == Naming::Fleeting).then(by_place)).unwrap();
        world.at_write.arm();
        let writer = {
            let mirror = mirror.clone();
            std::thread::spawn(move || write(&mirror, "g", b"G"))
        };
        world.at_write.wait_for_one();
        let noted_before = mirror.noted().lock().len();
        world.at_write.go_on();
        writer.join().unwrap();
        assert_eq!(
            (noted_before, mirror.noted().lock().len()),
            (0, 1),
            "what is copied until then is the old"
        );
        mirror.noting.end();
    }
}

#[test]
fn what_is_open_stays_usable() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = world.mount();
        let (_, nameless) = file(&mirror, "gone", b"text");
        let (_, named) = file(&mirror, "there", b"text");
        mirror.unlink(Ino::ROOT, name("gone")).unwrap();
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

#[test]
fn a_new_disk_that_fails_or_is_full_leaves_both_legs_as_they_were() {
    for leg in LegId::ALL {
        for (call, number) in [(Call::Write, libc::ENOSPC), (Call::Make, libc::EIO), (Call::Sync, libc::EIO)]
        {
            let mut world = World::new();
            let mirror = world.mount();
            some_tree(&mirror);
            world.fail_new(call, number);
            let failed = world.replace(&mirror, leg).unwrap_err();
            let expected = std::io::Error::from_raw_os_error(number).to_string();
            assert!(failed.contains(&expected), "{failed}");
            assert!(mirror.is_equal() && LegId::ALL.iter().all(|&leg| mirror.health.lost(leg).is_none()));
            write(&mirror, "g", b"G");
            sweep(&mirror);
            world.assert_equal();
            world.unmount(mirror);
            assert!(world.mount().is_equal(), "unmounted clean");
        }
    }
}

#[test]
fn the_leg_that_is_replaced_may_fail_meanwhile_and_the_other_one_may_not() {
    for (leg, fails) in LegId::ALL.into_iter().flat_map(|leg| LegId::ALL.map(|fails| (leg, fails))) {
        let mut world = World::new();
        let mirror = world.mount();
        some_tree(&mirror);
        let hook = {
            let (mirror, mut calls) = (mirror.clone(), 0);
            move || {
                calls += 1;
                if calls == 12 {
                    let mirror = mirror.clone();
                    std::thread::spawn(move || {
                        mirror.take_out(fails).unwrap();
                        write(&mirror, "g", b"G");
                    })
                    .join()
                    .unwrap();
                }
            }
        };
        let replaced = world.replace_with(&mirror, leg, hook);
        if leg == fails {
            replaced.unwrap();
            mirror.resync();
            assert!(mirror.is_equal() && !mirror.health.is_degraded());
        } else {
            assert!(replaced.unwrap_err().contains("out of service"));
            assert!(mirror.health.lost(fails).is_some() && mirror.health.lost(leg).is_none());
            world.bring_back(&mirror, fails);
        }
        assert_eq!(content(&mirror, "g"), b"G is old");
        sweep(&mirror);
        world.assert_equal();
    }
}

#[test]
fn an_unmount_ends_it_and_leaves_both_legs_as_they_were() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = world.mount();
        some_tree(&mirror);
        let hook = {
            let (mirror, mut calls) = (mirror.clone(), 0);
            move || {
                calls += 1;
                if calls == 12 {
                    let mirror = mirror.clone();
                    std::thread::spawn(move || mirror.stop()).join().unwrap();
                }
            }
        };
        let failed = world.replace_with(&mirror, leg, hook).unwrap_err();
        assert!(failed.contains("unmounted"), "{failed}");
        world.unmount(mirror);
        world.assert_equal();
        assert!(world.mount().is_equal(), "unmounted clean");
    }
}

#[test]
fn it_goes_on_with_what_was_copied_the_last_time() {
    for leg in LegId::ALL {
        let mut world = World::new();
        let mirror = world.mount();
        let dirs = some_tree(&mirror);
        world.fail_new(Call::Sync, libc::EIO);
        world.replace(&mirror, leg).unwrap_err();
        world.heal();
        change_all_sorts(&mirror, dirs);
        world.replace_again(&mirror, leg, || {}).unwrap();
        mirror.resync();
        sweep(&mirror);
        world.assert_equal();
    }
}

#[test]
fn a_crash_or_a_power_cut_right_after_finds_both_legs_equal() {
    for (leg, seed) in LegId::ALL.into_iter().flat_map(|leg| (0..4).map(move |seed| (leg, seed))) {
        let mut world = World::new();
        let mirror = world.mount();
        let dirs = some_tree(&mirror);
        change_all_sorts(&mirror, dirs);
        world.replace(&mirror, leg).unwrap();
        if seed == 0 {
            world.kill(mirror);
        } else {
            world.cut_power(mirror, seed);
        }
        let mirror = world.mount();
        assert_eq!(mirror.source(), leg.other());
        mirror.resync();
        assert_eq!(content(&mirror, "g"), b"G is old");
        sweep(&mirror);
        world.assert_equal();
    }
}

/// Between the look at one name of a file and the next: they are to be names of one file on the new disk, too.
#[test]
fn a_name_that_is_given_while_a_file_is_about_to_be_built_is_one_more_of_it() {
    for (leg, naming) in Naming::of_each_leg() {
        for at in 0.. {
            let mut world = World::new();
            world.naming = naming;
            let mirror = world.mount();
            // Both are looked through before what is in the first one is built.
            let [first, second] = ["first", "second"].map(|called| dir(&mirror, Ino::ROOT, called));
            let [a, _] = [(first, "a"), (second, "b")].map(|(at, called)| {
                let (found, fh) = mirror.create(at, name(called), 0o644, NOBODY, libc::O_RDWR).unwrap();
                mirror.release(fh);
                found.attr.ino
            });
            sweep(&mirror);
            let calls = Arc::new(AtomicUsize::new(0));
            let hook = {
                let (mirror, calls) = (mirror.clone(), calls.clone());
                move || {
                    if mirror.gate.is_open() && calls.fetch_add(1, Ordering::SeqCst) == at {
                        let mirror = mirror.clone();
                        let link = move || mirror.link(a, second, name("other")).unwrap();
                        std::thread::spawn(link).join().unwrap();
                    }
                }
            };
            world.replace_with(&mirror, leg, hook).unwrap();
            // From here on it would wait for itself.
            let calls = calls.swap(usize::MAX / 2, Ordering::SeqCst);
            mirror.resync();
            sweep(&mirror);
            assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "leg {leg}, {naming:?}, at call {at}");
            if calls <= at {
                break;
            }
        }
    }
}

/// Its answer comes when another disk has the old one's place: what it found is not there.
#[test]
fn what_a_reader_finds_late_on_the_old_leg_is_not_taken_for_the_new_ones() {
    for naming in [Naming::Handles, Naming::Numbers] {
        for looks in 0..3 {
            let mut world = World::new();
            world.naming = naming;
            let mirror = world.mount();
            let at = dir(&mirror, Ino::ROOT, "dir");
            let (_, fh) = mirror.create(at, name("file"), 0o644, NOBODY, libc::O_RDWR).unwrap();
            mirror.release(fh);
            some_tree(&mirror);
            sweep(&mirror);
            world.unmount(mirror);
            let mirror = world.mount();
            let old = mirror.source();
            let at = mirror.lookup(Ino::ROOT, name("dir")).unwrap().attr.ino;
            let at_lookup = world.at_lookup.clone();
            std::thread::scope(|scope| {
                at_lookup.arm();
                let reader = scope.spawn(|| match looks {
                    0 => drop(mirror.lookup(at, name("none"))),
                    1 => drop(mirror.lookup(at, name("file"))),
                    _ => drop(mirror.readdir(at, 0, &mut |_| true)),
                });
                at_lookup.wait_for_one();
                world.replace(&mirror, old).unwrap();
                at_lookup.go_on();
                reader.join().unwrap();
            });
            mirror.resync();
            let (found, fh) = mirror.create(at, name("after"), 0o644, NOBODY, libc::O_RDWR).unwrap();
            assert_eq!(mirror.write(fh, b"after", 0, false).unwrap(), 5);
            mirror.release(fh);
            mirror.rename(at, name("file"), at, name("renamed"), RenameMode::NoReplace).unwrap();
            mirror.link(found.attr.ino, Ino::ROOT, name("linked")).unwrap();
            sweep(&mirror);
            world.assert_equal();
        }
    }
}
