//! A leg that is waited for only so long.
//!
//! ```text
//!   Timed --in place----> leg     the caller's own thread, seen by the watchdog
//!     `----by courier---> leg     another thread; the caller returns when the time is over
//! ```
//!
//! Where a leg lies says how its calls are made ([`Backing`]):
//!
//! | backing | calls | a sync | a call that hangs |
//! |---|---|---|---|
//! | disk | in place: handing a page-cache write over costs more than the write, and an fsync as much | in place | the watchdog reports it; its caller is stuck until the kernel lets it go |
//! | network | by courier | [`Pace::Long`]: gigabytes may wait here to be written | its caller is let go |
//! | fuse | by courier | of one object [`Pace::Prompt`], of the whole leg [`Pace::Long`] | the same |
//!
//! However a hung leg is noticed, the one who is [to be told](Patience::on_hung) is. If the mirror can do without
//! the leg, that leaves it behind, which calls [`Leg::give_up`]: all who wait are let go with ENOTCONN, and nothing
//! is asked of the leg any more. An answer that comes then does not count either: the other leg may have moved on.
//!
//! A disk is asked by courier, too, while others would have to wait for who asks it ([`Leg::detach_callers`]).
//!
//! What a hung leg does late harms nothing: see [`WriteIntent::lend`](crate::bitmap::WriteIntent::lend).
//! But the leg must not be taken back while [`Calls::under_way`] is not zero.
//!
//! - `errand`: one piece of work and who waits for it; - `couriers`: who does it;
//! - `patience`: how long a leg is waited for; - `watch`: calls in place;
//! - `leg`: the trait, call by call; - `file`: open files, whose closing may hang too;
//! - `stores`: the leg's copy of the bitmap, and its superblock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Leg;

mod couriers;
mod errand;
mod file;
mod leg;
mod patience;
mod stores;
mod watch;

#[cfg(test)]
mod tests;

pub use couriers::Couriers;
pub use file::File;
pub use patience::{Pace, Patience, Probe};
pub use stores::{TimedPages, TimedSuperblock};

use file::Closing;
use watch::{Leash, Watch};

/// What a leg's filesystem rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// This machine's memory or disks. Hangs only if they do.
    Disk,
    /// Another machine, through a filesystem of the kernel.
    Network,
    /// A program.
    Fuse,
}

/// A leg that is given up when it does not answer.
pub struct Timed<L: Leg> {
    leg: Arc<L>,
    patience: Arc<Patience>,
    way: Way,
    /// Calls are made by courier for now, wherever the leg lies: see [`Leg::detach_callers`].
    detached: Arc<AtomicBool>,
    syncs: Pace,
    closing: Closing<L::File>,
    /// Where the watchdog guards.
    _leash: Option<Leash>,
}

#[derive(Clone)]
enum Way {
    InPlace(Arc<Watch>),
    ByCourier,
}

/// What is asked of a leg; it outlives the leg.
#[derive(Clone)]
pub struct Calls {
    patience: Arc<Patience>,
    way: Way,
}

impl Calls {
    /// Calls that have not come back. Of a leg that was given up: what may still change it.
    pub fn under_way(&self) -> usize {
        let in_place = match &self.way {
            Way::InPlace(watch) => watch.under_way(),
            Way::ByCourier => 0,
        };
        in_place + self.patience.under_way()
    }

    /// What is asked through couriers alone.
    #[cfg(test)]
    pub fn of(patience: Arc<Patience>) -> Calls {
        Calls { patience, way: Way::ByCourier }
    }

    /// Whether both are of the same leg, opened once.
    pub fn is_same(&self, other: &Calls) -> bool {
        Arc::ptr_eq(&self.patience, &other.patience)
    }

    /// Who waits for the leg.
    pub fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }
}

impl<L: Leg> Timed<L> {
    /// Waits for `leg`, which rests on `backing`, as `patience` says.
    ///
    /// # Errors
    /// The watchdog cannot be started.
    pub fn new(leg: Arc<L>, backing: Backing, patience: Arc<Patience>) -> io::Result<Timed<L>> {
        let syncs = if backing == Backing::Fuse { Pace::Prompt } else { Pace::Long };
        let (way, closing, leash) = match backing {
            Backing::Disk => {
                let watch = Watch::new();
                let guard =
                    |timeout| watch::watchdog(Arc::downgrade(&watch), Arc::downgrade(&patience), timeout);
                let leash = patience.timeout().map(guard).transpose()?;
                (Way::InPlace(watch.clone()), Closing::in_place(watch), leash)
            }
            Backing::Network | Backing::Fuse => (Way::ByCourier, Closing::by_courier(patience.clone()), None),
        };
        Ok(Timed { leg, patience, way, detached: Arc::default(), syncs, closing, _leash: leash })
    }

    /// What is asked of it.
    pub fn calls(&self) -> Calls {
        Calls { patience: self.patience.clone(), way: self.way.clone() }
    }

    fn is_by_courier(&self) -> bool {
        self.watch().is_none()
    }

    /// The watchdog's, while calls are made in place.
    fn watch(&self) -> Option<&Watch> {
        match &self.way {
            Way::InPlace(watch) if !self.detached.load(Ordering::Acquire) => Some(watch),
            _ => None,
        }
    }

    fn in_place<T>(&self, watch: &Watch, call: impl FnOnce(&L) -> io::Result<T>) -> io::Result<T> {
        self.patience.in_place(watch, || call(&self.leg))
    }

    fn by_courier<T: Send + 'static>(
        &self,
        pace: Pace,
        call: impl FnOnce(&L) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let leg = self.leg.clone();
        self.patience.call(pace, move || call(&leg))
    }
}
