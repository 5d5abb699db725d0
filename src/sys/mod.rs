//! System calls: thin safe wrappers that take a [`BorrowedFd`] and return [`io::Result`] with the
//! kernel's errno.
//!
//! The only unsafe code of the crate, one call a block. Nothing here decides anything, logs, or
//! knows about legs. A call that a signal interrupted is made again. Paths are never looked up from the
//! current directory or the root, except for `/proc/self`, through which a descriptor that was opened with
//! O_PATH can be reopened and changed.
//!
//! - [`file`](mod@file): opening below a directory, attributes, reading and writing
//! - [`dir`]: the names in a directory
//! - [`xattr`]: extended attributes
//! - [`handle`]: file handles
//! - [`helpers`]: threads that run borrowed work
//! - [`mount`]: a private view of a mount
//! - [`creds`]: the identity and umask of the calling thread
//! - [`memory`]: pinned pages
//! - [`process`]: a second process

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

pub mod creds;
pub mod dir;
pub mod file;
pub mod handle;
pub mod helpers;
pub mod memory;
pub mod mount;
pub mod process;
pub mod xattr;

/// Makes the call again for as long as signals interrupt it.
fn uninterrupted<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::io::retry_on_intr(call).map_err(io::Error::from)
}

/// The result of a C call that returns -1 and sets errno, made again for as long as signals
/// interrupt it.
fn checked(mut call: impl FnMut() -> libc::c_long) -> io::Result<libc::c_long> {
    loop {
        let result = call();
        if result != -1 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A path that leads to exactly what `fd` is open on, a symlink included, for the calls that do
/// not take O_PATH descriptors.
fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("digits hold no NUL")
}
