//! What a mirror has to do at the least, done by one program on two directories without FUSE, for
//! scripts/bench: each write goes to both, each fsync to both at once. How fast that is on the disks
//! under the legs is how fast a mirror could be.
//!
//! Usage: twice LOAD DIR DIR MIB SECONDS, where LOAD is
//! - `seqwrite`: writes a new file of MIB mebibytes, 1 MiB at a time, fsync at the end;
//! - `fsync`: 4 KiB at random places of such a file, fsync after each, for SECONDS;
//! - `fsync4`: the same by four threads, each in files of its own of a quarter of the size.
//!
//! Prints how many operations were done and how many seconds they took.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4 << 10;

/// A file that there is twice, with a thread that syncs the second one while this one syncs the first.
struct Twice {
    files: [File; 2],
    sync: Sender<()>,
    synced: Receiver<io::Result<()>>,
}

impl Twice {
    fn open(dirs: &[PathBuf; 2], name: &str) -> io::Result<Twice> {
        let open = |dir: &Path| File::options().write(true).create(true).truncate(false).open(dir.join(name));
        let files = [open(&dirs[0])?, open(&dirs[1])?];
        let second = files[1].try_clone()?;
        let (sync, asked) = channel();
        let (done, synced) = channel();
        thread::spawn(move || while asked.recv().is_ok() && done.send(second.sync_all()).is_ok() {});
        Ok(Twice { files, sync, synced })
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.write_all_at(bytes, at))
    }

    fn fsync(&self) -> io::Result<()> {
        let gone = |_| io::Error::other("the thread that syncs has ended");
        self.sync.send(()).map_err(|_| gone(()))?;
        self.files[0].sync_all()?;
        self.synced.recv().map_err(|_| gone(()))?
    }

    fn fill(&self, mib: u64) -> io::Result<u64> {
        let piece = vec![b'x'; MIB as usize];
        (0..mib).try_for_each(|at| self.write(&piece, at * MIB))?;
        self.fsync()?;
        Ok(mib)
    }

    /// Until `end`. `seed` is not zero.
    fn write_and_sync(&self, mib: u64, mut seed: u64, end: Instant) -> io::Result<u64> {
        let block = [b'y'; BLOCK as usize];
        let blocks = mib * MIB / BLOCK;
        let mut done = 0;
        while Instant::now() < end {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            self.write(&block, seed % blocks * BLOCK)?;
            self.fsync()?;
            done += 1;
        }
        Ok(done)
    }
}

/// What `jobs` threads do until `seconds` are over, each in files of its own that are there already.
fn write_and_sync(dirs: &[PathBuf; 2], jobs: u64, mib: u64, seconds: u64) -> io::Result<(u64, f64)> {
    let mib = mib / jobs;
    let files: Vec<Twice> =
        (0..jobs).map(|job| Twice::open(dirs, &format!("twice{jobs}.{job}"))).collect::<io::Result<_>>()?;
    for twice in &files {
        if twice.files[0].metadata()?.len() < mib * MIB {
            twice.fill(mib)?;
        }
    }
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let done = thread::scope(|scope| {
        let threads: Vec<_> = files
            .into_iter()
            .zip(1..)
            .map(|(twice, seed)| scope.spawn(move || twice.write_and_sync(mib, seed, end)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum::<io::Result<u64>>()
    })?;
    Ok((done, start.elapsed().as_secs_f64()))
}

/// If it is there.
fn remove(file: &Path) -> io::Result<()> {
    if file.exists() { fs::remove_file(file) } else { Ok(()) }
}

fn run(load: &str, dirs: &[PathBuf; 2], mib: u64, seconds: u64) -> io::Result<(u64, f64)> {
    match load {
        "seqwrite" => {
            dirs.iter().try_for_each(|dir| remove(&dir.join("twice")))?;
            let twice = Twice::open(dirs, "twice")?;
            let start = Instant::now();
            Ok((twice.fill(mib)?, start.elapsed().as_secs_f64()))
        }
        "fsync" => write_and_sync(dirs, 1, mib, seconds),
        "fsync4" => write_and_sync(dirs, 4, mib, seconds),
        _ => Err(io::Error::other(format!("no load is named {load}"))),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &str| text.parse().map_err(io::Error::other);
    let result = match arguments.as_slice() {
        [load, one, other, mib, seconds] => {
            number(mib).and_then(|mib| run(load, &[one.into(), other.into()], mib, number(seconds)?))
        }
        _ => Err(io::Error::other("usage: twice LOAD DIR DIR MIB SECONDS")),
    };
    match result {
        Ok((done, seconds)) => println!("{done} {seconds:.6}"),
        Err(error) => {
            eprintln!("twice: {error}");
            std::process::exit(1);
        }
    }
}
