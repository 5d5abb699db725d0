//! Pure conversions between what fuser carries and what the mirror speaks.
//!
//! No I/O, no lock, no state. Each conversion has its table in the tests below.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags, TimeOrNow};

use crate::inode::Ino;
use crate::legs::{Kind, Make, RenameMode, Seek, Timestamp};
use crate::ops::{Attr, SetTime};

/// The lower twelve bits of a mode: permissions, suid, sgid, sticky.
const PERMISSIONS: u32 = 0o7777;

/// The number the program sees.
///
/// ENOSYS becomes EOPNOTSUPP: from a FUSE daemon ENOSYS means "never ask me this again", and one
/// answer of a leg's filesystem would switch fsync off for the whole mount.
pub fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Errno::EOPNOTSUPP,
        Some(number) => Errno::from_i32(number),
        None => Errno::EIO,
    }
}

/// The permission bits of a mode that may carry a file type.
pub fn permissions(mode: u32) -> u32 {
    mode & PERMISSIONS
}

/// What mknod(2) with this mode is to make; `None` for a type that it cannot make.
pub fn make_node(mode: u32, rdev: u32) -> Option<Make<'static>> {
    let kind = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => return Some(Make::File { mode: permissions(mode) }),
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => return None,
    };
    let rdev = match kind {
        Kind::CharDevice | Kind::BlockDevice => device_number(rdev),
        _ => 0,
    };
    Some(Make::Special { kind, mode: permissions(mode), rdev })
}

/// A device number as the kernel packs it for FUSE (12 bits of major, 20 of minor), as makedev(3)
/// has it.
fn device_number(packed: u32) -> u64 {
    let major = (packed >> 8) & 0xfff;
    let minor = (packed & 0xff) | ((packed >> 12) & 0xf_ff00);
    libc::makedev(major, minor)
}

/// The inverse of [`device_number`]. The kernel has no larger numbers.
fn packed_device_number(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// The file type that fuser has for a kind.
pub fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes as the kernel is to see them.
pub fn file_attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.kind),
        // Twelve bits fit.
        perm: permissions(stat.mode) as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: packed_device_number(stat.rdev),
        blksize: stat.blksize,
        flags: 0,
    }
}

/// Attributes of which only number and kind are known: number 0 with a lifetime says "no such name",
/// and `.` and `..` in a listing need no more.
pub fn bare_attr(ino: Ino, kind: Kind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// A time to set, as fuser decoded it.
pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(decoded_time(time)),
    }
}

/// The time that the kernel sent, from what fuser made of it.
///
/// Before 1970 fuser subtracts the nanoseconds that it should add: (-2 s, 800 ms) arrives as 2.8 s
/// before 1970, not as 1.2 s. Nothing is lost by that, so it is undone here: the whole seconds of the
/// distance are the seconds that were sent, the rest are the nanoseconds.
fn decoded_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
        Err(before) => {
            let distance = before.duration();
            // Up to 2^63 seconds: the last one is i64::MIN, which has no positive counterpart.
            let secs = (distance.as_secs() as i64).wrapping_neg();
            Timestamp { secs, nanos: distance.subsec_nanos() }
        }
    }
}

/// A time for fuser to encode. That direction is right also before 1970.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let second = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// What a rename does with its target; `None` for flags that no leg can be asked for.
pub fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    match flags.bits() {
        0 => Some(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        libc::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

/// What lseek(2) looks for; the kernel answers all other kinds of it by itself.
pub fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_HOLE => Some(Seek::Hole),
        libc::SEEK_DATA => Some(Seek::Data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fuser 0.18 decodes a time of a request.
    fn as_fuser_decodes(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs as u64, nanos)
        } else {
            UNIX_EPOCH - Duration::new(secs.wrapping_neg() as u64, nanos)
        }
    }

    /// As fuser 0.18 encodes a time of a reply.
    fn as_fuser_encodes(time: SystemTime) -> (i64, u32) {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
            Err(before) => {
                let distance = before.duration();
                match (distance.as_secs(), distance.subsec_nanos()) {
                    (secs, 0) => ((secs as i64).wrapping_neg(), 0),
                    (secs, nanos) => (-(secs as i64) - 1, 1_000_000_000 - nanos),
                }
            }
        }
    }

    const TIMES: [(i64, u32); 11] = [
        (0, 0),
        (0, 1),
        (1, 999_999_999),
        (-1, 0),
        (-1, 999_999_999),
        (-2, 800_000_000),
        (-2_147_483_648, 1),
        (i64::MAX, 0),
        (i64::MAX, 999_999_999),
        (i64::MIN + 1, 999_999_999),
        (i64::MIN, 0),
    ];

    #[test]
    fn every_time_arrives_as_it_was_sent() {
        for (secs, nanos) in TIMES {
            assert_eq!(decoded_time(as_fuser_decodes(secs, nanos)), Timestamp { secs, nanos });
        }
    }

    #[test]
    fn every_time_is_sent_as_it_is() {
        for (secs, nanos) in TIMES {
            assert_eq!(as_fuser_encodes(system_time(Timestamp { secs, nanos })), (secs, nanos));
        }
    }

    #[test]
    fn device_numbers_survive_both_ways() {
        for (major, minor) in
            [(0, 0), (1, 3), (8, 1), (259, 255), (4095, 256), (511, 0xf_ffff), (4095, 0xf_ffff)]
        {
            let device = libc::makedev(major, minor);
            let packed = packed_device_number(device);
            assert_eq!(device_number(packed), device, "{major}:{minor}");
            assert_eq!(packed, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12));
        }
    }

    #[test]
    fn errno_is_kept_but_for_the_one_that_switches_operations_off() {
        for (raw, seen) in [
            (libc::ENOSPC, libc::ENOSPC),
            (libc::EDQUOT, libc::EDQUOT),
            (libc::ENODATA, libc::ENODATA),
            (libc::ENOSYS, libc::EOPNOTSUPP),
        ] {
            assert_eq!(errno(&io::Error::from_raw_os_error(raw)).code(), seen);
        }
        assert_eq!(errno(&io::Error::other("no number")).code(), libc::EIO);
    }

    #[test]
    fn mknod_makes_every_kind_it_can() {
        for (mode, rdev, kind, device) in [
            (libc::S_IFIFO | 0o644, 0x103, Kind::Fifo, 0),
            (libc::S_IFSOCK | 0o600, 0, Kind::Socket, 0),
            (libc::S_IFCHR | 0o666, 0x103, Kind::CharDevice, libc::makedev(1, 3)),
            (libc::S_IFBLK | 0o660, 0x1010_0801, Kind::BlockDevice, libc::makedev(8, 0x10101)),
        ] {
            match make_node(mode, rdev) {
                Some(Make::Special { kind: made, mode: bits, rdev }) => {
                    assert_eq!((made, bits, rdev), (kind, mode & 0o7777, device));
                }
                other => panic!("{kind:?} became {other:?}"),
            }
        }
        for file in [0o4755, libc::S_IFREG | 0o4755] {
            assert!(matches!(make_node(file, 0), Some(Make::File { mode: 0o4755 })));
        }
        for none in [libc::S_IFDIR, libc::S_IFLNK] {
            assert!(make_node(none | 0o755, 0).is_none());
        }
    }

    #[test]
    fn unknown_rename_flags_and_seeks_are_refused() {
        let known = [(0, RenameMode::Replace), (1, RenameMode::NoReplace), (2, RenameMode::Exchange)];
        for (bits, mode) in known {
            assert_eq!(rename_mode(RenameFlags::from_bits_retain(bits)), Some(mode));
        }
        for bits in [3, 4, 8] {
            assert_eq!(rename_mode(RenameFlags::from_bits_retain(bits)), None);
        }
        assert_eq!(seek(libc::SEEK_HOLE), Some(Seek::Hole));
        assert_eq!(seek(libc::SEEK_DATA), Some(Seek::Data));
        assert_eq!(seek(libc::SEEK_SET), None);
    }
}
