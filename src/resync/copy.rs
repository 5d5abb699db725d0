//! Makes a range of bytes of one file of the target equal to the source: reads both, writes what
//! differs, and punches holes where the source has none of its own data.
//!
//! Never writes a byte that is equal already, and never reads what the source knows to be a hole.

use std::io;
use std::ops::Range;

use super::Sides;
use super::progress::Progress;
use super::rewrite::{UNIT, overwrite, whole_units};
use super::spans::{Spans, differing};
use crate::bitmap::WriteIntent;
use crate::error::{errno, is_unreadable};
use crate::legs::{Leg, OpenMode, Seek, Stat};
use crate::sync::join;

/// Bytes read from each leg at a time.
const BUFFER: usize = 1 << 20;

/// Bytes that are written together when one of them differs.
const GRAIN: usize = 64 << 10;

/// Bytes compared before [`Copier::advance`] returns: how long a user may have to wait for the lock
/// of an object that is being resynced.
pub(super) const PIECE: u64 = 4 << 20;

/// The buffers, allocated once for a whole resync.
pub(super) struct Copier<'p> {
    source: Vec<u8>,
    target: Vec<u8>,
    progress: &'p Progress,
    /// See [`source_failed`](Self::source_failed).
    source_failed: bool,
}

/// The same file on both legs, opened.
pub(super) struct OpenPair<L: Leg> {
    s: L::File,
    t: L::File,
}

impl<L: Leg> OpenPair<L> {
    /// Opens the source's file to read and the target's to change.
    pub fn open(sides: Sides<'_, L>, (s, t): (&L::Node, &L::Node)) -> io::Result<OpenPair<L>> {
        let read = OpenMode { read: true, write: false, direct: false };
        Ok(OpenPair { s: sides.s.open(s, read)?, t: sides.t.open(t, OpenMode { write: true, ..read })? })
    }

    /// The same where the target's has just been made, and is open to read and to write.
    pub fn with_new(sides: Sides<'_, L>, s: &L::Node, t: L::File) -> io::Result<OpenPair<L>> {
        let read = OpenMode { read: true, write: false, direct: false };
        Ok(OpenPair { s: sides.s.open(s, read)?, t })
    }
}

impl<'p> Copier<'p> {
    pub fn new(progress: &'p Progress) -> Copier<'p> {
        Copier { source: vec![0; BUFFER], target: vec![0; BUFFER], progress, source_failed: false }
    }

    /// Makes `spans` of a file equal, all of them. They must lie within the source's file.
    pub fn copy_spans<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        nodes: (&L::Node, &L::Node),
        spans: &Spans,
    ) -> io::Result<()> {
        let files = OpenPair::open(sides, nodes)?;
        spans.iter().try_for_each(|range| self.copy_open(sides, intent, &files, range))
    }

    fn copy_open<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        mut range: Range<u64>,
    ) -> io::Result<()> {
        while range.start < range.end {
            range.start = self.advance(sides, intent, files, range.clone())?;
        }
        Ok(())
    }

    /// Gives a file of the target that has just been made the data of the source's, which is `wanted`. Its
    /// length is not set: where the source ends with a hole, it is too short yet.
    ///
    /// Such a file holds nothing, which need not be asked; and where the source has space for all its bytes, nor need
    /// it be asked for holes. One that it has all the same, for the space may lie elsewhere, is written here if there
    /// is data close by.
    pub fn fill_new<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        wanted: &Stat,
    ) -> io::Result<()> {
        if wanted.size > BUFFER as u64 || wanted.blocks * 512 < wanted.size {
            return self.copy_open(sides, intent, files, 0..wanted.size);
        }
        let len = wanted.size as usize;
        self.progress.read(wanted.size);
        let read = fill(sides.s, &files.s, &mut self.source[..len], 0);
        self.of_source(read)?;
        self.target[..len].fill(0);
        self.write_differing(sides, intent, files, 0..wanted.size)
    }

    /// Makes a piece at the start of `range` equal and returns where to go on. `range` is not empty
    /// and must lie within the source's file.
    pub fn advance<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        range: Range<u64>,
    ) -> io::Result<u64> {
        let (mut at, mut compared) = (range.start, 0);
        while at < range.end && compared < PIECE {
            let data = self.of_source(next(sides.s, &files.s, at, Seek::Data, range.end))?;
            self.clear(sides, intent, files, at..data)?;
            let hole = self.of_source(next(sides.s, &files.s, data, Seek::Hole, range.end))?;
            let until = hole.min(data + PIECE - compared);
            at = data;
            while at < until {
                let end = until.min(at + BUFFER as u64);
                self.equalize(sides, intent, files, at..end)?;
                compared += end - at;
                at = end;
            }
        }
        Ok(at)
    }

    /// Compares at most [`BUFFER`] bytes and writes what differs.
    fn equalize<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        range: Range<u64>,
    ) -> io::Result<()> {
        let len = (range.end - range.start) as usize;
        let (source, target) = (&mut self.source[..len], &mut self.target[..len]);
        // A new leg has nothing yet, and the reading of nothing costs as much as that of something.
        let nothing_there = next_there(sides.t, &files.t, range.start, Seek::Data, range.end)? == range.end;
        let (of_source, of_target) = if nothing_there {
            target.fill(0);
            self.progress.read(len as u64);
            (fill(sides.s, &files.s, source, range.start), Ok(()))
        } else {
            self.progress.read(2 * len as u64);
            both(
                len,
                || fill(sides.s, &files.s, source, range.start),
                || fill(sides.t, &files.t, target, range.start),
            )
        };
        self.of_source(of_source)?;
        match of_target {
            Err(error) if is_unreadable(&error) => return self.renew(sides, intent, files, range),
            read => read?,
        }
        self.write_differing(sides, intent, files, range)
    }

    /// Writes what differs between the two buffers, which hold what the legs have in `range`.
    fn write_differing<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        range: Range<u64>,
    ) -> io::Result<()> {
        let len = (range.end - range.start) as usize;
        for run in differing(&self.source[..len], &self.target[..len], GRAIN) {
            write_all(sides.t, intent, &files.t, &self.source[run.clone()], range.start + run.start as u64)?;
            self.progress.written(run.len() as u64);
        }
        Ok(())
    }

    /// The target cannot be read everywhere in `range`: what it cannot read is written anew, in whole units. These
    /// lie in the chunk that `range` lies in.
    fn renew<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        range: Range<u64>,
    ) -> io::Result<()> {
        for start in whole_units(&range).step_by(UNIT as usize) {
            let read = sides.s.read(&files.s, &mut self.source[..UNIT as usize], start);
            let len = self.of_source(read)?;
            self.progress.read(len as u64);
            let wanted = &self.source[..len];
            let found = &mut self.target[..len];
            if let Err(error) = fill(sides.t, &files.t, found, start) {
                if !is_unreadable(&error) {
                    return Err(error);
                }
                log::warn!(
                    "leg {}: a range that could not be read ({error}) is written anew",
                    sides.target()
                );
                overwrite(sides.t, intent, &files.t, wanted, start)?;
            } else if wanted != found {
                write_all(sides.t, intent, &files.t, wanted, start)?;
            } else {
                continue;
            }
            self.progress.written(len as u64);
        }
        Ok(())
    }

    fn of_source<T>(&mut self, read: io::Result<T>) -> io::Result<T> {
        self.source_failed = read.as_ref().is_err_and(is_unreadable);
        read
    }

    /// Whether the error just returned is that the source cannot read what it holds. Asked once.
    pub fn source_failed(&mut self) -> bool {
        std::mem::take(&mut self.source_failed)
    }

    /// The source has a hole here: whatever the target has goes.
    fn clear<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        hole: Range<u64>,
    ) -> io::Result<()> {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let mut at = hole.start;
        while at < hole.end {
            let data = next_there(sides.t, &files.t, at, Seek::Data, hole.end)?;
            if data == hole.end {
                break;
            }
            let end = next_there(sides.t, &files.t, data, Seek::Hole, hole.end)?;
            match sides.t.fallocate(intent, &files.t, PUNCH, data, end - data) {
                Err(error) if cannot(&error) => self.zero(sides, intent, files, data..end)?,
                other => other?,
            }
            at = end;
        }
        Ok(())
    }

    /// Writes zeros over what is not zero.
    fn zero<L: Leg>(
        &mut self,
        sides: Sides<'_, L>,
        intent: &WriteIntent<'_>,
        files: &OpenPair<L>,
        range: Range<u64>,
    ) -> io::Result<()> {
        for start in range.clone().step_by(BUFFER) {
            self.equalize(sides, intent, files, start..range.end.min(start + BUFFER as u64))?;
        }
        Ok(())
    }
}

/// Reads from both legs, at once where that is worth the waking of another thread.
fn both<A: Send, B: Send>(
    len: usize,
    of_source: impl FnOnce() -> A + Send,
    of_target: impl FnOnce() -> B + Send,
) -> (A, B) {
    if len < GRAIN { (of_source(), of_target()) } else { join(of_source, of_target) }
}

/// The next data or hole at or after `at`, `end` if that is later or there is none.
fn next<L: Leg>(leg: &L, file: &L::File, at: u64, what: Seek, end: u64) -> io::Result<u64> {
    if at >= end {
        return Ok(end);
    }
    match leg.seek(file, at, what) {
        Ok(found) => Ok(found.clamp(at, end)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(end),
        // A filesystem that cannot tell: all of it counts as data.
        Err(error) if cannot(&error) => Ok(if what == Seek::Data { at } else { end }),
        Err(error) => Err(error),
    }
}

/// The same on the target. Where its medium cannot tell, all counts as data: it is read then, and written anew if
/// that fails too; or it is given back.
fn next_there<L: Leg>(leg: &L, file: &L::File, at: u64, what: Seek, end: u64) -> io::Result<u64> {
    match next(leg, file, at, what, end) {
        Err(error) if is_unreadable(&error) => Ok(if what == Seek::Data { at } else { end }),
        found => found,
    }
}

fn cannot(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}

/// Fills `buffer`, with zeros where the file has ended.
fn fill<L: Leg>(leg: &L, file: &L::File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let read = leg.read(file, buffer, offset)?;
    buffer[read..].fill(0);
    Ok(())
}

pub(super) fn write_all<L: Leg>(
    leg: &L,
    intent: &WriteIntent<'_>,
    file: &L::File,
    mut data: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !data.is_empty() {
        let written = leg.write(intent, file, data, offset)?;
        if written == 0 {
            return Err(errno(libc::EIO));
        }
        data = &data[written..];
        offset += written as u64;
    }
    Ok(())
}
