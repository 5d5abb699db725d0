//! The names inside a leg that are the mirror's own, and opening a directory as a leg.
//!
//! Hidden from the mount, not mirrored and not compared are two names in a leg's root:
//! - `.mirrorfs`, the mirror's state;
//! - `lost+found`, which belongs to that leg's own filesystem: mkfs makes it, fsck fills it, and the
//!   other leg may have none. A directory that holds only these two counts as empty.
//!
//! Nothing here changes a leg, except [`make_state_dir`].

mod checks;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use checks::{check_bitmap_file, check_mountpoint, check_outside_legs, check_pair, check_writable};

/// The mirror's own directory in a leg's root.
pub const STATE_DIR: &str = ".mirrorfs";
/// The filesystem's own directory in a leg's root.
pub const LOST_FOUND: &str = "lost+found";
/// In [`STATE_DIR`]: what the leg knows of the mirror.
pub const SUPERBLOCK: &str = "superblock";
/// In [`STATE_DIR`]: a superblock that is being made.
pub const SUPERBLOCK_NEW: &str = "superblock.new";
/// In [`STATE_DIR`]: this leg's copy of the write-intent bitmap.
pub const BITMAP: &str = "bitmap";
/// In [`STATE_DIR`]: who owns the leg.
pub const LOCK: &str = "lock";
/// In [`STATE_DIR`]: what is being built.
pub const INCOMING: &str = "incoming";
/// In [`STATE_DIR`]: what waits for a new name.
pub const PARKED: &str = "parked";
/// In [`STATE_DIR`]: what lost.
pub const CONFLICTS: &str = "conflicts";

/// Whether a name in a leg's root is kept out of the mirror.
pub fn is_hidden(name: &OsStr) -> bool {
    name == STATE_DIR || name == LOST_FOUND
}

/// What tells one directory from another while both are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirId {
    dev: u64,
    ino: u64,
}

impl DirId {
    /// Of an open directory.
    pub fn of(dir: impl AsFd) -> io::Result<DirId> {
        let stat = rustix::fs::fstat(dir)?;
        Ok(DirId { dev: stat.st_dev, ino: stat.st_ino })
    }
}

/// A directory given as a leg, open.
#[derive(Debug)]
pub struct LegDir {
    path: PathBuf,
    dir: OwnedFd,
    id: DirId,
}

impl LegDir {
    /// Follows symlinks in `path`, as every program does with what the user types.
    pub fn open(path: &Path) -> io::Result<LegDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let id = DirId::of(&dir)?;
        Ok(LegDir { path: path.to_owned(), dir, id })
    }

    /// As the user named it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is, whatever it is called.
    pub fn id(&self) -> DirId {
        self.id
    }

    /// The directory for reading all that is in it: with privilege in a private copy of its mount, so that
    /// nothing is covered by mounts below and access times stay. To be held no longer than `self`, which
    /// keeps the filesystem mounted.
    pub fn view(&self) -> io::Result<OwnedFd> {
        match crate::sys::mount::clone_private(self.as_fd()) {
            Ok(copy) => reopen_dir(copy.as_fd()),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => reopen_dir(self.as_fd()),
            Err(error) => Err(error),
        }
    }

    /// Its `.mirrorfs`. ENOENT when there is none.
    pub fn state_dir(&self) -> io::Result<OwnedFd> {
        open_state_dir(self.as_fd())
    }
}

impl AsFd for LegDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// A leg's `.mirrorfs`, which must be a directory of the leg itself and not a symlink or a mount.
pub fn open_state_dir(leg_root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_dir_below(leg_root, STATE_DIR)
}

/// Makes a leg's `.mirrorfs` and the directories in it, as far as they are missing. Nobody but the owner
/// of the leg may look inside.
pub fn make_state_dir(leg_root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let state_dir = make_dir(leg_root, STATE_DIR)?;
    for name in [INCOMING, PARKED, CONFLICTS] {
        make_dir(state_dir.as_fd(), name)?;
    }
    Ok(state_dir)
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = open_dir_below(parent, name)?;
    // A default ACL of the leg's root must not let others in.
    rustix::fs::fchmod(&dir, Mode::RWXU)?;
    Ok(dir)
}

/// Opens a directory by a single name, without leaving the filesystem `parent` is on.
pub fn open_dir_below(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)?)
}

/// The same directory, opened anew: with an own position for reading it, and fit for fsync even if
/// `dir` is not.
pub fn reopen_dir(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

/// Whether a leg's root holds anything that would be mirrored.
pub fn has_content(leg_root: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in rustix::fs::Dir::new(reopen_dir(leg_root)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !is_hidden(std::os::unix::ffi::OsStrExt::from_bytes(name)) {
            return Ok(true);
        }
    }
    Ok(false)
}
