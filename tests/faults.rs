//! A leg that fails under a mounted mirror: the mirror goes on with the other one and says so, the fault is on
//! the survivor before the reply, no bit is cleared any more, nothing hangs, and the next mount brings the
//! leg that failed up to date. Each leg in turn is the one that fails, also the source.
//!
//! Needs root, /dev/fuse, mkfs.ext4 and mkfs.xfs.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::filesystem::attach;
use common::mirror::{mirrorfs, said};
use common::process::{must, run};
use common::raw::shut_down_filesystem;
use common::{Filesystem, TestMirror, can_mount, have, mounts};

/// How a leg is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The filesystem is shut down: EIO from now on.
    ShutDown,
    /// It found an error in itself and became read-only (`errors=remount-ro`).
    RemountedReadOnly,
}

/// How the daemon ends after the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Umount,
    Kill,
}

/// The leg called `a` or `b`, and the other one.
fn legs(test: &TestMirror, bad: &str) -> [PathBuf; 2] {
    let other = if bad == "a" { "b" } else { "a" };
    [bad, other].map(|name| test.scratch().join(name))
}

fn fail(leg: &Path, how: How) {
    match how {
        How::ShutDown => shut_down_filesystem(leg).expect("shutdown"),
        How::RemountedReadOnly => {
            let device = mounts::at(leg).expect("the leg is mounted").source;
            let name = Path::new(&device).file_name().expect("a device").to_owned();
            let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
            fs::write(trigger, "made to fail by a test").expect("trigger_fs_error");
        }
    }
}

/// The leg's filesystem is taken away, made whole and mounted again.
fn heal(test: &TestMirror, leg: &Path, filesystem: Filesystem) {
    must(Command::new("umount").arg(leg));
    let image = test.scratch().join(leg.with_extension("img"));
    if filesystem == Filesystem::Ext4 {
        // Exits with 1 when it has set right what was wrong.
        let output = run(Command::new("e2fsck").args(["-f", "-p"]).arg(&image));
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", said(&output));
    }
    attach(&image, leg);
    // e2fsck misses it.
    let _ = fs::remove_dir(leg.join("lost+found"));
}

fn kill_and_detach(test: &TestMirror) {
    test.kill();
    let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
}

/// What the mirror must still do after a leg has failed: everything, and without hanging.
fn still_answers(test: &TestMirror) {
    fs::write(test.mnt.join("new"), "x").expect("write");
    fs::rename(test.mnt.join("first"), test.mnt.join("renamed")).expect("rename");
    fs::rename(test.mnt.join("renamed"), test.mnt.join("first")).expect("rename back");
    assert_eq!(fs::read(test.mnt.join("first")).expect("read"), vec![1; 50_000]);
    let listed = fs::read_dir(&test.mnt).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    assert_eq!(listed.expect("list").len(), 3);
    rustix::fs::statvfs(&test.mnt).expect("the survivor counts");
    File::open(test.mnt.join("first")).and_then(|file| file.sync_all()).expect("it is on the survivor");
}

/// The state, the leg and the log name what has happened.
fn says_so(test: &TestMirror, bad: &str) {
    let status = test.status();
    let name = bad.to_uppercase();
    assert_eq!(status["state"], "degraded", "{status}");
    let index = usize::from(bad == "b");
    assert_eq!(status["legs"][index]["state"], "faulted", "{status}");
    assert!(status["legs"][index]["missing_objects"].as_u64().is_some_and(|count| count > 0), "{status}");
    assert_eq!(status["legs"][1 - index]["state"], "in_sync", "{status}");
    assert!(status["dirty"]["slots"].as_u64().is_some_and(|slots| slots > 0), "bits are kept: {status}");
    let text = must(mirrorfs().arg("status").arg(&test.mnt));
    assert!(text.contains("re-add"), "what to do: {text}");
    let log = fs::read_to_string(test.scratch().join("log")).expect("the log");
    let leg = if bad == "a" { &test.a } else { &test.b };
    let fails = format!("Fail: leg {name} of {}: at {}: ", test.mnt.display(), leg.display());
    assert!(log.contains(&fails), "the log: {log}");
}

/// The survivor's superblock tells of the other leg, without its help.
fn is_recorded(survivor: &Path) {
    let text = must(mirrorfs().arg("examine").arg(survivor));
    assert!(text.to_lowercase().contains("stale"), "{text}");
}

/// A mirror with something old and clean, something dirty, and a file open for writing.
fn working(filesystem: Filesystem) -> (TestMirror, File) {
    let mut test = TestMirror::unmounted("faults", filesystem, "");
    if filesystem == Filesystem::Ext4 {
        for leg in ["a", "b"] {
            let leg = test.scratch().join(leg);
            must(Command::new("mount").args(["-o", "remount,errors=remount-ro"]).arg(&leg));
        }
    }
    let log = test.scratch().join("log");
    test.mirror_mut().options = format!("log={}", log.display());
    assert!(test.create(&[]).status.success());
    test.mount();
    fs::write(test.mnt.join("first"), vec![1; 50_000]).expect("write");
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    let file = File::options().read(true).write(true).create_new(true).open(test.mnt.join("dir/open"));
    let file = file.expect("create");
    file.write_all_at(&[2; 100_000], 0).expect("write");
    file.sync_all().expect("fsync");
    (test, file)
}

fn fails_and_comes_back(filesystem: Filesystem, bad: &str, how: How, end: End) {
    println!("{filesystem:?}: leg {bad}, {how:?}, then {end:?}");
    let (test, file) = working(filesystem);
    let [leg, survivor] = legs(&test, bad);
    fail(&leg, how);

    // The write that meets the fault. What is acknowledged must be there after everything.
    assert_eq!(file.write_at(&[3; 4096], 8192).expect("the survivor has it"), 4096);
    // It may have gone to the page cache of a leg that is gone. A sync finds out.
    file.sync_all().expect("the survivor has it");
    still_answers(&test);
    says_so(&test, bad);
    // So far the mark of the root has covered it, as the file is new.
    assert_eq!(file.write_at(&[3; 4096], 8192).expect("the survivor has it"), 4096);
    drop(file);
    match end {
        End::Umount => test.umount(),
        End::Kill => kill_and_detach(&test),
    }
    is_recorded(&survivor);
    let dirty = must(mirrorfs().arg("examine").arg(&survivor));
    assert!(dirty.contains("open"), "what the other leg missed is still marked: {dirty}");

    heal(&test, &leg, filesystem);
    test.recover_and_compare();
    let mut expected = vec![2; 100_000];
    expected[8192..8192 + 4096].fill(3);
    for leg in [&test.a, &test.b] {
        assert!(fs::read(leg.join("dir/open")).expect("read") == expected, "{}", leg.display());
        assert_eq!(fs::read(leg.join("first")).expect("read"), vec![1; 50_000]);
    }
    // And it is an ordinary mirror again, with A as the source.
    test.mount();
    assert_eq!(test.status()["legs"][0]["state"], "in_sync");
    fs::write(test.mnt.join("dir/more"), "x").expect("write");
    test.umount_and_compare();
}

#[test]
fn an_ext4_leg_that_is_shut_down() {
    if can_mount() {
        fails_and_comes_back(Filesystem::Ext4, "b", How::ShutDown, End::Umount);
        fails_and_comes_back(Filesystem::Ext4, "a", How::ShutDown, End::Kill);
    }
}

#[test]
fn an_xfs_leg_that_is_shut_down() {
    if can_mount() {
        fails_and_comes_back(Filesystem::Xfs, "a", How::ShutDown, End::Umount);
        fails_and_comes_back(Filesystem::Xfs, "b", How::ShutDown, End::Kill);
    }
}

#[test]
fn a_leg_that_becomes_read_only() {
    if can_mount() && have("ext4's trigger_fs_error", Path::new("/sys/fs/ext4").exists()) {
        fails_and_comes_back(Filesystem::Ext4, "a", How::RemountedReadOnly, End::Umount);
        fails_and_comes_back(Filesystem::Ext4, "b", How::RemountedReadOnly, End::Umount);
        fails_and_comes_back(Filesystem::Ext4, "a", How::RemountedReadOnly, End::Kill);
        fails_and_comes_back(Filesystem::Ext4, "b", How::RemountedReadOnly, End::Kill);
    }
}

/// `mount -o remount,ro` on a leg is refused while the mirror uses it: its bitmap is open for writing.
#[test]
fn a_leg_in_use_cannot_be_remounted_read_only() {
    if !can_mount() {
        return;
    }
    let (test, file) = working(Filesystem::Ext4);
    for leg in [&test.a, &test.b] {
        let output = run(Command::new("mount").args(["-o", "remount,ro"]).arg(leg));
        assert!(!output.status.success() && said(&output).contains("busy"), "{}", said(&output));
    }
    file.write_all_at(&[4; 4096], 0).expect("the mirror has not noticed");
    drop(file);
    test.umount_and_compare();
}

/// Requests other than a write to an open file are the first to meet the fault: those that first
/// have to find an object on the leg that is gone.
#[test]
fn whatever_meets_the_fault_first_records_it() {
    type Request = fn(&TestMirror) -> io::Result<()>;
    let requests: [(&str, Request); 7] = [
        ("create", |test| fs::write(test.mnt.join("dir/created"), "x")),
        ("mkdir", |test| fs::create_dir(test.mnt.join("dir/made"))),
        ("unlink", |test| fs::remove_file(test.mnt.join("dir/open"))),
        ("rename", |test| fs::rename(test.mnt.join("dir/open"), test.mnt.join("moved"))),
        ("chmod", |test| rustix::fs::chmod(test.mnt.join("first"), 0o600.into()).map_err(Into::into)),
        ("truncate", |test| File::options().write(true).open(test.mnt.join("first"))?.set_len(5)),
        ("link", |test| fs::hard_link(test.mnt.join("first"), test.mnt.join("second"))),
    ];
    if !can_mount() {
        return;
    }
    for (name, request) in requests {
        for bad in ["a", "b"] {
            println!("{name} meets the fault of {bad}");
            let (test, file) = working(Filesystem::Xfs);
            drop(file);
            // A new mount knows no object of either leg yet.
            test.umount();
            test.mount();
            fs::metadata(test.mnt.join("first")).and(fs::metadata(test.mnt.join("dir/open"))).expect("stat");
            let [leg, survivor] = legs(&test, bad);
            fail(&leg, How::ShutDown);
            let done = request(&test);
            done.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(test.status()["state"], "degraded", "{name} has met the fault");
            kill_and_detach(&test);
            is_recorded(&survivor);
            heal(&test, &leg, Filesystem::Xfs);
            test.recover_and_compare();
            // Done again, it finds that it is done.
            test.mount();
            let again = request(&test).err().and_then(|error| error.raw_os_error());
            let idempotent = matches!(name, "create" | "chmod" | "truncate");
            assert!(idempotent || matches!(again, Some(libc::EEXIST | libc::ENOENT)), "{name}: {again:?}");
            test.umount_and_compare();
        }
    }
}

/// What a leg's disk loses after it was acknowledged is found by fsync, and is brought back from the
/// other leg: the disk of this one is an image on a tmpfs that is full.
#[test]
fn lost_writes_are_caught_up_from_the_survivor() {
    if !can_mount() {
        return;
    }
    for bad in ["a", "b"] {
        let mut test = TestMirror::unmounted("lost", Filesystem::Plain, "");
        let [leg, survivor] = legs(&test, bad);
        let disks = test.scratch().join("disks");
        Filesystem::Tmpfs.make(&disks, Path::new(""), 40);
        let [image, other] = [disks.join("bad.img"), test.scratch().join("good.img")];
        Filesystem::Ext4.make(&leg, &image, 320);
        Filesystem::Ext4.make(&survivor, &other, 320);
        for leg in [&leg, &survivor] {
            let _ = fs::remove_dir(leg.join("lost+found"));
        }
        let log = test.scratch().join("log");
        test.mirror_mut().options = format!("log={}", log.display());
        let output = test.create(&[]);
        assert!(output.status.success(), "{}", said(&output));
        test.mount();
        fs::write(test.mnt.join("first"), vec![1; 50_000]).expect("write");
        let file = File::create(test.mnt.join("open")).expect("create");
        file.write_all_at(&[2; 4096], 0).expect("write");
        file.sync_all().expect("fsync");

        // More than the disk has room for, little enough for the page cache.
        file.write_all_at(&vec![3; 48 << 20], 4096).expect("the page cache takes it");
        file.sync_all().expect("it is on the survivor");
        says_so(&test, bad);
        drop(file);
        kill_and_detach(&test);
        is_recorded(&survivor);

        must(Command::new("umount").arg(&leg));
        must(Command::new("mount").args(["-o", "remount,size=400m"]).arg(&disks));
        let output = run(Command::new("e2fsck").args(["-f", "-y"]).arg(&image));
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", said(&output));
        attach(&image, &leg);
        let _ = fs::remove_dir(leg.join("lost+found"));
        test.recover_and_compare();
        let found = fs::read(test.a.join("open")).expect("read");
        assert!(found[..4096] == [2; 4096] && found[4096..] == vec![3; 48 << 20], "what was acknowledged");
        assert_eq!(fs::read(test.a.join("first")).expect("read"), vec![1; 50_000]);
    }
}
