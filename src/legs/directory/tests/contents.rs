use super::*;
use crate::legs::{Kind, Seek};
use crate::sys::memory::{PAGE, PinnedPages};

const DIRECT: OpenMode = OpenMode { read: true, write: true, direct: true };

#[test]
fn reads_stop_at_the_end_only() {
    let f = Fixture::new();
    let file = f.open(&f.file("f"));
    let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(f.leg.write(&marked(), &file, &data, 5).unwrap(), data.len());
    let mut buf = vec![0xaa; data.len() + 10];
    assert_eq!(f.leg.read(&file, &mut buf, 0).unwrap(), data.len() + 5);
    assert_eq!(&buf[..5], [0; 5]);
    assert_eq!(&buf[5..data.len() + 5], data);
    assert_eq!(f.leg.read(&file, &mut buf, 1 << 40).unwrap(), 0);
    assert_eq!(f.leg.read(&file, &mut [], 0).unwrap(), 0);
    assert_eq!(f.leg.write(&marked(), &file, &[], 1 << 40).unwrap(), 0);
    assert_eq!(f.leg.stat_file(&file).unwrap().size, data.len() as u64 + 5);
}

#[test]
fn a_file_is_open_for_what_was_asked() {
    let f = Fixture::new();
    let node = f.file("f");
    let reader = f.leg.open(&node, OpenMode { write: false, ..READ_WRITE }).unwrap();
    refused(f.leg.write(&marked(), &reader, b"x", 0), libc::EBADF);
    let writer = f.leg.open(&node, OpenMode { read: false, ..READ_WRITE }).unwrap();
    refused(f.leg.read(&writer, &mut [0], 0), libc::EBADF);
    refused(f.leg.open(&f.root(), READ_WRITE), libc::EISDIR);
    let fifo = f.make(&f.root(), "p", Make::Special { kind: Kind::Fifo, mode: 0o600, rdev: 0 });
    refused(f.leg.open(&fifo, READ_WRITE), libc::ENXIO);
}

#[test]
fn direct_files_take_buffers_of_any_alignment() {
    let f = Fixture::new();
    let (_, _, file) = f.leg.create(&marked(), &f.root(), os("f"), 0o600, own(), DIRECT).unwrap();
    let mut pages = PinnedPages::new(4 * PAGE).unwrap();
    pages.fill(1);
    assert_eq!(f.leg.write(&marked(), &file, &pages, 0).unwrap(), 4 * PAGE);
    assert_eq!(f.leg.write(&marked(), &file, &[2; 100], 4000).unwrap(), 100);
    assert_eq!(f.leg.write(&marked(), &file, &pages[..PAGE + 7], 4 * PAGE as u64).unwrap(), PAGE + 7);
    let mut back = PinnedPages::new(8 * PAGE).unwrap();
    assert_eq!(f.leg.read(&file, &mut back, 0).unwrap(), 5 * PAGE + 7);
    let expected: Vec<u8> =
        (0..5 * PAGE + 7).map(|n| if (4000..4100).contains(&n) { 2 } else { 1 }).collect();
    assert_eq!(&back[..5 * PAGE + 7], expected);
    let mut odd = vec![0; 3001];
    assert_eq!(f.leg.read(&file, &mut odd[1..], 3999).unwrap(), 3000);
    assert_eq!(odd[1..], expected[3999..6999]);
}

#[test]
fn sparse_files_show_their_holes() {
    let f = Fixture::new();
    let node = f.file("f");
    let file = f.open(&node);
    let (data_at, size) = (1 << 30, 1 << 32);
    f.leg.write(&marked(), &file, &[1; 4096], data_at).unwrap();
    f.leg.truncate(&marked(), &node, size).unwrap();
    assert_eq!(f.leg.seek(&file, 0, Seek::Data).unwrap(), data_at);
    assert_eq!(f.leg.seek(&file, 0, Seek::Hole).unwrap(), 0);
    assert_eq!(f.leg.seek(&file, data_at, Seek::Hole).unwrap(), data_at + 4096);
    refused(f.leg.seek(&file, data_at + 4096, Seek::Data), libc::ENXIO);
    refused(f.leg.seek(&file, size, Seek::Hole), libc::ENXIO);
    assert!(f.leg.stat(&node).unwrap().blocks < 1000);
}

#[test]
fn allocation_in_its_modes() {
    let f = Fixture::new();
    let file = f.open(&f.file("f"));
    let size = || f.leg.stat_file(&file).unwrap().size;
    f.leg.fallocate(&marked(), &file, 0, 0, 1 << 20).unwrap();
    assert_eq!(size(), 1 << 20);
    f.leg.fallocate(&marked(), &file, libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 4096).unwrap();
    assert_eq!(size(), 1 << 20);
    f.leg.write(&marked(), &file, &[7; 8192], 0).unwrap();
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    f.leg.fallocate(&marked(), &file, punch, 4096, 4096).unwrap();
    let mut buf = [9; 8192];
    f.leg.read(&file, &mut buf, 0).unwrap();
    assert!(buf[..4096].iter().all(|&b| b == 7) && buf[4096..].iter().all(|&b| b == 0));
    refused(f.leg.fallocate(&marked(), &file, 0, 0, 0), libc::EINVAL);
    refused(f.leg.fallocate(&marked(), &file, libc::FALLOC_FL_PUNCH_HOLE, 0, 1), libc::EOPNOTSUPP);
}

#[test]
fn copies_by_the_kernel_and_by_hand_agree() {
    let f = Fixture::new();
    let (from, to) = (f.open(&f.file("from")), f.open(&f.file("to")));
    let data: Vec<u8> = (0..3_000_001u32).map(|n| (n % 253) as u8).collect();
    f.leg.write(&marked(), &from, &data, 0).unwrap();
    assert_eq!(f.leg.copy_range(&marked(), (&from, 1), (&to, 0), 1 << 40).unwrap(), 3_000_000);
    assert_eq!(f.leg.copy_range(&marked(), (&from, 3_000_001), (&to, 0), 9).unwrap(), 0);
    let by_hand = f.open(&f.file("by hand"));
    assert_eq!(super::super::io::copy_by_hand((&from, 1), (&by_hand, 0), 1 << 40).unwrap(), 3_000_000);
    for file in [&to, &by_hand] {
        let mut back = vec![0; 3_000_001];
        assert_eq!(f.leg.read(file, &mut back, 0).unwrap(), 3_000_000);
        assert_eq!(back[..3_000_000], data[1..]);
    }
    refused(f.leg.copy_range(&marked(), (&from, 0), (&from, 10), 100), libc::EINVAL);
}

#[test]
fn everything_can_be_made_durable() {
    let f = Fixture::new();
    let node = f.file("f");
    let file = f.open(&node);
    f.leg.write(&marked(), &file, b"x", 0).unwrap();
    f.leg.sync_file(&file, true).unwrap();
    f.leg.sync_file(&file, false).unwrap();
    f.leg.sync_node(&node).unwrap();
    f.leg.sync_node(&f.root()).unwrap();
    f.leg.sync_node(&f.make(&f.root(), "s", Make::Symlink { target: os("f") })).unwrap();
    f.leg.unlink(&marked(), &f.root(), os("f")).unwrap();
    f.leg.sync_node(&node).unwrap();
    f.leg.sync_all().unwrap();
}

#[test]
fn a_lost_write_is_told_to_all_who_ask_later() {
    let f = Fixture::new();
    *f.leg.lost.lock() = Some(libc::EIO);
    refused(f.leg.sync_all(), libc::EIO);
    refused(f.leg.sync_all(), libc::EIO);
}

#[test]
fn reading_leaves_access_times_alone() {
    let f = Fixture::new();
    let dir = f.directory("d");
    let node = f.make(&dir, "f", Make::File { mode: 0o600 });
    let file = f.open(&node);
    f.leg.write(&marked(), &file, b"x", 0).unwrap();
    for node in [&dir, &node] {
        f.leg.set_times(&marked(), node, Some(at(1, 0)), None).unwrap();
    }
    f.leg.read(&file, &mut [0], 0).unwrap();
    f.leg.read_dir(&dir).unwrap();
    for node in [&dir, &node] {
        assert_eq!(f.leg.stat(node).unwrap().atime, at(1, 0));
    }
}
