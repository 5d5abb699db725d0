//! One object as the mirror knows it.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::Ino;
use super::kept::Kept;
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg};
use crate::sync::{Mutex, Rank, RwLock};

/// A file, directory, symlink or special file that the kernel knows.
pub struct Object<L: Leg> {
    /// Number as the mount shows it.
    pub ino: Ino,
    /// Tells this object from an earlier one that had its number.
    pub generation: u64,
    /// What it is; never changes.
    pub kind: Kind,
    /// Guards the object's entries (a directory) or data and metadata (others) on both legs: taken to
    /// change them, so that both legs see changes in one order (O5), and to read entries. I/O happens
    /// under it.
    pub lock: RwLock<()>,
    /// Where to find it. Never held during I/O.
    pub(super) names: Mutex<Names<L>>,
    /// The kernel's lookup count; changed under the table's lock.
    pub(super) lookups: AtomicU64,
    /// Open files of it.
    pub opens: AtomicU32,
    /// Known to have no suid, sgid or capabilities that a write would have to take away.
    pub unprivileged: AtomicBool,
    /// Known to have no capabilities (`security.capability`), which the kernel asks for before the
    /// first write to a file.
    pub incapable: AtomicBool,
    /// The source lost it by a removal that the other leg refused, and has a copy of it in its place now:
    /// what is still open is on the source another file than on the other leg.
    pub replaced: AtomicBool,
    /// Odd while what one leg could not read of it is written anew there, and may read as neither the old nor
    /// the new. Who reads without the lock looks at it before and after.
    pub mends: AtomicU64,
    /// The bitmap's.
    pub slot_hint: AtomicU64,
    /// The bitmap's, too: what covers it since its birth; 0 for nothing.
    pub cover: AtomicU64,
}

/// A directory, and a name in it.
pub type NameIn<L> = (Arc<Object<L>>, Box<OsStr>);

/// How an object is found on each leg.
pub struct Names<L: Leg> {
    identities: PerLeg<Kept>,
    /// A directory it lies in, and its name there; none for the root and when the last name is gone.
    pub place: Option<NameIn<L>>,
    /// Its last name is gone: its number may come back with another object behind it.
    pub gone: bool,
    /// Made while a leg was away: that leg has no such object.
    pub born_alone: bool,
    /// The leg has no such object: it lost its last name before that leg came back.
    pub absent: PerLeg<bool>,
    /// What is held open because it cannot be found otherwise: its last name is gone, or it is being renamed.
    pinned: Option<Box<PerLeg<Option<L::Node>>>>,
}

impl<L: Leg> Object<L> {
    pub(super) fn new(
        ino: Ino,
        generation: u64,
        kind: Kind,
        identities: PerLeg<Option<Identity>>,
        place: Option<NameIn<L>>,
    ) -> Self {
        let (identities, absent) = (identities.map(Kept::new), PerLeg::new(false, false));
        let names = Names { identities, place, gone: false, born_alone: false, absent, pinned: None };
        Object {
            ino,
            generation,
            kind,
            lock: RwLock::new(Rank::Object, ()),
            names: Mutex::new(Rank::Names, names),
            lookups: AtomicU64::new(0),
            opens: AtomicU32::new(0),
            unprivileged: AtomicBool::new(false),
            incapable: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            mends: AtomicU64::new(0),
            slot_hint: AtomicU64::new(0),
            cover: AtomicU64::new(0),
        }
    }

    /// Whether a program has it open.
    pub fn is_open(&self) -> bool {
        self.opens.load(Ordering::Relaxed) > 0
    }

    /// Looks at or changes how the object is found. No I/O inside.
    pub fn with_names<T>(&self, look: impl FnOnce(&mut Names<L>) -> T) -> T {
        look(&mut self.names.lock())
    }
}

impl<L: Leg> Names<L> {
    /// What names it on `leg` across a crash, as far as it is known. Known on the source.
    pub fn identity(&self, leg: LegId) -> Option<Identity> {
        self.identities[leg].get()
    }

    /// The same on both legs.
    pub fn identities(&self) -> PerLeg<Option<Identity>> {
        self.identities.as_ref().map(Kept::get)
    }

    /// From now on it is named so on `leg`.
    pub fn identify(&mut self, leg: LegId, identity: Option<Identity>) {
        self.identities[leg] = Kept::new(identity);
    }

    /// What is held open of it on `leg`.
    pub fn pinned(&self, leg: LegId) -> Option<&L::Node> {
        self.pinned.as_ref()?[leg].as_ref()
    }

    /// Holds it open on `leg`.
    pub fn pin(&mut self, leg: LegId, node: L::Node) {
        self.pinned.get_or_insert_with(|| Box::new(PerLeg::new(None, None)))[leg] = Some(node);
    }

    /// What was held open of it, for the caller to let go of.
    pub fn unpin_all(&mut self) -> Option<Box<PerLeg<Option<L::Node>>>> {
        self.pinned.take()
    }

    /// The same on `leg`.
    pub fn unpin(&mut self, leg: LegId) -> Option<L::Node> {
        self.pinned.as_mut()?[leg].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::directory::DirectoryLeg;

    #[test]
    fn an_object_takes_no_more_room_than_docs_performance_says() {
        assert!(size_of::<Object<DirectoryLeg>>() <= 192, "{} bytes", size_of::<Object<DirectoryLeg>>());
    }
}
