//! Byte ranges of one file: which are still to be compared, and which of two buffers differ. Pure.
//!
//! Invariant of [`Spans`]: the ranges are sorted, do not touch each other and none is empty.

use std::ops::Range;

/// What is left to compare of one file, in bytes. An end of `u64::MAX` means: to the end of the
/// file, however long it is by then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<Range<u64>>);

impl Spans {
    /// Nothing.
    pub fn none() -> Spans {
        Spans(Vec::new())
    }

    /// The whole file.
    pub fn everything() -> Spans {
        Spans(vec![Range { start: 0, end: u64::MAX }])
    }

    /// The union of `ranges`, in whatever order and however overlapping they are.
    pub fn of(ranges: impl IntoIterator<Item = Range<u64>>) -> Spans {
        let mut all: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        all.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for range in all {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Spans(merged)
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: Spans) {
        let mine = std::mem::take(&mut self.0);
        *self = Spans::of(mine.into_iter().chain(other.0));
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first range.
    pub fn first(&self) -> Option<Range<u64>> {
        self.0.first().cloned()
    }

    /// The ranges, from the first on.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// Everything below `offset` is done with.
    pub fn done_below(&mut self, offset: u64) {
        for range in &mut self.0 {
            range.start = range.start.max(offset);
        }
        self.0.retain(|range| range.start < range.end);
    }

    /// Bytes that lie inside a file of `size` bytes.
    pub fn len_within(&self, size: u64) -> u64 {
        self.0.iter().map(|range| range.end.min(size).saturating_sub(range.start)).sum()
    }
}

/// Which parts of two buffers differ, as ranges of `grain` bytes and their multiples.
///
/// ```text
///   a        xxxx xxxx xxxx xxxx xx
///   b        xxxx yxxx xxxy xxxx xy
///   result       [.........)    [.)     (grain 4)
/// ```
///
/// The shorter one counts as followed by zeros: a leg whose file is short reads as such.
pub(super) fn differing(a: &[u8], b: &[u8], grain: usize) -> Vec<Range<usize>> {
    let len = a.len().max(b.len());
    let mut found: Vec<Range<usize>> = Vec::new();
    for start in (0..len).step_by(grain) {
        let end = (start + grain).min(len);
        if same(part(a, start, end), part(b, start, end)) {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

fn part(buffer: &[u8], start: usize, end: usize) -> &[u8] {
    &buffer[start.min(buffer.len())..end.min(buffer.len())]
}

/// Equal, when zeros follow the shorter one.
fn same(a: &[u8], b: &[u8]) -> bool {
    let common = a.len().min(b.len());
    a[..common] == b[..common] && a[common..].iter().chain(&b[common..]).all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order_become_their_sorted_union() {
        let spans = Spans::of([8..12, 0..4, 4..6, 10..20, 30..30]);
        assert_eq!(spans, Spans(vec![0..6, 8..20]));
        assert_eq!(spans.len_within(10), 8);
        assert_eq!(Spans::everything().len_within(7), 7);
    }

    #[test]
    fn what_lies_below_the_cursor_is_dropped() {
        let mut spans = Spans::of([0..6, 8..20, 30..u64::MAX]);
        spans.done_below(10);
        assert_eq!(spans.first(), Some(10..20));
        spans.done_below(25);
        assert_eq!(spans.first(), Some(30..u64::MAX));
        spans.done_below(u64::MAX);
        assert!(spans.is_empty());
    }

    #[test]
    fn differing_runs_are_found_at_the_grain_and_merged() {
        let a = [1u8; 20];
        let mut b = a;
        b[5] = 2;
        b[11] = 2;
        b[19] = 2;
        assert_eq!(differing(&a, &b, 4), vec![4..12, 16..20]);
        assert!(differing(&a, &a, 4).is_empty());
    }

    #[test]
    fn a_short_buffer_reads_as_zeros() {
        assert!(differing(&[1, 0, 0], &[1], 2).is_empty());
        assert_eq!(differing(&[1, 0, 3], &[1], 2), vec![2..3]);
        assert_eq!(differing(&[], &[0, 0, 1], 1), vec![2..3]);
    }
}
