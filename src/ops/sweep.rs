//! Clearing bits, lazily and in two steps (O3).
//!
//! ```text
//!   idle slots -> settle times -> sync both legs -> clear those not touched since -> write pages
//! ```

use std::io;

use super::Mirror;
use super::failover::failure;
use super::inode_write::times_to_settle;
use crate::bitmap::{CopyId, Host, IdleSlot, WriteIntent};
use crate::error::errno;
use crate::legs::{Identity, Keeps, Leg, LegId, PerLeg};

/// How many ticks of the sweeper a slot must have been left alone: what is written again and again
/// keeps its bit and costs no flush.
const IDLE_TICKS: u64 = 2;

impl<L: Leg> Mirror<L> {
    /// One round of the sweeper.
    pub fn sweep(&self) {
        self.mend();
        self.bitmap.tick();
        self.clear_idle(IDLE_TICKS);
    }

    /// Clears what nobody has touched for `ticks`; returns how many slots that were.
    pub(super) fn clear_idle(&self, ticks: u64) -> usize {
        // Asked before, too: whoever is at it may be stuck in a leg that hangs, and has been left behind.
        if self.keeps_its_bits() {
            return 0;
        }
        let _one_at_a_time = self.sweeping.lock();
        if self.keeps_its_bits() {
            return 0;
        }
        let idle = self.bitmap.idle(ticks);
        if idle.is_empty() {
            return 0;
        }
        if let Err(error) = self.settle_and_sync(&idle) {
            // FAIL-SAFE: the bits stay.
            log::warn!("cannot sync the legs, so {} regions stay dirty: {error}", idle.len());
            return 0;
        }
        // ORDER: both legs are durable before a bit is dropped (O3). A crash in between leaves dirty
        // bits over equal legs.
        let cleared = self.bitmap.clear(&idle);
        self.forget_uncovered();
        if let Err(error) = self.bitmap.write_back(self) {
            log::warn!("cannot write cleared bits; they cost a compare at the next resync: {error}");
        }
        cleared
    }

    /// Gives both legs one set of times for all that is marked and not in use, as far as that can be had.
    pub(super) fn settle_all(&self) {
        if self.keeps_its_bits() {
            return;
        }
        for slot in self.bitmap.idle(0) {
            if let Err(error) = self.settle(&slot) {
                log::warn!("times that were not settled: {error}");
            }
        }
    }

    /// Whether nothing is cleared: a leg is away (O4), or the legs differ in what could not be repaired, and
    /// only its bits tell the next mount. That turns the mirror read-only.
    pub(super) fn keeps_its_bits(&self) -> bool {
        #[cfg(feature = "simulation")]
        if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::BitsKept) {
            return false;
        }
        self.health.writable().is_err() || self.health.is_degraded()
    }

    /// Gives both legs one set of times for what this slot covers.
    fn settle(&self, slot: &IdleSlot) -> io::Result<()> {
        // Whoever has cleared it meanwhile has settled it before.
        let Some(intent) = self.bitmap.hold_idle(slot) else { return Ok(()) };
        let covered = self.covers.of(slot.hint);
        let settle = |identities: PerLeg<Identity>| {
            let nodes = self.slot_nodes(&identities);
            let settled = ignore_gone(nodes.and_then(|nodes| self.settle_times(&intent, &nodes)));
            self.note_times(&identities);
            settled
        };
        settle(slot.identities)?;
        covered.into_iter().try_for_each(|object| {
            let known = object.with_names(|names| names.identities());
            let settled = settle(known.map(|identity| identity.unwrap_or(Identity::UNKNOWN)));
            // It may have lost its last name meanwhile.
            self.table.reap(Some(object));
            settled
        })
    }

    /// Sets the times on the other leg as the source has them.
    fn settle_times(&self, intent: &WriteIntent<'_>, nodes: &PerLeg<L::Node>) -> io::Result<()> {
        let (source, other) = (self.source(), self.source().other());
        let stats = self.asking_each(|_| true, |leg| self.leg(leg)?.stat(&nodes[leg]))?;
        let (Some(of_source), Some(of_other)) = (&stats[source], &stats[other]) else { return Ok(()) };
        // What lives on without a name, because it is open, is nobody's counterpart.
        if of_source.nlink == 0 || of_other.nlink == 0 {
            return Ok(());
        }
        let Some((atime, mtime)) = times_to_settle(of_source, of_other, self.keeps()?) else { return Ok(()) };
        let asked = self.leg(other)?;
        let set = asked.set_times(intent, &nodes[other], Some(atime), Some(mtime));
        match set.as_ref().err().and_then(failure) {
            Some(number) => self.fault_asked(other, Some(&asked), number),
            None => set,
        }
    }

    /// What both legs keep of times.
    fn keeps(&self) -> io::Result<Keeps> {
        let keeps = self.both_legs()?.map(|leg| leg.keeps());
        Ok(keeps[LegId::A].both(keeps[LegId::B]))
    }

    /// Both nodes of the object behind a slot; ENODEV when a leg is away.
    fn slot_nodes(&self, identities: &PerLeg<Identity>) -> io::Result<PerLeg<L::Node>> {
        let source = self.source();
        let known = self
            .table
            .by_number(identities[source].ino)
            .filter(|_| !identities[source].opens() || !identities[source.other()].opens());
        let nodes = self.asking_each(
            |_| true,
            |leg| match &known {
                Some(object) => self.node(object, leg),
                None => self.leg(leg)?.find(&identities[leg]),
            },
        )?;
        nodes.map(|node| node.ok_or_else(|| errno(libc::ENODEV))).transpose()
    }
}

/// What is gone has no times to settle; its directory's slot covers that it is gone. What an ordinary user's
/// daemon cannot find, because a directory may not be read or renames go on all the time, is nearly always gone,
/// too; if it is not, its times differ, and nothing else.
fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ESTALE | libc::ENOENT | libc::EACCES | libc::EAGAIN)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

impl<L: Leg> Host for Mirror<L> {
    fn settle_and_sync(&self, slots: &[IdleSlot]) -> io::Result<()> {
        // A leg that fails already at this has lost what it had not synced. Only the sync takes it out
        // of service, so it is asked whatever settling said: that leg must not be the next source.
        let settled = slots.iter().try_for_each(|slot| self.settle(slot));
        self.sync_both(|_| true, |leg| self.leg(leg)?.sync_all())?;
        settled?;
        // A leg may have failed just now and have been left behind.
        if self.keeps_its_bits() { Err(errno(libc::ENODEV)) } else { Ok(()) }
    }

    fn directory(&self, dir: &Identity) -> Option<PerLeg<Identity>> {
        self.directory_alone(dir)
    }

    fn copy_failed(&self, copy: CopyId, error: &io::Error) -> io::Result<()> {
        let number = error.raw_os_error().unwrap_or(libc::EIO);
        match copy {
            CopyId::Leg(leg) => {
                log::error!("leg {leg}: cannot write the bitmap: {error}");
                self.fault(leg, number).inspect_err(|_| {
                    self.turn_read_only(format!(
                        "the bitmap on leg {leg} cannot be written ({error}), and no other copy is in use; unmount, see \
                         to that leg, and mount again"
                    ));
                })
            }
            CopyId::Single => {
                self.turn_read_only(format!("the bitmap cannot be written ({error})"));
                Err(errno(libc::EROFS))
            }
        }
    }
}
