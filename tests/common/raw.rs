//! The few system calls that tests need and that neither the standard library nor rustix offers
//! without `unsafe`: all of it is here.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// A mapping of a whole file, of `len` bytes.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `file` readable and writable; `MapFlags::SHARED` or `PRIVATE`.
    pub fn new(file: &File, len: usize, flags: MapFlags) -> io::Result<Mapping> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the place, so nothing that exists is mapped over.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, file, 0) }?;
        Ok(Mapping { start: NonNull::new(start.cast()).expect("mmap never returns null"), len })
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours, `len` long and lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Writes changes back and waits for it.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: start and length are those of the mapping.
        Ok(unsafe { rustix::mm::msync(self.start.as_ptr().cast(), self.len, MsyncFlags::SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping; nobody has a reference any more.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Tries to take a POSIX write lock on a range, as the process. EAGAIN when another has it.
pub fn lock_range(file: &File, start: i64, len: i64) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // An open-file-description lock: two descriptors of one process are two owners, as two
    // processes are with F_SETLK.
    // SAFETY: the descriptor is open and `lock` is a whole struct flock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A directory stream whose position can be told and set.
pub struct DirStream(NonNull<libc::DIR>);

impl DirStream {
    pub fn open(path: &std::path::Path) -> io::Result<DirStream> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
        // SAFETY: the path is a C string.
        NonNull::new(unsafe { libc::opendir(path.as_ptr()) })
            .map(DirStream)
            .ok_or_else(io::Error::last_os_error)
    }

    pub fn tell(&self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0.as_ptr()) }
    }

    pub fn seek(&self, position: i64) {
        // SAFETY: the stream is open; any position is allowed, a foreign one gives foreign entries.
        unsafe { libc::seekdir(self.0.as_ptr(), position) }
    }

    /// The next name.
    pub fn read(&self) -> Option<Vec<u8>> {
        // SAFETY: the stream is open and used by one thread.
        let entry = NonNull::new(unsafe { libc::readdir(self.0.as_ptr()) })?;
        // SAFETY: readdir's entry is valid until the next call on the stream, its name ends with NUL.
        let name = unsafe { std::ffi::CStr::from_ptr(entry.as_ref().d_name.as_ptr()) };
        Some(name.to_bytes().to_vec())
    }
}

impl Drop for DirStream {
    fn drop(&mut self) {
        // SAFETY: the stream is open and not used again.
        unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

/// Shuts the filesystem that `dir` is on down, as a disk that is gone does: from now on everything
/// fails with EIO, and what was not on the medium is lost. The same number on ext4 and xfs.
pub fn shut_down_filesystem(dir: &std::path::Path) -> io::Result<()> {
    const GOING_DOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
    const WITHOUT_LOG_FLUSH: u32 = 2;
    let dir = File::open(dir)?;
    // SAFETY: the descriptor is open, and the request reads one u32.
    let result = unsafe { libc::ioctl(dir.as_raw_fd(), GOING_DOWN, &WITHOUT_LOG_FLUSH) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
