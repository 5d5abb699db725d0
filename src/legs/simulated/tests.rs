//! The simulated leg keeps what a filesystem would keep, and loses what it may lose.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use super::*;
use crate::bitmap::WriteIntent;
use crate::legs::{Creator, Kind, Leg, Make, OpenMode, RenameMode, Timestamp};

const CREATOR: Creator = Creator { uid: 0, gid: 0, umask: 0o022 };
const BOTH: OpenMode = OpenMode { read: true, write: true, direct: false };

fn intent() -> WriteIntent<'static> {
    WriteIntent::before_first_mount()
}

fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn leg() -> (SimDisk, SimLeg) {
    let disk = SimDisk::new(LegId::A);
    (disk.clone(), SimLeg::new(LegId::A, disk))
}

fn create(leg: &SimLeg, called: &str) -> SimFile {
    leg.create(&intent(), &leg.root(), name(called), 0o644, CREATOR, BOTH).unwrap().2
}

fn mkdir(leg: &SimLeg, dir: &SimNode, called: &str) -> SimNode {
    leg.make(&intent(), dir, name(called), Make::Directory { mode: 0o755 }, CREATOR).unwrap();
    leg.child(dir, name(called)).unwrap()
}

fn names(leg: &SimLeg, dir: &SimNode) -> Vec<String> {
    leg.read_dir(dir).unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
}

fn read(leg: &SimLeg, called: &str) -> Vec<u8> {
    let node = leg.child(&leg.root(), name(called)).unwrap();
    let mut data = vec![0; leg.stat(&node).unwrap().size as usize];
    let file = leg.open(&node, BOTH).unwrap();
    assert_eq!(leg.read(&file, &mut data, 0).unwrap(), data.len());
    data
}

fn errno_of<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn the_mirrors_own_directories_are_there_and_not_shown() {
    let (_, leg) = leg();
    assert_eq!(names(&leg, &leg.root()), [""; 0]);
    assert_eq!(names(&leg, &leg.area(crate::legs::Area::Parked).unwrap()), [""; 0]);
}

#[test]
fn names_become_durable_in_their_order() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let (disk, leg) = leg();
        for called in ["1", "2", "3", "4"] {
            create(&leg, called);
        }
        leg.unlink(&intent(), &leg.root(), name("1")).unwrap();
        disk.survive_power_cut(&mut Rng::new(seed));
        outcomes.insert(names(&leg, &leg.root()).concat());
    }
    let wanted = ["", "1", "12", "123", "1234", "234"].map(String::from);
    assert_eq!(outcomes, BTreeSet::from(wanted));
}

#[test]
fn data_is_lost_or_kept_by_sectors_until_it_is_synced() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..300 {
        let (disk, leg) = leg();
        let file = create(&leg, "f");
        leg.write(&intent(), &file, &[1; 1024], 0).unwrap();
        leg.sync_file(&file, true).unwrap();
        leg.write(&intent(), &file, &[2; 1024], 0).unwrap();
        disk.survive_power_cut(&mut Rng::new(seed));
        let data = read(&leg, "f");
        outcomes.insert((data[0], data[512]));
        assert!(data.chunks(512).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
    }
    assert_eq!(outcomes, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
}

#[test]
fn a_sync_commits_all_names_and_the_data_of_its_own_file_only() {
    let mut others = BTreeSet::new();
    for seed in 0..100 {
        let (disk, leg) = leg();
        let (one, two) = (create(&leg, "one"), create(&leg, "two"));
        leg.write(&intent(), &one, &[1; 512], 0).unwrap();
        leg.write(&intent(), &two, &[2; 512], 0).unwrap();
        leg.sync_file(&one, false).unwrap();
        disk.survive_power_cut(&mut Rng::new(seed));
        assert_eq!(read(&leg, "one"), [1; 512]);
        others.insert(read(&leg, "two")[0]);
    }
    assert_eq!(others, BTreeSet::from([0, 2]), "the length is durable, the data as chance has it");
}

#[test]
fn data_written_before_a_durable_truncate_does_not_come_back() {
    for seed in 0..100 {
        let (disk, leg) = leg();
        let file = create(&leg, "f");
        let node = leg.child(&leg.root(), name("f")).unwrap();
        leg.write(&intent(), &file, &[1; 2048], 0).unwrap();
        leg.truncate(&intent(), &node, 100).unwrap();
        leg.truncate(&intent(), &node, 2048).unwrap();
        leg.sync_node(&leg.root()).unwrap();
        disk.survive_power_cut(&mut Rng::new(seed));
        assert_eq!(read(&leg, "f")[100..], [0; 1948], "seed {seed}");
    }
}

#[test]
fn after_a_full_sync_nothing_is_lost() {
    for seed in 0..50 {
        let (disk, leg) = leg();
        let dir = mkdir(&leg, &leg.root(), "d");
        let file = create(&leg, "f");
        leg.write(&intent(), &file, &[3; 5000], 700).unwrap();
        leg.rename(&intent(), (&leg.root(), name("f")), (&dir, name("g")), RenameMode::Replace).unwrap();
        leg.sync_all().unwrap();
        disk.survive_power_cut(&mut Rng::new(seed));
        assert_eq!(names(&leg, &leg.root()), ["d"]);
        assert_eq!(names(&leg, &leg.child(&leg.root(), name("d")).unwrap()), ["g"]);
    }
}

#[test]
fn a_kill_loses_only_what_has_no_name() {
    let (disk, leg) = leg();
    let file = create(&leg, "kept");
    leg.write(&intent(), &file, &[1; 10], 0).unwrap();
    let gone = create(&leg, "gone");
    let identity = leg.lookup(&leg.root(), name("gone")).unwrap().0;
    leg.unlink(&intent(), &leg.root(), name("gone")).unwrap();
    leg.write(&intent(), &gone, &[1; 10], 0).expect("an open file needs no name");
    assert_eq!(errno_of(leg.find(&identity)), libc::ESTALE, "and is not found, as on a real leg");
    disk.survive_kill();
    assert_eq!(read(&leg, "kept"), [1; 10]);
    assert_eq!(errno_of(leg.find(&identity)), libc::ESTALE);
}

#[test]
fn a_number_used_again_has_another_handle() {
    let (_, leg) = leg();
    drop(create(&leg, "old"));
    let old = leg.lookup(&leg.root(), name("old")).unwrap().0;
    leg.unlink(&intent(), &leg.root(), name("old")).unwrap();
    drop(create(&leg, "new"));
    let new = leg.lookup(&leg.root(), name("new")).unwrap().0;
    assert_eq!(new.ino, old.ino, "numbers are used again at once");
    assert_eq!(errno_of(leg.find(&old)), libc::ESTALE);
    let by_number = crate::legs::Identity { handle: None, ..old };
    assert!(leg.find(&by_number).is_ok(), "without a handle the new one is taken for the old one");
}

#[test]
fn renames_are_checked_as_the_kernel_does() {
    let (_, leg) = leg();
    let root = leg.root();
    let (d, e) = (mkdir(&leg, &root, "d"), mkdir(&leg, &root, "e"));
    let inner = mkdir(&leg, &d, "inner");
    drop(create(&leg, "f"));
    let rename = |from: (&SimNode, &str), to: (&SimNode, &str), mode| {
        leg.rename(&intent(), (from.0, name(from.1)), (to.0, name(to.1)), mode)
    };
    let replace = RenameMode::Replace;
    assert_eq!(errno_of(rename((&root, "d"), (&inner, "x"), replace)), libc::EINVAL);
    assert_eq!(errno_of(rename((&root, "e"), (&root, "d"), replace)), libc::ENOTEMPTY);
    assert_eq!(errno_of(rename((&root, "e"), (&root, "f"), replace)), libc::ENOTDIR);
    assert_eq!(errno_of(rename((&root, "f"), (&root, "e"), replace)), libc::EISDIR);
    assert_eq!(errno_of(rename((&root, "f"), (&root, "e"), RenameMode::NoReplace)), libc::EEXIST);
    assert_eq!(errno_of(rename((&root, "f"), (&root, "x"), RenameMode::Exchange)), libc::ENOENT);
    assert_eq!(errno_of(rename((&d, "inner"), (&root, "d"), RenameMode::Exchange)), libc::EINVAL);
    rename((&d, "inner"), (&e, "f"), replace).unwrap();
    assert_eq!(leg.identity(&leg.parent(&inner).unwrap()).unwrap(), leg.identity(&e).unwrap());
    rename((&root, "f"), (&root, "e"), RenameMode::Exchange).unwrap();
    assert_eq!(leg.lookup(&root, name("e")).unwrap().1.kind, Kind::File);
}

#[test]
fn the_flaws_do_what_they_say() {
    let with = |flaw| {
        let disk = SimDisk::new(LegId::B);
        (disk.clone(), SimLeg::new(LegId::B, disk).with_flaw(flaw))
    };
    let (disk, late) = with(Flaw::WritesLate);
    let file = create(&late, "f");
    late.write(&intent(), &file, &[1; 10], 0).unwrap();
    drop(late);
    disk.survive_kill();
    assert_eq!(read(&SimLeg::new(LegId::B, disk), "f"), [0; 0]);

    let lost = (0..20).any(|seed| {
        let (disk, never) = with(Flaw::NeverSyncs);
        create(&never, "f");
        never.sync_all().unwrap();
        disk.survive_power_cut(&mut Rng::new(seed));
        names(&never, &never.root()).is_empty()
    });
    assert!(lost);

    let (_, parking) = with(Flaw::ParkingDeletes);
    create(&parking, "f");
    let parked = parking.area(crate::legs::Area::Parked).unwrap();
    parking
        .rename(&intent(), (&parking.root(), name("f")), (&parked, name("f")), RenameMode::Replace)
        .unwrap();
    assert_eq!(names(&parking, &parked), [""; 0]);
}

#[test]
fn a_fault_fails_the_call_it_is_asked_for_and_does_nothing() {
    let disk = SimDisk::new(LegId::A);
    let hook: FaultHook = Box::new(|_, call| (call == Call::Make).then_some(libc::ENOSPC));
    let leg = SimLeg::new(LegId::A, disk).with_faults(hook);
    let made = leg.create(&intent(), &leg.root(), name("f"), 0o644, CREATOR, BOTH);
    assert_eq!(errno_of(made), libc::ENOSPC);
    assert_eq!(names(&leg, &leg.root()), [""; 0]);
}

#[test]
fn times_are_kept_as_set() {
    let (_, leg) = leg();
    drop(create(&leg, "f"));
    let node = leg.child(&leg.root(), name("f")).unwrap();
    let then = Timestamp { secs: -5, nanos: 7 };
    leg.set_times(&intent(), &node, None, Some(then)).unwrap();
    let stat = leg.stat(&node).unwrap();
    assert_eq!(stat.mtime, then);
    assert_ne!(stat.atime, then);
    assert_ne!(stat.ctime, then);
}
