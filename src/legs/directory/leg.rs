//! What a [`Leg`] must do, done by a directory: a table of contents, each entry a call of what does it.
//!
//! The intents are not looked at. That they are there is the point (O1).

use std::ffi::{OsStr, OsString};
use std::io::Result;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::AtFlags;

use super::names::Use;
use super::view::ITSELF;
use super::{DirectoryLeg, File, Node, attrs, io};
use crate::bitmap::WriteIntent;
use crate::error::errno;
use crate::legs::{
    Area, Creator, Entry, Identity, Keeps, Kind, Leg, Make, OpenMode, RenameMode, Seek, Stat, Statfs,
    Timestamp,
};
use crate::sys;

impl Leg for DirectoryLeg {
    type Node = Node;
    type File = File;

    fn root(&self) -> Node {
        self.root.clone()
    }

    fn area(&self, area: Area) -> Result<Node> {
        self.open_area(area)
    }

    fn find(&self, identity: &Identity) -> Result<Node> {
        if !identity.is_known() {
            return Err(errno(libc::ESTALE));
        }
        match identity.handle.as_ref().filter(|handle| self.handles && handle.opens()) {
            Some(handle) => self.find_by_handle(identity.ino, handle),
            None => match &self.fleeting {
                Some(fleeting) => self.find_fleeting(fleeting, identity),
                None => self.find_by_number(identity),
            },
        }
    }

    fn lookup(&self, dir: &Node, name: &OsStr) -> Result<(Identity, Stat)> {
        self.look_up(dir, name)
    }

    fn child(&self, dir: &Node, name: &OsStr) -> Result<Node> {
        self.check_name(dir, name, Use::Existing)?;
        let node = self.pin_name(dir.fd(), name)?;
        self.saw(node.0.ino, dir, name);
        Ok(node)
    }

    fn parent(&self, dir: &Node) -> Result<Node> {
        self.parent_of(dir)
    }

    fn identity(&self, node: &Node) -> Result<Identity> {
        let itself = OsStr::new(ITSELF);
        let handle = self.handle(node.fd(), itself, || sys::file::stat(node.fd(), itself))?;
        Ok(Identity { ino: node.0.ino, handle })
    }

    fn stat(&self, node: &Node) -> Result<Stat> {
        Ok(attrs::stat(&sys::file::stat(node.fd(), OsStr::new(ITSELF))?))
    }

    fn stat_file(&self, file: &File) -> Result<Stat> {
        Ok(attrs::stat(&sys::file::stat(file.fd(), OsStr::new(ITSELF))?))
    }

    fn readlink(&self, node: &Node) -> Result<OsString> {
        if node.0.kind != Kind::Symlink {
            return Err(errno(libc::EINVAL));
        }
        Ok(OsString::from_vec(sys::file::read_link(node.fd())?.into_bytes()))
    }

    fn read_dir(&self, dir: &Node) -> Result<Vec<Entry>> {
        self.list(dir)
    }

    fn get_xattr(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        if attrs::is_another_view_of_an_acl(name) {
            return Err(errno(libc::ENODATA));
        }
        sys::xattr::get(node.fd(), name)
    }

    fn list_xattr(&self, node: &Node) -> Result<Vec<OsString>> {
        let mut names = sys::xattr::list(node.fd())?;
        names.retain(|name| !attrs::is_another_view_of_an_acl(name));
        names.sort_unstable();
        Ok(names)
    }

    fn statfs(&self) -> Result<Statfs> {
        let stat = sys::file::statvfs(self.root.fd())?;
        Ok(Statfs {
            frsize: stat.f_frsize,
            blocks: stat.f_blocks,
            bfree: stat.f_bfree,
            bavail: stat.f_bavail,
            files: stat.f_files,
            ffree: stat.f_ffree,
            namelen: stat.f_namemax,
        })
    }

    fn identities_last(&self) -> bool {
        self.fleeting.is_none()
    }

    fn measure(&self) {
        self.measure_it();
    }

    fn keeps(&self) -> Keeps {
        // FAIL-SAFE: on FUSE, setting what is a symlink's own may reach what it leads to.
        let untried = Keeps { of_symlinks: self.fleeting.is_none(), ..Keeps::ALL };
        self.keeps.get().copied().unwrap_or(untried)
    }

    fn birth_now(&self) -> Result<Option<Timestamp>> {
        self.birth_of_a_probe()
    }

    fn open(&self, node: &Node, mode: OpenMode) -> Result<File> {
        self.open_file(node, mode)
    }

    fn descriptor<'f>(&self, file: &'f File) -> Option<BorrowedFd<'f>> {
        Some(file.fd())
    }

    fn read(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<usize> {
        file.read(buf, offset)
    }

    fn read_stored(&self, file: &File, buf: &mut [u8], offset: u64) -> Result<usize> {
        sys::file::drop_cached(file.fd(), offset..offset + buf.len() as u64);
        file.read(buf, offset)
    }

    fn seek(&self, file: &File, offset: u64, what: Seek) -> Result<u64> {
        file.seek(offset, what)
    }

    fn make(
        &self,
        _: &WriteIntent<'_>,
        dir: &Node,
        name: &OsStr,
        what: Make<'_>,
        creator: Creator,
    ) -> Result<(Identity, Stat)> {
        self.make_object(dir, name, what, creator)
    }

    fn create(
        &self,
        _: &WriteIntent<'_>,
        dir: &Node,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        open: OpenMode,
    ) -> Result<(Identity, Stat, File)> {
        self.create_file(dir, name, mode, creator, open)
    }

    fn link(&self, _: &WriteIntent<'_>, node: &Node, dir: &Node, name: &OsStr) -> Result<()> {
        self.add_link(node, dir, name)
    }

    fn unlink(&self, _: &WriteIntent<'_>, dir: &Node, name: &OsStr) -> Result<()> {
        self.remove(dir, name, AtFlags::empty())
    }

    fn rmdir(&self, _: &WriteIntent<'_>, dir: &Node, name: &OsStr) -> Result<()> {
        self.remove(dir, name, AtFlags::REMOVEDIR)
    }

    fn rename(
        &self,
        _: &WriteIntent<'_>,
        from: (&Node, &OsStr),
        to: (&Node, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        self.move_name(from, to, mode)
    }

    fn set_mode(&self, _: &WriteIntent<'_>, node: &Node, mode: u32) -> Result<()> {
        self.changing(node, || sys::file::set_mode(node.fd(), mode))
    }

    fn set_owner(&self, _: &WriteIntent<'_>, node: &Node, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        if self.keeps().is_kept_of(node.0.kind) {
            self.changing(node, || sys::file::set_owner(node.fd(), uid, gid))
        } else {
            Ok(())
        }
    }

    fn set_times(
        &self,
        _: &WriteIntent<'_>,
        node: &Node,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<()> {
        if !self.keeps().is_kept_of(node.0.kind) {
            return Ok(());
        }
        self.changing(node, || {
            sys::file::set_times(node.fd(), atime.map(attrs::timespec), mtime.map(attrs::timespec))
        })
    }

    fn set_times_of(
        &self,
        intent: &WriteIntent<'_>,
        dir: &Node,
        name: &OsStr,
        atime: Timestamp,
        mtime: Timestamp,
    ) -> Result<()> {
        self.check_name(dir, name, Use::Existing)?;
        if self.fleeting.is_some() {
            return self.set_times(intent, &self.child(dir, name)?, Some(atime), Some(mtime));
        }
        sys::file::set_times_of(dir.fd(), name, attrs::timespec(atime), attrs::timespec(mtime))
    }

    fn truncate(&self, _: &WriteIntent<'_>, node: &Node, size: u64) -> Result<()> {
        match node.0.kind {
            Kind::File => self.changing(node, || sys::file::truncate(node.fd(), size)),
            Kind::Directory => Err(errno(libc::EISDIR)),
            _ => Err(errno(libc::EINVAL)),
        }
    }

    fn truncate_file(&self, _: &WriteIntent<'_>, _: &Node, file: &File, size: u64) -> Result<()> {
        self.changing_file(file, || sys::file::truncate_open(file.fd(), size))
    }

    fn set_xattr(
        &self,
        _: &WriteIntent<'_>,
        node: &Node,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        if attrs::is_another_view_of_an_acl(name) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        self.changing(node, || sys::xattr::set(node.fd(), name, value, flags))
    }

    fn remove_xattr(&self, _: &WriteIntent<'_>, node: &Node, name: &OsStr) -> Result<()> {
        if attrs::is_another_view_of_an_acl(name) {
            return Err(errno(libc::ENODATA));
        }
        self.changing(node, || sys::xattr::remove(node.fd(), name))
    }

    fn write(&self, _: &WriteIntent<'_>, file: &File, data: &[u8], offset: u64) -> Result<usize> {
        self.changing_file(file, || file.write(data, offset))
    }

    fn fallocate(&self, _: &WriteIntent<'_>, file: &File, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.changing_file(file, || sys::file::allocate(file.fd(), mode, offset, len))
    }

    fn copy_range(
        &self,
        _: &WriteIntent<'_>,
        from: (&File, u64),
        to: (&File, u64),
        len: u64,
    ) -> Result<usize> {
        self.changing_file(to.0, || io::copy(from, to, len))
    }

    fn sync_file(&self, file: &File, data_only: bool) -> Result<()> {
        sys::file::sync(file.fd(), data_only)
    }

    fn sync_node(&self, node: &Node) -> Result<()> {
        self.sync_object(node)
    }

    fn sync_all(&self) -> Result<()> {
        self.sync_filesystem()
    }

    fn probe(&self) {
        // A filesystem without O_DIRECT answers too, from its cache: then only LONGEST ends the wait.
        let _ = self.read_medium();
    }
}

impl DirectoryLeg {
    /// Does what changes an object, and remembers that it is to be synced, also when it failed: a part of it may
    /// be done.
    fn changing<T>(&self, node: &Node, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = change();
        self.changed(node);
        done
    }

    fn changing_file<T>(&self, file: &File, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = change();
        self.changed_file(file);
        done
    }
}
