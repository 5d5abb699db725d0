//! Sectors of a simulated disk that cannot be read until they are written again.
//!
//! As on a disk: a sector is healed by a write of the whole of it, and a write of a part has to read the rest
//! first. A file's last sector is whole only together with what lies behind the file's end, which a write cannot
//! reach: it is healed when its space is given back. What is written and not synced is not on the medium yet, so
//! a power cut brings the bad sector back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::content::{Content, SECTOR, pieces};
use super::image::{Change, Id, Image};
use crate::error::errno;

/// What is read at once, through the page cache.
const PAGE: u64 = 4096;

/// Sectors by file.
type Sectors = BTreeMap<Id, BTreeSet<u64>>;

/// The bad sectors of a disk.
#[derive(Default)]
pub struct Bad {
    now: Sectors,
    /// Written again, and not synced.
    perhaps: Sectors,
    /// Where a sector is bad, nor can be told whether there is one.
    pub and_extents: bool,
}

impl Bad {
    /// The sectors that `offset..offset + len` of a file touches become bad, as far as the file has them. Returns
    /// whether it has any.
    pub fn spoil(&mut self, id: Id, content: &Content, offset: u64, len: u64) -> bool {
        let touched = |at: &u64| *at < offset + len && at + SECTOR > offset;
        let sectors: Vec<u64> = content.sectors().map(|(at, _)| at).filter(touched).collect();
        self.now.entry(id).or_default().extend(sectors.iter().map(|at| at / SECTOR));
        !sectors.is_empty()
    }

    /// Whether no sector is bad.
    pub fn is_empty(&self) -> bool {
        self.now.values().all(BTreeSet::is_empty)
    }

    /// EIO if a page of the range has a bad sector.
    pub fn check_readable(&self, id: Id, offset: u64, len: u64) -> io::Result<()> {
        let first = offset / PAGE * PAGE;
        self.check(id, first, (offset + len).next_multiple_of(PAGE) - first, |_| true)
    }

    /// EIO if it cannot be told whether there is data at `offset`.
    pub fn check_told(&self, id: Id, offset: u64) -> io::Result<()> {
        if self.and_extents { self.check_readable(id, offset, 1) } else { Ok(()) }
    }

    /// EIO if the range has a part of a bad sector.
    pub fn check_overwritable(&self, id: Id, offset: u64, len: u64) -> io::Result<()> {
        self.check(id, offset, len, |covered| covered < SECTOR as usize)
    }

    fn check(&self, id: Id, offset: u64, len: u64, counts: impl Fn(usize) -> bool) -> io::Result<()> {
        let Some(bad) = self.now.get(&id).filter(|bad| !bad.is_empty()) else { return Ok(()) };
        let hit = pieces(offset, len).any(|(sector, _, covered)| bad.contains(&sector) && counts(covered));
        if hit { Err(errno(libc::EIO)) } else { Ok(()) }
    }

    /// A change has been made: what it wrote over or gave back can be read again.
    pub fn after(&mut self, change: &Change, live: &Image) {
        if self.now.is_empty() {
            return;
        }
        match change {
            Change::Data { id, offset, bytes } => {
                for (sector, _, covered) in pieces(*offset, bytes.len() as u64) {
                    if covered == SECTOR as usize {
                        self.heal(*id, sector);
                    }
                }
            }
            Change::Punch { id, .. } | Change::Size { id, .. } => {
                self.only_where_there_is_data(*id, live, change)
            }
            _ => {}
        }
    }

    fn only_where_there_is_data(&mut self, id: Id, live: &Image, change: &Change) {
        let size = live.get(id).and_then(|object| object.content()).map_or(0, Content::size);
        let given_back = |sector: u64| match change {
            Change::Punch { offset, len, .. } => {
                *offset <= sector * SECTOR && offset + len >= (sector + 1) * SECTOR
            }
            _ => sector * SECTOR >= size,
        };
        let healed: Vec<u64> =
            self.now.get(&id).into_iter().flatten().copied().filter(|&sector| given_back(sector)).collect();
        healed.into_iter().for_each(|sector| self.heal(id, sector));
    }

    fn heal(&mut self, id: Id, sector: u64) {
        if self.now.get_mut(&id).is_some_and(|bad| bad.remove(&sector)) {
            self.perhaps.entry(id).or_default().insert(sector);
        }
    }

    /// What was written to this file is on the medium.
    pub fn synced(&mut self, id: Id) {
        self.perhaps.remove(&id);
    }

    /// All that was written is on the medium.
    pub fn all_synced(&mut self) {
        self.perhaps.clear();
    }

    /// The power went: `left` is what the disk holds. What had not reached it is as bad as it was.
    pub fn survive_power_cut(&mut self, left: &Image) {
        for (id, sectors) in std::mem::take(&mut self.perhaps) {
            self.now.entry(id).or_default().extend(sectors);
        }
        self.now.retain(|&id, bad| {
            let Some(content) = left.get(id).and_then(|object| object.content()) else { return false };
            let allocated: BTreeSet<u64> = content.sectors().map(|(at, _)| at / SECTOR).collect();
            bad.retain(|sector| allocated.contains(sector));
            !bad.is_empty()
        });
    }
}
