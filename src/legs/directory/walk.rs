//! Finding an object by its inode number alone, where there are no handles.
//!
//! The leg is walked once and remembered as (number -> where it was seen). What is found there is checked on
//! the way; an index that turns out wrong, or may miss something made since, is built anew. The walk
//! holds one descriptor at a time, however deep the tree.
//!
//! A number can have been used again for another object: the birth time tells, where the filesystem has
//! it. Recovery compares, and so repairs, whatever it is led to.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;

use super::fleeting::Fleeting;
use super::{DirectoryLeg, Node, attrs};
use crate::error::errno;
use crate::legs::{Handle, Identity, Kind, Leg};
use crate::sys;

/// How often a walk that meets concurrent renames starts again.
const ATTEMPTS: usize = 8;

/// Where each object was seen: one of its names.
pub struct Index {
    places: HashMap<u64, Place>,
    /// The leg's count of objects made when the walk began.
    made: u64,
    /// Whether nothing was renamed during the walk, which could have carried it past the walker.
    undisturbed: bool,
    /// Directories that may not be read, by their number: what is in them is not in `places`.
    unread: Vec<u64>,
}

struct Place {
    parent: u64,
    name: OsString,
}

/// A directory on the way from the root to where the walk is.
struct Level {
    ino: u64,
    /// Directories in it that are still to be walked.
    left: Vec<OsString>,
}

impl DirectoryLeg {
    /// The object with this number on a filesystem that may give numbers anew: where it was seen last, else by a walk.
    pub(super) fn find_fleeting(&self, fleeting: &Fleeting, identity: &Identity) -> io::Result<Node> {
        if let Some(way) = fleeting.way(identity.ino, self.root.0.ino)
            && let Some(node) = self.follow(way.iter().map(|(ino, name)| (*ino, name)))?
        {
            return Ok(node);
        }
        self.find_by_number(identity)
    }

    /// The object with this number, of the same birth where that is known; ESTALE when the leg holds none.
    ///
    /// # Errors
    /// EACCES if it is not found and may be in a directory that an ordinary user's daemon cannot read, EAGAIN if
    /// renames go on all the time.
    pub(super) fn find_by_number(&self, identity: &Identity) -> io::Result<Node> {
        let node = self.walk_to(identity.ino)?;
        let Some(birth) = identity.handle.filter(|handle| !handle.opens()) else { return Ok(node) };
        match self.stat(&node)?.btime.map(Handle::of_birth) {
            Some(other) if other != birth => Err(errno(libc::ESTALE)),
            _ => Ok(node),
        }
    }

    fn walk_to(&self, ino: u64) -> io::Result<Node> {
        if ino == self.root.0.ino {
            return Ok(self.root.clone());
        }
        for _ in 0..ATTEMPTS {
            let index = self.index()?;
            if !index.places.contains_key(&ino) {
                if index.undisturbed && index.made == self.made.load(Ordering::Relaxed) {
                    return Err(self.not_found(&index, ino));
                }
            } else if let Some(node) = self.go(&index, ino)? {
                return Ok(node);
            }
            *self.index.lock() = None;
        }
        Err(errno(libc::EAGAIN))
    }

    /// ESTALE, if all of the leg could be read. That can change without the mirror's doing, so then the next
    /// one who asks looks again.
    fn not_found(&self, index: &Index, ino: u64) -> io::Error {
        if index.unread.is_empty() {
            return errno(libc::ESTALE);
        }
        *self.index.lock() = None;
        for dir in &index.unread {
            let names = std::iter::successors(index.places.get(dir), |place| index.places.get(&place.parent));
            let mut names: Vec<_> = names.map(|place| place.name.as_os_str()).collect();
            names.reverse();
            let path = names.iter().fold(self.path.clone(), |path, name| path.join(name));
            log::warn!(
                "leg {}: inode {ino} is not found, and may be in {}, which cannot be read; make it readable",
                self.id,
                path.display()
            );
        }
        errno(libc::EACCES)
    }

    fn index(&self) -> io::Result<Arc<Index>> {
        if let Some(index) = self.index.lock().as_ref() {
            return Ok(index.clone());
        }
        // The walk is I/O, so the lock is not held; two threads may both walk, which only costs time.
        for _ in 0..ATTEMPTS {
            if let Some(index) = self.walk()? {
                let index = Arc::new(index);
                *self.index.lock() = Some(index.clone());
                return Ok(index);
            }
        }
        Err(errno(libc::EAGAIN))
    }

    /// Follows the index down from the root; `None` if it is not true any more.
    fn go(&self, index: &Index, ino: u64) -> io::Result<Option<Node>> {
        let mut way = Vec::new();
        let mut at = ino;
        while at != self.root.0.ino {
            let Some(place) = index.places.get(&at) else { return Ok(None) };
            way.push((at, &place.name));
            at = place.parent;
            if way.len() > index.places.len() {
                return Ok(None);
            }
        }
        self.follow(way.into_iter())
    }

    /// Goes down from the root; the last name comes first. `None` if something else is there by now.
    fn follow<'n>(
        &self,
        way: impl DoubleEndedIterator<Item = (u64, &'n OsString)>,
    ) -> io::Result<Option<Node>> {
        let mut node = self.root.clone();
        for (ino, name) in way.rev() {
            node = match self.pin_name(node.fd(), name) {
                Ok(found) if found.0.ino == ino => found,
                Ok(_) => return Ok(None),
                Err(error) if went_away(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
        }
        Ok(Some(node))
    }

    /// Sees all names of the leg, the mirror's own included; `None` if a rename led it astray.
    fn walk(&self) -> io::Result<Option<Index>> {
        let made = self.made.load(Ordering::Relaxed);
        let moved = self.moved.load(Ordering::Relaxed);
        let mut index = Index { places: HashMap::new(), made, undisturbed: false, unread: Vec::new() };
        let mut here = self.root.clone();
        let mut levels = vec![self.enter(&here, &mut index)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.left.pop() {
                let below = match self.pin_name(here.fd(), &name) {
                    Ok(below) => below,
                    Err(error) if passed_by(&error) => continue,
                    Err(error) if may_not(&error) => {
                        index.unread.push(here.0.ino);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                match self.enter(&below, &mut index) {
                    Ok(level) => {
                        levels.push(level);
                        here = below;
                    }
                    Err(error) if passed_by(&error) => {}
                    Err(error) if may_not(&error) => index.unread.push(below.0.ino),
                    Err(error) => return Err(error),
                }
                continue;
            }
            levels.pop();
            if let Some(above) = levels.last() {
                here = match sys::file::open_parent(here.fd()).and_then(|fd| self.pin(fd)) {
                    Ok(up) if up.0.ino == above.ino => up,
                    Ok(_) => return Ok(None),
                    Err(error) if went_away(&error) => return Ok(None),
                    Err(error) => return Err(error),
                };
            }
        }
        index.undisturbed = moved == self.moved.load(Ordering::Relaxed);
        Ok(Some(index))
    }

    /// Notes the names in a directory.
    fn enter(&self, dir: &Node, index: &mut Index) -> io::Result<Level> {
        let mut left = Vec::new();
        let readable = self.open_readable(dir.fd())?;
        for entry in sys::dir::read(readable.as_fd())? {
            // Where the type is not told, opening it as a directory tells.
            let may_lead_on = entry.file_type == FileType::Unknown
                || attrs::kind_of(entry.file_type) == Some(Kind::Directory);
            if may_lead_on {
                left.push(entry.name.clone());
            }
            let ino = match self.fleeting.as_ref().map(|_| sys::file::stat(dir.fd(), &entry.name)) {
                None => entry.ino,
                Some(Ok(stat)) => stat.stx_ino,
                Some(Err(error)) if passed_by(&error) => continue,
                Some(Err(error)) => return Err(error),
            };
            index.places.insert(ino, Place { parent: dir.0.ino, name: entry.name });
        }
        Ok(Level { ino: dir.0.ino, left })
    }
}

/// What was seen there is not there any more, or something else is.
fn went_away(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}

/// What a walk goes past: names that went away, mounts and subvolumes.
fn passed_by(error: &io::Error) -> bool {
    went_away(error) || error.raw_os_error() == Some(libc::EXDEV)
}

/// The daemon has not the privilege.
fn may_not(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EACCES)
}
