//! The order rules, seen from outside: the daemon's system calls under a workload show each first
//! write to a chunk and each change of a directory after the bitmap writes that cover them (O1),
//! and each clearing of a bit after syncs of both legs (O3).
//!
//! Needs root, /dev/fuse and strace.

#[path = "../common/mod.rs"]
mod common;

mod rules;
mod slots;
mod trace;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use common::{Filesystem, Random, TestMirror, can_mount, has_program, wait_for};
use rules::{Checker, Inodes};

const CHUNK: u64 = 64 << 10;
const FILES: u64 = 12;

/// Long enough for the data of the largest write that the workload makes, and for bitmap pages that
/// are written in one go.
const LONGEST_STRING: &str = "262144";

const CALLS: &str = "pwrite64,pwritev,pwritev2,syncfs,openat,openat2,mkdirat,mknodat,unlinkat,symlinkat,linkat,renameat,renameat2";

/// Names and data change in turns, with pauses in which the bits are cleared.
fn work(test: &TestMirror, random: &mut Random) {
    let mut number = 0;
    for _ in 0..3 {
        for _ in 0..60 {
            number += 1;
            let name = format!("file{}", random.below(FILES));
            let file = File::options().write(true).open(test.mnt.join(name)).expect("open");
            let len = random.below(9000) as usize + 1;
            file.write_all_at(&random.bytes(len), random.below(40 * CHUNK)).expect("write");
            let dir = test.mnt.join(format!("dir{}", random.below(3)));
            let new = dir.join(format!("n{number}"));
            match random.below(3) {
                0 => fs::write(&new, "x").expect("write"),
                1 => drop(std::os::unix::fs::symlink("x", &new)),
                _ => drop(fs::create_dir(&new)),
            }
            let target = test.mnt.join(format!("dir{}/r{number}", random.below(3)));
            let _ = fs::rename(&new, target);
        }
        test.wait_until_clean();
    }
}

/// The names whose changes are watched; they are in no directory twice.
fn inodes(test: &TestMirror) -> Inodes {
    let names =
        (0..FILES).map(|number| format!("file{number}")).chain((0..3).map(|number| format!("dir{number}")));
    let of = |name: &str| test.on_legs(name).map(|path| fs::metadata(path).expect("stat").ino());
    names.map(|name| (name.clone(), of(&name))).collect()
}

#[test]
fn bits_are_durable_before_changes_and_cleared_after_syncs() {
    if !can_mount() || !has_program("strace") {
        return;
    }
    let mut random = Random::announced();
    let mut test = TestMirror::unmounted("order", Filesystem::Ext4, "");
    let output = test.create(&["--chunk".as_ref(), "64K".as_ref()]);
    assert!(output.status.success(), "{}", common::mirror::said(&output));
    test.mount();
    for number in 0..FILES {
        File::create(test.mnt.join(format!("file{number}")))
            .expect("create")
            .set_len(40 * CHUNK)
            .expect("truncate");
    }
    for number in 0..3 {
        fs::create_dir(test.mnt.join(format!("dir{number}"))).expect("mkdir");
    }
    test.umount();
    let inodes = inodes(&test);

    let trace = test.scratch().join("trace");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "--seccomp-bpf",
        "-y",
        "-xx",
        "-s",
        LONGEST_STRING,
        "-e",
        &format!("trace={CALLS}"),
        "-o",
    ]);
    strace.arg(&trace).arg(common::mirror::program()).args(test.mirror_mut().mount_arguments()).arg("-f");
    let mut strace = strace.stdin(Stdio::null()).spawn().expect("strace");
    test.wait_until_mounted();
    work(&test, &mut random);
    test.umount();
    let mut ended = || strace.try_wait().expect("our child").is_some();
    wait_for("strace to end with the daemon", &mut ended);
    test.assert_equal();

    let text = String::from_utf8(fs::read(&trace).expect("the trace")).expect("strace -xx writes ASCII");
    let report = Checker::new(&inodes, CHUNK).check(trace::parse(&text));
    println!(
        "checked {} writes, {} changes of names, {} of what was new, {} clears",
        report.writes, report.names, report.births, report.clears
    );
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
    assert!(report.writes >= 2 * 180, "both legs' writes are in the trace, not {}", report.writes);
    assert!(report.names >= 2 * 180, "both legs' changes of names are in the trace, not {}", report.names);
    assert!(
        report.births >= 2 * 30,
        "both legs' writes to new files are in the trace, not {}",
        report.births
    );
    assert!(report.clears >= 20, "bits are cleared on both copies in the trace, not {}", report.clears);
}
