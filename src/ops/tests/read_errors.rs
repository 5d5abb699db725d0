//! Sectors of a leg that cannot be read.

use std::ffi::OsStr;
use std::sync::Arc;

use super::world::{CALLER, World, content, file, sweep};
use crate::error::errno;
use crate::inode::{Fh, Ino};
use crate::legs::LegId;
use crate::legs::simulated::{Call, SimLeg};
use crate::ops::read_errors::LIMIT;
use crate::ops::{Herald, Mirror, MirrorState, News, SetAttr, SetTime};
use crate::sync::{Mutex, Rank};

/// Where a file has its bad sectors.
const MIDDLE: std::ops::Range<u64> = 70_000..70_001;

/// A mirror with this leg as the source.
fn with_source(world: &World, source: LegId) -> Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    if source == LegId::B {
        mirror.take_out(LegId::A).unwrap();
        world.bring_back(&mirror, LegId::A);
    }
    assert_eq!(mirror.health.source(), source);
    mirror
}

/// Long enough for several units, with an end that fills no sector.
fn data() -> Vec<u8> {
    (0..200_123u32).map(|at| (at / 7) as u8).collect()
}

/// `f`, clean, with times that its other leg's clock would not give it.
fn old_file(mirror: &Mirror<SimLeg>, data: &[u8]) -> (Ino, Fh) {
    let (ino, fh) = file(mirror, "f", data);
    let mtime = Some(SetTime::At(crate::legs::Timestamp { secs: 1_000, nanos: 5 }));
    mirror.setattr(ino, &SetAttr { mtime, ..SetAttr::default() }, None, CALLER).unwrap();
    sweep(mirror);
    (ino, fh)
}

fn read(mirror: &Mirror<SimLeg>, fh: Fh, len: usize) -> std::io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    let read = mirror.read(fh, &mut data, 0)?;
    data.truncate(read);
    Ok(data)
}

/// What was told.
struct Heard(Mutex<Vec<News>>);

impl Herald for Heard {
    fn tell(&self, news: News) {
        self.0.lock().push(news);
    }
}

fn listen(mirror: &Mirror<SimLeg>) -> Arc<Heard> {
    let heard = Arc::new(Heard(Mutex::new(Rank::Leaf, Vec::new())));
    mirror.set_herald(heard.clone());
    heard
}

impl Heard {
    fn read_errors(&self) -> Vec<(LegId, String)> {
        let heard = self.0.lock();
        let errors = heard.iter().filter_map(|news| match news {
            News::ReadError { leg, told } => Some((*leg, told.clone())),
            _ => None,
        });
        errors.collect()
    }
}

#[test]
fn what_the_source_cannot_read_is_answered_by_the_other_leg_and_written_anew() {
    for source in LegId::ALL {
        for bad in [0..1, MIDDLE, 200_000..200_123, 0..200_123] {
            let world = World::new();
            let mirror = with_source(&world, source);
            let heard = listen(&mirror);
            let (ino, fh) = old_file(&mirror, &data());
            let before = mirror.getattr(ino, None).unwrap().stat;
            world.spoil(source, "f", bad.clone());
            assert_eq!(read(&mirror, fh, 300_000).unwrap(), data(), "{source}, {bad:?}");
            assert!(world.has_bad_sectors(source), "the reader does not wait for the mending");
            assert_eq!(mirror.read_errors(source).count, 1);
            assert_eq!(mirror.read_errors(source).last.as_deref(), Some("f"));
            mirror.mend();
            assert!(!world.has_bad_sectors(source), "{bad:?}");
            assert_eq!(mirror.getattr(ino, None).unwrap().stat.mtime, before.mtime);
            let told = heard.read_errors();
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].0 == source && told[0].1.starts_with("f: "), "{told:?}");
            assert!(told[0].1.ends_with("answered from leg B and rewritten") == (source == LegId::A));
            for leg in LegId::ALL {
                assert_eq!(mirror.superblock(leg).unwrap().source, None, "leg {leg} may be believed again");
            }
            sweep(&mirror);
            assert_eq!(mirror.state(), MirrorState::Clean);
            assert_eq!(mirror.health.source(), source);
            world.assert_equal();
            world.unmount(mirror);
        }
    }
}

#[test]
fn a_short_file_is_mended_too() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = old_file(&mirror, b"a few words");
    world.spoil(LegId::A, "f", 0..11);
    assert_eq!(read(&mirror, fh, 4096).unwrap(), b"a few words");
    mirror.mend();
    assert!(!world.has_bad_sectors(LegId::A));
    assert_eq!(content(&mirror, "f"), b"a few words");
    world.assert_equal();
}

/// What can be read again by the time it is to be mended is left alone.
#[test]
fn an_error_that_goes_away_by_itself_writes_nothing() {
    let world = World::new();
    let mirror = world.mount();
    let heard = listen(&mirror);
    let (_, fh) = old_file(&mirror, &data());
    let marks = mirror.bitmap_stats().marks;
    world.fail(LegId::A, Call::Read, libc::EIO);
    assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
    world.heal();
    mirror.mend();
    assert_eq!(mirror.bitmap_stats().marks, marks);
    assert!(heard.read_errors()[0].1.ends_with("it can be read again"), "{:?}", heard.read_errors());
    assert_eq!(mirror.state(), MirrorState::Clean);
}

/// Past the page cache the kernel tells a bad sector by other numbers.
#[test]
fn a_medium_error_is_one_whatever_its_number() {
    for number in [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EREMOTEIO] {
        let world = World::new();
        let mirror = world.mount();
        let (_, fh) = old_file(&mirror, &data());
        world.fail(LegId::A, Call::Read, number);
        assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
        assert!(!mirror.health.is_degraded());
    }
}

#[test]
fn a_leg_that_does_not_keep_what_is_written_anew_is_left_behind() {
    // The write goes wrong, or the sync, or the data cannot be read back.
    for call in [Call::Write, Call::Sync, Call::Read] {
        for source in LegId::ALL {
            let world = World::new();
            let mirror = with_source(&world, source);
            let heard = listen(&mirror);
            let (_, fh) = old_file(&mirror, &data());
            world.spoil(source, "f", MIDDLE);
            world.fail(source, call, libc::EIO);
            assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
            assert!(!mirror.health.is_degraded());
            mirror.mend();
            assert!(mirror.health.lost(source).is_some(), "{call:?}");
            assert!(heard.read_errors()[0].1.contains("rewriting it failed"), "{:?}", heard.read_errors());
            assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
            world.heal();
            world.bring_back(&mirror, source);
            sweep(&mirror);
            assert_eq!(content(&mirror, "f"), data());
            world.assert_equal();
        }
    }
}

#[test]
fn what_neither_leg_can_read_is_an_error_and_leaves_nobody_behind() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = old_file(&mirror, &data());
    for leg in LegId::ALL {
        world.spoil(leg, "f", MIDDLE);
    }
    let failed = read(&mirror, fh, 300_000).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    assert!(mirror.neither().count > 0 && mirror.neither().what.starts_with("f: leg A: "));
    sweep(&mirror);
    assert_eq!(mirror.state(), MirrorState::Clean);
    let mut start = vec![0; 4096];
    assert_eq!(mirror.read(fh, &mut start, 0).unwrap(), 4096);
    assert_eq!(start, data()[..4096]);
}

/// One unit is bad on both legs, another one on the source only.
#[test]
fn what_the_other_leg_cannot_read_is_not_written_anew() {
    let world = World::new();
    let mirror = world.mount();
    let heard = listen(&mirror);
    let (_, fh) = old_file(&mirror, &data());
    world.spoil(LegId::A, "f", 0..512);
    assert_eq!(read(&mirror, fh, 4096).unwrap(), data()[..4096]);
    world.spoil(LegId::B, "f", 0..512);
    mirror.mend();
    assert!(heard.read_errors()[0].1.contains("leg B does not read it either"), "{:?}", heard.read_errors());
    assert!(world.has_bad_sectors(LegId::A) && !mirror.health.is_degraded());
    for leg in LegId::ALL {
        assert_eq!(mirror.superblock(leg).unwrap().source, None);
    }
}

#[test]
fn the_last_leg_s_read_errors_are_the_program_s() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = old_file(&mirror, &data());
    mirror.take_out(LegId::B).unwrap();
    world.spoil(LegId::A, "f", MIDDLE);
    assert_eq!(read(&mirror, fh, 300_000).unwrap_err().raw_os_error(), Some(libc::EIO));
    mirror.mend();
    assert!(world.has_bad_sectors(LegId::A));
    assert_eq!(mirror.read_errors(LegId::A).count, 0, "nobody has answered instead");
    assert!(mirror.health.lost(LegId::A).is_none());
}

/// The other leg has old data, or may have.
#[test]
fn a_leg_that_is_not_complete_answers_nothing() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = old_file(&mirror, &data());
    mirror.close().unwrap();
    mirror.take_out(LegId::B).unwrap();
    assert_eq!(mirror.write(fh, b"new", 0, false).unwrap(), 3);
    world.kill(mirror);
    let mirror = world.mount();
    world.spoil(LegId::A, "f", 0..3);
    let found = mirror.lookup(Ino::ROOT, OsStr::new("f")).unwrap();
    let fh = mirror.open(found.attr.ino, libc::O_RDONLY, CALLER).unwrap();
    assert_eq!(read(&mirror, fh, 3).unwrap_err().raw_os_error(), Some(libc::EIO));
    mirror.mend();
    assert!(world.has_bad_sectors(LegId::A));
}

#[test]
fn a_leg_with_too_much_to_mend_is_left_behind() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = old_file(&mirror, &data());
    for number in 0..=LIMIT {
        assert!(!mirror.health.is_degraded(), "after {number}");
        world.spoil(LegId::A, "f", MIDDLE);
        assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
        mirror.mend();
    }
    assert!(mirror.health.lost(LegId::A).is_some());
    assert_eq!(mirror.read_errors(LegId::A).count, u64::from(LIMIT) + 1);
    // Its disk has been seen to.
    world.bring_back(&mirror, LegId::A);
    assert!(!mirror.health.is_degraded());
    sweep(&mirror);
    world.assert_equal();
}

/// It is gone from both legs with its last user.
#[test]
fn a_file_without_a_name_is_answered_and_not_mended() {
    let world = World::new();
    let mirror = world.mount();
    let (_, fh) = old_file(&mirror, &data());
    world.spoil(LegId::A, "f", MIDDLE);
    mirror.unlink(Ino::ROOT, OsStr::new("f")).unwrap();
    assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
    sweep(&mirror);
    assert!(!mirror.health.is_degraded());
    mirror.release(fh);
    sweep(&mirror);
    world.assert_equal();
}

/// Whatever was changed between the read and the mending stays.
#[test]
fn mending_never_brings_old_data_back() {
    let world = World::new();
    let mirror = world.mount();
    let (ino, fh) = old_file(&mirror, &data());
    world.spoil(LegId::A, "f", MIDDLE);
    assert_eq!(read(&mirror, fh, 300_000).unwrap(), data());
    let mut now = data();
    now[66_000..67_000].fill(1);
    assert_eq!(mirror.write(fh, &now[66_000..67_000], 66_000, false).unwrap(), 1000);
    now.truncate(150_001);
    mirror.setattr(ino, &SetAttr { size: Some(150_001), ..SetAttr::default() }, None, CALLER).unwrap();
    mirror.mend();
    assert_eq!(content(&mirror, "f"), now);
    assert!(!world.has_bad_sectors(LegId::A));
    sweep(&mirror);
    world.assert_equal();
}

/// `f`, `short` and `other`, all of which B lacks something of.
fn missed_by_b(world: &World) -> Arc<Mirror<SimLeg>> {
    let mirror = world.mount();
    let files = ["f", "short", "other"].map(|name| {
        let text = if name == "short" { b"an old text".to_vec() } else { data() };
        let (_, fh) = file(&mirror, name, &text);
        fh
    });
    sweep(&mirror);
    mirror.take_out(LegId::B).unwrap();
    for fh in files {
        assert_eq!(mirror.write(fh, b"the new one", 0, false).unwrap(), 11);
        mirror.release(fh);
    }
    // Built anew on B, the one at once, the other one later.
    let (_, fh) = file(&mirror, "born short", b"a few words");
    mirror.release(fh);
    let (_, fh) = file(&mirror, "born", &data());
    mirror.release(fh);
    mirror
}

const MISSED: [&str; 5] = ["f", "short", "other", "born short", "born"];

/// What a file of [`missed_by_b`] reads as.
fn wanted(name: &str) -> Vec<u8> {
    let mut wanted = match name {
        "short" => b"the new one".to_vec(),
        "born short" => b"a few words".to_vec(),
        _ => data(),
    };
    if ["f", "other"].contains(&name) {
        wanted[..11].copy_from_slice(b"the new one");
    }
    wanted
}

/// What a file of the root holds on a leg, its bad sectors too.
fn on_leg(world: &World, leg: LegId, name: &str) -> Option<String> {
    world.tree(leg).remove(&format!("/{name}"))
}

/// The rest is made equal, and nothing is called so that is not.
#[test]
fn a_file_that_the_source_cannot_read_costs_the_recovery_that_file_and_no_other() {
    for (bad, extents_too) in MISSED.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let world = World::new();
        let mirror = missed_by_b(&world);
        world.spoil(LegId::A, bad, 0..11);
        if extents_too {
            world.spoil_extents(LegId::A);
        }
        world.bring_back(&mirror, LegId::B);
        assert_eq!(mirror.state(), MirrorState::Degraded, "{bad}");
        let why = mirror.why_lost(LegId::B).unwrap();
        assert!(why.starts_with("leg A cannot read 1 file") && why.contains(&format!(": {bad};")), "{why}");
        for good in MISSED.iter().filter(|name| **name != bad) {
            assert_eq!(content(&mirror, good), wanted(good));
        }
        let found = mirror.lookup(Ino::ROOT, OsStr::new(bad)).unwrap();
        let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
        let refused = read(&mirror, fh, 11).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{bad}: never B's old data");
        // The user writes it anew.
        let mut whole = wanted(bad);
        whole[..4].copy_from_slice(b"NEW ");
        mirror
            .setattr(found.attr.ino, &SetAttr { size: Some(0), ..SetAttr::default() }, None, CALLER)
            .unwrap();
        assert_eq!(mirror.write(fh, &whole, 0, false).unwrap(), whole.len());
        world.bring_back(&mirror, LegId::B);
        assert!(!mirror.health.is_degraded(), "{:?}", mirror.why_lost(LegId::B));
        sweep(&mirror);
        assert_eq!(content(&mirror, bad), whole);
        for name in MISSED {
            assert_eq!(on_leg(&world, LegId::A, name), on_leg(&world, LegId::B, name));
        }
        world.assert_equal();
    }
}

/// Nor does the state that this leaves depend on the daemon's life.
#[test]
fn a_recovery_that_is_not_complete_goes_on_after_a_crash() {
    let world = World::new();
    let mirror = missed_by_b(&world);
    world.spoil(LegId::A, "f", 0..11);
    world.bring_back(&mirror, LegId::B);
    world.kill(mirror);
    let mirror = world.mount();
    mirror.resync();
    assert!(mirror.health.lost(LegId::B).is_some());
    mirror.unlink(Ino::ROOT, OsStr::new("f")).unwrap();
    world.kill(mirror);
    let mirror = world.mount();
    mirror.resync();
    assert!(!mirror.health.is_degraded());
    sweep(&mirror);
    world.assert_equal();
}

/// It is written over anyway.
#[test]
fn what_the_leg_to_be_recovered_cannot_read_is_written_anew() {
    let places = [("f", 0..11), ("f", 5_000..5_001), ("short", 0..11), ("other", 0..65_536)];
    for ((name, bad), extents_too) in
        places.into_iter().flat_map(|place| [(place.clone(), false), (place, true)])
    {
        let world = World::new();
        let mirror = missed_by_b(&world);
        world.spoil(LegId::B, name, bad);
        if extents_too {
            world.spoil_extents(LegId::B);
        }
        world.bring_back(&mirror, LegId::B);
        assert!(!mirror.health.is_degraded(), "{name}: {:?}", mirror.why_lost(LegId::B));
        sweep(&mirror);
        assert_eq!(content(&mirror, name), wanted(name));
        world.assert_equal();
    }
}

/// Where the source has a hole, the target's data goes, also if it cannot be told where that is.
#[test]
fn what_cannot_be_told_of_the_leg_to_be_recovered_is_no_hole() {
    let world = World::new();
    let mirror = world.mount();
    let (ino, fh) = file(&mirror, "f", &data());
    sweep(&mirror);
    mirror.take_out(LegId::B).unwrap();
    for size in [0, 200_123] {
        mirror.setattr(ino, &SetAttr { size: Some(size), ..SetAttr::default() }, None, CALLER).unwrap();
    }
    assert_eq!(mirror.write(fh, b"end", 200_120, false).unwrap(), 3);
    world.spoil(LegId::B, "f", 70_000..70_001);
    world.spoil_extents(LegId::B);
    world.bring_back(&mirror, LegId::B);
    assert!(!mirror.health.is_degraded(), "{:?}", mirror.why_lost(LegId::B));
    sweep(&mirror);
    world.assert_equal();
}

#[test]
fn an_error_that_ends_a_recovery_is_laid_to_the_leg_that_gave_it() {
    for (leg, call) in [(LegId::A, Call::ReadDir), (LegId::B, Call::ReadDir), (LegId::A, Call::Open)] {
        let world = World::new();
        let mirror = missed_by_b(&world);
        world.fail(leg, call, libc::EIO);
        world.bring_back(&mirror, LegId::B);
        world.heal();
        let why = mirror.why_lost(LegId::B).unwrap();
        assert!(why.starts_with(&format!("leg {leg}: ")), "{call:?} on {leg}: {why}");
    }
}

/// The state stays, and nobody is left behind: but it is told, once.
#[test]
fn a_change_that_both_legs_fail_is_told_once_and_is_an_answer() {
    let world = World::new();
    let mirror = world.mount();
    let heard = listen(&mirror);
    let (_, fh) = old_file(&mirror, b"text");
    world.fail(LegId::A, Call::Write, libc::EIO);
    world.fail(LegId::B, Call::Write, libc::EROFS);
    for _ in 0..3 {
        assert_eq!(mirror.write(fh, b"more", 0, false).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    assert_eq!(mirror.neither().count, 3);
    let told: Vec<_> =
        heard.0.lock().iter().filter(|news| matches!(news, News::Neither(_))).cloned().collect();
    let wanted = format!("f: leg A: {}; leg B: {}", errno(libc::EIO), errno(libc::EROFS));
    assert_eq!(told, [News::Neither(wanted)]);
    assert!(!mirror.health.is_degraded());
    world.heal();
    assert_eq!(mirror.write(fh, b"more", 0, false).unwrap(), 4);
    // What is no sign of a broken leg is told to the program only.
    let gone = mirror.unlink(Ino::ROOT, OsStr::new("nothing")).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(mirror.neither().count, 3);
}
