//! The directory beneath: what the kernel knows of it, each pinned by a descriptor.
//!
//! Inode numbers are the directory's own. An object's descriptor is kept while the kernel knows its
//! number, so that the number cannot be given to another object meanwhile.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, Generation, INodeNo};
use mirrorfs::sys;
use rustix::fs::{OFlags, Statx, StatxTimestamp};

/// What pins an object of any kind without opening it.
const PIN: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// The descriptor itself, where a name is asked for.
const ITSELF: &str = "";

/// An object under its number, and how to tell it from an earlier one with that number.
pub type Found = (FileAttr, Generation);

pub struct Directory {
    /// In a private view of the mount, so that reading changes no access time and paths start here.
    root: Arc<OwnedFd>,
    known: Mutex<HashMap<u64, Known>>,
    open: Mutex<HashMap<u64, Arc<Opened>>>,
    next_handle: AtomicU64,
}

struct Known {
    fd: Arc<OwnedFd>,
    lookups: u64,
}

/// An open file or directory.
pub struct Opened {
    pub fd: OwnedFd,
    /// The names in a directory, as they were when the listing began.
    pub listing: Mutex<Vec<(OsString, u64, FileType)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Directory {
    pub fn open(path: &Path) -> io::Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let original = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
        Ok(Directory {
            root: Arc::new(sys::mount::clone_private(original.as_fd())?),
            known: Mutex::default(),
            open: Mutex::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    /// The object that the kernel means by this number.
    pub fn node(&self, number: INodeNo) -> io::Result<Arc<OwnedFd>> {
        if number == INodeNo::ROOT {
            return Ok(self.root.clone());
        }
        let known = locked(&self.known);
        known.get(&number.0).map(|known| known.fd.clone()).ok_or_else(|| errno(libc::ESTALE))
    }

    /// Its path below the root, and behind it `name`, if there is one.
    pub fn path(&self, number: INodeNo, name: &OsStr) -> Vec<u8> {
        let path = self.node(number).and_then(|fd| {
            Ok(rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new())?.into_bytes())
        });
        let mut path = path.unwrap_or_default();
        if !name.is_empty() {
            path.push(b'/');
            path.extend(name.as_bytes());
        }
        path
    }

    /// Pins a name; the kernel knows it from now on.
    pub fn look_up(&self, parent: INodeNo, name: &OsStr) -> io::Result<Found> {
        let fd = sys::file::open_beneath(self.node(parent)?.as_fd(), name, PIN, 0)?;
        let stat = sys::file::stat(fd.as_fd(), OsStr::new(ITSELF))?;
        let mut known = locked(&self.known);
        known.entry(stat.stx_ino).or_insert_with(|| Known { fd: Arc::new(fd), lookups: 0 }).lookups += 1;
        Ok((attr(&stat), generation(&stat)))
    }

    pub fn forget(&self, number: INodeNo, lookups: u64) {
        let mut known = locked(&self.known);
        if let Some(found) = known.get_mut(&number.0) {
            found.lookups = found.lookups.saturating_sub(lookups);
            if found.lookups == 0 {
                known.remove(&number.0);
            }
        }
    }

    pub fn attr(&self, number: INodeNo) -> io::Result<FileAttr> {
        self.attr_of(self.node(number)?.as_fd())
    }

    pub fn attr_of(&self, fd: BorrowedFd<'_>) -> io::Result<FileAttr> {
        Ok(attr(&sys::file::stat(fd, OsStr::new(ITSELF))?))
    }

    /// Opens an object with these flags.
    pub fn reopen(&self, number: INodeNo, flags: OFlags) -> io::Result<FileHandle> {
        Ok(self.keep(sys::file::reopen(self.node(number)?.as_fd(), flags)?))
    }

    /// Gives an open descriptor a number.
    pub fn keep(&self, fd: OwnedFd) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        locked(&self.open).insert(handle, Arc::new(Opened { fd, listing: Mutex::default() }));
        FileHandle(handle)
    }

    pub fn opened(&self, handle: FileHandle) -> io::Result<Arc<Opened>> {
        locked(&self.open).get(&handle.0).cloned().ok_or_else(|| errno(libc::EBADF))
    }

    pub fn close(&self, handle: FileHandle) {
        locked(&self.open).remove(&handle.0);
    }

    /// The names from position `offset` on, each with the position behind it. Begins anew at 0.
    pub fn list(&self, number: INodeNo, handle: FileHandle, offset: u64) -> io::Result<Vec<Listed>> {
        let opened = self.opened(handle)?;
        let mut listing = locked(&opened.listing);
        if offset == 0 {
            let dir = self.node(number)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let readable = sys::file::open_beneath(dir.as_fd(), OsStr::new("."), flags, 0)?;
            let own = sys::file::stat(dir.as_fd(), OsStr::new(ITSELF))?.stx_ino;
            *listing = [".", ".."].map(|name| (name.into(), own, FileType::Directory)).to_vec();
            for entry in sys::dir::read(readable.as_fd())? {
                listing.push((entry.name, entry.ino, file_type(entry.file_type)));
            }
        }
        let behind = listing.iter().enumerate().skip(offset as usize);
        Ok(behind.map(|(at, (name, ino, kind))| (at as u64 + 1, name.clone(), *ino, *kind)).collect())
    }
}

/// Position behind it, name, number, kind.
pub type Listed = (u64, OsString, u64, FileType);

pub fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn attr(stat: &Statx) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.stx_ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(&stat.stx_atime),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(rustix::fs::FileType::from_raw_mode(stat.stx_mode.into())),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: packed_device(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// Different for two objects that had one number in turn: made of the birth time.
fn generation(stat: &Statx) -> Generation {
    Generation((stat.stx_btime.tv_sec as u64).wrapping_mul(1_000_000_007) ^ u64::from(stat.stx_btime.tv_nsec))
}

fn time(from: &StatxTimestamp) -> SystemTime {
    let whole = Duration::from_secs(from.tv_sec.unsigned_abs());
    let second = if from.tv_sec < 0 { UNIX_EPOCH - whole } else { UNIX_EPOCH + whole };
    second + Duration::from_nanos(from.tv_nsec.into())
}

/// As the kernel packs device numbers for FUSE.
fn packed_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

pub fn device(packed: u32) -> u64 {
    rustix::fs::makedev((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xf_ff00))
}

fn file_type(from: rustix::fs::FileType) -> FileType {
    match from {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}
