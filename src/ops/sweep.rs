//! Clearing bits, lazily and in two steps (O3).
//!
//! ```text
//!   idle slots -> settle times -> sync both legs -> clear those not touched since -> write pages
//! ```

use std::io;

use super::Mirror;
use super::inode_write::settle_times;
use crate::bitmap::{CopyId, Host, IdleSlot};
use crate::error::errno;
use crate::legs::{Identity, Leg, PerLeg};

/// How many ticks of the sweeper a slot must have been left alone: what is written again and again
/// keeps its bit and costs no flush.
const IDLE_TICKS: u64 = 2;

impl<L: Leg> Mirror<L> {
    /// One round of the sweeper.
    pub fn sweep(&self) {
        self.bitmap.tick();
        self.clear_idle(IDLE_TICKS);
    }

    /// Clears what nobody has touched for `ticks`.
    pub(super) fn clear_idle(&self, ticks: u64) {
        // O4: with a leg missing nothing is cleared; nor when the legs are known to differ, since what
        // could not be repaired or resynced is left to the next mount.
        if self.health.writable().is_err() {
            return;
        }
        let idle = self.bitmap.idle(ticks);
        if idle.is_empty() {
            return;
        }
        if let Err(error) = self.settle_and_sync(&idle) {
            // FAIL-SAFE: the bits stay.
            log::warn!("cannot sync the legs, so {} regions stay dirty: {error}", idle.len());
            return;
        }
        // ORDER: both legs are durable before a bit is dropped (O3). A crash in between leaves dirty
        // bits over equal legs.
        self.bitmap.clear(&idle);
        if let Err(error) = self.bitmap.write_back(self) {
            log::warn!("cannot write cleared bits; they cost a compare at the next resync: {error}");
        }
    }

    /// Gives both legs one set of times for what this slot covers.
    fn settle(&self, slot: &IdleSlot) -> io::Result<()> {
        // Whoever has cleared it meanwhile has settled it before.
        let Some(intent) = self.bitmap.hold_idle(slot) else { return Ok(()) };
        match self.slot_nodes(&slot.identities) {
            Ok(nodes) => ignore_gone(settle_times(&self.legs, &intent, self.source(), &nodes)),
            Err(error) => ignore_gone(Err(error)),
        }
    }

    /// Both nodes of the object behind a slot.
    fn slot_nodes(&self, identities: &PerLeg<Identity>) -> io::Result<PerLeg<L::Node>> {
        let source = self.source();
        if identities[source].handle.is_none() || identities[source.other()].handle.is_none() {
            let ino = self.numbering.shown(identities[source].ino);
            if let Some(object) = self.table.get(ino) {
                return self.nodes(&object);
            }
        }
        PerLeg::from_fn(|leg| self.legs[leg].find(&identities[leg])).transpose()
    }
}

/// What is gone has no times to settle; its directory's slot covers that it is gone.
fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT)) => Ok(()),
        other => other,
    }
}

impl<L: Leg> Host for Mirror<L> {
    fn settle_and_sync(&self, slots: &[IdleSlot]) -> io::Result<()> {
        // A leg that fails already at this has lost what it had not synced. Only the sync takes it out
        // of service, so it is asked whatever settling said: that leg must not be the next source.
        let settled = slots.iter().try_for_each(|slot| self.settle(slot));
        self.sync_both(|leg| self.legs[leg].sync_all())?;
        settled?;
        // A leg that failed just now has been taken out: nothing is cleared any more.
        self.health.fault().map_or(Ok(()), |fault| Err(errno(fault.errno)))
    }

    fn copy_failed(&self, copy: CopyId, error: &io::Error) -> io::Result<()> {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        match copy {
            CopyId::Leg(leg) => {
                log::error!("leg {leg}: cannot write the bitmap: {error}");
                self.fault(leg, number)
            }
            CopyId::Single => {
                self.health.set_read_only(format!("the bitmap cannot be written ({error})"));
                Err(errno(libc::EROFS))
            }
        }
    }
}
