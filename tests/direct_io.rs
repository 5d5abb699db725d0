//! The option `direct_io`: reads and writes pass the kernel's cache by. They mean what they mean without it.
//!
//! Needs root and /dev/fuse; the feature `simulation`, which builds `bad-leg`.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use rustix::mm::MapFlags;

use common::bad_leg::{BadLeg, can_misbehave};
use common::mirror::said;
use common::process::shell_as_nobody;
use common::raw::Mapping;
use common::{Filesystem, Random, TestMirror, can_mount};

fn mounted(name: &str) -> Option<TestMirror> {
    can_mount().then(|| TestMirror::on(name, Filesystem::Plain, "direct_io"))
}

fn everybody_has(test: &TestMirror, name: &str, expected: &[u8]) {
    for path in test.everywhere(name) {
        assert!(fs::read(&path).expect("read") == expected, "{path:?} is not as it was written");
    }
}

fn requests(test: &TestMirror, kind: &str) -> u64 {
    test.status()["counters"]["requests"][kind].as_u64().expect("a count")
}

#[test]
fn nothing_is_kept_of_what_was_read_or_written() {
    let Some(test) = mounted("direct-kept") else { return };
    let file = File::options().read(true).write(true).create_new(true).open(test.mnt.join("file"));
    let file = file.expect("create");
    file.write_all_at(&[7; 100_000], 0).expect("write");
    let before = requests(&test, "read");
    for _ in 0..3 {
        let mut data = vec![0; 100_000];
        file.read_exact_at(&mut data, 0).expect("read");
        assert!(data.iter().all(|&byte| byte == 7));
    }
    assert_eq!(requests(&test, "read") - before, 3, "one request a read, also of what was read just now");
    drop(file);
    test.umount_and_compare();
}

#[test]
fn writes_appends_and_shared_mappings_of_one_file_agree() {
    let Some(test) = mounted("direct-mixed") else { return };
    let mut random = Random::announced();
    let path = test.mnt.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
    let mut model = random.bytes(200_000);
    file.write_all_at(&model, 0).expect("write");
    let mut end = OpenOptions::new().append(true).open(&path).expect("open");
    let mut mapping = Mapping::new(&file, 200_000, MapFlags::SHARED).expect("mmap");
    for _ in 0..200 {
        let (at, len) = (random.below(190_000) as usize, random.below(9_000) as usize + 1);
        let data = random.bytes(len);
        match random.below(4) {
            0 => {
                file.write_all_at(&data, at as u64).expect("write");
                model[at..at + len].copy_from_slice(&data);
                assert!(mapping.bytes()[at..at + len] == data, "a mapping sees what is written");
            }
            1 => {
                mapping.bytes()[at..at + len].copy_from_slice(&data);
                model[at..at + len].copy_from_slice(&data);
                let mut seen = vec![0; len];
                file.read_exact_at(&mut seen, at as u64).expect("read");
                assert!(seen == data, "a read sees what is stored");
            }
            2 => {
                end.write_all(&data).expect("append");
                model.extend(&data);
            }
            _ => {
                let mut seen = vec![0; len];
                file.read_exact_at(&mut seen, at as u64).expect("read");
                assert!(seen == model[at..at + len]);
            }
        }
    }
    drop((mapping, file, end));
    everybody_has(&test, "file", &model);
    test.umount_and_compare();
}

#[test]
fn what_is_written_is_on_both_legs_before_the_write_returns() {
    let Some(test) = mounted("direct-returns") else { return };
    let mut file = File::create(test.mnt.join("file")).expect("create");
    for number in 1..50u8 {
        file.write_all(&[number; 777]).expect("write");
        for leg in test.on_legs("file") {
            assert_eq!(fs::metadata(leg).expect("stat").len(), u64::from(number) * 777);
        }
    }
    drop(file);
    test.umount_and_compare();
}

#[test]
fn a_synchronous_write_is_synced_on_both_legs() {
    if !can_misbehave() {
        return;
    }
    for flag in [libc::O_SYNC, libc::O_DSYNC] {
        let mut test = TestMirror::unmounted("direct-sync", Filesystem::Plain, "direct_io");
        let bad = BadLeg::before(&mut test, "b");
        let output = test.create(&[]);
        assert!(output.status.success(), "cannot create: {}", said(&output));
        test.mount();
        let path = test.mnt.join("synced");
        let mut synced =
            OpenOptions::new().write(true).create(true).custom_flags(flag).open(path).expect("create");
        bad.fail("fsync", libc::EIO);
        synced.write_all(b"as if by fsync").expect("the other leg keeps it");
        assert_eq!(test.status()["legs"][1]["state"], "faulted", "leg B was not asked to sync");
        drop(synced);
        test.umount();
    }
}

#[test]
fn a_write_drops_suid_sgid_and_capabilities() {
    let Some(test) = mounted("direct-suid") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, "some data").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("chmod");
    // VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective.
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "security.capability";
    rustix::fs::setxattr(&path, name, &value, rustix::fs::XattrFlags::empty()).expect("setcap");
    let output = shell_as_nobody(&test.mnt, "echo x >> file");
    assert!(output.status.success(), "{}", said(&output));
    for path in test.everywhere("file") {
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o777, "{path:?}");
        let left = rustix::fs::getxattr(&path, name, &mut [0; 64][..]);
        assert_eq!(left, Err(rustix::io::Errno::NODATA), "{path:?}");
    }
    test.umount_and_compare();
}
