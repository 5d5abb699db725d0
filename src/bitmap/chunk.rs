//! Arithmetic of chunks and windows. Pure; the only place that divides by the chunk size or by the
//! number of chunks in a slot.

use std::ops::Range;

/// Number of a chunk within its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkIndex(pub u64);

/// Chunks that one slot has bits for.
pub const WINDOW_CHUNKS: u64 = 2048;

/// A span of [`WINDOW_CHUNKS`] chunks, aligned to its own size: what the bits of one slot stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window(u64);

impl Window {
    /// The window that `chunk` lies in.
    pub fn of(chunk: ChunkIndex) -> Window {
        Window(chunk.0 / WINDOW_CHUNKS)
    }

    /// All windows that a range touches; none for an empty range.
    pub fn touching(range: &Range<ChunkIndex>) -> impl Iterator<Item = Window> + use<> {
        let end = if range.start < range.end { Window::of(ChunkIndex(range.end.0 - 1)).0 + 1 } else { 0 };
        (Window::of(range.start).0..end).map(Window)
    }

    /// The first chunk of the window.
    pub fn first(self) -> ChunkIndex {
        ChunkIndex(self.0 * WINDOW_CHUNKS)
    }

    /// The part of `range` inside the window, counted from the window's first chunk.
    pub fn bits_of(self, range: &Range<ChunkIndex>) -> Range<usize> {
        let inside = |chunk: ChunkIndex| chunk.0.saturating_sub(self.first().0).min(WINDOW_CHUNKS) as usize;
        inside(range.start)..inside(range.end)
    }
}

/// Bytes that one bit stands for: a power of two from 64 KiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSize(u64);

impl ChunkSize {
    /// 64 KiB.
    pub const MIN: ChunkSize = ChunkSize(64 << 10);
    /// 4 MiB.
    pub const DEFAULT: ChunkSize = ChunkSize(4 << 20);
    /// 1 GiB.
    pub const MAX: ChunkSize = ChunkSize(1 << 30);

    /// `None` unless `bytes` is a power of two within the limits.
    pub fn new(bytes: u64) -> Option<ChunkSize> {
        let allowed = bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes);
        allowed.then_some(ChunkSize(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The chunk that holds the byte at `offset`.
    pub fn containing(self, offset: u64) -> ChunkIndex {
        ChunkIndex(offset / self.0)
    }

    /// Chunks touched by `len` bytes at `start`.
    ///
    /// ```text
    ///   chunk     0         1         2
    ///         |---------|---------|---------|
    ///   bytes       [===========)
    ///   result   0..2    (a partly covered chunk counts; zero length touches nothing)
    /// ```
    pub fn covering(self, start: u64, len: u64) -> Range<ChunkIndex> {
        let first = self.containing(start);
        if len == 0 {
            return first..first;
        }
        let last = self.containing(start.saturating_add(len - 1));
        first..ChunkIndex(last.0 + 1)
    }

    /// How many whole chunks `bytes` are.
    pub fn within(self, bytes: u64) -> u64 {
        bytes / self.0
    }

    /// Offset of the first byte of `chunk`, `u64::MAX` for one behind the largest offset.
    pub fn start(self, chunk: ChunkIndex) -> u64 {
        chunk.0.saturating_mul(self.0)
    }
}

impl Default for ChunkSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_counts_partly_covered_chunks() {
        let chunk = ChunkSize::new(64 << 10).unwrap();
        let table = [
            (0, 0, 0..0),
            (0, 1, 0..1),
            (0, 65536, 0..1),
            (0, 65537, 0..2),
            (65535, 2, 0..2),
            (65536, 1, 1..2),
            (70000, 0, 1..1),
            (u64::MAX, 1, (u64::MAX >> 16)..(u64::MAX >> 16) + 1),
            (u64::MAX, u64::MAX, (u64::MAX >> 16)..(u64::MAX >> 16) + 1),
        ];
        for (start, len, expected) in table {
            let got = chunk.covering(start, len);
            assert_eq!(got.start.0..got.end.0, expected, "{len} bytes at {start}");
        }
    }

    #[test]
    fn only_powers_of_two_within_limits_are_chunk_sizes() {
        for good in [64 << 10, 4 << 20, 1 << 30] {
            assert_eq!(ChunkSize::new(good).map(ChunkSize::bytes), Some(good));
        }
        for bad in [0, 1, 32 << 10, (64 << 10) + 1, 3 << 20, 2 << 30] {
            assert_eq!(ChunkSize::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_range_is_cut_at_windows() {
        let range = ChunkIndex(2000)..ChunkIndex(4100);
        let cut: Vec<_> = Window::touching(&range).map(|w| (w.first().0, w.bits_of(&range))).collect();
        assert_eq!(cut, [(0, 2000..2048), (2048, 0..2048), (4096, 0..4)]);
        assert_eq!(Window::touching(&(ChunkIndex(5)..ChunkIndex(5))).count(), 0);
        assert_eq!(Window::touching(&(ChunkIndex(9)..ChunkIndex(5))).count(), 0);
    }
}
