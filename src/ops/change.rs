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
use crate::bitmap::{ChunkSize, Kinds, Span, Want, WriteIntent};
use crate::error::errno;
use crate::inode::Object;
use crate::legs::{Leg, LegId};

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
    /// Attributes; or the object as something that moves or gets another name.
    Metadata,
    /// These bytes, and the length and times that go with them. An end of `u64::MAX` is the end of
    /// the file, wherever that is.
    Data(Range<u64>),
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

    /// Attributes, or an object that moves.
    pub fn metadata(object: &'a Arc<Object<L>>) -> Self {
        Touch { object, part: Part::Metadata }
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
            Part::Metadata => Kinds::METADATA,
            Part::Data(_) => Kinds::METADATA | Kinds::DATA,
        }
    }

    /// Whether taking the change back on one leg takes data from the other.
    fn needs_data_to_undo(&self) -> bool {
        matches!(self, Part::Data(_) | Part::Lost(_))
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
    /// What the source answered.
    pub source: T,
    /// What the other leg answered, if it was in service and did it.
    pub other: Option<T>,
    /// The count for the reply.
    pub count: u64,
}

impl<L: Leg> Mirror<L> {
    /// Lets a change in: waits for the namespace to be resynced. Call it before any lock is taken, so
    /// that readers of the same objects are served meanwhile.
    ///
    /// # Errors
    /// EROFS when the mirror is read-only.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.health.writable()?;
        self.gate.pass()?;
        self.health.writable()
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
        let wants: [Want<'_>; N] = std::array::from_fn(|i| Want {
            object: &marked[i],
            kinds: touched[i].part.kinds(),
            span: touched[i].part.span(self.bitmap.chunk_size()),
        });
        // ORDER: the bits are durable before a leg sees the change (O1). A crash in between leaves
        // dirty bits over equal legs: one needless compare.
        let intent = self.bitmap.mark(self, &wants)?;

        let source = self.source();
        let needs_data = touched.iter().any(|touch| touch.part.needs_data_to_undo());
        let (of_source, of_other) = if needs_data && !self.is_equal() {
            self.ask_other_first(&intent, &mut act)
        } else {
            self.ask_source_first(&intent, &mut act)
        };
        let outcome = judge(source, answer(of_source.as_ref(), &count), answer(of_other.as_ref(), &count));
        match outcome.then {
            Then::Nothing => {}
            // ORDER: durable on the survivor before the reply (O2).
            Then::Fault(leg, errno) => self.fault(leg, errno)?,
            Then::Repair { wrong } => self.repair(&intent, wrong, &touched),
        }
        match (outcome.reply, of_source) {
            (Reply::Done(count), Some(Ok(of_source))) => {
                Ok(Done { source: of_source, other: of_other.and_then(Result::ok), count })
            }
            (Reply::Errno(number), _) => Err(errno(number)),
            (Reply::Done(_), Some(Err(error))) => Err(error),
            (Reply::Done(_), None) => Err(errno(libc::EIO)),
        }
    }

    /// Makes the legs alike in what was touched, after the source refused a change of which it may have
    /// done a part: as the other leg has it, unless that may still have old data there.
    pub(super) fn make_alike(&self, touched: Touch<'_, L>) -> io::Result<()> {
        let object = self.markable(touched.object);
        let (kinds, span) = (touched.part.kinds(), touched.part.span(self.bitmap.chunk_size()));
        let intent = self.bitmap.mark(self, &[Want { object: &object, kinds, span }])?;
        let wrong = if self.is_equal() { self.source() } else { self.source().other() };
        self.repair(&intent, wrong, &[touched]);
        Ok(())
    }

    /// A refusal by the source leaves both legs as they were: the other is not asked.
    fn ask_source_first<T>(
        &self,
        intent: &WriteIntent<'_>,
        act: &mut impl FnMut(&WriteIntent<'_>, LegId) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Option<io::Result<T>>) {
        let source = self.source();
        let of_source = act(intent, source);
        let ask = of_source.is_ok() && self.health.in_service(source.other());
        let of_other = ask.then(|| act(intent, source.other()));
        (Some(of_source), of_other)
    }

    /// While data is being resynced the other leg may hold old bytes, and nothing can be taken back from
    /// it: it is asked first, so that a refusal of its own leaves the source as it was, and what it
    /// did in part is brought back from there.
    fn ask_other_first<T>(
        &self,
        intent: &WriteIntent<'_>,
        act: &mut impl FnMut(&WriteIntent<'_>, LegId) -> io::Result<T>,
    ) -> (Option<io::Result<T>>, Option<io::Result<T>>) {
        let source = self.source();
        if !self.health.in_service(source.other()) {
            return (Some(act(intent, source)), None);
        }
        let of_other = act(intent, source.other());
        let refused = of_other.as_ref().err().and_then(io::Error::raw_os_error);
        if refused.is_some_and(|number| class(number) == Class::Limit) {
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

fn answer<T>(result: Option<&io::Result<T>>, count: impl Fn(&T) -> u64) -> Answer {
    match result {
        None => Answer::NotAsked,
        Some(Ok(done)) => Answer::Done(count(done)),
        Some(Err(error)) => Answer::Refused(error.raw_os_error().unwrap_or(libc::EIO)),
    }
}
