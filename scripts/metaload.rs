//! One metadata load on one directory, for scripts/bench: prints how many operations a second were
//! done.
//!
//! Usage: metaload LOAD DIR FILES, where LOAD is
//! - `create`: makes FILES empty files, a thousand a directory;
//! - `small`: the same with 100 bytes in each, in other directories;
//! - `stat`: one stat of each of them, after a round that is not counted;
//! - `readdir`: lists all the directories, after a round that is not counted; counts entries;
//! - `rename`: gives each of them another name in its directory, and back;
//! - `unlink`: removes the empty ones and their directories, and those of `small` uncounted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const A_DIRECTORY: u64 = 1000;
/// Where `small` makes its files.
const SMALL: &str = "small";

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
    make(root, files, &[])
}

fn small(root: &Path, files: u64) -> io::Result<u64> {
    make(&root.join(SMALL), files, &[b'x'; 100])
}

fn stat(root: &Path, files: u64) -> io::Result<u64> {
    for path in paths(root, files) {
        fs::symlink_metadata(path)?;
    }
    Ok(files)
}

fn readdir(root: &Path, files: u64) -> io::Result<u64> {
    let mut entries = 0;
    for dir in directories(root, files) {
        for entry in fs::read_dir(dir)? {
            entry?;
            entries += 1;
        }
    }
    Ok(entries)
}

fn rename(root: &Path, files: u64) -> io::Result<u64> {
    let other = |path: &Path| path.with_extension("moved");
    for path in paths(root, files) {
        fs::rename(&path, other(&path))?;
    }
    for path in paths(root, files) {
        fs::rename(other(&path), &path)?;
    }
    Ok(2 * files)
}

fn unlink(root: &Path, files: u64) -> io::Result<u64> {
    for path in paths(root, files) {
        fs::remove_file(path)?;
    }
    for dir in directories(root, files) {
        fs::remove_dir(dir)?;
    }
    Ok(files)
}

fn run(load: &str, root: &Path, files: u64) -> io::Result<f64> {
    let (operation, warm_up): (fn(&Path, u64) -> io::Result<u64>, bool) = match load {
        "create" => (create, false),
        "small" => (small, false),
        "stat" => (stat, true),
        "readdir" => (readdir, true),
        "rename" => (rename, false),
        "unlink" => (unlink, false),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no load is named {load}"))),
    };
    if warm_up {
        operation(root, files)?;
    }
    let start = Instant::now();
    let done = operation(root, files)?;
    let rate = done as f64 / start.elapsed().as_secs_f64();
    if load == "unlink" {
        fs::remove_dir_all(root.join(SMALL))?;
    }
    Ok(rate)
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
        Ok(rate) => println!("{rate:.0}"),
        Err(error) => {
            eprintln!("metaload: {error}");
            std::process::exit(1);
        }
    }
}
