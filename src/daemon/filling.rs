//! `replace`: a new directory takes the place of a leg. It is filled while the mirror goes on, and becomes the leg when it
//! is complete: the command returns when that has begun, and a thread sees to the rest. So it is with a leg that returns,
//! by `re-add` or at a mount, and has everything compared.
//!
//! Invariant: what is asked of a leg that returns is counted with its lock (`held`) from the beginning. What it still
//! does when that has failed would change it after it was compared the next time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::events::{Event, Name};
use super::served::{Opened, Served};
use super::status::Replacement;
use super::{LegPlace, place, replacing, returning};
use crate::error::{Error, Result, errno};
use crate::layout::{self, LegDir};
use crate::legs::timed::Calls;
use crate::legs::{Leg, LegId, PerLeg};
use crate::ops::{LegState, MirrorState};
use crate::options::Degraded;
use crate::shell::quoted;

/// How often a leg that is there at the mount is tried to be taken back, and how long it is waited in between.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// Gives up what is filled.
type GiveUp = Arc<dyn Fn() + Send + Sync>;

/// The last one.
#[derive(Clone)]
pub(super) struct Filling {
    leg: LegId,
    path: PathBuf,
    /// It is that leg, and was away.
    returns: bool,
    calls: Calls,
    give_up: GiveUp,
    /// `None` while it goes on.
    ended: Option<std::result::Result<(), String>>,
}

impl Served {
    /// Takes a leg in that was behind at the mount and is there.
    ///
    /// Its lock was given back, and somebody may look at it just now: it is tried more than once.
    pub(super) fn take_back(&self, leg: LegId) {
        for left in (0..TRIES).rev() {
            match self.readd(leg, None) {
                Ok(_) => break,
                // It was not to be had in that time; at the next mount it is tried again.
                Err(_) if *self.ended.0.lock() => break,
                Err(error) if left == 0 => {
                    log::error!("leg {leg} stays away: {error}");
                    self.mirror.stays_away(leg, None, error.to_string());
                    let detail =
                        format!("everything on it is to be compared, and it cannot be opened: {error}");
                    self.events.tell(Event { name: Name::FailSpare, leg: Some(leg), detail });
                    break;
                }
                Err(error) => log::debug!("leg {leg} is not taken back yet: {error}"),
            }
            let mut ended = self.ended.0.lock();
            if !*ended {
                self.ended.1.wait_for(&mut ended, BETWEEN_TRIES);
            }
        }
        *self.returns.lock() = None;
    }

    /// Whether one is filled just now, or is about to be.
    pub(super) fn is_filling(&self) -> bool {
        self.returns.lock().is_some()
            || self.filling.lock().as_ref().is_some_and(|filling| filling.ended.is_none())
    }

    /// Refuses what would come in the way of a leg that is about to be taken in.
    pub(super) fn check_not_about_to_return(&self) -> Result<()> {
        let Some(leg) = *self.returns.lock() else { return Ok(()) };
        let error = Error::new(format!("leg {leg} is being brought up to date just now"));
        Err(error.hint(format!("Wait for that: mirrorfs wait {}", quoted(&self.mountpoint))))
    }

    /// At the end of the mount: nobody waits for it then.
    pub(super) fn give_up_what_is_filled_when_it_hangs(&self) {
        let is_none_yet = |filling: &&Filling| {
            let serves = self.held.calls(filling.leg).is_some_and(|calls| calls.is_same(&filling.calls));
            filling.ended.is_none() && (filling.returns || !serves)
        };
        if let Some(filling) = self.filling.lock().as_ref().filter(is_none_yet) {
            filling.calls.patience().on_hung(Some(filling.give_up.clone()));
        }
    }

    /// Whether the one that is filled was given up, and calls on it have not come back.
    pub(super) fn is_stuck(&self) -> bool {
        let filling = self.filling.lock();
        filling.as_ref().is_some_and(|filling| {
            let calls = &filling.calls;
            filling.ended.is_none() && calls.patience().check().is_err() && calls.under_way() > 0
        })
    }

    /// Whether this leg, which was away, is filled just now, or is about to be.
    pub(super) fn is_returning(&self, leg: LegId) -> bool {
        if *self.returns.lock() == Some(leg) {
            return true;
        }
        let filling = self.filling.lock();
        filling
            .as_ref()
            .is_some_and(|filling| filling.leg == leg && filling.returns && filling.ended.is_none())
    }

    /// What there is to say of the last one, in the report on this leg. Of one that returns its state says it.
    pub(super) fn replacement(&self, leg: LegId) -> Option<Replacement> {
        let filling = self.filling.lock();
        let filling = filling.as_ref().filter(|filling| filling.leg == leg && !filling.returns)?;
        let failed = match &filling.ended {
            None => None,
            Some(Ok(())) => return None,
            Some(Err(why)) => Some(why.clone()),
        };
        Some(Replacement { path: filling.path.display().to_string(), failed })
    }

    /// Refuses what would change the legs meanwhile.
    pub(super) fn check_not_filling(&self) -> Result<()> {
        let filling = self.filling.lock();
        let Some(filling) = filling.as_ref().filter(|filling| filling.ended.is_none()) else { return Ok(()) };
        let (path, leg) = (filling.path.display(), filling.leg);
        let error = Error::new(match filling.returns {
            true => format!("leg {leg} at {path} is being brought up to date just now"),
            false => format!("{path} is being filled just now, to take the place of leg {leg}"),
        });
        Err(error.hint(format!("Wait for that: mirrorfs wait {}", quoted(&self.mountpoint))))
    }

    /// Puts a new directory at `path` in the place of a leg, when it is complete.
    pub(super) fn replace(&self, leg: LegId, path: PathBuf) -> Result<()> {
        let states = || [leg, leg.other()].map(|leg| self.mirror.leg_state(leg));
        let not_away = || {
            let [state, other] = states();
            replacing::not_now(leg, state, other, &self.mountpoint)
        };
        self.check_not_about_to_return()?;
        self.check_not_filling()?;
        if self.mirror.state() == MirrorState::ReadOnly {
            return Err(returning::not_taken(leg, errno(libc::EROFS)));
        }
        let both_serve = || states() == [LegState::InSync; 2];
        if !both_serve() {
            self.check_quiet(leg, not_away)?;
        }
        let _one_at_a_time = self.readding.lock();
        self.check_not_filling()?;
        let serves = both_serve();
        if !serves && !matches!(self.mirror.leg_state(leg), LegState::Lost(_)) {
            return Err(not_away());
        }
        if !serves && !self.close(leg, self.held.calls(leg)) {
            return Err(self.still_under_way(leg));
        }
        self.held.let_go_of_dismissed();
        let opened = self.open_new(leg, &path, serves)?;
        self.fill(path, opened)
    }

    /// Begins to fill the directory at `path`. The caller holds the lock on taking in.
    pub(super) fn fill(&self, path: PathBuf, (new, owner): Opened) -> Result<()> {
        let (leg, directory, returns) = (new.leg, new.directory.clone(), !new.is_new);
        let calls = directory.calls();
        let hung = Arc::downgrade(&directory);
        drop(directory);
        // It does not serve: who waits for it is let go, and it is given up.
        let give_up: GiveUp = Arc::new(move || hung.upgrade().iter().for_each(|new| new.give_up()));
        calls.patience().on_hung(Some(give_up.clone()));
        let mut owner = Some(owner);
        *self.filling.lock() =
            Some(Filling { leg, path: path.clone(), returns, calls: calls.clone(), give_up, ended: None });
        if returns {
            // Only now: nobody lets go of it while it is filled.
            owner.take().into_iter().for_each(|owner| self.held.take(leg, owner, calls.clone()));
        }
        let (mirror, this) = (self.mirror.clone(), self.this());
        let work = move || {
            // The user's requests come first, for the processor too.
            if let Err(error) = rustix::process::nice(10) {
                log::info!("the copy runs at normal priority: {error}");
            }
            let filled = mirror.fill(new);
            let Some(served) = this.upgrade() else { return };
            if filled.is_ok() {
                served.watch_over(leg, &calls);
                owner.into_iter().for_each(|owner| served.held.take_over(leg, owner, calls.clone()));
                served.places.lock()[leg] = LegPlace::At(path);
            } else if returns {
                served.held.let_go(leg, Some(&calls));
            } else {
                if calls.under_way() > 0 {
                    log::warn!(
                        "{} still has calls under way: its lock is kept until they end",
                        path.display()
                    );
                }
                owner.into_iter().for_each(|owner| served.held.dismiss(owner, calls.clone()));
                served.tell_not_filled(leg, &path, filled.as_ref().err());
            }
            let is_in = filled.is_ok();
            if let Some(filling) = served.filling.lock().as_mut() {
                filling.ended = Some(filled);
            }
            if is_in {
                mirror.resync();
                // It may have failed before it was known here that it serves.
                served.let_go(leg);
            }
        };
        self.spawn(if returns { "re-add" } else { "replace" }, work).map_err(|cause| {
            *self.filling.lock() = None;
            Error::new("cannot start the copy").because(cause)
        })
    }

    /// A new directory does not take a leg's place. Whoever unmounts knows why.
    fn tell_not_filled(&self, leg: LegId, path: &Path, why: Option<&String>) {
        if let Some(why) = why.filter(|_| !*self.ended.0.lock()) {
            let detail = format!("{} does not take its place: {why}", path.display());
            self.events.tell(Event { name: Name::FailSpare, leg: Some(leg), detail });
        }
    }

    /// The leg that is brought up to date just now, or that a new one is filled for.
    pub(super) fn rebuilt(&self) -> Option<LegId> {
        let is_recovering = |&leg: &LegId| self.mirror.leg_state(leg) == LegState::Resyncing;
        let filling = || {
            self.filling.lock().as_ref().filter(|filling| filling.ended.is_none()).map(|filling| filling.leg)
        };
        filling().or_else(|| LegId::ALL.into_iter().find(is_recovering))
    }

    /// The directory at `path`, with its lock, if it is fit: it must keep clear of the leg that stays, and of the one
    /// that leaves if that `serves`. The disk of one that is away may have gone from the place where it was.
    fn open_new(&self, leg: LegId, path: &Path, serves: bool) -> Result<Opened> {
        let places = self.places.lock().clone();
        let other = leg.other();
        let (Some(says), Some(stays)) = (self.mirror.superblock(other), places[other].path()) else {
            return Err(returning::not_taken(leg, errno(libc::ENODEV)));
        };
        let stays = stays.to_owned();
        let leaves = places[leg].path().filter(|_| serves).map(Path::to_owned);
        let (new, mountpoint, waits) = (path.to_owned(), self.mountpoint.clone(), self.waits.clone());
        let opened = self.waits.within(move || {
            for clear_of in [Some(&stays), leaves.as_ref()].into_iter().flatten() {
                let at = |id| LegPlace::At(if id == leg { new.clone() } else { clear_of.clone() });
                place::check_apart(&PerLeg::from_fn(at), &mountpoint, Degraded::No)?;
            }
            if let (Ok(new), Some(Ok(leaves))) =
                (LegDir::open(&new), leaves.map(|leaves| LegDir::open(&leaves)))
            {
                layout::check_pair(if leg == LegId::A {
                    PerLeg::new(&new, &leaves)
                } else {
                    PerLeg::new(&leaves, &new)
                })?;
            }
            replacing::open(leg, &new, (&stays, &says), &waits)
        });
        opened.unwrap_or_else(|| {
            Err(self
                .waits
                .no_answer(leg, path)
                .hint("The legs are as they were. See to that disk, and try again."))
        })
    }
}
