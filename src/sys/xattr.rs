//! Extended attributes of whatever a descriptor is open on, O_PATH descriptors and symlinks included.
//!
//! setxattrat(2) and its kin refuse O_PATH descriptors, so the way is through `/proc/self/fd`, which
//! leads to the object itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::{proc_path, uninterrupted};

/// Enough for most values without asking for the length first.
const FIRST_GUESS: usize = 256;

/// The value of one; ENODATA when there is none.
pub fn get(fd: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<u8>> {
    let path = proc_path(fd);
    growing(|buf| rustix::fs::getxattr(&path, name, buf))
}

/// All names, in the filesystem's order.
pub fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let path = proc_path(fd);
    let names = growing(|buf| rustix::fs::listxattr(&path, buf))?;
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
}

/// Sets one; `flags` as in setxattr(2).
pub fn set(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8], flags: i32) -> io::Result<()> {
    let path = proc_path(fd);
    let flags = XattrFlags::from_bits_retain(flags as u32);
    uninterrupted(|| rustix::fs::setxattr(&path, name, value, flags))
}

/// Removes one; ENODATA when there is none.
pub fn remove(fd: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let path = proc_path(fd);
    uninterrupted(|| rustix::fs::removexattr(&path, name))
}

/// Calls with ever larger buffers until the answer fits: it may grow between two calls.
fn growing(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; FIRST_GUESS];
    loop {
        match call(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            Err(Errno::INTR) => {}
            Err(Errno::RANGE) => {
                // An empty buffer asks for the length.
                let needed = call(&mut [])?;
                buf.resize(needed.max(buf.len() * 2), 0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
