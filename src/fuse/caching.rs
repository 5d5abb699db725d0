//! What the kernel keeps of the data of files: how a mount was asked to have it. Pure.
//!
//! | | a write(2) returns | length and times of a file in use are |
//! |---|---|---|
//! | `Through` | when the mirror has replied (P1) | the mirror's |
//! | `Back` | when it is in the kernel's memory | the kernel's, until it has told them |
//!
//! # What the kernel does with `Back` (Linux 6.18, fs/fuse/file.c and dir.c)
//! - It hands pages over by WRITE requests in nobody's name, by any handle of the file that is open for writing,
//!   and does not look at the count of the reply: see [`write_back`](crate::ops::Mirror::write_back). It reads the rest of
//!   a page of which a part is written, also for a file opened to be written only: the legs' files are always open for
//!   both.
//! - close(2), msync(2), fsync(2), the end of a mapping and umount(2) wait for these, whatever the daemon said to FLUSH,
//!   and tell the program of an error. The kernel does not keep what could not be written.
//! - O_APPEND it minds itself: the offset of a request is where the bytes go.
//! - It sends the modification time by SETATTR after the pages; when it writes pages back of its own accord, perhaps before
//!   the last of them.
//! - What GETATTR and LOOKUP say of length and times of a file that it knows it does not believe.
//! - SEEK_DATA and SEEK_HOLE it asks for without handing anything over, so they are not answered here (ENOSYS): no file has
//!   a hole then.
//! - A write to a file with suid or sgid goes on to the mirror at once, with the bit that says to take them away.
//! - Truncating, allocating, copying a range and direct I/O first wait for the pages that they concern; a notice that drops
//!   cached data hands dirty pages over before.

use fuser::InitFlags;

/// What the kernel keeps of the data of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// What has been read or written; a write goes on to the mirror before it returns.
    #[default]
    Through,
    /// The same, and writes that the mirror has not heard of yet (the option `writeback`).
    Back,
}

impl Caching {
    /// What the kernel must be able to do for it.
    pub(super) fn needed(self) -> InitFlags {
        match self {
            Caching::Through => InitFlags::empty(),
            Caching::Back => InitFlags::FUSE_WRITEBACK_CACHE,
        }
    }
}
