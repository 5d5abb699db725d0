//! A leg's copy of the bitmap and its superblock, waited for as its calls are: every mark waits for the
//! copies, and every change of the mirror's state for the superblocks.
//!
//! A write that was given up may still land. Both kinds are made for that: a page that comes late has
//! at most fewer bits than the other copy, in a bitmap that is stale with its leg; a superblock that
//! comes late has fewer events than what the survivor has recorded since ("highest ever tried",
//! [`superblock`](crate::superblock)).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::patience::{Pace, Patience};
use super::{Timed, Way};
use crate::bitmap::{PAGE_SIZE, PageIndex, PageStore};
use crate::legs::Leg;
use crate::superblock::{Superblock, SuperblockStore};
use crate::sync::{Mutex, Rank};
use crate::sys::memory::PinnedPages;

/// The most pages that one courier carries.
const PAGES: usize = 64;

/// A copy of the bitmap on a leg that may hang.
pub struct TimedPages {
    store: Slow<dyn PageStore>,
    patience: Arc<Patience>,
    way: Way,
    /// The leg's.
    detached: Arc<AtomicBool>,
    /// What couriers carry pages in: aligned, and allocated in advance. Away while one is under way; it
    /// stays away with one that hangs.
    buffer: Mutex<Option<PinnedPages>>,
}

impl TimedPages {
    /// Waits for `store`, which is on this leg.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new<L: Leg>(store: Box<dyn PageStore>, leg: &Timed<L>) -> io::Result<TimedPages> {
        let buffer = match leg.way {
            Way::InPlace(_) => None,
            Way::ByCourier => Some(PinnedPages::new(PAGES * PAGE_SIZE)?),
        };
        let (patience, way) = (leg.patience.clone(), leg.way.clone());
        Ok(TimedPages {
            store: Slow::new(Arc::from(store), leg),
            patience,
            way,
            detached: leg.detached.clone(),
            buffer: Mutex::new(Rank::Leaf, buffer),
        })
    }

    /// Writes what fits in one buffer.
    fn write_some(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        self.patience.check()?;
        let kept = self.buffer.lock().take();
        // Two writes at once, or one that hung before: neither is the ordinary way.
        let mut buffer = kept.map_or_else(|| PinnedPages::new(PAGES * PAGE_SIZE), Ok)?;
        let len = bytes.len();
        buffer[..len].copy_from_slice(bytes);
        let store = self.store.share();
        let (buffer, written) = self.patience.call(Pace::Prompt, move || {
            let written = store.write(page, &buffer[..len]);
            Ok((buffer, written))
        })?;
        *self.buffer.lock() = Some(buffer);
        written
    }
}

impl PageStore for TimedPages {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        let store = self.store.share();
        self.patience.call(Pace::Prompt, move || store.read_all())
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        if let Way::InPlace(watch) = &self.way
            && !self.detached.load(Ordering::Acquire)
        {
            return self.patience.in_place(watch, || self.store.share().write(page, bytes));
        }
        let pieces = bytes.chunks(PAGES * PAGE_SIZE).zip((page.0..).step_by(PAGES));
        pieces.into_iter().try_for_each(|(piece, page)| self.write_some(PageIndex(page), piece))
    }
}

/// The superblock of a leg that may hang.
pub struct TimedSuperblock {
    store: Slow<dyn SuperblockStore>,
    patience: Arc<Patience>,
}

impl TimedSuperblock {
    /// Waits for `store`, which is on this leg.
    pub fn new<L: Leg>(store: Box<dyn SuperblockStore>, leg: &Timed<L>) -> TimedSuperblock {
        TimedSuperblock { store: Slow::new(Arc::from(store), leg), patience: leg.patience.clone() }
    }
}

impl SuperblockStore for TimedSuperblock {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let (store, superblock) = (self.store.share(), superblock.clone());
        // Who leaves the leg behind waits for the superblocks: so this never waits for that.
        self.patience.call_once(move || store.write(&superblock))
    }
}

/// What is open on a leg that may hang, and closed by a courier there.
struct Slow<T: Send + Sync + ?Sized + 'static> {
    /// `None` only while it is being dropped.
    open: Option<Arc<T>>,
    /// Where not the caller closes it.
    couriers: Option<Arc<Patience>>,
}

impl<T: Send + Sync + ?Sized + 'static> Slow<T> {
    fn new<L: Leg>(open: Arc<T>, leg: &Timed<L>) -> Self {
        Slow { open: Some(open), couriers: leg.is_by_courier().then(|| leg.patience.clone()) }
    }

    fn share(&self) -> Arc<T> {
        self.open.clone().expect("it is here until the last use, which is dropping it")
    }
}

impl<T: Send + Sync + ?Sized + 'static> Drop for Slow<T> {
    fn drop(&mut self) {
        if let (Some(open), Some(couriers)) = (self.open.take(), &self.couriers) {
            couriers.leave_to_a_courier(move || drop(open));
        }
    }
}
