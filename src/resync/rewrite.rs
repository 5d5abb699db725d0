//! Writing anew what a leg cannot read, from what the other leg has, and reading it back from the medium.
//!
//! It is written over in place: the medium then gives the place another sector, or a filesystem with checksums
//! another block. The end of a file need not fill a block, and a filesystem that has to read the rest of it first
//! fails at that. Then the space of the range is given back before it is written, and for a moment the file
//! reads as zeros there: the caller keeps readers away, and has recorded that the other leg is to be believed.

use std::io;
use std::ops::Range;

use super::copy::write_all;
use super::{Repair, Sides, metadata};
use crate::bitmap::WriteIntent;
use crate::error::errno;
use crate::legs::{Leg, OpenMode};
#[cfg(feature = "simulation")]
use crate::sim::scheduler::{Rule, breaks};

/// The unit of what is written anew, in bytes: no filesystem's block is larger, and a range of whole units is one
/// of whole blocks.
pub const UNIT: u64 = 64 << 10;

/// The units that hold `range`.
pub fn whole_units(range: &Range<u64>) -> Range<u64> {
    range.start / UNIT * UNIT..range.end.div_ceil(UNIT).saturating_mul(UNIT)
}

/// Why nothing was, or not all was, rewritten.
#[derive(Debug)]
pub enum NotRewritten {
    /// The leg that is right cannot read it either. Nothing has been changed.
    ByTheGoodLeg(io::Error),
    /// The file may not be written to: it is immutable, or the daemon is not root. Nothing has been changed.
    NotAllowed(io::Error),
    /// The other one does not keep it.
    ByTheBadLeg(io::Error),
}

impl<L: Leg> Repair<'_, L> {
    /// The units of `range` that the leg to be repaired cannot read, within a file of `size` bytes.
    pub fn unreadable(&self, node: &L::Node, range: Range<u64>, size: u64) -> io::Result<Vec<Range<u64>>> {
        let Sides { t, .. } = self.sides();
        let file = t.open(node, OpenMode { read: true, write: false, direct: false })?;
        let mut buffer = vec![0; UNIT as usize];
        let within = whole_units(&range);
        let units = (within.start..within.end.min(size)).step_by(UNIT as usize);
        let units = units.map(|at| at..(at + UNIT).min(size));
        Ok(units.filter(|unit| t.read(&file, &mut buffer[..len(unit)], unit.start).is_err()).collect())
    }

    /// Writes these units anew on the leg to be repaired, durably, and reads them back. Its times stay as they
    /// are. `intent` covers the object; `nodes` are those of the leg that is right and of the other one.
    pub fn rewrite(
        &self,
        intent: &WriteIntent<'_>,
        nodes: (&L::Node, &L::Node),
        units: &[Range<u64>],
    ) -> Result<(), NotRewritten> {
        let good = self.read_all(nodes.0, units).map_err(NotRewritten::ByTheGoodLeg)?;
        let file = match self.sides().t.open(nodes.1, OpenMode { read: true, write: true, direct: false }) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                return Err(NotRewritten::NotAllowed(error));
            }
            opened => opened.map_err(NotRewritten::ByTheBadLeg)?,
        };
        self.write_anew(intent, nodes, &file, units, &good).map_err(NotRewritten::ByTheBadLeg)
    }

    fn read_all(&self, node: &L::Node, units: &[Range<u64>]) -> io::Result<Vec<Vec<u8>>> {
        let Sides { s, .. } = self.sides();
        let file = s.open(node, OpenMode { read: true, write: false, direct: false })?;
        let read = |unit: &Range<u64>| {
            let mut data = vec![0; len(unit)];
            let read = s.read(&file, &mut data, unit.start)?;
            if read == data.len() { Ok(data) } else { Err(errno(libc::EIO)) }
        };
        units.iter().map(read).collect()
    }

    fn write_anew(
        &self,
        intent: &WriteIntent<'_>,
        (s_node, t_node): (&L::Node, &L::Node),
        file: &L::File,
        units: &[Range<u64>],
        good: &[Vec<u8>],
    ) -> io::Result<()> {
        let sides = self.sides();
        let Sides { t, .. } = sides;
        let times = t.stat(t_node).map(|stat| (stat.atime, stat.mtime))?;
        for (unit, data) in units.iter().zip(good) {
            overwrite(t, intent, file, data, unit.start)?;
            self.progress.written(data.len() as u64);
        }
        // Writing has moved the times and may have taken privileges away.
        metadata::equalize(sides, intent, s_node, t_node)?;
        t.set_times(intent, t_node, Some(times.0), Some(times.1))?;
        let sync = || t.sync_file(file, false);
        #[cfg(feature = "simulation")]
        let sync = || if breaks(Rule::MendedSynced) { Ok(()) } else { sync() };
        sync()?;
        for (unit, data) in units.iter().zip(good) {
            let mut back = vec![0; data.len()];
            let read = t.read_stored(file, &mut back, unit.start)?;
            if read != back.len() || back != *data {
                return Err(errno(libc::EIO));
            }
        }
        Ok(())
    }
}

/// Writes over what cannot be read. See the module for why the space may have to be given back first.
pub(super) fn overwrite<L: Leg>(
    leg: &L,
    intent: &WriteIntent<'_>,
    file: &L::File,
    data: &[u8],
    offset: u64,
) -> io::Result<()> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let written = write_all(leg, intent, file, data, offset);
    let Err(error) = written else { return Ok(()) };
    let units = whole_units(&(offset..offset + data.len() as u64));
    // What the leg said first is what there is to tell.
    leg.fallocate(intent, file, PUNCH, units.start, units.end - units.start).map_err(|_| error)?;
    write_all(leg, intent, file, data, offset)
}

fn len(unit: &Range<u64>) -> usize {
    (unit.end - unit.start) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_grows_to_whole_units() {
        for (range, units) in [
            (0..1, 0..UNIT),
            (0..UNIT, 0..UNIT),
            (UNIT - 1..UNIT + 1, 0..2 * UNIT),
            (3 * UNIT..3 * UNIT, 3 * UNIT..3 * UNIT),
            (5..u64::MAX, 0..u64::MAX),
        ] {
            assert_eq!(whole_units(&range), units, "{range:?}");
        }
    }
}
