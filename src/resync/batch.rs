//! Puts in place what was built: synced, then renamed (O7).
//!
//! Names are collected from as many directories as it takes to fill a [`Batch`], built together (`build`) and synced
//! once. Then, one after another and in the order in which they were found, what is to follow is marked, and the object
//! gets its name.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::build::{Built, Follows, Place, Wanted};
use super::entries::SMALL;
use super::pairs::Child;
use super::run::Run;
use super::spans::Spans;
use super::touched::Part;
use super::{Sides, metadata, rename_to_free};
use crate::bitmap::WriteIntent;
use crate::legs::{Area, Identity, Kind, Leg, PerLeg};

/// Objects, and bytes, that are built before they are synced together.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 64 << 20;

/// From this many on, one sync of the whole leg is cheaper than one of each object.
const SYNC_ALL: usize = 8;

/// Names that the target does not have, to be built and put in place together.
pub(super) struct Batch<'r, L: Leg> {
    wanted: Vec<Wanted<'r, L>>,
    bytes: u64,
    dirs: HashSet<PerLeg<Identity>>,
    /// The objects of the source, by number.
    objects: HashSet<u64>,
}

impl<'r, L: Leg> Batch<'r, L> {
    pub fn new() -> Self {
        Batch { wanted: Vec::new(), bytes: 0, dirs: HashSet::new(), objects: HashSet::new() }
    }

    /// Whether it is time to put them in place.
    pub fn is_full(&self) -> bool {
        self.wanted.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    /// Whether names of this directory are in it.
    pub fn concerns(&self, dir: &PerLeg<Identity>) -> bool {
        self.dirs.contains(dir)
    }

    /// Whether this object of the source may be in it.
    fn holds(&self, object: &Identity) -> bool {
        self.objects.contains(&object.ino)
    }
}

impl<'r, L: Leg> Run<'r, L> {
    /// The counterpart of `child` is to be built, and put in place as `name` with the rest of the batch.
    pub fn build(
        &mut self,
        place: &Arc<Place<'r, L>>,
        name: &OsStr,
        child: Child,
        batch: &mut Batch<'r, L>,
    ) -> io::Result<()> {
        // What went wrong while the source was in use has left something here.
        let incoming = OsString::from(format!("{}-{}", child.stat.ino, self.built));
        self.built += 1;
        if child.stat.kind == Kind::File && child.stat.size <= SMALL {
            batch.bytes += child.stat.size;
        }
        batch.dirs.insert(place.ids);
        batch.objects.insert(child.identity.ino);
        batch.wanted.push(Wanted { place: place.clone(), name: name.to_owned(), child, incoming });
        if batch.is_full() { self.put_in_place(batch) } else { Ok(()) }
    }

    /// An object that is in the batch has been met under another name: under this one it is to be the same.
    pub fn place_if_held(&mut self, object: &Identity, batch: &mut Batch<'r, L>) -> io::Result<()> {
        if batch.holds(object) { self.put_in_place(batch) } else { Ok(()) }
    }

    /// Builds what is in the batch, and gives it its names.
    ///
    /// ORDER: synced, so that no name ever stands for less than was built. Then the slots: an object
    /// that lacks something has a slot that says so, bound to this very object, before it has a name,
    /// because under its name it would pass for equal. Then the names. A crash in between leaves
    /// things in `incoming/`, which the next resync throws away, and slots bound to objects that
    /// are gone, which it builds anew.
    pub fn put_in_place(&mut self, batch: &mut Batch<'r, L>) -> io::Result<()> {
        let Batch { wanted, .. } = std::mem::replace(batch, Batch::new());
        if wanted.is_empty() {
            return Ok(());
        }
        let t = self.sides.t;
        let area = t.area(Area::Incoming)?;
        let mut built = Vec::with_capacity(wanted.len());
        let all = self.build_all(&area, &wanted);
        for (wanted, done) in wanted.iter().zip(all) {
            match done {
                None => {}
                Some(Ok(done)) => built.push((wanted, done)),
                Some(Err(error)) => {
                    self.at = Some(self.sides.pair(wanted.child.identity, Identity::UNKNOWN));
                    self.or_again(&wanted.place.ids, Part::Name(&wanted.name), Err(error))?;
                }
            }
        }
        self.make_durable(&area, &built)?;
        // What a directory gets at once may be another name of what is here.
        built.sort_by_key(|(_, built)| built.follows == Follows::Entries);
        for (wanted, built) in built {
            let done = self.name(&area, wanted, &built);
            self.or_again(&wanted.place.ids, Part::Name(&wanted.name), done)?;
        }
        Ok(())
    }

    fn make_durable(&self, area: &L::Node, built: &[(&Wanted<'r, L>, Built)]) -> io::Result<()> {
        let t = self.sides.t;
        if self.rehearses.is_some() {
            // ORDER: it is nobody's leg before the end of the last pass, which syncs all of it. Who begins again
            // compares everything, so that a name which stands for less after a power cut harms nothing.
            return Ok(());
        }
        let has_slot = |wanted: &Wanted<'r, L>| self.known(&wanted.child.identity).is_some();
        if self.inside.is_some() && !built.iter().any(|(wanted, _)| has_slot(wanted)) {
            // ORDER: it is below a directory in `incoming/`, which is synced with all that is in it before it has
            // its name. But no slot is bound to a number that a power cut gives back to another object.
            return Ok(());
        }
        if built.len() >= SYNC_ALL {
            return t.sync_all();
        }
        built.iter().try_for_each(|(wanted, _)| t.sync_node(&t.child(area, &wanted.incoming)?))
    }

    /// Gives one object its name.
    fn name(&mut self, area: &L::Node, wanted: &Wanted<'r, L>, built: &Built) -> io::Result<()> {
        self.at = Some(self.sides.pair(wanted.child.identity, built.identity));
        self.bind(area, wanted, built)?;
        let (from, to) = ((area, wanted.incoming.as_os_str()), (&wanted.place.t, wanted.name.as_os_str()));
        rename_to_free(self.sides.t, &wanted.place.intent, from, to)
    }

    /// The slots of the source's object stand for the built one from now on, and say what it lacks.
    fn bind(&mut self, area: &L::Node, wanted: &Wanted<'r, L>, built: &Built) -> io::Result<()> {
        let (target, identity) = (self.sides.target(), wanted.child.identity);
        if let Some(at) = self.known(&identity) {
            for &slot in &self.objects[at].slots {
                self.bitmap.rebind(self.host, slot, target, built.identity)?;
            }
            self.objects[at].data = Spans::none();
        }
        self.now_is(&identity, built.identity);
        let ids = self.sides.pair(identity, built.identity);
        match built.follows {
            Follows::Nothing => Ok(()),
            Follows::Data if self.want_data(ids)? => Ok(()),
            Follows::Data => self.fill_now(area, wanted),
            Follows::Entries if self.inside.is_some() => {
                self.inside.get_or_insert_default().push(ids);
                Ok(())
            }
            Follows::Entries if !self.at_once && self.want_entries(ids)? => Ok(()),
            Follows::Entries => self.furnish_now(&wanted.place.intent, ids),
        }
    }

    /// Copies the data of a file that is still in `incoming/`.
    fn fill_now(&mut self, area: &L::Node, wanted: &Wanted<'r, L>) -> io::Result<()> {
        let (Sides { t, .. }, intent) = (self.sides, &wanted.place.intent);
        let Some(s_node) = self.sides.find(self.sides.source, &wanted.child.identity)? else { return Ok(()) };
        let node = t.child(area, &wanted.incoming)?;
        self.copy_data(intent, (&s_node, &node), self.sides.s.stat(&s_node)?.size)?;
        metadata::equalize(self.sides, intent, &s_node, &node)?;
        t.sync_node(&node)
    }

    /// Gives a directory that is still in `incoming/` all that is to be in it, to any depth.
    ///
    /// FAIL-SAFE: what was parked may be moved into it. If a crash leaves it in `incoming/`, that is
    /// thrown away with the rest, and built anew from the source.
    fn furnish_now(&mut self, intent: &WriteIntent<'_>, ids: PerLeg<Identity>) -> io::Result<()> {
        let before = std::mem::replace(&mut self.at_once, true);
        self.inside = Some(vec![ids]);
        let mut batch = Batch::new();
        let mut at = 0;
        loop {
            let dirs = self.inside.as_deref().unwrap_or_default();
            let Some(&dir) = dirs.get(at) else {
                // What is put in place now may be a directory, with names of its own.
                self.put_in_place(&mut batch)?;
                match self.inside.as_ref().is_some_and(|dirs| at < dirs.len()) {
                    true => continue,
                    false => break,
                }
            };
            self.place(intent.lend(), &dir, &mut batch)?;
            at += 1;
        }
        self.at_once = before;
        let furnished = self.inside.take().unwrap_or_default();
        furnished.iter().try_for_each(|dir| self.equalize(intent, dir))?;
        self.sides.t.sync_all()
    }
}
