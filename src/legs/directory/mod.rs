//! A leg that is a directory.
//!
//! Invariants:
//! - nothing outside the leg is reached: names are single components, symlinks and mount points are never
//!   followed, and what lies on another device (a mount below the leg, a btrfs subvolume) is answered
//!   with EXDEV;
//! - the leg's `.mirrorfs` is not visible through [`Leg`](super::Leg), except as [`area`](super::Leg::area);
//! - a [`Node`] holds one O_PATH descriptor and nothing that a rename could make wrong.
//!
//! With privilege the leg is seen through a private detached copy of its mount, in which reading
//! changes no access time and nobody can mount anything. Without, the directory is used as it is.
//!
//! What has been moved out of the leg on the same filesystem behind the mirror's back can still be
//! found by its handle: the kernel does not say where a handle lies.
//!
//! - `view`: opening the directory; - `names`: which names are let through;
//! - `entries`: looking up, listing, linking, renaming; - `creator`: making objects as their creator;
//! - `attrs`: attributes; - `io`: file contents; - `cache`: what of them the page cache keeps;
//! - `walk`: finding an object by its number; - `fleeting`: what is otherwise on FUSE filesystems;
//! - `measure`: what the filesystem keeps of times; - `backing`: what it rests on.

use std::ffi::OsStr;
use std::io as std_io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

use super::timed::Backing;
use super::{Keeps, Kind, LegId};
use crate::layout;
use crate::sync::{Mutex, Rank};
use crate::sys;

mod attrs;
mod backing;
mod cache;
mod creator;
mod entries;
mod fleeting;
mod io;
mod leg;
mod measure;
mod names;
mod view;
mod walk;

#[cfg(test)]
mod tests;

pub use io::File;

/// An object of the leg, pinned.
#[derive(Clone, Debug)]
pub struct Node(Arc<Pinned>);

#[derive(Debug)]
struct Pinned {
    /// Opened with O_PATH, on the leg's own mount.
    fd: OwnedFd,
    ino: u64,
    kind: Kind,
}

impl Node {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// Numbers of the device that a file lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Device {
    major: u32,
    minor: u32,
}

/// A directory as a leg.
pub struct DirectoryLeg {
    id: LegId,
    path: PathBuf,
    /// Keeps the filesystem busy: the private copy of the mount alone would let it be unmounted.
    _original: OwnedFd,
    root: Node,
    /// The root opened for reading: for handles, which need a real descriptor, and for syncfs, which reports
    /// what was lost since it was opened.
    readable: OwnedFd,
    /// `.mirrorfs`.
    state: OwnedFd,
    device: Device,
    /// Whether `root` is in a private copy of the mount.
    private: bool,
    handles: bool,
    /// The error of the first syncfs that failed. What was lost stays lost: the kernel tells one
    /// caller only, this leg tells all who come after. Held during syncfs, so that nobody is told
    /// "durable" in between.
    lost: Mutex<Option<i32>>,
    /// On a FUSE filesystem.
    fleeting: Option<fleeting::Fleeting>,
    /// What the filesystem keeps, once it was tried out.
    keeps: OnceLock<Keeps>,
    index: Mutex<Option<Arc<walk::Index>>>,
    /// How many objects were made through this leg. Counted when they are there: an index begun earlier
    /// may miss some.
    made: AtomicU64,
    /// How many renames were begun through this leg: a walk meanwhile may miss what moved.
    moved: AtomicU64,
}

impl DirectoryLeg {
    /// Where the leg is, as the user gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether identities of this leg hold handles, so that recovery finds objects without a walk.
    pub fn has_handles(&self) -> bool {
        self.handles
    }

    /// The leg's `.mirrorfs` directory, open for reading.
    pub fn state_dir(&self) -> BorrowedFd<'_> {
        self.state.as_fd()
    }

    /// What the leg's filesystem rests on.
    pub fn backing(&self) -> Backing {
        match rustix::fs::fstatfs(&self.readable) {
            // The types are 32 bits wide, whatever the field is.
            Ok(stat) => backing::backing(stat.f_type as u32),
            Err(_) => Backing::Network,
        }
    }

    /// Whether a call can hang for other reasons than a disk of this machine.
    pub fn may_hang(&self) -> bool {
        self.backing() != Backing::Disk
    }

    /// Reads the superblock past the page cache: from the disk, or from whoever answers for it.
    fn read_medium(&self) -> std_io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECT;
        let file = sys::file::open_beneath(self.state_dir(), OsStr::new(layout::SUPERBLOCK), flags, 0)?;
        let mut page = sys::memory::PinnedPages::new(sys::memory::PAGE)?;
        sys::file::read_at(file.as_fd(), &mut page, 0).map(drop)
    }

    /// Makes the whole leg durable.
    fn sync_filesystem(&self) -> std_io::Result<()> {
        let mut lost = self.lost.lock();
        if let Some(errno) = *lost {
            return Err(std_io::Error::from_raw_os_error(errno));
        }
        let mut synced = sys::file::sync_filesystem(&self.readable);
        if let (Some(fleeting), Ok(())) = (&self.fleeting, &synced) {
            synced = self.sync_changes(&fleeting.changes);
            if synced.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EACCES)) {
                // An ordinary user's daemon may not open it any more. Nothing is lost; its bit stays.
                return synced;
            }
        }
        if let Err(error) = &synced {
            log::error!("leg {} at {}: what was written may be lost: {error}", self.id, self.path.display());
            *lost = error.raw_os_error();
        }
        synced
    }

    /// Makes one object durable. What cannot be opened for fsync takes the whole filesystem along.
    fn sync_object(&self, node: &Node) -> std_io::Result<()> {
        let opened = match node.0.kind {
            Kind::Directory => self.open_readable(node.fd()),
            Kind::File => {
                self.reopen(node.fd(), OFlags::RDONLY).or_else(|_| self.reopen(node.fd(), OFlags::WRONLY))
            }
            _ => return self.sync_filesystem(),
        };
        match opened {
            Ok(fd) => sys::file::sync(fd.as_fd(), false),
            Err(_) => self.sync_filesystem(),
        }
    }

    fn locks() -> (Mutex<Option<i32>>, Mutex<Option<Arc<walk::Index>>>) {
        (Mutex::new(Rank::Sync, None), Mutex::new(Rank::Leaf, None))
    }
}
