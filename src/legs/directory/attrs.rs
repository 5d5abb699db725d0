//! Attributes as the mirror sees them, from what the kernel gives. Pure.

use std::ffi::OsStr;

use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp, Timespec};

use crate::legs::{Kind, Stat, Timestamp};

/// What an object of this type is; `None` for what a filesystem does not tell or Linux does not know.
pub fn kind_of(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Unknown => return None,
    })
}

/// What this object is.
pub fn kind(stat: &Statx) -> Kind {
    // The kernel's stat knows seven types, and so does Kind.
    kind_of(FileType::from_raw_mode(stat.stx_mode.into())).unwrap_or(Kind::File)
}

/// Whether an extended attribute of this name is xfs's own form of a POSIX ACL, which it also has under
/// the name that all filesystems use. To another filesystem it would be an attribute like any other,
/// and on a mirror it would change permissions behind the kernel's back.
pub fn is_another_view_of_an_acl(name: &OsStr) -> bool {
    name == "trusted.SGI_ACL_FILE" || name == "trusted.SGI_ACL_DEFAULT"
}

/// All attributes.
pub fn stat(from: &Statx) -> Stat {
    let has_btime = StatxFlags::from_bits_retain(from.stx_mask).contains(StatxFlags::BTIME);
    Stat {
        ino: from.stx_ino,
        kind: kind(from),
        mode: u32::from(from.stx_mode) & 0o7777,
        nlink: from.stx_nlink,
        uid: from.stx_uid,
        gid: from.stx_gid,
        rdev: rustix::fs::makedev(from.stx_rdev_major, from.stx_rdev_minor),
        size: from.stx_size,
        blocks: from.stx_blocks,
        blksize: from.stx_blksize,
        atime: timestamp(&from.stx_atime),
        mtime: timestamp(&from.stx_mtime),
        ctime: timestamp(&from.stx_ctime),
        btime: has_btime.then(|| timestamp(&from.stx_btime)),
    }
}

/// For utimensat(2).
pub fn timespec(time: Timestamp) -> Timespec {
    Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() }
}

fn timestamp(from: &StatxTimestamp) -> Timestamp {
    Timestamp { secs: from.tv_sec, nanos: from.tv_nsec }
}
