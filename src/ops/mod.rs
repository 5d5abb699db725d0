//! The mirror: what a request means for the two legs.
//!
//! ```text
//!   read      source leg ----------------------------------------> reply
//!   change    object lock -> mark (durable) -> source -> other -> outcome -> reply
//!                            O1: bitmap/       O5: one order      O2: outcome, health
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `inode_read` | attributes, symlinks, extended attributes, statfs: from the source |
//! | `inode_write` | setattr, extended attributes |
//! | `dir_read` | lookup, listing |
//! | `dir_write` | make, create, link, unlink, rmdir, rename |
//! | `file` | open, read, write, fallocate, copy, fsync |
//! | `change` | the one way a change takes: gate, mark, both legs, outcome |
//! | `outcome` | what two answers mean (pure) |
//! | `repair` | making the legs alike again after two different answers |
//! | `resolve` | from an object to its nodes on the legs |
//! | `health` | which legs serve, faults, read-only, superblocks |
//! | `failover` | going on without a leg that failed, asking both and judging who is broken |
//! | `comeback` | taking a leg in again |
//! | `filling` | filling a new leg, or one that has everything compared, while changes go on |
//! | `mend` | what the source cannot read: answered by the other leg, and written anew |
//! | `neither` | what neither leg could do: counted and told |
//! | `read_errors` | counting that (pure) |
//! | `news` | what is told when the state changes |
//! | `not_equal` | why a resync did not end with equal legs, in words |
//! | `covers` | what needs no slot of its own since it was born |
//! | `freed` | which names have been somebody's, so that a clean file may be renamed without a slot |
//! | `gate` | changes wait until the namespace is resynced |
//! | `mtimes` | modification times that the kernel has told of open files |
//! | `sweep` | settling times, syncing, clearing bits |
//! | `lifecycle` | start, resync behind the mount, shutdown |
//!
//! Nothing here names a FUSE type or makes a system call: the whole mirror runs over simulated legs.

mod change;
mod comeback;
mod covers;
mod dir_read;
mod dir_write;
mod failover;
mod file;
mod filling;
mod freed;
mod gate;
mod health;
mod inode_read;
mod inode_write;
mod lifecycle;
mod mend;
mod mtimes;
mod neither;
mod news;
mod not_equal;
pub mod outcome;
mod read_errors;
mod repair;
mod resolve;
mod sweep;
#[cfg(all(test, feature = "simulation"))]
mod tests;

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::bitmap::Bitmap;
use crate::inode::{Handles, Ino, Pins, Table};
use crate::legs::{Leg, PerLeg, Stat, Timestamp};
use crate::resync::Progress;
use crate::sync::{Mutex, RwLock};

pub use comeback::{Returning, comes_later};
pub use dir_read::DirItem;
pub use health::{LegState, Lost, MirrorState};
pub use lifecycle::{Options, Parts};
pub use neither::Neither;
pub use news::{Herald, News};
pub use read_errors::ReadErrors;

/// A mounted mirror over two legs. All its methods take the errno of what failed from where it
/// failed and give it back raw.
pub struct Mirror<L: Leg> {
    /// `None` for a leg that is not there.
    legs: PerLeg<RwLock<Option<Arc<L>>>>,
    /// Which of those that have served as this leg it is: raised before what is known of one is forgotten.
    terms: PerLeg<AtomicU64>,
    bitmap: Bitmap,
    table: Table<L>,
    handles: Handles<L>,
    pins: Pins<L::Node>,
    /// What is being listed.
    listings: Pins<Arc<dir_read::Listing>>,
    gate: gate::Gate,
    /// Held to read by each change from before its mark until its reply; to write by who lets a leg in.
    inside: RwLock<()>,
    turning: failover::Turning,
    /// Held by a resync from beginning to end, and by who takes a leg in: what a resync knows of the legs is not
    /// so any more then.
    resyncing: Mutex<()>,
    health: health::Health,
    /// Held by a rename between two directories (O6).
    rename: Mutex<()>,
    progress: Progress,
    /// Something of what a crash left dirty has not been made equal yet.
    unequal: AtomicBool,
    /// The leg that is made equal had been away.
    returned: AtomicBool,
    stop: lifecycle::Stop,
    neither: Mutex<Neither>,
    read_errors: PerLeg<Mutex<ReadErrors>>,
    /// Waits for [`mend`](Mirror::mend).
    unreadable: Mutex<Vec<mend::Unreadable<L>>>,
    options: Options,
    /// Counts requests, so that the resync can see whether the user is waiting for the disks.
    requests: AtomicU64,
    invalidate: std::sync::OnceLock<Arc<dyn Invalidate>>,
    herald: std::sync::OnceLock<Arc<dyn Herald>>,
    covers: covers::Covers<L>,
    noting: filling::Noting<L>,
    /// Held while slots are cleared.
    sweeping: Mutex<()>,
    /// What the next resync makes equal has been told of already.
    told: AtomicBool,
    freed: freed::Freed,
    mtimes: mtimes::Mtimes,
}

/// On whose behalf a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

/// Attributes of an object as the mount shows them. `stat.ino` is the leg's own number: not for show.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Attr {
    pub ino: Ino,
    pub stat: Stat,
}

/// An object found or made under a name.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Found {
    pub attr: Attr,
    pub generation: u64,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SetTime {
    Now,
    At(Timestamp),
}

/// The attributes to set; those that are `None` stay.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    /// Whether nothing is to be set.
    pub fn is_empty(&self) -> bool {
        let times = self.atime.is_some() || self.mtime.is_some();
        !times && [self.mode, self.uid, self.gid].iter().all(Option::is_none) && self.size.is_none()
    }
}

/// The kernel's caches, where the mirror changes something behind the kernel's back. Never called
/// under a lock: the kernel may be waiting for a reply before it can answer.
pub trait Invalidate: Send + Sync {
    /// A name in a directory is not what it was.
    fn entry(&self, parent: Ino, name: &OsStr);
    /// Attributes and data of an object are not what they were.
    fn inode(&self, ino: Ino);
    /// Attributes alone are not what they were. Waits for nothing: may be called under locks.
    fn attributes(&self, ino: Ino);
}
