//! The replies that several requests share. Each sends exactly one.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    ReplyXattr,
};

use super::convert::{errno, file_attr};
use crate::inode::Fh;
use crate::ops::{Attr, Found};

/// How long the kernel may believe what it was told: longer than any mount lasts. It drops by itself
/// what it changes, and the rest is taken back by a notice.
pub(super) const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Done, or not.
pub(super) fn empty(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// A name and what it names, for good.
pub(super) fn entry(reply: ReplyEntry, result: io::Result<Found>) {
    match result {
        Ok(found) => reply.entry(&FOR_GOOD, &file_attr(&found.attr), Generation(found.generation)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// What an object is, for good.
pub(super) fn attributes(reply: ReplyAttr, result: io::Result<Attr>) {
    match result {
        Ok(attr) => reply.attr(&FOR_GOOD, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// An open file or directory.
pub(super) fn opened(reply: ReplyOpen, result: io::Result<Fh>, flags: FopenFlags) {
    match result {
        Ok(handle) => reply.opened(FileHandle(handle.0), flags),
        Err(error) => reply.error(errno(&error)),
    }
}

/// How many bytes were written or copied.
pub(super) fn written(reply: ReplyWrite, result: io::Result<usize>) {
    match result.map(u32::try_from) {
        Ok(Ok(count)) => reply.written(count),
        // More than was asked for: no request is that long.
        Ok(Err(_)) => reply.error(Errno::EIO),
        Err(error) => reply.error(errno(&error)),
    }
}

/// The value of an attribute, or a list of names. `size` is the caller's room in bytes, 0 a question
/// for the length.
pub(super) fn xattr(reply: ReplyXattr, size: u32, result: io::Result<Vec<u8>>) {
    match result {
        Err(error) => reply.error(errno(&error)),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(len) if size == 0 => reply.size(len),
            Ok(len) if len <= size => reply.data(&value),
            Ok(_) => reply.error(Errno::ERANGE),
            Err(_) => reply.error(Errno::E2BIG),
        },
    }
}

/// Names as listxattr(2) has them: each ended by a NUL.
pub(super) fn name_list(names: &[OsString]) -> Vec<u8> {
    names.iter().flat_map(|name| name.as_bytes().iter().copied().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribute_names_are_ended_by_a_nul_each() {
        assert_eq!(name_list(&[]), b"");
        assert_eq!(name_list(&["user.a".into(), "user.b".into()]), b"user.a\0user.b\0");
    }
}
