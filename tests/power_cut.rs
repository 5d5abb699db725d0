//! The power goes: what neither leg's filesystem had written to its device is lost, on each leg
//! something else. The devices' contents at one instant are what a machine would find afterwards.
//!
//! Each leg is a filesystem on a loop device over an image file, and both image files lie on one
//! more filesystem, the "disk". Freezing the disk stops both devices at one instant, in the middle
//! of the work: the images then hold what had reached the devices, and nothing of the page caches
//! above them. Copies of the frozen images are what the next start of the machine finds.
//!
//! Needs root, /dev/fuse and loop devices.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::filesystem::attach;
use common::process::must;
use common::{Filesystem, Random, Scratch, TestMirror, can_mount, has_program};

fn rounds() -> usize {
    std::env::var("MIRRORFS_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Writes records with an fsync each, and much in between that nobody syncs, until told to stop;
/// `acknowledged` counts the records whose fsync has returned.
fn work(mnt: &Path, mut random: Random, acknowledged: &AtomicU64, stop: &AtomicBool) {
    let mut log = File::create(mnt.join("log")).expect("create");
    File::open(mnt).expect("open").sync_all().expect("fsync of the directory");
    let scattered = File::create(mnt.join("scattered")).expect("create");
    while !stop.load(Ordering::Relaxed) {
        let name = |random: &mut Random| mnt.join(format!("n{}", random.below(40)));
        for _ in 0..random.below(8) {
            let len = random.below(30_000) as usize;
            scattered.write_all_at(&random.bytes(len), random.below(8 << 20)).expect("write");
            let (from, to) = (name(&mut random), name(&mut random));
            fs::write(&from, random.bytes(2000)).expect("write");
            fs::rename(&from, &to).expect("rename");
        }
        log.write_all(&acknowledged.load(Ordering::Relaxed).to_le_bytes()).expect("append");
        log.sync_data().expect("fdatasync");
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Freezes a disk, takes the crash images, and thaws it, once it is told to. A program of its own, begun before anything
/// is open on the mirror: one that is begun while the disk is frozen would close what it inherits, and with `writeback`
/// wait for that to reach the disk.
struct PowerCut(Child);

const CUT: &str = r#"read -r _
fsfreeze --freeze "$1"
trap 'fsfreeze --unfreeze "$1"' EXIT
for leg in a b; do cp --sparse=always "$1/$leg.img" "$2/$leg-after.img"; done"#;

impl PowerCut {
    fn prepared(disk: &Path, images: &Path) -> PowerCut {
        let mut shell = Command::new("sh");
        shell.args(["-ec", CUT, "sh"]).arg(disk).arg(images).stdin(Stdio::piped());
        PowerCut(shell.spawn().expect("a shell"))
    }

    /// Whether there are images now.
    fn now(mut self) -> bool {
        self.0.stdin.take().expect("it is a pipe").write_all(b"now\n").expect("it is told");
        self.0.wait().expect("our own child").success()
    }
}

/// Works on a mirror; at a random moment takes the crash images. Returns how many records had been
/// acknowledged by then.
fn work_and_cut(test: &TestMirror, disk: &Path, random: &mut Random) -> u64 {
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let seed = random.next();
    let cut = PowerCut::prepared(disk, test.scratch().path());
    std::thread::scope(|scope| {
        scope.spawn(|| work(&test.mnt, Random::new(seed), &acknowledged, &stop));
        std::thread::sleep(Duration::from_millis(100 + random.below(1500)));
        let before = acknowledged.load(Ordering::Relaxed);
        let is_cut = cut.now();
        stop.store(true, Ordering::Relaxed);
        assert!(is_cut, "no images of the disk");
        before
    })
}

fn after(test: &TestMirror, leg: &str) -> PathBuf {
    test.scratch().join(format!("{leg}-after.img"))
}

fn cut_and_recover(filesystem: Filesystem, options: &str, random: &mut Random) {
    let scratch = Scratch::new("powercut");
    let disk = scratch.join("disk");
    Filesystem::Ext4.make(&disk, &scratch.join("disk.img"), 1200);
    let test = TestMirror::in_scratch(scratch, &disk, filesystem, options, 320);
    assert!(test.create(&[]).status.success());
    test.mount();
    rustix::fs::sync();
    let acknowledged = work_and_cut(&test, &disk, random);

    test.umount_and_compare();
    for (leg, path) in [("a", &test.a), ("b", &test.b)] {
        must(Command::new("umount").arg(path));
        attach(&after(&test, leg), path);
    }
    test.recover_and_compare();
    let log = fs::read(test.b.join("log")).expect("a synced file in a synced directory is there");
    let records = log.chunks_exact(8).map(|record| u64::from_le_bytes(record.try_into().expect("8 bytes")));
    let whole = records.zip(0..).take_while(|(seen, record)| seen == record).count() as u64;
    assert!(whole >= acknowledged, "{whole} whole records are left of {acknowledged} that were synced");
    println!("{filesystem:?}: {acknowledged} records synced, {whole} found");
}

#[test]
fn after_a_power_cut_the_legs_are_equal_and_what_was_synced_is_there() {
    if !can_mount() || !has_program("fsfreeze") {
        return;
    }
    let mut random = Random::announced();
    for _ in 0..rounds() {
        for filesystem in Filesystem::ON_DEVICES {
            cut_and_recover(filesystem, "", &mut random);
        }
    }
}

#[test]
fn with_writeback_too() {
    if !can_mount() || !has_program("fsfreeze") {
        return;
    }
    let mut random = Random::announced();
    for filesystem in Filesystem::ON_DEVICES {
        cut_and_recover(filesystem, "writeback", &mut random);
    }
}
