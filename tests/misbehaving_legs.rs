//! A leg on a filesystem that misbehaves: one that fails, delays and hangs chosen operations, and sshfs with a
//! server that stops. That these means do what they say, and that a mirror works on such legs.
//!
//! Needs root, /dev/fuse, sshfs and openssh-sftp-server.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::bad_leg::can_misbehave;
use common::mirror::{mirrorfs, said};
use common::process::must;
use common::sshfs::can_sshfs;
use common::{BadLeg, Filesystem, Scratch, Sshfs, TestMirror, assert_equal, mounts, tree, wait_for};

/// A bad leg over an empty directory.
fn alone(name: &str) -> Option<(BadLeg, Scratch)> {
    can_misbehave().then(|| {
        let scratch = Scratch::new(name);
        (BadLeg::start(&scratch.dir("beneath"), &scratch.join("leg")), scratch)
    })
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.expect_err("it is made to fail").raw_os_error()
}

#[test]
fn a_bad_leg_that_behaves_shows_the_directory_as_it_is() {
    let Some((leg, _scratch)) = alone("behaves") else { return };
    let at = |name: &str| leg.path().join(name);
    tree::source_tree(&at("tree"), 200, 7);
    fs::write(at("file"), vec![1; 100_000]).expect("write");
    fs::set_permissions(at("file"), PermissionsExt::from_mode(0o4711)).expect("chmod");
    std::os::unix::fs::chown(at("file"), Some(1000), Some(1001)).expect("chown");
    let time = std::time::UNIX_EPOCH - Duration::from_millis(1_200);
    let file = File::options().read(true).write(true).open(at("file")).expect("open");
    file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time)).expect("utimes");
    assert_eq!(fs::metadata(at("file")).expect("stat").modified().expect("mtime"), time);
    file.set_len(50_000).expect("truncate");
    file.sync_all().expect("fsync");
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 200_000).expect("fallocate");
    let hole = |file: &File| rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(0)).expect("lseek");
    assert_eq!(hole(&file), hole(&File::open(leg.beneath().join("file")).expect("open")));
    let copy = File::create_new(at("copy")).expect("create");
    let copied = rustix::fs::copy_file_range(&file, None, &copy, None, 10_000).expect("copy_file_range");
    assert_eq!(copied, 10_000);
    rustix::fs::setxattr(at("copy"), "user.name", b"value", rustix::fs::XattrFlags::empty()).expect("setxattr");
    symlink("nowhere", at("link")).expect("symlink");
    fs::hard_link(at("file"), at("second")).expect("link");
    fs::rename(at("second"), at("third")).expect("rename");
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, at("third"), rustix::fs::CWD, at("copy"), exchange)
        .expect("rename with flags");
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, at("null"), rustix::fs::FileType::CharacterDevice, 0o600.into(), device)
        .expect("mknod");
    File::open(leg.path()).and_then(|dir| dir.sync_all()).expect("fsyncdir");
    fs::create_dir(at("dir")).and_then(|()| fs::remove_dir(at("dir"))).expect("mkdir and rmdir");
    fs::write(at("gone"), "x").and_then(|()| fs::remove_file(at("gone"))).expect("unlink");
    let space = rustix::fs::statvfs(leg.path()).expect("statfs");
    assert_eq!(space.f_blocks, rustix::fs::statvfs(leg.beneath()).expect("statfs").f_blocks);
    assert_eq!(
        fs::metadata(at("file")).expect("stat").ino(),
        fs::metadata(leg.beneath().join("file")).expect("stat").ino(),
        "the directory's own numbers"
    );
    assert_equal(leg.path(), leg.beneath());
}

#[test]
fn chosen_requests_fail_and_others_do_not() {
    let Some((leg, _scratch)) = alone("chosen") else { return };
    let at = |name: &str| leg.path().join(name);
    fs::create_dir(at("dir")).expect("mkdir");
    fs::write(at("dir/first"), "1").expect("write");
    fs::write(at("second"), "2").expect("write");

    leg.on("write,read").within("dir/first").fail(libc::EIO);
    assert_eq!(errno(fs::write(at("dir/first"), "x")), Some(libc::EIO));
    assert_eq!(errno(fs::read(at("dir/first"))), Some(libc::EIO));
    fs::write(at("second"), "22").expect("another file");
    fs::rename(at("dir"), at("moved")).expect("rename");
    fs::write(at("moved/first"), "x").expect("the path is not the one that is meant");

    leg.heal();
    leg.on("mkdir").after(1).times(2).fail(libc::ENOSPC);
    let made: Vec<_> = (0..4).map(|n| fs::create_dir(at(&format!("new{n}"))).is_ok()).collect();
    assert_eq!(made, [true, false, false, true]);

    leg.fail("changes", libc::EROFS);
    assert_eq!(errno(fs::remove_file(at("second"))), Some(libc::EROFS));
    assert_eq!(errno(fs::set_permissions(at("second"), PermissionsExt::from_mode(0o600))), Some(libc::EROFS));
    assert_eq!(fs::read(at("second")).expect("no change"), b"22");
    leg.release();
    assert_eq!(errno(fs::remove_file(at("second"))), Some(libc::EROFS), "what fails is not let go");
    leg.fail("all", libc::ENODEV);
    leg.heal();
    fs::remove_file(at("second")).expect("nothing fails any more");
    assert_eq!(leg.count("unlink"), 3);
}

#[test]
fn what_hangs_hinders_nothing_else_and_is_done_late() {
    let Some((leg, _scratch)) = alone("hangs") else { return };
    let files: Vec<_> = (0..40).map(|n| leg.path().join(format!("file{n}"))).collect();
    for file in &files {
        fs::write(file, "before").expect("write");
    }
    leg.hang("write");
    std::thread::scope(|scope| {
        let writers: Vec<_> = files
            .iter()
            .map(|file| scope.spawn(move || File::options().write(true).open(file)?.write_at(b"behind", 0)))
            .collect();
        leg.wait_until_hanging(40);
        assert_eq!(fs::read(&files[39]).expect("read"), b"before");
        fs::create_dir(leg.path().join("dir")).expect("another operation");
        assert!(writers.iter().all(|writer| !writer.is_finished()));
        leg.release();
        for writer in writers {
            assert_eq!(writer.join().expect("no panic").expect("it is done after all"), 6);
        }
    });
    assert_eq!(leg.hanging(), 0);
    assert!(files.iter().all(|file| fs::read(file).expect("read") == b"behind"));

    let start = Instant::now();
    leg.delay("getattr,lookup", Duration::from_millis(100));
    fs::metadata(&files[0]).expect("late");
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_bad_leg_goes_away_whatever_hangs() {
    let Some((mut leg, scratch)) = alone("goes") else { return };
    let file = leg.path().join("file");
    fs::write(&file, "x").expect("write");
    leg.hang("all");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(&file));
        leg.wait_until_hanging(1);
        leg.kill();
        let error = reader.join().expect("no panic").expect_err("nobody answers");
        assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error}");
    });
    assert_eq!(errno(fs::metadata(&file)), Some(libc::ENOTCONN));
    leg.replug();
    assert_eq!(fs::read(&file).expect("back"), b"x");
    leg.unplug();
    assert_eq!(fs::read_dir(leg.path()).expect("an empty directory").count(), 0);
    leg.replug();
    leg.hang("all");
    let (pid, at) = (leg.pid(), leg.path().to_owned());
    drop(leg);
    assert!(common::process::is_gone(pid) && mounts::at(&at).is_none());
    drop(scratch);
    assert!(!at.exists());
}

#[test]
fn sshfs_stops_goes_on_and_dies() {
    if !can_sshfs() {
        return;
    }
    let scratch = Scratch::new("sshfs");
    let leg = Sshfs::start(&scratch, &scratch.dir("beneath"), &scratch.join("leg"), "");
    let file = leg.path().join("file");
    fs::write(&file, "x").expect("write");
    assert_eq!(fs::read(leg.beneath().join("file")).expect("read"), b"x");
    leg.stop();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| fs::write(leg.path().join("late"), "y"));
        // It would have been done by now.
        std::thread::sleep(Duration::from_millis(300));
        assert!(!writer.is_finished() && !leg.beneath().join("late").exists());
        leg.carry_on();
        writer.join().expect("no panic").expect("it is done after all");
    });
    assert_eq!(fs::read(leg.beneath().join("late")).expect("read"), b"y");
    leg.kill_server();
    wait_for("sshfs to give up", || mounts::at(leg.path()).is_none());
}

/// What stands between mirrorfs and leg B. Kept for its end: the leg lives as long.
enum Before {
    BadLeg(BadLeg),
    Sshfs(Sshfs),
}

impl Before {
    fn beneath(&self) -> &Path {
        match self {
            Before::BadLeg(leg) => leg.beneath(),
            Before::Sshfs(leg) => leg.beneath(),
        }
    }
}

/// A mirror with a bad leg as leg B, made and mounted. The leg comes first: it is dropped last, when nobody
/// waits for it any more.
fn on_bad_leg(name: &str) -> Option<(TestMirror, BadLeg)> {
    can_misbehave().then(|| {
        let mut test = unmounted(name);
        let leg = BadLeg::before(&mut test, "b");
        assert!(test.create(&[]).status.success());
        test.mount();
        (test, leg)
    })
}

fn unmounted(name: &str) -> TestMirror {
    let mut test = TestMirror::unmounted(name, Filesystem::Plain, "");
    let log = test.scratch().join("log");
    test.mirror_mut().options = format!("log={}", log.display());
    test
}

fn works(test: &TestMirror) {
    let at = |name: &str| test.mnt.join(name);
    tree::source_tree(&at("tree"), 150, 3);
    let file = File::options().read(true).write(true).create_new(true).open(at("file")).expect("create");
    file.write_all_at(&[1; 300_000], 0).expect("write");
    file.sync_all().expect("fsync");
    let mut data = vec![0; 300_000];
    file.read_exact_at(&mut data, 0).expect("read");
    assert_eq!(data, vec![1; 300_000]);
    fs::rename(at("file"), at("tree/renamed")).expect("rename");
    fs::write(at("gone"), "x").and_then(|()| fs::remove_file(at("gone"))).expect("unlink");
    fs::create_dir(at("dir")).and_then(|()| fs::remove_dir(at("dir"))).expect("rmdir");
    File::open(&test.mnt).and_then(|dir| dir.sync_all()).expect("fsyncdir");
}

#[test]
fn a_mirror_works_on_a_bad_leg_that_behaves() {
    let Some((test, leg)) = on_bad_leg("works") else { return };
    works(&test);
    test.umount();
    must(mirrorfs().arg("compare").arg(&test.a).arg(leg.beneath()));
    assert_equal(&test.a, leg.beneath());
}

#[test]
fn after_a_crash_a_bad_leg_is_made_equal() {
    let Some((test, leg)) = on_bad_leg("crash") else { return };
    works(&test);
    test.kill();
    tear(leg.beneath());
    test.recover_and_compare();
    assert_equal(&test.a, leg.beneath());
}

#[test]
fn after_a_crash_a_bad_leg_that_was_replugged_is_made_equal() {
    let Some((test, mut leg)) = on_bad_leg("replugged") else { return };
    works(&test);
    test.kill();
    let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
    leg.replug();
    tear(leg.beneath());
    test.recover_and_compare();
    assert_equal(&test.a, leg.beneath());
}

/// What a crash between the legs may leave: other bytes, another name.
fn tear(leg: &Path) {
    let file = File::options().write(true).open(leg.join("tree/renamed")).expect("open");
    file.write_all_at(b"torn", 100_000).expect("write");
    fs::rename(leg.join("tree/renamed"), leg.join("file")).expect("rename");
}
