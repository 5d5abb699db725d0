//! Open files and directories, by the number the kernel has for them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Object;
use crate::error::errno;
use crate::legs::{Entry, Leg, LegId, OpenMode, PerLeg};
use crate::sync::{Mutex, Rank, RwLock};

/// Number of an open file or directory, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// A file that a program has open. Opened on the source at once, on the other leg when first needed:
/// reading needs one leg only.
pub struct OpenFile<L: Leg> {
    /// What is open.
    pub object: Arc<Object<L>>,
    /// For what.
    pub mode: OpenMode,
    /// The legs' files, as far as they are open.
    files: PerLeg<Mutex<Option<Arc<L::File>>>>,
}

impl<L: Leg> OpenFile<L> {
    /// Open nowhere yet. Counts among the object's `opens` as long as it lives.
    pub fn new(object: Arc<Object<L>>, mode: OpenMode) -> Self {
        object.opens.fetch_add(1, Ordering::Relaxed);
        OpenFile { object, mode, files: PerLeg::from_fn(|_| Mutex::new(Rank::Leaf, None)) }
    }

    /// The file on `leg`, if it is open there.
    pub fn on(&self, leg: LegId) -> Option<Arc<L::File>> {
        self.files[leg].lock().clone()
    }

    /// The file on `leg`: the one given, unless somebody was faster.
    pub fn keep(&self, leg: LegId, file: L::File) -> Arc<L::File> {
        self.files[leg].lock().get_or_insert_with(|| Arc::new(file)).clone()
    }

    /// The leg is another one from now on; what was open is the caller's to close.
    fn forget(&self, leg: LegId) -> Option<Arc<L::File>> {
        self.files[leg].lock().take()
    }
}

impl<L: Leg> Drop for OpenFile<L> {
    fn drop(&mut self) {
        self.object.opens.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A directory that a program has open.
pub struct OpenDir<L: Leg> {
    /// What is open.
    pub object: Arc<Object<L>>,
    /// The names as they were when the reading began, whatever is made or removed meanwhile.
    pub listing: Mutex<Option<Arc<Vec<Entry>>>>,
    /// Where the reading goes on: an offset, and its place in the listing.
    pub reached: Mutex<(u64, usize)>,
}

impl<L: Leg> OpenDir<L> {
    /// A directory opened and not read yet. Counts among the object's `opens` as long as it lives.
    pub fn new(object: Arc<Object<L>>) -> Self {
        object.opens.fetch_add(1, Ordering::Relaxed);
        let (listing, reached) = (Mutex::new(Rank::Leaf, None), Mutex::new(Rank::Leaf, (0, 0)));
        OpenDir { object, listing, reached }
    }
}

impl<L: Leg> Drop for OpenDir<L> {
    fn drop(&mut self) {
        self.object.opens.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Open<L: Leg> {
    File(Arc<OpenFile<L>>),
    Dir(Arc<OpenDir<L>>),
}

/// All that is open.
pub struct Handles<L: Leg> {
    open: RwLock<HashMap<Fh, Open<L>>>,
    next: AtomicU64,
}

impl<L: Leg> Default for Handles<L> {
    fn default() -> Self {
        Handles { open: RwLock::new(Rank::Table, HashMap::new()), next: AtomicU64::new(1) }
    }
}

impl<L: Leg> Handles<L> {
    fn add(&self, open: Open<L>) -> Fh {
        let fh = Fh(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.write().insert(fh, open);
        fh
    }

    /// Gives an open file its number.
    pub fn add_file(&self, file: OpenFile<L>) -> Fh {
        self.add(Open::File(Arc::new(file)))
    }

    /// Gives an open directory its number.
    pub fn add_dir(&self, dir: OpenDir<L>) -> Fh {
        self.add(Open::Dir(Arc::new(dir)))
    }

    /// The open file with this number; EBADF if there is none.
    pub fn file(&self, fh: Fh) -> io::Result<Arc<OpenFile<L>>> {
        match self.open.read().get(&fh) {
            Some(Open::File(file)) => Ok(file.clone()),
            _ => Err(errno(libc::EBADF)),
        }
    }

    /// The open directory with this number; EBADF if there is none.
    pub fn dir(&self, fh: Fh) -> io::Result<Arc<OpenDir<L>>> {
        match self.open.read().get(&fh) {
            Some(Open::Dir(dir)) => Ok(dir.clone()),
            _ => Err(errno(libc::EBADF)),
        }
    }

    /// What is open on `leg` is of no use any more. It is the caller's to close.
    pub fn take_leg(&self, leg: LegId) -> Vec<Arc<L::File>> {
        let open = self.open.read();
        let files = open.values().filter_map(|open| match open {
            Open::File(file) => file.forget(leg),
            Open::Dir(_) => None,
        });
        files.collect()
    }

    /// The object is another inode on `leg` now: what was open there is the caller's to close.
    pub fn forget(&self, object: &Arc<Object<L>>, leg: LegId) -> Vec<Arc<L::File>> {
        let open = self.open.read();
        let files = open.values().filter_map(|open| match open {
            Open::File(file) if Arc::ptr_eq(&file.object, object) => file.forget(leg),
            _ => None,
        });
        files.collect()
    }

    /// Takes the number back and returns what was open; whoever still uses it keeps it alive.
    pub fn remove(&self, fh: Fh) -> Option<Arc<Object<L>>> {
        let removed = self.open.write().remove(&fh)?;
        Some(match &removed {
            Open::File(file) => file.object.clone(),
            Open::Dir(dir) => dir.object.clone(),
        })
    }
}
