//! Inode numbers that are used again.

use std::ffi::OsStr;

use super::world::{World, file};
use crate::inode::Ino;
use crate::legs::{Leg, LegId};
use crate::resync::ResyncHost;

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
    world.fail(LegId::B, crate::legs::simulated::Call::Unlink, libc::ENOSPC);
    assert!(mirror.unlink(Ino::ROOT, OsStr::new("f")).is_err());
    world.heal();
    let _ = mirror.write(fh, b"more", 0, false);
    mirror.close().unwrap();
    world.assert_equal();
}
