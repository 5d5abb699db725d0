//! A mirror as the daemon's [`Service`]: its threads, and its state in the words of the report.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::status::{Counters, Dirty, Leg, LegState, Resync, State, Status};
use super::{LegPlace, MountRequest, Service};
use crate::error::{Error, Result, errno};
use crate::fuse;
use crate::legs::{DirectoryLeg, LegId, PerLeg};
use crate::ops::{self, Mirror, MirrorState};
use crate::owner::Owner;

/// Event loops that answer the kernel: with one, a stat waits behind somebody's fsync.
const EVENT_LOOPS: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// A mirror being served. The locks on its legs end with it.
pub struct Served {
    mirror: Arc<Mirror<DirectoryLeg>>,
    places: PerLeg<LegPlace>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _owners: PerLeg<Owner>,
}

impl Served {
    /// Serves `mirror`, of which `owners` are the locks.
    pub fn new(mirror: Arc<Mirror<DirectoryLeg>>, request: &MountRequest, owners: PerLeg<Owner>) -> Served {
        Served { mirror, places: request.legs.clone(), threads: Mutex::default(), _owners: owners }
    }

    fn spawn(&self, name: &str, work: fn(&Mirror<DirectoryLeg>)) -> io::Result<()> {
        let mirror = self.mirror.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&mirror))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn leg(&self, id: LegId) -> Leg {
        let (state, reason) = match self.mirror.leg_state(id) {
            ops::LegState::InSync => (LegState::InSync, None),
            ops::LegState::Resyncing => (LegState::Recovering, None),
            ops::LegState::Faulted { errno: number } => (LegState::Faulted, Some(errno(number).to_string())),
        };
        Leg { id: id.to_string(), path: self.places[id].to_string(), state, reason, ..Leg::default() }
    }
}

impl Service for Served {
    fn serve(&self, device: OwnedFd, mounted: &mut dyn FnMut()) -> io::Result<()> {
        self.spawn("resync", |mirror| {
            // The user's requests come first, for the processor too.
            if let Err(error) = rustix::process::nice(10) {
                log::info!("the resync runs at normal priority: {error}");
            }
            mirror.resync();
        })?;
        self.spawn("sweep", |mirror| mirror.sweep_until_stopped())?;
        fuse::serve(self.mirror.clone(), device, EVENT_LOOPS, mounted)
    }

    fn status(&self) -> Status {
        let stats = self.mirror.bitmap_stats();
        let progress = self.mirror.progress().report();
        let state = self.mirror.state();
        Status {
            state: match state {
                MirrorState::Clean => State::Clean,
                MirrorState::Active => State::Active,
                MirrorState::Resyncing => State::Resyncing,
                MirrorState::ReadOnly => State::Readonly,
            },
            reason: self.mirror.reason(),
            since: None,
            legs: LegId::ALL.map(|leg| self.leg(leg)).into(),
            dirty: Dirty { slots: stats.dirty_slots, chunks: stats.dirty_chunks },
            counters: Counters {
                marks: stats.marks,
                flushes: stats.flushes,
                clears: stats.clears,
                resync_bytes_read: progress.bytes_read,
                resync_bytes_written: progress.bytes_written,
            },
            resync: Resync {
                // From the mount on: who asks before the resync's thread runs must not hear that all is done.
                active: progress.active || state == MirrorState::Resyncing,
                done_objects: progress.objects_done,
                total_objects: progress.objects_total,
                done_bytes: progress.bytes_done,
                total_bytes: progress.bytes_total,
                rate_bytes_per_s: progress.rate,
                eta_s: progress.left.map(|left| left.as_secs()),
            },
        }
    }

    fn shut_down(&self) -> Result<()> {
        self.mirror.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                log::error!("a thread behind the mount ended with a panic");
            }
        }
        self.mirror.close().map_err(|cause| {
            Error::new("cannot record a clean unmount")
                .because(cause)
                .hint("Nothing is lost: the next mount makes the legs equal.")
        })
    }
}
