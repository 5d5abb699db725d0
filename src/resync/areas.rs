//! The target's `incoming/` and `parked/` (O7).
//!
//! `incoming/` holds single objects that are being built. One that a crash left there is worth nothing:
//! the slot that asked for it is still dirty and asks again.
//!
//! `parked/` holds what lost its name on the target. What a crash left there is kept until the
//! resync has placed everything: a slot may know it as the counterpart of something.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;

use super::rename_to_free;
use crate::bitmap::WriteIntent;
use crate::legs::{Area, Entry, Kind, Leg};

/// The parked objects of one leg.
pub(super) struct Parked<L: Leg> {
    pub dir: L::Node,
    /// Names under `parked/`, by inode number: several for an object that had several.
    names: HashMap<u64, Vec<OsString>>,
    taken: HashSet<OsString>,
    /// Those of them that were there before.
    earlier: BTreeSet<OsString>,
}

impl<L: Leg> Parked<L> {
    /// What is parked now.
    pub fn open(leg: &L) -> io::Result<Parked<L>> {
        let mut parked = Parked {
            dir: leg.area(Area::Parked)?,
            names: HashMap::new(),
            taken: HashSet::new(),
            earlier: BTreeSet::new(),
        };
        for entry in leg.read_dir(&parked.dir)? {
            parked.note(entry.ino, entry.name);
        }
        parked.earlier = parked.taken.iter().cloned().collect();
        Ok(parked)
    }

    /// Moves a name of a directory here.
    pub fn park(
        &mut self,
        leg: &L,
        intent: &WriteIntent<'_>,
        from: (&L::Node, &OsStr),
        ino: u64,
    ) -> io::Result<()> {
        let name = self.free_name(ino);
        rename_to_free(leg, intent, from, (&self.dir, &name))?;
        self.note(ino, name);
        Ok(())
    }

    /// A name that the object with this number is parked under; it counts as gone from now on.
    pub fn take(&mut self, ino: u64) -> Option<OsString> {
        let name = self.names.get_mut(&ino)?.pop()?;
        self.taken.remove(&name);
        self.earlier.remove(&name);
        Some(name)
    }

    /// Deletes what had been parked before, and is still, with all that is in it.
    pub fn delete_earlier(&mut self, leg: &L, intent: &WriteIntent<'_>) -> io::Result<()> {
        for name in std::mem::take(&mut self.earlier) {
            let (_, stat) = leg.lookup(&self.dir, &name)?;
            delete_entry(leg, intent, &self.dir, Entry { name, ino: stat.ino, kind: stat.kind })?;
        }
        Ok(())
    }

    /// All names under which something is parked.
    pub fn all(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = self.taken.iter().cloned().collect();
        all.sort_unstable();
        all
    }

    /// Whether this object is parked still.
    pub fn holds(&self, ino: u64) -> bool {
        self.names.get(&ino).is_some_and(|names| !names.is_empty())
    }

    /// Deletes all that is parked, with all that is in it.
    pub fn delete_all(&mut self, leg: &L, intent: &WriteIntent<'_>) -> io::Result<()> {
        self.names.clear();
        self.taken.clear();
        delete_content(leg, intent, &self.dir)
    }

    /// Deletes this one object, if it is still parked, with all that is in it.
    pub fn delete(&mut self, leg: &L, intent: &WriteIntent<'_>, ino: u64) -> io::Result<()> {
        while let Some(name) = self.take(ino) {
            let (_, stat) = leg.lookup(&self.dir, &name)?;
            let entry = Entry { name, ino, kind: stat.kind };
            delete_entry(leg, intent, &self.dir, entry)?;
        }
        Ok(())
    }

    fn note(&mut self, ino: u64, name: OsString) {
        self.taken.insert(name.clone());
        self.names.entry(ino).or_default().push(name);
    }

    fn free_name(&self, ino: u64) -> OsString {
        let numbered = |count: u64| OsString::from(format!("{ino}-{count}"));
        (0..).map(numbered).find(|name| !self.taken.contains(name)).expect("fewer names than numbers")
    }
}

/// Empties one of the mirror's own directories.
pub(super) fn delete_content<L: Leg>(leg: &L, intent: &WriteIntent<'_>, area: &L::Node) -> io::Result<()> {
    for entry in leg.read_dir(area)? {
        delete_entry(leg, intent, area, entry)?;
    }
    Ok(())
}

/// Deletes an object of an area. A directory's subdirectories are moved up into the area first, so
/// that a tree of any depth takes one level of nodes.
fn delete_entry<L: Leg>(leg: &L, intent: &WriteIntent<'_>, area: &L::Node, entry: Entry) -> io::Result<()> {
    let mut left = vec![entry];
    let mut moved = 0u64;
    while let Some(entry) = left.pop() {
        if entry.kind != Kind::Directory {
            leg.unlink(intent, area, &entry.name)?;
            continue;
        }
        let dir = leg.child(area, &entry.name)?;
        make_writable(leg, intent, &dir)?;
        for below in leg.read_dir(&dir)? {
            if below.kind != Kind::Directory {
                leg.unlink(intent, &dir, &below.name)?;
                continue;
            }
            let name = loop {
                let name = OsString::from(format!("{}-below-{moved}", below.ino));
                moved += 1;
                let to = (area, name.as_os_str());
                match rename_to_free(leg, intent, (&dir, &below.name), to) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => continue,
                    other => break other.map(|()| name)?,
                }
            };
            left.push(Entry { name, ..below });
        }
        leg.rmdir(intent, area, &entry.name)?;
    }
    Ok(())
}

/// An ordinary user's daemon cannot change a directory that its owner may not write to. The metadata
/// phase, or the deletion, comes after.
pub(super) fn make_writable<L: Leg>(leg: &L, intent: &WriteIntent<'_>, dir: &L::Node) -> io::Result<()> {
    const OWNER: u32 = 0o700;
    let mode = leg.stat(dir)?.mode;
    if mode & OWNER != OWNER && !rustix::process::geteuid().is_root() {
        leg.set_mode(intent, dir, mode | OWNER)?;
    }
    Ok(())
}
