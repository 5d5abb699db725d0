//! Open files, by the number the kernel has for them. Directories are not opened here: see `ops/dir_read`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Object;
use crate::error::errno;
use crate::legs::{Leg, LegId, OpenMode, PerLeg};
use crate::sync::{Mutex, Rank, RwLock};

/// Number of an open file, as the kernel knows it.
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

    /// The same, if it `is_still` one of that leg: asked under the lock under which the leg's is taken out.
    pub fn keep_while(&self, is_still: impl Fn() -> bool, leg: LegId, file: L::File) -> Option<Arc<L::File>> {
        let mut kept = self.files[leg].lock();
        is_still().then(|| kept.get_or_insert_with(|| Arc::new(file)).clone())
    }

    /// The leg is another one from now on; what was open is the caller's to close.
    pub fn forget(&self, leg: LegId) -> Option<Arc<L::File>> {
        self.files[leg].lock().take()
    }
}

impl<L: Leg> Drop for OpenFile<L> {
    fn drop(&mut self) {
        self.object.opens.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All that is open.
pub struct Handles<L: Leg> {
    open: RwLock<HashMap<Fh, Arc<OpenFile<L>>>>,
    next: AtomicU64,
}

impl<L: Leg> Default for Handles<L> {
    fn default() -> Self {
        Handles { open: RwLock::new(Rank::Table, HashMap::new()), next: AtomicU64::new(1) }
    }
}

impl<L: Leg> Handles<L> {
    /// Gives an open file its number.
    pub fn add_file(&self, file: OpenFile<L>) -> Fh {
        let fh = Fh(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.write().insert(fh, Arc::new(file));
        fh
    }

    /// The open file with this number; EBADF if there is none.
    pub fn file(&self, fh: Fh) -> io::Result<Arc<OpenFile<L>>> {
        self.open.read().get(&fh).cloned().ok_or_else(|| errno(libc::EBADF))
    }

    /// What is open on `leg` is of no use any more. It is the caller's to close.
    pub fn take_leg(&self, leg: LegId) -> Vec<Arc<L::File>> {
        self.open.read().values().filter_map(|file| file.forget(leg)).collect()
    }

    /// The object is another inode on `leg` now: what was open there is the caller's to close.
    pub fn forget(&self, object: &Arc<Object<L>>, leg: LegId) -> Vec<Arc<L::File>> {
        let open = self.open.read();
        let of_object = open.values().filter(|file| Arc::ptr_eq(&file.object, object));
        of_object.filter_map(|file| file.forget(leg)).collect()
    }

    /// Takes the number back and returns what was open; whoever still uses it keeps it alive.
    pub fn remove(&self, fh: Fh) -> Option<Arc<Object<L>>> {
        let removed = self.open.write().remove(&fh)?;
        Some(removed.object.clone())
    }
}
