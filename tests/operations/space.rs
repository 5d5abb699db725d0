//! fallocate(2) in all its modes, statfs, and a full leg.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::common::{Filesystem, TestMirror, can_mount, mounted, wait_for};

const MIB: u64 = 1 << 20;

#[test]
fn fallocate_modes_do_the_same_on_every_filesystem_that_has_them() {
    if !can_mount() {
        return;
    }
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
        let test = TestMirror::on("fallocate", filesystem, "");
        let file = File::options().read(true).write(true).create_new(true).open(test.mnt.join("file"));
        let file = file.expect("create");
        let mut model: Vec<u8> = (0..4 * MIB).map(|at| (at / 1000) as u8 | 1).collect();
        file.write_all_at(&model, 0).expect("write");

        let allocate = |flags, offset, len| fallocate(&file, flags, offset, len);
        allocate(FallocateFlags::empty(), 5 * MIB, MIB).expect("plain");
        model.resize(6 * MIB as usize, 0);
        allocate(FallocateFlags::KEEP_SIZE, 8 * MIB, MIB).expect("keep size");
        allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 10_000, 100_000)
            .expect("punch hole");
        model[10_000..110_000].fill(0);
        allocate(FallocateFlags::ZERO_RANGE, MIB, 5000).expect("zero range");
        model[MIB as usize..MIB as usize + 5000].fill(0);
        // The kernel keeps these two from every FUSE filesystem (fuse_file_fallocate in fs/fuse/file.c).
        for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(allocate(flags, MIB, MIB), Err(Errno::OPNOTSUPP), "{filesystem:?}");
        }

        for path in test.everywhere("file") {
            assert!(fs::read(&path).expect("read") == model, "{path:?} on {filesystem:?}");
        }
        let blocks = test.everywhere("file").map(|path| fs::metadata(path).expect("stat").blocks());
        assert_eq!(blocks[1], blocks[2], "the hole and the space ahead are on both legs");
        drop(file);
        test.umount_and_compare();
    }
}

#[test]
fn fallocate_modes_that_the_legs_lack_are_refused_alike() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::on("fallocatetmpfs", Filesystem::Tmpfs, "");
    let file = File::create(test.mnt.join("file")).expect("create");
    file.write_all_at(&[1; 8192], 0).expect("write");
    assert_eq!(fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096)
        .expect("tmpfs has this");
    drop(file);
    test.umount_and_compare();
}

#[test]
fn statfs_tells_of_the_smaller_leg() {
    let Some(test) = mounted("statfs") else { return };
    let [mount, leg] = [&test.mnt, &test.a].map(|path| rustix::fs::statvfs(path).expect("statvfs"));
    assert_eq!(mount.f_namemax, leg.f_namemax);
    let [mount, leg] = [mount, leg].map(|stat| stat.f_blocks * stat.f_frsize);
    assert_eq!(mount, leg);
    test.umount();

    if !can_mount() {
        return;
    }
    let unequal = TestMirror::unmounted("statfsunequal", Filesystem::Plain, "");
    Filesystem::Tmpfs.make(&unequal.b, &unequal.scratch().join("unused"), 64);
    assert!(unequal.create(&[]).status.success());
    unequal.mount();
    let total = rustix::fs::statvfs(&unequal.mnt).expect("statvfs");
    assert_eq!(total.f_blocks * total.f_frsize, 64 * MIB);
    unequal.umount_and_compare();
}

#[test]
fn a_full_leg_is_no_space_for_the_user_and_the_legs_stay_equal() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::unmounted("full", Filesystem::Plain, "");
    Filesystem::Tmpfs.make(&test.b, &test.scratch().join("unused"), 96);
    assert!(test.create(&[]).status.success());
    test.mount();
    let file = File::create(test.mnt.join("file")).expect("create");
    let data = vec![7; 1 << 20];
    let error = (0..200u64).find_map(|number| file.write_all_at(&data, number * MIB).err());
    assert_eq!(error.expect("B is full").raw_os_error(), Some(libc::ENOSPC));
    let lens = test.everywhere("file").map(|path| fs::metadata(path).expect("stat").len());
    assert!(lens.iter().all(|len| *len == lens[0]), "{lens:?}");
    drop(file);
    fs::remove_file(test.mnt.join("file")).expect("unlink");
    // The kernel tells of the close when it gets to it, and until then the file has its room.
    wait_for("room", || fs::write(test.mnt.join("small"), "there is room again").is_ok());
    test.umount_and_compare();
}

#[test]
fn what_a_full_source_did_of_a_fallocate_is_undone() {
    if !can_mount() {
        return;
    }
    // ext4 keeps the length it has come to, xfs the zeros it has made.
    for (filesystem, flags) in
        [(Filesystem::Ext4, FallocateFlags::empty()), (Filesystem::Xfs, FallocateFlags::ZERO_RANGE)]
    {
        let test = TestMirror::unmounted("fallocatefull", Filesystem::Plain, "");
        filesystem.make(&test.a, &test.scratch().join("a.img"), 320);
        filesystem.make(&test.b, &test.scratch().join("b.img"), 2048);
        assert!(test.create(&[]).status.success());
        test.mount();
        let file = File::options().read(true).write(true).create_new(true).open(test.mnt.join("file"));
        let file = file.expect("create");
        file.write_all_at(&[7; 5000], 0).expect("write");
        assert_eq!(fallocate(&file, flags, 0, 1 << 30), Err(Errno::NOSPC), "{filesystem:?}");
        for path in test.everywhere("file") {
            assert_eq!(fs::metadata(&path).expect("stat").len(), 5000, "{path:?} on {filesystem:?}");
            assert!(fs::read(&path).expect("read") == [7; 5000], "{path:?} on {filesystem:?}");
        }
        drop(file);
        test.umount_and_compare();
    }
}
