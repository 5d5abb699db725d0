//! Copying a tree by descriptors: data with its holes, names, hard links, owners, modes, extended
//! attributes with ACLs, and times, of objects of every kind.
//!
//! Never follows a symlink and never leaves the filesystem it started in. Holds two directories open
//! at a time however deep the tree is: it goes up by `..` and checks where that leads. Memory grows with the
//! names of the directories on the way down and with the objects that have several names.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::LegId;
use crate::error::{Error, Result, errno};
use crate::layout::{self, DirId};
use crate::sys::{self, xattr};

/// Bytes read and written at a time.
const BUFFER: usize = 1 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Copied {
    /// Files, directories and all else, the root not counted.
    pub objects: u64,
    /// Data, without holes.
    pub bytes: u64,
}

/// Copies one tree.
pub struct Copier {
    target: LegId,
    /// Holds one name for each object that has more names to come.
    links: OwnedFd,
    /// By device and inode number of the source: how many names are still to come.
    to_come: HashMap<(u64, u64), u64>,
    path: PathBuf,
    /// The target is on a FUSE filesystem.
    on_fuse: bool,
    buffer: Vec<u8>,
    copied: Copied,
}

/// A directory on the way down.
struct Frame {
    /// Names not copied yet.
    names: Vec<OsString>,
    source: DirId,
    target: DirId,
    stat: Stat,
}

impl Copier {
    /// `target` is named in errors; `links` is an empty directory on the target's filesystem.
    pub fn new(target: LegId, links: OwnedFd) -> Copier {
        Copier {
            target,
            links,
            to_come: HashMap::new(),
            path: PathBuf::new(),
            on_fuse: false,
            buffer: vec![0; BUFFER],
            copied: Copied::default(),
        }
    }

    /// Copies what is in the root `source`, but for the mirror's own names, into the empty directory
    /// `target`. The roots' own metadata is not touched.
    pub fn tree(mut self, source: &OwnedFd, target: &OwnedFd) -> Result<Copied> {
        let on_fuse = sys::file::is_on_fuse(target);
        let walked = on_fuse.and_then(|on_fuse| {
            self.on_fuse = on_fuse;
            self.walk(source, target)
        });
        walked.map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => "That leg is full: make room on it and run this again.",
                Some(libc::EPERM | libc::EACCES) => "Run as root to copy what belongs to others.",
                Some(libc::EOPNOTSUPP) => {
                    "That leg's filesystem cannot hold it: use one of the source's kind."
                }
                _ => "No mirror has been made. Run this again when the cause is gone: it starts over.",
            };
            let what = format!("cannot copy {} to leg {}", self.path.display(), self.target);
            Error::new(what).because(error).hint(hint)
        })?;
        Ok(self.copied)
    }

    fn walk(&mut self, source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
        let (mut source, mut target) =
            (layout::reopen_dir(source.as_fd())?, layout::reopen_dir(target.as_fd())?);
        let mut frames = vec![frame(&source, &target)?];
        frames[0].names.retain(|name| !layout::is_hidden(name));
        while let Some(here) = frames.last_mut() {
            if let Some(name) = here.names.pop() {
                self.path.push(&name);
                if let Some((below, below_target)) = self.entry(&source, &target, &name)? {
                    frames.push(frame(&below, &below_target)?);
                    (source, target) = (below, below_target);
                } else {
                    self.path.pop();
                }
                continue;
            }
            let done = frames.pop().expect("the loop's condition has just seen it");
            let Some(above) = frames.last() else { break };
            // Last of all, since making an entry changes the directory's times.
            apply_metadata(source.as_fd(), target.as_fd(), &done.stat)?;
            if self.on_fuse {
                rustix::fs::fsync(&target)?;
            }
            (source, target) = (up(&source, above.source)?, up(&target, above.target)?);
            self.path.pop();
        }
        Ok(())
    }

    /// Copies one entry. A directory is made and returned, to be filled.
    fn entry(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let object = open_object(source, name)?;
        let stat = rustix::fs::fstat(&object)?;
        self.copied.objects += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(target, name, Mode::RWXU)?;
            return Ok(Some((
                layout::open_dir_below(source.as_fd(), name)?,
                layout::open_dir_below(target.as_fd(), name)?,
            )));
        }
        if stat.st_nlink > 1 && self.link_to_known(target, name, &stat)? {
            return Ok(None);
        }
        match kind {
            FileType::RegularFile => self.file(source, target, name, &stat)?,
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(to, target, name)?;
            }
            kind => rustix::fs::mknodat(target, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        // sshfs, for one, would give a symlink's owner and times to what it leads to.
        if !(self.on_fuse && kind == FileType::Symlink) {
            apply_metadata(object.as_fd(), open_object(target, name)?.as_fd(), &stat)?;
        }
        if stat.st_nlink > 1 {
            rustix::fs::linkat(target, name, &self.links, link_name(&stat), AtFlags::empty())?;
            self.to_come.insert((stat.st_dev, stat.st_ino), stat.st_nlink - 1);
        }
        Ok(None)
    }

    /// Gives an object that has been copied already one more name.
    fn link_to_known(&mut self, target: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<bool> {
        let key = (stat.st_dev, stat.st_ino);
        let Some(to_come) = self.to_come.get_mut(&key) else { return Ok(false) };
        *to_come -= 1;
        if *to_come == 0 {
            // The name kept for linking becomes the last one, so there is never one too many.
            self.to_come.remove(&key);
            rustix::fs::renameat(&self.links, link_name(stat), target, name)?;
        } else {
            rustix::fs::linkat(&self.links, link_name(stat), target, name, AtFlags::empty())?;
        }
        Ok(true)
    }

    fn file(&mut self, source: &OwnedFd, target: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = match rustix::fs::openat(source, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may ask for that.
            Err(Errno::PERM) => rustix::fs::openat(source, name, flags, Mode::empty())?,
            other => other?,
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = File::from(rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?);
        let from = File::from(from);
        let size = stat.st_size as u64;
        let mut at = 0;
        while let Some((start, end)) = next_data(&from, at, size)? {
            self.copy_range(&from, &to, start, end)?;
            at = end;
        }
        to.set_len(size)?;
        // The kernel sends no syncfs to such a filesystem.
        if self.on_fuse { to.sync_all() } else { Ok(()) }
    }

    fn copy_range(&mut self, from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let want = self.buffer.len().min((end - at) as usize);
            let got = from.read_at(&mut self.buffer[..want], at)?;
            if got == 0 {
                return Ok(());
            }
            to.write_all_at(&self.buffer[..got], at)?;
            at += got as u64;
            self.copied.bytes += got as u64;
        }
        Ok(())
    }
}

/// The next stretch of data at or after `at`; all up to `size` where the filesystem does not tell.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))).filter(|(start, end)| start < end))
}

fn link_name(stat: &Stat) -> String {
    format!("{}-{}", stat.st_dev, stat.st_ino)
}

fn frame(source: &OwnedFd, target: &OwnedFd) -> io::Result<Frame> {
    Ok(Frame {
        // Before the names are read, which may raise the access time.
        stat: rustix::fs::fstat(source)?,
        names: names_in(source.as_fd())?,
        source: DirId::of(source)?,
        target: DirId::of(target)?,
    })
}

/// The directory above, which must be the one we came from.
pub fn up(dir: &OwnedFd, expected: DirId) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::openat(dir, "..", flags, Mode::empty())?;
    // Somebody moved it meanwhile.
    if DirId::of(&above)? == expected { Ok(above) } else { Err(errno(libc::ESTALE)) }
}

/// Any object by its name, pinned but not opened for I/O.
fn open_object(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Names in a directory, without `.` and `..`.
pub fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(layout::reopen_dir(dir)?)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Access and modification time of a directory.
pub fn times_of(dir: BorrowedFd<'_>) -> io::Result<Timestamps> {
    Ok(timestamps(&rustix::fs::fstat(dir)?))
}

/// Sets both times of an open object of any kind.
pub fn set_times(object: BorrowedFd<'_>, times: &Timestamps) -> io::Result<()> {
    Ok(rustix::fs::utimensat(object, "", times, AtFlags::EMPTY_PATH)?)
}

/// Gives the root `to` the owner, mode, attributes and ACLs of the root `from`, and these times.
pub fn root_metadata(from: &OwnedFd, to: &OwnedFd, times: &Timestamps) -> io::Result<()> {
    apply_metadata(from.as_fd(), to.as_fd(), &rustix::fs::fstat(from)?)?;
    set_times(to.as_fd(), times)
}

fn timestamps(stat: &Stat) -> Timestamps {
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

/// In the one order in which nothing undoes what came before: chown drops suid and capabilities,
/// chmod changes an ACL's mask.
fn apply_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let now = rustix::fs::fstat(to)?;
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        use std::os::fd::AsRawFd;
        rustix::fs::chmod(
            format!("/proc/self/fd/{}", to.as_raw_fd()),
            Mode::from_raw_mode(stat.st_mode & 0o7777),
        )?;
    }
    copy_xattrs(from, to)?;
    set_times(to, &timestamps(stat))
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let wanted = xattrs_of(from)?;
    // A default ACL of the directory it was made in may have left something here.
    for name in xattrs_of(to)?.iter().filter(|name| !wanted.contains(name)) {
        xattr::remove(to, name)?;
    }
    for name in &wanted {
        xattr::set(to, name, &xattr::get(from, name)?, 0)?;
    }
    Ok(())
}

/// All but what the filesystem itself makes up under `system.`.
fn xattrs_of(object: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = match xattr::list(object) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    names.retain(|name| {
        !name.as_bytes().starts_with(b"system.") || name.as_bytes().starts_with(b"system.posix_acl_")
    });
    Ok(names)
}

/// Removes everything in a directory of our own.
pub fn empty(dir: &OwnedFd) -> io::Result<()> {
    let mut here = layout::reopen_dir(dir.as_fd())?;
    let mut way: Vec<(DirId, OsString)> = Vec::new();
    loop {
        let mut below = None;
        for name in names_in(here.as_fd())? {
            match rustix::fs::unlinkat(&here, &name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR | Errno::PERM) => below = Some(name),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(name) = below {
            way.push((DirId::of(&here)?, name.clone()));
            here = layout::open_dir_below(here.as_fd(), &name)?;
        } else if let Some((above, name)) = way.pop() {
            here = up(&here, above)?;
            rustix::fs::unlinkat(&here, &name, AtFlags::REMOVEDIR)?;
        } else {
            return Ok(());
        }
    }
}
