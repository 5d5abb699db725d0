//! Reading directories: lookup and listing, from the source.
//!
//! The kernel does not tell when a directory is opened or closed (`opendir` is answered with ENOSYS): so it lists
//! what it has in its cache without asking. A request to list names a directory and an offset, and has to be
//! answered right whatever was answered before. So an offset is made of the name before it, and names are listed in
//! the order of their offsets: what stands behind an offset does not depend on what has been made or removed
//! meanwhile, nor on the leg that is asked.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::{Found, Mirror};
use crate::inode::{Ino, Object};
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

    /// Lists from `offset` on (0 is the start) until `add` says that it is full, and did not take the entry.
    /// A name that is there all the time is listed once; a listing from 0 sees the directory anew.
    pub fn readdir(&self, ino: Ino, offset: u64, add: &mut dyn FnMut(&DirItem) -> bool) -> io::Result<()> {
        let dir = self.directory(ino)?;
        let listing = self.listing(&dir, offset)?;
        for item in self.items(&dir, &listing, offset) {
            if add(&item) {
                break;
            }
        }
        Ok(())
    }

    /// As [`readdir`](Self::readdir), with the attributes of each entry. Each that `add` takes counts
    /// one lookup; `.`, `..` and what vanished since the listing was read come without.
    pub fn readdirplus(
        &self,
        ino: Ino,
        offset: u64,
        add: &mut dyn FnMut(&DirItem, Option<&Found>) -> bool,
    ) -> io::Result<()> {
        let dir = self.directory(ino)?;
        let listing = self.listing(&dir, offset)?;
        for item in self.items(&dir, &listing, offset) {
            let dots = item.next_offset <= DOTS;
            let found = if dots { None } else { self.lookup(ino, &item.name).ok() };
            if add(&item, found.as_ref()) {
                if let Some(found) = found {
                    self.forget(found.attr.ino, 1);
                }
                break;
            }
        }
        Ok(())
    }

    /// The names of a directory. As they were at the last start of a listing, if there is more of that to come:
    /// who has begun later than that has started it anew.
    fn listing(&self, dir: &Arc<Object<L>>, offset: u64) -> io::Result<Arc<Listing>> {
        let (ino, generation) = (dir.ino.0, dir.generation);
        let kept = if offset == 0 { None } else { self.listings.get(ino, generation, self.source()) };
        if let Some(listing) = kept {
            if listing.after(offset).is_empty() {
                self.listings.forget(ino, generation);
            }
            return Ok(listing);
        }
        let _reading = dir.lock.read();
        let (source, entries) =
            self.reading(|source| Ok((source, self.leg(source)?.read_dir(&self.node(dir, source)?)?)))?;
        let listing = Arc::new(Listing::new(entries));
        if !listing.after(offset).is_empty() {
            self.listings.put(ino, generation, source, listing.clone());
        }
        Ok(listing)
    }

    fn items<'a>(
        &'a self,
        dir: &Object<L>,
        listing: &'a Listing,
        offset: u64,
    ) -> impl Iterator<Item = DirItem> + use<'a, L> {
        let parent = dir.with_names(|names| names.place.as_ref().map_or(dir.ino, |(parent, _)| parent.ino));
        let dots = [(dir.ino, "."), (parent, "..")].into_iter().enumerate().map(|(i, (ino, name))| DirItem {
            ino,
            kind: Kind::Directory,
            name: name.into(),
            next_offset: i as u64 + 1,
        });
        let entries = listing.after(offset).iter().map(|(next_offset, entry)| DirItem {
            ino: self.table.shown(entry.ino),
            kind: entry.kind,
            name: entry.name.clone(),
            next_offset: *next_offset,
        });
        dots.skip(offset.min(DOTS) as usize).chain(entries)
    }
}

/// The names of a directory, each with the offset behind it, in that order.
pub(super) struct Listing(Vec<(u64, Entry)>);

impl Listing {
    fn new(entries: Vec<Entry>) -> Listing {
        let mut listed: Vec<_> =
            entries.into_iter().map(|entry| (offset_after(&entry.name), entry)).collect();
        listed.sort_unstable_by(|one, other| (one.0, &one.1.name).cmp(&(other.0, &other.1.name)));
        // Two names of one hash: the second goes on from the next offset, or it could not be reached.
        let mut least = 0;
        for (offset, _) in &mut listed {
            *offset = (*offset).max(least);
            least = *offset + 1;
        }
        Listing(listed)
    }

    /// What stands behind an offset.
    fn after(&self, offset: u64) -> &[(u64, Entry)] {
        &self.0[self.0.partition_point(|(at, _)| *at <= offset)..]
    }
}

/// Where a listing goes on after this name. The kernel takes offsets of 63 bits.
fn offset_after(name: &OsStr) -> u64 {
    DOTS + 1 + (name_hash(name) >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry { name: name.into(), ino: 7, kind: Kind::File }
    }

    #[test]
    fn the_order_is_the_offsets_whatever_the_leg_s() {
        let names = ["a", "b", "c", "d"];
        let forwards = Listing::new(names.iter().map(|name| entry(name)).collect());
        let backwards = Listing::new(names.iter().rev().map(|name| entry(name)).collect());
        let listed = |listing: &Listing| -> Vec<(u64, OsString)> {
            listing.after(0).iter().map(|(offset, entry)| (*offset, entry.name.clone())).collect()
        };
        assert_eq!(listed(&forwards), listed(&backwards));
        assert!(forwards.0.iter().all(|(offset, _)| *offset > DOTS && *offset < 1 << 63));
    }

    #[test]
    fn two_names_of_one_hash_are_both_reached() {
        // Of FNV-1a with 64 bits.
        let names = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
        assert_eq!(name_hash(OsStr::new(names[0])), name_hash(OsStr::new(names[1])));
        let listing = Listing::new(names.iter().map(|name| entry(name)).collect());
        let first = listing.after(0)[0].0;
        assert_eq!((listing.after(0).len(), listing.after(first).len()), (2, 1));
        assert!(listing.after(first + 1).is_empty());
    }
}
