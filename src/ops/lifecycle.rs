//! A mirror's life: put together, started, resynced behind the mount, shut down.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::covers::Covers;
use super::failover::Turning;
use super::filling::Noting;
use super::freed::Freed;
use super::health::{Health, Lost};
use super::mtimes::Mtimes;
use super::not_equal::NotEqual;
use super::{Invalidate, LegState, Mirror, MirrorState, Neither, News, ReadErrors, gate::Gate};
use crate::bitmap::{Bitmap, CopyId, DirtySlot, Host, IdleSlot, Stats};
use crate::error::errno;
use crate::inode::{Handles, Numbering, Pins, Table};
use crate::legs::{Identity, Leg, LegId, PerLeg, Timestamp};
use crate::resync::{self, Limits, Outcome, Progress, Resync, ResyncHost, Scope};
use crate::superblock::{FoundSide, Plan, Superblock, Superblocks, Work};
use crate::sync::{Condvar, Mutex, Rank, RwLock};

/// Listings kept at most until they have been read to the end.
const LISTINGS: usize = 64;

/// What a mirror is put together from: two legs that are locked, read and judged to belong together, or
/// one that is judged fit to go on alone.
pub struct Parts<L: Leg> {
    /// The legs that are there.
    pub legs: PerLeg<Option<Arc<L>>>,
    /// The bitmap as it was found, its slots dirty.
    pub bitmap: Bitmap,
    /// The superblocks of these legs as they were found, and where to write the next ones.
    pub superblocks: PerLeg<Option<FoundSide>>,
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
    /// How fast data is resynced.
    pub resync_limits: Limits,
    /// The kernel keeps what is written, and tells the times of files: see `mtimes`.
    pub writeback: bool,
    /// Says what time it is.
    pub clock: fn() -> Timestamp,
}

/// Lets the threads behind the mount end.
pub(super) struct Stop {
    asked: AtomicBool,
    /// The sweeper is to look now.
    nudged: AtomicBool,
    waiting: Mutex<()>,
    wake: Condvar,
}

/// Why the sweeper does not wait any longer.
enum Woken {
    ToStop,
    Nudged,
    InTime,
}

impl Stop {
    fn new() -> Self {
        Stop {
            asked: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            waiting: Mutex::new(Rank::Leaf, ()),
            wake: Condvar::new(),
        }
    }

    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        // Whoever looked at `asked` before holds the lock until it waits.
        drop(self.waiting.lock());
        self.wake.notify_all();
    }

    /// Ends the wait of the sweeper.
    pub fn nudge(&self) {
        self.nudged.store(true, Ordering::Release);
        drop(self.waiting.lock());
        self.wake.notify_all();
    }

    /// Waits for `time`, or less when there is something to do before.
    fn wait(&self, time: Duration) -> Woken {
        let mut waiting = self.waiting.lock();
        if !self.is_asked() && !self.nudged.load(Ordering::Acquire) {
            self.wake.wait_for(&mut waiting, time);
        }
        match (self.is_asked(), self.nudged.swap(false, Ordering::AcqRel)) {
            (true, _) => Woken::ToStop,
            (false, true) => Woken::Nudged,
            (false, false) => Woken::InTime,
        }
    }
}

impl<L: Leg> Mirror<L> {
    /// Puts a mirror together and records on both legs that it is in use. Nothing has been read
    /// through it by then, so the choice of the source is durable before anyone can see it.
    ///
    /// # Errors
    /// A leg that cannot be read, or whose superblock cannot be written.
    pub fn assemble(parts: Parts<L>, options: Options) -> io::Result<Arc<Mirror<L>>> {
        let Parts { legs, bitmap, superblocks, mut plan } = parts;
        let roots =
            PerLeg::from_fn(|leg| legs[leg].as_ref().map(|leg| leg.identity(&leg.root())).transpose())
                .transpose()?;
        let of_source = roots[plan.source].ok_or_else(|| errno(libc::ENODEV))?;
        if plan.work == Work::CompareAll && !options.read_only {
            // ORDER: before the superblocks say that the other leg is being recovered by the bitmap.
            bitmap.set_compare_all(&BeforeMount)?;
        }
        if !options.read_only && has_slots_of_another_history(&bitmap, &plan, &legs) {
            // FAIL-SAFE: what they say the source has not would be taken from the other leg.
            log::warn!(
                "the bitmap says what cannot be so of these legs: has one been put back from a copy? Everything is compared"
            );
            bitmap.start_over(&BeforeMount, plan.source)?;
        }
        if !options.read_only {
            legs.iter().filter_map(|(_, leg)| leg.as_ref()).for_each(|leg| leg.measure());
            let is_fleeting = |leg: &LegId| legs[*leg].as_ref().is_some_and(|leg| !leg.identities_last());
            if let Some(leg) = LegId::ALL.into_iter().find(is_fleeting)
                && !bitmap.unresynced().is_empty()
            {
                // ORDER: before anything is marked or made equal: what this mount calls an object says nothing about
                // a slot that another one has made, so a crash from here on must find this again. And the slot must
                // not be taken for that of whatever has the number now, which would be given another object's times.
                log::warn!(
                    "a leg is on a FUSE filesystem, where what is dirty is not found again: everything is compared"
                );
                bitmap.start_over(&BeforeMount, leg)?;
            }
        }
        if let Some(source) = legs[plan.source].as_ref().filter(|_| !options.read_only) {
            // ORDER: before anything can be marked.
            resync::renew(&**source, plan.source, &bitmap, &BeforeMount)?;
        }
        let both = plan.work != Work::Alone;
        if both && (bitmap.compare_all() || !bitmap.unresynced().is_empty()) {
            plan.work = Work::Resync;
        }
        let work = both && plan.work != Work::Nothing;
        let lost = PerLeg::from_fn(|leg| {
            let since = (options.clock)();
            legs[leg].is_none().then_some(Lost { errno: libc::ENODEV, since, missing: true })
        });
        let born = match &legs[plan.source] {
            Some(leg) if !both && !options.read_only => leg.birth_now().ok().flatten(),
            _ => None,
        };
        let written = if options.read_only {
            None
        } else {
            Some(Superblocks::mount(superblocks, &plan, born).map_err(|failed| failed.error)?)
        };
        if !both {
            bitmap.set_away(Some(plan.source.other()));
        }
        if both && !options.read_only {
            let birth = |leg: LegId| legs[leg].as_ref().and_then(|leg| leg.birth_now().ok().flatten());
            bitmap.note_births(PerLeg::from_fn(birth));
        }
        let mirror = Mirror {
            table: Table::new(plan.source, Numbering::new(of_source.ino), roots),
            handles: Handles::default(),
            pins: Pins::new(options.pinned_directories),
            listings: Pins::new(LISTINGS),
            gate: Gate::new(!work || options.read_only),
            inside: RwLock::new(Rank::Gate, ()),
            turning: Turning::new(),
            resyncing: Mutex::new(Rank::Resync, ()),
            health: Health::new(written, plan.source, lost),
            rename: Mutex::new(Rank::Rename, ()),
            progress: Progress::default(),
            unequal: AtomicBool::new(work),
            returned: AtomicBool::new(plan.stale.is_some()),
            stop: Stop::new(),
            neither: Mutex::new(Rank::Leaf, Neither::default()),
            read_errors: PerLeg::from_fn(|_| Mutex::new(Rank::Leaf, ReadErrors::default())),
            unreadable: Mutex::new(Rank::Leaf, Vec::new()),
            requests: AtomicU64::new(0),
            invalidate: OnceLock::new(),
            herald: OnceLock::new(),
            covers: Covers::new(),
            noting: Noting::new(),
            terms: PerLeg::default(),
            sweeping: Mutex::new(Rank::Sweep, ()),
            told: AtomicBool::new(false),
            freed: Freed::new(),
            mtimes: Mtimes::new(),
            legs: legs.map(|leg| RwLock::new(Rank::Leaf, leg)),
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
    /// data. Returns when done, stopped or failed; what is left is done at the next mount. If it fails, the
    /// leg that was being made equal is left behind.
    pub fn resync(&self) {
        let _one_at_a_time = self.resyncing.lock();
        if self.options.read_only || self.is_equal() {
            return;
        }
        let target = self.source().other();
        if !self.told.swap(false, Ordering::Relaxed) {
            self.tell(News::Recovering(target));
        }
        let tried = self.try_resync();
        let because = match &tried {
            Err(failed) => Some(failed.to_string()),
            Ok(()) if self.stop.is_asked() => {
                Some("the mirror is being unmounted; the next mount goes on".into())
            }
            Ok(()) if !self.is_equal() => Some(format!("leg {target} is away")),
            Ok(()) => None,
        };
        self.tell(News::Recovered { leg: target, returned: self.returned(), because });
        if let Err(failed) = tried
            && self.health.in_service(target)
            && let Err(error) = self.fault_because(target, failed.errno(), Some(failed.to_string()))
        {
            let reason = format!(
                "the resync failed ({error}); see to the legs, unmount and mount again: it then starts anew"
            );
            self.turn_read_only(reason);
        }
        self.progress.stopped();
        self.gate.shut();
    }

    fn try_resync(&self) -> Result<(), NotEqual> {
        let legs = self.both_legs()?;
        let new = || {
            let scope = if self.bitmap.compare_all() { Scope::Everything } else { Scope::Dirty };
            Resync::new(&legs, &self.bitmap, self.source(), scope, self, &self.progress)
        };
        let told_all = !self.bitmap.compare_all();
        let mut resync = new();
        let mut named = resync.namespace_and_metadata();
        if named.is_err() && told_all && self.bitmap.compare_all() {
            // The bitmap turned out not to tell all.
            self.progress.restart();
            resync = new();
            named = resync.namespace_and_metadata();
        }
        let failed = |resync: &Resync<'_, L>, error| {
            let trouble = resync.trouble();
            let file = trouble
                .and_then(|trouble| trouble.source_ino)
                .and_then(|ino| self.names_on_source(&legs, &[ino]).pop());
            NotEqual::Failed { error, leg: trouble.map(|trouble| trouble.leg), file }
        };
        match named {
            Ok(Outcome::Stopped) => return Ok(()),
            Err(error) => return Err(failed(&resync, error)),
            Ok(_) => {}
        }
        self.find_nameless(&legs);
        // What the resync has built was born after all that had been seen, and is covered by nothing.
        let birth = |leg: LegId| legs[leg].birth_now().ok().flatten();
        self.bitmap.note_births(PerLeg::from_fn(birth));
        self.gate.open();
        match resync.data() {
            Ok(Outcome::Stopped) => return Ok(()),
            Ok(Outcome::Incomplete) => {
                let unreadable = resync.unreadable();
                let files = self.names_on_source(&legs, &unreadable);
                return Err(NotEqual::Unreadable { leg: self.source(), count: unreadable.len(), files });
            }
            Err(error) => return Err(failed(&resync, error)),
            Ok(Outcome::Done) => {}
        }
        // ORDER: the target is durable before it is called in sync. A crash before that starts the
        // resync anew from the same source.
        self.sync_both(|_| true, |leg| self.leg(leg)?.sync_all())?;
        // ORDER: with no change under way. One that meets a leg's fault now may count on everything being compared.
        // A change may be stuck in a leg that hangs, also when that has been left behind.
        let nobody_is_inside = self.inside.write_unless(|| self.stop_requested());
        // A leg that was left behind meanwhile misses what has been written since.
        if nobody_is_inside.is_some() && !self.keeps_its_bits() {
            self.bitmap.all_compared(self)?;
            self.health.record(Superblocks::resynced).map_err(|failed| failed.error)?;
            self.unequal.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Of what has these inode numbers on the source: paths, as far as they are to be found, for people.
    fn names_on_source(&self, legs: &PerLeg<Arc<L>>, inos: &[u64]) -> Vec<String> {
        self.names_on(&*legs[self.source()], inos)
    }

    /// The same, of one leg.
    pub(super) fn names_on<M: Leg>(&self, leg: &M, inos: &[u64]) -> Vec<String> {
        let wanted = inos.iter().copied().collect();
        let places = resync::places_of(leg, &wanted, || self.stop.is_asked());
        let name = |ino: &u64| match places.get(ino) {
            Some(path) => path.display().to_string(),
            None => format!("inode {ino}"),
        };
        wanted.iter().map(name).collect()
    }

    /// Sweeps, and mends what cannot be read, until the mirror is shut down.
    pub fn sweep_until_stopped(&self) {
        loop {
            let woken = self.stop.wait(self.options.sweep_interval);
            if matches!(woken, Woken::InTime) {
                self.listings.age();
            }
            match woken {
                Woken::ToStop => return,
                _ if self.options.read_only => {}
                Woken::Nudged => self.mend(),
                Woken::InTime => self.sweep(),
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
        // What waits for another slot to be cleared has its turn after that.
        while self.clear_idle(0) > 0 {}
        if self.health.writable().is_err() {
            return Ok(());
        }
        if self.health.is_degraded() {
            let source = self.source();
            self.leg(source)?.sync_all()?;
        } else if self.bitmap.stats().dirty_slots > 0 || !self.is_equal() {
            // Without a record of a clean unmount the next mount resyncs by the bitmap.
            return Ok(());
        }
        self.health.record(Superblocks::unmount).map_err(|failed| failed.error)
    }

    /// Whether the resync is done, or none was needed.
    pub fn is_equal(&self) -> bool {
        !self.unequal.load(Ordering::Acquire)
    }

    /// How the mirror is.
    pub fn state(&self) -> MirrorState {
        if self.health.writable().is_err() {
            MirrorState::ReadOnly
        } else if self.health.is_degraded() {
            MirrorState::Degraded
        } else if !self.is_equal() {
            MirrorState::Resyncing
        } else if self.bitmap.stats().dirty_slots > 0 {
            MirrorState::Active
        } else {
            MirrorState::Clean
        }
    }

    /// Whether the leg that is made equal had been away, and was not only behind by a crash.
    fn returned(&self) -> bool {
        self.returned.load(Ordering::Relaxed)
    }

    /// Why the mirror is read-only, if it is.
    pub fn reason(&self) -> Option<String> {
        self.health.reason()
    }

    /// Why a leg was left behind, where there is more to say than its errno.
    pub fn why_lost(&self, leg: LegId) -> Option<String> {
        self.health.why(leg)
    }

    /// How a leg is.
    pub fn leg_state(&self, leg: LegId) -> LegState {
        match self.health.lost(leg) {
            Some(lost) => LegState::Lost(lost),
            None if !self.is_equal() && leg != self.source() => LegState::Resyncing,
            _ => LegState::InSync,
        }
    }

    /// Bytes that one bit of the bitmap stands for.
    pub fn chunk_bytes(&self) -> u64 {
        self.bitmap.chunk_size().bytes()
    }

    /// What a leg's superblock says; `None` when the leg is not there.
    pub fn superblock(&self, leg: LegId) -> Option<Superblock> {
        self.health.superblock(leg)
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

/// Whether slots are left from a history that these legs are not of. A recovery may have brought them to the bitmap of
/// its target and got no further, before the leg that it was from was put back from a copy.
fn has_slots_of_another_history<L: Leg>(bitmap: &Bitmap, plan: &Plan, legs: &PerLeg<Option<Arc<L>>>) -> bool {
    #[cfg(feature = "simulation")]
    if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::AnotherHistory) {
        return false;
    }
    let slots = bitmap.unresynced();
    let target = &legs[plan.source.other()];
    // What is named by its place was marked while that leg was away. When a recovery has ended it has made that there,
    // and says so in the slot, or it is gone from both.
    let is_gone = |slot: &DirtySlot| {
        let found = target.as_ref().map(|target| target.find(&slot.identities[plan.source.other()]));
        // FAIL-SAFE: of a leg that is not there, or does not tell, nobody knows.
        found.is_some_and(|found| matches!(resync::gone_is_none(found.map(|_| ())), Ok(None)))
    };
    let is_left = |slot: &DirtySlot| slot.identities[plan.source].place().is_some() && !is_gone(slot);
    // Legs that both were unmounted cleanly have no slots.
    plan.work == Work::Nothing && !slots.is_empty() || slots.iter().any(is_left)
}

/// Stands for the mirror before it is one: nothing is cleared, and every copy of the bitmap is needed.
struct BeforeMount;

impl Host for BeforeMount {
    fn settle_and_sync(&self, _: &[IdleSlot]) -> io::Result<()> {
        Err(errno(libc::EBUSY))
    }

    fn copy_failed(&self, _: CopyId, error: &io::Error) -> io::Result<()> {
        Err(errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

impl<L: Leg> ResyncHost for Mirror<L> {
    fn with_object(&self, identity: &Identity, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<bool> {
        let Some(object) = self.table.hold(identity) else {
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
        self.stop.is_asked() || self.health.is_degraded()
    }

    fn user_operations(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn limits(&self) -> Limits {
        self.options.resync_limits
    }
}
