//! Reading what belongs to one inode, from the source.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Attr, Mirror};
use crate::error::errno;
use crate::inode::{Fh, Ino, Object};
use crate::legs::{Leg, LegId, Stat, Statfs};

/// Where a file's capabilities are kept.
pub(super) const CAPABILITY: &str = "security.capability";

impl<L: Leg> Mirror<L> {
    /// Attributes, of an open file if `fh` names one.
    pub fn getattr(&self, ino: Ino, fh: Option<Fh>) -> io::Result<Attr> {
        self.reading(|source| {
            if let Some(open) = fh.and_then(|fh| self.handles.file(fh).ok())
                && let Some(file) = open.on(source)
            {
                let stat = self.steadily(&open.object, || self.leg(source)?.stat_file(&file))?;
                return Ok(Attr { ino, stat });
            }
            let object = self.object(ino)?;
            let stat = self.steadily(&object, || self.stat_on(&object, source))?;
            Ok(Attr { ino, stat })
        })
    }

    /// The object's attributes on one leg.
    pub(super) fn stat_on(&self, object: &Arc<Object<L>>, leg: LegId) -> io::Result<Stat> {
        self.leg(leg)?.stat(&self.node(object, leg)?)
    }

    /// Target of a symlink.
    pub fn readlink(&self, ino: Ino) -> io::Result<OsString> {
        let object = self.object(ino)?;
        self.reading(|source| self.leg(source)?.readlink(&self.node(&object, source)?))
    }

    /// Value of an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &OsStr) -> io::Result<Vec<u8>> {
        let object = self.object(ino)?;
        if name == CAPABILITY && object.incapable.load(Ordering::Relaxed) {
            return Err(errno(libc::ENODATA));
        }
        self.reading(|source| self.leg(source)?.get_xattr(&self.node(&object, source)?, name))
    }

    /// Names of all extended attributes.
    pub fn listxattr(&self, ino: Ino) -> io::Result<Vec<OsString>> {
        let object = self.object(ino)?;
        self.reading(|source| self.leg(source)?.list_xattr(&self.node(&object, source)?))
    }

    /// Space and limits: of each, the smaller leg's. In the source's unit.
    pub fn statfs(&self) -> io::Result<Statfs> {
        let mine = self.reading(|source| self.leg(source)?.statfs())?;
        let other = self.source().other();
        if !self.health.in_service(other) {
            return Ok(mine);
        }
        // One that cannot tell is met by the next change.
        let theirs = self.leg(other).and_then(|other| other.statfs());
        Ok(theirs.map_or(mine, |theirs| smaller(mine, theirs)))
    }
}

fn smaller(mine: Statfs, theirs: Statfs) -> Statfs {
    let in_my_unit = |theirs_in_their_unit: u64| {
        let bytes = u128::from(theirs_in_their_unit) * u128::from(theirs.frsize);
        u64::try_from(bytes / u128::from(mine.frsize.max(1))).unwrap_or(u64::MAX)
    };
    // A filesystem without a fixed number of inodes reports 0 of them (btrfs): no limit, not none.
    let inodes = |mine_files: u64, theirs_files: u64| match (mine_files, theirs_files) {
        (0, other) | (other, 0) => other,
        (mine, theirs) => mine.min(theirs),
    };
    let free_inodes = |mine: Statfs, theirs: Statfs| match (mine.files, theirs.files) {
        (0, _) => theirs.ffree,
        (_, 0) => mine.ffree,
        _ => mine.ffree.min(theirs.ffree),
    };
    Statfs {
        frsize: mine.frsize,
        blocks: mine.blocks.min(in_my_unit(theirs.blocks)),
        bfree: mine.bfree.min(in_my_unit(theirs.bfree)),
        bavail: mine.bavail.min(in_my_unit(theirs.bavail)),
        files: inodes(mine.files, theirs.files),
        ffree: free_inodes(mine, theirs),
        namelen: mine.namelen.min(theirs.namelen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_leg_counts_whatever_its_unit() {
        let large = Statfs {
            frsize: 4096,
            blocks: 1000,
            bfree: 900,
            bavail: 800,
            files: 50,
            ffree: 40,
            namelen: 255,
        };
        let small =
            Statfs { frsize: 1024, blocks: 2000, bfree: 1000, bavail: 400, files: 0, ffree: 0, namelen: 143 };
        let both = smaller(large, small);
        assert_eq!((both.blocks, both.bfree, both.bavail), (500, 250, 100));
        assert_eq!((both.files, both.ffree), (50, 40), "no fixed number of inodes is no limit");
        assert_eq!(both.namelen, 143);
        assert_eq!(smaller(small, large).bavail, 400);
    }
}
