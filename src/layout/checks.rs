//! Which directories may be a mirror together. Changes nothing, decides by what a directory is and
//! never by how it is spelled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Access, AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags};

use super::{DirId, LegDir};
use crate::error::{Error, Result};
use crate::legs::{LegId, PerLeg};

/// Two different directories, neither inside the other, neither on a mirror.
pub fn check_pair(legs: PerLeg<&LegDir>) -> Result<()> {
    let (a, b) = (legs[LegId::A], legs[LegId::B]);
    if a.id() == b.id() {
        return Err(Error::new(format!(
            "legs A ({}) and B ({}) are the same directory",
            a.path().display(),
            b.path().display()
        ))
        .hint("Give two directories, best on two disks."));
    }
    for leg in LegId::ALL {
        let (this, other) = (legs[leg], legs[leg.other()]);
        if is_inside(this, other.id()).map_err(|e| cannot_check(this.path(), e))? {
            return Err(Error::new(format!(
                "leg {leg} at {} lies inside leg {} at {}",
                this.path().display(),
                leg.other(),
                other.path().display()
            ))
            .hint("A leg cannot hold the other one: give two separate directories."));
        }
        if on_a_mirror(this).map_err(|e| cannot_check(this.path(), e))? {
            return Err(Error::new(format!(
                "leg {leg} at {} lies on a mounted mirror",
                this.path().display()
            ))
            .hint("A mirror cannot be a leg. If an old mount is in the way there, umount it."));
        }
    }
    Ok(())
}

/// The mount point is neither a leg, nor inside one, nor is a leg inside it.
pub fn check_mountpoint(legs: &PerLeg<LegDir>, mountpoint: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(mountpoint, flags, Mode::empty()).map_err(|e| {
        Error::new(format!("cannot use {} as a mount point", mountpoint.display())).because(e.into())
    })?;
    let id = DirId::of(&dir).map_err(|e| cannot_check(mountpoint, e))?;
    for (leg, this) in legs.iter() {
        let path = this.path().display();
        if is_inside(&dir, this.id()).map_err(|e| cannot_check(mountpoint, e))? {
            return Err(Error::new(format!(
                "the mount point {} lies inside leg {leg} at {path}",
                mountpoint.display()
            ))
            .hint("The mirror would hold itself: mount it elsewhere."));
        }
        if is_inside(this, id).map_err(|e| cannot_check(this.path(), e))? {
            return Err(Error::new(format!(
                "leg {leg} at {path} lies inside the mount point {}",
                mountpoint.display()
            ))
            .hint("The mount would hide the leg: mount it elsewhere."));
        }
    }
    Ok(())
}

/// A bitmap kept elsewhere lies neither on this leg, where it would be mirrored, nor on a mirror.
pub fn check_bitmap_file(leg: LegId, this: &LegDir, file: &Path) -> Result<()> {
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = LegDir::open(parent).map_err(|e| {
        Error::new(format!("cannot keep the bitmap in {}", file.display()))
            .because(e)
            .hint("Check the path: its directory must be there.")
    })?;
    let refused = |why: String| {
        Error::new(format!("the bitmap cannot be kept in {}: {why}", file.display()))
            .hint("Give a file on another disk, or leave the option away: each leg then has its own copy.")
    };
    if is_inside(&dir, this.id()).map_err(|e| cannot_check(parent, e))? {
        return Err(refused(format!("that is inside leg {leg} at {}", this.path().display())));
    }
    if on_a_mirror(&dir).map_err(|e| cannot_check(parent, e))? {
        return Err(refused("that is on a mounted mirror".to_owned()));
    }
    Ok(())
}

/// A directory that is to become a leg lies inside none, of whichever mirror.
pub fn check_outside_legs(leg: LegId, this: &LegDir) -> Result<()> {
    let mut here = up(this.as_fd(), "..").map_err(|e| cannot_check(this.path(), e))?;
    let mut id = this.id();
    loop {
        let above = DirId::of(&here).map_err(|e| cannot_check(this.path(), e))?;
        if above == id {
            return Ok(());
        }
        let superblock = Path::new(super::STATE_DIR).join(super::SUPERBLOCK);
        if rustix::fs::statat(&here, &superblock, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let path = this.path().display();
            return Err(Error::new(format!("{path} cannot become leg {leg}: it lies inside a leg"))
                .hint("Its files would be that mirror's too: give a directory elsewhere."));
        }
        id = above;
        here = up(here.as_fd(), "..").map_err(|e| cannot_check(this.path(), e))?;
    }
}

/// The leg's filesystem is not mounted read-only and this user may write in its root.
pub fn check_writable(leg: LegId, dir: &LegDir) -> Result<()> {
    let what = || Error::new(format!("cannot write to leg {leg} at {}", dir.path().display()));
    let flags = rustix::fs::fstatvfs(dir).map_err(|e| what().because(e.into()))?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return Err(what().because(rustix::io::Errno::ROFS.into()).hint(
            "Its filesystem is mounted read-only. See in the system log why, then mount it for writing.",
        ));
    }
    rustix::fs::accessat(dir, ".", Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|e| what().because(e.into()).hint("Run as the directory's owner or as root."))
}

fn cannot_check(path: &Path, error: io::Error) -> Error {
    Error::new(format!("cannot find out where {} lies", path.display())).because(error)
}

/// Whether `dir` is `ancestor` or lies below it: by going up, so symlinks and spellings do not matter.
fn is_inside(dir: impl AsFd, ancestor: DirId) -> io::Result<bool> {
    let mut here = up(dir.as_fd(), ".")?;
    let mut id = DirId::of(&here)?;
    loop {
        if id == ancestor {
            return Ok(true);
        }
        here = up(here.as_fd(), "..")?;
        let above = DirId::of(&here)?;
        if above == id {
            return Ok(false);
        }
        id = above;
    }
}

fn up(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(dir, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether the mount that a directory is on is a mirror's.
fn on_a_mirror(dir: &LegDir) -> io::Result<bool> {
    let stat = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    Ok(filesystem_type(&mounts, stat.stx_mnt_id).is_some_and(is_a_mirrors))
}

fn is_a_mirrors(filesystem: &[u8]) -> bool {
    matches!(filesystem, b"fuse.mirrorfs" | b"mirrorfs")
}

/// The type field of the line in mountinfo that begins with this mount's number: the word behind " - ".
fn filesystem_type(mountinfo: &[u8], mount_id: u64) -> Option<&[u8]> {
    let number = mount_id.to_string();
    mountinfo.split(|&byte| byte == b'\n').find_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        if words.next() != Some(number.as_bytes()) {
            return None;
        }
        words.find(|word| *word == b"-")?;
        words.next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(a: &Path, b: &Path) -> PerLeg<LegDir> {
        PerLeg::new(LegDir::open(a).unwrap(), LegDir::open(b).unwrap())
    }

    #[test]
    fn legs_are_told_apart_by_what_they_are_not_by_their_spelling() {
        let top = tempfile::tempdir().unwrap();
        let (a, b, link) = (top.path().join("a"), top.path().join("b"), top.path().join("link"));
        std::fs::create_dir_all(a.join("sub/deep")).unwrap();
        std::fs::create_dir(&b).unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        check_pair(open(&a, &b).as_ref()).unwrap();
        for (one, other) in [(&a, &link), (&a, &a.join("sub/..")), (&link, &a)] {
            let error = check_pair(open(one, other).as_ref()).unwrap_err().to_string();
            assert!(error.contains("same directory"), "{error}");
        }
        for (one, other) in [(&a, &link.join("sub/deep")), (&a.join("sub"), &a)] {
            let error = check_pair(open(one, other).as_ref()).unwrap_err().to_string();
            assert!(error.contains("lies inside leg"), "{error}");
        }
    }

    #[test]
    fn a_new_leg_lies_inside_no_other() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for name in ["leg/.mirrorfs", "leg/sub/deep", "beside"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let check = |name: &str| check_outside_legs(LegId::B, &LegDir::open(&at(name)).unwrap());
        check("leg/sub/deep").unwrap();
        std::fs::write(at("leg/.mirrorfs/superblock"), "").unwrap();
        for name in ["leg/sub/deep", "leg/sub", "leg/.mirrorfs"] {
            let error = check(name).unwrap_err().to_string();
            assert!(error.contains("inside a leg"), "{error}");
        }
        check("leg").unwrap();
        check("beside").unwrap();
    }

    #[test]
    fn the_mount_point_is_apart_from_the_legs() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for name in ["a/sub", "b", "m/leg"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        check_mountpoint(&open(&at("a"), &at("b")), &at("m")).unwrap();
        for inside in ["a", "a/sub", "b"] {
            assert!(check_mountpoint(&open(&at("a"), &at("b")), &at(inside)).is_err(), "{inside}");
        }
        assert!(check_mountpoint(&open(&at("a"), &at("m/leg")), &at("m")).is_err());
    }

    #[test]
    fn a_bitmap_elsewhere_is_not_on_a_leg() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        for name in ["a/sub", "b", "fast"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let legs = open(&at("a"), &at("b"));
        let check = |file: &str| {
            let both = legs.iter().map(|(leg, dir)| check_bitmap_file(leg, dir, &at(file)));
            both.collect::<Result<Vec<()>>>()
        };
        check("fast/bitmap").unwrap();
        for inside in ["a/bitmap", "a/sub/bitmap", "b/bitmap"] {
            assert!(check(inside).is_err(), "{inside}");
        }
        assert!(check("nowhere/bitmap").is_err());
    }

    #[test]
    fn the_type_of_a_mount_is_found_by_its_number() {
        let table = b"24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                      41 24 0:39 / /mnt/a\\040b rw - fuse.mirrorfs mirrorfs rw\n";
        assert_eq!(filesystem_type(table, 24), Some(&b"ext4"[..]));
        assert_eq!(filesystem_type(table, 41).map(is_a_mirrors), Some(true));
        assert_eq!(filesystem_type(table, 4), None);
    }
}
