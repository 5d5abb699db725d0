//! The work after a crash grows with what was dirty, not with the tree and not with the size of its
//! files (P3), and the mount serves at once (P5).
//!
//! Needs root and /dev/fuse. Makes 200,000 files on each leg.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::mirror::time_to_first_answer;
use common::{Filesystem, TestMirror, can_mount};

const CHUNK: u64 = 4 << 20;
const DIRTY_CHUNKS: u64 = 10;
const FILES: u64 = 200_000;
const SPARSE: u64 = 100 << 30;

/// A tree made on the bare leg, before there is a mirror: `create --source A` copies it.
fn make_tree(root: &Path) {
    for dir in 0..FILES / 1000 {
        let path = root.join(format!("dir{dir}"));
        fs::create_dir(&path).expect("mkdir");
        for file in 0..1000 {
            File::create(path.join(format!("file{file}"))).expect("create");
        }
    }
    let sparse = File::create(root.join("sparse")).expect("create");
    sparse.set_len(SPARSE).expect("truncate");
}

#[test]
fn the_resync_reads_the_dirty_chunks_and_little_more() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::sized("dirtyonly", Filesystem::Ext4, "chunk=4M", 6 << 10);
    make_tree(&test.a);
    let output = test.create(&["--source".as_ref(), "A".as_ref()]);
    assert!(output.status.success(), "{}", common::mirror::said(&output));
    test.mount();

    let sparse = File::options().write(true).open(test.mnt.join("sparse")).expect("open");
    for number in 0..DIRTY_CHUNKS {
        // Far apart, and a whole chunk each, so that there is as much to read as a chunk can hold.
        let offset = number * (SPARSE / DIRTY_CHUNKS) / CHUNK * CHUNK;
        for part in 0..CHUNK >> 20 {
            sparse.write_all_at(&[number as u8 + 1; 1 << 20], offset + (part << 20)).expect("write");
        }
    }
    let dirty = test.status()["dirty"]["chunks"].as_u64().expect("dirty chunks");
    assert!((DIRTY_CHUNKS..=DIRTY_CHUNKS + 2).contains(&dirty), "{dirty} chunks are dirty");
    test.kill();
    drop(sparse);

    let first = time_to_first_answer(&test);
    println!("the mount served after {first:?}");
    test.wait_until_resynced();
    let read = test.counter("resync_bytes_read");
    let expected = 2 * DIRTY_CHUNKS * CHUNK;
    assert!(read <= expected + expected / 10, "the resync read {read} bytes for {expected} that were dirty");
    assert!(
        read >= expected,
        "the resync read {read} bytes of {expected} that were dirty: not all was compared"
    );
    assert_eq!(test.counter("resync_bytes_written"), 0, "nothing differed, nothing is written");
    test.umount();
    compare_sparsely(&test);
}

/// The whole comparison of 200,000 files would take longer than the test: one directory and the
/// large file stand for all.
fn compare_sparsely(test: &TestMirror) {
    for name in ["dir0", "dir199"] {
        let found = common::differences(&test.a.join(name), &test.b.join(name));
        assert!(found.is_empty(), "{found:#?}");
    }
    let [a, b] = test.on_legs("sparse").map(|path| fs::metadata(path).expect("stat"));
    assert_eq!(a.len(), b.len());
    let [a, b] = test.on_legs("sparse").map(|path| File::open(path).expect("open"));
    for number in 0..DIRTY_CHUNKS {
        let mut seen = [vec![0; CHUNK as usize], vec![0; CHUNK as usize]];
        for (file, seen) in [&a, &b].into_iter().zip(&mut seen) {
            file.read_exact_at(seen, number * (SPARSE / DIRTY_CHUNKS) / CHUNK * CHUNK).expect("read");
        }
        assert!(seen[0] == seen[1] && seen[0].iter().all(|&byte| byte == number as u8 + 1));
    }
}

#[test]
fn a_resync_keeps_to_its_limit_and_stops_in_the_middle() {
    if !can_mount() {
        return;
    }
    let mut test = TestMirror::on("limit", Filesystem::Ext4, "");
    let file = File::create(test.mnt.join("file")).expect("create");
    for mib in 0..16 {
        file.write_all_at(&[mib + 1; 1 << 20], u64::from(mib) << 20).expect("write");
    }
    test.kill();
    drop(file);

    // At this rate the first piece alone takes an hour, after it has been compared.
    "resync_max=1K".clone_into(&mut test.mirror_mut().options);
    test.mount();
    common::wait_for("a piece has been compared", || {
        test.status()["resync"]["done_bytes"].as_u64() > Some(0)
    });
    // Who uses the mirror does not wait for it.
    let content = fs::read(test.mnt.join("file")).expect("read");
    assert!(content.chunks(1 << 20).zip(1..).all(|(piece, mib)| piece.iter().all(|&byte| byte == mib)));
    fs::write(test.mnt.join("new"), b"meanwhile").expect("write");
    let resync = &test.status()["resync"];
    assert!(resync["done_bytes"].as_u64() < resync["total_bytes"].as_u64(), "{resync}");
    assert_eq!(resync["active"], true, "{resync}");
    test.umount();

    test.mirror_mut().options.clear();
    test.recover_and_compare();
}
