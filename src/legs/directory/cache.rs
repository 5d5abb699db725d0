//! What a leg's page cache is asked to do, for speed only.
//!
//! The kernel caches what is read through the mount; the leg's cache of the same bytes is memory spent twice.
//! And it is cached there in large folios, which make a later small write slow: ext4 walks all buffer heads of
//! the folio that it writes to. (Linux 6.18, 4 KiB overwrites of a file on a loop device, each with an fsync:
//! 20 us for the write and 170 to 220 us for the fsync in folios of 1 MiB, 5 us and 130 us in such of 64 KiB, 3 us
//! and 95 us where nothing was cached.)

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most bytes that are written to the page cache at a time, which bounds the folio that they get. Pieces of
/// this length cost a sequential writer some 5% of what writing a megabyte at a time reaches.
pub const PIECE: u64 = 64 << 10;

/// Bytes that are dropped at a time, and how many such blocks a reader must have left behind.
const BLOCK: u64 = 1 << 20;
const BEHIND: u64 = 2;

/// Where the piece of a write ends that begins at `offset`: at a multiple of [`PIECE`].
pub fn end_of_piece(offset: u64) -> u64 {
    (offset / PIECE + 1).saturating_mul(PIECE)
}

/// Follows one who reads a file from front to back.
#[derive(Debug, Default)]
pub struct Stream {
    /// The block that is being read, and in how many steps of one block it was reached.
    block: AtomicU64,
    steps: AtomicU64,
}

impl Stream {
    /// What the leg's cache need not keep any more, now that `offset` is read: a block that lies far enough
    /// behind. Requests of one reader come in a slightly wrong order; what goes back a little is no new beginning.
    pub fn read(&self, offset: u64) -> Option<Range<u64>> {
        let (block, before) = (offset / BLOCK, self.block.load(Ordering::Relaxed));
        if block <= before && block + BEHIND > before {
            return None;
        }
        self.block.store(block, Ordering::Relaxed);
        if block != before + 1 {
            self.steps.store(0, Ordering::Relaxed);
            return None;
        }
        let steps = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let done = block.checked_sub(BEHIND).filter(|_| steps >= BEHIND)?;
        Some(done * BLOCK..(done + 1) * BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(offsets: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let stream = Stream::default();
        offsets
            .into_iter()
            .filter_map(|offset| stream.read(offset))
            .map(|range| range.start / BLOCK)
            .collect()
    }

    #[test]
    fn who_reads_on_leaves_all_but_the_last_blocks() {
        assert_eq!(dropped((0..80).map(|request| request * (128 << 10))), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn requests_in_a_slightly_wrong_order_are_one_stream() {
        let order = (0..80u64).map(|request| (request ^ 1) * (128 << 10));
        assert_eq!(dropped(order), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn who_jumps_leaves_everything_cached() {
        assert!(dropped((0..100).map(|at| at * 37 % 100 * BLOCK)).is_empty());
        assert!(dropped([0, 1, 0, 1].map(|block| block * BLOCK)).is_empty());
    }

    #[test]
    fn a_piece_ends_at_a_multiple_of_its_length() {
        for (offset, end) in [(0, PIECE), (1, PIECE), (PIECE - 1, PIECE), (PIECE, 2 * PIECE)] {
            assert_eq!(end_of_piece(offset), end);
        }
        assert_eq!(end_of_piece(u64::MAX), u64::MAX);
    }
}
