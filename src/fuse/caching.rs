//! What the kernel keeps of the data of files: how a mount was asked to have it. Pure.
//!
//! | | a write(2) returns | length and times of a file in use are |
//! |---|---|---|
//! | `Through` | when the mirror has replied (P1) | the mirror's |
//! | `Back` | when it is in the kernel's memory | the kernel's, until it has told them |
//! | `Direct` | when the mirror has replied (P1) | the mirror's |
//! | `Passthrough` | - | the mirror's |
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
//!
//! # What it does with `Direct`
//! - Each read(2) and write(2) is a request, straight from and to the program's memory. Only mappings, and what is spliced,
//!   have pages; what concerns the same range writes them back or drops them first.
//! - It sends no FSYNC after a write to a file opened with O_SYNC or O_DSYNC: the request's flags say so, and the
//!   mirror has to sync before it replies (P2). See [`Caching::syncs`].
//! - It takes no capabilities away before a write. The legs' own kernel does, at the write there.
//!
//! # What it does with `Passthrough`
//! See [`passthrough`](super::passthrough).

use fuser::{FopenFlags, InitFlags, OpenFlags};
use serde::{Deserialize, Serialize};

/// What the kernel keeps of the data of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caching {
    /// What has been read or written; a write goes on to the mirror before it returns.
    #[default]
    Through,
    /// The same, and writes that the mirror has not heard of yet (the option `writeback`).
    #[serde(rename = "writeback")]
    Back,
    /// Nothing but what is mapped (the option `direct_io`).
    #[serde(rename = "direct_io")]
    Direct,
    /// Nothing of its own: it reads the source's files itself (the option `passthrough`). Only where nothing is changed.
    Passthrough,
}

impl Caching {
    /// What the kernel must be able to do for it.
    pub(super) fn needed(self) -> InitFlags {
        match self {
            Caching::Through | Caching::Direct | Caching::Passthrough => InitFlags::empty(),
            Caching::Back => InitFlags::FUSE_WRITEBACK_CACHE,
        }
    }

    /// What it is to do for it if it can. Before Linux 6.6 a file that is open for direct I/O cannot be mapped and shared,
    /// before 6.9 the kernel reads no files itself.
    pub(super) fn wanted(self) -> InitFlags {
        match self {
            Caching::Through | Caching::Back => InitFlags::empty(),
            Caching::Direct => InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            Caching::Passthrough => InitFlags::FUSE_PASSTHROUGH,
        }
    }

    /// What it is told of a file that has been opened: data cached by an earlier open stays good.
    ///
    /// FOPEN_DIRECT_IO only for the option, not for each file opened with O_DIRECT: such I/O passes the page cache by
    /// without it, and then the kernel keeps what others have cached coherent, allows shared mappings, and sends the fsync
    /// of O_SYNC.
    pub(super) fn opened(self) -> FopenFlags {
        match self {
            Caching::Through | Caching::Back | Caching::Passthrough => FopenFlags::FOPEN_KEEP_CACHE,
            Caching::Direct => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_DIRECT_IO,
        }
    }

    /// Whether the mirror is to sync a file after a write with these flags, as the kernel does not ask for it; true in it
    /// for the data alone.
    pub(super) fn syncs(self, flags: OpenFlags) -> Option<bool> {
        if self != Caching::Direct || flags.0 & libc::O_DSYNC == 0 {
            return None;
        }
        // O_SYNC is O_DSYNC and one bit more.
        Some(flags.0 & libc::O_SYNC != libc::O_SYNC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_direct_writes_have_to_be_synced_by_the_mirror() {
        for (flags, direct) in [
            (libc::O_RDWR, None),
            (libc::O_WRONLY | libc::O_APPEND, None),
            (libc::O_WRONLY | libc::O_DSYNC, Some(true)),
            (libc::O_RDWR | libc::O_SYNC, Some(false)),
        ] {
            assert_eq!(Caching::Direct.syncs(OpenFlags(flags)), direct, "{flags:o}");
            assert_eq!(Caching::Through.syncs(OpenFlags(flags)), None);
            assert_eq!(Caching::Back.syncs(OpenFlags(flags)), None);
        }
    }
}
