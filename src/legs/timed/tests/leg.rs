//! A simulated leg behind it that hangs in chosen calls.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::bitmap::WriteIntent;
use crate::legs::simulated::{Call, SimDisk, SimLeg};
use crate::legs::timed::Backing;
use crate::legs::{Creator, Leg, LegId, Make, OpenMode, RenameMode, Seek, Timed, Timestamp};

const BACKINGS: [Backing; 3] = [Backing::Disk, Backing::Network, Backing::Fuse];

fn intent() -> WriteIntent<'static> {
    WriteIntent::before_first_mount()
}

fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// A leg whose calls `hangs` do not return before the door is opened. Its probe says whether `answers`.
struct Fixture {
    leg: Arc<Timed<SimLeg>>,
    door: Door,
    tellings: Receiver<()>,
}

impl Fixture {
    fn new(backing: Backing, timeout: Duration, hangs: Option<Call>, answers: bool) -> Fixture {
        let door = Door::closed();
        let (closed, probed) = (door.clone(), door.clone());
        let sim = SimLeg::new(LegId::A, SimDisk::new(LegId::A)).with_faults(Box::new(move |_, call| {
            if Some(call) == hangs {
                closed.pass();
            }
            None
        }));
        let probe = move || {
            if !answers {
                probed.pass()
            }
        };
        let patience = Patience::new(couriers(), timeout, Arc::new(probe));
        let (told, tellings) = unbounded();
        let given_up = Arc::downgrade(&patience);
        patience.on_hung(Some(Arc::new(move || {
            told.send(()).unwrap();
            given_up.upgrade().into_iter().for_each(|leg| leg.give_up());
        })));
        let leg = Arc::new(Timed::new(Arc::new(sim), backing, patience.clone()).unwrap());
        Fixture { leg, door, tellings }
    }
}

#[test]
fn every_call_reaches_the_leg_with_its_arguments_whichever_way() {
    for backing in BACKINGS {
        let leg = Fixture::new(backing, AGES, None, true).leg;
        let (root, creator) = (leg.root(), Creator { uid: 3, gid: 4, umask: 0o22 });
        let both = OpenMode { read: true, write: true, direct: false };
        let (_, _, file) = leg.create(&intent(), &root, os("f"), 0o666, creator, both).unwrap();
        assert_eq!(leg.write(&intent(), &file, b"12345", 3).unwrap(), 5);
        let mut buf = [9; 10];
        assert_eq!(leg.read(&file, &mut buf, 0).unwrap(), 8);
        assert_eq!(&buf, b"\0\0\x0012345\x09\x09");
        assert_eq!(leg.seek(&file, 0, Seek::Hole).unwrap(), 8);
        leg.fallocate(&intent(), &file, 0, 0, 20).unwrap();
        assert_eq!(leg.stat_file(&file).unwrap().size, 20);
        let node = leg.child(&root, os("f")).unwrap();
        leg.truncate_file(&intent(), &node, &file, 6).unwrap();
        assert_eq!(leg.stat(&node).unwrap().size, 6);
        leg.truncate(&intent(), &node, 5).unwrap();
        leg.set_mode(&intent(), &node, 0o640).unwrap();
        leg.set_owner(&intent(), &node, Some(7), None).unwrap();
        let time = |secs| Timestamp { secs, nanos: 5 };
        leg.set_times(&intent(), &node, Some(time(1)), None).unwrap();
        leg.set_times_of(&intent(), &root, os("f"), time(2), time(3)).unwrap();
        leg.set_xattr(&intent(), &node, os("user.a"), b"v", 0).unwrap();
        assert_eq!(leg.get_xattr(&node, os("user.a")).unwrap(), b"v");
        assert_eq!(leg.list_xattr(&node).unwrap(), ["user.a"]);
        leg.remove_xattr(&intent(), &node, os("user.a")).unwrap();
        let (identity, stat) = leg.lookup(&root, os("f")).unwrap();
        assert_eq!((stat.size, stat.mode, stat.uid, stat.gid), (5, 0o640, 7, 4));
        assert_eq!((stat.atime, stat.mtime), (time(2), time(3)));
        assert_eq!(leg.identity(&leg.find(&identity).unwrap()).unwrap(), identity);

        leg.make(&intent(), &root, os("d"), Make::Directory { mode: 0o755 }, creator).unwrap();
        leg.make(&intent(), &root, os("s"), Make::Symlink { target: os("to") }, creator).unwrap();
        leg.make(&intent(), &root, os("g"), Make::File { mode: 0o600 }, creator).unwrap();
        let dir = leg.child(&root, os("d")).unwrap();
        leg.link(&intent(), &node, &dir, os("l")).unwrap();
        leg.rename(&intent(), (&root, os("s")), (&dir, os("t")), RenameMode::NoReplace).unwrap();
        assert_eq!(leg.readlink(&leg.child(&dir, os("t")).unwrap()).unwrap(), "to");
        assert_eq!(leg.read_dir(&dir).unwrap().len(), 2);
        assert_eq!(leg.identity(&leg.parent(&dir).unwrap()).unwrap(), leg.identity(&root).unwrap());
        let other = leg.open(&leg.child(&root, os("g")).unwrap(), both).unwrap();
        assert_eq!(leg.copy_range(&intent(), (&file, 1), (&other, 2), 4).unwrap(), 4);
        leg.unlink(&intent(), &root, os("g")).unwrap();
        leg.make(&intent(), &root, os("e"), Make::Directory { mode: 0o755 }, creator).unwrap();
        leg.rmdir(&intent(), &root, os("e")).unwrap();
        leg.sync_file(&file, true).unwrap();
        leg.sync_node(&dir).unwrap();
        leg.sync_all().unwrap();
        leg.area(crate::legs::Area::Parked).unwrap();
        leg.statfs().unwrap();
        drop((file, other));
        soon(|| leg.calls().under_way() == 0);
    }
}

#[test]
fn a_disk_lets_its_callers_go_while_that_is_wanted() {
    let fixture = Fixture::new(Backing::Disk, SHORT, Some(Call::ReadDir), false);
    fixture.leg.detach_callers(true);
    refused(fixture.leg.read_dir(&fixture.leg.root()), libc::ENOTCONN);
    assert_eq!(fixture.leg.calls().under_way(), 1, "it may come back yet");
    fixture.door.open();
    soon(|| fixture.leg.calls().under_way() == 0);
}

#[test]
fn by_courier_a_call_or_sync_that_hangs_lets_its_caller_go() {
    for backing in [Backing::Network, Backing::Fuse] {
        for hangs in [Call::ReadDir, Call::Sync] {
            let fixture = Fixture::new(backing, SHORT, Some(hangs), false);
            let root = fixture.leg.root();
            let answer = if hangs == Call::Sync {
                fixture.leg.sync_all()
            } else {
                fixture.leg.read_dir(&root).map(drop)
            };
            refused(answer, libc::ENOTCONN);
            fixture.tellings.recv().unwrap();
            assert!(fixture.leg.calls().under_way() > 0);
            refused(fixture.leg.stat(&root), libc::ENOTCONN);
            fixture.door.open();
            soon(|| fixture.leg.calls().under_way() == 0);
        }
    }
}

#[test]
fn the_watchdog_reports_a_call_in_place_once() {
    let fixture = Fixture::new(Backing::Disk, SHORT, Some(Call::ReadDir), false);
    let leg = fixture.leg.clone();
    let returned = Arc::new(AtomicBool::new(false));
    let seen = returned.clone();
    let stuck = std::thread::spawn(move || {
        let listed = leg.read_dir(&leg.root());
        seen.store(true, Ordering::SeqCst);
        listed
    });
    fixture.tellings.recv().unwrap();
    assert!(!returned.load(Ordering::SeqCst), "the kernel has not let it go");
    soon(|| fixture.leg.calls().patience().check().is_err());
    refused(fixture.leg.statfs(), libc::ENOTCONN);
    // Some more rounds of the watchdog, each with the call still there.
    std::thread::sleep(2 * SHORT);
    assert!(fixture.tellings.is_empty());
    fixture.door.open();
    refused(stuck.join().unwrap(), libc::ENOTCONN);
    soon(|| fixture.leg.calls().under_way() == 0);
}

#[test]
fn a_slow_call_in_place_is_not_reported_while_the_leg_answers_probes() {
    let fixture = Fixture::new(Backing::Disk, SHORT, Some(Call::ReadDir), true);
    let leg = fixture.leg.clone();
    let slow = std::thread::spawn(move || leg.read_dir(&leg.root()));
    std::thread::sleep(4 * SHORT);
    assert!(fixture.tellings.is_empty());
    fixture.door.open();
    slow.join().unwrap().unwrap();
}

#[test]
fn calls_in_place_stay_on_the_callers_thread() {
    let (seen, threads) = unbounded();
    let sim = SimLeg::new(LegId::A, SimDisk::new(LegId::A)).with_faults(Box::new(move |_, call| {
        seen.send((call, std::thread::current().id())).unwrap();
        None
    }));
    let leg = Timed::new(Arc::new(sim), Backing::Disk, patience(AGES)).unwrap();
    leg.read_dir(&leg.root()).unwrap();
    leg.sync_all().unwrap();
    let own = std::thread::current().id();
    for (call, thread) in threads.try_iter() {
        assert_eq!(thread, own, "{call:?}");
    }
}

/// A file that cannot be closed before the door opens.
struct Clingy(Door, Sender<()>);

impl Drop for Clingy {
    fn drop(&mut self) {
        self.0.pass();
        self.1.send(()).unwrap();
    }
}

#[test]
fn files_that_cannot_be_closed_hold_up_one_courier_and_nobody_else() {
    use crate::legs::timed::file::{Closing, File};
    let (couriers, door) = (couriers(), Door::closed());
    let (said, closed) = unbounded();
    let patience = Patience::new(couriers.clone(), AGES, Arc::new(|| ()));
    let closing = Closing::by_courier(patience.clone());
    for _ in 0..100 {
        drop(File::new(Clingy(door.clone(), said.clone()), &closing));
    }
    assert_eq!(couriers.call(AGES, || Ok(1)).unwrap(), 1);
    assert_eq!(couriers.alive(), 2);
    assert_eq!(patience.under_way(), 1, "to close a file may write what was kept");
    door.open();
    (0..100).for_each(|_| closed.recv().unwrap());
    soon(|| patience.under_way() == 0);
}
