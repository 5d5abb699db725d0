//! The data phase: behind the mount, piece by piece, each piece under the lock of its object. Large files one after
//! the other, each read on both legs at once; of small ones several at the same time, for what they cost is waiting.
//!
//! What is left to do stands in [`Pending`], under a lock of its own that is never held during I/O. A
//! piece is taken from it and struck off under the object's lock, so a user's operation that needs
//! an object to be equal first ([`Resync::finish_object`]) and this phase never do the same twice.

use std::collections::BTreeMap;
use std::io;

use super::build::AT_ONCE;
use super::copy::{Copier, OpenPair, PIECE};
use super::plan::Object;
use super::throttle::Throttle;
use super::{Outcome, Resync, metadata, trouble};
use crate::bitmap::SlotIndex;
use crate::error::errno;
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg};
use crate::sync::{each, join};

/// So many small files have their turn together, at most, and so many bytes of them.
const TOGETHER: usize = 32;
const BYTES_TOGETHER: u64 = PIECE;

/// A file whose data is not yet equal.
struct Unequal {
    object: Object,
    /// How much of it is to be compared, as far as that is known.
    bytes: u64,
}

/// The files whose data is not yet equal.
#[derive(Default)]
pub(super) struct Pending {
    /// By inode number on the source.
    files: BTreeMap<u64, Unequal>,
    /// Covers the files without a slot, when everything is compared.
    pub root: Option<SlotIndex>,
    /// Slots that are given back when all files are done.
    pub at_the_end: Vec<SlotIndex>,
    /// What the source could not read all of.
    unreadable: BTreeMap<u64, Unequal>,
}

impl Pending {
    /// See [`Resync::unreadable`].
    pub fn unreadable(&self) -> Vec<u64> {
        self.unreadable.keys().copied().collect()
    }

    /// The same, by what names them on both legs.
    pub fn unreadable_ids(&self) -> Vec<PerLeg<Identity>> {
        self.unreadable.values().map(|file| file.object.ids).collect()
    }

    fn pass_over(&mut self, ino: u64) {
        if let Some(file) = self.files.remove(&ino) {
            self.unreadable.insert(ino, file);
        }
    }

    /// The file that has this number or a higher one, and small ones behind it if it is small: those whose turn it is.
    fn from(&self, ino: u64) -> Vec<u64> {
        let mut bytes = 0;
        let fits = |(_, file): &(&u64, &Unequal)| {
            bytes += file.bytes;
            bytes <= BYTES_TOGETHER
        };
        let some: Vec<u64> =
            self.files.range(ino..).take(TOGETHER).take_while(fits).map(|(&ino, _)| ino).collect();
        match some.is_empty() {
            true => self.files.range(ino..).next().map(|(&ino, _)| ino).into_iter().collect(),
            false => some,
        }
    }

    fn try_again(&mut self) {
        self.files.append(&mut self.unreadable);
    }

    /// One more file, which the source has; `bytes` of it are to be compared.
    pub fn add(&mut self, source: LegId, object: Object, bytes: u64) {
        let before = self.files.insert(object.ids[source].ino, Unequal { object, bytes });
        debug_assert!(before.is_none(), "one living object a number");
    }
}

impl<L: Leg> Resync<'_, L> {
    /// Makes all dirty data equal. Users may change what they like meanwhile: both legs get their
    /// changes, so what was equal stays so.
    ///
    /// A file that the source cannot read is passed over, and tried once more at the end: a user may have
    /// written it anew by then.
    pub fn data(&self) -> io::Result<Outcome> {
        let mut copiers: Vec<_> = (0..AT_ONCE).map(|_| Copier::new(self.progress)).collect();
        let mut outcome = self.pass(&mut copiers)?;
        if outcome == Outcome::Incomplete {
            self.pending.lock().try_again();
            outcome = self.pass(&mut copiers)?;
        }
        if outcome == Outcome::Done {
            self.finish()?;
        }
        self.progress.set_active(false);
        Ok(outcome)
    }

    /// Deals with all that is pending.
    fn pass(&self, copiers: &mut [Copier<'_>]) -> io::Result<Outcome> {
        let mut throttle = Throttle::new(self.host.limits(), self.host.user_operations());
        let mut from = 0;
        loop {
            let inos = self.pending_from(from);
            let (Some(&first), Some(&last)) = (inos.first(), inos.last()) else { break };
            if self.host.stop_requested() {
                return Ok(Outcome::Stopped);
            }
            if first < from {
                // All that are left could not be found.
                throttle.rest(|| self.host.stop_requested());
            }
            // They have their turn until they are done.
            from = first;
            // To wake somebody for a single small file takes longer than to compare it.
            let workers = copiers.len().min(inos.len() / 2).max(1);
            let turns = each(&mut copiers[..workers], &inos, |copier, &ino| self.turn(ino, copier));
            let mut moved = 0;
            for turn in turns {
                match turn? {
                    Turn::Moved(bytes) => moved += bytes,
                    Turn::Again => from = last + 1,
                }
            }
            throttle.pace(moved, || self.host.user_operations(), || self.host.stop_requested());
        }
        let complete = self.pending.lock().unreadable.is_empty();
        Ok(if complete { Outcome::Done } else { Outcome::Incomplete })
    }

    /// A piece of one file, on its lock.
    fn turn(&self, ino: u64, copier: &mut Copier<'_>) -> io::Result<Turn> {
        let mut moved = 0;
        let Some((object, _)) = self.pending_file(ino) else { return Ok(Turn::Moved(0)) };
        let there = self.host.with_object(&object.ids[self.source], &mut || {
            moved = self.step(ino, copier)?;
            Ok(())
        });
        match there {
            // FAIL-SAFE: it keeps its slot, and what the target has there is read by nobody.
            Err(error) if copier.source_failed() => {
                log::error!("leg {} cannot read all of inode {ino}: {error}", self.source);
                self.pending.lock().pass_over(ino);
            }
            // Without handles it is looked for by a walk, which renames can lead astray. Its turn comes again.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(Turn::Again),
            Err(error) => {
                *self.trouble.lock() = trouble::find(self.sides(), Some(&object.ids));
                return Err(error);
            }
            Ok(true) => {}
            Ok(false) if self.host.source_moves() => self.done(ino),
            Ok(false) => {
                // FAIL-SAFE: only the source can say that it is gone.
                if self.sides().find(self.source, &object.ids[self.source])?.is_some() {
                    log::error!("inode {ino} of leg {} is taken for another object", self.source);
                    return Err(errno(libc::ESTALE));
                }
                self.done(ino);
            }
        }
        Ok(Turn::Moved(moved))
    }

    /// Gives back the slots that stand for everything.
    fn finish(&self) -> io::Result<()> {
        // ORDER: when everything was compared, most of what was changed has no slot that the sweep would
        // clear only after a sync of both legs. So it is synced here: the target for what was
        // written, the source for what was read, which a power cut could still take back.
        let at_the_end = std::mem::take(&mut self.pending.lock().at_the_end);
        if !at_the_end.is_empty() {
            self.make_durable()?;
            at_the_end.into_iter().for_each(|slot| self.bitmap.resynced(slot));
        }
        Ok(())
    }

    fn make_durable(&self) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::FilledSynced) {
            return Ok(());
        }
        let sides = self.sides();
        let (s, t) = join(|| sides.s.sync_all(), || sides.t.sync_all());
        s.and(t)
    }

    /// Whether the data of an object may still differ between the legs.
    pub fn is_pending(&self, source_ino: u64) -> bool {
        self.pending.lock().files.contains_key(&source_ino)
    }

    /// Makes the data of one object equal now. For operations by which a leg moves its own data about,
    /// such as copying a range or collapsing one: they would carry what differs to where no slot
    /// tells of it. The caller holds the object's lock.
    pub fn finish_object(&self, source_ino: u64) -> io::Result<()> {
        if !self.is_pending(source_ino) {
            return Ok(());
        }
        let mut copier = Copier::new(self.progress);
        while self.is_pending(source_ino) {
            self.step(source_ino, &mut copier)?;
        }
        Ok(())
    }

    /// Those whose turn it is, from this number on or, if there are none, from the beginning.
    fn pending_from(&self, ino: u64) -> Vec<u64> {
        let pending = self.pending.lock();
        let behind = pending.from(ino);
        if behind.is_empty() { pending.from(0) } else { behind }
    }

    /// One piece of one file, and its metadata if that is the last. Returns the bytes dealt with. The object's lock is
    /// held.
    fn step(&self, ino: u64, copier: &mut Copier<'_>) -> io::Result<u64> {
        let Some((object, root)) = self.pending_file(ino) else { return Ok(0) };
        let sides = self.sides();
        let (s_node, t_node) = match sides.find_both(&object.ids)? {
            (Some(s_node), Some(t_node)) => (s_node, t_node),
            (None, _) => {
                self.done(ino);
                return Ok(0);
            }
            (Some(_), None) => {
                self.counterpart_is_new(ino, &object)?;
                return Ok(0);
            }
        };
        let slot = object.slots.first().copied().or(root);
        let intent = self.bitmap.hold(slot.expect("without a slot only when everything is compared"));
        let (s_stat, t_stat) = (sides.s.stat(&s_node)?, sides.t.stat(&t_node)?);
        let next = object.data.first().filter(|range| range.start < s_stat.size);
        let mut moved = 0;
        if let (Some(range), Kind::File, Kind::File) = (next, s_stat.kind, t_stat.kind) {
            let files = OpenPair::open(sides, (&s_node, &t_node))?;
            let within = range.start..range.end.min(s_stat.size);
            let reached = copier.advance(sides, &intent, &files, within.clone())?;
            moved = reached - within.start;
            self.progress.bytes_done(moved);
            if self.is_left(ino, reached, s_stat.size) {
                return Ok(moved);
            }
        }
        // ORDER: the sweep syncs both legs before it clears the slot (O3), so nothing is synced here.
        // Writing has dropped suid, sgid and capabilities and moved the times.
        metadata::equalize(sides, &intent, &s_node, &t_node)?;
        drop(intent);
        self.done(ino);
        Ok(moved)
    }

    /// The target has no such object any more. Either it was made anew there, when a removal was taken back, and its
    /// slot says so; or somebody took it away behind the mirror's back.
    ///
    /// # Errors
    /// ESTALE, and everything is to be compared next time: which names it had is not known.
    fn counterpart_is_new(&self, ino: u64, object: &Object) -> io::Result<()> {
        let target = self.source.other();
        let now = self.bitmap.identities_of(&object.ids).map(|ids| ids[target]);
        if let Some(now) = now.filter(|now| *now != object.ids[target]) {
            if let Some(file) = self.pending.lock().files.get_mut(&ino) {
                file.object.ids[target] = now;
            }
            return Ok(());
        }
        log::error!("inode {ino} of leg {} has no counterpart on leg {target}", self.source);
        self.bitmap.set_compare_all(self.host)?;
        Err(errno(libc::ESTALE))
    }

    fn pending_file(&self, ino: u64) -> Option<(Object, Option<SlotIndex>)> {
        let pending = self.pending.lock();
        let file = pending.files.get(&ino)?;
        Some((file.object.clone(), pending.root))
    }

    /// All up to here is equal. Whether there is more to do within the file.
    fn is_left(&self, ino: u64, reached: u64, size: u64) -> bool {
        let mut pending = self.pending.lock();
        let Some(file) = pending.files.get_mut(&ino) else { return false };
        file.object.data.done_below(reached);
        file.bytes = file.object.data.len_within(size);
        file.bytes > 0
    }

    fn done(&self, ino: u64) {
        let object = self.pending.lock().files.remove(&ino).map(|file| file.object);
        for slot in object.into_iter().flat_map(|object| object.slots) {
            self.bitmap.resynced(slot);
        }
        self.progress.object_done();
    }
}

/// What came of a file's turn.
enum Turn {
    /// So many bytes were dealt with.
    Moved(u64),
    /// It could not be looked for just now.
    Again,
}
