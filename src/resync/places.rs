//! What was marked while the target was away, and names a place on it instead of an object: looks the places
//! up, and binds the slots to what is there.
//!
//! A place is a directory, as the source calls it, and the hash of a name. The target has that name in
//! what it has for that directory: what a slot says that is, or, for one that no slot knows, what lies where
//! the source has it, for it has not been moved.
//!
//! Must come before anything on the target is moved, and changes nothing on it.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;

use super::entries::look_up;
use super::pairs::Child;
use super::plan::Object;
use super::{Sides, gone_is_none};
use crate::bitmap::{Kinds, SlotIndex};
use crate::legs::{Identity, Kind, Leg, name_hash};

/// The objects with what they are on the target, as far as it has them. `rebind` is told for each slot.
///
/// ORDER: where the slots outlive this, durable in them before it returns. What is moved after that is not found at
/// its place any more, also not by the resync after a crash.
pub(super) fn bind<L: Leg>(
    mut objects: Vec<Object>,
    sides: Sides<'_, L>,
    rebind: impl Fn(SlotIndex, Identity) -> io::Result<()>,
) -> io::Result<Vec<Object>> {
    let target = sides.target();
    let has_place = |object: &Object| object.ids[target].place();
    if objects.iter().all(|object| has_place(object).is_none()) {
        return Ok(objects);
    }
    let mut places = Places::new(sides, &objects);
    let mut taken: HashSet<Identity> =
        objects.iter().map(|object| object.ids[target]).filter(Identity::is_known).collect();
    for (certain, living) in [(true, true), (true, false), (false, true), (false, false)] {
        for object in &mut objects {
            if has_place(object).is_none_or(|place| place.certain != certain) {
                continue;
            }
            let found = match living {
                true => places.counterpart(&object.ids[sides.source], &object.ids[target])?,
                false => places.left_over(object, &object.ids[target])?,
            };
            // One object is the counterpart of one; of two that may be it, the certain one.
            let found = found.filter(|found| taken.insert(*found));
            let Some(found) = found else { continue };
            for &slot in &object.slots {
                rebind(slot, found)?;
            }
            object.ids[target] = found;
        }
    }
    for object in objects.iter_mut().filter(|object| has_place(object).is_some()) {
        object.ids[target] = Identity::UNKNOWN;
    }
    Ok(objects)
}

/// What has been looked up.
struct Places<'s, L: Leg> {
    sides: Sides<'s, L>,
    /// What slots say of the target, by inode number on the source.
    said: HashMap<u64, Vec<(Identity, Identity)>>,
    /// What the target has for a directory of the source.
    dirs: HashMap<Identity, Option<L::Node>>,
    /// The names in a directory of the target, by hash; the directory as the source calls it.
    names: HashMap<Identity, HashMap<u64, Vec<OsString>>>,
}

impl<'s, L: Leg> Places<'s, L> {
    fn new(sides: Sides<'s, L>, objects: &[Object]) -> Self {
        let mut said: HashMap<u64, Vec<(Identity, Identity)>> = HashMap::new();
        for object in objects {
            let (s, t) = (object.ids[sides.source], object.ids[sides.target()]);
            said.entry(s.ino).or_default().push((s, t));
        }
        Places { sides, said, dirs: HashMap::new(), names: HashMap::new() }
    }

    /// What the target has at this place, if it is of the kind of the source's object `s`.
    fn counterpart(&mut self, s: &Identity, at: &Identity) -> io::Result<Option<Identity>> {
        let sides = self.sides;
        let Some(found) = self.child_at(at)? else { return Ok(None) };
        let Some(s_node) = sides.find(sides.source, s)? else { return Ok(None) };
        let kind = sides.s.stat(&s_node)?.kind;
        Ok((kind == found.stat.kind).then_some(found.identity))
    }

    /// What the target has at this place for a directory that the source has no more. It is not what has its name
    /// on the source now: that one may be empty, and then nothing else tells that what is in this one has to go.
    fn left_over(&mut self, object: &Object, at: &Identity) -> io::Result<Option<Identity>> {
        let Sides { source, .. } = self.sides;
        if !object.kinds.contains(Kinds::ENTRIES) || self.sides.find(source, &object.ids[source])?.is_some() {
            return Ok(None);
        }
        let found = self.child_at(at)?;
        Ok(found.filter(|found| found.stat.kind == Kind::Directory).map(|found| found.identity))
    }

    fn child_at(&mut self, at: &Identity) -> io::Result<Option<Child>> {
        let t = self.sides.t;
        let Some(place) = at.place() else { return Ok(None) };
        let is_root = place.name_hash == name_hash(OsStr::new("")) && self.is_root(&place.dir)?;
        if is_root {
            let root = t.root();
            return Ok(Some(Child { identity: t.identity(&root)?, stat: t.stat(&root)? }));
        }
        let Some(dir) = self.directory(&place.dir)? else { return Ok(None) };
        if !self.names.contains_key(&place.dir) {
            let mut names: HashMap<u64, Vec<OsString>> = HashMap::new();
            for entry in self.sides.t.read_dir(&dir)? {
                names.entry(name_hash(&entry.name)).or_default().push(entry.name);
            }
            self.names.insert(place.dir, names);
        }
        match self.names[&place.dir].get(&place.name_hash).map(Vec::as_slice) {
            Some([name]) => look_up(self.sides.t, &dir, name),
            // Two names of one hash: neither is certain.
            _ => Ok(None),
        }
    }

    fn is_root(&self, dir: &Identity) -> io::Result<bool> {
        let s = self.sides.s;
        Ok(s.identity(&s.root())?.is_same(dir))
    }

    /// What the target has for a directory of the source.
    fn directory(&mut self, dir: &Identity) -> io::Result<Option<L::Node>> {
        if let Some(known) = self.dirs.get(dir) {
            return Ok(known.clone());
        }
        // What would lead back to itself is not found.
        self.dirs.insert(*dir, None);
        let found = self.find_directory(dir)?;
        self.dirs.insert(*dir, found.clone());
        Ok(found)
    }

    fn find_directory(&mut self, dir: &Identity) -> io::Result<Option<L::Node>> {
        let Sides { s, t, .. } = self.sides;
        let target = self.sides.target();
        let said = self
            .said
            .get(&dir.ino)
            .and_then(|all| all.iter().find(|(of, _)| of.is_same(dir)).map(|said| said.1));
        match said {
            Some(known) if known.is_known() => return self.sides.find(target, &known),
            Some(place) => {
                let found = self.child_at(&place)?.filter(|found| found.stat.kind == Kind::Directory);
                return found.map_or(Ok(None), |found| self.sides.find(target, &found.identity));
            }
            None => {}
        }
        let Some(node) = self.sides.find(self.sides.source, dir)? else { return Ok(None) };
        if self.is_root(dir)? {
            return Ok(Some(t.root()));
        }
        // No slot knows it: it has not been moved, so the target has it under the name that the source has.
        let Some(parent) = gone_is_none(s.parent(&node))? else { return Ok(None) };
        let Some(above) = self.directory(&s.identity(&parent)?)? else { return Ok(None) };
        let entry = s.read_dir(&parent)?.into_iter().find(|entry| entry.ino == dir.ino);
        let Some(entry) = entry else { return Ok(None) };
        match look_up(t, &above, &entry.name)? {
            Some(found) if found.stat.kind == Kind::Directory => self.sides.find(target, &found.identity),
            _ => Ok(None),
        }
    }
}
