//! A mirror's life: put together, started, resynced behind the mount, shut down.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::health::Health;
use super::{Invalidate, LegState, Mirror, MirrorState, gate::Gate};
use crate::bitmap::{Bitmap, Stats};
use crate::inode::{Handles, Numbering, Pins, Table};
use crate::legs::{Identity, Leg, LegId, PerLeg, Timestamp};
use crate::resync::{Outcome, Progress, Resync, ResyncHost, Scope};
use crate::superblock::{Plan, Superblock, SuperblockStore, Superblocks, Work};
use crate::sync::{Condvar, Mutex, Rank};

/// What a mirror is put together from: two legs that are locked, read and judged to belong together.
pub struct Parts<L: Leg> {
    /// The legs.
    pub legs: PerLeg<Arc<L>>,
    /// The bitmap as it was found, its slots dirty.
    pub bitmap: Bitmap,
    /// The bitmap does not tell everything: all objects are compared.
    pub compare_all: bool,
    /// The superblocks as they were found.
    pub superblocks: PerLeg<Superblock>,
    /// Where to write the next ones.
    pub stores: PerLeg<Box<dyn SuperblockStore>>,
    /// What they mean.
    pub plan: Plan,
}

/// How a mirror behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nothing is changed on either leg, not even resynced.
    pub read_only: bool,
    /// Between two rounds of the sweeper.
    pub sweep_interval: Duration,
    /// Directories kept open, over both legs.
    pub pinned_directories: usize,
    /// Says what time it is.
    pub clock: fn() -> Timestamp,
}

/// Lets the threads behind the mount end.
pub(super) struct Stop {
    asked: AtomicBool,
    waiting: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    fn new() -> Self {
        Stop { asked: AtomicBool::new(false), waiting: Mutex::new(Rank::Leaf, ()), wake: Condvar::new() }
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // Whoever looked at `asked` before holds the lock until it waits.
        drop(self.waiting.lock());
        self.wake.notify_all();
    }

    /// Waits for `time`, or less when stopping is asked for. Returns whether it is.
    fn wait(&self, time: Duration) -> bool {
        let mut waiting = self.waiting.lock();
        if !self.is_asked() {
            self.wake.wait_for(&mut waiting, time);
        }
        self.is_asked()
    }
}

impl<L: Leg> Mirror<L> {
    /// Puts a mirror together and records on both legs that it is in use. Nothing has been read
    /// through it by then, so the choice of the source is durable before anyone can see it.
    ///
    /// # Errors
    /// A leg that cannot be read, or whose superblock cannot be written.
    pub fn assemble(parts: Parts<L>, options: Options) -> io::Result<Arc<Mirror<L>>> {
        let Parts { legs, bitmap, compare_all, superblocks, stores, plan } = parts;
        let source = plan.source;
        let roots = PerLeg::from_fn(|leg| legs[leg].identity(&legs[leg].root())).transpose()?;
        let mut plan = plan;
        if compare_all || !bitmap.unresynced().is_empty() {
            plan.work = Work::Resync;
        }
        let work = plan.work == Work::Resync;
        let written = if options.read_only {
            None
        } else {
            Some(Superblocks::mount(stores, superblocks, &plan).map_err(|failed| failed.error)?)
        };
        let mirror = Mirror {
            numbered_by: source,
            numbering: Numbering::new(roots[source].ino),
            table: Table::new(source, roots),
            handles: Handles::default(),
            pins: Pins::new(options.pinned_directories),
            gate: Gate::new(!work || options.read_only),
            health: Health::new(written),
            rename: Mutex::new(Rank::Rename, ()),
            progress: Progress::default(),
            unequal: AtomicBool::new(work),
            compare_all,
            stop: Stop::new(),
            requests: AtomicU64::new(0),
            invalidate: OnceLock::new(),
            legs,
            bitmap,
            options,
        };
        Ok(Arc::new(mirror))
    }

    /// How the mirror can take back what the kernel has cached.
    pub fn set_invalidate(&self, invalidate: Arc<dyn Invalidate>) {
        let _ = self.invalidate.set(invalidate);
    }

    /// Makes the legs equal in what is dirty: first names and metadata, then changes are let in, then
    /// data. Returns when done, stopped or failed; what is left is done at the next mount.
    pub fn resync(&self) {
        if self.options.read_only || self.is_equal() {
            return;
        }
        if let Err(error) = self.try_resync() {
            let reason = format!(
                "the resync failed ({error}); see to the legs, unmount and mount again: it then starts anew"
            );
            self.health.set_read_only(reason);
        }
        self.gate.shut();
    }

    fn try_resync(&self) -> io::Result<()> {
        let scope = if self.compare_all { Scope::Everything } else { Scope::Dirty };
        let resync = Resync::new(&self.legs, &self.bitmap, self.source(), scope, self, &self.progress);
        if resync.namespace_and_metadata()? == Outcome::Stopped {
            return Ok(());
        }
        self.gate.open();
        if resync.data()? == Outcome::Stopped {
            return Ok(());
        }
        // ORDER: the target is durable before it is called in sync. A crash before that starts the
        // resync anew from the same source.
        self.sync_both(|leg| self.legs[leg].sync_all())?;
        // What turned the mirror read-only meanwhile may be known to the source alone: it stays the source.
        if !self.keeps_its_bits() {
            if self.compare_all {
                self.bitmap.all_compared(self)?;
            }
            self.health.record(Superblocks::resynced)?;
            self.unequal.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Sweeps until the mirror is shut down.
    pub fn sweep_until_stopped(&self) {
        while !self.stop.wait(self.options.sweep_interval) {
            if !self.options.read_only {
                self.sweep();
            }
        }
    }

    /// Ends what runs behind the mount: [`resync`](Self::resync) and
    /// [`sweep_until_stopped`](Self::sweep_until_stopped) return soon.
    pub fn stop(&self) {
        self.stop.ask();
        self.gate.shut();
    }

    /// After the last request and [`stop`](Self::stop): syncs, clears and records a clean shutdown.
    ///
    /// # Errors
    /// The superblocks cannot be written. Nothing is lost: the next mount resyncs.
    pub fn close(&self) -> io::Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        self.clear_idle(0);
        // What is still dirty is no matter of a fault alone: a resync that was stopped leaves bits too.
        // Without a record of a clean unmount the next mount resyncs by the bitmap.
        let clean = self.bitmap.stats().dirty_slots == 0 && self.is_equal();
        if !clean || self.keeps_its_bits() {
            return Ok(());
        }
        self.health.record(Superblocks::unmount)
    }

    /// Whether the resync is done, or none was needed.
    pub fn is_equal(&self) -> bool {
        !self.unequal.load(Ordering::Acquire)
    }

    /// How the mirror is.
    pub fn state(&self) -> MirrorState {
        if self.health.writable().is_err() {
            MirrorState::ReadOnly
        } else if !self.is_equal() {
            MirrorState::Resyncing
        } else if self.bitmap.stats().dirty_slots > 0 {
            MirrorState::Active
        } else {
            MirrorState::Clean
        }
    }

    /// Why the mirror is read-only, if it is.
    pub fn reason(&self) -> Option<String> {
        self.health.reason()
    }

    /// How a leg is.
    pub fn leg_state(&self, leg: LegId) -> LegState {
        match self.health.fault() {
            Some(fault) if fault.leg == leg => LegState::Faulted { errno: fault.errno },
            _ if !self.is_equal() && leg != self.source() => LegState::Resyncing,
            _ => LegState::InSync,
        }
    }

    /// The bitmap's counters.
    pub fn bitmap_stats(&self) -> Stats {
        self.bitmap.stats()
    }

    /// How far the resync is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How many objects the kernel knows.
    pub fn known_objects(&self) -> usize {
        self.table.count()
    }
}

impl<L: Leg> ResyncHost for Mirror<L> {
    fn with_object(&self, identity: &Identity, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<bool> {
        let Some(object) = self.table.hold(self.numbering.shown(identity.ino), identity) else {
            return Ok(false);
        };
        let result = {
            let _changing = object.lock.write();
            work()
        };
        self.table.reap(Some(object));
        result.map(|()| true)
    }

    fn stop_requested(&self) -> bool {
        self.stop.is_asked()
    }

    fn user_operations(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}
