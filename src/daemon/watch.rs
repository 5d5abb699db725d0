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
    rebuild: Rebuild,
    legs: PerLeg<Seen>,
}

/// How far a leg has been brought up to date, as was told.
#[derive(Default)]
struct Rebuild {
    leg: Option<LegId>,
    percent: u64,
}

impl Rebuild {
    /// What is to be told now that `leg` is at `percent`: each mark once, whatever more there is found to be done.
    fn passes(&mut self, leg: Option<LegId>, percent: u64) -> Option<Name> {
        if self.leg != leg {
            *self = Rebuild { leg, percent: 0 };
        }
        let before = self.percent;
        self.percent = before.max(percent);
        leg.and_then(|_| Name::rebuilt(before, percent))
    }
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
        let leg = self.rebuilt();
        if let Some(name) = watch.rebuild.passes(leg, if progress.active { percent } else { 0 }) {
            self.events.tell(Event { name, leg, detail: format!("{percent} percent are done") });
        }
        for leg in LegId::ALL {
            self.look_after(leg, &mut watch.legs[leg]);
        }
        self.held.let_go_of_dismissed();
    }

    /// Whether a leg that is away has come back: it must have been gone before, or it would be taken in and fail
    /// over and over. One that did not answer and does now was gone.
    fn look_after(&self, leg: LegId, seen: &mut Seen) {
        // ORDER: before it is known to be away: a new one may take its place just now.
        let old = self.held.calls(leg);
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
        self.held.let_go(leg, old.as_ref());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_told_once_for_each_rebuild() {
        let mut rebuild = Rebuild::default();
        let b = Some(LegId::B);
        let looks = [(None, 90), (b, 10), (b, 25), (b, 12), (b, 25), (b, 0), (b, 70), (b, 65), (b, 100)];
        let told: Vec<_> =
            looks.into_iter().filter_map(|(leg, percent)| rebuild.passes(leg, percent)).collect();
        assert_eq!(told, [Name::Rebuild20, Name::Rebuild60, Name::Rebuild80]);
        assert_eq!(rebuild.passes(Some(LegId::A), 30), Some(Name::Rebuild20));
        assert_eq!(rebuild.passes(None, 0), None);
        assert_eq!(rebuild.passes(Some(LegId::A), 30), Some(Name::Rebuild20));
    }
}
