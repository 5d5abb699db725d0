//! A daemon killed with SIGKILL at any moment under real work loses nothing that was acknowledged,
//! and the next mount makes the legs equal again (P1, P2, P3). Half of the crashes are followed by
//! a second one in the middle of the resync. With `writeback` nothing is lost that was synced or closed.
//!
//! Needs root and /dev/fuse; git, sqlite3 and tar for the tests that use them.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use common::crash::{Load, crash_under};
use common::{Filesystem, Random, Scratch, TestMirror, can_mount, differences, has_program, process, tree};

/// How often each load is crashed: a few times in every run, more with `MIRRORFS_CRASHES`.
fn rounds() -> usize {
    std::env::var("MIRRORFS_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

#[test]
fn copying_a_source_tree() {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    let outside = Scratch::new("sources");
    let sources = outside.join("src");
    tree::source_tree(&sources, 600, 1);
    for filesystem in [Filesystem::Plain, Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs] {
        let test = TestMirror::on("cp", filesystem, "");
        for round in 0..rounds() {
            let script = format!(
                "cp -a '{0}' copy{round} & tar -C '{0}' -cf - . | (mkdir tar{round}; tar -C tar{round} -xf -); wait
                rm -rf copy{round}; mv tar{round} kept",
                sources.display()
            );
            crash_under(&test, &mut random, &script, Duration::from_millis(1500));
        }
        // And what is copied without a crash after all those is a copy.
        process::shell(&test.mnt, &format!("cp -a '{}' whole", sources.display()));
        let found = differences(&sources, &test.mnt.join("whole"));
        let real: Vec<_> = found.iter().filter(|line| !line.contains("atime")).collect();
        assert!(real.is_empty(), "the copy is not the original: {real:#?}");
        test.umount_and_compare();
    }
}

#[test]
fn git_clone_commit_and_gc() {
    if !can_mount() || !has_program("git") {
        return;
    }
    let mut random = Random::announced();
    let outside = Scratch::new("git");
    let origin = outside.dir("origin");
    tree::source_tree(&origin, 300, 2);
    let identify = "git config user.email tests@example.org; git config user.name Tests";
    process::shell(&origin, &format!("git init -q; {identify}; git add -A; git commit -qm first"));
    let test = TestMirror::on("git", Filesystem::Ext4, "");
    for round in 0..rounds() {
        let script = format!(
            "git clone -q '{}' clone{round}; cd clone{round}; {identify}
            for number in 1 2 3 4 5; do
                date > new$number; git add -A; git commit -qm change$number; git gc -q --prune=now
            done",
            origin.display()
        );
        crash_under(&test, &mut random, &script, Duration::from_millis(2500));
    }
    process::shell(&test.mnt, &format!("git clone -q '{}' last; cd last; git fsck --full", origin.display()));
    test.umount_and_compare();
}

#[test]
fn sqlite_keeps_every_committed_transaction() {
    if !can_mount() || !has_program("sqlite3") {
        return;
    }
    let mut random = Random::announced();
    let test = TestMirror::on("sqlite", Filesystem::Ext4, "");
    let outside = Scratch::new("sqlitelog");
    for (round, journal) in ["delete", "wal", "persist", "wal"].into_iter().cycle().take(rounds()).enumerate()
    {
        let log = outside.join(format!("committed{round}"));
        // One process a transaction: what sqlite3 has returned from is committed.
        let script = format!(
            "db=base{round}
            sqlite3 $db 'pragma journal_mode={journal}; create table t(n integer primary key, data blob)' || exit
            number=0
            while sqlite3 $db \"pragma synchronous=full; insert into t values($number, randomblob(20000))\"; do
                echo $number >> '{}'
                number=$((number + 1))
            done",
            log.display()
        );
        crash_under(&test, &mut random, &script, Duration::from_millis(2500));
        let committed: Vec<u64> = fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        if !test.mnt.join(format!("base{round}")).exists() {
            assert!(committed.is_empty());
            continue;
        }
        let verdict = process::shell(&test.mnt, &format!("sqlite3 base{round} 'pragma integrity_check'"));
        assert_eq!(verdict.trim(), "ok");
        if let Some(last) = committed.last() {
            let rows = process::shell(&test.mnt, &format!("sqlite3 base{round} 'select count(*) from t'"));
            let rows: u64 = rows.trim().parse().expect("a number of rows");
            assert!(rows > *last, "{rows} rows are left of {} committed", last + 1);
        }
    }
    test.umount_and_compare();
}

/// Appends numbered records to its files with an fsync each, until an error; tells for each file
/// how many were acknowledged.
fn append_and_sync(dir: &Path, writer: u64) -> Vec<(String, u64)> {
    let mut acknowledged = Vec::new();
    for file_number in 0.. {
        let name = format!("log{writer}-{file_number}");
        let Ok(mut file) = OpenOptions::new().append(true).create_new(true).open(dir.join(&name)) else {
            break;
        };
        acknowledged.push((name, 0));
        for record in 0..40u64 {
            let written = file.write_all(&(record ^ writer).to_le_bytes());
            if written.and_then(|()| file.sync_data()).is_err() {
                return acknowledged;
            }
            acknowledged.last_mut().expect("just pushed").1 = record + 1;
        }
    }
    acknowledged
}

#[test]
fn what_was_synced_is_there() {
    synced_is_there("");
}

#[test]
fn what_was_synced_is_there_with_writeback() {
    synced_is_there("writeback");
}

fn synced_is_there(options: &str) {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    let test = TestMirror::on("fsyncs", Filesystem::Xfs, options);
    for round in 0..rounds() {
        let dir = test.mnt.join(format!("round{round}"));
        fs::create_dir(&dir).expect("mkdir");
        let pid = test.pid();
        let acknowledged = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|writer| {
                    scope.spawn({
                        let dir = &dir;
                        move || append_and_sync(dir, writer)
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_micros(random.below(900_000)));
            process::kill_hard(pid);
            writers.into_iter().map(|writer| writer.join().expect("a writer")).collect::<Vec<_>>()
        });
        test.recover_and_compare();
        test.mount();
        for (writer, files) in acknowledged.into_iter().enumerate() {
            for (name, records) in files {
                let data = fs::read(dir.join(&name)).expect("a file that was made is there");
                assert!(
                    data.len() as u64 >= records * 8,
                    "{name}: {} bytes of {records} records",
                    data.len()
                );
                let whole =
                    data.chunks_exact(8).map(|record| u64::from_le_bytes(record.try_into().expect("8")));
                assert!(
                    whole.zip(0..).all(|(seen, record)| seen == record ^ writer as u64),
                    "{name} is damaged"
                );
            }
        }
    }
    test.umount_and_compare();
}

#[test]
fn every_change_that_returned_is_there_without_any_sync() {
    returned_is_there("", change_names);
}

#[test]
fn what_was_closed_is_there_with_writeback() {
    returned_is_there("writeback", change_names_and_close);
}

/// `change` makes the file of that number, and is only counted when it has returned.
fn returned_is_there(options: &str, change: fn(&Path, u64) -> std::io::Result<()>) {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    let test = TestMirror::on("returned", Filesystem::Plain, options);
    for round in 0..rounds() {
        let dir = test.mnt.join(format!("round{round}"));
        fs::create_dir(&dir).expect("mkdir");
        let pid = test.pid();
        let done = std::thread::scope(|scope| {
            let writer =
                scope.spawn(|| (0..u64::MAX).take_while(|number| change(&dir, *number).is_ok()).last());
            std::thread::sleep(Duration::from_micros(random.below(400_000)));
            process::kill_hard(pid);
            writer.join().expect("the writer")
        });
        test.recover_and_compare();
        test.mount();
        let Some(last) = done else { continue };
        let names: BTreeSet<_> =
            fs::read_dir(&dir).expect("list").flatten().map(|entry| entry.file_name()).collect();
        for number in 0..=last {
            assert!(
                names.contains(std::ffi::OsStr::new(&format!("new{number}"))),
                "new{number} of {last} is lost"
            );
            assert!(!names.contains(std::ffi::OsStr::new(&format!("old{number}"))), "old{number} is back");
            let text = fs::read_to_string(dir.join(format!("new{number}"))).expect("read");
            assert_eq!(text, format!("contents {number}"));
        }
    }
    test.umount_and_compare();
}

/// Makes a file, writes it, renames it while it is open, and removes another.
fn change_names(dir: &Path, number: u64) -> std::io::Result<()> {
    let [old, new, gone] = ["old", "new", "gone"].map(|kind| dir.join(format!("{kind}{number}")));
    let mut file = File::create_new(&old)?;
    fs::write(&gone, "soon gone")?;
    fs::rename(&old, &new)?;
    file.write_all(format!("contents {number}").as_bytes())?;
    fs::remove_file(gone)
}

/// The same with a close after the write. What the close has to tell is lost, but the daemon that does the next
/// thing was there at the close.
fn change_names_and_close(dir: &Path, number: u64) -> std::io::Result<()> {
    change_names(dir, number)?;
    let probe = dir.join(format!("probe{number}"));
    File::create_new(&probe)?;
    fs::remove_file(probe)
}

/// Blocks of one file, written over and over: what each may hold after a crash.
struct Blocks {
    /// The number in each block at the last fsync.
    synced: Vec<u64>,
    /// The number written to it last.
    written: Vec<u64>,
}

const BLOCK: usize = 4096;
const BLOCKS: usize = 256;

/// Writes until an error.
fn write_blocks(file: &File, mut random: Random) -> Blocks {
    let mut blocks = Blocks { synced: vec![0; BLOCKS], written: vec![0; BLOCKS] };
    for number in 1.. {
        let at = random.below(BLOCKS as u64) as usize;
        // Of a write that fails it is not known whether it is in the kernel's memory.
        blocks.written[at] = number;
        let data: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(BLOCK).collect();
        if file.write_all_at(&data, (at * BLOCK) as u64).is_err() {
            break;
        }
        if random.below(100) == 0 {
            if file.sync_data().is_err() {
                break;
            }
            blocks.synced.clone_from(&blocks.written);
        }
    }
    blocks
}

#[test]
fn with_writeback_a_block_is_no_older_than_its_last_sync_and_both_legs_have_the_same() {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    let test = TestMirror::on("blocks", Filesystem::Ext4, "writeback");
    for round in 0..rounds() {
        let path = test.mnt.join(format!("blocks{round}"));
        fs::write(&path, vec![0; BLOCK * BLOCKS]).expect("write");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let (pid, of_writer) = (test.pid(), Random::new(random.next()));
        let blocks = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_blocks(&file, of_writer));
            std::thread::sleep(Duration::from_micros(random.below(900_000)));
            process::kill_hard(pid);
            writer.join().expect("the writer")
        });
        drop(file);
        test.recover_and_compare();
        test.mount();
        let data = fs::read(&path).expect("read");
        assert_eq!(data.len(), BLOCK * BLOCKS);
        for (at, block) in data.chunks_exact(BLOCK).enumerate() {
            let numbers: BTreeSet<_> = block.chunks_exact(8).collect();
            assert_eq!(numbers.len(), 1, "block {at} is a mixture of two writes");
            let seen = u64::from_le_bytes(block[..8].try_into().expect("8 bytes"));
            let (oldest, newest) = (blocks.synced[at], blocks.written[at]);
            assert!(
                (oldest..=newest).contains(&seen),
                "block {at} has {seen}; {oldest} was synced, and {newest} written last"
            );
        }
    }
    test.umount_and_compare();
}

#[test]
fn copying_a_source_tree_with_writeback() {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    let outside = Scratch::new("sources");
    let sources = outside.join("src");
    tree::source_tree(&sources, 400, 1);
    let test = TestMirror::on("cp", Filesystem::Ext4, "writeback");
    for round in 0..rounds() {
        let script = format!("cp -a '{0}' copy{round}; mv copy{round} kept{round}", sources.display());
        crash_under(&test, &mut random, &script, Duration::from_millis(900));
        // The last step is seen only if all before it has been done, and cp has closed each file.
        let kept = test.mnt.join(format!("kept{round}"));
        if kept.exists() {
            let found = differences(&sources, &kept);
            let real: Vec<_> = found.iter().filter(|line| !line.contains("atime")).collect();
            assert!(real.is_empty(), "the copy is not the original: {real:#?}");
        }
    }
    test.umount_and_compare();
}

#[test]
fn renames_and_unlinks_of_open_files() {
    shuffled("");
}

#[test]
fn renames_and_unlinks_of_open_files_with_writeback() {
    shuffled("writeback");
}

fn shuffled(options: &str) {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    let test = TestMirror::on("renames", Filesystem::Ext4, options);
    for _ in 0..rounds() {
        let pid = test.pid();
        let seed = random.next();
        std::thread::scope(|scope| {
            for client in 0..3 {
                let root = &test.mnt;
                scope.spawn(move || {
                    let mut random = Random::new(seed ^ client);
                    while shuffle(root, &mut random).is_ok() {}
                });
            }
            std::thread::sleep(Duration::from_micros(random.below(700_000)));
            process::kill_hard(pid);
        });
        test.recover_and_compare();
        test.mount();
    }
    test.umount_and_compare();
}

/// One random change of names among a few that all clients share. What fails because another client
/// was faster is no error; a dead mount is one.
fn shuffle(root: &Path, random: &mut Random) -> std::io::Result<()> {
    let mut name = |kinds: u64| {
        root.join(
            ["", "d0/", "d1/"][random.below(3) as usize].to_owned() + &format!("n{}", random.below(kinds)),
        )
    };
    let (from, to) = (name(12), name(12));
    let result = match random.below(9) {
        0 | 1 => OpenOptions::new().create(true).write(true).truncate(true).open(&from).and_then(|file| {
            fs::remove_file(&from)?;
            file.write_all_at(&random.bytes(3000), random.below(5000))
        }),
        2 => fs::write(&from, random.bytes(6000)),
        3 => fs::rename(&from, &to),
        4 => fs::hard_link(&from, &to),
        5 => fs::remove_file(&from),
        6 => fs::create_dir(root.join(format!("d{}", random.below(2)))),
        7 => rustix::fs::renameat_with(
            rustix::fs::CWD,
            &from,
            rustix::fs::CWD,
            &to,
            rustix::fs::RenameFlags::EXCHANGE,
        )
        .map_err(Into::into),
        _ => fs::rename(root.join("d0"), root.join("d1"))
            .or_else(|_| fs::rename(root.join("d1"), root.join("d0"))),
    };
    match result.as_ref().map_err(std::io::Error::raw_os_error) {
        Err(Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO)) => result,
        _ => Ok(()),
    }
}

#[test]
fn the_mount_serves_while_it_resyncs_and_reads_one_version_only() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::new("source");
    let path = test.mnt.join("file");
    fs::write(&path, vec![1; 64 << 20]).expect("write");
    test.wait_until_clean();
    let load =
        Load::start(&test, "while :; do dd if=/dev/urandom of=file bs=64k count=1024 conv=notrunc; done");
    std::thread::sleep(Duration::from_millis(300));
    test.kill();
    drop(load);
    test.mount();
    let first = fs::read(&path).expect("reading while the resync runs");
    let second = fs::read(&path).expect("reading again");
    assert!(first == second, "a reader saw a byte change that nobody wrote");
    test.wait_until_resynced();
    process::shell(&test.mnt, "dd if=file of=/dev/null iflag=nocache count=0 2>/dev/null");
    assert!(fs::read(&path).expect("reading after the resync") == first);
    test.umount_and_compare();
}
