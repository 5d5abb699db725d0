//! The simulated leg: a filesystem in memory that keeps a live and a durable image, loses what was
//! not synced, and fails as told.
//!
//! ```text
//!   leg.rs      trait Leg: one Change a call, after the kernel's checks in rules.rs
//!   disk.rs     live image, journal, what a power cut leaves; inode numbers used again
//!   image.rs    objects and names at one moment; content.rs the data of one file
//!   bad.rs      sectors that cannot be read until they are written again
//!   hang.rs     calls that are answered late
//!   flaw.rs     ways to be told to fail, and ways to break an order rule on purpose
//! ```
//!
//! A [`SimDisk`] outlives the mirror that is mounted on it; a [`SimLeg`] is one mount's use of it.

mod bad;
pub mod content;
pub mod disk;
mod flaw;
mod hang;
pub mod image;
mod leg;
mod rules;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

pub use flaw::{Call, FaultHook, Flaw};
pub use hang::Hang;
pub use leg::{DataRead, SimFile, SimLeg, SimNode};

use crate::legs::{Area, LegId};
use crate::sim::rng::Rng;
use crate::sim::scheduler::{self, Moment};
use crate::sync::{Mutex, MutexGuard, Rank};
use disk::Disk;
use image::{Body, Change, Id, Image, Place, ROOT};

/// Where the mirror keeps its own state on a leg.
pub(crate) const STATE: &str = ".mirrorfs";

/// The name of an area under [`STATE`].
pub(crate) fn area_name(area: Area) -> &'static str {
    match area {
        Area::Incoming => "incoming",
        Area::Parked => "parked",
        Area::Conflicts => "conflicts",
    }
}

/// A disk that stays when the daemon or the machine does not.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Disk>>);

impl SimDisk {
    /// A new disk with the mirror's own directories on it, all durable. The two legs' inode numbers
    /// overlap without being the same, and their clocks differ.
    pub fn new(leg: LegId) -> SimDisk {
        let (first_ino, clock) = match leg {
            LegId::A => (100, 0),
            LegId::B => (103, 5_000_000),
        };
        let mut disk = Disk::new(leg, first_ino, clock);
        let state = make_directory(&mut disk, ROOT, STATE);
        for area in [Area::Incoming, Area::Parked, Area::Conflicts] {
            make_directory(&mut disk, state, area_name(area));
        }
        disk.sync_all();
        SimDisk(Arc::new(Mutex::new(Rank::Leaf, disk)))
    }

    /// Another disk that holds what is on this one now, all of it durable.
    pub fn copy(&self) -> SimDisk {
        let copy = self.lock().copy();
        SimDisk(Arc::new(Mutex::new(Rank::Leaf, copy)))
    }

    /// It is the later one of the two: its clock is not behind the other's.
    pub fn go_on_after(&self, other: &SimDisk) {
        let now = other.lock().clock();
        self.lock().go_on_from(now);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock()
    }

    /// Gives this file another name in the directory of what lost, as `mirrorfs resolve` does; a step.
    pub fn move_aside(&self, from: &Place, name: &str) -> io::Result<()> {
        let moment = scheduler::step()?;
        if moment == Moment::Usual || scheduler::choose(2) == 0 {
            let mut disk = self.lock();
            let state = disk.live().entry(&(ROOT, STATE.into())).expect("every leg has it");
            let lost = (state, area_name(Area::Conflicts).into());
            let lost = disk.live().entry(&lost).expect("every leg has it");
            disk.apply(Change::Rename { from: from.clone(), to: (lost, name.into()) });
        }
        if moment == Moment::Last { scheduler::die() } else { Ok(()) }
    }

    /// Makes everything durable; a step.
    pub fn sync(&self) -> io::Result<()> {
        if scheduler::step()? == Moment::Last {
            scheduler::die();
        }
        self.lock().sync_all();
        Ok(())
    }

    /// What programs would see now.
    pub fn live(&self) -> Image {
        self.lock().live().clone()
    }

    /// The sectors of this range of a file cannot be read from now on, until they are written again. Returns
    /// whether the file has any there.
    pub fn spoil(&self, file: Id, offset: u64, len: u64) -> bool {
        self.lock().spoil(file, offset, len)
    }

    /// Nor can be told, from now on, whether a file has data where a sector is bad.
    pub fn spoil_extents(&self) {
        self.lock().spoil_extents();
    }

    /// All sectors can be read again.
    pub fn heal(&self) {
        self.lock().heal();
    }

    /// Whether there are sectors that cannot be read.
    pub fn has_bad_sectors(&self) -> bool {
        self.lock().has_bad_sectors()
    }

    /// The clock is put back, or forward, by so many ticks.
    pub fn step_clock(&self, ticks: i64) {
        self.lock().step_clock(ticks);
    }

    /// Birth times are multiples of so many ticks from now on, as on filesystems that ask a coarse clock.
    pub fn coarse_births(&self, ticks: u64) {
        self.lock().coarse_births(ticks);
    }

    /// The daemon was killed.
    pub fn survive_kill(&self) {
        self.lock().survive_kill();
    }

    /// The power went.
    pub fn survive_power_cut(&self, rng: &mut Rng) {
        self.lock().survive_power_cut(rng);
    }
}

fn make_directory(disk: &mut Disk, dir: Id, name: &str) -> Id {
    let body = Body::Directory { entries: Default::default(), parent: dir };
    let (id, object) = disk.new_object(body, 0o700, (0, 0));
    disk.apply(Change::Make { place: (dir, name.into()), id, object: Arc::new(object) });
    id
}

/// Whether this is the mirror's own name in a leg's root.
pub(crate) fn is_state(dir: Id, name: &OsStr) -> bool {
    dir == ROOT && name == STATE
}
