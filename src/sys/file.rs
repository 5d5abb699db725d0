//! Opening below a directory, attributes, reading and writing.

use std::ffi::{CStr, OsStr};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, SeekFrom, Statx,
    StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::{Errno, ReadWriteFlags};

use super::{checked, proc_path, uninterrupted};

/// The path that means the descriptor itself.
const ITSELF: &CStr = c"";
/// fchmodat2(2) has this number on every architecture.
const SYS_FCHMODAT2: libc::c_long = 452;

/// Opens `name` in `dir`: no symlink and no mount point is followed, and the way never leads up.
pub fn open_beneath(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC;
    loop {
        // EAGAIN: something was renamed during the lookup and the kernel could not be sure.
        match rustix::fs::openat2(dir, name, flags, Mode::from_raw_mode(mode), resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
}

/// The directory that `dir` lies in.
pub fn open_parent(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    uninterrupted(|| rustix::fs::openat(dir, c"..", flags, Mode::empty()))
}

/// Opens anew what `fd` is open on, with other flags. Not for symlinks.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let path = proc_path(fd);
    uninterrupted(|| rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty()))
}

/// Attributes of `name` in `dir`, or of what `dir` is open on when `name` is empty. Never follows a
/// symlink.
pub fn stat(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Statx> {
    statx(dir, name, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// What O_DIRECT needs of this file, in bytes: alignment of memory, and of offset and length.
/// `None` where the kernel does not tell.
pub fn direct_alignment(file: BorrowedFd<'_>) -> Option<(usize, u64)> {
    let stat = statx(file, OsStr::new(""), StatxFlags::DIOALIGN).ok()?;
    let (memory, offset) = (stat.stx_dio_mem_align as usize, u64::from(stat.stx_dio_offset_align));
    (memory > 0 && offset > 0).then_some((memory, offset))
}

fn statx(dir: BorrowedFd<'_>, name: &OsStr, mask: StatxFlags) -> io::Result<Statx> {
    let mut flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    if name.is_empty() {
        flags |= AtFlags::EMPTY_PATH;
    }
    uninterrupted(|| rustix::fs::statx(dir, name, flags, mask))
}

/// Target of the symlink that `fd` is open on.
pub fn read_link(fd: BorrowedFd<'_>) -> io::Result<std::ffi::CString> {
    uninterrupted(|| rustix::fs::readlinkat(fd, ITSELF, Vec::new()))
}

/// One more name for what `fd` is open on.
pub fn link(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match uninterrupted(|| rustix::fs::linkat(fd, ITSELF, dir, name, AtFlags::EMPTY_PATH)) {
        // Without CAP_DAC_READ_SEARCH the kernel says so to any such call.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            let path = proc_path(fd);
            uninterrupted(|| rustix::fs::linkat(rustix::fs::CWD, &path, dir, name, AtFlags::SYMLINK_FOLLOW))
        }
        linked => linked,
    }
}

/// Sets the lower twelve mode bits.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the path is a C string constant, the rest are plain numbers.
    let changed = checked(|| unsafe {
        libc::syscall(SYS_FCHMODAT2, fd.as_raw_fd(), ITSELF.as_ptr(), mode, libc::AT_EMPTY_PATH)
    });
    match changed {
        // Linux before 6.6.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let path = proc_path(fd);
            uninterrupted(|| rustix::fs::chmod(&path, Mode::from_raw_mode(mode)))
        }
        changed => changed.map(drop),
    }
}

/// Sets owner, group or both.
pub fn set_owner(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    uninterrupted(|| rustix::fs::chownat(fd, ITSELF, uid, gid, AtFlags::EMPTY_PATH))
}

/// Sets access and modification time; `None` leaves one as it is.
pub fn set_times(fd: BorrowedFd<'_>, atime: Option<Timespec>, mtime: Option<Timespec>) -> io::Result<()> {
    const OMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: atime.unwrap_or(OMIT), last_modification: mtime.unwrap_or(OMIT) };
    uninterrupted(|| rustix::fs::utimensat(fd, ITSELF, &times, AtFlags::EMPTY_PATH))
}

/// Sets access and modification time of what a name in a directory names, a symlink's own. The name
/// must be a single component.
pub fn set_times_of(dir: BorrowedFd<'_>, name: &OsStr, atime: Timespec, mtime: Timespec) -> io::Result<()> {
    let times = Timestamps { last_access: atime, last_modification: mtime };
    uninterrupted(|| rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW))
}

/// Sets the length of the regular file that `fd`, which may be an O_PATH descriptor, is open on.
pub fn truncate(fd: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    let size = i64::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let path = proc_path(fd);
    // SAFETY: the path is a C string that outlives the call.
    checked(|| libc::c_long::from(unsafe { libc::truncate64(path.as_ptr(), size) })).map(drop)
}

/// Sets the length of a file that is open for writing.
pub fn truncate_open(file: BorrowedFd<'_>, size: u64) -> io::Result<()> {
    uninterrupted(|| rustix::fs::ftruncate(file, size))
}

/// Reads at `offset` until `buf` is full or the file ends. A short count means the end of the file and
/// nothing else, so an error after some bytes is an error.
pub fn read_at(file: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match uninterrupted(|| rustix::io::pread(file, &mut buf[done..], offset + done as u64))? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// Lets the page cache forget a range that is not dirty. A wish: it fails silently.
pub fn drop_cached(file: BorrowedFd<'_>, range: std::ops::Range<u64>) {
    if let Some(len) = NonZeroU64::new(range.end - range.start) {
        let _ = rustix::fs::fadvise(file, range.start, Some(len), rustix::fs::Advice::DontNeed);
    }
}

/// Writes at `offset` as much as it can. An error only if nothing was written.
pub fn write_at(file: BorrowedFd<'_>, data: &[u8], offset: u64) -> io::Result<usize> {
    writing(data, offset, |rest, at| rustix::io::pwrite(file, rest, at))
}

/// As [`write_at`], and durable when it returns: data and what is needed to read it.
pub fn write_durably_at(file: BorrowedFd<'_>, data: &[u8], offset: u64) -> io::Result<usize> {
    writing(data, offset, |rest, at| {
        rustix::io::pwritev2(file, &[IoSlice::new(rest)], at, ReadWriteFlags::DSYNC)
    })
}

fn writing(
    data: &[u8],
    offset: u64,
    mut write: impl FnMut(&[u8], u64) -> rustix::io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < data.len() {
        match uninterrupted(|| write(&data[done..], offset + done as u64)) {
            Ok(0) => break,
            Ok(written) => done += written,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Makes the whole filesystem durable. Reports what write-back has lost since the file was opened or
/// since the last call with it.
pub fn sync_filesystem(file: impl AsFd) -> io::Result<()> {
    uninterrupted(|| rustix::fs::syncfs(&file))
}

/// Whether it is on a FUSE filesystem.
pub fn is_on_fuse(fd: impl AsFd) -> io::Result<bool> {
    const FUSE_SUPER_MAGIC: u32 = 0x6573_5546;
    // Its width depends on the architecture.
    uninterrupted(|| rustix::fs::fstatfs(&fd)).map(|stat| stat.f_type as u32 == FUSE_SUPER_MAGIC)
}

/// Lets go of the file as close(2) does, and tells what that tells: some filesystems report there what became of
/// writes that they had acknowledged. The descriptor itself stays open.
pub fn flush(file: BorrowedFd<'_>) -> io::Result<()> {
    let again = file.try_clone_to_owned()?;
    // SAFETY: into_raw_fd has given the descriptor up, so nobody else closes it.
    let closed = unsafe { libc::close(again.into_raw_fd()) };
    // After EINTR Linux has closed it, too.
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes a name away: of a directory with [`AtFlags::REMOVEDIR`], of anything else without.
pub fn unlink(dir: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> io::Result<()> {
    uninterrupted(|| rustix::fs::unlinkat(dir, name, flags))
}

/// renameat2(2).
pub fn rename(
    from: (BorrowedFd<'_>, &OsStr),
    to: (BorrowedFd<'_>, &OsStr),
    flags: RenameFlags,
) -> io::Result<()> {
    uninterrupted(|| rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags))
}

/// Makes anything but a directory or a symlink; `rdev` matters for device nodes only.
pub fn make_node(dir: BorrowedFd<'_>, name: &OsStr, what: FileType, mode: u32, rdev: u64) -> io::Result<()> {
    uninterrupted(|| rustix::fs::mknodat(dir, name, what, Mode::from_raw_mode(mode), rdev))
}

/// Makes a directory.
pub fn make_directory(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    uninterrupted(|| rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)))
}

/// Makes a symlink.
pub fn make_symlink(dir: BorrowedFd<'_>, name: &OsStr, target: &OsStr) -> io::Result<()> {
    uninterrupted(|| rustix::fs::symlinkat(target, dir, name))
}

/// Makes one open file durable; all its metadata too unless `data_only`.
pub fn sync(file: BorrowedFd<'_>, data_only: bool) -> io::Result<()> {
    if data_only {
        uninterrupted(|| rustix::fs::fdatasync(file))
    } else {
        uninterrupted(|| rustix::fs::fsync(file))
    }
}

/// fallocate(2) with its mode bits.
pub fn allocate(file: BorrowedFd<'_>, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let mode = FallocateFlags::from_bits_retain(mode as u32);
    uninterrupted(|| rustix::fs::fallocate(file, mode, offset, len))
}

/// Where the next hole or data is. Moves the descriptor's own position, which nothing here uses.
pub fn seek(file: BorrowedFd<'_>, to: SeekFrom) -> io::Result<u64> {
    uninterrupted(|| rustix::fs::seek(file, to))
}

/// copy_file_range(2): one call, which may copy less.
pub fn copy_range(from: (BorrowedFd<'_>, u64), to: (BorrowedFd<'_>, u64), len: usize) -> io::Result<usize> {
    let (mut from_at, mut to_at) = (from.1, to.1);
    uninterrupted(|| rustix::fs::copy_file_range(from.0, Some(&mut from_at), to.0, Some(&mut to_at), len))
}

/// Space and limits of the filesystem.
pub fn statvfs(fd: BorrowedFd<'_>) -> io::Result<rustix::fs::StatVfs> {
    uninterrupted(|| rustix::fs::fstatvfs(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_durably_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(write_durably_at(file.as_fd(), b"12345", 3).unwrap(), 5);
        let mut buf = [9; 10];
        assert_eq!(read_at(file.as_fd(), &mut buf, 0).unwrap(), 8);
        assert_eq!(&buf, b"\0\0\x0012345\x09\x09");
    }
}
