//! A new directory takes the place of a leg that serves, or is away; or a leg returns that has everything compared. It is
//! filled while the mirror goes on, and is a leg that serves when it is complete.
//!
//! ```text
//!   history     one that returns loses it, durably: from here on it is no leg without the other one
//!   note        from here on every change notes what it has touched, beside all else that it does
//!   fill        everything, then what was touched meanwhile, until that is little       gate open
//!   gate closed, changes in flight ended
//!     fill        the rest: now the new directory is equal to the leg that stays, and both are durable
//!     leave       the old leg is left behind, as by hand, unless it is away
//!     take in     the new one, as a leg that returns and has missed nothing
//! ```
//!
//! Until `leave` nothing durable says that there is a new leg, and the two legs are what they always were: a crash, a
//! full disk, an unmount leave them so. A crash between `leave` and `take in` leaves the old leg stale, with
//! nothing that it misses. One that was away before stays so, and the bitmap keeps all that it misses, until `take in`. One
//! that returns is stale until then.
//!
//! A file of which the leg that stays cannot read all ends it while the old leg serves: that one has all of it. Once the
//! old leg is away there is nothing better to keep, so the new one gets the rest. That file is marked when it is taken
//! in, and the resync that follows says what it says of every such file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use super::change::{Part, Touch};
use super::not_equal::NotEqual;
use super::{Mirror, News, Returning};
use crate::error::errno;
use crate::inode::{Ino, Object};
use crate::legs::{ByPlace, Identity, Leg, LegId, PerLeg};
use crate::resync::{self, Broken, Limits, Outcome, Pace, Rehearsal, RehearsalHost, Touched};
#[cfg(feature = "simulation")]
use crate::sim::scheduler;
use crate::sync::{Mutex, Rank};

/// So much may be left to do while changes wait. Next to nothing in tests, so that their small trees take several passes, too.
const FEW_OBJECTS: usize = if cfg!(test) { 1 } else { 256 };
const FEW_BYTES: u64 = 32 << 20;

/// How long everybody waits for one who is stuck, and how long after that it is tried again.
const LONG: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };
const LATER: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(20) };

/// After so many passes the rest is done while changes wait, however much it is: it becomes no less.
const PASSES: usize = 10;

/// What is touched while a new leg is filled.
pub(super) struct Noting<L: Leg> {
    /// 0: none is filled; else one more than the leg it is filled from.
    from: AtomicU8,
    touched: Mutex<Touched>,
    /// That leg, where an object is noted by its place.
    by_place: Mutex<Option<Arc<ByPlace<L>>>>,
    /// It is to end before it is done.
    broken_off: AtomicBool,
}

impl<L: Leg> Noting<L> {
    pub fn new() -> Self {
        Noting {
            from: AtomicU8::new(0),
            touched: Mutex::new(Rank::Leaf, Touched::default()),
            by_place: Mutex::new(Rank::Leaf, None),
            broken_off: AtomicBool::new(false),
        }
    }

    /// The leg that a new one is filled from.
    fn from(&self) -> Option<LegId> {
        let from = self.from.load(Ordering::SeqCst);
        LegId::ALL.into_iter().find(|&leg| from == leg as u8 + 1)
    }

    pub(super) fn begin(&self, from: LegId, by_place: Option<Arc<ByPlace<L>>>) -> io::Result<()> {
        if self.from().is_some() {
            return Err(errno(libc::EBUSY));
        }
        self.broken_off.store(false, Ordering::SeqCst);
        // ORDER: how, before whether.
        *self.by_place.lock() = by_place;
        self.from.store(from as u8 + 1, Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn end(&self) {
        self.from.store(0, Ordering::SeqCst);
        self.take();
        // It is large.
        let forgotten = self.by_place.lock().take();
        drop(forgotten);
    }

    fn is_by_place(&self) -> bool {
        self.by_place.lock().is_some()
    }

    fn take(&self) -> Touched {
        std::mem::take(&mut *self.touched.lock())
    }

    fn is_little(&self) -> bool {
        let touched = self.touched.lock();
        #[cfg(feature = "simulation")]
        if scheduler::is_simulated() {
            return touched.is_empty();
        }
        !touched.is_everything() && touched.len() <= FEW_OBJECTS && touched.bytes() <= FEW_BYTES
    }
}

/// What a change is about to touch. It is noted when this is dropped: after the change, for what is copied in between
/// is the old, and before the change counts as over.
pub(super) struct Note<'t, L: Leg> {
    mirror: &'t Mirror<L>,
    parts: Vec<(Noted<'t, L>, resync::Part<'t>)>,
    everything: bool,
}

/// An object as it is noted.
enum Noted<'t, L: Leg> {
    Known(Identity),
    /// It is found where it lies when the change is done.
    ByPlace(&'t Arc<Object<L>>),
}

/// Where an object lies.
enum Place {
    At(Identity),
    /// Its last name is gone.
    Nowhere,
    Unknown,
}

impl<L: Leg> Drop for Note<'_, L> {
    fn drop(&mut self) {
        let mut noted = Vec::with_capacity(self.parts.len());
        for (object, part) in self.parts.drain(..) {
            let identity = match object {
                Noted::Known(identity) => Place::At(identity),
                Noted::ByPlace(object) => self.mirror.place_noted(object),
            };
            match identity {
                Place::At(identity) => noted.push((identity, part)),
                Place::Nowhere => {}
                Place::Unknown => self.everything = true,
            }
        }
        let mut touched = self.mirror.noting.touched.lock();
        if self.everything {
            touched.note_everything();
        }
        noted.into_iter().for_each(|(identity, part)| touched.note(identity, part));
    }
}

impl<L: Leg> Mirror<L> {
    /// To be dropped when the change is done. `None` if nobody wants to know; whoever wants to waits for the change.
    pub(super) fn note<'t>(&'t self, touched: &'t [Touch<'_, L>]) -> Option<Note<'t, L>> {
        let from = self.noting.from()?;
        let by_place = self.noting.is_by_place();
        let mut note = Note { mirror: self, parts: Vec::new(), everything: false };
        for touch in touched {
            // What has no name any more comes to no other leg.
            if touch.object.with_names(|names| names.gone) {
                continue;
            }
            let part = match &touch.part {
                Part::Name(name) | Part::Lost(name) => resync::Part::Name(name),
                Part::Metadata | Part::Moved | Part::Renamed | Part::RenamedFree | Part::Replaced => {
                    resync::Part::Metadata
                }
                Part::Data(bytes) => resync::Part::Data(bytes.clone()),
            };
            if by_place {
                note.parts.push((Noted::ByPlace(touch.object), part));
                continue;
            }
            match self.identity_on(touch.object, from) {
                Ok(identity) => note.parts.push((Noted::Known(identity), part)),
                // FAIL-SAFE: what it is cannot be told later.
                Err(_) => note.everything = true,
            }
        }
        Some(note)
    }

    /// The mirror knows by now what lies under these names. Whoever has noted by its old place what lies below has done so
    /// before this, which has all of it looked at.
    pub(super) fn note_placed(&self, names: &[Touch<'_, L>]) {
        drop(self.note(names));
    }

    /// An object may have lost one of its names: what was noted of it by that one is not found by the others.
    pub(super) fn note_lost_name(&self) {
        if self.noting.from().is_some() && self.noting.is_by_place() {
            self.noting.touched.lock().note_everything();
        }
    }

    /// The times of an object have been set behind everybody's back.
    pub(super) fn note_times(&self, object: &PerLeg<Identity>) {
        let Some(from) = self.noting.from() else { return };
        let place = match self.noting.is_by_place() {
            false => Place::At(object[from]),
            // Times are taken from there, and not set.
            true if from == self.source() => return,
            true => {
                let known = self.table.by_number(object[self.source()].ino);
                let place = known.as_ref().map_or(Place::Unknown, |known| self.place_noted(known));
                self.table.reap(known);
                place
            }
        };
        let mut touched = self.noting.touched.lock();
        match place {
            Place::At(identity) => touched.note(identity, resync::Part::Metadata),
            Place::Nowhere => {}
            Place::Unknown => touched.note_everything(),
        }
    }

    /// Where an object lies now, as the mirror knows it. Somebody may move a directory above it meanwhile: then that is noted
    /// afterwards, with all that is below it.
    fn place_noted(&self, object: &Arc<Object<L>>) -> Place {
        let mut names = Vec::new();
        let mut at = object.clone();
        while at.ino != Ino::ROOT {
            let (place, gone) = at.with_names(|names| (names.place.clone(), names.gone));
            let Some((dir, name)) = place else {
                self.table.reap(Some(at));
                return if gone { Place::Nowhere } else { Place::Unknown };
            };
            names.push(name);
            let below = std::mem::replace(&mut at, dir);
            self.table.reap(Some(below));
        }
        let path: PathBuf = names.iter().rev().map(|name| Path::new(&**name)).collect();
        let by_place = self.noting.by_place.lock().clone();
        match by_place {
            Some(by_place) => Place::At(by_place.place(&path)),
            // Nobody wants to know any more.
            None => Place::Nowhere,
        }
    }

    /// Fills a new leg, which takes the place of one that serves or is away, or one that returns. On success
    /// [`resync`](Self::resync) is to be called at once: changes wait until that has ended, or has come to what could not be
    /// read, if anything.
    ///
    /// # Errors
    /// Why not, in words. The legs are as they were, unless one of them has failed meanwhile, or the new one when it
    /// was to be taken in: then the old one has been left behind, and is told of. `re-add` takes it in again. One that
    /// returns stays away, for this reason from now on.
    pub fn fill(&self, new: Returning<L>) -> Result<(), String> {
        let (leg, returns) = (new.leg, !new.is_new);
        self.tell(News::Recovering(leg));
        let directory = new.directory.clone();
        let filled = self.fill_and_take_in(new).map_err(|failed| match directory.is_given_up() {
            // What it has been given up for.
            true => errno(libc::ETIMEDOUT).into(),
            false => failed,
        });
        drop(directory);
        let by_hand = self.noting.broken_off.swap(false, Ordering::SeqCst);
        self.noting.end();
        self.progress.stopped();
        filled.map_err(|failed| {
            let because = match (self.stop.is_asked(), by_hand) {
                (true, _) if returns => {
                    "the mirror is being unmounted; the next mount with both legs begins again".to_owned()
                }
                (true, _) => {
                    "the mirror is being unmounted; give the command again after the next mount".to_owned()
                }
                (false, true) => "taken out by hand".to_owned(),
                (false, false) => failed.to_string(),
            };
            self.tell(News::Recovered { leg, returned: false, because: Some(because.clone()) });
            if returns && !self.stop.is_asked() {
                let errno = if by_hand { 0 } else { failed.errno() };
                self.stays_away(leg, Some(errno), because.clone());
                self.tell(News::Left { leg, errno, recovering: true, why: Some(because.clone()) });
            }
            because
        })
    }

    /// Has the filling that is under way end before it is done. False if there is none.
    pub fn break_off_filling(&self) -> bool {
        let is_filling = self.noting.from().is_some();
        self.noting.broken_off.store(is_filling, Ordering::SeqCst);
        is_filling
    }

    fn fill_and_take_in(&self, mut new: Returning<L>) -> Result<(), NotEqual> {
        let (leg, from) = (new.leg, new.leg.other());
        let stays = self.leg(from)?;
        self.health.writable()?;
        if !self.is_equal() || !self.health.in_service(from) || self.noting.from().is_some() {
            return Err(errno(libc::EBUSY).into());
        }
        let lasting = self.identities_last(from, &new.directory);
        // The leg is as it was when these were marked: what has been moved since is known by them.
        let told = (lasting && !new.is_new && !new.compare_all).then(|| self.bitmap.slots());
        if !new.is_new {
            // Its history says so, too; this is for who asks how much it misses, should it not come to an end.
            self.bitmap.set_compare_all(self)?;
            // ORDER: before the first change to it. A crash from here on leaves what only the survivor can complete.
            let (says, store) = &mut new.superblock;
            *says = says.without_history();
            (store.write(says).and_then(|()| store.write(says)))?;
        }
        new.directory.measure();
        self.progress.restart();
        let legs = PerLeg::from_fn(|id| if id == leg { new.directory.clone() } else { stays.clone() });
        if !lasting {
            let legs = legs.map(|leg| Arc::new(ByPlace::new(leg)));
            self.begin_noting(from, Some(legs[from].clone()))?;
            let same_place = |here: &Identity| legs[from].same_place(here, &legs[leg]);
            let rehearsal = Rehearsal::new(&legs, from, self, &self.progress).by_place(&same_place);
            return self.fill_by(Filling { legs: &legs, from, rehearsal, unread: None }, new);
        }
        self.begin_noting(from, None)?;
        let mut rehearsal = Rehearsal::new(&legs, from, self, &self.progress);
        if let Some(slots) = told {
            rehearsal.begin_with(slots, self.bitmap.chunk_size())?;
        }
        self.fill_by(Filling { legs: &legs, from, rehearsal, unread: Some(Vec::new()) }, new)
    }

    fn begin_noting(&self, from: LegId, by_place: Option<Arc<ByPlace<L>>>) -> io::Result<()> {
        self.noting.begin(from, by_place)?;
        // ORDER: who has changed something and not noted it is done before the first look.
        drop(self.inside.write_unless(|| self.stop.is_asked()).ok_or_else(|| errno(libc::EINTR))?);
        Ok(())
    }

    fn fill_by<M: Leg>(&self, mut filling: Filling<'_, M>, new: Returning<L>) -> Result<(), NotEqual> {
        self.pass(&mut filling, Touched::everything(), Pace::GivingWay)?;
        for _ in 1..PASSES {
            if self.noting.is_little() {
                break;
            }
            self.pass(&mut filling, self.noting.take(), Pace::Fast)?;
        }
        let mut new = Some(new);
        while !self.change_legs(&mut filling, &mut new)? {
            log::warn!(
                "leg {} is complete, and waits for a request that is stuck in the one before",
                filling.from.other()
            );
            let later = crate::sync::now() + LATER;
            while crate::sync::now() < later && !self.stop_requested() {
                crate::sync::sleep(Duration::from_millis(100));
            }
            self.pass(&mut filling, self.noting.take(), Pace::GivingWay)?;
        }
        Ok(())
    }

    fn pass<M: Leg>(
        &self,
        filling: &mut Filling<'_, M>,
        touched: Touched,
        pace: Pace,
    ) -> Result<(), NotEqual> {
        let from = filling.from;
        match filling.rehearsal.pass(touched, pace) {
            Ok(Outcome::Done) if !self.stop_requested() => Ok(()),
            // What it answered since it was given up tells nothing.
            Ok(_) | Err(Broken::Failed(..)) if !self.health.in_service(from) => {
                Err(NotEqual::SourceLost(from))
            }
            Ok(_) => Err(errno(libc::EINTR).into()),
            Err(Broken::Unreadable(files)) => {
                if let Some(unread) = &mut filling.unread
                    && self.health.lost(from.other()).is_some()
                    && !self.stop_requested()
                {
                    unread.extend(files);
                    return Ok(());
                }
                let inos: Vec<u64> = files.iter().map(|file| file.ino).collect();
                let files = self.names_on(&*filling.legs[from], &inos);
                Err(NotEqual::Unreadable { leg: from, count: inos.len(), files })
            }
            Err(Broken::Failed(error, trouble)) => {
                let ino = trouble.and_then(|trouble| trouble.source_ino);
                let file = ino.and_then(|ino| self.names_on(&*filling.legs[from], &[ino]).pop());
                Err(NotEqual::Failed { error, leg: trouble.map(|trouble| trouble.leg), file })
            }
        }
    }

    /// The last of it, with nobody inside. False, and all is as it was, if somebody does not come out.
    fn change_legs<M: Leg>(
        &self,
        filling: &mut Filling<'_, M>,
        new: &mut Option<Returning<L>>,
    ) -> Result<bool, NotEqual> {
        let from = filling.from;
        let leg = from.other();
        let _no_resync = self.resyncing.lock();
        // What it has begun on the old leg is not to end on the new one. It may be waiting for a disk, so it is waited for
        // before anybody has to.
        let _no_sweep = Some(self.sweeping.lock());
        #[cfg(feature = "simulation")]
        let _no_sweep = _no_sweep.filter(|_| !scheduler::breaks(scheduler::Rule::AskedLeg));
        // If one of them hangs now, everybody would wait with this thread.
        let (old, legs) = (self.leg(leg).ok(), filling.legs);
        let detach_callers = |wanted| {
            legs.iter().for_each(|(_, leg)| leg.detach_callers(wanted));
            old.iter().for_each(|old| old.detach_callers(wanted));
        };
        detach_callers(true);
        self.gate.close();
        let mut held = None;
        let mut left = false;
        let begun = crate::sync::now();
        // One that is in a call to the old leg, which hangs and has been left behind, may be there for ever.
        let is_stuck = || self.health.lost(leg).is_some() && crate::sync::now() >= begun + LONG;
        let changed = (|| {
            let Some(_nobody_is_inside) = self.inside.write_unless(|| self.stop_requested() || is_stuck())
            else {
                return if self.stop_requested() { Err(errno(libc::EINTR).into()) } else { Ok(false) };
            };
            // Whoever found a leg broken has let changes in, which waited for it.
            self.turning.wait_for_all();
            self.gate.close();
            // So that the times do not change with the legs: what is read from one now comes from the other then.
            self.settle_all();
            self.pass(filling, self.noting.take(), Pace::Still)?;
            if self.health.lost(leg).is_none() {
                self.leave_behind(leg, 0, None)?;
                left = true;
            }
            // ORDER: whoever has found it at fault since is done with it before there is another one.
            let of_old = self.take_leg(leg);
            held = Some((of_old, None));
            self.turning.wait_for_all();
            if !self.health.in_service(from) {
                return Err(NotEqual::SourceLost(from));
            }
            self.gate.close();
            let new = new.take().expect("it is taken in once");
            let taken = self.take_in_alone(new, Some(Filled { unread: filling.unread() }));
            if let Some((_, of_new)) = &mut held {
                *of_new = taken.is_err().then(|| self.take_leg(leg));
            }
            taken.map(|()| true).map_err(NotEqual::from)
        })();
        drop(held);
        detach_callers(false);
        if matches!(changed, Ok(false)) {
            self.gate.open();
        }
        if let Err(failed) = &changed {
            if self.health.lost(leg).is_some() {
                self.bitmap.stop_using(leg);
                self.bitmap.set_away(Some(leg));
            }
            if left {
                let why = Some(format!("it was to be replaced, and that failed: {failed}"));
                self.tell(News::Left { leg, errno: 0, recovering: false, why });
            }
            if self.stop.is_asked() { self.gate.shut() } else { self.gate.open() }
        }
        changed
    }
}

/// A new directory that is being filled.
struct Filling<'f, M: Leg> {
    /// The leg that it is filled from, and itself.
    legs: &'f PerLeg<Arc<M>>,
    from: LegId,
    rehearsal: Rehearsal<'f, M>,
    /// The files of which that leg could not read all, as it calls them. `None` where no slot can tell which these are.
    unread: Option<Vec<Identity>>,
}

impl<M: Leg> Filling<'_, M> {
    /// The same on both. What has none there any more has lost its names since.
    fn unread(&self) -> Vec<PerLeg<Identity>> {
        let both = |file: &Identity| {
            let mut both = PerLeg::new(*file, *file);
            both[self.from.other()] = self.rehearsal.counterpart(file)?;
            Some(both)
        };
        self.unread.iter().flatten().filter_map(both).collect()
    }
}

/// A leg that has been filled is complete, but for what could not be read.
pub(super) struct Filled {
    /// Each of these files by what names it on both legs.
    pub unread: Vec<PerLeg<Identity>>,
}

impl<L: Leg> RehearsalHost for Mirror<L> {
    fn stop_requested(&self) -> bool {
        let lost_its_source = || self.noting.from().is_some_and(|from| !self.health.in_service(from));
        self.stop.is_asked() || self.noting.broken_off.load(Ordering::SeqCst) || lost_its_source()
    }

    fn user_operations(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn limits(&self) -> Limits {
        self.options.resync_limits
    }

    fn noted(&self) -> &Mutex<Touched> {
        &self.noting.touched
    }
}
