//! Looking names up, listing, linking, renaming and removing them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Statx};

use super::names::{self, Use};
use super::view::ITSELF;
use super::{DirectoryLeg, Node, attrs};
use crate::error::errno;
use crate::legs::{Area, Entry, Handle, Identity, Kind, RenameMode, Stat};
use crate::sys;

/// What pins an object of any kind without opening it.
const PIN: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

impl DirectoryLeg {
    pub(super) fn is_root(&self, dir: &Node) -> bool {
        dir.0.ino == self.root.0.ino
    }

    pub(super) fn check_name(&self, dir: &Node, name: &OsStr, purpose: Use) -> io::Result<()> {
        names::check(self.is_root(dir), name, purpose)
    }

    pub(super) fn look_up(&self, dir: &Node, name: &OsStr) -> io::Result<(Identity, Stat)> {
        self.check_name(dir, name, Use::Existing)?;
        let stat = sys::file::stat(dir.fd(), name)?;
        self.check_device(&stat)?;
        self.saw(stat.stx_ino, dir, name);
        let handle = self.handle(dir.fd(), name, || Ok(stat))?;
        Ok((Identity { ino: stat.stx_ino, handle }, attrs::stat(&stat)))
    }

    /// The handle of a name, or of the descriptor itself. Where there is none to be had, its birth, which
    /// is among the attributes that `stat` gives.
    pub(super) fn handle(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        stat: impl FnOnce() -> io::Result<Statx>,
    ) -> io::Result<Option<Handle>> {
        let birth = || Ok(attrs::stat(&stat()?).btime.map(Handle::of_birth));
        if !self.handles {
            return birth();
        }
        match sys::handle::name_to_handle(dir, name) {
            Ok(raw) => Ok(Handle::new(raw.kind(), raw.bytes())),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EOVERFLOW)) => birth(),
            Err(error) => Err(error),
        }
    }

    /// An object was seen there.
    pub(super) fn saw(&self, ino: u64, dir: &Node, name: &OsStr) {
        if let Some(fleeting) = &self.fleeting {
            fleeting.saw(ino, dir.0.ino, name);
        }
    }

    /// Pins a name whatever it is, the mirror's own included.
    pub(super) fn pin_name(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Node> {
        self.pin(sys::file::open_beneath(dir, name, PIN, 0)?)
    }

    pub(super) fn find_by_handle(&self, ino: u64, handle: &Handle) -> io::Result<Node> {
        let fd = sys::handle::open_by_handle(self.readable.as_fd(), handle.kind(), handle.bytes(), PIN)?;
        let stat = sys::file::stat(fd.as_fd(), OsStr::new(ITSELF))?;
        // An inode without a name lives on while somebody has it open: for the mirror it is gone.
        if stat.stx_nlink == 0 || stat.stx_ino != ino {
            return Err(errno(libc::ESTALE));
        }
        self.pin(fd)
    }

    pub(super) fn parent_of(&self, dir: &Node) -> io::Result<Node> {
        if dir.0.kind != Kind::Directory {
            return Err(errno(libc::ENOTDIR));
        }
        let removed = sys::file::stat(dir.fd(), OsStr::new(ITSELF))?.stx_nlink == 0;
        if self.is_root(dir) || removed {
            return Err(errno(libc::ENOENT));
        }
        let parent = self.pin(sys::file::open_parent(dir.fd())?)?;
        // In a private view the kernel itself refuses to go up from what is not below the root.
        if !self.private {
            self.check_inside(&parent)?;
        }
        Ok(parent)
    }

    /// ENOENT unless the way up from `dir` meets the leg's root.
    fn check_inside(&self, dir: &Node) -> io::Result<()> {
        let mut at = dir.clone();
        while !self.is_root(&at) {
            let up = sys::file::open_parent(at.fd()).and_then(|fd| self.pin(fd));
            at = match up {
                Ok(up) if up.0.ino != at.0.ino => up,
                _ => return Err(errno(libc::ENOENT)),
            };
        }
        Ok(())
    }

    pub(super) fn open_area(&self, area: Area) -> io::Result<Node> {
        let name = OsStr::new(match area {
            Area::Incoming => "incoming",
            Area::Parked => "parked",
            Area::Conflicts => "conflicts",
        });
        let pinned = self.pin_name(self.state_dir(), name);
        if !matches!(&pinned, Err(error) if error.raw_os_error() == Some(libc::ENOENT)) {
            if let (Some(fleeting), Ok(area)) = (&self.fleeting, &pinned) {
                let state = sys::file::stat(self.state_dir(), OsStr::new(ITSELF))?.stx_ino;
                fleeting.saw(state, self.root.0.ino, OsStr::new(names::STATE));
                fleeting.saw(area.0.ino, state, name);
            }
            return pinned;
        }
        match rustix::fs::mkdirat(&self.state, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = self.pin_name(self.state_dir(), name)?;
        // What is built here must not inherit anything from the leg's root: neither its group nor an ACL.
        sys::file::set_mode(made.fd(), 0o700)?;
        match sys::xattr::remove(made.fd(), OsStr::new("system.posix_acl_default")) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                Err(error)
            }
            _ => Ok(made),
        }
    }

    pub(super) fn list(&self, dir: &Node) -> io::Result<Vec<Entry>> {
        let readable = self.open_readable(dir.fd())?;
        let mut entries = Vec::new();
        for raw in sys::dir::read(readable.as_fd())? {
            if self.is_root(dir) && crate::layout::is_hidden(&raw.name) {
                continue;
            }
            let kind = match attrs::kind_of(raw.file_type) {
                Some(kind) => kind,
                None => match sys::file::stat(dir.fd(), &raw.name) {
                    Ok(stat) => attrs::kind(&stat),
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                    Err(error) => return Err(error),
                },
            };
            // Without a lookup such a filesystem need not know the number.
            let ino = match self.fleeting.as_ref().map(|_| sys::file::stat(dir.fd(), &raw.name)) {
                None => raw.ino,
                Some(Ok(stat)) => stat.stx_ino,
                Some(Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Some(Err(error)) => return Err(error),
            };
            entries.push(Entry { name: raw.name, ino, kind });
        }
        Ok(entries)
    }

    pub(super) fn add_link(&self, node: &Node, dir: &Node, name: &OsStr) -> io::Result<()> {
        self.check_name(dir, name, Use::New)?;
        let linked = sys::file::link(node.fd(), dir.fd(), name);
        self.changed(node);
        self.changed(dir);
        linked
    }

    pub(super) fn remove(&self, dir: &Node, name: &OsStr, flags: AtFlags) -> io::Result<()> {
        self.check_name(dir, name, Use::Existing)?;
        let removed = sys::file::unlink(dir.fd(), name, flags);
        self.changed(dir);
        removed
    }

    pub(super) fn move_name(
        &self,
        from: (&Node, &OsStr),
        to: (&Node, &OsStr),
        mode: RenameMode,
    ) -> io::Result<()> {
        self.check_name(from.0, from.1, Use::Existing)?;
        self.check_name(to.0, to.1, Use::New)?;
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        self.moved.fetch_add(1, Ordering::Relaxed);
        let renamed = sys::file::rename((from.0.fd(), from.1), (to.0.fd(), to.1), flags);
        if self.fleeting.is_some() {
            self.changed(from.0);
            self.changed(to.0);
            for (dir, name) in [from, to] {
                if let Ok(stat) = sys::file::stat(dir.fd(), name) {
                    self.saw(stat.stx_ino, dir, name);
                }
            }
        }
        renamed
    }
}
