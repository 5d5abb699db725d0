//! Legs of unequal room. Whatever is refused for lack of it is refused to the user with the errno of
//! the leg that lacks it; the mount stays writable, both legs are left alike, and nothing of what was
//! there before is touched (P10). Each leg in turn is the smaller one.
//!
//! Needs root, /dev/fuse, mkfs.ext4 and mkfs.xfs.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate};
use rustix::mm::MapFlags;

use common::filesystem::attach;
use common::mirror::{mirrorfs, said};
use common::process::{must, run};
use common::raw::Mapping;
use common::{Filesystem, TestMirror, can_mount, wait_for};

/// How a leg is made: the command that makes its filesystem, its size in MiB.
#[derive(Clone, Copy, Debug)]
struct Leg {
    mkfs: &'static [&'static str],
    mib: u64,
}

const SMALL_EXT4: Leg =
    Leg { mkfs: &["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-O", "^resize_inode"], mib: 24 };
const LARGE_EXT4: Leg = Leg { mib: 400, ..SMALL_EXT4 };
const FEW_INODES: Leg =
    Leg { mkfs: &["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-N", "64"], mib: 24 };
/// The smallest that mkfs.xfs makes is 300 MiB.
const SMALL_XFS: Leg = Leg { mkfs: &["mkfs.xfs", "-q", "-f"], mib: 300 };
const LARGE_XFS: Leg = Leg { mib: 500, ..SMALL_XFS };

/// A mounted mirror on two such legs.
fn mirror(name: &str, legs: [Leg; 2]) -> TestMirror {
    let test = TestMirror::unmounted(name, Filesystem::Plain, "");
    for (dir, leg) in [&test.a, &test.b].into_iter().zip(legs) {
        let image = dir.with_extension("img");
        File::create(&image).and_then(|file| file.set_len(leg.mib << 20)).expect("a sparse image");
        must(Command::new(leg.mkfs[0]).args(&leg.mkfs[1..]).arg(&image));
        attach(&image, dir);
        let _ = fs::remove_dir(dir.join("lost+found"));
    }
    let output = test.create(&[]);
    assert!(output.status.success(), "cannot create: {}", said(&output));
    test.mount();
    test
}

/// What is there before anything is refused, and must be there afterwards.
struct Before {
    data: Vec<u8>,
}

impl Before {
    fn make(test: &TestMirror) -> Before {
        let data: Vec<u8> = (0..200_000u32).map(|at| (at / 7) as u8).collect();
        fs::create_dir(test.mnt.join("before")).expect("mkdir");
        let file = test.mnt.join("before/file");
        fs::write(&file, &data).expect("write");
        rustix::fs::setxattr(&file, "user.name", b"value", XattrFlags::empty()).expect("setxattr");
        std::os::unix::fs::symlink("file", test.mnt.join("before/link")).expect("symlink");
        Before { data }
    }

    fn check(&self, root: &Path) {
        assert!(fs::read(root.join("before/file")).expect("read") == self.data, "in {}", root.display());
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(root.join("before/file"), "user.name", &mut value[..]).expect("xattr");
        assert_eq!(&value[..len], b"value");
        assert_eq!(fs::read_link(root.join("before/link")).expect("readlink"), Path::new("file"));
        assert_eq!(fs::read_dir(root.join("before")).expect("list").count(), 2);
    }
}

/// Opens a new file. What the one before it had is given back only when the kernel has closed that.
fn make(open: &OpenOptions, path: &Path) -> File {
    let mut opened = None;
    wait_for("room for a file", || {
        opened = open.open(path).ok();
        opened.is_some()
    });
    opened.expect("opened")
}

/// Takes all the room there is for data, but for what some bytes of names need.
fn fill(test: &TestMirror) {
    let filler = make(OpenOptions::new().write(true).create_new(true), &test.mnt.join("filler"));
    let mut step = 256 << 20;
    let mut len = 0;
    while step >= 4096 {
        match fallocate(&filler, FallocateFlags::empty(), len, step) {
            Ok(()) => len += step,
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::NOSPC);
                same_length(test, "filler");
                step /= 2;
            }
        }
    }
}

/// Both legs and the mount agree on how long it is.
fn same_length(test: &TestMirror, name: &str) -> u64 {
    let lens = test.everywhere(name).map(|path| fs::metadata(path).map_or(u64::MAX, |meta| meta.len()));
    assert!(lens.iter().all(|len| *len == lens[0]), "{name}: mount, A, B have the lengths {lens:?}");
    lens[0]
}

/// Both legs have the same names in a directory.
fn same_names(test: &TestMirror, dir: &str) {
    let names = test.everywhere(dir).map(|path| {
        let mut names: Vec<_> =
            fs::read_dir(path).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
        names.retain(|name| name != ".mirrorfs");
        names.sort();
        names
    });
    assert!(names[0] == names[1] && names[1] == names[2], "mount, A and B have other names in {dir}");
}

/// Repeats until it is refused; it has to be for want of space, and soon.
fn until_full(what: &str, mut attempt: impl FnMut(u32) -> io::Result<()>) {
    for number in 0..6000 {
        if let Err(error) = attempt(number) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{what} number {number}: {error}");
            return;
        }
    }
    panic!("{what}: never refused");
}

/// A name so long that a directory is soon in need of another block.
fn long(what: &str, number: u32) -> String {
    format!("{what}-{number}-{}", "x".repeat(200))
}

fn writes(test: &TestMirror) {
    // A large leg need not be filled by hand.
    const ENOUGH: u64 = 16 << 20;
    let space = rustix::fs::statvfs(&test.mnt).expect("statvfs");
    let rest = (space.f_bavail * space.f_frsize).saturating_sub(ENOUGH);
    let reserve = make(OpenOptions::new().write(true).create_new(true), &test.mnt.join("reserve"));
    if rest > ENOUGH {
        fallocate(&reserve, FallocateFlags::empty(), 0, rest).expect("there is room");
    }
    drop(reserve);
    for (name, flags) in [("buffered", 0), ("direct", libc::O_DIRECT)] {
        let mut open = OpenOptions::new();
        open.write(true).create_new(true).custom_flags(flags);
        let file = make(&open, &test.mnt.join(name));
        // O_DIRECT asks for memory at a page's boundary.
        let memory = vec![0xa5u8; (64 << 10) + 4096];
        let start = memory.as_ptr().align_offset(4096);
        let block = &memory[start..start + (64 << 10)];
        let mut done = 0u64;
        until_full(name, |_| {
            let written = file.write_at(block, done)?;
            done += written as u64;
            if written == 0 { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        });
        assert_eq!(same_length(test, name), done, "{name}: what was acknowledged is there, and no more");
        for path in test.everywhere(name) {
            assert!(fs::read(&path).expect("read").iter().all(|byte| *byte == 0xa5), "{}", path.display());
        }
        fs::remove_file(test.mnt.join(name)).expect("unlink");
    }
    fs::remove_file(test.mnt.join("reserve")).expect("unlink");
}

/// A store to a hole that cannot be filled: the user learns of it at msync.
fn mapped(test: &TestMirror) {
    let file = OpenOptions::new().read(true).write(true).open(test.mnt.join("mapped")).expect("open");
    file.set_len(8 << 20).expect("extend");
    let mut map = Mapping::new(&file, 8 << 20, MapFlags::SHARED).expect("mmap");
    map.bytes().fill(0x5a);
    let error = map.sync().expect_err("there is no room for this");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    same_length(test, "mapped");
    drop(map);
}

fn allocations(test: &TestMirror) {
    let file = OpenOptions::new().write(true).open(test.mnt.join("allocated")).expect("open");
    let error = fallocate(&file, FallocateFlags::empty(), 0, 64 << 20).expect_err("no room");
    assert_eq!(error, rustix::io::Errno::NOSPC);
    same_length(test, "allocated");
    let error = fallocate(&file, FallocateFlags::KEEP_SIZE, 4096, 64 << 20).expect_err("no room");
    assert_eq!(error, rustix::io::Errno::NOSPC);
    same_length(test, "allocated");
    // The rest of what is free stays free for the tests of names: as good as none.
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 64 << 20).expect("punch");
}

fn names(test: &TestMirror) {
    let dir = |name: &str| test.mnt.join(name);
    until_full("create", |number| File::create(dir(&long("file", number))).map(|_| ()));
    until_full("mkdir", |number| fs::create_dir(dir(&long("dir", number))));
    until_full("symlink", |number| {
        std::os::unix::fs::symlink("y".repeat(900), dir(&long("symlink", number)))
    });
    until_full("link", |number| fs::hard_link(dir("before/file"), dir(&long("link", number))));
    same_names(test, "");
    let moving = dir("filler");
    let mut at = moving.clone();
    // Back and forth would find the room it has left: one name more each time.
    until_full("rename", |number| {
        let to = dir(&long("moved", number));
        fs::rename(&at, &to)?;
        at = to;
        File::create(dir(&long("placeholder", number))).map(|_| ())
    });
    fs::rename(&at, &moving).expect("its old name has room");
    same_names(test, "");
}

/// A file to hang attributes on.
fn carrier(number: u32) -> String {
    format!("carrier{number}")
}

fn attributes(test: &TestMirror) {
    until_full("setxattr", |number| {
        // Values that differ, so that none is shared.
        let mut value = [7u8; 3000];
        value[..4].copy_from_slice(&number.to_le_bytes());
        let path = test.mnt.join(carrier(number));
        rustix::fs::setxattr(path, "user.large", &value, XattrFlags::empty()).map_err(Into::into)
    });
}

fn everything(name: &str, legs: [Leg; 2]) {
    let test = mirror(name, legs);
    let before = Before::make(&test);
    writes(&test);
    // When it is full there may be no room for their inodes.
    for name in ["mapped".to_owned(), "allocated".to_owned()].into_iter().chain((0..64).map(carrier)) {
        make(OpenOptions::new().write(true).create_new(true), &test.mnt.join(name));
    }
    fill(&test);
    mapped(&test);
    allocations(&test);
    names(&test);
    attributes(&test);
    same_names(&test, "");
    before.check(&test.mnt);
    let status = test.status();
    assert_ne!(status["state"], "readonly", "a full leg is no failed leg: {status}");
    fs::remove_file(test.mnt.join("filler")).expect("unlink");
    wait_for("room", || fs::write(test.mnt.join("afterwards"), "there is room again").is_ok());
    finish(&test);
    [&test.a, &test.b].into_iter().for_each(|leg| before.check(leg));
}

/// Unmounts; the legs are equal for the tests' comparator and for ours.
fn finish(test: &TestMirror) {
    test.umount_and_compare();
    let output = run(mirrorfs().arg("compare").args([&test.a, &test.b]));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_full_ext4_leg() {
    if can_mount() {
        everything("fulla", [SMALL_EXT4, LARGE_EXT4]);
        everything("fullb", [LARGE_EXT4, SMALL_EXT4]);
    }
}

#[test]
fn a_full_xfs_leg() {
    if can_mount() {
        everything("fullxa", [SMALL_XFS, LARGE_XFS]);
        everything("fullxb", [LARGE_XFS, SMALL_XFS]);
    }
}

#[test]
fn a_leg_without_inodes() {
    if !can_mount() {
        return;
    }
    for legs in [[FEW_INODES, LARGE_EXT4], [LARGE_EXT4, FEW_INODES], [FEW_INODES, SMALL_XFS]] {
        let test = mirror("inodes", legs);
        let before = Before::make(&test);
        let path = |name: &str, number| test.mnt.join(format!("{name}{number}"));
        until_full("create", |number| File::create(path("file", number)).map(|_| ()));
        for _ in 0..3 {
            until_full("mkdir", |number| fs::create_dir(path("dir", number)));
            until_full("symlink", |number| std::os::unix::fs::symlink("x", path("symlink", number)));
            until_full("mknod", |number| {
                let kind = rustix::fs::FileType::Fifo;
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                Ok(rustix::fs::mknodat(rustix::fs::CWD, path("fifo", number), kind, mode, 0)?)
            });
        }
        same_names(&test, "");
        assert_ne!(test.status()["state"], "readonly");
        fs::hard_link(path("file", 0), path("link", 0)).expect("a name needs no inode");
        fs::remove_file(path("file", 1)).expect("unlink");
        wait_for("an inode", || File::create(path("file", 1)).is_ok());
        finish(&test);
        [&test.a, &test.b].into_iter().for_each(|leg| before.check(leg));
    }
}

/// What one filesystem has room or a limit for and the other has not.
#[test]
fn limits_of_one_filesystem_are_the_mirrors() {
    if !can_mount() {
        return;
    }
    for legs in [[SMALL_XFS, LARGE_EXT4], [LARGE_EXT4, SMALL_XFS]] {
        let test = mirror("limits", legs);
        let before = Before::make(&test);
        let file = test.mnt.join("before/file");
        let set = |len: usize| rustix::fs::setxattr(&file, "user.other", &vec![1; len], XattrFlags::empty());
        let error = set(20_000).expect_err("ext4 has no room for this in an inode and a block");
        assert!(matches!(error.raw_os_error(), libc::ENOSPC | libc::E2BIG), "{error}");
        set(1000).expect("this has room");
        let error = set(20_000).expect_err("as before");
        assert!(matches!(error.raw_os_error(), libc::ENOSPC | libc::E2BIG), "{error}");
        for path in test.everywhere("before/file") {
            let mut value = vec![0; 64 << 10];
            let len = rustix::fs::getxattr(&path, "user.other", &mut value[..]).expect("the old value");
            assert_eq!(len, 1000, "{}", path.display());
        }
        let long = File::create(test.mnt.join("long")).expect("create");
        long.write_all_at(b"data", 0).expect("write");
        let error = long.set_len(32 << 40).expect_err("ext4 ends at 16 TiB");
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        let error = long.write_at(b"data", 32 << 40).expect_err("here too");
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        assert_eq!(same_length(&test, "long"), 4);
        long.set_len(8 << 40).expect("this both can");
        drop(long);
        assert_ne!(test.status()["state"], "readonly");
        finish(&test);
        [&test.a, &test.b].into_iter().for_each(|leg| before.check(leg));
    }
}

#[test]
fn what_is_stored_in_a_mapping_and_fits_in_part_only_is_told() {
    if !can_mount() {
        return;
    }
    for legs in [[SMALL_EXT4, LARGE_EXT4], [LARGE_EXT4, SMALL_EXT4]] {
        let test = mirror("mappedpart", legs);
        let small = if legs[0].mib < legs[1].mib { &test.a } else { &test.b };
        let space = rustix::fs::statvfs(small).expect("statvfs");
        // The kernel hands over one MiB in one request, and does not look at how much of it was taken.
        let filler = File::create(test.mnt.join("filler")).expect("create");
        let free = (space.f_bavail * space.f_frsize) as usize;
        filler.write_all_at(&vec![1; free - (600 << 10)], 0).expect("this fits");
        filler.sync_all().expect("fsync");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(test.mnt.join("mapped"));
        let file = file.expect("create");
        file.set_len(1 << 20).expect("extend");
        let mut map = Mapping::new(&file, 1 << 20, MapFlags::SHARED).expect("mmap");
        map.bytes().fill(0x5a);
        let error = map.sync().expect_err("there is no room for all of this");
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
        drop((map, file, filler));
        test.umount_and_compare();
    }
}
