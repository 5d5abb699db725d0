//! A simulated disk with a filesystem on it: what programs see (live), and what would be there after
//! the power went (durable).
//!
//! ```text
//!   base      |  log: c1  d1  c2  d2 | c3  d3  c4
//!   durable   |                      ^ committed: a sync forces all names and attributes up to
//!   for sure  |                        itself, and the data of its object
//!   power cut: base, then c1 c2, then a prefix of c3 c4; of every d not synced any of its sectors
//! ```
//!
//! As on ext4 and xfs, names and attributes become durable in their order, through a journal, and a
//! sync of anything commits the journal; data goes its own way. Data that became durable where the
//! journal knows no file, or a shorter one, is not there.
//!
//! Invariants:
//! - `live` is `base` with the whole log applied;
//! - an inode number is free only when no object has it in `live` and nobody has it pinned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use super::bad::Bad;
use super::content::pieces;
use super::image::{Body, Change, Id, Image, Object, ROOT, Times};
use crate::legs::{LegId, Timestamp};
use crate::sim::rng::Rng;
use crate::sim::scheduler;

/// Keeps an object that has no name any more.
#[derive(Debug)]
pub struct Pin(pub Id);

struct Logged {
    change: Change,
    at: Timestamp,
    /// Sure to be there after a power cut.
    durable: bool,
}

/// The disk.
pub struct Disk {
    leg: LegId,
    base: Image,
    log: Vec<Logged>,
    /// Changes that are in `base`.
    folded: u64,
    live: Image,
    pins: BTreeMap<Id, Weak<Pin>>,
    next_id: u64,
    next_ino: u64,
    next_generation: u32,
    free: BTreeSet<u64>,
    bad: Bad,
    fleeting: Option<Fleeting>,
    now: u64,
    /// What births are multiples of.
    birth_grain: u64,
}

/// Numbers that objects have for one mount only, as on a FUSE filesystem, other objects having had them before.
struct Fleeting {
    next: u64,
    numbers: BTreeMap<Id, u64>,
    /// A number is forgotten at one look in so many, where nobody uses the object. 0: never.
    forgets_one_in: u64,
}

/// Inode number of a root directory, as on ext4.
const ROOT_INO: u64 = 2;

impl Disk {
    /// An empty filesystem. New objects get inode numbers from `first_ino` on; its clock starts at
    /// `clock` nanoseconds.
    pub fn new(leg: LegId, first_ino: u64, clock: u64) -> Disk {
        let body = Body::Directory { entries: BTreeMap::new(), parent: ROOT };
        let root = Object {
            ino: ROOT_INO,
            generation: 0,
            mode: 0o755,
            names: 1,
            uid: 0,
            gid: 0,
            times: Times::at(moment(clock)),
            xattrs: BTreeMap::new(),
            body,
        };
        let image = Image::new(root);
        Disk {
            leg,
            base: image.clone(),
            log: Vec::new(),
            folded: 0,
            live: image,
            pins: BTreeMap::new(),
            next_id: 1,
            next_ino: first_ino,
            next_generation: 1,
            free: BTreeSet::new(),
            bad: Bad::default(),
            fleeting: None,
            now: clock,
            birth_grain: 1,
        }
    }

    /// Another disk with what programs see on this one; durable, and nothing of it in use.
    pub fn copy(&self) -> Disk {
        Disk {
            leg: self.leg,
            base: self.live.clone(),
            log: Vec::new(),
            folded: self.logged(),
            live: self.live.clone(),
            pins: BTreeMap::new(),
            next_id: self.next_id,
            next_ino: self.next_ino,
            next_generation: self.next_generation,
            free: self.free.clone(),
            bad: Bad::default(),
            fleeting: None,
            now: self.now,
            birth_grain: self.birth_grain,
        }
    }

    /// Its clock, in nanoseconds.
    pub fn clock(&self) -> u64 {
        self.now
    }

    /// Its clock is at least this.
    pub fn go_on_from(&mut self, clock: u64) {
        self.now = self.now.max(clock);
    }

    /// What programs see.
    pub fn live(&self) -> &Image {
        &self.live
    }

    /// The time of the last change.
    pub fn now(&self) -> Timestamp {
        moment(self.now)
    }

    /// When an object is born that is made now.
    pub fn birth_now(&self) -> Timestamp {
        moment(self.now - self.now % self.birth_grain)
    }

    /// See [`SimDisk::step_clock`](super::SimDisk::step_clock).
    pub fn step_clock(&mut self, ticks: i64) {
        self.now = self.now.saturating_add_signed(ticks);
    }

    /// See [`SimDisk::coarse_births`](super::SimDisk::coarse_births).
    pub fn coarse_births(&mut self, ticks: u64) {
        self.birth_grain = ticks;
    }

    /// Changes the live image; durable when a sync says so, or by chance.
    pub fn apply(&mut self, change: Change) {
        self.now += 1;
        let at = self.now();
        log::trace!("leg {} at {}: {change:?}", self.leg, self.now);
        self.live.apply(&change, at);
        self.bad.after(&change, &self.live);
        self.log.push(Logged { change, at, durable: false });
    }

    /// The sectors of this range of a file cannot be read from now on, until they are written again. Returns
    /// whether the file has any there.
    pub fn spoil(&mut self, id: Id, offset: u64, len: u64) -> bool {
        let content = self.live.get(id).and_then(Object::content);
        content.is_some_and(|content| self.bad.spoil(id, content, offset, len))
    }

    /// Nor can be told, from now on, whether a file has data where a sector is bad.
    pub fn spoil_extents(&mut self) {
        self.bad.and_extents = true;
    }

    /// EIO if it cannot be told whether there is data at `offset`.
    pub fn check_told(&self, id: Id, offset: u64) -> std::io::Result<()> {
        self.bad.check_told(id, offset)
    }

    /// All sectors can be read again.
    pub fn heal(&mut self) {
        self.bad = Bad::default();
    }

    /// Whether there are sectors that cannot be read.
    pub fn has_bad_sectors(&self) -> bool {
        !self.bad.is_empty()
    }

    /// EIO if a sector of the range cannot be read.
    pub fn check_readable(&self, id: Id, offset: u64, len: u64) -> std::io::Result<()> {
        self.bad.check_readable(id, offset, len)
    }

    /// EIO if a write of the range would have to read a bad sector first.
    pub fn check_overwritable(&self, id: Id, offset: u64, len: u64) -> std::io::Result<()> {
        self.bad.check_overwritable(id, offset, len)
    }

    /// From now on objects have other numbers, from 100 and a few on. See [`Fleeting`].
    pub fn number_anew(&mut self, few: u64, forgets_one_in: u64) {
        let (next, numbers) = (100 + few, BTreeMap::new());
        self.fleeting = Some(Fleeting { next, numbers, forgets_one_in });
    }

    /// The number that an object is shown with.
    pub fn number(&mut self, id: Id) -> u64 {
        let object = self.live.get(id);
        let (ino, names) = object.map_or((0, 0), |object| (object.ino, object.names));
        let in_use = self.pins.get(&id).is_some_and(|pin| pin.strong_count() > 0);
        let is_directory = object.is_some_and(|object| matches!(object.body, Body::Directory { .. }));
        let Some(fleeting) = self.fleeting.as_mut().filter(|_| id != ROOT) else { return ino };
        let may_be_forgotten = fleeting.forgets_one_in > 0 && !in_use && !is_directory && names == 1;
        let is_forgotten = may_be_forgotten && scheduler::choose(fleeting.forgets_one_in) == 1;
        match fleeting.numbers.get(&id) {
            Some(&known) if !is_forgotten => known,
            _ => {
                fleeting.next += 1;
                fleeting.numbers.insert(id, fleeting.next);
                fleeting.next
            }
        }
    }

    /// What has this number now, where numbers do not last.
    pub fn numbered(&self, ino: u64) -> Option<Id> {
        let fleeting = self.fleeting.as_ref()?;
        if ino == ROOT_INO {
            return Some(ROOT);
        }
        let mut known = fleeting.numbers.iter();
        known.find(|(_, number)| **number == ino).map(|(&id, _)| id)
    }

    /// Keeps an object while the pin lives.
    pub fn pin(&mut self, id: Id) -> Arc<Pin> {
        if let Some(pin) = self.pins.get(&id).and_then(Weak::upgrade) {
            return pin;
        }
        let pin = Arc::new(Pin(id));
        self.pins.insert(id, Arc::downgrade(&pin));
        pin
    }

    /// A new object's number for ever, inode number and generation. A number that was freed is
    /// used again at once: that is what handles and generations have to stand.
    fn allot(&mut self) -> (Id, u64, u32) {
        self.free_nameless();
        let ino = self.free.pop_first().unwrap_or_else(|| {
            self.next_ino += 1;
            self.next_ino - 1
        });
        self.next_id += 1;
        self.next_generation += 1;
        (Id(self.next_id), ino, self.next_generation)
    }

    /// A new object, not in the image yet, born now. `owner` is user and group.
    pub fn new_object(&mut self, body: Body, mode: u32, (uid, gid): (u32, u32)) -> (Id, Object) {
        let (id, ino, generation) = self.allot();
        self.now += 1;
        let times = Times { birth: self.birth_now(), ..Times::at(self.now()) };
        let xattrs = BTreeMap::new();
        (id, Object { ino, generation, mode, names: 1, uid, gid, times, xattrs, body })
    }

    fn free_nameless(&mut self) {
        self.pins.retain(|_, pin| pin.strong_count() > 0);
        for id in self.live.nameless() {
            if !self.pins.contains_key(&id) {
                self.free.extend(self.live.get(id).map(|object| object.ino));
                self.live.forget(id);
            }
        }
    }

    /// Commits the journal, and makes the data of `of` durable.
    pub fn sync(&mut self, of: Id) {
        log::trace!("leg {}: sync of {of:?}", self.leg);
        for logged in &mut self.log {
            logged.durable |= match &logged.change {
                Change::Data { id, .. } => *id == of,
                _ => true,
            };
        }
        self.bad.synced(of);
        self.fold();
    }

    /// Makes everything durable.
    pub fn sync_all(&mut self) {
        self.sync_before(self.logged());
    }

    /// How many changes there were so far.
    pub fn logged(&self) -> u64 {
        self.folded + self.log.len() as u64
    }

    /// Makes everything durable that was changed before [`logged`](Self::logged) said `count`.
    pub fn sync_before(&mut self, count: u64) {
        if count >= self.logged() {
            self.bad.all_synced();
        }
        log::trace!("leg {}: sync of all", self.leg);
        for logged in self.log.iter_mut().take(count.saturating_sub(self.folded) as usize) {
            logged.durable = true;
        }
        self.fold();
    }

    /// Moves what is durable without anything uncertain before it into `base`.
    fn fold(&mut self) {
        let sure = self.log.iter().take_while(|logged| logged.durable).count();
        for logged in self.log.drain(..sure) {
            self.base.apply(&logged.change, logged.at);
        }
        self.folded += sure as u64;
        for id in self.base.nameless() {
            self.base.forget(id);
        }
    }

    /// The daemon was killed: all stays but what had no name. Nothing is pinned any more.
    pub fn survive_kill(&mut self) {
        self.fleeting = None;
        self.pins.clear();
        self.free_nameless();
    }

    /// The power went: what is there now was durable.
    pub fn survive_power_cut(&mut self, rng: &mut Rng) {
        let image = self.cut(rng);
        let used: BTreeSet<u64> = image.iter().map(|(_, object)| object.ino).collect();
        let first = self.live.iter().map(|(_, object)| object.ino).chain(self.free.iter().copied());
        self.free = first.filter(|ino| *ino != ROOT_INO && !used.contains(ino)).collect();
        log::trace!("leg {}: the power went", self.leg);
        self.fleeting = None;
        self.pins.clear();
        self.log.clear();
        self.bad.survive_power_cut(&image);
        self.base = image.clone();
        self.live = image;
    }

    /// One of the images that a power cut may leave.
    fn cut(&self, rng: &mut Rng) -> Image {
        let is_data = |logged: &Logged| matches!(logged.change, Change::Data { .. });
        let committed = self.log.iter().rposition(|logged| logged.durable && !is_data(logged));
        let committed = committed.map_or(0, |last| last + 1);
        let prefix = committed + rng.below((self.log.len() - committed) as u64 + 1) as usize;
        // Often nothing, often everything reached the disk: chance alone would hardly ever try these.
        let keep_one_in = *rng.pick(&[0, 1, 2, 4]);
        let mut image = self.base.clone();
        for (index, logged) in self.log.iter().enumerate() {
            match &logged.change {
                Change::Data { id, offset, bytes } if !logged.durable => {
                    for (piece, (sector, start, len)) in cut_to_sectors(*offset, bytes) {
                        if keep_one_in > 0 && rng.one_in(keep_one_in) {
                            image.put_data(*id, sector * super::content::SECTOR + start, &piece[..len]);
                        }
                    }
                }
                Change::Data { .. } => image.apply(&logged.change, logged.at),
                change if index < prefix => image.apply(change, logged.at),
                _ => {}
            }
        }
        for id in image.nameless() {
            image.forget(id);
        }
        image
    }
}

fn cut_to_sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (&[u8], (u64, u64, usize))> {
    let mut rest = bytes;
    pieces(offset, bytes.len() as u64).map(move |(sector, start, len)| {
        let (piece, behind) = rest.split_at(len);
        rest = behind;
        (piece, (sector, start as u64, len))
    })
}

fn moment(nanos: u64) -> Timestamp {
    Timestamp { secs: 1_600_000_000 + (nanos / 1_000) as i64, nanos: (nanos % 1_000) as u32 }
}

impl Times {
    /// All four alike.
    pub fn at(moment: Timestamp) -> Times {
        Times { access: moment, modification: moment, change: moment, birth: moment }
    }
}
