//! Fills a directory that is no leg yet from a source that serves, and is changed all the time.
//!
//! ```text
//!   pass(everything)       names, metadata, data, as any resync; the source moves under its hands
//!   pass(what was touched meanwhile), as often as that is much
//!   pass(the rest)         nobody changes anything any more: equal when it returns
//! ```
//!
//! It is the same engine. What is otherwise:
//!
//! - The target is nobody's leg: nothing of it is marked, and the intents are those of a bitmap of its own, in memory.
//! - The source is never written to.
//! - What is not found as it was a moment ago has been changed by somebody, who tells of it (`touched`). It is passed
//!   over, and noted once more here, so that even what nobody told of is looked at before the end.
//! - What was built is known with what it is on the source until the end, so that a rename is a rename. It costs some
//!   300 bytes an object.
//!
//! Where what names an object does not last, it is known by its place ([`SamePlace`]), and what was touched is told by
//! places. Then nothing is known from one pass to the next: what lies at a place where something was put, or was taken from, is
//! compared in full, with all that is below it. Names of one object that lie elsewhere are not seen so; who meets something with
//! several names starts over with everything.
//!
//! Whoever changes the source notes it *after* the change, and before it counts as over. So what a pass has
//! missed is in a later one, and when nobody is inside any more nothing is missing.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use uuid::Uuid;

use super::pairs::Pairs;
use super::places;
use super::plan::{Object, gather, settle};
use super::run::Run;
use super::touched::{Names, One, Part, Touched};
use super::{Limits, Outcome, Progress, Resync, ResyncHost, Scope, Sides, Trouble};
use crate::bitmap::{
    Bitmap, ChunkSize, Copies, CopyId, DirtySlot, Expect, Host, IdleSlot, Kinds, MIN_SLOTS, PageIndex,
    PageStore,
};
use crate::error::errno;
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg, Stat};
use crate::sync::{Mutex, join};

/// How often it is looked what slots tell, while somebody moves what they tell of.
const ATTEMPTS: usize = 8;

/// What is asked of the mirror meanwhile.
pub trait RehearsalHost: Send + Sync {
    /// Asked between steps; the pass then returns [`Outcome::Stopped`].
    fn stop_requested(&self) -> bool;

    /// As for [`ResyncHost`].
    fn user_operations(&self) -> u64;

    /// As for [`ResyncHost`].
    fn limits(&self) -> Limits;

    /// What has been touched since the last pass began.
    fn noted(&self) -> &Mutex<Touched>;
}

/// How a pass is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The source is in use, and its users come first.
    GivingWay,
    /// The source is in use.
    Fast,
    /// Nobody changes anything.
    Still,
}

/// Why a pass was broken off.
#[derive(Debug)]
pub enum Broken {
    /// With this error, and where that was, if it can be seen.
    Failed(io::Error, Option<Trouble>),
    /// The source cannot read all of these files, by what names them there. All else has been done, and is durable.
    Unreadable(Vec<Identity>),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Failed(error, None)
    }
}

/// What lies at the place of an object of the source, there and on the target. Nothing if it cannot lie there any more.
pub type SamePlace<'a> = dyn Fn(&Identity) -> io::Result<[Option<(Identity, Stat)>; 2]> + Sync + 'a;

/// See the module.
pub struct Rehearsal<'a, L: Leg> {
    /// The source, and in the other's place what is filled.
    legs: &'a PerLeg<Arc<L>>,
    source: LegId,
    host: &'a dyn RehearsalHost,
    progress: &'a Progress,
    /// Where identities do not last.
    same_place: Option<&'a SamePlace<'a>>,
    pairs: Pairs,
    /// See [`Run`].
    unmet: HashSet<u64>,
}

impl<'a, L: Leg> Rehearsal<'a, L> {
    /// Does nothing yet.
    pub fn new(
        legs: &'a PerLeg<Arc<L>>,
        source: LegId,
        host: &'a dyn RehearsalHost,
        progress: &'a Progress,
    ) -> Self {
        let (pairs, unmet) = (Pairs::default(), HashSet::new());
        Rehearsal { legs, source, host, progress, same_place: None, pairs, unmet }
    }

    /// An object is known by its place.
    pub fn by_place(self, same_place: &'a SamePlace<'a>) -> Self {
        Rehearsal { same_place: Some(same_place), ..self }
    }

    /// What these slots tell of the target, which is as it was when they were marked: which object is which. So what was
    /// moved since is moved there, too, and not copied. Before the first pass.
    pub fn begin_with(&mut self, slots: Vec<DirtySlot>, chunk: ChunkSize) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match self.known_by(slots.clone(), chunk) {
                Err(error) if has_moved(&error) && !self.host.stop_requested() => {}
                known => {
                    // Contradictions tell nothing, and everything is compared anyway.
                    self.pairs = known?.unwrap_or_default();
                    break;
                }
            }
        }
        // FAIL-SAFE: somebody may have moved what was looked up meanwhile. And nothing of it has been compared: whenever
        // it is met for the first time, in whichever pass, all of it is.
        self.unmet = self.pairs.all_of(self.source).collect();
        Ok(())
    }

    fn known_by(&self, slots: Vec<DirtySlot>, chunk: ChunkSize) -> io::Result<Option<Pairs>> {
        let (s, t) = (&*self.legs[self.source], self.target());
        let sides = Sides { s, t, source: self.source };
        let objects = places::bind(gather(slots, chunk), sides, |_, _| Ok(()))?;
        let objects = settle(objects, |leg, identity| Ok(sides.find(leg, identity)?.is_some()))?;
        Ok(Pairs::from_slots(objects.iter().map(|object| object.ids)))
    }

    /// Makes equal what is in `touched`, which the caller has taken out of what is noted. Both directories are
    /// durable when it is done.
    pub fn pass(&mut self, touched: Touched, pace: Pace) -> Result<Outcome, Broken> {
        match self.pass_over(touched, pace)? {
            Some(outcome) => Ok(outcome),
            None => {
                let outcome = self.pass_over(Touched::everything(), pace)?;
                Ok(outcome.expect("everything tells of all names"))
            }
        }
    }

    /// `None` if what is touched has names of which nothing is told.
    fn pass_over(&mut self, touched: Touched, pace: Pace) -> Result<Option<Outcome>, Broken> {
        let bitmap = scratch(self.source)?;
        let host = PassHost { host: self.host, pace };
        let resync = Resync::new(self.legs, &bitmap, self.source, Scope::Dirty, &host, self.progress);
        self.progress.set_active(true);
        let mut at = None;
        let named = self.names_and_metadata(&resync, &host, touched, &mut at);
        let outcome = match named {
            Ok(None) => return Ok(None),
            Ok(Some(Outcome::Done)) => resync.data(),
            Ok(Some(stopped)) => Ok(stopped),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Outcome::Incomplete) => {
                // ORDER: durable as after any pass, for what was copied stands for complete.
                let (of_source, of_target) =
                    (|| self.legs[self.source].sync_all(), || self.target().sync_all());
                let (of_source, of_target) = join(of_source, of_target);
                of_source.and(of_target)?;
                let unreadable = resync.pending.lock().unreadable_ids();
                Err(Broken::Unreadable(unreadable.iter().map(|ids| ids[self.source]).collect()))
            }
            Ok(outcome) => Ok(Some(outcome)),
            Err(error) => {
                let trouble = resync.trouble().or_else(|| super::trouble::find(resync.sides(), at.as_ref()));
                Err(Broken::Failed(error, trouble))
            }
        }
    }

    fn target(&self) -> &L {
        &self.legs[self.source.other()]
    }

    /// What this object of the source is on what is filled.
    pub fn counterpart(&self, identity: &Identity) -> Option<Identity> {
        self.pairs.partner(self.source, identity)
    }

    fn names_and_metadata(
        &mut self,
        resync: &Resync<'_, L>,
        host: &PassHost<'_>,
        touched: Touched,
        at: &mut Option<PerLeg<Identity>>,
    ) -> io::Result<Option<Outcome>> {
        let mut run = Run::new(resync.sides(), resync.bitmap, resync.host, resync.progress)?;
        let by_place = self.same_place.is_some();
        run.rehearses = Some(Rehearses { moves: host.source_moves(), noted: self.host.noted(), by_place });
        run.everything = touched.is_everything();
        run.pairs = std::mem::take(&mut self.pairs);
        run.unmet = std::mem::take(&mut self.unmet);
        let told = touched.into_objects().try_for_each(|one| match self.same_place {
            Some(same_place) => run.add_touched_at(one, same_place),
            None => {
                run.add_touched(one);
                Ok(())
            }
        });
        let named = told.and_then(|()| run.list_dirty()).and_then(|()| run.names_and_metadata(host));
        if !by_place {
            self.pairs = std::mem::take(&mut run.pairs);
            self.unmet = std::mem::take(&mut run.unmet);
        }
        *at = run.at;
        match named {
            Err(_) if run.has_other_names => return Ok(None),
            Ok(Outcome::Stopped) => return Ok(Some(Outcome::Stopped)),
            named => named?,
        };
        *resync.pending.lock() = run.finish()?;
        Ok(Some(Outcome::Done))
    }
}

/// What a [`Run`] has to know.
#[derive(Clone, Copy)]
pub(super) struct Rehearses<'r> {
    /// The source is in use.
    moves: bool,
    noted: &'r Mutex<Touched>,
    /// An object is known by its place.
    by_place: bool,
}

impl<L: Leg> Run<'_, L> {
    fn add_touched(&mut self, one: One) {
        let source = self.sides.source;
        let there = self.pairs.partner(source, &one.identity).unwrap_or(Identity::UNKNOWN);
        let ids = self.sides.pair(one.identity, there);
        let mut kinds = Kinds::METADATA;
        if let Some(names) = one.names {
            kinds = kinds | Kinds::ENTRIES;
            if let Names::These(these) = names {
                self.only.insert(ids, these.into());
            }
        }
        self.add(Object { slots: Vec::new(), ids, kinds, data: one.data, born_since: None });
    }

    /// The same by its place, where it may be another object by now. What is not there any more has been moved or
    /// removed by somebody, who tells of it.
    fn add_touched_at(&mut self, one: One, same_place: &SamePlace<'_>) -> io::Result<()> {
        let [Some((here, stat)), there] = same_place(&one.identity)? else { return Ok(()) };
        let stats = [Some(stat), there.map(|(_, stat)| stat)];
        stats.iter().flatten().try_for_each(|stat| self.check_names(stat))?;
        if let Some((there, _)) = there.filter(|(_, other)| other.kind == stat.kind) {
            self.pairs.insert(self.sides.pair(here, there));
            // Nothing of it has been compared.
            self.unmet.insert(here.ino);
        }
        match self.known(&here) {
            // It was told of by its place, and here by what was found there.
            Some(at) => {
                self.objects[at].data.add(one.data);
                if one.names.is_some() {
                    let ids = self.objects[at].ids;
                    self.only.remove(&ids);
                    self.objects[at].kinds = self.objects[at].kinds | Kinds::ENTRIES;
                }
            }
            None => self.add_touched(One { identity: here, ..one }),
        }
        Ok(())
    }

    /// Refuses what may have names that are not looked at, and would be told from this one's only by them.
    pub fn check_names(&mut self, stat: &Stat) -> io::Result<()> {
        let by_place = self.rehearses.is_some_and(|rehearses| rehearses.by_place);
        #[cfg(feature = "simulation")]
        if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::AllNames) {
            return Ok(());
        }
        if by_place && !self.everything && stat.kind != Kind::Directory && stat.nlink > 1 {
            self.has_other_names = true;
            return Err(errno(libc::EMLINK));
        }
        Ok(())
    }

    /// Whether a rehearsal has not compared this object of the source with its counterpart yet.
    pub fn is_unmet(&self, wanted: &Identity) -> bool {
        let is_known = || self.pairs.partner(self.sides.source, wanted).is_some();
        self.rehearses.is_some() && (self.unmet.contains(&wanted.ino) || !is_known())
    }

    /// Whether the source is changed by others meanwhile.
    pub fn moves(&self) -> bool {
        self.rehearses.is_some_and(|rehearses| rehearses.moves)
    }

    /// That somebody has changed the source under our hands is no error: that part of the object is looked at again.
    pub fn or_again(&self, ids: &PerLeg<Identity>, part: Part<'_>, done: io::Result<()>) -> io::Result<()> {
        match (done, self.rehearses) {
            (Err(error), Some(Rehearses { moves: true, noted, .. })) if has_moved(&error) => {
                noted.lock().note(ids[self.sides.source], part);
                Ok(())
            }
            (done, _) => done,
        }
    }

    /// All that was to be done for this object is to be done again.
    pub fn again(&self, object: &Object) {
        let Some(Rehearses { noted, .. }) = self.rehearses else { return };
        let (mut noted, identity) = (noted.lock(), object.ids[self.sides.source]);
        noted.note(identity, Part::Metadata);
        object.data.iter().for_each(|range| noted.note(identity, Part::Data(range)));
        if object.kinds.contains(Kinds::ENTRIES) {
            noted.note(identity, Part::Names);
        }
    }
}

/// Whether an error may be what a change by somebody else looks like.
pub(super) fn has_moved(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOENT
                | libc::ESTALE
                | libc::ENOTDIR
                | libc::EISDIR
                | libc::EEXIST
                | libc::ENOTEMPTY
                | libc::ELOOP
                | libc::EINVAL
                | libc::EAGAIN
        )
    )
}

/// Stands between a pass and the mirror.
struct PassHost<'h> {
    host: &'h dyn RehearsalHost,
    pace: Pace,
}

impl Host for PassHost<'_> {
    fn settle_and_sync(&self, _: &[IdleSlot]) -> io::Result<()> {
        Err(errno(libc::EBUSY))
    }

    fn copy_failed(&self, _: CopyId, error: &io::Error) -> io::Result<()> {
        Err(errno(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

impl ResyncHost for PassHost<'_> {
    /// On no lock: who changes the file meanwhile notes it, and it is copied again.
    fn with_object(&self, identity: &Identity, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<bool> {
        match work() {
            Err(error) if self.source_moves() && has_moved(&error) => {
                self.host.noted().lock().note(*identity, Part::Data(0..u64::MAX));
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    fn stop_requested(&self) -> bool {
        self.host.stop_requested()
    }

    fn source_moves(&self) -> bool {
        self.pace != Pace::Still
    }

    fn user_operations(&self) -> u64 {
        // What was touched meanwhile has to become less.
        if self.pace == Pace::GivingWay { self.host.user_operations() } else { 0 }
    }

    fn limits(&self) -> Limits {
        if self.pace == Pace::GivingWay { self.host.limits() } else { Limits { min: 0, max: 0 } }
    }
}

/// A bitmap of which nothing outlives the pass.
fn scratch(source: LegId) -> io::Result<Bitmap> {
    let chunk = ChunkSize::default();
    let image = Bitmap::create_image(Uuid::nil(), MIN_SLOTS, chunk);
    let copies = Copies::Single(Box::new(Nowhere(image)));
    let expect = Expect { mirror: Uuid::nil(), slots: MIN_SLOTS, chunk, file: Uuid::nil(), stale: None };
    let loaded = copies.load(&expect);
    Bitmap::new(copies, loaded, source)
}

/// The file of such a bitmap.
struct Nowhere(Vec<u8>);

impl PageStore for Nowhere {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }

    fn write(&self, _: PageIndex, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}
