//! The superblock file: `.mirrorfs/superblock`, two slots, each write durable when it returns.
//!
//! Never writes through the page cache where the filesystem knows O_DIRECT, and never trusts it when
//! reading: what counts is what is on the medium. Never changes a file that it only reads; a
//! damaged slot is repaired by the next write, which goes to it because it holds no newer state.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use log::warn;
use rustix::fs::{Advice, AtFlags, Mode, OFlags};

use super::format::{self, SLOT_SIZE, Slot, SlotFault};
use super::{Found, Superblock, SuperblockStore};
use crate::layout;
use crate::sync::{Mutex, Rank};

/// A leg's superblock file, open for writing.
pub struct FileStore {
    file: File,
    /// The sequence number of the last write. The write itself happens under this lock.
    sequence: Mutex<u64>,
}

impl FileStore {
    /// `state_dir` is the leg's `.mirrorfs`, `found` what [`read`] found there.
    pub fn open(state_dir: BorrowedFd<'_>, found: &Superblock) -> io::Result<FileStore> {
        let file = open_uncached(state_dir, layout::SUPERBLOCK, OFlags::RDWR | OFlags::DSYNC)?;
        Ok(FileStore { file, sequence: Mutex::new(Rank::Leaf, found.sequence) })
    }
}

impl SuperblockStore for FileStore {
    fn write(&self, superblock: &Superblock) -> io::Result<()> {
        let mut sequence = self.sequence.lock();
        let next = Superblock { sequence: *sequence + 1, ..superblock.clone() };
        let slot = format::slot_of(next.sequence);
        self.file.write_all_at(&format::encode(&next).0, offset_of(slot))?;
        // FAIL-SAFE: after a failed write the number is not used up, so the retry goes to the same
        // slot and the other keeps the last state that is known to be durable.
        *sequence = next.sequence;
        Ok(())
    }
}

/// What a leg's directory holds. Changes nothing. An error is one of reading the directory itself.
pub fn read(leg_root: BorrowedFd<'_>) -> io::Result<Found> {
    let state_dir = match layout::open_state_dir(leg_root) {
        Ok(dir) => dir,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return without_superblock(leg_root),
        Err(error) => return Err(error),
    };
    match open_uncached(state_dir.as_fd(), layout::SUPERBLOCK, OFlags::RDONLY) {
        Ok(file) => {
            // What the page cache holds may be older than the medium, and is no proof of it.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            Ok(choose([0, 1].map(|place| read_slot(&file, place))))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => without_superblock(leg_root),
        Err(error) => Err(error),
    }
}

fn without_superblock(leg_root: BorrowedFd<'_>) -> io::Result<Found> {
    Ok(if layout::has_content(leg_root)? { Found::NotAMirror } else { Found::Empty })
}

fn read_slot(file: &File, place: usize) -> Result<Superblock, SlotFault> {
    let mut slot = Slot([0; SLOT_SIZE]);
    match file.read_exact_at(&mut slot.0, offset_of(place)) {
        Ok(()) => format::decode(&slot, place),
        Err(error) => Err(match error.raw_os_error() {
            None => SlotFault::Short,
            Some(errno) => SlotFault::Unreadable(errno),
        }),
    }
}

/// The newer of the valid slots. A slot of a later version counts before any valid one: that program
/// has taken the mirror over.
fn choose(slots: [Result<Superblock, SlotFault>; 2]) -> Found {
    if let Some(SlotFault::Newer(version)) =
        slots.iter().filter_map(|slot| slot.as_ref().err()).find(|fault| matches!(fault, SlotFault::Newer(_)))
    {
        return Found::NewerVersion(*version);
    }
    match slots {
        [Ok(even), Ok(odd)] => {
            let superblock = if even.sequence > odd.sequence { even } else { odd };
            Found::Leg { superblock, damaged_slot: None }
        }
        [Ok(superblock), Err(fault)] | [Err(fault), Ok(superblock)] => {
            warn!(
                "leg {}: slot {} of its superblock is damaged ({fault}); the other one is used, the next \
                 write repairs it",
                superblock.role,
                1 - format::slot_of(superblock.sequence)
            );
            Found::Leg { superblock, damaged_slot: Some(fault) }
        }
        [Err(first), Err(second)] => Found::Damaged([first, second]),
    }
}

/// Gives a leg its first superblock, in both slots. Until it returns the leg has none: the file gets its
/// name only when it is durable.
pub fn create(state_dir: BorrowedFd<'_>, superblock: &Superblock) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        File::from(rustix::fs::openat(state_dir, layout::SUPERBLOCK_NEW, flags, Mode::RUSR | Mode::WUSR)?);
    for sequence in [1, 2] {
        let numbered = Superblock { sequence, ..superblock.clone() };
        file.write_all_at(&format::encode(&numbered).0, offset_of(format::slot_of(sequence)))?;
    }
    file.sync_all()?;
    // ORDER: whole and durable before it has its name, so that a crash leaves a superblock or none.
    rustix::fs::renameat(state_dir, layout::SUPERBLOCK_NEW, state_dir, layout::SUPERBLOCK)?;
    rustix::fs::fsync(layout::reopen_dir(state_dir)?)?;
    Ok(())
}

/// Takes a leg's superblock away, durably: it is not a leg any more.
pub fn remove(state_dir: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::unlinkat(state_dir, layout::SUPERBLOCK, AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::fs::fsync(layout::reopen_dir(state_dir)?)?;
    Ok(())
}

/// With O_DIRECT where the filesystem has it.
fn open_uncached(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::DIRECT, Mode::empty()) {
        Err(rustix::io::Errno::INVAL) => {}
        other => return Ok(File::from(other?)),
    }
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

fn offset_of(slot: usize) -> u64 {
    (slot * SLOT_SIZE) as u64
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
