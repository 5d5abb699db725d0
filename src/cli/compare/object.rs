//! Reading one object for the comparison, by descriptor and without leaving a trace.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// Bytes compared at a time.
const BLOCK: usize = 256 << 10;

/// An object of any kind, pinned, with its attributes from before anything of it was read.
pub struct Object {
    file: File,
    pub meta: Metadata,
}

impl Object {
    /// What `name` in `dir` names; a symlink is not followed.
    pub fn open(dir: &File, name: &OsStr) -> io::Result<Object> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        let meta = file.metadata()?;
        if meta.dev() != dir.metadata()?.dev() {
            // Somebody mounted something here. What it covers cannot be seen.
            return Err(Errno::XDEV.into());
        }
        Ok(Object { file, meta })
    }

    pub fn of_dir(dir: &File) -> io::Result<Object> {
        Ok(Object { file: dir.try_clone()?, meta: dir.metadata()? })
    }

    pub fn kind(&self) -> &'static str {
        let kind = self.meta.file_type();
        match () {
            () if kind.is_dir() => "directory",
            () if kind.is_file() => "file",
            () if kind.is_symlink() => "symlink",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () if kind.is_char_device() => "character device",
            () => "block device",
        }
    }

    pub fn target(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.file, "", Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// All that can be set: what a filesystem makes up under `system.` is left out, apart from ACLs, and
    /// so is the second name that xfs shows an ACL under.
    pub fn xattrs(&self) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        // An O_PATH descriptor takes no xattr calls; its name under /proc does, and is the object itself.
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let list = match grown(|buf| rustix::fs::listxattr(&path, buf)) {
            Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
            other => other?,
        };
        let mut all = BTreeMap::new();
        for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            let made_up = name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_");
            if made_up || name.starts_with(b"trusted.SGI_ACL_") {
                continue;
            }
            let c_name = CString::new(name).expect("split at NUL");
            let value = grown(|buf| rustix::fs::getxattr(&path, &c_name, buf))?;
            all.insert(name.to_vec(), value);
        }
        Ok(all)
    }
}

fn grown(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    // The kernel's own limit for a list and for a value.
    let mut buf = vec![0; 64 << 10];
    let len = call(&mut buf)?;
    buf.truncate(len);
    Ok(buf)
}

pub fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// A directory that the user named.
pub fn open_root(path: &Path) -> io::Result<File> {
    quietly(OFlags::DIRECTORY, |flags| rustix::fs::open(path, flags, Mode::empty()))
}

pub fn open_dir(dir: &File, name: &OsStr) -> io::Result<File> {
    quietly(OFlags::DIRECTORY | OFlags::NOFOLLOW, |flags| rustix::fs::openat(dir, name, flags, Mode::empty()))
}

pub fn open_file(dir: &File, name: &OsStr) -> io::Result<File> {
    quietly(OFlags::NOFOLLOW | OFlags::NONBLOCK, |flags| rustix::fs::openat(dir, name, flags, Mode::empty()))
}

/// Without changing the access time, if this user may ask for that.
fn quietly(flags: OFlags, open: impl Fn(OFlags) -> Result<std::os::fd::OwnedFd, Errno>) -> io::Result<File> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => Ok(File::from(open(flags)?)),
        other => Ok(File::from(other?)),
    }
}

/// The directory above, which must be the one that was left to come here.
pub fn up(dir: &File, expected: (u64, u64)) -> io::Result<File> {
    let above = open_dir(dir, OsStr::new(".."))?;
    if id(&above.metadata()?) == expected { Ok(above) } else { Err(Errno::STALE.into()) }
}

pub fn names(dir: &File) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    // Opened anew: the descriptor that is kept has one position only.
    for entry in rustix::fs::Dir::new(open_dir(dir, OsStr::new("."))?)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Offset of the first byte below `len` in which two files differ. What is a hole in both is not read.
pub fn first_difference(files: &[File; 2], len: u64) -> io::Result<Option<u64>> {
    let mut blocks = [vec![0; BLOCK], vec![0; BLOCK]];
    let mut at = 0;
    while let Some(start) = next_data(files, at, len)? {
        let want = BLOCK.min((len - start) as usize);
        for (file, block) in files.iter().zip(&mut blocks) {
            file.read_exact_at(&mut block[..want], start)?;
        }
        if blocks[0][..want] != blocks[1][..want] {
            let differs = (0..want).take_while(|&byte| blocks[0][byte] == blocks[1][byte]).count();
            return Ok(Some(start + differs as u64));
        }
        at = start + want as u64;
    }
    Ok(None)
}

/// The first offset at or after `at` that is not a hole in both.
fn next_data(files: &[File; 2], at: u64, len: u64) -> io::Result<Option<u64>> {
    let mut next = None;
    for file in files {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => continue,
            // Holes are not told here: all of it is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        next = Some(next.map_or(data, |other: u64| other.min(data)));
    }
    Ok(next.filter(|&data| data < len))
}
