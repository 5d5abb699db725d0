//! Group commit: brings the pages that marks wait for to every copy.
//!
//! ```text
//! mark, mark, mark -> wait for flush n+1      while flush n is being written
//! flush n ends     -> one waiter leads n+1: snapshot under the lock, write without it, wake all
//! ```
//!
//! Flushes have numbers and run one at a time. A change is carried by the next one to start
//! (`Table::carrier`). A failed flush gives its pages back, so every later one carries them too:
//! when flush n has succeeded, so have all changes numbered up to n.
//!
//! A leader that does not come back from a copy on a leg that hangs holds nobody up: once that copy has been left
//! out, whoever waits ends the flush in its place.
//!
//! Must never: hold a lock while it writes; call a flush good when no copy took it.

use std::io;

use super::host::{CopyId, Host, PageStore};
use super::intent::Held;
use super::marks::{Bitmap, State};
use super::pages::{PageSet, Pages};
use super::table::Table;
use super::{PAGE_SIZE, PageIndex};
use crate::error::errno;
use crate::sync;

/// The pages of one flush, at their places in the file.
pub struct Snapshot {
    bytes: Pages,
    pages: PageSet,
}

/// How far the flushes are.
pub struct Progress {
    /// The last flush that succeeded.
    done: u64,
    /// The last flush that failed, and why.
    failed: u64,
    failed_errno: i32,
    running: Option<Running>,
    /// Where the leader keeps its pages; not here while a flush runs.
    snapshot: Option<Snapshot>,
    /// Which copies are written, by their place in `Bitmap::copies`.
    in_use: [bool; 2],
    /// Flushes that succeeded, and pages in them (each counted once, however many copies).
    pub flushes: u64,
    pub pages_written: u64,
}

/// A flush that is being written.
struct Running {
    number: u64,
    /// Its pages.
    pages: u64,
    /// Which copies it writes, and of which it is known how that ended: durable or not.
    copies: [bool; 2],
    written: [Option<bool>; 2],
}

impl Running {
    /// Whether it is only not over since its leader does not come back from a copy that has been left out
    /// meanwhile: all that counts of it is durable.
    fn is_deserted(&self, in_use: [bool; 2]) -> bool {
        (0..2).any(|copy| {
            let other = 1 - copy;
            let left_out = self.copies[copy] && self.written[copy].is_none() && !in_use[copy];
            left_out && in_use[other] && self.written[other] == Some(true)
        })
    }
}

impl Progress {
    /// Nothing flushed yet.
    pub fn new(len: usize, in_use: [bool; 2]) -> io::Result<Progress> {
        let snapshot = Snapshot::new(len)?;
        Ok(Progress {
            done: 0,
            failed: 0,
            failed_errno: 0,
            running: None,
            snapshot: Some(snapshot),
            in_use,
            flushes: 0,
            pages_written: 0,
        })
    }

    /// The flush to wait for so that what `held` says is durable; `None` if it is already.
    pub fn awaited(&self, table: &Table, held: &Held) -> Option<u64> {
        held.iter().filter_map(|slot| self.awaited_for(table.entry(slot).changed_in, table.carrier)).max()
    }

    /// The same for what the header says.
    pub fn awaited_header(&self, table: &Table) -> Option<u64> {
        self.awaited_for(table.header_changed_in, table.carrier)
    }

    fn awaited_for(&self, changed_in: u64, carrier: u64) -> Option<u64> {
        if changed_in <= self.done {
            None
        } else if self.running.as_ref().is_some_and(|running| running.number == changed_in) {
            Some(changed_in)
        } else {
            // Not started yet; or it has failed, and the next one carries its pages.
            Some(carrier)
        }
    }

    /// Writes a copy again from now on, which has all that the memory has.
    pub fn use_again(&mut self, copy: usize) {
        self.in_use[copy] = true;
    }

    /// Leaves a copy out from now on.
    pub fn stop_using(&mut self, copy: usize) {
        self.in_use[copy] = false;
    }

    fn outcome(&self, flush: u64) -> Option<io::Result<()>> {
        if self.done >= flush {
            Some(Ok(()))
        } else if self.failed >= flush {
            Some(Err(errno(self.failed_errno)))
        } else {
            None
        }
    }
}

impl Snapshot {
    fn new(len: usize) -> io::Result<Snapshot> {
        Ok(Snapshot { bytes: Pages::new(len)?, pages: PageSet::new(len / PAGE_SIZE) })
    }

    fn take(&mut self, table: &mut Table) {
        self.pages.take_from(&mut table.urgent);
        table.carried(&self.pages);
        for run in self.pages.runs() {
            let bytes = run.start * PAGE_SIZE..run.end * PAGE_SIZE;
            self.bytes[bytes.clone()].copy_from_slice(&table.pages[bytes]);
        }
    }

    fn write(&self, store: &dyn PageStore) -> io::Result<()> {
        self.pages.runs().try_for_each(|run| {
            store.write(PageIndex(run.start as u32), &self.bytes[run.start * PAGE_SIZE..run.end * PAGE_SIZE])
        })
    }
}

impl Bitmap {
    /// Returns when `flush` is durable on every copy in use, leading it if nobody else does.
    pub(super) fn wait_flushed(&self, host: &dyn Host, flush: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = state.flush.outcome(flush) {
                return outcome;
            }
            if let Some(running) = &state.flush.running {
                if !running.is_deserted(state.flush.in_use) || !take_over(&mut state) {
                    self.flushed.wait(&mut state);
                }
                continue;
            }
            let (number, snapshot, in_use) = begin(&mut state);
            drop(state);
            let written = self.write_copies(host, number, &snapshot, in_use);
            state = self.state.lock();
            end(&mut state, number, snapshot, written);
            self.flushed.notify_all();
        }
    }

    /// Writes the snapshot to all copies in use. An error only if no copy is left to go on with.
    fn write_copies(
        &self,
        host: &dyn Host,
        number: u64,
        snapshot: &Snapshot,
        in_use: [bool; 2],
    ) -> io::Result<()> {
        let write = |copy: usize| {
            let (_, store) = self.copies.get(copy).filter(|_| in_use[copy])?;
            let store = store.read().clone()?;
            let written = snapshot.write(store.as_ref());
            self.written(number, copy, written.is_ok());
            Some(written)
        };
        let results = match in_use {
            [true, true] => sync::join(|| write(0), || write(1)).into(),
            _ => [write(0), write(1)],
        };
        let mut durable = false;
        for (copy, result) in results.into_iter().enumerate() {
            match result {
                None => {}
                Some(Ok(())) => durable = true,
                Some(Err(error)) => self.leave_out(host, copy, &error)?,
            }
        }
        if durable { Ok(()) } else { Err(errno(libc::EIO)) }
    }

    /// A copy has been written, or not. The other one may have been left out, and hang.
    fn written(&self, number: u64, copy: usize, durable: bool) {
        let mut state = self.state.lock();
        let in_use = state.flush.in_use;
        if let Some(running) = state.flush.running.as_mut().filter(|running| running.number == number) {
            running.written[copy] = Some(durable);
            if running.is_deserted(in_use) {
                self.flushed.notify_all();
            }
        }
    }

    /// Goes on without a copy, if the host can record why.
    fn leave_out(&self, host: &dyn Host, copy: usize, error: &io::Error) -> io::Result<()> {
        if !self.state.lock().flush.in_use[copy] {
            return Ok(());
        }
        // ORDER: the host has recorded the fault durably before the mark that met it can succeed.
        // A crash in between leaves this copy one mark behind, and the mark's change not begun.
        host.copy_failed(self.copies[copy].0, error)?;
        self.state.lock().flush.stop_using(copy);
        Ok(())
    }

    pub(super) fn copy_of(&self, id: CopyId) -> Option<usize> {
        self.copies.iter().position(|(copy, _)| *copy == id)
    }
}

fn begin(state: &mut State) -> (u64, Snapshot, [bool; 2]) {
    let number = state.table.carrier;
    state.table.carrier += 1;
    let mut snapshot = state.flush.snapshot.take().expect("one flush runs at a time");
    snapshot.take(&mut state.table);
    let pages = snapshot.pages.runs().map(|run| run.len() as u64).sum();
    let copies = state.flush.in_use;
    state.flush.running = Some(Running { number, pages, copies, written: [None; 2] });
    (number, snapshot, copies)
}

/// Ends a flush whose leader does not come back, in its place. The leader keeps its snapshot; what it writes late
/// goes to a copy that is stale. False if there is no memory for another snapshot.
fn take_over(state: &mut State) -> bool {
    let Ok(snapshot) = Snapshot::new(state.table.pages.len()) else { return false };
    let flush = &mut state.flush;
    let Some(running) = flush.running.take() else { return false };
    flush.done = running.number;
    flush.flushes += 1;
    flush.pages_written += running.pages;
    flush.snapshot = Some(snapshot);
    true
}

fn end(state: &mut State, number: u64, mut snapshot: Snapshot, written: io::Result<()>) {
    let flush = &mut state.flush;
    let Some(running) = flush.running.take_if(|running| running.number == number) else {
        // Somebody else has ended it.
        return;
    };
    match written {
        Ok(()) => {
            flush.done = number;
            flush.flushes += 1;
            flush.pages_written += running.pages;
            snapshot.pages.clear();
        }
        Err(error) => {
            // FAIL-SAFE: the bits stay set in memory and their pages are to be written still. The
            // marks fail; at worst a copy has bits over equal chunks.
            flush.failed = number;
            flush.failed_errno = error.raw_os_error().unwrap_or(libc::EIO);
            state.table.urgent.take_from(&mut snapshot.pages);
        }
    }
    flush.snapshot = Some(snapshot);
}
