//! The machine that is crashed: two disks, what the mirror keeps on them, and how it is mounted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mirrorfs::bitmap::{Bitmap, ChunkSize, Copies, DirtySlot, Expect, PageIndex, PageStore};
use mirrorfs::legs::simulated::content::SECTOR;
use mirrorfs::legs::simulated::image::Place;
use mirrorfs::legs::simulated::{Call, Flaw, SimDisk, SimLeg};
use mirrorfs::legs::timed::Calls;
use mirrorfs::legs::{LegId, PerLeg, Timed, Timestamp};
use mirrorfs::ops::{Herald, Mirror, News, Options, Parts, Returning, comes_later};
use mirrorfs::resync::Limits;
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, Moment, Rule};
use mirrorfs::sim::store::Medium;
use mirrorfs::superblock::{
    BitmapPlace, DivergentBecause, Found, FoundSide, Geometry, Plan, Refusal, SlotFault, Superblock,
    SuperblockStore, Work, fits, plan, plan_alone,
};
use mirrorfs::sync::{Mutex, Rank};

use crate::hanging::{Slow, in_place};
use crate::model::Crash;

pub const CHUNK: ChunkSize = ChunkSize::MIN;
pub const SLOTS: u32 = 64;

/// What is mirrored: as in the daemon, with a simulated leg where that has a directory.
pub type TestLeg = Timed<SimLeg>;

/// What is broken on purpose, or switched off, in a world.
#[derive(Clone, Copy, Debug)]
pub struct Broken {
    /// O1: bitmap writes are acknowledged and not durable.
    pub bitmap_lies: bool,
    /// Flaws of the legs.
    pub legs: PerLeg<Flaw>,
    /// A rule kept by locks, or inside the mirror.
    pub rule: Option<Rule>,
    /// O2, O8: superblock writes are acknowledged and not durable.
    pub superblock_lies: bool,
    /// What the superblocks mean.
    pub judging: Option<Misjudged>,
    /// How a leg is given up.
    pub discarding: Option<Misordered>,
}

/// The steps of `mirrorfs resolve --discard-leg` in another order, or one left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misordered {
    /// Files are moved aside before it is said that the leg is being given up.
    MovedFirst,
    /// What is aside is not durable when the leg is handed over.
    NotSynced,
    /// The marks are kept.
    MarksKept,
}

/// What the superblocks say is taken for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misjudged {
    /// Legs that have diverged for one of which B is stale.
    Divergent,
    /// A leg that went on with an old copy of the other one for a stale one.
    WentOn,
    /// A leg that is not complete for one that is.
    Incomplete,
    /// A leg that is further behind than the bitmap reaches for one that is not.
    Reach,
}

impl Misjudged {
    fn misjudge(self, plan: Result<Plan, Refusal>) -> Result<Plan, Refusal> {
        let stale = |leg: LegId| Plan { source: leg.other(), work: Work::CompareAll, stale: Some(leg) };
        match (self, plan) {
            (Misjudged::Divergent, Err(Refusal::Divergent(_))) => Ok(stale(LegId::B)),
            (Misjudged::WentOn, Err(Refusal::Divergent(DivergentBecause::WentOn(leg)))) => Ok(stale(leg)),
            (Misjudged::Incomplete, Err(Refusal::Incomplete(leg))) => {
                Ok(Plan { source: leg, work: Work::Alone, stale: Some(leg.other()) })
            }
            (Misjudged::Reach, Ok(plan)) if plan.work == Work::CompareAll => {
                Ok(Plan { work: Work::Resync, ..plan })
            }
            (_, plan) => plan,
        }
    }
}

impl Broken {
    pub fn nothing() -> Broken {
        let legs = PerLeg::new(Flaw::Sound, Flaw::Sound);
        Broken {
            bitmap_lies: false,
            legs,
            rule: None,
            superblock_lies: false,
            judging: None,
            discarding: None,
        }
    }
}

/// A leg fails a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub leg: LegId,
    pub call: Call,
    /// How many such calls go well before.
    pub after: u64,
    pub errno: i32,
    /// All such calls fail from then on, not only one.
    pub for_good: bool,
}

impl Fault {
    /// Whether it is what the mirror keeps on the leg that cannot be written.
    pub fn is_of_own_files(&self) -> bool {
        matches!(self.call, Call::Mark | Call::Record)
    }

    fn hits(&mut self, call: Call) -> Option<i32> {
        if call != self.call {
            return None;
        }
        match self.after {
            0 => {
                if !self.for_good {
                    self.after = u64::MAX;
                }
                Some(self.errno)
            }
            _ => {
                self.after -= 1;
                None
            }
        }
    }
}

/// The faults of a leg in one mount. Each of a kind of calls is asked of one clone: the leg's, its bitmap's or its
/// superblock's.
#[derive(Clone)]
struct Failing {
    faults: Vec<Fault>,
    has_failed: Arc<AtomicBool>,
}

impl Failing {
    /// `None` for a sound leg.
    fn of(leg: LegId, half: &Half, faults: &[Fault]) -> Option<Failing> {
        let faults: Vec<Fault> = faults.iter().filter(|fault| fault.leg == leg).copied().collect();
        (!faults.is_empty()).then(|| Failing { faults, has_failed: half.has_failed.clone() })
    }

    fn hits(&mut self, call: Call) -> Option<i32> {
        let fails = self.faults.iter_mut().find_map(|fault| fault.hits(call));
        self.has_failed.fetch_or(fails.is_some(), Ordering::Relaxed);
        fails
    }

    fn shared(failing: Option<Failing>) -> Option<Mutex<Failing>> {
        failing.map(|failing| Mutex::new(Rank::Leaf, failing))
    }
}

/// A disk and what the mirror keeps on it.
#[derive(Clone)]
pub struct Half {
    disk: SimDisk,
    bitmap: Medium,
    superblock: SuperblockFile,
    /// It has failed a call.
    has_failed: Arc<AtomicBool>,
}

impl Half {
    /// A disk that holds nothing yet.
    fn new(leg: LegId, superblock: Superblock) -> Half {
        let bitmap = Medium::new(Bitmap::create_image(superblock.mirror, SLOTS, CHUNK));
        let superblock = SuperblockFile::new(superblock);
        Half { disk: SimDisk::new(leg), bitmap, superblock, has_failed: Arc::default() }
    }

    /// Another one that holds the same.
    fn copy(&self) -> Half {
        let bitmap = Medium::new(self.bitmap.read_all());
        let (disk, superblock) = (self.disk.copy(), self.superblock.copy());
        Half { disk, bitmap, superblock, has_failed: Arc::default() }
    }
}

pub struct World {
    halves: PerLeg<Mutex<Half>>,
    /// New disks that have been given a superblock, to take a leg's place. Whether they have done so the other
    /// leg says.
    begun: Mutex<PerLeg<Option<Half>>>,
    /// The last ones that have not done so, with what was copied to them.
    left_over: Mutex<PerLeg<Option<Half>>>,
    /// How many of them became legs.
    replaced: AtomicU64,
    handles: bool,
    /// Legs on which objects have other numbers in each mount, and one look in so many.
    pub fleeting: PerLeg<Option<u64>>,
    broken: Broken,
    /// How many slots may be in use while a leg is away, if not as many as usual.
    crowded: Option<usize>,
    /// A leg is being taken in or replaced.
    is_taking_in: AtomicBool,
    /// A leg was left behind that had not failed.
    wronged: Mutex<Option<String>>,
}

/// Hears which legs are left behind, and for what.
pub struct Blames(pub Arc<World>);

impl Herald for Blames {
    fn tell(&self, news: News) {
        // Of one that is being filled it is said why that has ended, which may be the other one's failing.
        if let News::Left { leg, errno, recovering, why } = news
            && errno != 0
            && !(recovering && why.is_some())
            && !self.0.serving(leg).has_failed.load(Ordering::Relaxed)
        {
            *self.0.wronged.lock() =
                Some(format!("leg {leg} is left behind for errno {errno}, and has not failed"));
        }
    }
}

/// One leg is taken in or replaced at a time, as by the daemon.
pub struct TakingIn<'w>(&'w World);

impl Drop for TakingIn<'_> {
    fn drop(&mut self) {
        self.0.is_taking_in.store(false, Ordering::Relaxed);
    }
}

/// A mounted mirror and what is known about it from outside.
pub struct Mounted {
    pub mirror: Arc<Mirror<TestLeg>>,
    pub legs: PerLeg<Arc<SimLeg>>,
    /// What is asked of them.
    pub calls: PerLeg<Calls>,
    /// What the bitmap said before anything was resynced.
    pub dirty: Vec<DirtySlot>,
    /// Everything is compared.
    pub compare_all: bool,
    /// The leg that is there and is to be filled.
    pub later: Option<LegId>,
}

impl World {
    /// A new mirror on two empty disks.
    pub fn new(handles: bool, broken: Broken, crowded: Option<usize>) -> World {
        let geometry =
            Geometry { chunk_size: CHUNK.bytes(), bitmap_slots: SLOTS, bitmap_place: BitmapPlace::Leg };
        let superblocks = Superblock::new_pair(geometry);
        let half = |leg| Mutex::new(Rank::Leaf, Half::new(leg, superblocks[leg].clone()));
        let begun = Mutex::new(Rank::Leaf, PerLeg::new(None, None));
        World {
            halves: PerLeg::from_fn(half),
            begun,
            left_over: Mutex::new(Rank::Leaf, PerLeg::new(None, None)),
            replaced: AtomicU64::new(0),
            handles,
            fleeting: PerLeg::default(),
            broken,
            crowded,
            is_taking_in: AtomicBool::new(false),
            wronged: Mutex::new(Rank::Leaf, None),
        }
    }

    fn half(&self, leg: LegId) -> Half {
        self.halves[leg].lock().clone()
    }

    /// The leg, even where a new disk has taken its place just now.
    fn serving(&self, leg: LegId) -> Half {
        let new = self.begun.lock()[leg].clone();
        let peer = self.superblock(leg.other()).peer;
        new.filter(|new| new.superblock.newest().leg == peer).unwrap_or_else(|| self.half(leg))
    }

    /// Nobody wonders if this leg is left behind.
    pub fn may_fail(&self, leg: LegId) {
        self.half(leg).has_failed.store(true, Ordering::Relaxed);
    }

    /// Whether this leg has failed a call.
    pub fn has_failed(&self, leg: LegId) -> bool {
        self.half(leg).has_failed.load(Ordering::Relaxed)
    }

    /// What is said of a leg that was left behind although it had not failed.
    pub fn take_wronged(&self) -> Option<String> {
        self.wronged.lock().take()
    }

    /// A leg's disk, as long as no other one takes its place.
    pub fn disk(&self, leg: LegId) -> SimDisk {
        self.half(leg).disk
    }

    fn found(&self) -> PerLeg<Found> {
        PerLeg::from_fn(|leg| self.half(leg).superblock.found())
    }

    /// What a mount would do, perhaps without a leg.
    pub fn plan(&self, missing: Option<LegId>) -> Result<Plan, Refusal> {
        let found = self.found();
        let plan = match missing {
            Some(leg) => plan_alone(leg.other(), &found[leg.other()]),
            None => plan(&found),
        };
        match self.broken.judging {
            Some(judging) => judging.misjudge(plan),
            None => plan,
        }
    }

    /// Mounts, as the daemon does, perhaps without a leg.
    pub fn mount(&self, faults: &[Fault], missing: Option<LegId>) -> Result<Mounted, String> {
        self.mount_slow(faults, missing, None)
    }

    /// The same, with legs that may hang.
    pub fn mount_slow(
        &self,
        faults: &[Fault],
        missing: Option<LegId>,
        slow: Option<&Slow>,
    ) -> Result<Mounted, String> {
        let mut plan = self.plan(missing).map_err(|refusal| format!("refused: {refusal:?}"))?;
        let is_there = |leg: LegId| missing != Some(leg);
        let failing = PerLeg::from_fn(|leg| Failing::of(leg, &self.half(leg), faults));
        let legs = PerLeg::from_fn(|leg| Arc::new(self.leg(leg, failing[leg].clone(), slow)));
        let timed = PerLeg::from_fn(|leg| wait_for(slow, leg, &legs[leg]));
        let calls = PerLeg::from_fn(|leg| timed[leg].calls());
        let bitmap = |leg: LegId| {
            let file = self.bitmap_on(&self.half(leg), failing[leg].clone());
            in_time(slow, leg, &timed[leg], file)
        };
        let copies = Copies::PerLeg(PerLeg::from_fn(|leg| is_there(leg).then(|| bitmap(leg))));
        let mirror = self.superblock(LegId::A).mirror;
        let expect =
            Expect { mirror, slots: SLOTS, chunk: CHUNK, file: uuid::Uuid::nil(), stale: plan.stale };
        let loaded = copies.load(&expect);
        if loaded.compare_all && missing.is_none() && !self.overflowed() {
            return Err(format!("the bitmap is damaged: {:?}", loaded.verdicts));
        }
        let dirty = loaded.dirty();
        log::debug!("{plan:?}, without {missing:?}");
        dirty.iter().for_each(|slot| log::trace!("{slot:?}"));
        let fleeting = self.fleeting.iter().any(|(_, fleeting)| fleeting.is_some());
        let compare_all = loaded.compare_all || plan.work == Work::CompareAll || fleeting;
        let bitmap = Bitmap::new(copies, loaded, plan.source).map_err(|error| format!("bitmap: {error}"))?;
        let mut there = PerLeg::from_fn(|leg| is_there(leg).then(|| timed[leg].clone()));
        let later = comes_later(&plan, &there, &bitmap).filter(|_| fleeting);
        if let Some(leg) = later {
            // The daemon does so where numbers last, too.
            plan = Plan { work: Work::Alone, stale: Some(leg), ..plan };
            bitmap.stop_using(leg);
            drop((bitmap.take_copy(leg), there[leg].take()));
        }
        self.crowded.into_iter().for_each(|slots| bitmap.limit_while_away(slots));
        let parts = Parts {
            superblocks: PerLeg::from_fn(|leg| {
                there[leg].is_some().then(|| self.side(leg, failing[leg].clone(), slow, &timed[leg]))
            }),
            legs: there,
            bitmap,
            plan,
        };
        let mirror = Mirror::assemble(parts, options()).map_err(|error| format!("mount: {error}"))?;
        Ok(Mounted { mirror, legs, calls, dirty, compare_all, later })
    }

    /// Waits for its turn to take a leg in or to replace one.
    pub fn take_turn(&self) -> TakingIn<'_> {
        while self.is_taking_in.swap(true, Ordering::Relaxed) {
            scheduler::pause();
        }
        TakingIn(self)
    }

    /// A leg that comes back, sound; an error if the superblocks do not let it.
    pub fn returning(&self, leg: LegId, slow: Option<&Slow>) -> Result<Returning<TestLeg>, String> {
        let found = self.found();
        let plan = plan(&found).map_err(|refusal| format!("refused: {refusal:?}"))?;
        if plan.stale != Some(leg) {
            return Err(format!("leg {leg} is away, and the superblocks say {plan:?}"));
        }
        let directory = wait_for(slow, leg, &Arc::new(self.leg(leg, None, slow)));
        Ok(Returning {
            leg,
            superblock: self.side(leg, None, slow, &directory),
            bitmap: Some(in_time(slow, leg, &directory, self.bitmap(leg))),
            directory,
            compare_all: plan.work == Work::CompareAll,
            is_new: false,
        })
    }

    /// A new disk that is to take a leg's place. [`settle`](Self::settle) it when it has been tried.
    pub fn replacement(&self, leg: LegId, slow: Option<&Slow>) -> Returning<TestLeg> {
        let new = Half::new(leg, self.superblock(leg.other()).new_peer());
        let sim = self.leg_on(leg, &new, None);
        let superblock = Box::new(new.superblock.clone());
        self.begin(leg, new, wait_for(slow, leg, &Arc::new(sim)), superblock)
    }

    /// The same of one that may have this fault until it is a leg; if `again`, the one of the last time, with what it
    /// has got, if it is fit for that.
    pub fn replacement_with(&self, leg: LegId, fault: Option<Fault>, again: bool) -> Returning<TestLeg> {
        let survivor = self.superblock(leg.other());
        let last = self.left_over.lock()[leg].take();
        let last = last.filter(|half| again && fits(&half.superblock.found(), true, &survivor).is_ok());
        let mut new = Half::new(leg, survivor.new_peer());
        if let Some(last) = last {
            new.disk = last.disk;
        }
        let is_leg = Arc::new(AtomicBool::new(false));
        let sim = self.leg_on(leg, &new, None);
        let sim = match fault {
            None => sim,
            Some(mut fault) => sim.with_faults({
                let is_leg = is_leg.clone();
                Box::new(move |_, call| if is_leg.load(Ordering::Relaxed) { None } else { fault.hits(call) })
            }),
        };
        let superblock = Box::new(TakenIn { file: new.superblock.clone(), is_leg });
        self.begin(leg, new, in_place(&Arc::new(sim)), superblock)
    }

    fn begin(
        &self,
        leg: LegId,
        new: Half,
        directory: Arc<TestLeg>,
        superblock: Box<dyn SuperblockStore>,
    ) -> Returning<TestLeg> {
        let (superblock, bitmap) = ((new.superblock.newest(), superblock), Some(self.bitmap_on(&new, None)));
        self.begun.lock()[leg] = Some(new);
        Returning { leg, directory, superblock, bitmap, compare_all: true, is_new: true }
    }

    fn bitmap(&self, leg: LegId) -> Box<dyn PageStore> {
        self.bitmap_on(&self.half(leg), None)
    }

    fn bitmap_on(&self, half: &Half, failing: Option<Failing>) -> Box<dyn PageStore> {
        let medium = half.bitmap.clone();
        let medium = if self.broken.bitmap_lies { medium.lying() } else { medium };
        Box::new(BitmapFile { medium, failing: Failing::shared(failing) })
    }

    fn side(&self, leg: LegId, failing: Option<Failing>, slow: Option<&Slow>, timed: &TestLeg) -> FoundSide {
        let file = self.half(leg).superblock;
        let newest = file.open();
        let superblock = Box::new(OpenSuperblock { file, failing: Failing::shared(failing) });
        match slow {
            Some(slow) => (newest, slow.superblock(leg, superblock, timed)),
            None => (newest, superblock),
        }
    }

    /// Whether a copy of the bitmap says that everything is to be compared.
    pub fn overflowed(&self) -> bool {
        const FLAGS: usize = 12;
        LegId::ALL.into_iter().any(|leg| self.half(leg).bitmap.read_all()[FLAGS] & 1 == 1)
    }

    fn leg(&self, id: LegId, failing: Option<Failing>, slow: Option<&Slow>) -> SimLeg {
        let leg = self.leg_on(id, &self.half(id), failing);
        match slow.and_then(|slow| slow.hang(id)) {
            Some(hang) => {
                self.may_fail(id);
                leg.hanging(hang)
            }
            None => leg,
        }
    }

    fn leg_on(&self, id: LegId, half: &Half, failing: Option<Failing>) -> SimLeg {
        let leg = SimLeg::new(id, half.disk.clone()).with_flaw(self.broken.legs[id]);
        let leg = match self.fleeting[id] {
            // What was given a number before in another mount is another object.
            Some(forgets_one_in) => leg.fleeting(self.superblock(id).events % 7, forgets_one_in),
            None if self.handles => leg,
            None => leg.without_handles(),
        };
        match failing {
            Some(mut failing) => leg.with_faults(Box::new(move |_, call| failing.hits(call))),
            None => leg,
        }
    }

    /// The machine comes up again after a crash.
    pub fn survive(&self, crash: Crash, rng: &mut Rng) {
        let begun = self.begun.lock().clone();
        let left = self.left_over.lock().clone();
        let halves = LegId::ALL
            .into_iter()
            .flat_map(|leg| [Some(self.half(leg)), begun[leg].clone(), left[leg].clone()]);
        for half in halves.flatten() {
            match crash {
                Crash::Kill => half.disk.survive_kill(),
                Crash::PowerCut => {
                    half.disk.survive_power_cut(rng);
                    half.superblock.survive_power_cut(self.broken.superblock_lies);
                    half.bitmap.survive_power_cut();
                }
            }
        }
        self.settle();
    }

    /// Those new disks are the legs that have been taken in; the others have never been any.
    pub fn settle(&self) {
        let mut begun = self.begun.lock().clone();
        for leg in LegId::ALL {
            let peer = self.superblock(leg.other()).peer;
            match begun[leg].take() {
                Some(new) if new.superblock.newest().leg == peer => {
                    *self.halves[leg].lock() = new;
                    self.replaced.fetch_add(1, Ordering::Relaxed);
                }
                Some(new) => self.left_over.lock()[leg] = Some(new),
                None => {}
            }
        }
        *self.begun.lock() = begun;
    }

    /// How many new disks became legs.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// An image of a leg as it is now.
    pub fn back_up(&self, leg: LegId) -> Half {
        self.half(leg).copy()
    }

    /// A leg is what it was when this image was made. Its clock goes on.
    pub fn put_back(&self, leg: LegId, image: &Half) {
        let half = image.copy();
        half.disk.go_on_after(&self.disk(leg));
        *self.halves[leg].lock() = half;
    }

    /// What `mirrorfs resolve --discard-leg` does, with these files of the leg to be moved aside, each to a name.
    pub fn discard(&self, leg: LegId, differing: &[(Place, String)]) -> io::Result<()> {
        let (kept, Half { disk, superblock: store, .. }) = (self.superblock(leg.other()), self.half(leg));
        let says = store.open();
        let says = if says.is_announced() { says } else { says.announced() };
        let write_twice = |next: &Superblock| store.write(next).and_then(|()| store.write(next));
        let move_aside = || differing.iter().try_for_each(|(from, name)| disk.move_aside(from, name));
        if self.broken.discarding == Some(Misordered::MovedFirst) {
            move_aside()?;
            write_twice(&says)?;
        } else {
            write_twice(&says)?;
            move_aside()?;
        }
        if self.broken.discarding != Some(Misordered::NotSynced) {
            disk.sync()?;
        }
        if self.broken.discarding != Some(Misordered::MarksKept) {
            let ignorant = Bitmap::ignorant_image(kept.mirror, SLOTS, CHUNK, uuid::Uuid::nil());
            LegId::ALL.into_iter().try_for_each(|leg| Bitmap::forget(&*self.bitmap(leg), &ignorant))?;
        }
        write_twice(&says.handed_over(&kept))
    }

    /// Which leg a mount would read from.
    pub fn source(&self) -> LegId {
        let found = self.found();
        plan(&found).map_or(LegId::A, |plan| plan.source)
    }

    /// What each leg's superblock says.
    pub fn superblock(&self, leg: LegId) -> Superblock {
        self.half(leg).superblock.newest()
    }

    /// How many slots of the copies on disk are dirty.
    pub fn dirty_slots(&self) -> usize {
        let copies = Copies::PerLeg(PerLeg::from_fn(|leg| Some(self.bitmap(leg))));
        let mirror = self.superblock(LegId::A).mirror;
        let expect = Expect { mirror, slots: SLOTS, chunk: CHUNK, file: uuid::Uuid::nil(), stale: None };
        copies.load(&expect).dirty().len()
    }
}

/// The leg as it is waited for.
fn wait_for(slow: Option<&Slow>, id: LegId, leg: &Arc<SimLeg>) -> Arc<TestLeg> {
    slow.map_or_else(|| in_place(leg), |slow| slow.wait_for(id, leg))
}

/// Its copy of the bitmap likewise.
fn in_time(slow: Option<&Slow>, id: LegId, leg: &TestLeg, store: Box<dyn PageStore>) -> Box<dyn PageStore> {
    match slow {
        Some(slow) => slow.pages(id, leg, store),
        None => store,
    }
}

fn options() -> Options {
    Options {
        read_only: false,
        sweep_interval: Duration::from_secs(1),
        pinned_directories: 4,
        resync_limits: Limits::default(),
        writeback: false,
        clock: || Timestamp { secs: 1_700_000_000, nanos: 0 },
    }
}

/// A copy of the bitmap on a [`Medium`].
struct BitmapFile {
    medium: Medium,
    failing: Option<Mutex<Failing>>,
}

impl PageStore for BitmapFile {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.medium.read_all())
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        let offset = u64::from(page.0) * mirrorfs::bitmap::PAGE_SIZE as u64;
        let Some(number) = self.failing.as_ref().and_then(|failing| failing.lock().hits(Call::Mark)) else {
            return self.medium.write(offset, bytes);
        };
        // It may have written a part, or all of it.
        let written = SECTOR * scheduler::choose(1 + bytes.len() as u64 / SECTOR);
        self.medium.write(offset, &bytes[..written as usize])?;
        Err(io::Error::from_raw_os_error(number))
    }
}

/// A leg's superblock file: two slots, written in turn. A write in which the machine dies, or that fails, leaves
/// the slot old, new or damaged.
#[derive(Clone)]
struct SuperblockFile(Arc<Mutex<Slots>>);

struct Slots {
    now: [Option<Superblock>; 2],
    /// What there was when the leg was last known to keep what it was given.
    before: [Option<Superblock>; 2],
    /// The number of the last write that the mirror knows of. The next one goes to the other slot.
    last: u64,
}

/// What a write of a superblock that did not succeed leaves of its slot.
#[derive(Clone, Copy)]
enum Slot {
    Old,
    New,
    Damaged,
}

impl Slot {
    fn by_chance() -> Slot {
        [Slot::Old, Slot::New, Slot::Damaged][scheduler::choose(3) as usize]
    }
}

impl SuperblockFile {
    fn new(superblock: Superblock) -> SuperblockFile {
        let second = Superblock { sequence: 1, ..superblock.clone() };
        SuperblockFile::holding([Some(superblock), Some(second)])
    }

    fn holding(slots: [Option<Superblock>; 2]) -> SuperblockFile {
        let last = slots.iter().flatten().map(|superblock| superblock.sequence).max().unwrap_or(0);
        SuperblockFile(Arc::new(Mutex::new(Rank::Leaf, Slots { now: slots.clone(), before: slots, last })))
    }

    /// What it says to who is going to write it.
    fn open(&self) -> Superblock {
        let newest = self.newest();
        self.0.lock().last = newest.sequence;
        newest
    }

    fn copy(&self) -> SuperblockFile {
        SuperblockFile::holding(self.0.lock().now.clone())
    }

    /// The power went. If the leg lies, it has nothing of what was written since the power went before.
    fn survive_power_cut(&self, lies: bool) {
        let mut slots = self.0.lock();
        if lies {
            slots.now = slots.before.clone();
        }
        slots.before = slots.now.clone();
    }

    fn newest(&self) -> Superblock {
        let slots = self.0.lock().now.clone();
        slots.into_iter().flatten().max_by_key(|superblock| superblock.sequence).expect("a slot is whole")
    }

    fn found(&self) -> Found {
        let damaged = self.0.lock().now.iter().any(Option::is_none);
        Found::Leg { superblock: self.newest(), damaged_slot: damaged.then_some(SlotFault::Short) }
    }
}

/// The superblock of a new disk, which is written once that is a leg.
struct TakenIn {
    file: SuperblockFile,
    is_leg: Arc<AtomicBool>,
}

impl SuperblockStore for TakenIn {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        self.is_leg.store(true, Ordering::Relaxed);
        self.file.write(superblock)
    }
}

impl SuperblockFile {
    fn put(&self, superblock: &Superblock, slot: Slot, is_known: bool) {
        let sequence = self.0.lock().last + 1;
        let next = Superblock { sequence, ..superblock.clone() };
        let mut slots = self.0.lock();
        let place = (sequence % 2) as usize;
        match slot {
            Slot::Old => {}
            Slot::New => slots.now[place] = Some(next),
            Slot::Damaged => slots.now[place] = None,
        }
        if is_known {
            slots.last = sequence;
        }
    }
}

impl SuperblockStore for SuperblockFile {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let moment = scheduler::step()?;
        log::trace!("superblock of {}: {superblock:?}", superblock.role);
        if moment == Moment::Last {
            self.put(superblock, Slot::by_chance(), false);
            scheduler::die();
        }
        self.put(superblock, Slot::New, true);
        Ok(())
    }
}

/// A leg's superblock file, as a mount has it open.
struct OpenSuperblock {
    file: SuperblockFile,
    failing: Option<Mutex<Failing>>,
}

impl SuperblockStore for OpenSuperblock {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let Some(number) = self.failing.as_ref().and_then(|failing| failing.lock().hits(Call::Record)) else {
            return self.file.write(superblock);
        };
        log::trace!("superblock of {} is not written", superblock.role);
        self.file.put(superblock, Slot::by_chance(), false);
        Err(io::Error::from_raw_os_error(number))
    }
}
