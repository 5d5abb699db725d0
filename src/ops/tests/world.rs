//! Two simulated disks, what the mirror keeps beside them, and mounts of both.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use crate::bitmap::{Bitmap, ChunkSize, Copies, Expect, PAGE_SIZE, PageIndex, PageStore};
use crate::inode::{Fh, Ino};
use crate::legs::simulated::image::{Body, Change, ROOT};
use crate::legs::simulated::{Call, SimDisk, SimLeg};
use crate::legs::{Creator, Kind, Leg, LegId, OpenMode, PerLeg, Timestamp};
use crate::ops::{Caller, Mirror, Options, Parts, Returning};
use crate::resync::Limits;
use crate::superblock::{self, BitmapPlace, Found, Geometry, Plan, Superblock, SuperblockStore, Work};
use crate::sync::{Mutex, Rank};

pub const NOBODY: Creator = Creator { uid: 0, gid: 0, umask: 0 };
pub const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };
const SLOTS: u32 = 64;

/// How many kinds of [`Call`] there are, at most.
const CALLS: usize = 16;

/// With which errno each call fails on each leg; 0: it does not.
type Failing = Arc<[AtomicI32; 2 * CALLS]>;

fn failing_at(leg: LegId, call: Call) -> usize {
    leg as usize * CALLS + call as usize
}

/// How a leg names its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// By handles.
    Handles,
    /// By numbers and births, as to a daemon without privilege.
    Numbers,
    /// As a FUSE filesystem does.
    Fleeting,
}

impl Naming {
    pub const ALL: [Naming; 3] = [Naming::Handles, Naming::Numbers, Naming::Fleeting];

    /// Of each leg all of them.
    pub fn of_each_leg() -> impl Iterator<Item = (LegId, Naming)> {
        LegId::ALL.into_iter().flat_map(|leg| Naming::ALL.map(|naming| (leg, naming)))
    }
}

/// Where a thread waits until it is told to go on.
#[derive(Default)]
pub struct Stop {
    armed: AtomicBool,
    reached: AtomicBool,
    passed: AtomicBool,
}

impl Stop {
    /// The next one to come here waits.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    fn here(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.reached.store(true, Ordering::SeqCst);
            wait_until(|| self.passed.load(Ordering::SeqCst));
        }
    }

    /// Returns when somebody waits here.
    pub fn wait_for_one(&self) {
        wait_until(|| self.reached.load(Ordering::SeqCst));
    }

    /// Who waits goes on.
    pub fn go_on(&self) {
        self.passed.store(true, Ordering::SeqCst);
    }
}

pub fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

/// What outlives a mount.
pub struct World {
    /// At each sync of a whole leg.
    pub at_sync: Arc<Stop>,
    /// Before bytes of a file are written on a leg.
    pub at_write: Arc<Stop>,
    /// Before something is looked for on a leg.
    pub at_lookup: Arc<Stop>,
    disks: PerLeg<SimDisk>,
    bitmap: Arc<Mutex<Vec<u8>>>,
    superblocks: Arc<Mutex<PerLeg<Superblock>>>,
    failing: Failing,
    /// A disk that is to take the place of a leg, and how it fails.
    new_disk: Option<SimDisk>,
    failing_new: Arc<[AtomicI32; CALLS]>,
    pub naming: Naming,
    /// The kernel keeps what is written.
    pub writeback: bool,
}

struct BitmapFile(Arc<Mutex<Vec<u8>>>);

impl PageStore for BitmapFile {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().clone())
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        let start = page.0 as usize * PAGE_SIZE;
        self.0.lock()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

struct SuperblockFile(Arc<Mutex<PerLeg<Superblock>>>, LegId);

impl SuperblockStore for SuperblockFile {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        self.0.lock()[self.1] = superblock.clone();
        Ok(())
    }
}

fn leaf<T>(value: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(Rank::Leaf, value))
}

impl World {
    pub fn new() -> World {
        let geometry = Geometry {
            chunk_size: ChunkSize::MIN.bytes(),
            bitmap_slots: SLOTS,
            bitmap_place: BitmapPlace::Elsewhere,
        };
        let superblocks = Superblock::new_pair(geometry);
        let image = Bitmap::create_image(superblocks[LegId::A].mirror, SLOTS, ChunkSize::MIN);
        World {
            disks: PerLeg::from_fn(SimDisk::new),
            bitmap: leaf(image),
            superblocks: leaf(superblocks),
            failing: Arc::new(std::array::from_fn(|_| AtomicI32::new(0))),
            new_disk: None,
            failing_new: Arc::new(std::array::from_fn(|_| AtomicI32::new(0))),
            naming: Naming::Handles,
            writeback: false,
            at_sync: Arc::default(),
            at_write: Arc::default(),
            at_lookup: Arc::default(),
        }
    }

    /// Lets `call` fail on `leg` from now on.
    pub fn fail(&self, leg: LegId, call: Call, errno: i32) {
        self.failing[failing_at(leg, call)].store(errno, Ordering::Relaxed);
    }

    /// Lets `call` fail on a disk that is to take the place of a leg.
    pub fn fail_new(&self, call: Call, errno: i32) {
        self.failing_new[call as usize].store(errno, Ordering::Relaxed);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.failing_new.iter().for_each(|errno| errno.store(0, Ordering::Relaxed));
        self.failing.iter().for_each(|errno| errno.store(0, Ordering::Relaxed));
    }

    fn leg(&self, id: LegId) -> Arc<SimLeg> {
        let (failing, at_sync, at_write, at_lookup) =
            (self.failing.clone(), self.at_sync.clone(), self.at_write.clone(), self.at_lookup.clone());
        self.named(SimLeg::new(id, self.disks[id].clone()).with_faults(Box::new(move |leg, call| {
            match call {
                Call::Sync => at_sync.here(),
                Call::Write => at_write.here(),
                Call::Lookup => at_lookup.here(),
                _ => {}
            }
            Some(failing[failing_at(leg, call)].load(Ordering::Relaxed)).filter(|&errno| errno != 0)
        })))
    }

    /// A disk that is filled. `hook` runs before each call to it.
    fn filled(&self, id: LegId, disk: &SimDisk, mut hook: impl FnMut() + Send + 'static) -> Arc<SimLeg> {
        let failing = self.failing_new.clone();
        self.named(SimLeg::new(id, disk.clone()).with_faults(Box::new(move |_, call| {
            hook();
            Some(failing[call as usize].load(Ordering::Relaxed)).filter(|&errno| errno != 0)
        })))
    }

    fn named(&self, leg: SimLeg) -> Arc<SimLeg> {
        Arc::new(match self.naming {
            Naming::Handles => leg,
            Naming::Numbers => leg.without_handles(),
            Naming::Fleeting => leg.fleeting(0, 0),
        })
    }

    /// Mounts. Nothing runs behind the mirror.
    pub fn mount(&self) -> Arc<Mirror<SimLeg>> {
        self.mount_those(&LegId::ALL)
    }

    /// Mounts those legs; what a leg misses that is not among them is not there.
    pub fn mount_those(&self, there: &[LegId]) -> Arc<Mirror<SimLeg>> {
        let plan = match there {
            [alone] => superblock::plan_alone(*alone, &self.found(*alone)).expect("fit to go on alone"),
            _ => self.plan(),
        };
        let copies = Copies::Single(Box::new(BitmapFile(self.bitmap.clone())));
        let mirror = self.superblock(LegId::A).mirror;
        let loaded = copies.load(&Expect {
            mirror,
            slots: SLOTS,
            chunk: ChunkSize::MIN,
            file: uuid::Uuid::nil(),
            stale: plan.stale,
        });
        let is_there = |leg: LegId| there.contains(&leg).then_some(leg);
        let parts = Parts {
            legs: PerLeg::from_fn(|leg| is_there(leg).map(|leg| self.leg(leg))),
            bitmap: Bitmap::new(copies, loaded, plan.source).unwrap(),
            superblocks: PerLeg::from_fn(|leg| is_there(leg).map(|leg| self.found_side(leg))),
            plan,
        };
        let options = Options {
            read_only: false,
            sweep_interval: Duration::from_secs(1),
            pinned_directories: 16,
            resync_limits: Limits::default(),
            writeback: self.writeback,
            clock: || Timestamp { secs: 1_700_000_000, nanos: 0 },
        };
        Mirror::assemble(parts, options).unwrap()
    }

    /// Takes a leg that was left behind in again, and makes it equal.
    pub fn bring_back(&self, mirror: &Mirror<SimLeg>, leg: LegId) {
        self.take_in(mirror, leg);
        mirror.resync();
    }

    /// Takes a leg that was left behind in again. Nothing has been copied to it yet.
    pub fn take_in(&self, mirror: &Mirror<SimLeg>, leg: LegId) {
        self.try_take_in(mirror, leg).unwrap();
    }

    pub fn try_take_in(&self, mirror: &Mirror<SimLeg>, leg: LegId) -> io::Result<()> {
        let compare_all = self.plan().work == Work::CompareAll;
        let (directory, superblock) = (self.leg(leg), self.found_side(leg));
        let returning = Returning { leg, directory, superblock, bitmap: None, compare_all, is_new: false };
        mirror.take_in(returning)
    }

    /// A leg that was left behind comes back, and has everything compared while changes are let in. `hook` runs before
    /// each call to it.
    pub fn fill_again(
        &self,
        mirror: &Mirror<SimLeg>,
        leg: LegId,
        hook: impl FnMut() + Send + 'static,
    ) -> Result<(), String> {
        let directory = self.filled(leg, &self.disks[leg], hook);
        let superblock = self.found_side(leg);
        let compare_all = self.plan().work == Work::CompareAll;
        mirror.fill(Returning { leg, directory, superblock, bitmap: None, compare_all, is_new: false })
    }

    /// A new disk is filled, and takes the place of a leg that serves or is away.
    pub fn replace(&mut self, mirror: &Mirror<SimLeg>, leg: LegId) -> Result<(), String> {
        self.replace_with(mirror, leg, || {})
    }

    /// The same; `hook` runs before each call to the new disk.
    pub fn replace_with(
        &mut self,
        mirror: &Mirror<SimLeg>,
        leg: LegId,
        hook: impl FnMut() + Send + 'static,
    ) -> Result<(), String> {
        self.new_disk(leg);
        self.replace_again(mirror, leg, hook)
    }

    /// A disk for [`replace_again`](Self::replace_again).
    pub fn new_disk(&mut self, leg: LegId) -> SimDisk {
        self.new_disk.insert(SimDisk::new(leg)).clone()
    }

    /// The same with the disk of the last time.
    pub fn replace_again(
        &mut self,
        mirror: &Mirror<SimLeg>,
        leg: LegId,
        hook: impl FnMut() + Send + 'static,
    ) -> Result<(), String> {
        let disk = self.new_disk.clone().expect("there was a last time");
        let directory = self.filled(leg, &disk, hook);
        let says = self.superblock(leg.other()).new_peer();
        let superblock: superblock::FoundSide =
            (says, Box::new(SuperblockFile(self.superblocks.clone(), leg)));
        let new = Returning { leg, directory, superblock, bitmap: None, compare_all: true, is_new: true };
        mirror.fill(new)?;
        self.disks[leg] = disk;
        Ok(())
    }

    fn superblock(&self, leg: LegId) -> Superblock {
        self.superblocks.lock()[leg].clone()
    }

    pub fn found(&self, leg: LegId) -> Found {
        Found::Leg { superblock: self.superblock(leg), damaged_slot: None }
    }

    fn found_side(&self, leg: LegId) -> superblock::FoundSide {
        (self.superblock(leg), Box::new(SuperblockFile(self.superblocks.clone(), leg)))
    }

    pub fn plan(&self) -> Plan {
        superblock::plan(&PerLeg::from_fn(|leg| self.found(leg))).expect("the legs belong together")
    }

    /// Unmounts.
    pub fn unmount(&self, mirror: Arc<Mirror<SimLeg>>) {
        mirror.stop();
        mirror.close().unwrap();
        self.kill(mirror);
    }

    /// The daemon was killed, or has ended.
    pub fn kill(&self, mirror: Arc<Mirror<SimLeg>>) {
        drop(mirror);
        LegId::ALL.into_iter().for_each(|leg| self.disks[leg].survive_kill());
    }

    /// The power fails: what was not synced is there in part, on each leg another.
    pub fn cut_power(&self, mirror: Arc<Mirror<SimLeg>>, seed: u64) {
        drop(mirror);
        let mut rng = crate::sim::rng::Rng::new(seed);
        LegId::ALL.into_iter().for_each(|leg| self.disks[leg].survive_power_cut(&mut rng));
    }

    /// Something beside the mirror's own files takes the inode number that is free on that leg, or gives it back.
    pub fn take_number(&self, leg: LegId) {
        let mut disk = self.disks[leg].lock();
        let state = disk.live().entry(&(ROOT, ".mirrorfs".into())).unwrap();
        let place = (state, "number".into());
        if disk.live().entry(&place).is_some() {
            return disk.apply(Change::Unlink { place });
        }
        let (id, object) = disk.new_object(Body::File(Default::default()), 0o600, (0, 0));
        disk.apply(Change::Make { place, id, object: Arc::new(object) });
    }

    /// A leg of [`Naming::Fleeting`] gives all its objects other numbers.
    pub fn number_anew(&self, leg: LegId) {
        self.disks[leg].lock().number_anew(1000, 0);
    }

    /// The clock of a leg is put back, or forward, by so many of its ticks.
    pub fn step_clock(&self, leg: LegId, ticks: i64) {
        self.disks[leg].step_clock(ticks);
    }

    /// Birth times on a leg are multiples of so many of its ticks from now on.
    pub fn coarse_births(&self, leg: LegId, ticks: u64) {
        self.disks[leg].coarse_births(ticks);
    }

    /// Gives a file of the root another name behind the mirror's back.
    pub fn rename(&self, leg: LegId, from: &str, to: &str) {
        let place = |name: &str| (crate::legs::simulated::image::ROOT, name.into());
        self.disks[leg].lock().apply(Change::Rename { from: place(from), to: place(to) });
    }

    /// Removes a file of the root behind the mirror's back.
    pub fn take_away(&self, leg: LegId, name: &str) {
        let place = (ROOT, name.into());
        self.disks[leg].lock().apply(Change::Unlink { place });
    }

    /// What a name in the root stands for on that leg, until the object is removed.
    pub fn number(&self, leg: LegId, name: &str) -> u64 {
        let leg = SimLeg::new(leg, self.disks[leg].clone());
        leg.stat(&leg.child(&leg.root(), OsStr::new(name)).unwrap()).unwrap().ino
    }

    /// What was written to a file is zeros on that leg; its length and times are as they were.
    pub fn lose_data(&self, leg: LegId, path: &str) {
        let mut disk = self.disks[leg].lock();
        let id = path.split('/').fold(ROOT, |dir, name| disk.live().entry(&(dir, name.into())).unwrap());
        let times = disk.live().get(id).unwrap().times;
        let len = disk.live().get(id).unwrap().content().unwrap().size();
        disk.apply(Change::Data { id, offset: 0, bytes: vec![0; len as usize].into() });
        let (access, modification) = (Some(times.access), Some(times.modification));
        disk.apply(Change::Times { id, access, modification });
    }

    /// A range of a file in the root cannot be read on this leg from now on, until it is written again.
    pub fn spoil(&self, leg: LegId, name: &str, range: std::ops::Range<u64>) {
        let disk = &self.disks[leg];
        let file = disk.live().entry(&(ROOT, name.into())).expect("it is there");
        assert!(disk.spoil(file, range.start, range.end - range.start), "no data there");
    }

    /// Nor can the leg tell, from now on, whether a file has data where it cannot be read.
    pub fn spoil_extents(&self, leg: LegId) {
        self.disks[leg].spoil_extents();
    }

    /// Whether the leg has sectors that cannot be read.
    pub fn has_bad_sectors(&self, leg: LegId) -> bool {
        self.disks[leg].has_bad_sectors()
    }

    /// Everything but the inode numbers of a leg, by path.
    pub fn tree(&self, id: LegId) -> BTreeMap<String, String> {
        let leg = SimLeg::new(id, self.disks[id].clone());
        let mut found = BTreeMap::new();
        describe(&leg, &leg.root(), "", &mut found);
        found
    }

    pub fn assert_equal(&self) {
        assert_eq!(self.tree(LegId::A), self.tree(LegId::B));
    }
}

fn describe(leg: &SimLeg, dir: &<SimLeg as Leg>::Node, path: &str, found: &mut BTreeMap<String, String>) {
    for entry in leg.read_dir(dir).unwrap() {
        let path = format!("{path}/{}", entry.name.display());
        let node = leg.child(dir, &entry.name).unwrap();
        let stat = leg.stat(&node).unwrap();
        let mut data = vec![0; stat.size as usize];
        if stat.kind == Kind::File {
            let file = leg.open(&node, OpenMode { read: true, write: false, direct: false }).unwrap();
            leg.read(&file, &mut data, 0).unwrap();
        }
        let text = format!(
            "{:?} {:o} {} {} {} {:?} {:?} {}",
            stat.kind,
            stat.mode,
            stat.uid,
            stat.gid,
            stat.nlink,
            stat.mtime,
            stat.atime,
            String::from_utf8_lossy(&data)
        );
        found.insert(path.clone(), text);
        if stat.kind == Kind::Directory {
            describe(leg, &node, &path, found);
        }
    }
}

/// Rounds enough for the sweeper to clear whatever it may.
pub fn sweep(mirror: &Mirror<SimLeg>) {
    for _ in 0..5 {
        mirror.sweep();
    }
}

/// Makes a file in the root with this content; it stays open.
pub fn file(mirror: &Mirror<SimLeg>, name: &str, content: &[u8]) -> (Ino, Fh) {
    let (found, fh) = mirror.create(Ino::ROOT, OsStr::new(name), 0o644, NOBODY, libc::O_RDWR).unwrap();
    if !content.is_empty() {
        assert_eq!(mirror.write(fh, content, 0, false).unwrap(), content.len());
    }
    (found.attr.ino, fh)
}

/// Overwrites the start of a file in the root, which the kernel then forgets.
pub fn write(mirror: &Mirror<SimLeg>, name: &str, data: &[u8]) {
    let found = mirror.lookup(Ino::ROOT, OsStr::new(name)).unwrap();
    let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
    assert_eq!(mirror.write(fh, data, 0, false).unwrap(), data.len());
    mirror.release(fh);
    mirror.forget(found.attr.ino, 1);
}

/// What a file in the root reads as, through the mount.
pub fn content(mirror: &Mirror<SimLeg>, name: &str) -> Vec<u8> {
    let found = mirror.lookup(Ino::ROOT, OsStr::new(name)).unwrap();
    let fh = mirror.open(found.attr.ino, libc::O_RDONLY, CALLER).unwrap();
    let mut data = vec![0; found.attr.stat.size as usize];
    assert_eq!(mirror.read(fh, &mut data, 0).unwrap(), data.len());
    mirror.release(fh);
    data
}
