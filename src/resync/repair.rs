//! The same steps for single names and objects, while mounted: an operation worked on one leg only
//! and is undone there, or the legs turned out to differ.
//!
//! The caller holds the locks of what is named and the intent under which it was marked, and says
//! which leg is right. That may be the one that the next mount would not choose: so nothing that
//! both legs have is ever without a name on the other while it is put back. It is renamed from where
//! it is to where it belongs, in one step; only what the right leg does not have is parked, and deleted.

use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::batch::Batch;
use super::build;
use super::copy::Copier;
use super::entries::look_up;
use super::pairs::{Child, Pairs};
use super::progress::Progress;
use super::run::Run;
use super::spans::Spans;
use super::{Sides, metadata, rename_to_free};
use crate::bitmap::{self, Bitmap, WriteIntent};
use crate::error::errno;
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg, RenameMode};

/// A name that may stand for different things on the two legs.
#[derive(Clone, Copy, Debug)]
pub struct Name<'n> {
    /// The directory it is in.
    pub dir: PerLeg<Identity>,
    /// The name.
    pub name: &'n OsStr,
}

/// Brings the other leg back to what `source` has.
pub struct Repair<'a, L: Leg> {
    /// Both legs.
    pub legs: &'a PerLeg<Arc<L>>,
    /// The mirror's bitmap.
    pub bitmap: &'a Bitmap,
    /// Which leg is right.
    pub source: LegId,
    /// For the bitmap.
    pub host: &'a dyn bitmap::Host,
    /// Counts what is read and written.
    pub progress: &'a Progress,
}

/// A name with its directory on both legs.
struct Place<'n, L: Leg> {
    dir: PerLeg<Identity>,
    s_dir: L::Node,
    t_dir: L::Node,
    name: &'n OsStr,
}

impl<L: Leg> Repair<'_, L> {
    /// Makes names equal: those of one operation, all of them. `objects` are the identities of the objects
    /// it was about, as far as they are known on both legs; without them what is missing is built
    /// anew. `intent` covers the directories.
    pub fn names(
        &self,
        intent: &WriteIntent<'_>,
        names: &[Name<'_>],
        objects: &[PerLeg<Identity>],
    ) -> io::Result<()> {
        let mut run = Run::new(self.sides(), self.bitmap, self.host, self.progress)?;
        run.at_once = true;
        run.pairs = Pairs::from_slots(objects.iter().copied()).ok_or_else(|| errno(libc::EUCLEAN))?;
        let places = names.iter().map(|name| self.place(name)).collect::<io::Result<Vec<_>>>()?;
        for to in 0..places.len() {
            self.move_directly(&run, intent, &places, to)?;
        }
        let mut parked = Vec::new();
        for place in &places {
            if let Some((_, Some(found))) = self.mismatch(&run, place)? {
                let ino = found.stat.ino;
                run.parked.park(run.sides.t, intent, (&place.t_dir, place.name), ino)?;
                parked.push(ino);
            }
        }
        for place in &places {
            let mut batch = Batch::new();
            let (s, t) = (place.s_dir.clone(), place.t_dir.clone());
            let of = Arc::new(build::Place { ids: place.dir, intent: intent.lend(), s, t });
            run.place_name(&of, place.name, &mut batch)?;
            run.put_in_place(&mut batch)?;
        }
        for place in &places {
            metadata::equalize(run.sides, intent, &place.s_dir, &place.t_dir)?;
        }
        parked.into_iter().try_for_each(|ino| run.parked.delete(run.sides.t, intent, ino))
    }

    /// Makes metadata, and the data in `ranges` (bytes), of one object equal. Nothing happens when one
    /// leg has it no more. `intent` covers the object.
    pub fn object(
        &self,
        intent: &WriteIntent<'_>,
        object: PerLeg<Identity>,
        ranges: &[Range<u64>],
    ) -> io::Result<()> {
        let sides = self.sides();
        let found = match sides.find_both(&object) {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) && !sides.identities_last() => {
                // FAIL-SAFE: gone or numbered anew. Nothing but its slot tells that it may differ, and that may be
                // cleared.
                return self.bitmap.set_compare_all(self.host);
            }
            found => found?,
        };
        let (Some(s), Some(t)) = found else { return Ok(()) };
        metadata::equalize(sides, intent, &s, &t)?;
        let stat = sides.s.stat(&s)?;
        let spans = Spans::of(ranges.iter().map(|range| range.start..range.end.min(stat.size)));
        if stat.kind != Kind::File || spans.is_empty() {
            return Ok(());
        }
        Copier::new(self.progress).copy_spans(sides, intent, (&s, &t), &spans)?;
        // Writing has dropped suid, sgid and capabilities and moved the times.
        metadata::equalize(sides, intent, &s, &t)
    }

    pub(super) fn sides(&self) -> Sides<'_, L> {
        Sides { s: &self.legs[self.source], t: &self.legs[self.source.other()], source: self.source }
    }

    fn place<'n>(&self, name: &Name<'n>) -> io::Result<Place<'n, L>> {
        let sides = self.sides();
        let find = |leg| sides.find(leg, &name.dir[leg])?.ok_or_else(|| errno(libc::ESTALE));
        Ok(Place { dir: name.dir, s_dir: find(self.source)?, t_dir: find(sides.target())?, name: name.name })
    }

    /// What the source and the target have under a name, if that is not the same.
    fn mismatch(
        &self,
        run: &Run<'_, L>,
        place: &Place<'_, L>,
    ) -> io::Result<Option<(Option<Child>, Option<Child>)>> {
        let wanted = look_up(run.sides.s, &place.s_dir, place.name)?;
        let found = look_up(run.sides.t, &place.t_dir, place.name)?;
        let equal = match (&wanted, &found) {
            (Some(wanted), Some(found)) => {
                run.stays((&place.s_dir, &place.t_dir), place.name, wanted, found)?
            }
            (None, None) => true,
            _ => false,
        };
        Ok((!equal).then_some((wanted, found)))
    }

    /// If what belongs under the name lies under another of the names, where it does not belong, it
    /// is renamed to here. What was here comes to lie there, and has its turn if it belongs elsewhere.
    fn move_directly(
        &self,
        run: &Run<'_, L>,
        intent: &WriteIntent<'_>,
        places: &[Place<'_, L>],
        to: usize,
    ) -> io::Result<()> {
        let Some((Some(wanted), here)) = self.mismatch(run, &places[to])? else { return Ok(()) };
        let Some(partner) = run.pairs.partner(self.source, &wanted.identity) else { return Ok(()) };
        for from in places {
            let Some((_, Some(found))) = self.mismatch(run, from)? else { continue };
            if !found.identity.is_same(&partner) {
                continue;
            }
            let mode = if here.is_some() { RenameMode::Exchange } else { RenameMode::NoReplace };
            let (from, to) = ((&from.t_dir, from.name), (&places[to].t_dir, places[to].name));
            return match mode {
                RenameMode::Exchange => match run.sides.t.rename(intent, from, to, mode) {
                    // A filesystem that cannot. It goes by way of `parked/`.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => Ok(()),
                    renamed => renamed,
                },
                _ => rename_to_free(run.sides.t, intent, from, to),
            };
        }
        Ok(())
    }
}
