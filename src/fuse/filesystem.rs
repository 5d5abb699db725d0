//! One method a request: count, decode, call, reply.
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
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::answer::{self, FOR_GOOD};
use super::caching::Caching;
use super::convert::{self, bare_attr, errno, file_attr, file_type, permissions};
use super::loops::Loops;
use super::passthrough::Passthrough;
use super::requests::{Asked, Requests};
use super::serve::agree;
use crate::inode::{Fh, Ino};
use crate::legs::{Creator, Kind, Leg, Make};
use crate::ops::{Caller, Mirror, SetAttr};
use crate::sys::process::groups_of;

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
    loops: Arc<Loops>,
    caching: Caching,
    /// With the option of that name.
    passthrough: Option<Arc<Passthrough>>,
    requests: Arc<Requests>,
}

impl<L: Leg> Translation<L> {
    pub(super) fn new(
        mirror: Arc<Mirror<L>>,
        loops: Arc<Loops>,
        caching: Caching,
        requests: Arc<Requests>,
    ) -> Self {
        let passthrough = (caching == Caching::Passthrough).then(|| Arc::new(Passthrough::new()));
        Translation { mirror, loops, caching, passthrough, requests }
    }

    /// Answers a request: on this thread, unless that is the last event loop which is free.
    fn answer(&self, work: impl FnOnce(&Mirror<L>) + Send + 'static) {
        match self.loops.stay() {
            Some(_staying) => work(&self.mirror),
            None => {
                let mirror = self.mirror.clone();
                self.loops.hand_over(move || work(&mirror));
            }
        }
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

/// Who asks, as far as it concerns groups.
struct Who {
    uid: u32,
    gid: u32,
    pid: u32,
}

impl Who {
    fn of(request: &Request) -> Who {
        Who { uid: request.uid(), gid: request.gid(), pid: request.pid() }
    }

    /// Whether the caller may keep sgid on a file of this group: it is one of the caller's, or the caller is
    /// root. Not, if that cannot be found out.
    fn is_in(&self, gid: u32) -> bool {
        self.uid == 0 || self.gid == gid || groups_of(self.pid).is_ok_and(|groups| groups.contains(&gid))
    }
}

impl<L: Leg> Filesystem for Translation<L> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        agree(config, self.caching)
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.requests.count(Asked::Lookup);
        let (parent, name) = (ino(parent), name.to_owned());
        self.answer(move |mirror| match mirror.lookup(parent, &name) {
            // Number 0 with a lifetime: the kernel remembers that there is no such name.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                reply.entry(&FOR_GOOD, &bare_attr(Ino(0), Kind::File), Generation(0));
            }
            result => answer::entry(reply, result),
        });
    }

    // BATCH_FORGET comes here, too: fuser takes it apart, and does not name the type to do it with.
    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        self.requests.count(Asked::Forget);
        self.mirror.forget(ino(number), count);
    }

    fn getattr(&self, _: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        self.requests.count(Asked::Getattr);
        let (number, handle) = (ino(number), handle.map(fh));
        self.answer(move |mirror| answer::attributes(reply, mirror.getattr(number, handle)));
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
        self.requests.count(Asked::Setattr);
        let set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        let (number, handle, caller) = (ino(number), handle.map(fh), caller(request));
        self.answer(move |mirror| {
            answer::attributes(reply, mirror.setattr(number, &set, handle, caller));
        });
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        self.requests.count(Asked::Readlink);
        let number = ino(number);
        self.answer(move |mirror| match mirror.readlink(number) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        });
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
        self.requests.count(Asked::Mknod);
        let Some(what) = convert::make_node(mode, rdev) else { return reply.error(Errno::EINVAL) };
        let (parent, name, creator) = (ino(parent), name.to_owned(), creator(request, umask));
        self.answer(move |mirror| answer::entry(reply, mirror.make(parent, &name, what, creator)));
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
        self.requests.count(Asked::Mkdir);
        let what = Make::Directory { mode: permissions(mode) };
        let (parent, name, creator) = (ino(parent), name.to_owned(), creator(request, umask));
        self.answer(move |mirror| answer::entry(reply, mirror.make(parent, &name, what, creator)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.requests.count(Asked::Symlink);
        let (parent, name, creator) = (ino(parent), name.to_owned(), creator(request, 0));
        let target = target.as_os_str().to_owned();
        self.answer(move |mirror| {
            answer::entry(reply, mirror.make(parent, &name, Make::Symlink { target: &target }, creator));
        });
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.requests.count(Asked::Link);
        let (number, parent, name) = (ino(number), ino(parent), name.to_owned());
        self.answer(move |mirror| answer::entry(reply, mirror.link(number, parent, &name)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.requests.count(Asked::Unlink);
        let (parent, name) = (ino(parent), name.to_owned());
        self.answer(move |mirror| answer::empty(reply, mirror.unlink(parent, &name)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.requests.count(Asked::Rmdir);
        let (parent, name) = (ino(parent), name.to_owned());
        self.answer(move |mirror| answer::empty(reply, mirror.rmdir(parent, &name)));
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
        self.requests.count(Asked::Rename);
        let Some(mode) = convert::rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (parent, name, new_parent, new_name) =
            (ino(parent), name.to_owned(), ino(new_parent), new_name.to_owned());
        self.answer(move |mirror| {
            answer::empty(reply, mirror.rename(parent, &name, new_parent, &new_name, mode));
        });
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
        self.requests.count(Asked::Create);
        let (parent, name, creator) = (ino(parent), name.to_owned(), creator(request, umask));
        let opened = self.caching.opened();
        self.answer(move |mirror| match mirror.create(parent, &name, permissions(mode), creator, flags) {
            Ok((found, handle)) => reply.created(
                &FOR_GOOD,
                &file_attr(&found.attr),
                Generation(found.generation),
                FileHandle(handle.0),
                opened,
            ),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.requests.count(Asked::Open);
        let (number, caller, opened) = (ino(number), caller(request), self.caching.opened());
        let passthrough = self.passthrough.clone();
        self.answer(move |mirror| match (mirror.open(number, flags.0, caller), passthrough) {
            (Ok(handle), Some(passthrough)) => passthrough.opened(reply, mirror, (number, handle), opened),
            (result, _) => answer::opened(reply, result, opened),
        });
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
        self.requests.count(Asked::Read);
        self.answer(move |mirror| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                let room = aligned_room(buffer, size as usize);
                match mirror.read(fh(handle), room, offset) {
                    Ok(count) => reply.data(&room[..count]),
                    Err(error) => reply.error(errno(&error)),
                }
            });
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
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.requests.count(Asked::Write);
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let syncs = self.caching.syncs(flags).filter(|_| !from_cache);
        let write = move |mirror: &Mirror<L>, data: &[u8]| {
            let written = match from_cache {
                true => mirror.write_back(fh(handle), data, offset),
                false => mirror.write(fh(handle), data, offset, kill),
            }?;
            if let Some(data_only) = syncs {
                mirror.fsync(fh(handle), data_only)?;
            }
            Ok(written)
        };
        match self.loops.stay() {
            Some(_staying) => answer::written(reply, write(&self.mirror, data)),
            // Not by `answer`: only who hands it over has to copy the data.
            None => {
                let (mirror, data) = (self.mirror.clone(), data.to_owned());
                self.loops.hand_over(move || answer::written(reply, write(&mirror, &data)));
            }
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.requests.count(Asked::Flush);
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
        self.requests.count(Asked::Release);
        let passthrough = self.passthrough.clone();
        self.answer(move |mirror| {
            passthrough.iter().for_each(|passthrough| passthrough.released(fh(handle)));
            mirror.release(fh(handle));
            reply.ok();
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.requests.count(Asked::Fsync);
        self.answer(move |mirror| answer::empty(reply, mirror.fsync(fh(handle), data_only)));
    }

    // The kernel opens directories by itself from then on. It keeps listings, and drops one when it makes, renames or
    // removes a name in it, or is told to.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.requests.count(Asked::Opendir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.requests.count(Asked::Readdir);
        self.answer(move |mirror| {
            let read = mirror.readdir(ino(number), offset, &mut |item| {
                reply.add(INodeNo(item.ino.0), item.next_offset, file_type(item.kind), &item.name)
            });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.requests.count(Asked::Readdirplus);
        self.answer(move |mirror| {
            let read = mirror.readdirplus(ino(number), offset, &mut |item, found| {
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
        });
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.requests.count(Asked::Fsyncdir);
        let number = ino(number);
        self.answer(move |mirror| answer::empty(reply, mirror.fsyncdir(number)));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.requests.count(Asked::Statfs);
        self.answer(move |mirror| match mirror.statfs() {
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
        });
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
        self.requests.count(Asked::Setxattr);
        let (number, name, value) = (ino(number), name.to_owned(), value.to_owned());
        let who = Who::of(request);
        self.answer(move |mirror| {
            answer::empty(reply, mirror.setxattr(number, &name, &value, flags, |gid| who.is_in(gid)));
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.requests.count(Asked::Getxattr);
        let (number, name) = (ino(number), name.to_owned());
        self.answer(move |mirror| match mirror.getxattr(number, &name) {
            // Legs without ACLs have none. The kernel asks for them whenever it checks a permission,
            // and would take "not supported" for its answer.
            Err(error)
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) && ACLS.iter().any(|acl| name == *acl) =>
            {
                reply.error(Errno::ENODATA);
            }
            result => answer::xattr(reply, size, result),
        });
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.requests.count(Asked::Listxattr);
        let (number, is_root) = (ino(number), request.uid() == 0);
        self.answer(move |mirror| {
            let names = mirror.listxattr(number).map(|mut names| {
                // Reading their values is refused by the kernel. Hiding them it leaves to the filesystem.
                names.retain(|name| is_root || !name.as_bytes().starts_with(b"trusted."));
                answer::name_list(&names)
            });
            answer::xattr(reply, size, names);
        });
    }

    fn removexattr(&self, _: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.requests.count(Asked::Removexattr);
        let (number, name) = (ino(number), name.to_owned());
        self.answer(move |mirror| answer::empty(reply, mirror.removexattr(number, &name)));
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        self.requests.count(Asked::Access);
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        self.requests.count(Asked::Bmap);
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
        self.requests.count(Asked::Poll);
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
        self.requests.count(Asked::Ioctl);
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
        self.requests.count(Asked::Fallocate);
        let kill = kills_privileges(request);
        self.answer(move |mirror| {
            answer::empty(reply, mirror.fallocate(fh(handle), mode, offset, len, kill));
        });
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
        self.requests.count(Asked::Lseek);
        if self.caching == Caching::Back {
            // The kernel asks without having handed over what it holds, so a leg may have a hole where there is data.
            // From now on it answers by itself: all of a file is data.
            return reply.error(Errno::ENOSYS);
        }
        let Some(what) = convert::seek(whence) else { return reply.error(Errno::EINVAL) };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        self.answer(move |mirror| match mirror.seek(fh(handle), offset, what) {
            // File offsets end where i64 does.
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(errno(&error)),
        });
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
        self.requests.count(Asked::CopyFileRange);
        let (from, to) = ((fh(from), from_offset), (fh(to), to_offset));
        let len = len.min(MAX_COPY);
        let kill = kills_privileges(request);
        self.answer(move |mirror| answer::written(reply, mirror.copy_range(from, to, len, kill)));
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
