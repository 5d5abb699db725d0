//! Looks once a second whether a leg that is away has come back, and how far a resync is.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::events::{Event, Name};
use super::retry::Retry;
use super::returning;
use super::served::Served;
use crate::legs::{LegId, PerLeg};
use crate::ops;
use crate::superblock::Superblock;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// What has been seen.
#[derive(Default)]
struct Watch {
    percent: u64,
    legs: PerLeg<Seen>,
}

/// Of a leg that is away.
#[derive(Default)]
struct Seen {
    gone: bool,
    told: bool,
    /// Nothing is left to do until its state changes.
    done: bool,
    retry: Retry,
    /// Somebody looks, and does not come back.
    looking: Weak<()>,
}

impl Served {
    /// Looks after legs that are away, and tells how far a resync is, until the mount has ended.
    pub(super) fn watch(&self) {
        let mut watch = Watch::default();
        loop {
            let mut ended = self.ended.0.lock();
            if !*ended {
                self.ended.1.wait_for(&mut ended, LOOK);
            }
            if *ended {
                return;
            }
            drop(ended);
            self.look(&mut watch);
        }
    }

    fn look(&self, watch: &mut Watch) {
        let progress = self.mirror.progress().report();
        let percent = (progress.bytes_done * 100).checked_div(progress.bytes_total).unwrap_or(0);
        if progress.active
            && let Some(name) = Name::rebuilt(watch.percent, percent)
        {
            self.events.tell(Event { name, leg: None, detail: format!("{percent} percent are done") });
        }
        watch.percent = if progress.active { percent } else { 0 };
        for leg in LegId::ALL {
            self.look_after(leg, &mut watch.legs[leg]);
        }
        self.held.let_go_of_dismissed();
    }

    /// Whether a leg that is away has come back: it must have been gone before, or it would be taken in and fail
    /// over and over. One that did not answer and does now was gone.
    fn look_after(&self, leg: LegId, seen: &mut Seen) {
        let ops::LegState::Lost(lost) = self.mirror.leg_state(leg) else {
            *seen = Seen::default();
            return;
        };
        if self.is_returning(leg) {
            return;
        }
        let survivor = self.mirror.superblock(leg.other());
        let place = self.places.lock()[leg].clone();
        let (Some(path), Some(survivor)) = (place.path(), survivor) else { return };
        // While something is under way on it, it could not be taken back.
        if seen.done || self.held.under_way(leg) > 0 || !seen.retry.is_due() {
            return;
        }
        // If it was kept because something was.
        self.held.let_go(leg);
        if lost.errno == 0 {
            return;
        }
        if !self.is_it(leg, path, survivor, seen) {
            seen.gone = true;
        } else if seen.gone || lost.missing || lost.errno == libc::ETIMEDOUT {
            if !std::mem::replace(&mut seen.told, true) {
                let detail = format!("it is at {} again", path.display());
                self.events.tell(Event { name: Name::LegReturned, leg: Some(leg), detail });
            }
            // What is there is that leg: if it cannot be taken in now (somebody else holds it, its disk does not
            // answer as it should yet), it perhaps can be soon.
            seen.done = !self.auto_readd;
            if self.auto_readd {
                match self.readd(leg, None) {
                    // Should that fail, it counts as a try that has failed.
                    Ok(true) => {
                        seen.gone = false;
                        seen.retry.failed();
                    }
                    Ok(false) => seen.done = true,
                    Err(error) if seen.retry.failed() => {
                        log::error!("leg {leg} is not taken back yet, and will be tried again: {error}");
                    }
                    Err(error) => log::debug!("leg {leg} is not taken back yet: {error}"),
                }
            }
        }
    }

    /// Whether the leg is at a path. Not, if that does not answer: then nobody looks again before it does.
    fn is_it(&self, leg: LegId, path: &Path, survivor: Superblock, seen: &mut Seen) -> bool {
        if seen.looking.upgrade().is_some() {
            return false;
        }
        let (path, looking) = (path.to_owned(), Arc::new(()));
        seen.looking = Arc::downgrade(&looking);
        let look = move || {
            let _looking = looking;
            returning::is_it(leg, &path, &survivor)
        };
        self.waits.within(look).unwrap_or(false)
    }
}
