//! Making objects as their creator would have: owner, group (sgid directories, bsdgroups), default ACLs,
//! umask and quotas come out as the kernel makes them, not as a copy of its rules here would.
//!
//! The kernel above the mount has already decided that the creator may. It knows the creator's
//! supplementary groups, we do not: so the permissions are not asked again, and the sgid bit, which
//! the kernel takes from those outside the group, stays as it was given.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::thread::CapabilitySet;

use super::names::Use;
use super::view::ITSELF;
use super::{DirectoryLeg, File, Node, attrs};
use crate::error::errno;
use crate::legs::{Creator, Identity, Kind, Leg, Make, OpenMode, Stat, Timestamp};
use crate::sys;
use crate::sys::creds::Borrowed;

/// What stays in effect while a thread is somebody else. Not CAP_SYS_RESOURCE, which would let the
/// creator past quotas and into reserved blocks.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD);

/// suid and sgid.
const SET_ID: u32 = 0o6000;
const SGID: u32 = 0o2000;

impl DirectoryLeg {
    pub(super) fn make_object(
        &self,
        dir: &Node,
        name: &OsStr,
        what: Make<'_>,
        creator: Creator,
    ) -> io::Result<(Identity, Stat)> {
        self.check_name(dir, name, Use::New)?;
        {
            let _borrowed = borrow(creator)?;
            match what {
                Make::File { mode } => {
                    sys::file::make_node(dir.fd(), name, FileType::RegularFile, mode, 0)?;
                }
                Make::Directory { mode } => sys::file::make_directory(dir.fd(), name, mode)?,
                Make::Symlink { target } => sys::file::make_symlink(dir.fd(), name, target)?,
                Make::Special { kind, mode, rdev } => {
                    sys::file::make_node(dir.fd(), name, special(kind)?, mode, rdev)?;
                }
            }
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        self.made_fleeting(dir, name, creator)?;
        let (identity, mut stat) = self.look_up(dir, name)?;
        if let Make::Directory { mode } = what {
            // mkdir(2) drops suid and sgid from the mode it is given.
            let missing = mode & SET_ID & !stat.mode;
            if missing != 0 {
                let completed = self.pin_name(dir.fd(), name).and_then(|node| {
                    sys::file::set_mode(node.fd(), stat.mode | missing)?;
                    sys::file::stat(node.fd(), OsStr::new(ITSELF))
                });
                // What is refused has not been made.
                let completed = completed.inspect_err(|_| {
                    let _ = sys::file::unlink(dir.fd(), name, AtFlags::REMOVEDIR);
                });
                stat = attrs::stat(&completed?);
            }
        }
        Ok((identity, stat))
    }

    pub(super) fn create_file(
        &self,
        dir: &Node,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        open: OpenMode,
    ) -> io::Result<(Identity, Stat, File)> {
        self.check_name(dir, name, Use::New)?;
        let flags = super::io::access(open)? | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd = {
            let _borrowed = borrow(creator)?;
            sys::file::open_beneath(dir.fd(), name, flags, mode & 0o7777)?
        };
        self.made.fetch_add(1, Ordering::Relaxed);
        let node = self.made_fleeting(dir, name, creator)?;
        let itself = OsStr::new(ITSELF);
        let stat = sys::file::stat(fd.as_fd(), itself)?;
        let handle = self.handle(fd.as_fd(), itself, || Ok(stat))?;
        let file = self.with_direct(fd, open, node)?;
        Ok((Identity { ino: stat.stx_ino, handle }, attrs::stat(&stat), file))
    }
}

impl DirectoryLeg {
    /// On a FUSE filesystem: what was made and its directory are to be synced. And it may belong to whom the server
    /// takes the caller for, instead of to the creator; an ordinary user's daemon cannot change that.
    fn made_fleeting(&self, dir: &Node, name: &OsStr, creator: Creator) -> io::Result<Option<Node>> {
        if self.fleeting.is_none() {
            return Ok(None);
        }
        let node = self.pin_name(dir.fd(), name)?;
        self.changed(dir);
        self.changed(&node);
        let itself = OsStr::new(ITSELF);
        let (made, of_dir) = (sys::file::stat(node.fd(), itself)?, sys::file::stat(dir.fd(), itself)?);
        let passes_on = u32::from(of_dir.stx_mode) & SGID != 0;
        let (uid, gid) = (creator.uid, if passes_on { of_dir.stx_gid } else { creator.gid });
        if (made.stx_uid, made.stx_gid) == (uid, gid) || !self.keeps().is_kept_of(node.0.kind) {
            return Ok(Some(node));
        }
        match sys::file::set_owner(node.fd(), Some(uid), Some(gid)) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(Some(node)),
            owned => owned?,
        }
        let mode = u32::from(made.stx_mode) & 0o7777;
        if mode & SET_ID != 0 {
            sys::file::set_mode(node.fd(), mode)?;
        }
        Ok(Some(node))
    }

    /// When an object is born that is made now: one is made beside the mirror's own files, and taken away.
    pub(super) fn birth_of_a_probe(&self) -> io::Result<Option<Timestamp>> {
        const PROBE: &str = "probe";
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        // What a crash left of an earlier one would tell of that one's birth.
        let removed = || match rustix::fs::unlinkat(self.state_dir(), PROBE, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(io::Error::from(error)),
        };
        removed()?;
        let probe = sys::file::open_beneath(self.state_dir(), OsStr::new(PROBE), flags, 0o600)?;
        let born = attrs::stat(&sys::file::stat(probe.as_fd(), OsStr::new(ITSELF))?).btime;
        removed()?;
        Ok(born)
    }
}

fn borrow(creator: Creator) -> io::Result<Borrowed> {
    Borrowed::new(creator.uid, creator.gid, creator.umask, KEPT)
}

fn special(kind: Kind) -> io::Result<FileType> {
    match kind {
        Kind::Fifo => Ok(FileType::Fifo),
        Kind::Socket => Ok(FileType::Socket),
        Kind::CharDevice => Ok(FileType::CharacterDevice),
        Kind::BlockDevice => Ok(FileType::BlockDevice),
        Kind::File | Kind::Directory | Kind::Symlink => Err(errno(libc::EINVAL)),
    }
}
