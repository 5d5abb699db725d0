//! One method a request: decode, call, reply.
//!
//! Nothing is decided here but what belongs to the protocol. The arguments that fuser gives and the
//! mirror does not need (node id beside a handle, lock owners) are dropped.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{self, FOR_GOOD};
use super::convert::{self, bare_attr, errno, file_attr, file_type, permissions};
use super::serve::agree;
use crate::inode::{Fh, Ino};
use crate::legs::{Creator, Kind, Leg, Make};
use crate::ops::{Caller, Mirror, SetAttr};
use crate::sys::process::groups_of;

/// Data cached by an earlier open stays good.
///
/// Also for O_DIRECT: such I/O passes the page cache by without FOPEN_DIRECT_IO, and then the kernel
/// keeps what others have cached coherent, allows shared mappings, and sends the fsync of O_SYNC.
const FILE_OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

/// The kernel may keep the listing, and drops it when it makes, renames or removes a name in it.
const DIRECTORY_OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_CACHE_DIR);

/// Most bytes of one copy request: the reply counts in 32 bits.
const MAX_COPY: u64 = 1 << 30;

/// The names under which the kernel itself asks for ACLs.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

thread_local! {
    /// What an event loop reads file data into. Grows to the largest read (1 MiB) and stays.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What memory must be a multiple of for a leg's direct I/O, in bytes.
const ALIGNMENT: usize = 4096;

/// Room for `size` bytes in `buffer`, aligned for direct I/O.
fn aligned_room(buffer: &mut Vec<u8>, size: usize) -> &mut [u8] {
    if buffer.len() < size + ALIGNMENT {
        buffer.resize(size + ALIGNMENT, 0);
    }
    let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    &mut buffer[start..start + size]
}

/// The mirror as fuser sees it.
pub(super) struct Translation<L: Leg> {
    mirror: Arc<Mirror<L>>,
}

impl<L: Leg> Translation<L> {
    pub(super) fn new(mirror: Arc<Mirror<L>>) -> Self {
        Translation { mirror }
    }
}

fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn creator(request: &Request, umask: u32) -> Creator {
    Creator { uid: request.uid(), gid: request.gid(), umask }
}

/// Whether a change loses the file's suid, sgid and capabilities, where the request does not say so:
/// only root is taken to have CAP_FSETID.
fn kills_privileges(request: &Request) -> bool {
    request.uid() != 0
}

/// Whether the caller may keep sgid on a file of this group: it is one of the caller's, or the caller is
/// root. Not, if that cannot be found out.
fn in_group(request: &Request, gid: u32) -> bool {
    let (uid, own) = (request.uid(), request.gid());
    uid == 0 || own == gid || groups_of(request.pid()).is_ok_and(|groups| groups.contains(&gid))
}

impl<L: Leg> Filesystem for Translation<L> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        agree(config)
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.mirror.lookup(ino(parent), name) {
            // Number 0 with a lifetime: the kernel remembers that there is no such name.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                reply.entry(&FOR_GOOD, &bare_attr(Ino(0), Kind::File), Generation(0));
            }
            result => answer::entry(reply, result),
        }
    }

    // BATCH_FORGET comes here, too: fuser takes it apart, and does not name the type to do it with.
    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        self.mirror.forget(ino(number), count);
    }

    fn getattr(&self, _: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.mirror.getattr(ino(number), handle.map(fh)) {
            Ok(attr) => reply.attr(&FOR_GOOD, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        match self.mirror.setattr(ino(number), &set, handle.map(fh), caller(request)) {
            Ok(attr) => reply.attr(&FOR_GOOD, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.mirror.readlink(ino(number)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match convert::make_node(mode, rdev) {
            Some(what) => {
                answer::entry(reply, self.mirror.make(ino(parent), name, what, creator(request, umask)));
            }
            None => reply.error(Errno::EINVAL),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let what = Make::Directory { mode: permissions(mode) };
        answer::entry(reply, self.mirror.make(ino(parent), name, what, creator(request, umask)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let what = Make::Symlink { target: target.as_os_str() };
        answer::entry(reply, self.mirror.make(ino(parent), name, what, creator(request, 0)));
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer::entry(reply, self.mirror.link(ino(number), ino(parent), name));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer::empty(reply, self.mirror.unlink(ino(parent), name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer::empty(reply, self.mirror.rmdir(ino(parent), name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match convert::rename_mode(flags) {
            Some(mode) => {
                answer::empty(reply, self.mirror.rename(ino(parent), name, ino(new_parent), new_name, mode));
            }
            None => reply.error(Errno::EINVAL),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.mirror.create(ino(parent), name, permissions(mode), creator(request, umask), flags) {
            Ok((found, handle)) => reply.created(
                &FOR_GOOD,
                &file_attr(&found.attr),
                Generation(found.generation),
                FileHandle(handle.0),
                FILE_OPENED,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer::opened(reply, self.mirror.open(ino(number), flags.0, caller(request)), FILE_OPENED);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let room = aligned_room(buffer, size as usize);
            match self.mirror.read(fh(handle), room, offset) {
                Ok(count) => reply.data(&room[..count]),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        answer::written(reply, self.mirror.write(fh(handle), data, offset, kill));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.mirror.release(fh(handle));
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        answer::empty(reply, self.mirror.fsync(fh(handle), data_only));
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer::opened(reply, self.mirror.opendir(ino(number)), DIRECTORY_OPENED);
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.mirror.readdir(fh(handle), offset, &mut |item| {
            reply.add(INodeNo(item.ino.0), item.next_offset, file_type(item.kind), &item.name)
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let read = self.mirror.readdirplus(fh(handle), offset, &mut |item, found| {
            let (attr, generation) = match found {
                Some(found) => (file_attr(&found.attr), found.generation),
                // The kernel takes only number and kind of these two, and counts no lookup.
                None if item.name == "." || item.name == ".." => (bare_attr(item.ino, item.kind), 0),
                // It vanished since the listing was read.
                None => return false,
            };
            reply.add(attr.ino, item.next_offset, &item.name, &FOR_GOOD, &attr, Generation(generation))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.mirror.releasedir(fh(handle));
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer::empty(reply, self.mirror.fsyncdir(ino(number)));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.mirror.statfs() {
            Ok(space) => reply.statfs(
                space.blocks,
                space.bfree,
                space.bavail,
                space.files,
                space.ffree,
                space.frsize as u32,
                space.namelen as u32,
                space.frsize as u32,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        answer::empty(
            reply,
            self.mirror.setxattr(ino(number), name, value, flags, |gid| in_group(request, gid)),
        );
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.mirror.getxattr(ino(number), name) {
            // Legs without ACLs have none. The kernel asks for them whenever it checks a permission,
            // and would take "not supported" for its answer.
            Err(error)
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) && ACLS.iter().any(|acl| name == *acl) =>
            {
                reply.error(Errno::ENODATA);
            }
            result => answer::xattr(reply, size, result),
        }
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.mirror.listxattr(ino(number)).map(|mut names| {
            // Reading their values is refused by the kernel. Hiding them it leaves to the filesystem.
            names.retain(|name| request.uid() == 0 || !name.as_bytes().starts_with(b"trusted."));
            answer::name_list(&names)
        });
        answer::xattr(reply, size, names);
    }

    fn removexattr(&self, _: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer::empty(reply, self.mirror.removexattr(ino(number), name));
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        answer::empty(reply, self.mirror.fallocate(fh(handle), mode, offset, len, kills_privileges(request)));
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(what) = convert::seek(whence) else { return reply.error(Errno::EINVAL) };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.mirror.seek(fh(handle), offset, what) {
            // File offsets end where i64 does.
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _: INodeNo,
        to: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((fh(from), from_offset), (fh(to), to_offset));
        let len = len.min(MAX_COPY);
        answer::written(reply, self.mirror.copy_range(from, to, len, kills_privileges(request)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_to_read_into_is_aligned() {
        let mut buffer = Vec::new();
        for size in [0, 1, 4096, 1 << 20, 512] {
            let room = aligned_room(&mut buffer, size);
            assert_eq!((room.len(), room.as_ptr() as usize % ALIGNMENT), (size, 0));
        }
    }
}
