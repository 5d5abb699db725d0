//! Trees of files that look like somebody's work and come out the same for the same seed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Random, compare};

/// Makes a source tree of about `files` files below `root`: directories several deep, mostly small
/// files with a few large ones, symlinks, hard links, executables.
pub fn source_tree(root: &Path, files: usize, seed: u64) {
    let mut random = Random::new(seed);
    fs::create_dir_all(root).expect("the root of a new tree");
    let mut dirs = vec![root.to_owned()];
    let mut made: Vec<PathBuf> = Vec::new();
    for number in 0..files {
        let dir = dirs[random.below(dirs.len() as u64) as usize].clone();
        if random.below(12) == 0 {
            let new = dir.join(format!("dir{number}"));
            fs::create_dir(&new).expect("a new directory");
            dirs.push(new);
        }
        let path = dir.join(format!("file{number}.c"));
        match random.below(40) {
            0 => symlink(format!("../file{}.c", random.below(files as u64)), &path).expect("a symlink"),
            1 if !made.is_empty() => {
                let target = &made[random.below(made.len() as u64) as usize];
                fs::hard_link(target, &path).expect("a hard link");
            }
            kind => {
                fs::write(&path, contents(&mut random, kind)).expect("a new file");
                let mode = if random.below(10) == 0 { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
                made.push(path);
            }
        }
    }
}

fn contents(random: &mut Random, kind: u64) -> Vec<u8> {
    let limit = if kind == 2 { 300_000 } else { 12_000 };
    let len = random.below(limit) as usize;
    random.bytes(len)
}

/// Every path below `root` with what a change to it would change: type, mode, owner, length, time,
/// and data or link target. For tests that claim that nothing was changed.
pub fn fingerprint(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let data = if meta.is_file() {
            format!("{:x}", hash(&read(&path)))
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path))
        } else {
            String::new()
        };
        let line = format!(
            "{:o} {}:{} {} {}.{} {data}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        found.insert(path.clone(), line);
        if meta.is_dir() {
            let names = compare::names(&path, false).unwrap_or_default();
            waiting.extend(names.into_iter().map(|name| path.join(name)));
        }
    }
    found
}

/// The bytes of a file, read without changing its access time.
fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = compare::open(path, rustix::fs::OFlags::NONBLOCK) {
        let _ = file.read_to_end(&mut bytes);
    }
    bytes
}

/// FNV-1a: enough to see that bytes have changed.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Renames directories about and writes below them, for as long as it is wanted, or so often.
pub fn restless(root: &Path, stop: &AtomicBool, most: u32) {
    let dir = root.join("restless");
    fs::create_dir(&dir).expect("mkdir");
    let mut number = 0u32;
    while number < most && !stop.load(Ordering::Relaxed) {
        let (from, to) = (dir.join(format!("d{number}")), dir.join(format!("d{}", number + 1)));
        if number.is_multiple_of(20) {
            fs::create_dir(&from).expect("mkdir");
        }
        fs::write(from.join(number.to_string()), number.to_string()).expect("write");
        fs::rename(&from, &to).expect("rename");
        number += 1;
        if number.is_multiple_of(20) {
            fs::rename(&to, dir.join(format!("kept{number}"))).expect("rename");
        }
    }
}

/// Stops who works when the test ends, however it does.
pub struct StopAtEnd<'s>(pub &'s AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
