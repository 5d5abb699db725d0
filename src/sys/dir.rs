//! The names in a directory, as getdents(2) gives them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, RawDir};

/// Bytes asked for in one call: a few hundred names.
const BUFFER: usize = 32 * 1024;

/// One name. The type is `Unknown` where the filesystem does not keep it in its directories.
pub struct RawEntry {
    /// Never `.` or `..`.
    pub name: OsString,
    /// Inode number.
    pub ino: u64,
    /// What it names.
    pub file_type: FileType,
}

/// All names in `dir`, which is open for reading and stands at its start.
pub fn read(dir: BorrowedFd<'_>) -> io::Result<Vec<RawEntry>> {
    let mut buf = vec![MaybeUninit::uninit(); BUFFER];
    let mut names = RawDir::new(dir, &mut buf);
    let mut entries = Vec::new();
    while let Some(entry) = names.next() {
        let entry = match entry {
            Err(rustix::io::Errno::INTR) => continue,
            entry => entry?,
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push(RawEntry {
                name: OsStr::from_bytes(name).to_owned(),
                ino: entry.ino(),
                file_type: entry.file_type(),
            });
        }
    }
    Ok(entries)
}
