//! Which names have been somebody's since the slot of their directory was taken.
//!
//! A clean file that is renamed within its directory needs no slot of its own if its new name has been nobody else's
//! since: then each leg has, after any crash, that very file under the name, or nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Found, Mirror};
use crate::inode::{Ino, Object};
use crate::legs::{Kind, Leg, name_hash};
use crate::resync::SMALL;
use crate::sync::{Mutex, Rank};

/// The most names that are kept in mind, some 64 bytes each. A directory's slot in which there was no room for one
/// tells nothing any more.
const MOST: usize = 1 << 16;

/// See the module.
pub(super) struct Freed(Mutex<State>);

#[derive(Default)]
struct State {
    /// By the slot's word.
    by_slot: BTreeMap<u64, Names>,
    count: usize,
}

/// The names in one directory that may have been given up, by their hash.
#[derive(Default)]
struct Names {
    /// With who had them; `None` for several.
    by_hash: BTreeMap<u64, Option<Holder>>,
    /// There are names that are not among them.
    incomplete: bool,
}

/// What tells an object from all others.
type Holder = (Ino, u64);

impl Freed {
    pub fn new() -> Self {
        Freed(Mutex::new(Rank::Leaf, State::default()))
    }

    /// A name in the directory of this slot was the holder's.
    fn note(&self, slot: u64, name: &OsStr, holder: Holder) {
        let state = &mut *self.0.lock();
        let names = state.by_slot.entry(slot).or_default();
        match names.by_hash.get_mut(&name_hash(name)) {
            Some(known) if *known != Some(holder) => *known = None,
            Some(_) => {}
            None if state.count < MOST => {
                state.count += 1;
                names.by_hash.insert(name_hash(name), Some(holder));
            }
            None => names.incomplete = true,
        }
    }

    /// Whether a name that is free now has been nobody else's since the slot was taken.
    fn is_nobody_elses(&self, slot: u64, name: &OsStr, holder: Holder) -> bool {
        let state = self.0.lock();
        let Some(names) = state.by_slot.get(&slot) else { return true };
        let known = names.by_hash.get(&name_hash(name));
        !names.incomplete && known.is_none_or(|known| *known == Some(holder))
    }

    /// Keeps everybody waiting who renames, after that was done and before the mirror knows the new place.
    #[cfg(all(test, feature = "simulation"))]
    pub fn hold(&self) -> impl Sized + '_ {
        self.0.lock()
    }

    /// Slots that are not there any more.
    pub fn forget(&self, is_gone: impl Fn(u64) -> bool) {
        let known: Vec<u64> = self.0.lock().by_slot.keys().copied().collect();
        let gone: Vec<u64> = known.into_iter().filter(|&slot| is_gone(slot)).collect();
        let state = &mut *self.0.lock();
        for names in gone.iter().filter_map(|slot| state.by_slot.remove(slot)) {
            state.count -= names.by_hash.len();
        }
    }
}

impl<L: Leg> Mirror<L> {
    /// Keeps in mind that a name in a directory was, or may have been, the object's. The directory's lock is held.
    pub(super) fn note_holder(&self, dir: &Object<L>, name: &OsStr, object: &Object<L>) {
        let slot = dir.slot_hint.load(Ordering::Relaxed);
        // What was done before a slot was cleared is durable.
        if self.bitmap.is_covered(slot) {
            self.freed.note(slot, name, (object.ino, object.generation));
        }
    }

    /// Whether a resync may make a copy of a file that gets this name in its directory, which is free, and can take
    /// nobody else for it.
    pub(super) fn may_be_copied(
        &self,
        dir: &Arc<Object<L>>,
        name: &OsStr,
        object: &Object<L>,
        found: &Found,
    ) -> io::Result<bool> {
        let stat = &found.attr.stat;
        if stat.kind != Kind::File || stat.nlink != 1 || stat.size > SMALL {
            return Ok(false);
        }
        // By its identities: the kernel may have forgotten the directory since a name was given up.
        let slots = self.bitmap.words_of(&self.markable(dir))?;
        let holder = (object.ino, object.generation);
        Ok(slots.into_iter().all(|slot| self.freed.is_nobody_elses(slot, name, holder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Holder = (Ino(1), 0);
    const OTHER: Holder = (Ino(1), 1);

    #[test]
    fn a_name_is_its_only_holders_until_the_slot_is_gone() {
        let (freed, name) = (Freed::new(), OsStr::new("f"));
        freed.note(7, name, ONE);
        assert!(freed.is_nobody_elses(7, name, ONE) && !freed.is_nobody_elses(7, name, OTHER));
        assert!(freed.is_nobody_elses(7, OsStr::new("g"), OTHER) && freed.is_nobody_elses(8, name, OTHER));
        freed.note(7, name, OTHER);
        assert!(!freed.is_nobody_elses(7, name, ONE) && !freed.is_nobody_elses(7, name, OTHER));
        freed.forget(|slot| slot == 7);
        assert!(freed.is_nobody_elses(7, name, OTHER));
    }

    #[test]
    fn a_slot_with_more_names_than_there_is_room_for_tells_nothing() {
        let freed = Freed::new();
        (0..MOST).for_each(|number| freed.note(7, OsStr::new(&number.to_string()), ONE));
        assert!(freed.is_nobody_elses(7, OsStr::new("free"), OTHER));
        freed.note(8, OsStr::new("one more"), ONE);
        assert!(!freed.is_nobody_elses(8, OsStr::new("free"), OTHER));
        assert!(freed.is_nobody_elses(7, OsStr::new("free"), OTHER), "it has room for all of its own");
        freed.forget(|slot| slot == 7);
        freed.note(9, OsStr::new("f"), ONE);
        assert!(freed.is_nobody_elses(9, OsStr::new("free"), OTHER));
    }
}
