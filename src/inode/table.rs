//! The table of objects, by inode number.
//!
//! Invariants:
//! - at most one living object for a number: two of them would be two locks for one file;
//! - an object stays while the kernel counts lookups of it or anything here holds it, an object in
//!   it (its `place`) included.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Ino, Object};
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg};
use crate::sync::{Mutex, Rank};

/// All objects the kernel knows.
pub struct Table<L: Leg> {
    source: LegId,
    /// Never I/O under it.
    objects: Mutex<HashMap<Ino, Arc<Object<L>>>>,
    next_generation: AtomicU64,
}

impl<L: Leg> Table<L> {
    /// A table that knows the root only. `identities` are the root's on both legs.
    pub fn new(source: LegId, identities: PerLeg<Identity>) -> Self {
        let root = Object::new(Ino::ROOT, 0, Kind::Directory, identities.map(Some), None);
        root.lookups.store(1, Ordering::Relaxed);
        let objects = HashMap::from([(Ino::ROOT, Arc::new(root))]);
        Table { source, objects: Mutex::new(Rank::Table, objects), next_generation: AtomicU64::new(1) }
    }

    /// The object that the kernel calls `ino`. `None`: it was never told, or forgot.
    pub fn get(&self, ino: Ino) -> Option<Arc<Object<L>>> {
        self.objects.lock().get(&ino).cloned()
    }

    /// How many objects are known.
    pub fn count(&self) -> usize {
        self.objects.lock().len()
    }

    /// The object that was just found in `dir` under `name` with this identity on the source leg,
    /// known from now on. Counts `lookups` of the kernel.
    pub fn intern(
        &self,
        ino: Ino,
        identity: Identity,
        kind: Kind,
        place: (&Arc<Object<L>>, &OsStr),
        lookups: u64,
    ) -> Arc<Object<L>> {
        let mut objects = self.objects.lock();
        let object = self.known(&mut objects, ino, &identity, kind);
        object.lookups.fetch_add(lookups, Ordering::Relaxed);
        let replaced = object.with_names(|names| names.place.replace((place.0.clone(), place.1.to_owned())));
        drop(objects);
        self.reap(replaced.map(|(dir, _)| dir));
        object
    }

    /// The file with this identity on the source leg, to be locked by one who has not looked it up.
    /// [`reap`](Self::reap) it after use. `None` if it has no name any more.
    ///
    /// Who asks has not just seen the file on the leg. So whoever is known by its number now has more
    /// right to it: a file of which the last name is gone, or the one that came after it.
    pub fn hold(&self, ino: Ino, identity: &Identity) -> Option<Arc<Object<L>>> {
        let mut objects = self.objects.lock();
        match objects.get(&ino) {
            Some(known) => known.is(self.source, identity).then(|| known.clone()),
            None => Some(self.known(&mut objects, ino, identity, Kind::File)),
        }
    }

    fn known(
        &self,
        objects: &mut HashMap<Ino, Arc<Object<L>>>,
        ino: Ino,
        identity: &Identity,
        kind: Kind,
    ) -> Arc<Object<L>> {
        if let Some(known) = objects.get(&ino)
            && known.is(self.source, identity)
        {
            return known.clone();
        }
        let object = Arc::new(self.unknown(ino, identity, kind));
        if let Some(old) = objects.insert(ino, object.clone()) {
            // The number was used again. What the kernel counted for the old object it will give back
            // for this number.
            object.lookups.store(old.lookups.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        object
    }

    /// An object that is not in the table.
    fn unknown(&self, ino: Ino, identity: &Identity, kind: Kind) -> Object<L> {
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let mut identities = PerLeg::new(None, None);
        identities[self.source] = Some(*identity);
        Object::new(ino, generation, kind, identities, None)
    }

    /// The kernel gives `count` lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        let objects = self.objects.lock();
        let Some(object) = objects.get(&ino).cloned() else { return };
        let left = object.lookups.load(Ordering::Relaxed).saturating_sub(count);
        object.lookups.store(left, Ordering::Relaxed);
        drop(objects);
        self.reap(Some(object));
    }

    /// Drops `object` if nothing needs it any more, then its directory, and so on.
    pub fn reap(&self, mut object: Option<Arc<Object<L>>>) {
        while let Some(one) = object.take() {
            let mut objects = self.objects.lock();
            // The table's own reference and this one: nobody else can get at it but through the table.
            let unused = one.lookups.load(Ordering::Relaxed) == 0 && Arc::strong_count(&one) == 2;
            if !unused
                || one.ino == Ino::ROOT
                || !objects.get(&one.ino).is_some_and(|it| Arc::ptr_eq(it, &one))
            {
                return;
            }
            objects.remove(&one.ino);
            drop(objects);
            object = one.with_names(|names| names.place.take()).map(|(dir, _)| dir);
        }
    }
}

impl<L: Leg> Object<L> {
    /// Whether this is the object with that identity on `leg`.
    fn is(&self, leg: LegId, identity: &Identity) -> bool {
        self.with_names(|names| names.identities[leg] == Some(*identity) && !names.gone)
    }
}
