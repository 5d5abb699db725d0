//! Files mapped into memory.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::mm::MapFlags;

use crate::common::mounted;
use crate::common::raw::Mapping;

const LEN: usize = 300_000;

#[test]
fn shared_mappings_reach_both_legs_at_msync() {
    let Some(test) = mounted("mmap") else { return };
    let path = test.mnt.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("create");
    file.set_len(LEN as u64).expect("truncate");
    let mut mapping = Mapping::new(&file, LEN, MapFlags::SHARED).expect("mmap");
    let mut random = crate::common::Random::new(5);
    let data = random.bytes(LEN);
    mapping.bytes().copy_from_slice(&data);
    mapping.sync().expect("msync");
    for leg in test.on_legs("file") {
        assert!(fs::read(&leg).expect("read") == data, "{leg:?}");
    }
    // A write through a descriptor is seen by the mapping, and the other way round.
    file.write_all_at(b"by pwrite", 5000).expect("write");
    assert_eq!(&mapping.bytes()[5000..5009], b"by pwrite");
    mapping.bytes()[9000..9004].copy_from_slice(b"mmap");
    let mut seen = [0; 4];
    file.read_exact_at(&mut seen, 9000).expect("read");
    assert_eq!(&seen, b"mmap");
    drop(mapping);
    drop(file);
    test.umount_and_compare();
    assert_eq!(&fs::read(test.b.join("file")).expect("read")[9000..9004], b"mmap", "written back at umount");
}

#[test]
fn a_mapping_outlives_its_descriptor_and_its_name() {
    let Some(test) = mounted("mmapalone") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, vec![1; LEN]).expect("write");
    let file = File::options().read(true).write(true).open(&path).expect("open");
    fs::hard_link(&path, test.mnt.join("kept")).expect("link");
    let mut mapping = Mapping::new(&file, LEN, MapFlags::SHARED).expect("mmap");
    drop(file);
    fs::remove_file(&path).expect("unlink");
    mapping.bytes()[LEN - 1] = 2;
    mapping.sync().expect("msync");
    drop(mapping);
    test.umount_and_compare();
    assert_eq!(fs::read(test.a.join("kept")).expect("read")[LEN - 1], 2);
}

#[test]
fn private_mappings_reach_nobody() {
    let Some(test) = mounted("mmapprivate") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, vec![1; LEN]).expect("write");
    let file = File::options().read(true).write(true).open(&path).expect("open");
    let mut mapping = Mapping::new(&file, LEN, MapFlags::PRIVATE).expect("mmap");
    mapping.bytes().fill(9);
    mapping.sync().expect("msync");
    for path in test.everywhere("file") {
        assert!(fs::read(path).expect("read").iter().all(|&byte| byte == 1));
    }
    drop(mapping);
    drop(file);
    test.umount_and_compare();
}
