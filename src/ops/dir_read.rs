//! Reading directories: lookup and listing, from the source.
//!
//! An offset in a listing is made of the name before it, not of its number: the kernel may have the first part
//! in its cache, from a listing that somebody else has read, and ask for the rest of one that it has not begun
//! here. Then the leg is read, and the name is looked for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::{Found, Mirror};
use crate::inode::{Fh, Ino, Object, OpenDir};
use crate::legs::{Entry, Kind, Leg, name_hash};

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct DirItem {
    /// As the mount shows it.
    pub ino: Ino,
    /// What the name names.
    pub kind: Kind,
    /// The name; `.` and `..` are listed.
    pub name: OsString,
    /// Where the listing goes on after this entry.
    pub next_offset: u64,
}

/// `.` and `..` stand before the entries of the leg.
const DOTS: u64 = 2;

impl<L: Leg> Mirror<L> {
    /// The object under a name. Counts one lookup.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> io::Result<Found> {
        let dir = self.directory(parent)?;
        let _reading = dir.lock.read();
        Ok(self.look_up(&dir, name, 1)?.1)
    }

    /// The kernel gives lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.table.forget(ino, count);
    }

    /// Opens a directory to list it.
    pub fn opendir(&self, ino: Ino) -> io::Result<Fh> {
        let object = self.directory(ino)?;
        Ok(self.handles.add_dir(OpenDir::new(object)))
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: Fh) {
        self.release(fh);
    }

    /// Lists from `offset` on (0 is the start) until `add` says that it is full, and did not take the entry.
    /// Offsets stay good while the directory is open, whatever happens in it; a listing from 0 sees it anew.
    pub fn readdir(&self, fh: Fh, offset: u64, add: &mut dyn FnMut(&DirItem) -> bool) -> io::Result<()> {
        let dir = self.handles.dir(fh)?;
        let (listing, start) = self.listing(&dir, offset)?;
        for (at, item) in self.items(&dir.object, &listing).enumerate().skip(start) {
            if add(&item) {
                break;
            }
            *dir.reached.lock() = (item.next_offset, at + 1);
        }
        Ok(())
    }

    /// As [`readdir`](Self::readdir), with the attributes of each entry. Each that `add` takes counts
    /// one lookup; `.`, `..` and what vanished since the listing was read come without.
    pub fn readdirplus(
        &self,
        fh: Fh,
        offset: u64,
        add: &mut dyn FnMut(&DirItem, Option<&Found>) -> bool,
    ) -> io::Result<()> {
        let dir = self.handles.dir(fh)?;
        let (listing, start) = self.listing(&dir, offset)?;
        for (at, item) in self.items(&dir.object, &listing).enumerate().skip(start) {
            let dots = item.next_offset <= DOTS;
            let found = if dots { None } else { self.lookup(dir.object.ino, &item.name).ok() };
            if add(&item, found.as_ref()) {
                if let Some(found) = found {
                    self.forget(found.attr.ino, 1);
                }
                break;
            }
            *dir.reached.lock() = (item.next_offset, at + 1);
        }
        Ok(())
    }

    /// The names, and which is the first to be listed, `.` and `..` counted.
    fn listing(&self, dir: &OpenDir<L>, offset: u64) -> io::Result<(Arc<Vec<Entry>>, usize)> {
        let known = dir.listing.lock().clone().filter(|_| offset != 0);
        if let Some(listing) = known {
            let reached = *dir.reached.lock();
            let start = if reached.0 == offset { Some(reached.1) } else { place_of(&listing, offset) };
            if let Some(start) = start {
                return Ok((listing, start));
            }
        }
        let _reading = dir.object.lock.read();
        let listed = self.reading(|source| self.leg(source)?.read_dir(&self.node(&dir.object, source)?))?;
        let listing = Arc::new(listed);
        *dir.listing.lock() = Some(listing.clone());
        // FAIL-SAFE: the name is gone that the first part ended with. Rather list a name twice than leave one out.
        let start = place_of(&listing, offset).unwrap_or(DOTS as usize);
        Ok((listing, start))
    }

    fn items<'a>(
        &'a self,
        dir: &'a Arc<Object<L>>,
        listing: &'a [Entry],
    ) -> impl Iterator<Item = DirItem> + 'a {
        let parent = dir.with_names(|names| names.place.as_ref().map_or(dir.ino, |(parent, _)| parent.ino));
        let dots = [(dir.ino, "."), (parent, "..")].into_iter().enumerate().map(|(i, (ino, name))| DirItem {
            ino,
            kind: Kind::Directory,
            name: name.into(),
            next_offset: i as u64 + 1,
        });
        let entries = listing.iter().map(|entry| DirItem {
            ino: self.table.shown(entry.ino),
            kind: entry.kind,
            name: entry.name.clone(),
            next_offset: offset_after(&entry.name),
        });
        dots.chain(entries)
    }
}

/// Where a listing goes on after this name. The kernel takes offsets of 63 bits.
fn offset_after(name: &OsStr) -> u64 {
    DOTS + 1 + (name_hash(name) >> 2)
}

/// How many entries of a listing stand before `offset`, `.` and `..` counted. Of two names of one offset the first
/// counts.
fn place_of(listing: &[Entry], offset: u64) -> Option<usize> {
    if offset <= DOTS {
        return Some(offset as usize);
    }
    let before = listing.iter().position(|entry| offset_after(&entry.name) == offset)?;
    Some(DOTS as usize + before + 1)
}
