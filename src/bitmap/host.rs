//! What lies around the bitmap: the copies it writes to, and the mirror it asks for help.

use std::io;

use super::{Kinds, PageIndex, SlotIndex};
use crate::legs::{Identity, LegId, PerLeg};

/// One copy of the bitmap file.
pub trait PageStore: Send + Sync {
    /// The whole file, header page first. EUCLEAN if the file has holes.
    fn read_all(&self) -> io::Result<Vec<u8>>;

    /// Writes one or more whole pages from `page` on; durable when it returns. After an error each
    /// 512-byte sector is old or new.
    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()>;
}

/// Which copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyId {
    /// The one on this leg.
    Leg(LegId),
    /// The only one, elsewhere.
    Single,
}

impl std::fmt::Display for CopyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CopyId::Leg(leg) => write!(f, "bitmap on leg {leg}"),
            CopyId::Single => f.write_str("bitmap file"),
        }
    }
}

/// Where the copies are.
pub enum Copies {
    /// One on each leg; `None` where the leg or the file is not there.
    PerLeg(PerLeg<Option<Box<dyn PageStore>>>),
    /// A single one elsewhere.
    Single(Box<dyn PageStore>),
}

impl Copies {
    /// The copies, A first; `None` for one that is not there.
    pub(super) fn into_list(self) -> Vec<(CopyId, Option<Box<dyn PageStore>>)> {
        match self {
            Copies::Single(store) => vec![(CopyId::Single, Some(store))],
            Copies::PerLeg(stores) => {
                let stores = stores.map(std::cell::Cell::new);
                stores.iter().map(|(leg, store)| (CopyId::Leg(leg), store.take())).collect()
            }
        }
    }

    /// The bytes of every copy, A first; ENOENT for one that is not there.
    pub(super) fn read(&self) -> Vec<(CopyId, io::Result<Vec<u8>>)> {
        match self {
            Copies::Single(store) => vec![(CopyId::Single, store.read_all())],
            Copies::PerLeg(stores) => stores
                .iter()
                .map(|(leg, store)| {
                    let missing = || Err(crate::error::errno(libc::ENOENT));
                    (CopyId::Leg(leg), store.as_ref().map_or_else(missing, |store| store.read_all()))
                })
                .collect(),
        }
    }
}

/// What the bitmap asks of the mirror. Called with no lock of the bitmap held, but possibly under
/// the locks of the operation whose mark needs it: must not take a lock above `Rank::State`.
pub trait Host: Send + Sync {
    /// Makes both legs durable, and alike in what cannot be set at the time of the change (times),
    /// for these slots. After an error nothing is cleared; a mark that needed room fails with it.
    fn settle_and_sync(&self, slots: &[IdleSlot]) -> io::Result<()>;

    /// A copy cannot be written. `Ok`: the fault of that leg is durably recorded elsewhere, go on
    /// with the other copy. `Err`: nothing is left to go on with; the mark fails with this error.
    fn copy_failed(&self, copy: CopyId, error: &io::Error) -> io::Result<()>;

    /// While a leg is away: what names the directory, which the leg that serves calls `dir`, on both legs. `None`
    /// if that is not known; what lies in it then keeps its own slots.
    fn directory(&self, dir: &Identity) -> Option<PerLeg<Identity>> {
        let _ = dir;
        None
    }
}

/// A slot that nobody was using when it was listed.
#[derive(Clone, Debug)]
pub struct IdleSlot {
    /// Which.
    pub index: SlotIndex,
    /// What names its object.
    pub identities: PerLeg<Identity>,
    /// What of it may differ.
    pub kinds: Kinds,
    /// The word that [`Bitmap::born`](super::Bitmap::born) gives for what the slot covers.
    pub hint: u64,
    /// What the slot's version was; any mark since has raised it.
    pub(super) version: u64,
}
