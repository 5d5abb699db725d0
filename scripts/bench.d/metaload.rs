//! One metadata load on one directory, for scripts/bench: prints how many operations were done and
//! how many seconds they took.
//!
//! Usage: metaload LOAD DIR FILES, where LOAD is
//! - `create`: makes FILES empty files, a thousand a directory;
//! - `small`: the same with 100 bytes in each, in other directories;
//! - `stat`: one stat of each of the empty ones;
//! - `readdir`: lists all their directories; counts entries;
//! - `liststat`: the same with a stat of each name, as `ls -l` does it;
//! - `readsmall`: opens, reads and closes each file of `small`;
//! - `rename`: gives each of the empty ones another name in its directory, and back;
//! - `unlink`: removes them and their directories;
//! - `roundtrip`: FILES times a request that a FUSE filesystem answers without doing anything.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

const A_DIRECTORY: u64 = 1000;
/// Where `small` makes its files, and `create` its own.
const SMALL: &str = "small";
const EMPTY: &str = "empty";

fn directory(root: &Path, number: u64) -> PathBuf {
    root.join(format!("dir{number}"))
}

fn paths(root: &Path, files: u64) -> impl Iterator<Item = PathBuf> + '_ {
    (0..files).map(move |file| directory(root, file / A_DIRECTORY).join(format!("file{file}")))
}

fn directories(root: &Path, files: u64) -> impl Iterator<Item = PathBuf> + '_ {
    (0..files.div_ceil(A_DIRECTORY)).map(move |number| directory(root, number))
}

fn make(root: &Path, files: u64, content: &[u8]) -> io::Result<u64> {
    for dir in directories(root, files) {
        fs::create_dir_all(dir)?;
    }
    for path in paths(root, files) {
        File::create_new(path)?.write_all(content)?;
    }
    Ok(files)
}

fn create(root: &Path, files: u64) -> io::Result<u64> {
    make(&root.join(EMPTY), files, &[])
}

fn small(root: &Path, files: u64) -> io::Result<u64> {
    make(&root.join(SMALL), files, &[b'x'; 100])
}

fn stat(root: &Path, files: u64) -> io::Result<u64> {
    for path in paths(&root.join(EMPTY), files) {
        fs::symlink_metadata(path)?;
    }
    Ok(files)
}

fn list(root: &Path, files: u64, each: fn(&fs::DirEntry) -> io::Result<()>) -> io::Result<u64> {
    let mut entries = 0;
    for dir in directories(&root.join(EMPTY), files) {
        for entry in fs::read_dir(dir)? {
            each(&entry?)?;
            entries += 1;
        }
    }
    Ok(entries)
}

fn readdir(root: &Path, files: u64) -> io::Result<u64> {
    list(root, files, |_| Ok(()))
}

fn liststat(root: &Path, files: u64) -> io::Result<u64> {
    list(root, files, |entry| entry.metadata().map(drop))
}

fn readsmall(root: &Path, files: u64) -> io::Result<u64> {
    let mut content = Vec::new();
    for path in paths(&root.join(SMALL), files) {
        content.clear();
        File::open(path)?.read_to_end(&mut content)?;
    }
    Ok(files)
}

fn rename(root: &Path, files: u64) -> io::Result<u64> {
    let root = root.join(EMPTY);
    let other = |path: &Path| path.with_extension("moved");
    for path in paths(&root, files) {
        fs::rename(&path, other(&path))?;
    }
    for path in paths(&root, files) {
        fs::rename(other(&path), &path)?;
    }
    Ok(2 * files)
}

fn unlink(root: &Path, files: u64) -> io::Result<u64> {
    let root = root.join(EMPTY);
    for path in paths(&root, files) {
        fs::remove_file(path)?;
    }
    for dir in directories(&root, files) {
        fs::remove_dir(dir)?;
    }
    Ok(files)
}

unsafe extern "C" {
    fn ioctl(descriptor: i32, request: u64) -> i32;
}

/// An ioctl that nobody knows: the kernel passes it on, and the daemon refuses it at once.
fn roundtrip(root: &Path, files: u64) -> io::Result<u64> {
    const UNKNOWN: u64 = 0x66ff;
    const ENOTTY: i32 = 25;
    let asked = File::create(root.join("roundtrip"))?;
    for _ in 0..files {
        // SAFETY: `asked` is open, and a request of this form has no argument.
        let answer = unsafe { ioctl(asked.as_raw_fd(), UNKNOWN) };
        let error = io::Error::last_os_error();
        if answer != -1 || error.raw_os_error() != Some(ENOTTY) {
            return Err(io::Error::other(format!("an ioctl that nobody knows was answered with {error}")));
        }
    }
    Ok(files)
}

fn run(load: &str, root: &Path, files: u64) -> io::Result<(u64, f64)> {
    let operation: fn(&Path, u64) -> io::Result<u64> = match load {
        "create" => create,
        "small" => small,
        "stat" => stat,
        "readdir" => readdir,
        "liststat" => liststat,
        "readsmall" => readsmall,
        "rename" => rename,
        "unlink" => unlink,
        "roundtrip" => roundtrip,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no load is named {load}"))),
    };
    let start = Instant::now();
    let done = operation(root, files)?;
    Ok((done, start.elapsed().as_secs_f64()))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.as_slice() {
        [load, dir, files] => match files.parse() {
            Ok(files) => run(load, Path::new(dir), files),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
        },
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "usage: metaload LOAD DIR FILES")),
    };
    match result {
        Ok((done, seconds)) => println!("{done} {seconds:.6}"),
        Err(error) => {
            eprintln!("metaload: {error}");
            std::process::exit(1);
        }
    }
}
