//! What tells objects apart: inode numbers that are used again, or mean two things; identities of two forms.

use std::ffi::OsStr;

use super::world::{CALLER, Naming, World, file, sweep, write};
use crate::inode::Ino;
use crate::legs::simulated::Call;
use crate::legs::{Leg, LegId, RenameMode};
use crate::ops::SetAttr;
use crate::resync::ResyncHost;
use crate::sim::scheduler;

#[test]
fn what_is_gone_and_still_to_be_resynced_is_not_put_in_place_of_who_has_its_number() {
    let world = World::new();
    let mirror = world.mount();
    let (old, fh) = file(&mirror, "old", b"old");
    let leg = mirror.leg(LegId::A).unwrap();
    let (identity, _) = leg.lookup(&leg.root(), OsStr::new("old")).unwrap();
    mirror.release(fh);
    mirror.unlink(Ino::ROOT, OsStr::new("old")).unwrap();
    let (new, fh) = file(&mirror, "new", b"new");
    assert_eq!(new, old, "the number is used again");
    let locked = mirror.table.get(new).unwrap();

    mirror.with_object(&identity, &mut || Ok(())).unwrap();

    mirror.getattr(new, None).unwrap();
    assert!(std::sync::Arc::ptr_eq(&mirror.table.get(new).unwrap(), &locked), "two locks for one file");
    assert_eq!(mirror.write(fh, b"more", 0, false).unwrap(), 4);
    mirror.close().unwrap();
    world.assert_equal();
}

#[test]
fn an_open_file_without_a_name_stays_usable_while_it_is_resynced() {
    let world = World::new();
    let mirror = world.mount();
    let (ino, fh) = file(&mirror, "f", b"text");
    let leg = mirror.leg(LegId::A).unwrap();
    let (identity, _) = leg.lookup(&leg.root(), OsStr::new("f")).unwrap();
    mirror.unlink(Ino::ROOT, OsStr::new("f")).unwrap();

    mirror.with_object(&identity, &mut || Ok(())).unwrap();

    let shorter = crate::ops::SetAttr { size: Some(1), ..Default::default() };
    let caller = crate::ops::Caller { uid: 0, gid: 0, pid: 1 };
    assert_eq!(mirror.setattr(ino, &shorter, Some(fh), caller).unwrap().stat.size, 1);
}

#[test]
fn a_file_whose_removal_one_leg_refused_is_still_written_on_both() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = file(&mirror, "f", b"text");
    world.fail(LegId::B, Call::Unlink, libc::ENOSPC);
    assert!(mirror.unlink(Ino::ROOT, OsStr::new("f")).is_err());
    world.heal();
    let _ = mirror.write(fh, b"more", 0, false);
    mirror.close().unwrap();
    world.assert_equal();
}

/// A mount with the privilege to use file handles after one without, or the other way round.
#[test]
fn slots_made_without_handles_are_resynced_with_them_and_the_other_way_round() {
    for [first, second] in [[Naming::Numbers, Naming::Handles], [Naming::Handles, Naming::Numbers]] {
        let mut world = World::new();
        world.naming = first;
        let mirror = world.mount();
        let (_, fh) = file(&mirror, "f", b"an old text");
        mirror.close().unwrap();
        world.fail(LegId::B, Call::Write, libc::EIO);
        assert_eq!(mirror.write(fh, b"the new one", 0, false).unwrap(), 11);
        world.heal();
        world.kill(mirror);
        world.naming = second;
        let mirror = world.mount();
        // Somebody looks at the file before its data is equal.
        mirror.lookup(Ino::ROOT, OsStr::new("f")).unwrap();
        mirror.resync();
        sweep(&mirror);
        world.unmount(mirror);
        world.assert_equal();
    }
}

/// The mount shows the numbers of A, and B is the source now: a number of B that the mount has not seen may
/// be the one that it shows for something else.
#[test]
fn the_number_that_the_other_leg_has_for_a_file_is_not_taken_for_who_is_shown_by_it() {
    let world = World::new();
    let mirror = world.mount();
    let names: Vec<String> = (0..8).map(|i| format!("f{i}")).collect();
    let mut shown = Vec::new();
    for name in &names {
        let (ino, fh) = file(&mirror, name, b"an old text");
        mirror.release(fh);
        shown.push(ino);
    }
    sweep(&mirror);
    mirror.take_out(LegId::A).unwrap();
    assert_eq!(mirror.source(), LegId::B);
    let b = mirror.leg(LegId::B).unwrap();
    let number = b.lookup(&b.root(), OsStr::new("f0")).unwrap().1.ino;
    assert!(shown.iter().any(|ino| ino.0 == number), "{number} is shown for nothing");
    write(&mirror, "f0", b"the new one");
    mirror.forget(shown[0], 1);
    world.bring_back(&mirror, LegId::A);
    world.assert_equal();
}

#[test]
fn a_full_readdirplus_gives_back_the_lookup_it_counted() {
    let world = World::new();
    let mirror = world.mount();
    let (a, _) = file(&mirror, "a", b"A");
    let (b, _) = file(&mirror, "b", b"B");
    let mut second = 0;
    mirror
        .readdirplus(Ino::ROOT, 0, &mut |item, _| {
            second = if item.name == ".." { item.next_offset } else { second };
            true
        })
        .unwrap();
    let (a_name, b_name) = (OsStr::new("a"), OsStr::new("b"));
    mirror.rename(Ino::ROOT, a_name, Ino::ROOT, b_name, RenameMode::Exchange).unwrap();
    // The kernel's buffer is full at the first name.
    mirror.readdirplus(Ino::ROOT, second, &mut |_, _| true).unwrap();
    // The kernel has one lookup of each, from create.
    mirror.getattr(a, None).unwrap();
    mirror.getattr(b, None).unwrap();
}

#[test]
fn whoever_could_open_a_file_can_write_to_it_though_its_last_name_goes_meanwhile() {
    let mut opened = 0;
    for seed in 0..200 {
        let could = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = could.clone();
        let report = scheduler::run(scheduler::Plan::calm(seed), move || {
            let world = World::new();
            let mirror = world.mount();
            let (ino, fh) = file(&mirror, "f", b"text");
            mirror.release(fh);
            let opening = mirror.clone();
            let opener = scheduler::spawn(move || {
                (0..scheduler::choose(60)).for_each(|_| scheduler::pause());
                let Ok(fh) = opening.open(ino, libc::O_RDWR, CALLER) else { return };
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
                assert_eq!(opening.write(fh, b"more", 0, false).unwrap(), 4);
            });
            mirror.unlink(Ino::ROOT, OsStr::new("f")).unwrap();
            opener.join();
            assert!(!mirror.health.is_degraded());
        });
        assert_eq!(report.end, scheduler::End::Finished, "seed {seed}");
        opened += u32::from(could.load(std::sync::atomic::Ordering::Relaxed));
    }
    assert!((20..180).contains(&opened), "{opened} of 200 could");
}

/// The kernel knows it by the number that it had, and does not look it up again.
#[test]
fn what_a_leg_has_numbered_anew_is_still_one_object() {
    for leg in LegId::ALL {
        let mut world = World::new();
        world.naming = Naming::Fleeting;
        let mirror = world.mount();
        let (ino, fh) = file(&mirror, "f", b"text");
        mirror.release(fh);
        world.number_anew(leg);
        let fh = mirror.open(ino, libc::O_RDWR, CALLER).unwrap();
        let (f, g) = (OsStr::new("f"), OsStr::new("g"));
        mirror.rename(Ino::ROOT, f, Ino::ROOT, g, RenameMode::Replace).unwrap();
        let shrink = SetAttr { size: Some(2), ..SetAttr::default() };
        mirror.setattr(ino, &shrink, None, CALLER).unwrap();
        assert_eq!(mirror.lookup(Ino::ROOT, g).unwrap().attr.ino, ino);
        mirror.release(fh);
        sweep(&mirror);
        world.assert_equal();
    }
}
