//! Reading and writing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::common::{Random, TestMirror, have, mounted};

fn both_legs_have(test: &TestMirror, name: &str, expected: &[u8]) {
    for path in test.everywhere(name) {
        assert!(fs::read(&path).expect("read") == expected, "{path:?} is not as it was written");
    }
}

#[test]
fn random_writes_reach_both_legs_before_they_return() {
    let Some(test) = mounted("writes") else { return };
    let mut random = Random::announced();
    let file = File::create(test.mnt.join("file")).expect("create");
    let mut model = Vec::new();
    for _ in 0..300 {
        let len = random.below(200_000) as usize;
        let (offset, data) = (random.below(3_000_000) as usize, random.bytes(len));
        file.write_all_at(&data, offset as u64).expect("write");
        model.resize(model.len().max(offset + data.len()), 0);
        model[offset..offset + data.len()].copy_from_slice(&data);
        if random.below(10) == 0 {
            model.resize(random.below(3_000_000) as usize, 0);
            file.set_len(model.len() as u64).expect("truncate");
        }
    }
    both_legs_have(&test, "file", &model);
    drop(file);
    test.umount_and_compare();
}

#[test]
fn appending_writes_go_to_the_end_whatever_their_offset() {
    let Some(test) = mounted("append") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, "one ").expect("write");
    let mut first = OpenOptions::new().append(true).open(&path).expect("open");
    let mut second = OpenOptions::new().append(true).open(&path).expect("open again");
    first.write_all(b"two ").expect("append");
    second.write_all(b"three ").expect("append");
    // POSIX would honour the offset; Linux does not, and programs know it.
    first.write_all_at(b"four", 0).expect("pwrite on O_APPEND");
    both_legs_have(&test, "file", b"one two three four");
    drop(first);
    drop(second);
    test.umount_and_compare();
}

#[test]
fn appends_from_many_threads_lose_nothing() {
    let Some(test) = mounted("appends") else { return };
    let path = test.mnt.join("log");
    File::create(&path).expect("create");
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).expect("open");
                for _ in 0..200 {
                    file.write_all(&[b'a' + writer; 97]).expect("append");
                }
            });
        }
    });
    let text = fs::read(test.a.join("log")).expect("read");
    assert_eq!(text.len(), 4 * 200 * 97);
    assert!(text.chunks(97).all(|record| record.iter().all(|byte| *byte == record[0])), "a torn record");
    test.umount_and_compare();
}

#[test]
fn overlapping_writes_of_many_threads_leave_the_legs_equal() {
    let Some(test) = mounted("overlap") else { return };
    let path = test.mnt.join("file");
    File::create(&path).expect("create");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut random = Random::new(writer);
                let file = OpenOptions::new().write(true).open(path).expect("open");
                for _ in 0..300 {
                    let data = vec![writer as u8; random.below(20_000) as usize + 1];
                    file.write_all_at(&data, random.below(30_000)).expect("write");
                    if random.below(20) == 0 {
                        file.set_len(random.below(40_000)).expect("truncate");
                    }
                }
            });
        }
    });
    test.umount_and_compare();
}

#[test]
fn sparse_files_keep_their_holes() {
    let Some(test) = mounted("sparse") else { return };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(test.mnt.join("file"))
        .expect("create");
    file.write_all_at(b"far out", 1 << 40).expect("write at a terabyte");
    for path in test.everywhere("file") {
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(&path).expect("stat");
        assert_eq!(meta.len(), (1 << 40) + 7);
        assert!(meta.blocks() < 1024, "{path:?} has {} blocks", meta.blocks());
    }
    let mut start = [1; 4096];
    file.rewind().expect("seek");
    file.read_exact(&mut start).expect("read in a hole");
    assert!(start.iter().all(|&byte| byte == 0));
    drop(file);
    test.umount_and_compare();
}

#[test]
fn seek_finds_data_and_holes() {
    let Some(test) = mounted("seek") else { return };
    let file = File::create(test.mnt.join("file")).expect("create");
    file.write_all_at(&[1; 65536], 1 << 20).expect("write");
    file.set_len(4 << 20).expect("truncate");
    let seek = |from| rustix::fs::seek(&file, from);
    use rustix::fs::SeekFrom::{Data, Hole};
    assert_eq!(seek(Data(0)), Ok(1 << 20));
    assert_eq!(seek(Hole(0)), Ok(0));
    assert_eq!(seek(Hole(1 << 20)), Ok((1 << 20) + 65536));
    assert_eq!(seek(Data((1 << 20) + 65536)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(Hole(4 << 20)), Err(rustix::io::Errno::NXIO));
    drop(file);
    test.umount_and_compare();
}

#[test]
fn copy_file_range_copies_on_both_legs() {
    let Some(test) = mounted("copyrange") else { return };
    let data = Random::new(7).bytes(1_000_000);
    fs::write(test.mnt.join("from"), &data).expect("write");
    let from = File::open(test.mnt.join("from")).expect("open");
    let to = File::create(test.mnt.join("to")).expect("create");
    let (mut read_at, mut write_at, mut left) = (1000, 500, 900_000);
    while left > 0 {
        let copied = rustix::fs::copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), left)
            .expect("copy");
        assert!(copied > 0, "the copy stops early");
        left -= copied;
    }
    let mut expected = vec![0; 500];
    expected.extend_from_slice(&data[1000..901_000]);
    both_legs_have(&test, "to", &expected);
    drop(from);
    drop(to);
    test.umount_and_compare();
}

#[test]
fn direct_io_reads_and_writes() {
    let Some(test) = mounted("direct") else { return };
    let path = test.mnt.join("file");
    let open = |options: &mut OpenOptions| options.custom_flags(libc::O_DIRECT).open(&path);
    let direct = open(OpenOptions::new().read(true).write(true).create(true));
    if !have("O_DIRECT on the mount", direct.is_ok()) {
        return;
    }
    let direct = direct.expect("checked");
    // An aligned buffer, as O_DIRECT wants it, cut out of a larger one.
    let mut store = vec![0u8; 3 * 65536];
    let start = store.as_ptr().align_offset(4096);
    let buffer = &mut store[start..start + 65536];
    buffer.copy_from_slice(&Random::new(3).bytes(65536));
    direct.write_all_at(buffer, 4096).expect("direct write");
    let mut expected = vec![0; 4096];
    expected.extend_from_slice(buffer);
    both_legs_have(&test, "file", &expected);
    // What was written directly is read through the page cache, and the other way round.
    let cached = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    let mut seen = vec![0; 65536];
    cached.read_exact_at(&mut seen, 4096).expect("cached read");
    assert!(seen == expected[4096..]);
    cached.write_all_at(&[7; 4096], 8192).expect("cached write");
    direct.read_exact_at(buffer, 4096).expect("direct read");
    assert!(buffer[4096..8192].iter().all(|&byte| byte == 7));
    drop(direct);
    drop(cached);
    test.umount_and_compare();
}

#[test]
fn writes_to_a_file_opened_twice_are_seen_by_both() {
    let Some(test) = mounted("twice") else { return };
    let path = test.mnt.join("file");
    let writer = File::create(&path).expect("create");
    let reader = File::open(&path).expect("open");
    for number in 0..100u64 {
        writer.write_all_at(&number.to_le_bytes(), number * 5000).expect("write");
        let mut seen = [0; 8];
        reader.read_exact_at(&mut seen, number * 5000).expect("read");
        assert_eq!(u64::from_le_bytes(seen), number);
    }
    drop(writer);
    drop(reader);
    test.umount_and_compare();
}

#[test]
fn sync_calls_succeed_on_everything() {
    let Some(test) = mounted("sync") else { return };
    let dir = test.mnt.join("dir");
    fs::create_dir(&dir).expect("mkdir");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .custom_flags(libc::O_SYNC)
        .truncate(true)
        .open(dir.join("file"))
        .expect("create");
    file.write_all(b"with O_SYNC").expect("write");
    file.sync_data().expect("fdatasync");
    file.sync_all().expect("fsync");
    File::open(&dir).expect("open the directory").sync_all().expect("fsync of a directory");
    File::open(dir.join("file")).expect("open to read").sync_all().expect("fsync of what is open to read");
    drop(file);
    test.umount_and_compare();
}

#[test]
fn a_file_larger_than_any_request_comes_back_whole() {
    let Some(test) = mounted("large") else { return };
    let data = Random::new(11).bytes(20 << 20);
    fs::write(test.mnt.join("file"), &data).expect("write");
    both_legs_have(&test, "file", &data);
    drop_caches_of(&test.mnt.join("file"));
    assert!(fs::read(test.mnt.join("file")).expect("cold read") == data);
    let mut file = File::open(test.mnt.join("file")).expect("open");
    file.seek(SeekFrom::End(-5)).expect("seek");
    let mut end = Vec::new();
    file.read_to_end(&mut end).expect("read at the end");
    assert_eq!(end, data[data.len() - 5..]);
    drop(file);
    test.umount_and_compare();
}

fn drop_caches_of(path: &Path) {
    let file = File::open(path).expect("open");
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
}
