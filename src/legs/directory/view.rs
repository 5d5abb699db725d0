//! Opening a directory as a leg. Changes nothing on it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use rustix::fs::{OFlags, Statx};

use super::fleeting::Fleeting;
use super::{Device, DirectoryLeg, Node, Pinned, attrs, names};
use crate::error::{Error, Result, errno};
use crate::legs::LegId;
use crate::sys;

/// The descriptor itself, where a name is asked for.
pub const ITSELF: &str = "";

impl DirectoryLeg {
    /// Opens the leg at `path`, which must hold a `.mirrorfs`. Uses what privilege there is and logs
    /// once what it has to do without.
    pub fn open(path: &Path, id: LegId) -> Result<DirectoryLeg> {
        let failed = |error: io::Error| {
            Error::new(format!("cannot open leg {id} at {}", path.display())).because(error)
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let original =
            rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| failed(error.into()))?;
        let (root, private) = match sys::mount::clone_private(original.as_fd()) {
            Ok(tree) => (tree, true),
            Err(error) => {
                log::info!(
                    "leg {id} at {}: no private view of its mount ({error}): reading may change access times",
                    path.display()
                );
                (original.try_clone().map_err(failed)?, false)
            }
        };
        let (stat, readable) = sys::file::stat(root.as_fd(), OsStr::new(ITSELF))
            .and_then(|stat| Ok((stat, open_directory(root.as_fd(), OsStr::new("."), private)?)))
            .map_err(failed)?;
        let state = open_directory(root.as_fd(), OsStr::new(names::STATE), private)
            .map_err(|error| no_state(path, id, error))?;
        let fuse = sys::file::is_on_fuse(&readable).map_err(failed)?;
        let handles = match handles_work(readable.as_fd(), &stat) {
            // They outlive no mount of it, and not even that if the kernel forgets the object.
            Ok(()) if fuse => {
                log::info!(
                    "leg {id} at {}: a FUSE filesystem: after a crash everything is compared, not only what is dirty",
                    path.display()
                );
                false
            }
            Ok(()) => true,
            Err(error) => {
                log::info!(
                    "leg {id} at {}: no file handles ({error}): recovery finds objects by walking the leg",
                    path.display()
                );
                false
            }
        };
        let (lost, index) = DirectoryLeg::locks();
        Ok(DirectoryLeg {
            id,
            path: path.to_owned(),
            _original: original,
            device: device(&stat),
            root: Node(Arc::new(Pinned { fd: root, ino: stat.stx_ino, kind: attrs::kind(&stat) })),
            readable,
            state,
            private,
            handles,
            fleeting: fuse.then(Fleeting::new),
            keeps: OnceLock::new(),
            lost,
            index,
            made: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        })
    }

    /// Opens a directory of this leg for reading its names.
    pub(super) fn open_readable(&self, dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        open_directory(dir, OsStr::new("."), self.private)
    }

    /// Opens what `fd` is open on with other flags, leaving its access time alone as far as allowed.
    pub(super) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        sparing_atime(self.private, flags, |flags| sys::file::reopen(fd, flags))
    }

    /// Makes a node of a descriptor, refusing what is not on the leg's device.
    pub(super) fn pin(&self, fd: OwnedFd) -> io::Result<Node> {
        let stat = sys::file::stat(fd.as_fd(), OsStr::new(ITSELF))?;
        self.check_device(&stat)?;
        Ok(Node(Arc::new(Pinned { fd, ino: stat.stx_ino, kind: attrs::kind(&stat) })))
    }

    /// EXDEV for what is not on the leg's device: a mount below it, a btrfs subvolume.
    pub(super) fn check_device(&self, stat: &Statx) -> io::Result<()> {
        if device(stat) == self.device { Ok(()) } else { Err(errno(libc::EXDEV)) }
    }
}

fn device(stat: &Statx) -> Device {
    Device { major: stat.stx_dev_major, minor: stat.stx_dev_minor }
}

fn open_directory(dir: BorrowedFd<'_>, name: &OsStr, private: bool) -> io::Result<OwnedFd> {
    sparing_atime(private, OFlags::RDONLY | OFlags::DIRECTORY, |flags| {
        sys::file::open_beneath(dir, name, flags, 0)
    })
}

/// Opens with O_NOATIME where the mount does not already spare access times; only the owner may, so
/// without it otherwise.
fn sparing_atime(
    private: bool,
    flags: OFlags,
    open: impl Fn(OFlags) -> io::Result<OwnedFd>,
) -> io::Result<OwnedFd> {
    if private {
        return open(flags);
    }
    match open(flags | OFlags::NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
        opened => opened,
    }
}

/// Tries a handle there and back: some filesystems make handles that they cannot open.
fn handles_work(root: BorrowedFd<'_>, stat: &Statx) -> io::Result<()> {
    let handle = sys::handle::name_to_handle(root, OsStr::new(ITSELF))?;
    let again =
        sys::handle::open_by_handle(root, handle.kind(), handle.bytes(), OFlags::PATH | OFlags::NOFOLLOW)?;
    let found = sys::file::stat(again.as_fd(), OsStr::new(ITSELF))?;
    let same = found.stx_ino == stat.stx_ino && device(&found) == device(stat);
    if same { Ok(()) } else { Err(errno(libc::ESTALE)) }
}

fn no_state(path: &Path, id: LegId, error: io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ENOENT) {
        return Error::new(format!(
            "leg {id} at {} is not part of a mirror: it has no {} directory",
            path.display(),
            names::STATE
        ))
        .hint("If its disk is not mounted there, mount it; a new mirror is made with `mirrorfs create`.");
    }
    let state = path.join(names::STATE);
    Error::new(format!("cannot open {} of leg {id}", state.display())).because(error)
}
