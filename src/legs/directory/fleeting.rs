//! A leg on a FUSE filesystem: numbers of objects that may change, and no syncfs.
//!
//! Such a filesystem may number its objects anew whenever it is mounted, and while it is mounted once the kernel has
//! forgotten one. A file handle names as little. So within one mount an object is found by where it was seen last,
//! and its number is checked.
//!
//! The kernel sends syncfs(2) to no ordinary FUSE server. What is changed is noted here, to be synced one by one.
//!
//! Invariants:
//! - what was changed by a call that has returned is in `unsynced` until it has been synced;
//! - an error of a write that was reported late, when a file was closed, is never forgotten.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use rustix::fs::OFlags;

use super::{DirectoryLeg, Node};
use crate::error::errno;
use crate::legs::Kind;
use crate::sync::{Mutex, Rank};
use crate::sys;

/// How many places are remembered; then all are forgotten, and found again by a walk.
const MOST_PLACES: usize = 1 << 18;

/// How many objects are held open to be synced; then they are synced at once.
const MOST_UNSYNCED: usize = 512;

/// What is kept of such a leg.
pub struct Fleeting {
    /// Directory and name under which a number was seen last.
    places: Mutex<HashMap<u64, (u64, OsString)>>,
    pub changes: Arc<Changes>,
}

/// What is not durable yet.
pub struct Changes {
    unsynced: Mutex<HashMap<u64, Changed>>,
    /// The errno of a write that failed after it had been acknowledged; 0 for none.
    failed: AtomicI32,
}

#[derive(Clone, Debug)]
struct Changed {
    node: Node,
    /// The descriptor that it was written through, while that is open: it alone is told of late errors.
    written: Option<Weak<OwnedFd>>,
}

impl Fleeting {
    /// Nothing seen, nothing changed.
    pub fn new() -> Fleeting {
        Fleeting {
            places: Mutex::new(Rank::Leaf, HashMap::new()),
            changes: Arc::new(Changes {
                unsynced: Mutex::new(Rank::Leaf, HashMap::new()),
                failed: AtomicI32::new(0),
            }),
        }
    }

    /// An object was seen there.
    pub fn saw(&self, ino: u64, dir: u64, name: &OsStr) {
        let mut places = self.places.lock();
        if places.len() >= MOST_PLACES {
            places.clear();
        }
        places.insert(ino, (dir, name.to_owned()));
    }

    /// The names that lead from `root` to the object, the last one first, each with the number seen there.
    pub fn way(&self, ino: u64, root: u64) -> Option<Vec<(u64, OsString)>> {
        let places = self.places.lock();
        let mut way = Vec::new();
        let mut at = ino;
        while at != root {
            let (dir, name) = places.get(&at)?;
            way.push((at, name.clone()));
            at = *dir;
            if way.len() > places.len() {
                return None;
            }
        }
        Some(way)
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Changes {
    /// What a server reports late is told by the next sync.
    pub fn failed_late(&self, error: &io::Error) {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        let _ = self.failed.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn add(&self, node: &Node, written: Option<Weak<OwnedFd>>) -> usize {
        let mut unsynced = self.unsynced.lock();
        let changed = unsynced.entry(node.0.ino).or_insert(Changed { node: node.clone(), written: None });
        if written.is_some() {
            changed.written = written;
        }
        unsynced.len()
    }
}

impl DirectoryLeg {
    /// The object was changed, or at least that was tried.
    ///
    /// ORDER: called before the call that changed it returns, while its bit is held: so whoever clears the bit
    /// after a sync has had it synced (O3).
    pub(super) fn changed(&self, node: &Node) {
        self.note(node, None);
    }

    /// The same, through an open file.
    pub(super) fn written(&self, node: &Node, file: &Arc<OwnedFd>) {
        self.note(node, Some(file));
    }

    fn note(&self, node: &Node, file: Option<&Arc<OwnedFd>>) {
        let Some(fleeting) = &self.fleeting else { return };
        if fleeting.changes.add(node, file.map(Arc::downgrade)) > MOST_UNSYNCED {
            // An error is not lost: every later sync tells it.
            let _ = self.sync_filesystem();
        }
    }

    /// Makes all that was changed durable. The caller lets only one in at a time.
    pub(super) fn sync_changes(&self, changes: &Changes) -> io::Result<()> {
        let mut left: Vec<Changed> = std::mem::take(&mut *changes.unsynced.lock()).into_values().collect();
        let mut synced = Ok(());
        while let Some(changed) = left.pop() {
            synced = self.sync_changed(&changed);
            if synced.is_err() {
                left.push(changed);
                break;
            }
        }
        for changed in left {
            changes.unsynced.lock().entry(changed.node.0.ino).or_insert(changed);
        }
        synced?;
        match changes.failed.load(Ordering::Acquire) {
            0 => Ok(()),
            number => Err(errno(number)),
        }
    }

    fn sync_changed(&self, changed: &Changed) -> io::Result<()> {
        if let Some(file) = changed.written.as_ref().and_then(Weak::upgrade) {
            return sys::file::sync(file.as_fd(), false);
        }
        let (kind, fd) = (changed.node.0.kind, changed.node.fd());
        let opened = match kind {
            Kind::Directory => self.open_readable(fd),
            Kind::File => self.reopen(fd, OFlags::RDONLY).or_else(|_| self.reopen(fd, OFlags::WRONLY)),
            // Cannot be opened for that. Its directory is synced.
            _ => return Ok(()),
        };
        let synced = opened.and_then(|fd| sys::file::sync(fd.as_fd(), false));
        match synced.as_ref().err().and_then(io::Error::raw_os_error) {
            // It is gone: what is to be durable about that is its directory's.
            Some(libc::ENOENT | libc::ESTALE) => Ok(()),
            // A filesystem that syncs no directories does not do it however often it is asked.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) if kind == Kind::Directory => Ok(()),
            _ => synced,
        }
    }
}
