//! Memory for pages, allocated once, pinned and aligned for O_DIRECT; and sets of pages.

use super::PageIndex;
pub use crate::sys::memory::PinnedPages as Pages;

/// Some of the pages of a file. Never allocates after construction.
#[derive(Clone)]
pub struct PageSet {
    words: Vec<u64>,
    empty: bool,
}

impl PageSet {
    /// The empty set, with room for `pages` pages.
    pub fn new(pages: usize) -> PageSet {
        PageSet { words: vec![0; pages.div_ceil(64)], empty: true }
    }

    /// Whether no page is in it.
    pub fn is_empty(&self) -> bool {
        self.empty
    }

    /// Whether `page` is in it.
    pub fn contains(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Adds a page.
    pub fn insert(&mut self, page: PageIndex) {
        self.words[page.0 as usize / 64] |= 1 << (page.0 % 64);
        self.empty = false;
    }

    /// Adds all pages of `other`, and takes them away from it.
    pub fn take_from(&mut self, other: &mut PageSet) {
        if other.empty {
            return;
        }
        for (mine, theirs) in self.words.iter_mut().zip(&mut other.words) {
            *mine |= std::mem::take(theirs);
        }
        self.empty = false;
        other.empty = true;
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.empty = true;
    }

    /// Takes the pages of `other` out of the set.
    pub fn remove_all(&mut self, other: &PageSet) {
        if self.empty {
            return;
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= !theirs;
        }
        self.empty = self.words.iter().all(|&word| word == 0);
    }

    /// Runs of adjacent pages, ascending, as page numbers.
    pub fn runs(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let end = if self.empty { 0 } else { self.words.len() * 64 };
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < end && !self.contains(next) {
                next += if next.is_multiple_of(64) && self.words[next / 64] == 0 { 64 } else { 1 };
            }
            let start = next;
            while next < end && self.contains(next) {
                next += 1;
            }
            (start < next).then_some(start..next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_was_inserted() {
        let mut set = PageSet::new(1025);
        assert_eq!(set.runs().count(), 0);
        for page in [0, 1, 5, 63, 64, 65, 500, 1024] {
            set.insert(PageIndex(page));
        }
        let runs: Vec<_> = set.runs().collect();
        assert_eq!(runs, [0..2, 5..6, 63..66, 500..501, 1024..1025]);
        let mut other = PageSet::new(1025);
        other.take_from(&mut set);
        assert!(set.is_empty() && set.runs().count() == 0);
        set.insert(PageIndex(5));
        other.remove_all(&set);
        assert!(!other.contains(5) && other.contains(1024));
    }
}
