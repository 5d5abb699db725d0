//! The proof that a change is marked, and the list of slots it holds.

use super::SlotIndex;
use super::marks::Bitmap;

const INLINE: usize = 8;

/// Slots that an intent holds. Up to eight without allocating: more than any one change needs
/// unless it spans windows.
#[derive(Debug, Default)]
pub struct Held {
    inline: [u32; INLINE],
    len: usize,
    more: Vec<u32>,
}

impl Held {
    /// Adds one; the same slot may be there several times.
    pub fn push(&mut self, slot: SlotIndex) {
        match self.inline.get_mut(self.len) {
            Some(place) => {
                *place = slot.0;
                self.len += 1;
            }
            None => self.more.push(slot.0),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = SlotIndex> + '_ {
        self.inline[..self.len].iter().chain(&self.more).map(|&slot| SlotIndex(slot))
    }
}

/// The proof that what is about to change is marked, durably, on every copy of the bitmap (O1).
///
/// FAIL-SAFE: dropping it ends the change and leaves the bits set. That costs a compare at the next
/// resync, never data.
pub struct WriteIntent<'a> {
    bitmap: Option<&'a Bitmap>,
    held: Held,
}

impl<'a> WriteIntent<'a> {
    /// The slots in `held` are already counted as held.
    pub(super) fn new(bitmap: &'a Bitmap, held: Held) -> Self {
        WriteIntent { bitmap: Some(bitmap), held }
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }
}

impl WriteIntent<'_> {
    /// For `mirrorfs create`, which fills a directory that is not yet half of a mirror: there is
    /// nothing that could be unequal to it.
    pub fn before_first_mount() -> WriteIntent<'static> {
        WriteIntent { bitmap: None, held: Held::default() }
    }
}

impl Drop for WriteIntent<'_> {
    fn drop(&mut self) {
        if let Some(bitmap) = self.bitmap {
            bitmap.release(&self.held);
        }
    }
}
