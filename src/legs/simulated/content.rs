//! The data of a simulated file: sparse, by sectors.
//!
//! Invariant: no byte at or behind `size` is kept, so that a file which grows again reads as zeros
//! there.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The unit in which a disk keeps or loses what was not synced, in bytes.
pub const SECTOR: u64 = 512;

/// The bytes of one.
pub type Sector = [u8; SECTOR as usize];

/// Data of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    size: u64,
    sectors: BTreeMap<u64, Arc<Sector>>,
}

/// The parts of `offset..offset + len` by sector: the sector, where in it, and how much.
pub fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    (offset / SECTOR..end.div_ceil(SECTOR)).filter(move |_| len > 0).map(move |sector| {
        let start = (sector * SECTOR).max(offset);
        let stop = ((sector + 1) * SECTOR).min(end);
        (sector, (start - sector * SECTOR) as usize, (stop - start) as usize)
    })
}

impl Content {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Sectors that take space.
    pub fn allocated(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// The sectors that take space, by offset in bytes.
    pub fn sectors(&self) -> impl Iterator<Item = (u64, &Sector)> {
        self.sectors.iter().map(|(sector, bytes)| (sector * SECTOR, &**bytes))
    }

    /// Sets the length: cuts, or grows by a hole.
    pub fn set_size(&mut self, size: u64) {
        if size < self.size {
            self.sectors.split_off(&size.div_ceil(SECTOR));
            self.zero_within(size, size.next_multiple_of(SECTOR) - size);
        }
        self.size = size;
    }

    /// Puts `data` at `offset`; what lies behind the end is dropped.
    pub fn put(&mut self, offset: u64, data: &[u8]) {
        let len = (data.len() as u64).min(self.size.saturating_sub(offset));
        let mut from = data;
        for (sector, start, len) in pieces(offset, len) {
            let (now, rest) = from.split_at(len);
            let kept = self.sectors.entry(sector).or_insert_with(|| Arc::new([0; SECTOR as usize]));
            Arc::make_mut(kept)[start..start + len].copy_from_slice(now);
            from = rest;
        }
    }

    /// Zeroes a range and gives back the space of the sectors wholly inside. The last one is whole with what lies
    /// behind the file's end.
    pub fn punch(&mut self, offset: u64, len: u64) {
        let len = len.min(self.size.next_multiple_of(SECTOR).saturating_sub(offset));
        for (sector, start, len) in pieces(offset, len) {
            if len as u64 == SECTOR {
                self.sectors.remove(&sector);
            } else {
                self.zero_within(sector * SECTOR + start as u64, len as u64);
            }
        }
    }

    /// Gives a range space, zeroed where it had none.
    pub fn allocate(&mut self, offset: u64, len: u64) {
        let len = len.min(self.size.saturating_sub(offset));
        for (sector, ..) in pieces(offset, len) {
            self.sectors.entry(sector).or_insert_with(|| Arc::new([0; SECTOR as usize]));
        }
    }

    /// Reads at `offset`; returns the bytes read.
    pub fn get(&self, offset: u64, buf: &mut [u8]) -> usize {
        let len = (buf.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        let buf = &mut buf[..len];
        buf.fill(0);
        if len > 0 {
            let end = offset + len as u64;
            for (&sector, bytes) in self.sectors.range(offset / SECTOR..end.div_ceil(SECTOR)) {
                let start = (sector * SECTOR).max(offset);
                let stop = ((sector + 1) * SECTOR).min(end);
                let within = (start - sector * SECTOR) as usize..(stop - sector * SECTOR) as usize;
                buf[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(&bytes[within]);
            }
        }
        len
    }

    /// The first offset at or after `offset` that lies in data (or, if not `data`, in a hole).
    /// `None`: none before the end.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        let last = self.size.checked_sub(1).filter(|&last| offset <= last)?;
        let found = (offset / SECTOR..=last / SECTOR).find(|s| self.sectors.contains_key(s) == data)?;
        Some((found * SECTOR).max(offset))
    }

    /// Whether both read the same, wherever their holes are.
    pub fn reads_like(&self, other: &Content) -> bool {
        let is_zero = |sector: &Sector| sector.iter().all(|&byte| byte == 0);
        let covered = |a: &Content, b: &Content| {
            a.sectors.iter().all(|(at, bytes)| match b.sectors.get(at) {
                Some(same) => Arc::ptr_eq(bytes, same) || bytes == same,
                None => is_zero(bytes),
            })
        };
        self.size == other.size && covered(self, other) && covered(other, self)
    }

    /// Zeroes a range that lies inside one sector.
    fn zero_within(&mut self, offset: u64, len: u64) {
        if let Some(kept) = self.sectors.get_mut(&(offset / SECTOR)) {
            let start = (offset % SECTOR) as usize;
            Arc::make_mut(kept)[start..start + len as usize].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let mut all = vec![0; content.size() as usize];
        content.get(0, &mut all);
        all
    }

    #[test]
    fn it_reads_as_a_flat_array_would() {
        let mut rng = crate::sim::rng::Rng::new(3);
        let (mut content, mut flat) = (Content::default(), Vec::new());
        for round in 1..2000u64 {
            let (offset, len) = (rng.below(4000), rng.below(1500));
            match rng.below(4) {
                0 => {
                    content.set_size(offset);
                    flat.resize(offset as usize, 0);
                }
                1 => {
                    content.punch(offset, len);
                    let end = flat.len().min((offset + len) as usize);
                    flat[end.min(offset as usize)..end].fill(0);
                }
                2 => content.allocate(offset, len),
                _ => {
                    let data = vec![round as u8; len as usize];
                    content.put(offset, &data);
                    for (at, byte) in flat.iter_mut().skip(offset as usize).zip(data) {
                        *at = byte;
                    }
                }
            }
            assert_eq!(bytes(&content), flat, "round {round}");
        }
    }

    #[test]
    fn what_was_cut_is_gone_when_the_file_grows_again() {
        let mut content = Content::default();
        content.set_size(1000);
        content.put(0, &[7; 1000]);
        content.set_size(600);
        content.set_size(1000);
        assert_eq!(bytes(&content)[600..], [0; 400]);
    }

    #[test]
    fn holes_and_data_are_found_and_zeros_read_like_holes() {
        let mut content = Content::default();
        content.set_size(4 * SECTOR);
        let hole = content.clone();
        content.put(SECTOR, &[0; 10]);
        assert_eq!(content.seek(0, true), Some(SECTOR));
        assert_eq!(content.seek(SECTOR + 5, false), Some(2 * SECTOR));
        assert_eq!(content.seek(2 * SECTOR, true), None);
        assert!(content.reads_like(&hole));
        content.put(SECTOR, &[1]);
        assert!(!content.reads_like(&hole));
    }
}
