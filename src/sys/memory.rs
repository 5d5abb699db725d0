//! Memory that stays where it is: anonymous pages, aligned for O_DIRECT, pinned as far as allowed.
//!
//! Anonymous, never a mapping of a file: the kernel would write such a page when it likes, and a
//! truncated file would be a SIGBUS.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags};

use super::uninterrupted;

/// Alignment and granularity in bytes: enough for O_DIRECT on any disk in use.
pub const PAGE: usize = 4096;

/// A run of zeroed pages, allocated at once and given back when dropped.
pub struct PinnedPages {
    start: NonNull<u8>,
    len: usize,
    locked: bool,
}

impl PinnedPages {
    /// At least `len` bytes, rounded up to whole pages. ENOMEM if there are not so many.
    ///
    /// Locking is best effort (RLIMIT_MEMLOCK bounds what an ordinary user may lock):
    /// [`is_locked`](Self::is_locked) tells.
    pub fn new(len: usize) -> io::Result<PinnedPages> {
        let len = len
            .max(1)
            .checked_next_multiple_of(PAGE)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the kernel has room; it replaces no memory in use.
        let start = uninterrupted(|| unsafe { rustix::mm::mmap_anonymous(null_mut(), len, prot, flags) })?;
        // SAFETY: exactly the mapping just made.
        let locked = uninterrupted(|| unsafe { rustix::mm::mlock(start, len) }).is_ok();
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(PinnedPages { start, len, locked })
    }

    /// Whether the kernel keeps these pages in memory.
    pub fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Deref for PinnedPages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start is a mapping of len zeroed bytes that lives as long as self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for PinnedPages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for PinnedPages {
    fn drop(&mut self) {
        // An error would mean that this is no mapping, which it is: nothing to report.
        // SAFETY: the mapping made in new(), to which no reference outlives self.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the pages are plain memory that self alone owns.
unsafe impl Send for PinnedPages {}
// SAFETY: shared references only read.
unsafe impl Sync for PinnedPages {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_pages_are_aligned_zeroed_and_whole() {
        let mut pages = PinnedPages::new(PAGE + 1).unwrap();
        assert_eq!(pages.len(), 2 * PAGE);
        assert_eq!(pages.as_ptr() as usize % PAGE, 0);
        assert!(pages.iter().all(|&byte| byte == 0));
        pages[2 * PAGE - 1] = 7;
        assert_eq!(pages[2 * PAGE - 1], 7);
        assert_eq!(PinnedPages::new(0).unwrap().len(), PAGE);
        assert_eq!(PinnedPages::new(usize::MAX).err().unwrap().raw_os_error(), Some(libc::ENOMEM));
    }
}
