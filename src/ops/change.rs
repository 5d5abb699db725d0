//! The one way a change takes.
//!
//! ```text
//!   enter            gate open? mirror writable?              no lock held
//!   (object locks)   taken by the caller
//!   change           mark -> source -> other -> judge -> fault or repair -> reply
//! ```

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Mirror;
use super::outcome::{Answer, Class, Reply, Then, class, judge};
use super::resolve::Marked;
use crate::bitmap::{ChunkIndex, ChunkSize, Kinds, Needs, Span, Want, WriteIntent};
use crate::error::errno;
use crate::inode::Object;
use crate::legs::{Kind, Leg, LegId, PerLeg};
use crate::sync::ReadGuard;

/// What a request touches: what is marked before, and what is made alike again when the legs gave
/// two different answers.
pub(super) struct Touch<'a, L: Leg> {
    pub object: &'a Arc<Object<L>>,
    pub part: Part<'a>,
}

/// Which part of an object.
#[derive(Clone)]
pub(super) enum Part<'a> {
    /// What a directory has under this name.
    Name(&'a OsStr),
    /// The same, and what it names may be lost with it.
    Lost(&'a OsStr),
    /// Attributes.
    Metadata,
    /// The object as something that moves, or gets or loses one of several names.
    Moved,
    /// The object as something that gets another name in its directory in place of the one it has, while the legs
    /// are alike.
    Renamed,
    /// The same of a small file with one name, and its new name has been nobody else's since the slot of the directory
    /// was taken.
    RenamedFree,
    /// The object as something that loses its last name to another one.
    Replaced,
    /// These bytes, and the length and times that go with them. An end of `u64::MAX` is the end of
    /// the file, wherever that is.
    Data(Range<u64>),
}

impl<L: Leg> Clone for Touch<'_, L> {
    fn clone(&self) -> Self {
        Touch { object: self.object, part: self.part.clone() }
    }
}

impl<'a, L: Leg> Touch<'a, L> {
    /// A name in a directory.
    pub fn name(object: &'a Arc<Object<L>>, name: &'a OsStr) -> Self {
        Touch { object, part: Part::Name(name) }
    }

    /// A name by which a directory may lose an object.
    pub fn lost(object: &'a Arc<Object<L>>, name: &'a OsStr) -> Self {
        Touch { object, part: Part::Lost(name) }
    }

    /// Attributes.
    pub fn metadata(object: &'a Arc<Object<L>>) -> Self {
        Touch { object, part: Part::Metadata }
    }

    /// An object whose names change.
    pub fn moved(object: &'a Arc<Object<L>>) -> Self {
        Touch { object, part: Part::Moved }
    }

    /// An object that stays in its directory and gets another name there.
    pub fn renamed(object: &'a Arc<Object<L>>) -> Self {
        Touch { object, part: Part::Renamed }
    }

    /// The same of one whose new name has been nobody else's.
    pub fn renamed_free(object: &'a Arc<Object<L>>) -> Self {
        Touch { object, part: Part::RenamedFree }
    }

    /// An object whose last name becomes another one's.
    pub fn replaced(object: &'a Arc<Object<L>>) -> Self {
        Touch { object, part: Part::Replaced }
    }

    /// Whether the leg has the object: one that lost its last name while the leg was away never comes to it.
    fn is_on(&self, leg: LegId) -> bool {
        !self.object.with_names(|names| names.absent[leg])
    }

    /// Bytes of a file.
    pub fn data(object: &'a Arc<Object<L>>, bytes: Range<u64>) -> Self {
        Touch { object, part: Part::Data(bytes) }
    }
}

impl Part<'_> {
    fn kinds(&self) -> Kinds {
        match self {
            Part::Name(_) | Part::Lost(_) => Kinds::ENTRIES,
            Part::Metadata | Part::Moved | Part::Renamed | Part::RenamedFree | Part::Replaced => {
                Kinds::METADATA
            }
            Part::Data(_) => Kinds::METADATA | Kinds::DATA,
        }
    }

    /// Whether an object can be lost by it, which to take it back would have to be built anew.
    fn loses(&self) -> bool {
        matches!(self, Part::Lost(_))
    }

    fn span(&self, chunk: ChunkSize) -> Span {
        match self {
            Part::Data(bytes) if bytes.end == u64::MAX => Span::From(chunk.containing(bytes.start)),
            Part::Data(bytes) => Span::Chunks(chunk.covering(bytes.start, bytes.end - bytes.start)),
            _ => Span::None,
        }
    }
}

/// What a change did.
pub(super) struct Done<T> {
    /// What the legs answered that did it.
    pub legs: PerLeg<Option<T>>,
    /// The count for the reply.
    pub count: u64,
}

impl<L: Leg> Mirror<L> {
    /// Lets a change in: waits for the namespace to be resynced. Call it before any lock is taken, so
    /// that readers of the same objects are served meanwhile. While the guard is held, no leg that is away
    /// is let in.
    ///
    /// # Errors
    /// EROFS when the mirror is read-only.
    pub(super) fn enter(&self) -> io::Result<ReadGuard<'_, ()>> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.health.writable()?;
        let inside = self.come_in()?;
        self.health.writable()?;
        Ok(inside)
    }

    /// The same for what changes nothing and is asked of both legs: one that is let in later has not got all names
    /// yet.
    pub(super) fn come_in(&self) -> io::Result<ReadGuard<'_, ()>> {
        loop {
            self.gate.pass()?;
            let inside = self.inside.read();
            if self.gate.is_open() {
                return Ok(inside);
            }
        }
    }

    /// Marks what is touched, does the change on the source and then on the other leg, and settles
    /// what two different answers mean. `count` gives the bytes a leg did, 0 where nothing is counted.
    ///
    /// # Errors
    /// The errno of the reply, after the legs have been made alike.
    pub(super) fn change<T, const N: usize>(
        &self,
        touched: [Touch<'_, L>; N],
        mut act: impl FnMut(&WriteIntent<'_>, LegId) -> io::Result<T>,
        count: impl Fn(&T) -> u64,
    ) -> io::Result<Done<T>> {
        let marked = touched.each_ref().map(|touch| self.markable(touch.object));
        let wants: [Want<'_>; N] = std::array::from_fn(|i| self.want(&marked[i], &touched[i]));
        // ORDER: the bits are durable before a leg sees the change (O1). A crash in between leaves
        // dirty bits over equal legs: one needless compare.
        let intent = self.bitmap.mark(self, &wants)?;
        self.keep_while_marked(touched.iter().map(|touch| touch.object));
        let _note = self.note(&touched);

        let source = self.source();
        let other = source.other();
        let serves = |leg| self.health.in_service(leg) && touched.iter().all(|touch| touch.is_on(leg));
        let loses = touched.iter().any(|touch| touch.part.loses());
        let (of_source, of_other) = if !serves(other) {
            (Some(act(&intent, source)), None)
        } else if loses || !self.is_equal() {
            self.ask_other_first(&intent, source, &mut act)
        } else {
            self.ask_source_first(&intent, source, &mut act)
        };
        if let (Some(Err(error)), Some(Err(theirs))) = (&of_source, &of_other) {
            self.note_neither(source, error, theirs, || Some(self.path_of(touched[0].object)));
        }
        let outcome = judge(source, answer(of_source.as_ref(), &count), answer(of_other.as_ref(), &count));
        let mut reply = outcome.reply;
        match outcome.then {
            Then::Nothing => {}
            // ORDER: durable on the survivor before the reply (O2).
            Then::Fault(leg, number) => match self.fault(leg, number) {
                Ok(()) => {}
                // The last leg's answer is the answer, and so is that of a leg which cannot be done without.
                Err(_) if leg == source => {
                    reply = Reply::Errno(number);
                    if matches!(of_other, Some(Ok(_))) {
                        self.repair(&intent, other, &touched);
                    }
                }
                Err(error) => return Err(error),
            },
            #[cfg(feature = "simulation")]
            Then::Repair { .. } if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::TakenBack) => {}
            Then::Repair { wrong } => self.repair(&intent, wrong, &touched),
        }
        match reply {
            Reply::Done(count) => {
                let mut legs = PerLeg::new(None, None);
                (legs[source], legs[other]) = (of_source.and_then(Result::ok), of_other.and_then(Result::ok));
                Ok(Done { legs, count })
            }
            Reply::Errno(number) => Err(errno(number)),
        }
    }

    /// What is marked for a touch. Of an object of which it is not certain what it is on a leg that is away,
    /// nothing is known to be alike there: all of it is marked. So it is of one that was covered by the directory
    /// it was born in, and moves: what that slot stands for has to be told by its own.
    fn want<'w>(&self, marked: &'w Marked<'_, L>, touch: &Touch<'_, L>) -> Want<'w> {
        let (mut kinds, mut span) = (touch.part.kinds(), touch.part.span(self.bitmap.chunk_size()));
        let slot = match touch.part {
            Part::Moved => Needs::Own,
            Part::Renamed => Needs::OwnOrCover,
            Part::RenamedFree => Needs::OwnOrNames,
            Part::Replaced => Needs::None,
            _ => Needs::Any,
        };
        let moves = matches!(touch.part, Part::Moved | Part::Renamed | Part::RenamedFree);
        let leaves_cover = moves && self.bitmap.is_covered(touch.object.cover.load(Ordering::Acquire));
        if leaves_cover || self.health.is_degraded() && !self.is_certain(touch.object) {
            match touch.object.kind {
                Kind::Directory => kinds = kinds | Kinds::ENTRIES,
                Kind::File => {
                    (kinds, span) = (kinds | Kinds::DATA | Kinds::METADATA, Span::From(ChunkIndex(0)));
                }
                _ => {}
            }
        }
        let moves = moves.then_some(match touch.object.kind {
            Kind::File => Kinds::METADATA | Kinds::DATA,
            _ => Kinds::METADATA,
        });
        Want { object: marked, kinds, span, slot, moves }
    }

    /// Marks what is touched and nothing else: whatever comes of it, the next resync looks at it.
    pub(super) fn mark(&self, touched: Touch<'_, L>) -> io::Result<WriteIntent<'_>> {
        let marked = self.markable(touched.object);
        self.bitmap.mark(self, &[self.want(&marked, &touched)])
    }

    /// Makes the legs alike in what was touched, after the source refused a change of which it may have
    /// done a part: as the other leg has it, unless that may still have old data there.
    pub(super) fn make_alike(&self, touched: Touch<'_, L>) -> io::Result<()> {
        let intent = self.mark(touched.clone())?;
        let touched = [touched];
        let _note = self.note(&touched);
        let [touched] = &touched;
        if !self.health.in_service(self.source().other()) || !touched.is_on(self.source().other()) {
            return Ok(());
        }
        let wrong = if self.is_equal() { self.source() } else { self.source().other() };
        self.repair(&intent, wrong, std::slice::from_ref(touched));
        Ok(())
    }

    /// A refusal by the source leaves both legs as they were: the other is not asked. Unless it tells that
    /// the source is broken.
    fn ask_source_first<T>(
        &self,
        intent: &WriteIntent<'_>,
        source: LegId,
        act: &mut impl FnMut(&WriteIntent<'_>, LegId) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Option<io::Result<T>>) {
        let of_source = act(intent, source);
        let other_decides = of_source.as_ref().is_err_and(|error| class_of(error) == Class::Failure)
            // Somebody else may have left it behind meanwhile.
            && (self.health.can_lose(source) || !self.health.in_service(source));
        let ask = (of_source.is_ok() || other_decides) && self.health.in_service(source.other());
        let of_other = ask.then(|| act(intent, source.other()));
        (Some(of_source), of_other)
    }

    /// While data is being resynced the other leg may hold old bytes and times, and nothing can be taken back
    /// from it. And what was removed could be put back only by building it anew, which may fail, or be
    /// cut short by a crash. So then it is asked first: a refusal of its own leaves the source as it was, and
    /// what it did in part is brought back from there.
    fn ask_other_first<T>(
        &self,
        intent: &WriteIntent<'_>,
        source: LegId,
        act: &mut impl FnMut(&WriteIntent<'_>, LegId) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Option<io::Result<T>>) {
        let of_other = act(intent, source.other());
        if of_other.as_ref().is_err_and(|error| class_of(error) == Class::Limit) {
            return (None, Some(of_other));
        }
        (Some(act(intent, source)), Some(of_other))
    }

    /// A change that either happens or not.
    pub(super) fn change_all<T, const N: usize>(
        &self,
        touched: [Touch<'_, L>; N],
        act: impl FnMut(&WriteIntent<'_>, LegId) -> io::Result<T>,
    ) -> io::Result<Done<T>> {
        self.change(touched, act, |_| 0)
    }
}

fn class_of(error: &io::Error) -> Class {
    class(error.raw_os_error().unwrap_or(libc::EIO))
}

fn answer<T>(result: Option<&io::Result<T>>, count: impl Fn(&T) -> u64) -> Answer {
    match result {
        None => Answer::NotAsked,
        Some(Ok(done)) => Answer::Done(count(done)),
        Some(Err(error)) => Answer::Refused(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}
