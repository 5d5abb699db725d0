//! The table of objects, by inode number.
//!
//! Invariants:
//! - at most one living object for a number, and for an identity on the source: two of them would be
//!   two locks for one file;
//! - an object stays while the kernel counts lookups of it or anything here holds it, an object in
//!   it (its `place`) included.
//!
//! The numbers are those of the leg that was the source at the mount. When the other one becomes the
//! source, what is known keeps its number, and what is found from then on gets the number that the new
//! source has for it, or another one if that is taken.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::object::Names;
use super::{Ino, Numbering, Object};
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg};
use crate::sync::{Mutex, Rank};

/// Set in numbers that no leg has given out.
const INVENTED: u64 = 1 << 62;

/// All objects the kernel knows.
pub struct Table<L: Leg> {
    numbering: Numbering,
    /// Never I/O under it.
    state: Mutex<State<L>>,
    next_generation: AtomicU64,
}

struct State<L: Leg> {
    objects: HashMap<Ino, Arc<Object<L>>>,
    source: LegId,
    /// The source has changed, and it is not known of all objects yet what they are on the new one.
    turning: bool,
    /// From the number on the source to the number shown; `None` while the source is the leg that the
    /// mount began with, and has numbered nothing anew.
    shown: Option<HashMap<u64, Ino>>,
}

impl<L: Leg> Table<L> {
    /// A table that knows the root only. `identities` are the root's on the legs that are there, the
    /// source among them.
    pub fn new(source: LegId, numbering: Numbering, identities: PerLeg<Option<Identity>>) -> Self {
        let root = Object::new(Ino::ROOT, 0, Kind::Directory, identities, None);
        root.lookups.store(1, Ordering::Relaxed);
        let objects = HashMap::from([(Ino::ROOT, Arc::new(root))]);
        let state = State { objects, source, turning: false, shown: None };
        Table { numbering, state: Mutex::new(Rank::Table, state), next_generation: AtomicU64::new(1) }
    }

    /// The object that the kernel calls `ino`. `None`: it was never told, or forgot.
    pub fn get(&self, ino: Ino) -> Option<Arc<Object<L>>> {
        self.state.lock().objects.get(&ino).cloned()
    }

    /// How many objects are known.
    pub fn count(&self) -> usize {
        self.state.lock().objects.len()
    }

    /// The object that was just found in `dir` under `name` with these identities, known from now on.
    /// Counts `lookups` of the kernel. `None` if what it is on the source is not among them: the source has
    /// changed since, or is changing.
    pub fn intern(
        &self,
        identities: PerLeg<Option<Identity>>,
        kind: Kind,
        place: (&Arc<Object<L>>, &OsStr),
        lookups: u64,
    ) -> Option<Arc<Object<L>>> {
        let mut state = self.state.lock();
        let identity = identities[state.source].filter(|_| !state.turning)?;
        let object = self.known(&mut state, &identity, kind);
        object.lookups.fetch_add(lookups, Ordering::Relaxed);
        let replaced = object.with_names(|names| {
            for leg in LegId::ALL {
                let known = identities[leg].or(names.identity(leg));
                names.identify(leg, known);
            }
            names.place.replace((place.0.clone(), place.1.into()))
        });
        drop(state);
        self.reap(replaced.map(|(dir, _)| dir));
        Some(object)
    }

    /// The file with this identity on the source leg, to be locked by one who has not looked it up.
    /// [`reap`](Self::reap) it after use. `None` if it has no name any more.
    ///
    /// Who asks has not just seen the file on the leg. So whoever is known by its number now has more
    /// right to it: a file of which the last name is gone, or the one that came after it.
    pub fn hold(&self, identity: &Identity) -> Option<Arc<Object<L>>> {
        let mut state = self.state.lock();
        match self.numbered(&state, identity.ino) {
            Some(known) => known.is(state.source, identity).then_some(known),
            None => Some(self.known(&mut state, identity, Kind::File)),
        }
    }

    /// The known object that has this inode number on the source.
    pub fn by_number(&self, number: u64) -> Option<Arc<Object<L>>> {
        self.numbered(&self.state.lock(), number)
    }

    /// Since the source has changed, one whose number on it has not been seen may be shown by a number that
    /// another one has on the source.
    fn numbered(&self, state: &State<L>, number: u64) -> Option<Arc<Object<L>>> {
        let seen = state.shown.as_ref().is_none_or(|shown| shown.contains_key(&number));
        seen.then(|| state.objects.get(&self.number(state, number)).cloned())?
    }

    /// The number that the mount shows, or would show, for the source's own.
    pub fn shown(&self, number: u64) -> Ino {
        self.number(&self.state.lock(), number)
    }

    fn number(&self, state: &State<L>, number: u64) -> Ino {
        match &state.shown {
            None => self.numbering.shown(number),
            Some(shown) => shown.get(&number).copied().unwrap_or(Ino(number)),
        }
    }

    fn known(&self, state: &mut State<L>, identity: &Identity, kind: Kind) -> Arc<Object<L>> {
        let mut ino = self.number(state, identity.ino);
        match self.numbered(state, identity.ino) {
            Some(known) if known.is(state.source, identity) => return known,
            None if state.objects.contains_key(&ino) => ino = free_number(&state.objects, identity.ino),
            _ => {}
        }
        if let Some(shown) = &mut state.shown {
            shown.insert(identity.ino, ino);
        }
        let object = Arc::new(self.unknown(state.source, ino, identity, kind));
        if let Some(old) = state.objects.insert(ino, object.clone()) {
            // The number was used again. What the kernel counted for the old object it will give back
            // for this number.
            object.lookups.store(old.lookups.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        object
    }

    /// An object that is not in the table.
    fn unknown(&self, source: LegId, ino: Ino, identity: &Identity, kind: Kind) -> Object<L> {
        let generation = self.next_generation.fetch_add(1, Ordering::Relaxed);
        let mut identities = PerLeg::new(None, None);
        identities[source] = Some(*identity);
        Object::new(ino, generation, kind, identities, None)
    }

    /// The source is `to` from now on. Nothing is interned before [`turned`](Self::turned) is called,
    /// when it is known of those that are returned what they are on that leg; the caller [reaps](Self::reap) them.
    pub fn turn(&self, to: LegId) -> Vec<Arc<Object<L>>> {
        let mut state = self.state.lock();
        (state.source, state.turning) = (to, true);
        drop(state);
        let is_unknown =
            |object: &Arc<Object<L>>| object.with_names(|names| !names.gone && names.identity(to).is_none());
        self.look_at_all(|object| is_unknown(object).then(|| object.clone()))
    }

    /// What `look` makes of all objects, by their numbers: in an order that does not change from run to run.
    fn look_at_all<T>(&self, look: impl Fn(&Arc<Object<L>>) -> Option<T>) -> Vec<T> {
        let mut all: Vec<Ino> = self.state.lock().objects.keys().copied().collect();
        all.sort_unstable();
        let look_at = |ino| {
            let object = self.get(ino)?;
            let seen = look(&object);
            // The kernel may have forgotten it meanwhile.
            self.reap(Some(object));
            seen
        };
        all.into_iter().filter_map(look_at).collect()
    }

    /// See [`turn`](Self::turn).
    pub fn turned(&self) {
        let mut state = self.state.lock();
        state.shown = Some(numbers(&state));
        state.turning = false;
    }

    /// The leg has given `object` another number, by which it is to be found from now on: or it would become two objects as
    /// soon as somebody looks its name up.
    pub fn renumber(&self, object: &Object<L>, leg: LegId, before: Identity, now: Identity) {
        let mut state = self.state.lock();
        if leg != state.source || state.turning {
            return;
        }
        if state.shown.is_none() {
            state.shown = Some(numbers(&state));
        }
        if let Some(shown) = &mut state.shown {
            if shown.get(&before.ino) == Some(&object.ino) {
                shown.remove(&before.ino);
            }
            shown.entry(now.ino).or_insert(object.ino);
        }
    }

    /// Another directory has taken `leg`'s place: what was known of objects there is not so any more. What
    /// has no name is not there at all.
    pub fn forget_leg(&self, leg: LegId, root: Identity) {
        self.look_at_all(|object| {
            object.with_names(|names| {
                names.identify(leg, (object.ino == Ino::ROOT).then_some(root));
                names.absent[leg] = names.gone;
                names.born_alone = false;
            });
            None::<()>
        });
    }

    /// What has names, and is not to be found on `leg`: neither what it is there nor any of its names is known. The
    /// caller [reaps](Self::reap) it.
    pub fn unfindable(&self, leg: LegId) -> Vec<Arc<Object<L>>> {
        let is_lost = |object: &Arc<Object<L>>| {
            object.ino != Ino::ROOT
                && object.with_names(|names| {
                    let has_no_way = names.place.is_none() && names.identity(leg).is_none();
                    has_no_way && !names.gone && names.pinned(leg).is_none()
                })
        };
        self.look_at_all(|object| is_lost(object).then(|| object.clone()))
    }

    /// What is held open on a leg; the caller's to let go of.
    pub fn take_leg(&self, leg: LegId) -> Vec<L::Node> {
        self.look_at_all(|object| object.with_names(|names| names.unpin(leg)))
    }

    /// The kernel gives `count` lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        let state = self.state.lock();
        let Some(object) = state.objects.get(&ino).cloned() else { return };
        let left = object.lookups.load(Ordering::Relaxed).saturating_sub(count);
        object.lookups.store(left, Ordering::Relaxed);
        drop(state);
        self.reap(Some(object));
    }

    /// Drops `object` if nothing needs it any more, then its directory, and so on.
    pub fn reap(&self, mut object: Option<Arc<Object<L>>>) {
        while let Some(one) = object.take() {
            let mut state = self.state.lock();
            // The table's own reference and this one: nobody else can get at it but through the table.
            let unused = one.lookups.load(Ordering::Relaxed) == 0 && Arc::strong_count(&one) == 2;
            if !unused
                || one.ino == Ino::ROOT
                || !state.objects.get(&one.ino).is_some_and(|it| Arc::ptr_eq(it, &one))
            {
                return;
            }
            state.objects.remove(&one.ino);
            let identity = one.with_names(|names| names.identity(state.source));
            if let (Some(shown), Some(identity)) = (&mut state.shown, identity)
                && shown.get(&identity.ino) == Some(&one.ino)
            {
                shown.remove(&identity.ino);
            }
            drop(state);
            object = one.with_names(|names| names.place.take()).map(|(dir, _)| dir);
        }
    }
}

/// What is shown for the numbers of all that is known by what it is on the source.
fn numbers<L: Leg>(state: &State<L>) -> HashMap<u64, Ino> {
    let number = |object: &Arc<Object<L>>| {
        let of_source = |names: &mut Names<L>| names.identity(state.source).filter(|_| !names.gone);
        Some((object.with_names(of_source)?.ino, object.ino))
    };
    state.objects.values().filter_map(number).collect()
}

/// A number that no known object has: the source's own, if it is free.
fn free_number<T>(objects: &HashMap<Ino, T>, number: u64) -> Ino {
    let invented = (0..).map(|more| Ino((number | INVENTED).wrapping_add(more)));
    let mut candidates = std::iter::once(Ino(number)).chain(invented);
    candidates
        .find(|ino| ino.0 > Ino::ROOT.0 && !objects.contains_key(ino))
        .expect("fewer objects than numbers")
}

impl<L: Leg> Object<L> {
    /// Whether this is the object with that identity on `leg`.
    fn is(&self, leg: LegId, identity: &Identity) -> bool {
        self.with_names(|names| {
            names.identity(leg).is_some_and(|known| known.is_same(identity)) && !names.gone
        })
    }
}
