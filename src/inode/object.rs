//! One object as the mirror knows it.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use super::Ino;
use crate::legs::{Identity, Kind, Leg, PerLeg};
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
    /// Open files or directories of it.
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

/// How an object is found on each leg.
pub struct Names<L: Leg> {
    /// What names it across a crash, as far as it is known. Known on the source.
    pub identities: PerLeg<Option<Identity>>,
    /// A directory it lies in, and its name there; none for the root and when the last name is gone.
    pub place: Option<(Arc<Object<L>>, OsString)>,
    /// Its last name is gone: its number may come back with another object behind it.
    pub gone: bool,
    /// Made while a leg was away: that leg has no such object.
    pub born_alone: bool,
    /// The leg has no such object: it lost its last name before that leg came back.
    pub absent: PerLeg<bool>,
    /// Held open because it cannot be found otherwise: its last name is gone, or it is being renamed.
    pub pinned: PerLeg<Option<L::Node>>,
}

impl<L: Leg> Object<L> {
    pub(super) fn new(
        ino: Ino,
        generation: u64,
        kind: Kind,
        identities: PerLeg<Option<Identity>>,
        place: Option<(Arc<Object<L>>, OsString)>,
    ) -> Self {
        let (absent, pinned) = (PerLeg::new(false, false), PerLeg::new(None, None));
        let names = Names { identities, place, gone: false, born_alone: false, absent, pinned };
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

    /// Looks at or changes how the object is found. No I/O inside.
    pub fn with_names<T>(&self, look: impl FnOnce(&mut Names<L>) -> T) -> T {
        look(&mut self.names.lock())
    }
}
