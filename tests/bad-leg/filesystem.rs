//! The requests of the kernel: each is decided upon, done to the directory and answered.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use mirrorfs::sys;
use mirrorfs::sys::creds::Borrowed;
use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom, Timespec, UTIME_NOW};
use rustix::thread::CapabilitySet;

use super::directory::{Directory, Found, device, errno};
use super::faults::{Faults, Op, Verdict};

/// Nothing is cached: what has been changed on the directory, or made to fail, is seen at once.
const NOT_AT_ALL: Duration = Duration::ZERO;

/// Every read and write reaches us, none is answered from the page cache.
const FILE_OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

/// What the daemon keeps while it makes objects as somebody else.
const KEPT: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD);

pub struct BadLeg {
    directory: Arc<Directory>,
    faults: Arc<Faults>,
}

/// A reply that can be an error.
trait Reply: Send + 'static {
    fn refuse(self, error: Errno);
}

macro_rules! replies {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn refuse(self, error: Errno) {
                self.error(error);
            }
        })*
    };
}

replies!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

impl BadLeg {
    pub fn new(directory: Directory, faults: Arc<Faults>) -> BadLeg {
        BadLeg { directory: Arc::new(directory), faults }
    }

    /// Decides what a request meets with, and if it may go on at some time, does it and replies.
    /// `places` are the objects that rules find it by: a number and a name in it.
    fn serve<R: Reply, T>(
        &self,
        op: Op,
        places: &[(INodeNo, &OsStr)],
        reply: R,
        act: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let is_in = |word: &str| {
            places.iter().any(|(number, name)| {
                self.directory.path(*number, name).windows(word.len()).any(|part| part == word.as_bytes())
            })
        };
        let work = move |directory: &Directory, reply: R| match act(directory) {
            Ok(done) => answer(reply, done),
            Err(error) => reply.refuse(Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))),
        };
        match self.faults.decide(op, is_in) {
            Verdict::Go => work(&self.directory, reply),
            Verdict::Fail(number) => reply.refuse(Errno::from_i32(number)),
            Verdict::Wait(wait) => {
                let (directory, faults) = (self.directory.clone(), self.faults.clone());
                std::thread::spawn(move || {
                    faults.wait(wait);
                    work(&directory, reply);
                });
            }
        }
    }

    fn on_object<R: Reply, T>(
        &self,
        op: Op,
        number: INodeNo,
        reply: R,
        act: impl FnOnce(&Directory) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        self.serve(op, &[(number, OsStr::new(""))], reply, act, answer);
    }

    /// Makes `name` in `parent` as the caller, and looks it up.
    fn make(
        &self,
        op: Op,
        (request, umask): (&Request, u32),
        (parent, name): (INodeNo, &OsStr),
        reply: ReplyEntry,
        make: impl FnOnce(std::os::fd::BorrowedFd<'_>, &OsStr) -> io::Result<()> + Send + 'static,
    ) {
        let (uid, gid, owned) = (request.uid(), request.gid(), name.to_owned());
        let act = move |directory: &Directory| {
            let dir = directory.node(parent)?;
            {
                let _borrowed = Borrowed::new(uid, gid, umask, KEPT)?;
                make(dir.as_fd(), &owned)?;
            }
            directory.look_up(parent, &owned)
        };
        self.serve(op, &[(parent, name)], reply, act, entry);
    }
}

fn entry(reply: ReplyEntry, (attr, generation): Found) {
    reply.entry(&NOT_AT_ALL, &attr, generation);
}

fn attributes(reply: ReplyAttr, attr: FileAttr) {
    reply.attr(&NOT_AT_ALL, &attr);
}

fn empty(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

fn written(reply: ReplyWrite, count: usize) {
    reply.written(count as u32);
}

/// A value, or its length if `size` is 0.
fn xattr(size: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) {
    move |reply, value| match value.len() {
        len if size == 0 => reply.size(len as u32),
        len if len <= size as usize => reply.data(&value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Whether a descriptor with these flags promises that what was written is durable.
fn writes_durably(flags: OpenFlags) -> bool {
    flags.0 & libc::O_DSYNC != 0
}

fn access(flags: i32) -> OFlags {
    OFlags::from_bits_retain((flags & libc::O_ACCMODE) as u32)
}

/// fuser mirrors times before 1970; see `convert.rs` of the mirror.
fn timespec(time: TimeOrNow) -> Timespec {
    let TimeOrNow::SpecificTime(time) = time else { return Timespec { tv_sec: 0, tv_nsec: UTIME_NOW } };
    let (sign, distance) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (1, since),
        Err(before) => (-1, before.duration()),
    };
    Timespec { tv_sec: sign * distance.as_secs() as i64, tv_nsec: distance.subsec_nanos().into() }
}

impl Filesystem for BadLeg {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK | InitFlags::FUSE_PARALLEL_DIROPS;
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(1 << 20);
        // What hangs must not use up what the kernel sends in nobody's name.
        let _ = config.set_max_background(1000);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let owned = name.to_owned();
        let act = move |directory: &Directory| directory.look_up(parent, &owned);
        self.serve(Op::Lookup, &[(parent, name)], reply, act, entry);
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.directory.forget(number, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let act = move |directory: &Directory| match handle {
            Some(handle) => directory.attr_of(directory.opened(handle)?.fd.as_fd()),
            None => directory.attr(number),
        };
        self.on_object(Op::Getattr, number, reply, act, attributes);
    }

    fn setattr(
        &self,
        _: &Request,
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
        let op = match (size, mode, uid.or(gid)) {
            (Some(_), _, _) => Op::Truncate,
            (_, Some(_), _) => Op::Chmod,
            (_, _, Some(_)) => Op::Chown,
            _ => Op::Utimes,
        };
        let act = move |directory: &Directory| {
            let node = directory.node(number)?;
            if uid.is_some() || gid.is_some() {
                sys::file::set_owner(node.as_fd(), uid, gid)?;
            }
            if let Some(mode) = mode {
                sys::file::set_mode(node.as_fd(), mode & 0o7777)?;
            }
            match (size, handle) {
                (Some(size), Some(handle)) => {
                    sys::file::truncate_open(directory.opened(handle)?.fd.as_fd(), size)?;
                }
                (Some(size), None) => sys::file::truncate(node.as_fd(), size)?,
                (None, _) => {}
            }
            if atime.is_some() || mtime.is_some() {
                sys::file::set_times(node.as_fd(), atime.map(timespec), mtime.map(timespec))?;
            }
            directory.attr(number)
        };
        self.on_object(op, number, reply, act, attributes);
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        let act = move |directory: &Directory| sys::file::read_link(directory.node(number)?.as_fd());
        self.on_object(Op::Readlink, number, reply, act, |reply, target| reply.data(target.as_bytes()));
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
        self.make(Op::Mknod, (request, umask), (parent, name), reply, move |dir, name| {
            sys::file::make_node(dir, name, FileType::from_raw_mode(mode), mode & 0o7777, device(rdev))
        });
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
        self.make(Op::Mkdir, (request, umask), (parent, name), reply, move |dir, name| {
            sys::file::make_directory(dir, name, mode & 0o7777)
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().to_owned();
        self.make(Op::Symlink, (request, 0), (parent, name), reply, move |dir, name| {
            sys::file::make_symlink(dir, name, &target)
        });
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let owned = name.to_owned();
        let act = move |directory: &Directory| {
            sys::file::link(directory.node(number)?.as_fd(), directory.node(parent)?.as_fd(), &owned)?;
            directory.look_up(parent, &owned)
        };
        self.serve(Op::Link, &[(number, OsStr::new("")), (parent, name)], reply, act, entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let owned = name.to_owned();
        let act = move |directory: &Directory| {
            sys::file::unlink(directory.node(parent)?.as_fd(), &owned, AtFlags::empty())
        };
        self.serve(Op::Unlink, &[(parent, name)], reply, act, empty);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let owned = name.to_owned();
        let act = move |directory: &Directory| {
            sys::file::unlink(directory.node(parent)?.as_fd(), &owned, AtFlags::REMOVEDIR)
        };
        self.serve(Op::Rmdir, &[(parent, name)], reply, act, empty);
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
        let places = [(parent, name), (new_parent, new_name)];
        let names = [name, new_name].map(OsString::from);
        let act = move |directory: &Directory| {
            let (from, to) = (directory.node(parent)?, directory.node(new_parent)?);
            let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            sys::file::rename((from.as_fd(), &names[0]), (to.as_fd(), &names[1]), flags)
        };
        self.serve(Op::Rename, &places, reply, act, empty);
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
        let (uid, gid, owned) = (request.uid(), request.gid(), name.to_owned());
        let act = move |directory: &Directory| {
            let dir = directory.node(parent)?;
            let exclusive = OFlags::from_bits_retain((flags & libc::O_EXCL) as u32);
            let flags = access(flags) | exclusive | OFlags::CREATE | OFlags::NOFOLLOW;
            let fd = {
                let _borrowed = Borrowed::new(uid, gid, umask, KEPT)?;
                sys::file::open_beneath(dir.as_fd(), &owned, flags, mode & 0o7777)?
            };
            Ok((directory.look_up(parent, &owned)?, directory.keep(fd)))
        };
        let answer = |reply: ReplyCreate, ((attr, generation), handle): (Found, FileHandle)| {
            reply.created(&NOT_AT_ALL, &attr, generation, handle, FILE_OPENED);
        };
        self.serve(Op::Create, &[(parent, name)], reply, act, answer);
    }

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let act = move |directory: &Directory| directory.reopen(number, access(flags.0));
        self.on_object(Op::Open, number, reply, act, |reply, handle| reply.opened(handle, FILE_OPENED));
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let act = move |directory: &Directory| {
            let mut data = vec![0; size as usize];
            let count = sys::file::read_at(directory.opened(handle)?.fd.as_fd(), &mut data, offset)?;
            data.truncate(count);
            Ok(data)
        };
        self.on_object(Op::Read, number, reply, act, |reply, data| reply.data(&data));
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let act = move |directory: &Directory| {
            let opened = directory.opened(handle)?;
            if writes_durably(flags) {
                sys::file::write_durably_at(opened.fd.as_fd(), &data, offset)
            } else {
                sys::file::write_at(opened.fd.as_fd(), &data, offset)
            }
        };
        self.on_object(Op::Write, number, reply, act, written);
    }

    fn flush(&self, _: &Request, number: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.on_object(Op::Flush, number, reply, |_| Ok(()), empty);
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
        self.directory.close(handle);
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let act =
            move |directory: &Directory| sys::file::sync(directory.opened(handle)?.fd.as_fd(), data_only);
        self.on_object(Op::Fsync, number, reply, act, empty);
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let act = move |directory: &Directory| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = sys::file::open_beneath(directory.node(number)?.as_fd(), OsStr::new("."), flags, 0)?;
            Ok(directory.keep(fd))
        };
        let answer = |reply: ReplyOpen, handle| reply.opened(handle, FopenFlags::empty());
        self.on_object(Op::Opendir, number, reply, act, answer);
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let act = move |directory: &Directory| directory.list(number, handle, offset);
        self.on_object(Op::Readdir, number, reply, act, |mut reply, names| {
            for (behind, name, ino, kind) in names {
                if reply.add(INodeNo(ino), behind, kind, &name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.directory.close(handle);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let act =
            move |directory: &Directory| sys::file::sync(directory.opened(handle)?.fd.as_fd(), data_only);
        self.on_object(Op::Fsyncdir, number, reply, act, empty);
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        let act = move |directory: &Directory| sys::file::statvfs(directory.node(number)?.as_fd());
        self.on_object(Op::Statfs, number, reply, act, |reply, space| {
            reply.statfs(
                space.f_blocks,
                space.f_bfree,
                space.f_bavail,
                space.f_files,
                space.f_ffree,
                space.f_bsize as u32,
                space.f_namemax as u32,
                space.f_frsize as u32,
            );
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        let act = move |directory: &Directory| {
            sys::xattr::set(directory.node(number)?.as_fd(), &name, &value, flags)
        };
        self.on_object(Op::Setxattr, number, reply, act, empty);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        let act = move |directory: &Directory| sys::xattr::get(directory.node(number)?.as_fd(), &name);
        self.on_object(Op::Getxattr, number, reply, act, xattr(size));
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let act = move |directory: &Directory| {
            let names = sys::xattr::list(directory.node(number)?.as_fd())?;
            Ok(names.iter().flat_map(|name| name.as_bytes().iter().copied().chain([0])).collect())
        };
        self.on_object(Op::Listxattr, number, reply, act, xattr(size));
    }

    fn removexattr(&self, _: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let act = move |directory: &Directory| sys::xattr::remove(directory.node(number)?.as_fd(), &name);
        self.on_object(Op::Removexattr, number, reply, act, empty);
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let act = move |directory: &Directory| {
            sys::file::allocate(directory.opened(handle)?.fd.as_fd(), mode, offset, len)
        };
        self.on_object(Op::Fallocate, number, reply, act, empty);
    }

    fn lseek(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let act = move |directory: &Directory| {
            let offset = u64::try_from(offset).map_err(|_| errno(libc::ENXIO))?;
            let to = match whence {
                libc::SEEK_HOLE => SeekFrom::Hole(offset),
                libc::SEEK_DATA => SeekFrom::Data(offset),
                _ => return Err(errno(libc::EINVAL)),
            };
            sys::file::seek(directory.opened(handle)?.fd.as_fd(), to)
        };
        self.on_object(Op::Lseek, number, reply, act, |reply, found| reply.offset(found as i64));
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let places = [from, to].map(|number| (number, OsStr::new("")));
        let act = move |directory: &Directory| {
            let (source, target) = (directory.opened(from_handle)?, directory.opened(to_handle)?);
            let ends = ((source.fd.as_fd(), from_offset), (target.fd.as_fd(), to_offset));
            sys::file::copy_range(ends.0, ends.1, len.min(1 << 30) as usize)
        };
        self.serve(Op::Copy, &places, reply, act, written);
    }
}
