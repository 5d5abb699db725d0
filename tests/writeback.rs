//! The option `writeback`: the kernel keeps what is written until the file is synced or closed. What it tells of a file
//! is right all the same, everything reaches both legs in the end, and what cannot be written is told.
//!
//! Needs root, /dev/fuse and mkfs.ext4.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::MapFlags;
use rustix::process::Signal;

use common::filesystem::attach;
use common::mirror::{mirrorfs, said};
use common::process::{must, run, shell, shell_as_nobody, signal};
use common::raw::Mapping;
use common::{Filesystem, Random, TestMirror, can_mount, process, wait_for};

fn mounted(name: &str) -> Option<TestMirror> {
    can_mount().then(|| TestMirror::on(name, Filesystem::Plain, "writeback"))
}

fn everybody_has(test: &TestMirror, name: &str, expected: &[u8]) {
    for path in test.everywhere(name) {
        assert!(fs::read(&path).expect("read") == expected, "{path:?} is not as it was written");
    }
}

fn mtimes(test: &TestMirror, name: &str) -> [SystemTime; 3] {
    test.everywhere(name).map(|path| fs::metadata(path).expect("stat").modified().expect("a time"))
}

#[test]
fn what_is_written_reaches_the_legs_with_its_time_when_the_file_is_closed() {
    let Some(test) = mounted("writeback-close") else { return };
    let path = test.mnt.join("file");
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).expect("create");
    file.write_all(b"some text").expect("write");
    let written = file.metadata().expect("stat");
    assert_eq!(written.len(), 9);
    for leg in test.on_legs("file") {
        assert_eq!(fs::metadata(&leg).expect("stat").len(), 0, "{leg:?}: this is what the option is for");
    }
    let mut seen = [0; 9];
    let reader = File::open(&path).expect("open");
    reader.read_exact_at(&mut seen, 0).expect("everybody on this machine sees it");
    assert_eq!(&seen, b"some text");
    // The kernel's time is the one of the write, not that of the close.
    std::thread::sleep(Duration::from_millis(50));
    drop((file, reader));
    everybody_has(&test, "file", b"some text");
    assert_eq!(mtimes(&test, "file"), [written.modified().expect("a time"); 3]);
    test.umount_and_compare();
    test.mount();
    assert_eq!(mtimes(&test, "file"), [written.modified().expect("a time"); 3]);
    test.umount_and_compare();
}

#[test]
fn an_fsync_brings_it_to_both_legs() {
    let Some(test) = mounted("writeback-fsync") else { return };
    let mut file = File::create(test.mnt.join("file")).expect("create");
    file.write_all(b"synced").expect("write");
    file.sync_data().expect("fdatasync");
    everybody_has(&test, "file", b"synced");
    file.write_all(b", twice").expect("write");
    file.sync_all().expect("fsync");
    everybody_has(&test, "file", b"synced, twice");
    let path = test.mnt.join("each");
    let mut each = OpenOptions::new().write(true).create(true).custom_flags(libc::O_SYNC).open(path);
    each.as_mut().expect("create").write_all(b"by itself").expect("write");
    everybody_has(&test, "each", b"by itself");
    drop((file, each));
    test.umount_and_compare();
}

#[test]
fn writes_appends_truncates_and_mappings_of_one_file_are_seen_in_their_order() {
    let Some(test) = mounted("writeback-mixed") else { return };
    let mut random = Random::announced();
    let path = test.mnt.join("file");
    let whole = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
    // Parts of pages through a descriptor that may not read: the kernel has to read the rest of them.
    let blind = OpenOptions::new().write(true).open(&path).expect("open");
    let mut end = OpenOptions::new().append(true).open(&path).expect("open");
    let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(&path).expect("open");
    let mut model: Vec<u8> = Vec::new();
    let put = |model: &mut Vec<u8>, at: usize, data: &[u8]| {
        model.resize(model.len().max(at + data.len()), 0);
        model[at..at + data.len()].copy_from_slice(data);
    };
    for _ in 0..400 {
        let (at, len) = (random.below(500_000) as usize, random.below(9_000) as usize + 1);
        let data = random.bytes(len);
        match random.below(10) {
            0..=2 => {
                blind.write_all_at(&data, at as u64).expect("write");
                put(&mut model, at, &data);
            }
            3 | 4 => {
                end.write_all(&data).expect("append");
                model.extend(&data);
            }
            5 => {
                let aligned = random.below(100) as usize * 4096;
                direct.write_all_at(&data[..len.min(512)], aligned as u64).expect("O_DIRECT, not aligned");
                put(&mut model, aligned, &data[..len.min(512)]);
            }
            6 => {
                whole.set_len(at as u64).expect("truncate");
                model.resize(at, 0);
            }
            7 if model.len() > 10_000 => {
                let mut mapping = Mapping::new(&whole, model.len(), MapFlags::SHARED).expect("mmap");
                let (at, len) = (at % (model.len() - 9_000), len.min(9_000));
                mapping.bytes()[at..at + len].copy_from_slice(&data[..len]);
                model[at..at + len].copy_from_slice(&data[..len]);
            }
            8 => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&whole, flags, at as u64, len as u64).expect("punch");
                let range = at.min(model.len())..(at + len).min(model.len());
                model[range].fill(0);
            }
            _ => whole.sync_data().expect("fdatasync"),
        }
        assert_eq!(whole.metadata().expect("stat").len(), model.len() as u64);
    }
    assert!(fs::read(&path).expect("read") == model);
    drop((whole, blind, end, direct));
    everybody_has(&test, "file", &model);
    test.umount_and_compare();
}

#[test]
fn a_copy_has_what_is_not_written_back_yet() {
    let Some(test) = mounted("writeback-copy") else { return };
    let mut file = File::create(test.mnt.join("file")).expect("create");
    file.seek(SeekFrom::Start(1 << 20)).expect("seek");
    file.write_all(b"behind a hole that only the kernel knows").expect("write");
    // cp asks where there is data before it reads, and copies within the filesystem if it can.
    shell(
        &test.mnt,
        "cp file by-cp; cp --reflink=never --sparse=always file read; tar cSf - file | tar xOf - > by-tar",
    );
    let expected = fs::read(test.mnt.join("file")).expect("read");
    for copy in ["by-cp", "read", "by-tar"] {
        assert!(fs::read(test.mnt.join(copy)).expect("read") == expected, "{copy}");
    }
    drop(file);
    test.umount_and_compare();
}

#[test]
fn a_write_by_an_ordinary_user_drops_suid_and_sgid() {
    let Some(test) = mounted("writeback-suid") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, "some data").expect("write");
    for script in ["echo x >> file", "truncate -s 3 file", "fallocate -l 100 file"] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("chmod");
        let output = shell_as_nobody(&test.mnt, script);
        assert!(output.status.success(), "{script}: {}", said(&output));
        for path in test.everywhere("file") {
            let mode = fs::metadata(&path).expect("stat").mode() & 0o7777;
            assert_eq!(mode, 0o777, "{script}: {path:?} has {mode:o}");
        }
    }
    test.umount_and_compare();
}

#[test]
fn times_set_by_a_program_stay() {
    let Some(test) = mounted("writeback-times") else { return };
    let path = test.mnt.join("file");
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    let mut file = File::create(&path).expect("create");
    file.write_all(b"written before the time is set").expect("write");
    file.set_modified(long_ago).expect("utimensat");
    drop(file);
    assert_eq!(mtimes(&test, "file"), [long_ago; 3]);
    // What changes the file's names changes no time of its data.
    fs::rename(&path, test.mnt.join("other")).expect("rename");
    fs::hard_link(test.mnt.join("other"), &path).expect("link");
    fs::remove_file(test.mnt.join("other")).expect("unlink");
    assert_eq!(mtimes(&test, "file"), [long_ago; 3]);
    test.umount_and_compare();
}

/// A mirror of which one leg has little room, and how much of it is free.
fn with_a_small_leg(small: usize) -> TestMirror {
    let test = TestMirror::unmounted("writeback-full", Filesystem::Plain, "writeback");
    for (at, dir) in [&test.a, &test.b].into_iter().enumerate() {
        let image = dir.with_extension("img");
        let mib = if at == small { 24 } else { 200 };
        File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("a sparse image");
        must(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-b", "4096", "-m", "0", "-O", "^resize_inode"])
                .arg(&image),
        );
        attach(&image, dir);
        let _ = fs::remove_dir(dir.join("lost+found"));
    }
    let output = test.create(&[]);
    assert!(output.status.success(), "cannot create: {}", said(&output));
    test.mount();
    test
}

fn is_enospc(result: io::Result<()>) -> bool {
    result.is_err_and(|error| error.raw_os_error() == Some(libc::ENOSPC))
}

#[test]
fn a_leg_without_room_is_told_at_the_sync_and_leaves_both_equal() {
    if !can_mount() {
        return;
    }
    for small in [0, 1] {
        let test = with_a_small_leg(small);
        let leg = [&test.a, &test.b][small];
        let free = || {
            let space = rustix::fs::statvfs(leg).expect("statvfs");
            space.f_bavail * space.f_frsize
        };
        // All but half a request: the leg takes a part of the last one, of which the kernel keeps no count.
        let filler = File::create(test.mnt.join("filler")).expect("create");
        filler.write_all_at(&vec![1; free() as usize - (600 << 10)], 0).expect("write");
        filler.sync_all().expect("this fits");
        let path = test.mnt.join("file");
        let mut file = File::create(&path).expect("create");
        let all_taken = file.write_all(&vec![2; 1 << 20]);
        assert!(all_taken.is_ok() || is_enospc(all_taken), "told at the write or later");
        assert!(is_enospc(file.sync_all()), "leg {small}: somebody has to hear of it");
        drop((file, filler));
        fs::remove_file(&path).expect("the mirror is writable");
        fs::write(&path, "there is room again").expect("write");
        everybody_has(&test, "file", b"there is room again");
        assert!(test.status()["legs"].as_array().expect("two").iter().all(|leg| leg["state"] == "in_sync"));
        test.umount_and_compare();
    }
}

/// 40 files with 100 KB each that are open, and not synced.
fn unwritten(mnt: &Path) -> Vec<File> {
    let file = |number: u8| {
        let mut file = File::create(mnt.join(format!("open{number}"))).expect("create");
        file.write_all(&vec![number; 100_000]).expect("write");
        file
    };
    (0..40).map(file).collect()
}

fn assert_written(test: &TestMirror) {
    for leg in [&test.a, &test.b] {
        for number in 0..40u8 {
            let data = fs::read(leg.join(format!("open{number}"))).expect("read");
            assert!(data == vec![number; 100_000], "open{number} on {leg:?} has {} bytes", data.len());
        }
    }
}

#[test]
fn a_signal_writes_everything_back_first() {
    let Some(test) = mounted("writeback-signal") else { return };
    let files = unwritten(&test.mnt);
    let pid = test.pid();
    signal(pid, Signal::TERM);
    wait_for("the daemon to end", || process::is_gone(pid));
    drop(files);
    test.assert_equal();
    assert_written(&test);
}

#[test]
fn a_mount_taken_away_lazily_is_served_until_the_last_file_is_closed() {
    let Some(test) = mounted("writeback-lazy") else { return };
    let files = unwritten(&test.mnt);
    let pid = test.pid();
    must(Command::new("umount").arg("-l").arg(&test.mnt));
    drop(files);
    wait_for("the daemon to end", || process::is_gone(pid));
    test.assert_equal();
    assert_written(&test);
}

#[test]
fn a_leg_taken_out_over_unwritten_data_loses_nothing() {
    let Some(test) = mounted("writeback-fail") else { return };
    for leg in ["A", "B"] {
        let files = unwritten(&test.mnt);
        let command = |verb: &str| run(mirrorfs().arg(verb).arg(&test.mnt).arg(leg));
        assert!(command("fail").status.success());
        files.iter().for_each(|file| file.sync_all().expect("one leg is enough"));
        let output = command("re-add");
        assert!(output.status.success(), "{}", said(&output));
        must(mirrorfs().arg("wait").arg(&test.mnt));
        drop(files);
        assert_written(&test);
    }
    test.umount_and_compare();
}

#[test]
fn a_reader_of_a_file_that_grows_sees_all_of_it() {
    let Some(test) = mounted("writeback-grows") else { return };
    let path = test.mnt.join("file");
    let mut writer = File::create(&path).expect("create");
    let mut reader = File::open(&path).expect("open");
    for number in 0..2000u32 {
        writer.write_all(&number.to_le_bytes()).expect("write");
        let mut seen = [0; 4];
        reader.read_exact(&mut seen).expect("what was written is there");
        assert_eq!(u32::from_le_bytes(seen), number);
    }
    drop((writer, reader));
    test.umount_and_compare();
}
