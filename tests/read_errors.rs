//! A disk that cannot read what it holds: a block of a file is changed on the disk below btrfs, which answers with
//! EIO by its checksum until the block is written anew. The mirror answers from the other leg and writes it anew;
//! a recovery passes over what its source cannot read, and says which file that is.
//!
//! Needs root, /dev/fuse and mkfs.btrfs.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use common::mirror::{mirrorfs, said};
use common::process::{must, run};
use common::{Filesystem, Random, TestMirror, can_mount, has_program, wait_for};
use rustix::fs::{Advice, fadvise};

const BLOCK: usize = 4096;

/// Several blocks, of which the last one is not full.
const LENGTH: usize = 200_123;

/// The same bytes nowhere else on the disk.
fn unique(seed: u64) -> Vec<u8> {
    Random::new(seed).bytes(LENGTH)
}

fn mirror() -> Option<TestMirror> {
    if !(can_mount() && has_program("mkfs.btrfs")) {
        return None;
    }
    let mut test = TestMirror::unmounted("read-errors", Filesystem::Btrfs, "");
    test.mirror_mut().options = format!("log={}", test.scratch().join("log").display());
    let created = test.create(&[]);
    assert!(created.status.success(), "{}", said(&created));
    test.mount();
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    Some(test)
}

/// A file of the mirror, on the disks of both legs.
fn write(test: &TestMirror, path: &str, data: &[u8]) {
    let file = File::create(test.mnt.join(path)).expect("create");
    file.write_all_at(data, 0).expect("write");
    file.sync_all().expect("fsync");
}

/// Neither the mount nor the legs have the file in memory any more.
fn forget(test: &TestMirror, path: &str) {
    for place in test.everywhere(path) {
        let Ok(file) = File::open(place) else { continue };
        // What has not been written back stays.
        rustix::fs::fdatasync(&file).expect("fdatasync");
        fadvise(&file, 0, None, Advice::DontNeed).expect("fadvise");
    }
}

/// Changes the block of the file with these bytes at `at` on the disk of `leg`, behind its filesystem.
fn spoil(test: &TestMirror, leg: &str, path: &str, data: &[u8], at: usize) {
    forget(test, path);
    must(Command::new("sync").arg("-f").arg(test.scratch().join(leg)));
    let image = test.scratch().join(format!("{leg}.img"));
    let disk = File::options().read(true).write(true).open(&image).expect("the image");
    let wanted = &data[at..at + 32];
    let mut window = vec![0; 4 << 20];
    let mut spoilt = 0;
    for start in (0..disk.metadata().expect("stat").len()).step_by(window.len()) {
        let read = disk.read_at(&mut window, start).expect("read the image");
        for block in (0..read).step_by(BLOCK).filter(|&block| window[block..read].starts_with(wanted)) {
            disk.write_all_at(&[0xee; 8], start + block as u64).expect("write the image");
            spoilt += 1;
        }
    }
    assert!(spoilt > 0, "block {at} of {path} is not found on leg {leg}'s disk");
    disk.sync_all().expect("sync");
    let on_leg = File::open(test.scratch().join(leg).join(path)).expect("open on the leg");
    let refused = on_leg.read_at(&mut [0; 32], at as u64).expect_err("the filesystem sees it");
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
}

/// What the leg's own filesystem reads, from its disk.
fn on_disk(test: &TestMirror, leg: &str, path: &str) -> std::io::Result<Vec<u8>> {
    forget(test, path);
    fs::read(test.scratch().join(leg).join(path))
}

fn log(test: &TestMirror) -> String {
    fs::read_to_string(test.scratch().join("log")).expect("the log")
}

fn verb(test: &TestMirror, words: &[&str]) -> Output {
    run(mirrorfs().arg(words[0]).arg(&test.mnt).args(&words[1..]))
}

#[test]
fn a_block_that_the_disk_cannot_read_is_written_anew() {
    // The first block, one in the middle, and the last one, which is not full.
    for (number, at) in [0, 17 * BLOCK, LENGTH / BLOCK * BLOCK].into_iter().enumerate() {
        let Some(test) = mirror() else { return };
        let data = unique(number as u64);
        write(&test, "dir/f", &data);
        spoil(&test, "a", "dir/f", &data, at);
        let before = fs::metadata(test.mnt.join("dir/f")).and_then(|file| file.modified()).expect("mtime");

        assert!(fs::read(test.mnt.join("dir/f")).expect("the other leg has it") == data);
        wait_for("the block to be written anew", || log(&test).contains("and rewritten"));
        assert!(on_disk(&test, "a", "dir/f").expect("it can be read again") == data);
        let log = log(&test);
        assert!(log.contains("ReadError: leg A of ") && log.contains("dir/f: Input/output error"), "{log}");
        let status = test.status();
        assert!(status["state"] == "active" || status["state"] == "clean", "{status}");
        assert!(status["legs"][0]["read_errors"].as_u64().is_some_and(|count| count > 0), "{status}");
        assert_eq!(status["legs"][0]["last_read_error"], "dir/f");
        assert_eq!(status["legs"][1]["read_errors"], 0);
        let text = must(mirrorfs().arg("status").arg(&test.mnt));
        assert!(text.contains("the last of dir/f: answered from the other leg"), "{text}");
        let after = fs::metadata(test.mnt.join("dir/f")).and_then(|file| file.modified()).expect("mtime");
        assert_eq!(before, after);
        println!("{text}\n{log}");
        test.umount_and_compare();
    }
}

/// No fault of the leg: the other one goes on answering for it.
#[test]
fn a_block_of_an_immutable_file_is_answered_and_leaves_nobody_behind() {
    let Some(test) = mirror() else { return };
    if !has_program("chattr") {
        return;
    }
    let data = unique(30);
    write(&test, "dir/f", &data);
    spoil(&test, "a", "dir/f", &data, 0);
    must(Command::new("chattr").arg("+i").arg(test.a.join("dir/f")));
    for times in 1..3 {
        assert!(fs::read(test.mnt.join("dir/f")).expect("the other leg has it") == data);
        let told = "rewriting it failed: Operation not permitted";
        wait_for("it to be told", || log(&test).matches(told).count() >= times);
        forget(&test, "dir/f");
    }
    let state = test.status()["state"].clone();
    assert!(state == "active" || state == "clean", "{state}");
    must(Command::new("chattr").arg("-i").arg(test.a.join("dir/f")));
    assert!(fs::read(test.mnt.join("dir/f")).expect("the other leg has it") == data);
    wait_for("the block to be written anew", || log(&test).contains("and rewritten"));
    test.umount_and_compare();
}

#[test]
fn what_neither_disk_can_read_is_an_error_and_both_legs_stay() {
    let Some(test) = mirror() else { return };
    let data = unique(10);
    write(&test, "dir/f", &data);
    for leg in ["a", "b"] {
        spoil(&test, leg, "dir/f", &data, 0);
    }
    let refused = fs::read(test.mnt.join("dir/f")).expect_err("nobody has it");
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    let mut rest = vec![0; BLOCK];
    let file = File::options().read(true).write(true).open(test.mnt.join("dir/f")).expect("open");
    file.read_exact_at(&mut rest, (40 * BLOCK) as u64).expect("the rest is there");
    assert!(rest == data[40 * BLOCK..41 * BLOCK]);
    let status = test.status();
    assert_ne!(status["state"], "degraded");
    let told = log(&test).matches("NeitherLeg: ").count();
    assert!(status["neither"]["count"].as_u64().is_some_and(|count| count > 0) && told == 1, "{status}");
    let text = must(mirrorfs().arg("status").arg(&test.mnt));
    assert!(text.contains("on both legs") && text.contains("See to both disks"), "{text}");
    println!("{text}");
    // Written anew by who has it.
    file.write_all_at(&data[..BLOCK], 0).expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    forget(&test, "dir/f");
    assert!(fs::read(test.mnt.join("dir/f")).expect("read") == data);
    test.umount_and_compare();
}

/// `dir/f` and `dir/g`, of which leg B has missed a change.
fn missed_by_b(test: &TestMirror) -> [Vec<u8>; 2] {
    let files = [("dir/f", unique(20)), ("dir/g", unique(21))];
    files.iter().for_each(|(path, data)| write(test, path, data));
    assert!(verb(test, &["fail", "B"]).status.success());
    files.map(|(path, mut data)| {
        data[..5].copy_from_slice(b"since");
        write(test, path, &data);
        data
    })
}

#[test]
fn a_recovery_passes_over_what_its_source_cannot_read_and_names_it() {
    let Some(test) = mirror() else { return };
    let [f, g] = missed_by_b(&test);
    spoil(&test, "a", "dir/f", &f, 0);
    assert!(verb(&test, &["re-add", "B"]).status.success());
    let ended = verb(&test, &["wait"]);
    assert_eq!(ended.status.code(), Some(9), "{}", said(&ended));
    let reason = test.status()["legs"][1]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.starts_with("leg A cannot read 1 file") && reason.contains(": dir/f;"), "{reason}");
    let text = must(mirrorfs().arg("status").arg(&test.mnt));
    assert!(text.contains("See to what leg A cannot read"), "{text}");
    let log = log(&test);
    assert!(log.contains("RebuildFinished: leg B") && log.contains("FailSpare: leg B"), "{log}");
    println!("{text}\n{log}");
    forget(&test, "dir/f");
    let refused = fs::read(test.mnt.join("dir/f")).expect_err("only leg A had it");
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    assert!(fs::read(test.b.join("dir/g")).expect("read") == g, "all else is equal");

    write(&test, "dir/f", &g);
    assert!(verb(&test, &["re-add", "B"]).status.success());
    let ended = verb(&test, &["wait"]);
    assert!(ended.status.success(), "{}", said(&ended));
    assert!(fs::read(test.b.join("dir/f")).expect("read") == g);
    test.umount_and_compare();
}

#[test]
fn a_leg_is_recovered_also_where_it_cannot_read() {
    let Some(test) = mirror() else { return };
    let old = unique(20);
    let [f, _] = missed_by_b(&test);
    for at in [17 * BLOCK, LENGTH / BLOCK * BLOCK] {
        spoil(&test, "b", "dir/f", &old, at);
    }
    assert!(verb(&test, &["re-add", "B"]).status.success());
    let ended = verb(&test, &["wait"]);
    assert!(ended.status.success(), "{}", said(&ended));
    assert!(on_disk(&test, "b", "dir/f").expect("it can be read again") == f);
    test.umount_and_compare();
}
