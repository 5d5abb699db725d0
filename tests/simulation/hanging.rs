//! Legs that hang and answer late.
//!
//! What is real: all of `legs::timed` (couriers, patience, errands, the watchdog, the copy of the bitmap and the
//! superblock), [`Mirror::leg_hangs`] and what follows from it, and the daemon's [`Held`], which keeps a leg from being
//! taken in while calls are under way on it. Their threads are simulated ones and their time is simulated time.
//!
//! What is modelled here is what the daemon's `Served` does around them: it has a leg watched over, and takes one in
//! that is quiet and has been let go of. And the leg that hangs: see [`Hang`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mirrorfs::bitmap::{PageIndex, PageStore};
use mirrorfs::daemon::held::Held;
use mirrorfs::daemon::waits::Waits;
use mirrorfs::legs::simulated::{Call, Hang, SimLeg};
use mirrorfs::legs::timed::{Backing, Calls, Couriers, Patience, TimedPages, TimedSuperblock};
use mirrorfs::legs::{Leg, LegId, PerLeg, Timed};
use mirrorfs::ops::Mirror;
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, Spawned};
use mirrorfs::superblock::{Superblock, SuperblockStore};
use mirrorfs::sync::{Mutex, Rank};

use crate::world::TestLeg;

/// How long a leg is waited for, in simulated time. Far more than a sound one needs.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long a courier without work stays.
const STAY: Duration = Duration::from_millis(100);

const CALLS: [Call; 16] = [
    Call::Lookup,
    Call::Stat,
    Call::ReadDir,
    Call::Read,
    Call::Open,
    Call::Make,
    Call::Link,
    Call::Unlink,
    Call::Rename,
    Call::Attributes,
    Call::Xattr,
    Call::Truncate,
    Call::Write,
    Call::Sync,
    Call::Mark,
    Call::Record,
];

/// A leg that is waited for without end, as one on a disk without `leg_timeout`.
pub fn in_place(leg: &Arc<SimLeg>) -> Arc<TestLeg> {
    static NOBODY: LazyLock<Couriers> = LazyLock::new(|| Couriers::start().expect("a thread is to be had"));
    wait_for(leg, Backing::Disk, NOBODY.clone(), Duration::ZERO)
}

fn wait_for(leg: &Arc<SimLeg>, backing: Backing, couriers: Couriers, timeout: Duration) -> Arc<TestLeg> {
    let probed = Arc::downgrade(leg);
    let probe = Arc::new(move || probed.upgrade().iter().for_each(|leg| leg.probe()));
    let patience = Patience::new(couriers, timeout, probe);
    Arc::new(Timed::new(leg.clone(), backing, patience).expect("a thread is to be had"))
}

/// What hangs in one mount.
#[derive(Clone, Copy, Debug)]
pub struct Hanging {
    leg: LegId,
    call: Option<Call>,
    after: u64,
    for_good: bool,
    backing: PerLeg<Backing>,
    /// How long until it goes on: one of these.
    pauses: [u64; 3],
}

impl Hanging {
    /// One leg, at some call.
    pub fn by_chance(rng: &mut Rng) -> Hanging {
        let call = (!rng.one_in(4)).then(|| *rng.pick(&CALLS));
        let backing = |_| *rng.pick(&[Backing::Disk, Backing::Network, Backing::Fuse, Backing::Fuse]);
        let backing = PerLeg::from_fn(backing);
        let after = rng.below(if call.is_some() { 6 } else { 100 });
        Hanging {
            leg: *rng.pick(&LegId::ALL),
            call,
            after,
            for_good: rng.one_in(2),
            backing,
            pauses: [20, 400, 3000],
        }
    }

    /// One change, for long, of which nobody but its courier knows after a while.
    pub fn one_change(rng: &mut Rng) -> Hanging {
        let changes = [Call::Make, Call::Unlink, Call::Rename, Call::Attributes, Call::Truncate, Call::Write];
        Hanging {
            leg: *rng.pick(&LegId::ALL),
            call: Some(*rng.pick(&changes)),
            after: rng.below(3),
            for_good: false,
            backing: PerLeg::new(Backing::Fuse, Backing::Fuse),
            pauses: [6000; 3],
        }
    }
}

/// The legs of one mount, of which one hangs, and what the daemon keeps about them.
pub struct Slow {
    hanging: Hanging,
    hang: Arc<Hang>,
    couriers: Couriers,
    calls: Mutex<PerLeg<Option<Calls>>>,
    /// All that were ever in use.
    legs: Mutex<Vec<Arc<TestLeg>>>,
    retaken: AtomicU64,
    over: Arc<AtomicBool>,
}

impl Slow {
    pub fn new(hanging: Hanging) -> Slow {
        Slow {
            hanging,
            hang: Hang::new(hanging.call, hanging.after, hanging.for_good),
            couriers: Couriers::staying(STAY).expect("a thread is to be had"),
            calls: Mutex::new(Rank::Leaf, PerLeg::new(None, None)),
            legs: Mutex::new(Rank::Leaf, Vec::new()),
            retaken: AtomicU64::new(0),
            over: Arc::default(),
        }
    }

    /// How this leg hangs.
    pub fn hang(&self, leg: LegId) -> Option<Arc<Hang>> {
        (leg == self.hanging.leg).then(|| self.hang.clone())
    }

    pub fn wait_for(&self, id: LegId, leg: &Arc<SimLeg>) -> Arc<TestLeg> {
        let timed = wait_for(leg, self.hanging.backing[id], self.couriers.clone(), TIMEOUT);
        self.legs.lock().push(timed.clone());
        self.calls.lock()[id].get_or_insert_with(|| timed.calls());
        timed
    }

    /// The copy of the bitmap on this leg.
    pub fn pages(&self, id: LegId, leg: &TestLeg, store: Box<dyn PageStore>) -> Box<dyn PageStore> {
        let store = Box::new(Pages { store, hang: self.hang(id) });
        Box::new(TimedPages::new(store, leg).expect("there is memory"))
    }

    /// The superblock on this leg.
    pub fn superblock(
        &self,
        id: LegId,
        store: Box<dyn SuperblockStore>,
        leg: &TestLeg,
    ) -> Box<dyn SuperblockStore> {
        Box::new(TimedSuperblock::new(Box::new(Record { store, hang: self.hang(id) }), leg))
    }

    /// From here on legs are left behind that do not answer. What hangs is let go after a while.
    pub fn begin(&self, mirror: &Arc<Mirror<TestLeg>>, mut rng: Rng) -> Spawned {
        for leg in LegId::ALL {
            let calls = self.calls.lock()[leg].clone();
            calls.iter().for_each(|calls| watch_over(mirror, leg, calls));
        }
        self.hang.arm();
        let (hang, over, pauses) = (self.hang.clone(), self.over.clone(), self.hanging.pauses);
        scheduler::spawn(move || {
            let is_over = || over.load(Ordering::Relaxed);
            pause_until(3000, || is_over() || hang.is_hanging());
            pause_until(*rng.pick(&pauses), is_over);
            hang.let_go();
        })
    }

    /// Waits for a while.
    pub fn wait_until(&self, is_so: impl Fn() -> bool) {
        pause_until(4000, is_so);
    }

    fn held(&self) -> Held {
        static WAITS: LazyLock<Waits> =
            LazyLock::new(|| Waits::start(Duration::ZERO).expect("a thread is to be had"));
        Held::new(PerLeg::new(None, None), self.calls.lock().clone(), WAITS.clone())
    }

    /// Lets go of a leg that was left behind. Whether nothing of it is held any more, and it may be taken in.
    pub fn close(&self, mirror: &Mirror<TestLeg>, leg: LegId) -> bool {
        let held = self.held();
        if !held.is_quiet(leg) {
            return false;
        }
        mirror.let_go(leg);
        held.let_go(leg, held.calls(leg).as_ref())
    }

    /// It has been taken in.
    pub fn taken_in(&self, mirror: &Arc<Mirror<TestLeg>>, leg: LegId, directory: &TestLeg) {
        let calls = directory.calls();
        watch_over(mirror, leg, &calls);
        self.calls.lock()[leg] = Some(calls);
        self.retaken.fetch_add(1, Ordering::Relaxed);
    }

    /// The mount is over: the lock on the leg is kept until what hangs has come back.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.held().stop_waiting();
        let legs = self.legs.lock().clone();
        legs.iter().for_each(|leg| leg.give_up());
        self.hang.let_go();
    }

    /// Calls that hung until they were let go.
    pub fn late(&self) -> u64 {
        self.hang.late()
    }

    /// How many legs were given up.
    pub fn given_up(&self) -> u64 {
        let given_up = |leg: &&Arc<TestLeg>| leg.calls().patience().check().is_err();
        self.legs.lock().iter().filter(given_up).count() as u64
    }

    /// How many legs were taken in again.
    pub fn taken_again(&self) -> u64 {
        self.retaken.load(Ordering::Relaxed)
    }
}

fn pause_until(pauses: u64, is_so: impl Fn() -> bool) {
    (0..pauses).take_while(|_| !is_so()).for_each(|_| scheduler::pause());
}

fn watch_over(mirror: &Arc<Mirror<TestLeg>>, leg: LegId, calls: &Calls) {
    let (mirror, is_given_up) = (Arc::downgrade(mirror), is_given_up(calls));
    calls.patience().on_hung(Some(Arc::new(move || {
        let _left = mirror.upgrade().is_some_and(|mirror| mirror.leg_hangs(leg, &is_given_up));
    })));
}

/// Whether that leg is not waited for any more.
pub fn is_given_up(calls: &Calls) -> impl Fn() -> bool + Send + Sync + 'static {
    let patience = Arc::downgrade(calls.patience());
    move || patience.upgrade().is_none_or(|patience| patience.check().is_err())
}

/// A copy of the bitmap on a leg that may hang.
struct Pages {
    store: Box<dyn PageStore>,
    hang: Option<Arc<Hang>>,
}

impl PageStore for Pages {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.store.read_all()
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        self.hang.iter().for_each(|hang| hang.pass(Call::Mark, || ()));
        self.store.write(page, bytes)
    }
}

/// The superblock on a leg that may hang.
struct Record {
    store: Box<dyn SuperblockStore>,
    hang: Option<Arc<Hang>>,
}

impl SuperblockStore for Record {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        self.hang.iter().for_each(|hang| hang.pass(Call::Record, || ()));
        self.store.write(superblock)
    }
}
