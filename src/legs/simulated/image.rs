//! What a simulated filesystem holds at one moment, and how a single change alters it.
//!
//! Pure: no clock, no chance, no checks of what a caller may do. A [`Change`] is applied to the live
//! image when it happens and again when the durable image is computed after a power cut; there a
//! change of something that does not exist (its creation was lost) does nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::content::Content;
use crate::legs::{Kind, Timestamp};

/// Tells objects apart for ever, also when their inode numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u64);

/// The leg's own directory.
pub const ROOT: Id = Id(0);

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Inode number.
    pub ino: u64,
    /// Makes handles of an earlier object with this number stale.
    pub generation: u32,
    /// Lower twelve bits.
    pub mode: u32,
    /// Number of names; a directory's is computed when asked for.
    pub names: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Times.
    pub times: Times,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// What it is, and what is in it.
    pub body: Body,
}

/// The four times of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Times {
    pub access: Timestamp,
    pub modification: Timestamp,
    pub change: Timestamp,
    pub birth: Timestamp,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Body {
    File(Content),
    Directory { entries: BTreeMap<OsString, Id>, parent: Id },
    Symlink(OsString),
    Special { kind: Kind, rdev: u64 },
}

impl Object {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::File(_) => Kind::File,
            Body::Directory { .. } => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::Special { kind, .. } => *kind,
        }
    }

    /// The names in a directory; none in anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&OsString, Id)> {
        let entries = match &self.body {
            Body::Directory { entries, .. } => Some(entries),
            _ => None,
        };
        entries.into_iter().flatten().map(|(name, &id)| (name, id))
    }

    /// What chown(2) takes away.
    fn drop_privileges(&mut self) {
        if self.kind() != Kind::Directory {
            let sgid = if self.mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
            self.mode &= !(libc::S_ISUID | sgid);
        }
        self.xattrs.remove(OsStr::new("security.capability"));
    }

    /// A regular file's data.
    pub fn content(&self) -> Option<&Content> {
        match &self.body {
            Body::File(content) => Some(content),
            _ => None,
        }
    }
}

/// A name in a directory.
pub type Place = (Id, OsString);

/// One change. All but [`Change::Data`] go through the journal.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Change {
    Make {
        place: Place,
        id: Id,
        object: Arc<Object>,
    },
    Link {
        place: Place,
        id: Id,
    },
    /// Takes the name away, of a directory too.
    Unlink {
        place: Place,
    },
    /// The target, if there is one, loses its name.
    Rename {
        from: Place,
        to: Place,
    },
    Exchange {
        from: Place,
        to: Place,
    },
    Mode {
        id: Id,
        mode: u32,
    },
    Owner {
        id: Id,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Times {
        id: Id,
        access: Option<Timestamp>,
        modification: Option<Timestamp>,
    },
    Xattr {
        id: Id,
        name: OsString,
        value: Option<Vec<u8>>,
    },
    Size {
        id: Id,
        size: u64,
    },
    /// A write ends here: the file is at least so long.
    Grow {
        id: Id,
        size: u64,
    },
    Punch {
        id: Id,
        offset: u64,
        len: u64,
    },
    Allocate {
        id: Id,
        offset: u64,
        len: u64,
    },
    Data {
        id: Id,
        offset: u64,
        bytes: Arc<[u8]>,
    },
}

/// All objects of a filesystem.
#[derive(Clone, Debug)]
pub struct Image {
    objects: BTreeMap<Id, Arc<Object>>,
}

impl Image {
    /// A filesystem with this root directory in it.
    pub fn new(root: Object) -> Image {
        Image { objects: BTreeMap::from([(ROOT, Arc::new(root))]) }
    }

    /// An object, with or without a name.
    pub fn get(&self, id: Id) -> Option<&Object> {
        self.objects.get(&id).map(Arc::as_ref)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Object)> {
        self.objects.iter().map(|(&id, object)| (id, &**object))
    }

    /// What a name names.
    pub fn entry(&self, (dir, name): &Place) -> Option<Id> {
        match &self.get(*dir)?.body {
            Body::Directory { entries, .. } => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Whether `id` is `of` or a directory above it.
    pub fn is_above(&self, id: Id, of: Id) -> bool {
        let mut at = of;
        loop {
            if at == id {
                return true;
            }
            match self.get(at).map(|object| &object.body) {
                Some(Body::Directory { parent, .. }) if *parent != at => at = *parent,
                _ => return false,
            }
        }
    }

    /// Drops an object for good.
    pub fn forget(&mut self, id: Id) {
        self.objects.remove(&id);
    }

    /// Objects that have lost their last name.
    pub fn nameless(&self) -> Vec<Id> {
        let nameless = |(&id, object): (&Id, &Arc<Object>)| (object.names == 0 && id != ROOT).then_some(id);
        self.objects.iter().filter_map(nameless).collect()
    }

    /// Applies one change that happened at `now`.
    pub fn apply(&mut self, change: &Change, now: Timestamp) {
        match change {
            Change::Make { place, id, object } => {
                if self.get(place.0).is_some() {
                    self.objects.insert(*id, object.clone());
                    self.put_entry(place, *id, now);
                }
            }
            Change::Link { place, id } => {
                if self.put_entry(place, *id, now) {
                    self.alter(*id, now, |object| object.names += 1);
                }
            }
            Change::Unlink { place } => {
                self.take_entry(place, now);
            }
            Change::Rename { from, to } => {
                self.take_entry(to, now);
                self.move_entry(from, to, now);
            }
            Change::Exchange { from, to } => self.exchange(from, to, now),
            Change::Mode { id, mode } => self.alter(*id, now, |object| object.mode = *mode),
            Change::Owner { id, uid, gid } => self.alter(*id, now, |object| {
                object.uid = uid.unwrap_or(object.uid);
                object.gid = gid.unwrap_or(object.gid);
                object.drop_privileges();
            }),
            Change::Times { id, access, modification } => self.alter(*id, now, |object| {
                object.times.access = access.unwrap_or(object.times.access);
                object.times.modification = modification.unwrap_or(object.times.modification);
            }),
            Change::Xattr { id, name, value } => self.alter(*id, now, |object| match value {
                Some(value) => drop(object.xattrs.insert(name.clone(), value.clone())),
                None => drop(object.xattrs.remove(name)),
            }),
            Change::Size { id, size } => self.alter_content(*id, now, |content| content.set_size(*size)),
            Change::Grow { id, size } => {
                self.alter_content(*id, now, |content| content.set_size(content.size().max(*size)));
            }
            Change::Punch { id, offset, len } => {
                self.alter_content(*id, now, |content| content.punch(*offset, *len));
            }
            Change::Allocate { id, offset, len } => {
                self.alter_content(*id, now, |content| content.allocate(*offset, *len));
            }
            Change::Data { id, offset, bytes } => self.put_data(*id, *offset, bytes),
        }
    }

    /// Puts data into a file, as far as the file reaches. No time changes.
    pub fn put_data(&mut self, id: Id, offset: u64, bytes: &[u8]) {
        if let Some(object) = self.objects.get_mut(&id)
            && let Body::File(content) = &mut Arc::make_mut(object).body
        {
            content.put(offset, bytes);
        }
    }

    fn alter(&mut self, id: Id, now: Timestamp, change: impl FnOnce(&mut Object)) {
        if let Some(object) = self.objects.get_mut(&id) {
            let object = Arc::make_mut(object);
            object.times.change = now;
            change(object);
        }
    }

    fn alter_content(&mut self, id: Id, now: Timestamp, change: impl FnOnce(&mut Content)) {
        self.alter(id, now, |object| {
            if let Body::File(content) = &mut object.body {
                object.times.modification = now;
                change(content);
            }
        });
    }

    fn alter_entries(
        &mut self,
        dir: Id,
        now: Timestamp,
        change: impl FnOnce(&mut BTreeMap<OsString, Id>) -> bool,
    ) -> bool {
        let Some(object) = self.objects.get_mut(&dir) else { return false };
        let object = Arc::make_mut(object);
        let Body::Directory { entries, .. } = &mut object.body else { return false };
        let changed = change(entries);
        if changed {
            object.times.modification = now;
            object.times.change = now;
        }
        changed
    }

    fn put_entry(&mut self, (dir, name): &Place, id: Id, now: Timestamp) -> bool {
        self.objects.contains_key(&id)
            && self.alter_entries(*dir, now, |entries| {
                entries.insert(name.clone(), id);
                true
            })
    }

    fn take_entry(&mut self, place: &Place, now: Timestamp) -> Option<Id> {
        let id = self.entry(place)?;
        self.alter_entries(place.0, now, |entries| entries.remove(&place.1).is_some());
        self.alter(id, now, |object| object.names -= 1);
        Some(id)
    }

    fn move_entry(&mut self, from: &Place, to: &Place, now: Timestamp) {
        let Some(id) = self.entry(from) else { return };
        self.alter_entries(from.0, now, |entries| entries.remove(&from.1).is_some());
        self.put_entry(to, id, now);
        self.set_parent(id, to.0, now);
    }

    fn exchange(&mut self, from: &Place, to: &Place, now: Timestamp) {
        let (Some(a), Some(b)) = (self.entry(from), self.entry(to)) else { return };
        self.put_entry(from, b, now);
        self.put_entry(to, a, now);
        self.set_parent(b, from.0, now);
        self.set_parent(a, to.0, now);
    }

    fn set_parent(&mut self, id: Id, dir: Id, now: Timestamp) {
        self.alter(id, now, |object| {
            if let Body::Directory { parent, .. } = &mut object.body {
                *parent = dir;
            }
        });
    }
}
