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

impl WriteIntent<'_> {
    /// The proof without the hold on the slots, for one who may come back after the change is over: a
    /// courier to a leg that hangs (`legs::timed`), who cannot borrow.
    ///
    /// While the change waits for its answer, this intent holds the slots and the lent one is as good. A
    /// change that lands after its caller was told ETIMEDOUT finds no slot held, and harms nothing:
    ///
    /// - The slot is dirty still. It was when this intent was made, and nothing but clearing makes it clean:
    ///   not dropping an intent.
    /// - It stays so. ORDER: the caller records the leg as stale, durably, before it lets go of its own
    ///   intent; and nothing is cleared from then on (O4). If that cannot be recorded, the mirror is
    ///   read-only, which keeps the bits too.
    /// - So the next recovery compares what the late change touched, from the other leg, and never reads
    ///   it from this one. It does not begin before the change has landed or never will: the leg is not
    ///   taken back while couriers are under way (`Timed::under_way`), and another daemon waits for the
    ///   lock on the leg, which ends with this process and its last courier.
    pub fn lend(&self) -> WriteIntent<'static> {
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
