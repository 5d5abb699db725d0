//! The option `passthrough`, on a mirror that is mounted read-only: the kernel reads one leg's files itself, and nothing is
//! changed by it.
//!
//! Needs root, /dev/fuse and mkfs.ext4.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::mm::MapFlags;

use common::mirror::said;
use common::process::{must, run};
use common::raw::Mapping;
use common::{Filesystem, TestMirror, can_mount};

/// Of three files the largest is longer than what is read ahead.
const FILES: [(&str, usize); 3] = [("small", 100), ("middle", 70_000), ("large", 3 << 20)];

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 1000 + at) as u8).collect()
}

/// A mirror with these files, mounted read-only with the option.
fn mounted(name: &str) -> Option<TestMirror> {
    if !can_mount() {
        return None;
    }
    let mut test = TestMirror::on(name, Filesystem::Ext4, "");
    for (name, len) in FILES {
        fs::write(test.mnt.join(name), content(len)).expect("write");
    }
    test.umount();
    test.mirror_mut().options = "ro,passthrough".to_owned();
    test.mount();
    Some(test)
}

fn reads(test: &TestMirror) -> u64 {
    test.status()["counters"]["requests"]["read"].as_u64().expect("a count")
}

#[test]
fn what_is_read_costs_no_request() {
    let Some(test) = mounted("passed") else { return };
    for _ in 0..2 {
        for (name, len) in FILES {
            assert!(fs::read(test.mnt.join(name)).expect("read") == content(len), "{name}");
        }
    }
    assert_eq!(reads(&test), 0);
    let output = run(common::mirror::mirrorfs().arg("status").arg(&test.mnt));
    assert!(said(&output).contains("(passthrough)"), "{}", said(&output));
    test.umount_and_compare();
}

#[test]
fn a_file_that_is_open_several_times_and_mapped_is_one_file() {
    let Some(test) = mounted("passed-often") else { return };
    let expected = content(FILES[2].1);
    let open = || File::open(test.mnt.join("large")).expect("open");
    let (first, second) = (open(), open());
    let mut mapping = Mapping::new(&first, expected.len(), MapFlags::PRIVATE).expect("mmap");
    assert!(mapping.bytes()[..] == expected);
    drop(first);
    // Closed and opened again while another one is open, and when none is.
    for _ in 0..20 {
        let mut piece = vec![0; 4096];
        open().read_exact_at(&mut piece, 8192).expect("read");
        assert!(piece == expected[8192..12288]);
    }
    drop((second, mapping));
    for _ in 0..20 {
        assert!(fs::read(test.mnt.join("large")).expect("read") == expected);
    }
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (path, expected) = (test.mnt.join("large"), expected.clone());
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let file = File::open(&path).expect("open");
                    let mut piece = vec![0; 1000];
                    file.read_exact_at(&mut piece, 77_777).expect("read");
                    assert!(piece == expected[77_777..78_777]);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("each of them reads it"));
    assert_eq!(reads(&test), 0);
    test.umount_and_compare();
}

#[test]
fn nothing_is_changed_on_the_legs() {
    let Some(test) = mounted("passed-still") else { return };
    let times = || {
        test.on_legs("large")
            .map(|path| fs::metadata(path).map(|of| (of.atime(), of.mtime(), of.ctime())).expect("stat"))
    };
    let before = times();
    let _ = fs::read(test.mnt.join("large")).expect("read");
    assert_eq!(times(), before);
    let refused = File::options().write(true).open(test.mnt.join("large")).expect_err("it is read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    test.umount_and_compare();
}

#[test]
fn it_is_refused_where_something_would_be_changed() {
    let Some(mut test) = mounted("passed-refused") else { return };
    test.umount();
    let refuses = |test: &TestMirror, why: &str| {
        let output = run(&mut test.mount_command());
        assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
        assert!(!test.is_mounted());
    };
    for (options, why) in [
        ("passthrough", "is for a mirror that is mounted read-only"),
        ("ro,passthrough,direct_io", "exclude each other"),
    ] {
        test.mirror_mut().options = options.to_owned();
        refuses(&test, why);
    }
    test.mirror_mut().options = "ro,passthrough".to_owned();
    remount(&test.a, "strictatime");
    refuses(&test, "would raise its files' access times");
    remount(&test.a, "noatime");
    test.mount();
    assert!(fs::read(test.mnt.join("small")).expect("read") == content(100));
    test.umount();
}

fn remount(leg: &Path, how: &str) {
    must(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(leg));
}
