//! One leg refuses or fails where the other does not.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::world::{CALLER, NOBODY, World, content, file, sweep};
use crate::bitmap::{CopyId, Host, IdleSlot};
use crate::inode::Ino;
use crate::legs::simulated::{Call, SimLeg};
use crate::legs::{Identity, LegId, Make, RenameMode};
use crate::ops::Mirror;
use crate::resync::{Limits, Outcome, Resync, ResyncHost, Scope};

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn what_could_not_be_repaired_stays_dirty_until_the_next_mount() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = file(&mirror, "f", b"before");
    sweep(&mirror);
    // B has no room for the write, and A cannot be brought back.
    world.fail(LegId::B, Call::Write, libc::ENOSPC);
    world.fail(LegId::A, Call::Truncate, libc::EIO);
    let _ = mirror.write(fh, b"longer than before", 0, false);
    world.heal();
    sweep(&mirror);
    mirror.stop();
    mirror.close().unwrap();
    world.kill(mirror);
    let mirror = world.mount();
    mirror.resync();
    world.assert_equal();
}

/// A mirror of which B has missed writes to `f` and is being brought up to date; data is still to
/// follow.
fn half_recovered(world: &World) -> std::sync::Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    let (_, fh) = file(&mirror, "f", b"an old text");
    mirror.close().unwrap();
    world.fail(LegId::B, Call::Write, libc::EIO);
    assert_eq!(mirror.write(fh, b"the new one", 0, false).unwrap(), 11);
    world.heal();
    world.kill(mirror);
    world.mount()
}

/// Resyncs, doing `meanwhile` when names and metadata are equal and data is not.
fn resync(mirror: &Mirror<SimLeg>, meanwhile: impl FnOnce()) {
    let legs = mirror.both_legs().unwrap();
    let resync = Resync::new(&legs, &mirror.bitmap, LegId::A, Scope::Dirty, mirror, &mirror.progress);
    assert_eq!(resync.namespace_and_metadata().unwrap(), Outcome::Done);
    mirror.gate.open();
    meanwhile();
    assert_eq!(resync.data().unwrap(), Outcome::Done);
}

#[test]
fn a_leg_without_its_data_is_never_copied_from_when_it_refuses_a_write() {
    let world = World::new();
    let mirror = half_recovered(&world);
    resync(&mirror, || {
        let found = mirror.lookup(Ino::ROOT, OsStr::new("f")).unwrap();
        let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
        world.fail(LegId::B, Call::Fallocate, libc::ENOSPC);
        let _ = mirror.fallocate(fh, 0, 0, 11, false);
        world.heal();
    });
    assert_eq!(content(&mirror, "f"), b"the new one");
    mirror.stop();
    mirror.close().unwrap();
    world.kill(mirror);
    let mirror = world.mount();
    mirror.resync();
    assert_eq!(content(&mirror, "f"), b"the new one");
    world.assert_equal();
}

#[test]
fn a_leg_without_its_data_is_never_copied_from_when_it_refuses_a_removal() {
    let world = World::new();
    let mirror = half_recovered(&world);
    resync(&mirror, || {
        world.fail(LegId::B, Call::Unlink, libc::EPERM);
        let removed = mirror.unlink(Ino::ROOT, OsStr::new("f"));
        world.heal();
        if removed.is_err() {
            assert_eq!(content(&mirror, "f"), b"the new one");
        }
    });
    mirror.stop();
    mirror.close().unwrap();
    world.kill(mirror);
    let mirror = world.mount();
    mirror.resync();
    if mirror.lookup(Ino::ROOT, OsStr::new("f")).is_ok() {
        assert_eq!(content(&mirror, "f"), b"the new one");
    }
    world.assert_equal();
}

#[test]
fn what_was_removed_before_it_was_equal_is_copied_from_the_source() {
    let world = World::new();
    let mirror = half_recovered(&world);
    let found = mirror.lookup(Ino::ROOT, OsStr::new("f")).unwrap();
    let from = mirror.open(found.attr.ino, libc::O_RDONLY, CALLER).unwrap();
    resync(&mirror, || mirror.unlink(Ino::ROOT, OsStr::new("f")).unwrap());
    mirror.unequal.store(false, Ordering::Release);
    let (_, to) = file(&mirror, "copy", b"");
    assert_eq!(mirror.copy_range((from, 0), (to, 0), 11, false).unwrap(), 11);
    sweep(&mirror);
    assert_eq!(content(&mirror, "copy"), b"the new one");
    world.assert_equal();
}

#[test]
fn a_full_leg_is_no_reason_to_stop_while_data_is_pending() {
    let world = World::new();
    let mirror = half_recovered(&world);
    resync(&mirror, || {
        world.fail(LegId::B, Call::Make, libc::ENOSPC);
        let made = mirror.make(Ino::ROOT, OsStr::new("new"), Make::Directory { mode: 0o755 }, NOBODY);
        assert_eq!(errno(made), Some(libc::ENOSPC));
        world.heal();
        mirror.make(Ino::ROOT, OsStr::new("new"), Make::Directory { mode: 0o755 }, NOBODY).unwrap();
    });
    sweep(&mirror);
    world.assert_equal();
}

#[test]
fn a_leg_that_cannot_set_the_times_of_a_new_object_has_failed() {
    let world = World::new();
    let mirror = world.mount();
    world.fail(LegId::B, Call::Attributes, libc::EIO);
    file(&mirror, "f", b"");
    world.heal();
    assert!(mirror.health.lost(LegId::B).is_some(), "its times differ, and nothing else will tell");
}

/// `m` and `t`, durable and clean.
fn two_files(mirror: &Mirror<SimLeg>) {
    for (name, text) in [("m", b"M"), ("t", b"T")] {
        let (_, fh) = file(mirror, name, text);
        mirror.fsync(fh, false).unwrap();
        mirror.release(fh);
    }
    mirror.fsyncdir(Ino::ROOT).unwrap();
    sweep(mirror);
}

fn rename_over(mirror: &Mirror<SimLeg>) -> std::io::Result<()> {
    mirror.rename(Ino::ROOT, OsStr::new("m"), Ino::ROOT, OsStr::new("t"), RenameMode::Replace)
}

/// Whichever leg refuses, and whatever else then fails on either, as by a kill at that point.
#[test]
fn a_refused_rename_over_a_file_never_loses_that_file() {
    let calls = [Call::Make, Call::Truncate, Call::Write, Call::Attributes, Call::Sync, Call::Unlink];
    for (refusing, failing) in LegId::ALL.into_iter().flat_map(|a| LegId::ALL.map(|b| (a, b))) {
        for (call, number) in calls.iter().flat_map(|call| [(*call, libc::EIO), (*call, libc::ENOSPC)]) {
            let world = World::new();
            let mirror = world.mount();
            two_files(&mirror);
            world.fail(refusing, Call::Rename, libc::ENOSPC);
            world.fail(failing, call, number);
            let _ = rename_over(&mirror);
            world.heal();
            world.kill(mirror);
            let mirror = world.mount();
            mirror.resync();
            let now = content(&mirror, "t");
            assert!(now == b"T" || now == b"M", "{refusing} refuses, then {call:?} on {failing}");
            sweep(&mirror);
            world.assert_equal();
        }
    }
}

#[test]
fn a_setxattr_refused_while_data_is_resynced_leaves_the_source_as_it_was() {
    let world = World::new();
    let mirror = half_recovered(&world);
    let before = mirror.lookup(Ino::ROOT, OsStr::new("f")).unwrap().attr;
    resync(&mirror, || {
        world.fail(LegId::B, Call::Xattr, libc::ENOSPC);
        let set = mirror.setxattr(before.ino, OsStr::new("user.x"), b"y", 0, |_| true);
        assert_eq!(errno(set), Some(libc::ENOSPC));
        world.heal();
    });
    let after = mirror.getattr(before.ino, None).unwrap();
    assert_eq!(after.stat.mtime, before.stat.mtime, "the refused setxattr has changed the mtime");
}

#[test]
fn what_had_to_be_made_anew_on_the_other_leg_is_written_there() {
    let world = World::new();
    let mirror = half_recovered(&world);
    let found = mirror.lookup(Ino::ROOT, OsStr::new("f")).unwrap();
    let opened = std::cell::Cell::new(None);
    resync(&mirror, || {
        let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
        opened.set(Some(fh));
        assert_eq!(mirror.write(fh, b"another one", 0, false).unwrap(), 11);
        world.fail(LegId::A, Call::Unlink, libc::ENOSPC);
        assert_eq!(errno(mirror.unlink(Ino::ROOT, OsStr::new("f"))), Some(libc::ENOSPC));
        world.heal();
        assert_eq!(mirror.write(fh, b"A THIRD ONE", 0, false).unwrap(), 11);
    });
    mirror.unequal.store(false, Ordering::Release);
    sweep(&mirror);
    world.assert_equal();
    assert_eq!(mirror.write(opened.take().unwrap(), b"A FOURTH ONE", 0, false).unwrap(), 12);
    sweep(&mirror);
    world.assert_equal();
}

#[test]
fn a_file_that_vanished_from_one_leg_makes_the_resync_compare_everything() {
    let world = World::new();
    let mirror = half_recovered(&world);
    world.kill(mirror);
    world.take_away(LegId::B, "f");
    let mirror = world.mount();
    mirror.resync();
    assert!(mirror.health.lost(LegId::B).is_none());
    world.assert_equal();
}

#[test]
fn what_gets_no_room_for_its_times_is_not_made_at_all() {
    for leg in LegId::ALL {
        for what in [Make::Directory { mode: 0o755 }, Make::File { mode: 0o644 }] {
            let world = World::new();
            let mirror = world.mount();
            world.fail(leg, Call::Attributes, libc::ENOSPC);
            let made = mirror.make(Ino::ROOT, OsStr::new("new"), what, NOBODY);
            world.heal();
            assert_eq!(made.is_ok(), leg == LegId::A, "only the second leg is given times");
            assert_eq!(mirror.lookup(Ino::ROOT, OsStr::new("new")).is_ok(), made.is_ok());
            assert!(!mirror.health.is_degraded());
            sweep(&mirror);
            world.assert_equal();
        }
    }
}

/// The source cannot be left behind, for the other leg is not complete: its answer is the answer.
#[test]
fn what_the_source_cannot_do_while_it_is_resynced_from_is_not_left_on_the_other_leg() {
    let world = World::new();
    let mirror = half_recovered(&world);
    resync(&mirror, || {
        let (_, fh) = file(&mirror, "g", b"before");
        world.fail(LegId::A, Call::Write, libc::EIO);
        assert_eq!(errno(mirror.write(fh, b"after!", 0, false)), Some(libc::EIO));
        world.heal();
        world.fail(LegId::A, Call::Make, libc::EIO);
        let made = mirror.make(Ino::ROOT, OsStr::new("new"), Make::Directory { mode: 0o755 }, NOBODY);
        assert_eq!(errno(made), Some(libc::EIO));
        world.heal();
    });
    mirror.unequal.store(false, Ordering::Release);
    sweep(&mirror);
    assert_eq!(mirror.bitmap_stats().dirty_slots, 0);
    world.assert_equal();
}

/// Lets things be found again when it is asked for the fourth time whether to stop.
struct Quiet<'a> {
    world: &'a World,
    mirror: &'a Mirror<SimLeg>,
    asked: AtomicU64,
}

impl Host for Quiet<'_> {
    fn settle_and_sync(&self, slots: &[IdleSlot]) -> std::io::Result<()> {
        self.mirror.settle_and_sync(slots)
    }
    fn copy_failed(&self, copy: CopyId, error: &std::io::Error) -> std::io::Result<()> {
        self.mirror.copy_failed(copy, error)
    }
}

impl ResyncHost for Quiet<'_> {
    fn with_object(
        &self,
        identity: &Identity,
        work: &mut dyn FnMut() -> std::io::Result<()>,
    ) -> std::io::Result<bool> {
        self.mirror.with_object(identity, work)
    }
    fn stop_requested(&self) -> bool {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 4 {
            self.world.heal();
        }
        false
    }
    fn user_operations(&self) -> u64 {
        0
    }
    fn limits(&self) -> Limits {
        Limits::default()
    }
}

#[test]
fn a_file_that_renames_keep_from_being_found_is_resynced_later() {
    for leg in LegId::ALL {
        let world = World::new();
        let mirror = half_recovered(&world);
        let host = Quiet { world: &world, mirror: &mirror, asked: AtomicU64::new(0) };
        let legs = mirror.both_legs().unwrap();
        let resync = Resync::new(&legs, &mirror.bitmap, LegId::A, Scope::Dirty, &host, &mirror.progress);
        assert_eq!(resync.namespace_and_metadata().unwrap(), Outcome::Done);
        mirror.gate.open();
        host.asked.store(0, Ordering::Relaxed);
        world.fail(leg, Call::Lookup, libc::EAGAIN);
        assert_eq!(resync.data().unwrap(), Outcome::Done);
        world.assert_equal();
    }
}
