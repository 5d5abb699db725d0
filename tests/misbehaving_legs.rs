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
use common::compare::assert_same_data;
use common::mirror::{mirrorfs, said};
use common::process::{NOBODY, must, shell_as_nobody};
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
    rustix::fs::setxattr(at("copy"), "user.name", b"value", rustix::fs::XattrFlags::empty())
        .expect("setxattr");
    symlink("nowhere", at("link")).expect("symlink");
    fs::hard_link(at("file"), at("second")).expect("link");
    fs::rename(at("second"), at("third")).expect("rename");
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, at("third"), rustix::fs::CWD, at("copy"), exchange)
        .expect("rename with flags");
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("null"),
        rustix::fs::FileType::CharacterDevice,
        0o600.into(),
        device,
    )
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

/// A mirror with a bad leg as leg B, made and mounted.
fn on_bad_leg(name: &str) -> Option<(TestMirror, BadLeg)> {
    can_misbehave().then(|| before(name, "b"))
}

fn before(name: &str, bad: &str) -> (TestMirror, BadLeg) {
    let mut test = unmounted(name);
    let leg = BadLeg::before(&mut test, bad);
    let output = test.create(&[]);
    assert!(output.status.success(), "{}", said(&output));
    test.mount();
    (test, leg)
}

fn unmounted(name: &str) -> TestMirror {
    let mut test = TestMirror::unmounted(name, Filesystem::Plain, "");
    let log = test.scratch().join("log");
    test.mirror_mut().options = format!("log={}", log.display());
    test
}

fn works(test: &TestMirror) {
    tree::source_tree(&test.mnt.join("tree"), 150, 3);
    works_plainly(test);
}

fn works_plainly(test: &TestMirror) {
    let at = |name: &str| test.mnt.join(name);
    fs::create_dir_all(at("tree/plain")).expect("mkdir");
    fs::write(at("tree/plain/file"), vec![7; 5000]).expect("write");
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
    recovers(&test);
    test.assert_equal();
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
    recovers(&test);
    test.assert_equal();
    assert_equal(&test.a, leg.beneath());
}

/// Mounts after a crash or a fault, lets everything be made equal, and fails the test if that failed: a leg that
/// was left behind again is not resynced either.
fn recovers(test: &TestMirror) {
    test.mount();
    test.wait_until_resynced();
    is_well(test);
    test.umount();
}

fn is_well(test: &TestMirror) {
    let status = test.status();
    for leg in [0, 1] {
        assert_eq!(status["legs"][leg]["state"], "in_sync", "{status}");
    }
}

/// What a crash between the legs may leave: other bytes, another name.
fn tear(leg: &Path) {
    let file = File::options().write(true).open(leg.join("tree/renamed")).expect("open");
    file.write_all_at(b"torn", 100_000).expect("write");
    fs::rename(leg.join("tree/renamed"), leg.join("file")).expect("rename");
}

/// Only the file's data are dirty: no name leads to it.
#[test]
fn after_a_crash_data_are_found_again_on_a_bad_leg_that_was_replugged() {
    if !can_misbehave() {
        return;
    }
    for bad in ["a", "b"] {
        let (test, mut leg) = before("data", bad);
        let b = if bad == "b" { leg.beneath() } else { &test.b }.to_owned();
        fs::create_dir(test.mnt.join("dir")).expect("mkdir");
        fs::write(test.mnt.join("dir/file"), vec![1; 300_000]).expect("write");
        test.umount();
        test.mount();
        let file = File::options().write(true).open(test.mnt.join("dir/file")).expect("open");
        file.write_all_at(&[2; 4096], 8192).expect("write");
        drop(file);
        test.kill();
        let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
        leg.replug();
        let torn = File::options().write(true).open(b.join("dir/file")).expect("open");
        torn.write_all_at(&[1; 4096], 8192).expect("write");
        drop(torn);
        recovers(&test);
        test.assert_equal();
    }
}

#[test]
fn bits_are_cleared_only_when_the_leg_was_asked_to_sync() {
    let Some((test, leg)) = on_bad_leg("cleared") else { return };
    let before = leg.count("sync");
    fs::write(test.mnt.join("file"), vec![1; 100_000]).expect("write");
    test.wait_until_clean();
    assert!(leg.count("sync") > before);
}

/// The leg has failed, and status says so.
fn is_faulted(test: &TestMirror, leg: usize) {
    wait_for("the fault to show", || test.status()["legs"][leg]["state"] == "faulted");
    let status = test.status();
    assert_eq!(status["legs"][1 - leg]["state"], "in_sync", "{status}");
}

#[test]
fn a_leg_that_fails_to_write_is_faulted_and_made_equal_later() {
    if !can_misbehave() {
        return;
    }
    for (index, bad) in ["a", "b"].into_iter().enumerate() {
        let (test, leg) = before("eio", bad);
        works(&test);
        let file = File::create_new(test.mnt.join("acknowledged")).expect("create");
        file.write_all_at(&[1; 100_000], 0).expect("write");
        leg.on("write").within("acknowledged").fail(libc::EIO);
        // Taken or refused: what is taken must be there.
        let is_taken = file.write_at(&[2; 4096], 4096).is_ok();
        let is_synced = file.sync_all().is_ok();
        is_faulted(&test, index);
        let more = fs::write(test.mnt.join("more"), "x").is_ok();
        drop(file);
        leg.heal();
        test.umount();
        recovers(&test);
        test.assert_equal();
        for root in [&test.a, &test.b] {
            let found = fs::read(root.join("acknowledged")).expect("read");
            assert!(!(is_taken && is_synced) || found[4096..8192] == [2; 4096], "{}", root.display());
            assert!(found[..4096] == [1; 4096] && found[8192..] == [1; 100_000 - 8192]);
            assert!(!more || fs::read(root.join("more")).is_ok_and(|data| data == b"x"));
        }
    }
}

fn on_sshfs(name: &str) -> Option<(TestMirror, Sshfs)> {
    can_sshfs().then(|| {
        let mut test = unmounted(name);
        let leg = Sshfs::before(&mut test, "b", "");
        let output = test.create(&[]);
        assert!(output.status.success(), "{}", said(&output));
        test.mount();
        (test, leg)
    })
}

#[test]
fn a_mirror_works_on_sshfs() {
    let Some((test, leg)) = on_sshfs("onsshfs") else { return };
    works(&test);
    test.umount();
    assert_same_data(&test.a, leg.beneath());
}

/// A clean mirror on sshfs with a file that is open for writing: only its data are going to be dirty.
fn writing_on_sshfs(name: &str) -> Option<(TestMirror, Sshfs, File)> {
    let (test, leg) = on_sshfs(name)?;
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    fs::write(test.mnt.join("dir/file"), vec![1; 100_000]).expect("write");
    test.umount();
    test.mount();
    let file = File::options().write(true).open(test.mnt.join("dir/file")).expect("open");
    Some((test, leg, file))
}

#[test]
fn after_a_crash_a_leg_on_sshfs_is_made_equal() {
    let Some((test, leg, file)) = writing_on_sshfs("sshfscrash") else { return };
    file.write_all_at(&[2; 4096], 4096).expect("write");
    drop(file);
    test.kill();
    let torn = File::options().write(true).open(leg.beneath().join("dir/file")).expect("open");
    torn.write_all_at(b"torn", 6000).expect("write");
    recovers(&test);
    assert_same_data(&test.a, leg.beneath());
}

#[test]
fn sshfs_whose_server_dies_is_faulted_and_made_equal_later() {
    let Some((test, mut leg, file)) = writing_on_sshfs("sshfsdies") else { return };
    leg.kill_server();
    let acknowledged = file.write_at(&[2; 4096], 4096).is_ok();
    file.sync_all().expect("what was acknowledged is on the other leg");
    is_faulted(&test, 1);
    drop(file);
    test.umount();
    leg.replug();
    recovers(&test);
    assert_same_data(&test.a, leg.beneath());
    let found = fs::read(leg.beneath().join("dir/file")).expect("read");
    assert!(!acknowledged || found[4096..8192] == [2; 4096]);
}

/// The file is open on both legs when the server dies, so that the write is acknowledged.
#[test]
fn what_sshfs_missed_is_found_again() {
    let Some((test, mut leg, file)) = writing_on_sshfs("sshfsmissed") else { return };
    file.write_all_at(&[2; 4096], 4096).expect("write");
    leg.kill_server();
    assert_eq!(file.write_at(&[3; 4096], 40960).expect("the other leg has it"), 4096);
    is_faulted(&test, 1);
    drop(file);
    test.umount();
    leg.replug();
    recovers(&test);
    assert_same_data(&test.a, leg.beneath());
}

#[test]
fn after_a_crash_names_on_sshfs_are_made_equal() {
    let Some((test, leg)) = on_sshfs("sshfsnames") else { return };
    works_plainly(&test);
    test.kill();
    // Not beneath sshfs, which would go on showing for a while what it has seen before.
    tear(leg.path());
    recovers(&test);
    assert_same_data(&test.a, leg.beneath());
}

#[test]
fn after_a_crash_a_symlink_that_leads_nowhere_on_sshfs_is_no_trouble() {
    let Some((test, leg)) = on_sshfs("sshfslink") else { return };
    symlink("nowhere", test.mnt.join("link")).expect("symlink");
    test.kill();
    recovers(&test);
    assert_same_data(&test.a, leg.beneath());
}

/// SFTP sets the times of what a symlink leads to, instead of its own.
#[test]
fn times_of_a_symlink_on_sshfs_do_not_reach_what_it_leads_to() {
    let Some((test, leg)) = on_sshfs("sshfslinks") else { return };
    let outside = test.scratch().join("outside");
    fs::write(&outside, "not the mirror's").expect("write");
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = File::options().write(true).open(&outside).expect("open");
    file.set_times(fs::FileTimes::new().set_modified(time)).expect("utimes");
    symlink(&outside, test.mnt.join("link")).expect("symlink");
    must(Command::new("touch").args(["-h", "-d", "@1234567890"]).arg(test.mnt.join("link")));
    must(Command::new("chown").args(["-h", "1234"]).arg(test.mnt.join("link")));
    test.kill();
    recovers(&test);
    let found = fs::metadata(&outside).expect("stat");
    assert_eq!((found.modified().expect("mtime"), found.uid()), (time, 0));
    assert_eq!(fs::symlink_metadata(test.a.join("link")).expect("stat").mtime(), 1_234_567_890);
    assert_same_data(&test.a, leg.beneath());
}

/// sshfs keeps whole seconds.
#[test]
fn a_time_that_a_leg_cannot_keep_is_no_difference() {
    let Some((test, _leg)) = on_sshfs("seconds") else { return };
    let at = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let file = File::create_new(test.mnt.join("file")).expect("create");
    file.write_all_at(&[1; 10_000], 0).expect("write");
    file.set_times(fs::FileTimes::new().set_modified(at).set_accessed(at)).expect("utimes");
    drop(file);
    symlink("file", test.mnt.join("link")).expect("symlink");
    assert_eq!(fs::metadata(test.mnt.join("file")).expect("stat").modified().expect("mtime"), at);
    test.wait_until_clean();
    test.umount();
    assert_eq!(fs::metadata(test.a.join("file")).expect("stat").modified().expect("mtime"), at);
    assert_eq!(fs::metadata(test.b.join("file")).expect("stat").mtime_nsec(), 0);
    must(mirrorfs().arg("compare").arg(&test.a).arg(&test.b));
    // A whole second more is a difference.
    must(Command::new("touch").args(["-d", "@1000000001"]).arg(test.b.join("file")));
    let output = common::process::run(mirrorfs().arg("compare").arg(&test.a).arg(&test.b));
    assert!(said(&output).contains("file: mtime"), "{}", said(&output));
}

/// A server that syncs nothing leaves the bits set, and a leg that could not be synced is not believed.
#[test]
fn a_leg_whose_sync_fails_is_left_behind_and_its_bits_stay() {
    if !can_misbehave() {
        return;
    }
    for (index, bad) in ["a", "b"].into_iter().enumerate() {
        let (test, leg) = before("syncfails", bad);
        fs::write(test.mnt.join("file"), vec![1; 100_000]).expect("write");
        leg.on("fsync").within("file").fail(libc::EIO);
        is_faulted(&test, index);
        assert!(test.status()["dirty"]["slots"].as_u64().is_some_and(|slots| slots > 0));
        leg.heal();
        test.umount();
        recovers(&test);
        test.assert_equal();
    }
}

/// sshfs, for one, acknowledges writes before they are done.
#[test]
fn a_write_that_fails_late_faults_the_leg_at_the_next_sync() {
    if !can_misbehave() {
        return;
    }
    for (index, bad) in ["a", "b"].into_iter().enumerate() {
        let (test, leg) = before("late", bad);
        leg.on("flush").within("file").fail(libc::ENOSPC);
        fs::write(test.mnt.join("file"), vec![1; 100_000]).expect("write");
        is_faulted(&test, index);
        leg.heal();
        test.umount();
        recovers(&test);
        test.assert_equal();
    }
}

#[test]
fn names_and_attributes_are_synced_one_by_one() {
    let Some((test, leg)) = on_bad_leg("names") else { return };
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    fs::write(test.mnt.join("dir/file"), "x").expect("write");
    test.wait_until_clean();
    let (files, dirs) = (leg.count("fsync"), leg.count("fsyncdir"));
    fs::rename(test.mnt.join("dir/file"), test.mnt.join("moved")).expect("rename");
    fs::set_permissions(test.mnt.join("moved"), PermissionsExt::from_mode(0o600)).expect("chmod");
    test.wait_until_clean();
    // The bitmap and the superblock are synced, too: only of directories no others are.
    assert!(leg.count("fsyncdir") >= dirs + 2, "both directories");
    assert!(leg.count("fsync") > files, "the file");
}

/// The other leg does it: that one of them cannot open the file is that leg's fault.
#[test]
fn a_file_that_one_leg_cannot_open_is_written_all_the_same() {
    if !can_misbehave() {
        return;
    }
    for (index, bad) in ["a", "b"].into_iter().enumerate() {
        let (test, leg) = before("open", bad);
        fs::write(test.mnt.join("file"), vec![1; 10_000]).expect("write");
        leg.on("open").within("file").fail(libc::EIO);
        let file = File::options().write(true).open(test.mnt.join("file")).expect("open");
        assert_eq!(file.write_at(&[2; 4096], 4096).expect("write"), 4096);
        file.sync_all().expect("fsync");
        is_faulted(&test, index);
        drop(file);
        leg.heal();
        test.umount();
        recovers(&test);
        test.assert_equal();
        assert_eq!(fs::read(test.a.join("file")).expect("read")[4096..8192], [2; 4096]);
    }
}

/// What the mount called an object on the leg before says nothing about it now.
#[test]
fn what_a_leg_missed_is_found_again_by_re_add_after_it_was_replugged() {
    if !can_misbehave() {
        return;
    }
    for (index, bad) in ["a", "b"].into_iter().enumerate() {
        let (test, mut leg) = before("readd", bad);
        works(&test);
        must(mirrorfs().arg("fail").arg(&test.mnt).arg(bad.to_uppercase()));
        let file = File::options().write(true).open(test.mnt.join("tree/renamed")).expect("open");
        file.write_all_at(&[2; 4096], 100_000).expect("write");
        drop(file);
        fs::rename(test.mnt.join("tree/plain"), test.mnt.join("away")).expect("rename");
        fs::write(test.mnt.join("new"), "n").expect("write");
        leg.replug();
        must(mirrorfs().arg("re-add").arg(&test.mnt).arg(bad.to_uppercase()));
        test.wait_until_resynced();
        is_well(&test);
        assert_eq!(test.status()["legs"][index]["state"], "in_sync");
        test.umount();
        test.assert_equal();
        assert_eq!(fs::read(test.b.join("tree/renamed")).expect("read")[100_000..104_096], [2; 4096]);
    }
}

#[test]
fn a_failed_resync_is_over_and_status_says_so() {
    let Some((test, leg)) = on_bad_leg("failed") else { return };
    works(&test);
    test.kill();
    tear(&test.a);
    leg.on("rename").within("file").fail(libc::EIO);
    test.mount();
    test.wait_until_resynced();
    is_faulted(&test, 1);
    assert_eq!(test.status()["resync"]["active"], false);
    leg.heal();
    test.umount();
    recovers(&test);
    test.assert_equal();
}

/// What is still to be compared is held open on such a leg, so that what was removed meanwhile is told from what
/// cannot be found.
#[test]
fn a_file_that_is_removed_before_its_data_is_compared_is_no_trouble() {
    if !can_misbehave() {
        return;
    }
    for bad in ["a", "b"] {
        let (test, leg) = before("removed", bad);
        for name in ["kept", "removed", "replaced"] {
            fs::write(test.mnt.join(name), vec![1; 6 << 20]).expect("write");
        }
        test.kill();
        leg.delay("read", Duration::from_millis(20));
        test.mount();
        fs::remove_file(test.mnt.join("removed")).expect("unlink");
        fs::write(test.mnt.join("new"), "new").expect("write");
        fs::rename(test.mnt.join("new"), test.mnt.join("replaced")).expect("rename");
        test.wait_until_resynced();
        is_well(&test);
        leg.heal();
        test.umount();
        test.assert_equal();
    }
}

/// A server makes what it is asked for as the user that it was logged in as.
#[test]
fn what_an_ordinary_user_makes_on_sshfs_is_the_users() {
    let Some((test, leg)) = on_sshfs("sshfsowner") else { return };
    fs::set_permissions(&test.mnt, PermissionsExt::from_mode(0o777)).expect("chmod");
    fs::create_dir(test.mnt.join("group")).expect("mkdir");
    std::os::unix::fs::chown(test.mnt.join("group"), None, Some(4321)).expect("chown");
    fs::set_permissions(test.mnt.join("group"), PermissionsExt::from_mode(0o2777)).expect("chmod");
    let made = shell_as_nobody(&test.mnt, "echo x > file && mkdir dir && echo y > group/file");
    assert!(made.status.success(), "{}", said(&made));
    test.umount();
    for root in [&test.a, leg.beneath()] {
        let owner = |name: &str| fs::metadata(root.join(name)).map(|meta| (meta.uid(), meta.gid()));
        for name in ["file", "dir"] {
            assert_eq!(owner(name).expect("stat"), (NOBODY, NOBODY), "{name} in {}", root.display());
        }
        assert_eq!(owner("group/file").expect("stat"), (NOBODY, 4321), "in {}", root.display());
    }
}

/// What is there before the mirror is.
#[test]
fn create_fills_a_leg_on_fuse_and_syncs_it() {
    if !can_sshfs() || !can_misbehave() {
        return;
    }
    let outside_time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for on_sshfs in [true, false] {
        let mut test = unmounted("filled");
        let outside = test.scratch().join("outside");
        let file = File::create(&outside).expect("create");
        file.set_times(fs::FileTimes::new().set_modified(outside_time)).expect("utimes");
        tree::source_tree(&test.a.join("tree"), 50, 5);
        symlink(&outside, test.a.join("link")).expect("symlink");
        symlink("nowhere", test.a.join("tree/dangling")).expect("symlink");
        let sshfs = on_sshfs.then(|| Sshfs::before(&mut test, "b", ""));
        let bad = (!on_sshfs).then(|| BadLeg::before(&mut test, "b"));
        let output = test.create(&["--source".as_ref(), "A".as_ref()]);
        assert!(output.status.success(), "{}", said(&output));
        let files =
            Command::new("find").arg(&test.a).args(["-type", "f", "-not", "-path", "*/.mirrorfs/*"]).output();
        let files =
            files.expect("find").stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
        if let Some(bad) = &bad {
            assert!(bad.count("fsync") >= files as u64, "each of {files} files");
            assert_same_data(&test.a, bad.beneath());
        }
        if let Some(sshfs) = &sshfs {
            assert_same_data(&test.a, sshfs.beneath());
        }
        assert_eq!(fs::metadata(&outside).expect("stat").modified().expect("mtime"), outside_time);
        test.mount();
        is_well(&test);
        test.umount();
    }
}

/// sshfs counts its objects from one at each mount, in the order in which they are looked at.
#[test]
fn a_number_that_is_another_files_by_now_is_not_believed() {
    let Some((test, mut leg)) = on_sshfs("renumbered") else { return };
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    for name in ["one", "two"] {
        fs::write(test.mnt.join("dir").join(name), vec![1; 100_000]).expect("write");
    }
    for pad in 0..100 {
        fs::write(test.mnt.join(format!("pad{pad}")), "").expect("write");
    }
    test.umount();
    leg.replug();
    test.mount();
    let file = File::options().write(true).open(test.mnt.join("dir/two")).expect("open");
    file.write_all_at(&[2; 4096], 4096).expect("write");
    let number = |name: &str| fs::metadata(leg.path().join(name)).expect("stat").ino();
    let of_two = number("dir/two");
    leg.kill_server();
    file.write_all_at(&[3; 4096], 40960).expect("the other leg has it");
    is_faulted(&test, 1);
    drop(file);
    test.umount();
    leg.replug();
    let number = |name: &str| fs::metadata(leg.path().join(name)).expect("stat").ino();
    number("dir");
    (0..100).find(|pad| number(&format!("pad{pad}")) + 1 >= of_two).expect("enough of them");
    assert_eq!(number("dir/one"), of_two, "it has got the other file's number");
    recovers(&test);
    assert_same_data(&test.a, leg.beneath());
}
