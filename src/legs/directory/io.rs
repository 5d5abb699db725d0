//! The contents of files.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, SeekFrom};

use super::cache::{Stream, end_of_piece};
use super::fleeting::Changes;
use super::{DirectoryLeg, Node};
use crate::error::errno;
use crate::legs::{Kind, OpenMode, Seek};
use crate::sys;
use crate::sys::memory::PAGE;

/// The most bytes that one step of a copy by hand moves.
const COPY_STEP: usize = 1 << 20;

/// A regular file opened for I/O. Never with O_APPEND: pwrite(2) would ignore its offset.
#[derive(Debug)]
pub struct File {
    fd: Arc<OwnedFd>,
    /// On a FUSE filesystem: what it is, and where errors of it are told that come late.
    late: Option<(Node, Arc<Changes>)>,
    direct: Option<Direct>,
    reader: Stream,
}

/// A second descriptor of the same file that bypasses the page cache, and what it asks for, in bytes.
#[derive(Debug)]
struct Direct {
    fd: OwnedFd,
    memory: usize,
    offset: u64,
}

impl Direct {
    fn takes(&self, buf: &[u8], offset: u64) -> bool {
        !buf.is_empty()
            && (buf.as_ptr() as usize).is_multiple_of(self.memory)
            && offset.is_multiple_of(self.offset)
            && (buf.len() as u64).is_multiple_of(self.offset)
    }
}

/// The flags for a use; EINVAL for none at all.
pub fn access(mode: OpenMode) -> io::Result<OFlags> {
    match (mode.read, mode.write) {
        (true, true) => Ok(OFlags::RDWR),
        (true, false) => Ok(OFlags::RDONLY),
        (false, true) => Ok(OFlags::WRONLY),
        (false, false) => Err(errno(libc::EINVAL)),
    }
}

impl DirectoryLeg {
    pub(super) fn open_file(&self, node: &Node, mode: OpenMode) -> io::Result<File> {
        match node.0.kind {
            Kind::File => {}
            Kind::Directory => return Err(errno(libc::EISDIR)),
            Kind::Symlink => return Err(errno(libc::ELOOP)),
            // Opening one of these on the leg would reach a driver or wait for a peer.
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                return Err(errno(libc::ENXIO));
            }
        }
        let fd = self.reopen(node.fd(), access(mode)?)?;
        self.with_direct(fd, mode, Some(node.clone()))
    }

    /// Adds the second descriptor if it is wanted and can be had.
    pub(super) fn with_direct(&self, fd: OwnedFd, mode: OpenMode, node: Option<Node>) -> io::Result<File> {
        let mut direct = None;
        if mode.direct
            && let Ok(second) = self.reopen(fd.as_fd(), access(mode)? | OFlags::DIRECT)
        {
            let (memory, offset) = sys::file::direct_alignment(second.as_fd()).unwrap_or((PAGE, PAGE as u64));
            direct = Some(Direct { fd: second, memory, offset });
        }
        let changes = self.fleeting.as_ref().filter(|_| mode.write).map(|fleeting| fleeting.changes.clone());
        Ok(File { fd: Arc::new(fd), late: node.zip(changes), direct, reader: Stream::default() })
    }
}

impl File {
    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.takes(buf, offset)) {
            match sys::file::read_at(direct.fd.as_fd(), buf, offset) {
                // Not aligned enough after all, or the read went on from an odd end of the file.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                read => return read,
            }
        }
        let read = sys::file::read_at(self.fd(), buf, offset)?;
        if let Some(behind) = self.reader.read(offset) {
            sys::file::drop_cached(self.fd(), behind);
        }
        Ok(read)
    }

    pub(super) fn write(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.takes(data, offset)) {
            done = match sys::file::write_at(direct.fd.as_fd(), data, offset) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => 0,
                written => written?,
            };
        }
        while done < data.len() {
            let at = offset + done as u64;
            let piece = (end_of_piece(at) - at).min((data.len() - done) as u64) as usize;
            match sys::file::write_at(self.fd(), &data[done..done + piece], at) {
                Ok(written) => {
                    done += written;
                    if written < piece {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    pub(super) fn seek(&self, offset: u64, what: Seek) -> io::Result<u64> {
        sys::file::seek(
            self.fd(),
            match what {
                Seek::Hole => SeekFrom::Hole(offset),
                Seek::Data => SeekFrom::Data(offset),
            },
        )
    }
}

impl DirectoryLeg {
    /// What was done through the file is to be synced.
    pub(super) fn changed_file(&self, file: &File) {
        if let Some((node, _)) = &file.late {
            self.written(node, &file.fd);
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A server that acknowledges a write before it is done tells at the end what has become of it.
        if let Some((_, changes)) = &self.late
            && let Err(error) = sys::file::flush(self.fd())
        {
            changes.failed_late(&error);
        }
    }
}

/// Copies within the leg until all is done or the source ends, by the kernel where it can, else by
/// hand. An error only if nothing was copied.
///
/// A filesystem that shares blocks stops at the last whole one; going on from there lets two legs of
/// different filesystems give the same count.
pub fn copy(from: (&File, u64), to: (&File, u64), len: u64) -> io::Result<usize> {
    let mut done: u64 = 0;
    while done < len {
        match copy_once((from.0, from.1 + done), (to.0, to.1 + done), len - done) {
            Ok(0) => break,
            Ok(copied) => done += copied as u64,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done as usize)
}

fn copy_once(from: (&File, u64), to: (&File, u64), len: u64) -> io::Result<usize> {
    let wanted = usize::try_from(len).unwrap_or(usize::MAX);
    match sys::file::copy_range((from.0.fd(), from.1), (to.0.fd(), to.1), wanted) {
        Err(error) if by_hand_instead(&error) => {
            // EINVAL is also the answer to a range that overlaps itself in one file.
            if overlaps(from, to, len)? { Err(error) } else { copy_by_hand(from, to, len) }
        }
        copied => copied,
    }
}

fn by_hand_instead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

fn overlaps(from: (&File, u64), to: (&File, u64), len: u64) -> io::Result<bool> {
    let ino = |file: &File| {
        sys::file::stat(file.fd(), std::ffi::OsStr::new(super::view::ITSELF)).map(|stat| stat.stx_ino)
    };
    Ok(from.1.abs_diff(to.1) < len && ino(from.0)? == ino(to.0)?)
}

pub(super) fn copy_by_hand(from: (&File, u64), to: (&File, u64), len: u64) -> io::Result<usize> {
    let mut buf = vec![0; len.min(COPY_STEP as u64) as usize];
    let mut done: u64 = 0;
    while done < len {
        let step = (len - done).min(COPY_STEP as u64) as usize;
        let moved = from
            .0
            .read(&mut buf[..step], from.1 + done)
            .and_then(|read| if read == 0 { Ok(0) } else { to.0.write(&buf[..read], to.1 + done) });
        match moved {
            Ok(0) => break,
            Ok(written) => done += written as u64,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done as usize)
}
