//! Regular files: open, read, write, fallocate, copy, seek, fsync.
//!
//! Reading takes no lock and asks the source only, unless that cannot read it (`mend`). Writing takes the object's lock, so that the legs
//! see overlapping writes, truncates and appends in one order (O5).

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::Touch;
use super::dir_write::open_mode;
use super::outcome::{Class, class};
use super::{Caller, Mirror};
use crate::error::errno;
use crate::inode::{Fh, Ino, Object, OpenFile};
use crate::legs::{Leg, LegId, PerLeg, Seek};
use crate::sync::join;

/// Bytes copied at a time through the daemon.
const COPY_PIECE: u64 = 1 << 20;

impl<L: Leg> Mirror<L> {
    /// Opens a regular file; `flags` as in open(2). O_TRUNC empties it.
    pub fn open(&self, ino: Ino, flags: i32, caller: Caller) -> io::Result<Fh> {
        let mode = open_mode(flags);
        let truncate = flags & libc::O_TRUNC != 0;
        let _inside = if mode.write || truncate { Some(self.enter()?) } else { None };
        let terms = LegId::ALL.map(|leg| (leg, self.term(leg)));
        let opened = OpenFile::new(self.object(ino)?, mode);
        {
            // Who takes its last name away sees that it is open, or is done before it is looked for.
            let _keeps_its_name = opened.object.lock.read();
            self.reading(|source| self.file_on(&opened, source).map(|_| ()))?;
        }
        if truncate {
            let object = &opened.object;
            let _changing = object.lock.write();
            let nodes = self.nodes(object)?;
            self.set_size(object, &nodes, None, 0)?;
            if caller.uid != 0 {
                self.take_privileges(object, &nodes)?;
            }
        }
        let fh = self.handles.add_file(opened);
        let opened = self.handles.file(fh)?;
        for (leg, _) in terms.iter().filter(|(_, is_still)| !is_still()) {
            // Nobody could find it when what was open there was taken.
            drop(opened.forget(*leg));
        }
        Ok(fh)
    }

    /// Closes what was opened or created.
    pub fn release(&self, fh: Fh) {
        if let Ok(open) = self.handles.file(fh)
            && open.mode.write
            && let Err(error) = self.settle_told(&open.object)
        {
            log::debug!("inode {}: its time is that of the last write: {error}", open.object.ino.0);
        }
        let object = self.handles.remove(fh);
        if let Some(object) = &object {
            self.forget_told(object);
        }
        self.table.reap(object);
    }

    /// Lends the source's descriptor of an open file, for the kernel to read from. `None` if the leg has no such thing.
    pub fn with_descriptor<T>(
        &self,
        fh: Fh,
        work: impl FnOnce(BorrowedFd<'_>) -> T,
    ) -> io::Result<Option<T>> {
        let (open, source) = (self.handles.file(fh)?, self.source());
        let file = self.file_on(&open, source)?;
        Ok(self.leg(source)?.descriptor(&file).map(work))
    }

    /// Reads at `offset` until `buf` is full or the file ends.
    pub fn read(&self, fh: Fh, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let open = self.handles.file(fh)?;
        self.read_file(&open, buf, offset)
    }

    /// Writes at `offset`; returns the bytes that are on both legs. `kill_priv`: the writer may not
    /// keep suid, sgid and capabilities of the file.
    pub fn write(&self, fh: Fh, data: &[u8], offset: u64, kill_priv: bool) -> io::Result<usize> {
        let _inside = self.enter()?;
        let open = self.handles.file(fh)?;
        let object = &open.object;
        let _changing = object.lock.write();
        if kill_priv {
            self.take_privileges_of_open(object)?;
        }
        self.time_moved(object);
        self.write_locked(&open, data, offset)
    }

    /// Writes what the kernel has had in its cache, all of it: what a program stored in a mapping, or with `writeback` what
    /// it has been told is written. The kernel takes a count that is less for all, and nobody would hear of the rest.
    ///
    /// # Errors
    /// Not all of it is on both legs; the program hears it when it syncs or closes the file.
    pub fn write_back(&self, fh: Fh, data: &[u8], offset: u64) -> io::Result<usize> {
        let _inside = self.enter()?;
        let open = self.handles.file(fh)?;
        let _changing = open.object.lock.write();
        self.time_moved(&open.object);
        let mut done = 0;
        while done < data.len() {
            match self.write_locked(&open, &data[done..], offset + done as u64)? {
                0 => return Err(errno(libc::EIO)),
                more => done += more,
            }
        }
        Ok(done)
    }

    /// Writes to a file whose object's lock is held.
    fn write_locked(&self, open: &OpenFile<L>, data: &[u8], offset: u64) -> io::Result<usize> {
        let files = self.files(open)?;
        // The source decides how many bytes there are to write: what it had no room for, the other
        // leg shall not have either.
        let mut wanted = data.len();
        let done = self.change(
            [Touch::data(&open.object, bytes(offset, data.len() as u64))],
            |intent, leg| {
                let written = self.leg(leg)?.write(intent, files.on(leg)?, &data[..wanted], offset)?;
                wanted = written;
                Ok(written)
            },
            |&written| written as u64,
        )?;
        Ok(done.count as usize)
    }

    /// fallocate(2); `kill_priv` as for [`write`](Self::write).
    pub fn fallocate(&self, fh: Fh, mode: i32, offset: u64, len: u64, kill_priv: bool) -> io::Result<()> {
        let _inside = self.enter()?;
        let open = self.handles.file(fh)?;
        let object = &open.object;
        let _changing = object.lock.write();
        let files = self.files(&open)?;
        if kill_priv {
            self.take_privileges_of_open(object)?;
        }
        // Collapsing and inserting a range move everything behind it. While a resync is under way a leg
        // could so carry what it still has wrong to where no bit tells of it.
        let moves = mode & (libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE) != 0;
        if moves && !self.is_equal() {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let changed = if moves { offset..u64::MAX } else { bytes(offset, len) };
        let size = self.reading(|source| self.leg(source)?.stat_file(&*self.file_on(&open, source)?))?.size;
        let allocated = self.change_all([Touch::data(object, changed.clone())], |intent, leg| {
            self.leg(leg)?.fallocate(intent, files.on(leg)?, mode, offset, len)
        });
        match allocated {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                self.take_back_allocated(&open, changed, (!moves).then_some(size))?;
                Err(error)
            }
            done => done.map(|_| ()),
        }
    }

    /// Out of room half way, a filesystem keeps what it has done so far, and ext4 the length that this
    /// gave the file. Both legs become alike again, and of the length they had (P10).
    fn take_back_allocated(
        &self,
        open: &OpenFile<L>,
        changed: Range<u64>,
        length: Option<u64>,
    ) -> io::Result<()> {
        self.make_alike(Touch::data(&open.object, changed))?;
        let nodes = self.nodes(&open.object)?;
        let now = self.reading(|source| self.stat_on(&open.object, source))?.size;
        if let Some(length) = length.filter(|&length| length < now) {
            self.set_size(&open.object, &nodes, None, length)?;
        }
        // ORDER: before the reply. The kernel believes that a refused request has changed nothing.
        if let Some(caches) = self.invalidate.get() {
            caches.attributes(open.object.ino);
        }
        Ok(())
    }

    /// copy_file_range(2): within each leg. Returns the bytes copied.
    pub fn copy_range(&self, from: (Fh, u64), to: (Fh, u64), len: u64, kill_priv: bool) -> io::Result<usize> {
        let _inside = self.enter()?;
        let source_file = self.handles.file(from.0)?;
        let target_file = self.handles.file(to.0)?;
        let _changing = lock_two(&source_file.object, &target_file.object);
        let from_files = self.files(&source_file)?;
        let to_files = self.files(&target_file)?;
        if kill_priv {
            self.take_privileges_of_open(&target_file.object)?;
        }
        // A file that has lost its last name is not made equal any more.
        if !self.is_equal() || source_file.object.with_names(|names| names.gone) {
            return self.copy_from_source((&source_file, from.1), (&target_file, to.1), len);
        }
        let mut wanted = len;
        let done = self.change(
            [Touch::data(&target_file.object, bytes(to.1, len))],
            |intent, leg| {
                let mut copied = 0;
                while copied < wanted {
                    let at = (from_files.on(leg)?, from.1 + copied);
                    let there = (to_files.on(leg)?, to.1 + copied);
                    match self.leg(leg)?.copy_range(intent, at, there, wanted - copied) {
                        Ok(0) => break,
                        Ok(more) => copied += more as u64,
                        Err(_) if copied > 0 => break,
                        Err(error) => return Err(error),
                    }
                }
                wanted = copied;
                Ok(copied)
            },
            |&copied| copied,
        )?;
        Ok(done.count as usize)
    }

    /// Copies a piece by reading it from the source and writing it to both legs: while a resync is
    /// under way, or was when the file lost its last name, the other leg's own copy may be an old one.
    fn copy_from_source(
        &self,
        (from, from_offset): (&OpenFile<L>, u64),
        (to, to_offset): (&OpenFile<L>, u64),
        len: u64,
    ) -> io::Result<usize> {
        let mut piece = vec![0; len.min(COPY_PIECE) as usize];
        let read = self.reading(|source| {
            self.leg(source)?.read(&*self.file_on(from, source)?, &mut piece, from_offset)
        })?;
        self.write_locked(to, &piece[..read], to_offset)
    }

    /// The next hole or data at or after `offset`.
    pub fn seek(&self, fh: Fh, offset: u64, what: Seek) -> io::Result<u64> {
        let open = self.handles.file(fh)?;
        self.reading(|source| {
            let file = self.file_on(&open, source)?;
            self.steadily(&open.object, || self.leg(source)?.seek(&file, offset, what))
        })
    }

    /// Makes an open file durable on both legs (P2).
    pub fn fsync(&self, fh: Fh, data_only: bool) -> io::Result<()> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let _inside = self.come_in()?;
        let open = self.handles.file(fh)?;
        self.sync_open(&open, data_only)
    }

    fn sync_open(&self, open: &OpenFile<L>, data_only: bool) -> io::Result<()> {
        let files = self.files_to(open)?;
        self.sync_both(
            |leg| files.0[leg].is_some(),
            |leg| self.leg(leg)?.sync_file(files.on(leg)?, data_only),
        )
    }

    /// Makes a directory and its entries durable on both legs.
    pub fn fsyncdir(&self, ino: Ino) -> io::Result<()> {
        let _inside = self.come_in()?;
        let dir = self.directory(ino)?;
        let nodes = self.nodes(&dir)?;
        self.sync_both(|leg| nodes.on(leg).is_ok(), |leg| self.leg(leg)?.sync_node(nodes.on(leg)?))
    }

    /// Syncs the legs that serve and have it, both at once. A leg that fails here has lost writes, whichever
    /// they were: it is left behind, and the reply is the other's.
    pub(super) fn sync_both(
        &self,
        has_it: impl Fn(LegId) -> bool,
        sync: impl Fn(LegId) -> io::Result<()> + Sync,
    ) -> io::Result<()> {
        let source = self.source();
        let other = source.other();
        let [from_source, from_other] = [source, other].map(|leg| self.leg(leg).ok());
        let asked = |leg: LegId| self.health.in_service(leg) && has_it(leg);
        let (of_source, of_other) = match (asked(source), asked(other)) {
            (true, true) => join(|| sync(source), || sync(other)),
            (true, false) => return sync(source),
            // Left behind since it was looked for.
            (false, true) => return sync(other),
            (false, false) => return Err(errno(libc::EIO)),
        };
        match (of_source, of_other) {
            (Ok(()), Ok(())) => Ok(()),
            (Ok(()), Err(error)) => self.fault_asked(other, from_other.as_ref(), number(&error)),
            (Err(error), Ok(())) if self.may_lose(source) || !self.health.in_service(source) => {
                self.fault_asked(source, from_source.as_ref(), number(&error))
            }
            (Err(error), Ok(())) => Err(error),
            (Err(error), Err(theirs)) => {
                if [&error, &theirs].iter().all(|error| class(number(error)) == Class::Failure) {
                    self.turn_read_only(format!(
                        "neither leg keeps what is written (leg {source}: {error}; leg {other}: {theirs}); \
                         unmount, see to both, and mount again"
                    ));
                }
                Err(error)
            }
        }
    }

    /// The file on `leg`, opened now if it was not needed so far.
    pub(super) fn file_on(&self, open: &OpenFile<L>, leg: LegId) -> io::Result<Arc<L::File>> {
        if let Some(file) = open.on(leg) {
            return Ok(file);
        }
        let is_still = self.term(leg);
        let node = self.node(&open.object, leg)?;
        let file = self.leg(leg)?.open(&node, open.mode)?;
        open.keep_while(is_still, leg, file).ok_or_else(|| errno(libc::ENOTCONN))
    }

    /// The files on the legs that serve and have it, to be changed.
    fn files(&self, open: &OpenFile<L>) -> io::Result<Files<L>> {
        if open.object.replaced.load(Ordering::Acquire) {
            return Err(errno(libc::ESTALE));
        }
        self.files_to(open)
    }

    fn files_to(&self, open: &OpenFile<L>) -> io::Result<Files<L>> {
        let has_it = |leg| !open.object.with_names(|names| names.absent[leg]);
        Ok(Files(self.asking_each(has_it, |leg| self.file_on(open, leg))?))
    }

    fn take_privileges_of_open(&self, object: &Arc<Object<L>>) -> io::Result<()> {
        if object.unprivileged.load(Ordering::Relaxed) {
            return Ok(());
        }
        let nodes = self.nodes(object)?;
        self.take_privileges(object, &nodes)
    }
}

/// An open file on the legs that something is asked of.
struct Files<L: Leg>(PerLeg<Option<Arc<L::File>>>);

impl<L: Leg> Files<L> {
    /// The file on a leg that serves; ENODEV on one that does not.
    fn on(&self, leg: LegId) -> io::Result<&L::File> {
        self.0[leg].as_deref().ok_or_else(|| errno(libc::ENODEV))
    }
}

fn bytes(offset: u64, len: u64) -> Range<u64> {
    offset..offset.saturating_add(len)
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Locks one or two files to change them, by number.
fn lock_two<'a, L: Leg>(
    a: &'a Object<L>,
    b: &'a Object<L>,
) -> (crate::sync::WriteGuard<'a, ()>, Option<crate::sync::WriteGuard<'a, ()>>) {
    if std::ptr::eq(a, b) {
        return (a.lock.write(), None);
    }
    let (first, second) = if (a.ino, a.generation) < (b.ino, b.generation) { (a, b) } else { (b, a) };
    (first.lock.write(), Some(second.lock.write()))
}
