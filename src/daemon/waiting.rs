//! Waiting for a daemon that is about to end.
//!
//! umount(8) returns before the daemon has written "clean" and let go of its locks. A mount that
//! comes right after must wait, not fail; one that meets a daemon still at work must fail at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::Events;
use super::mountinfo::{self, Mount};
use super::{MountRequest, Service, Start, StartError, place, spec};
use crate::cli::exit::{Exit, Failure};

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before trying again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the holder is looked at closely, in pauses.
const LOOK_EVERY: u32 = 10;

/// Opens the mirror; while its legs belong to a daemon that has no mount any more, tries again.
pub fn start(request: &MountRequest, events: &Events, start: Start) -> Result<Arc<dyn Service>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    for attempt in 0.. {
        let (holder, error) = match start(request, events) {
            Ok(service) => return Ok(service),
            Err(StartError::Failed(error)) => return Err(error.into()),
            Err(StartError::Held { holder, error }) => (holder, error),
        };
        let at_work = attempt % LOOK_EVERY == 0 && is_at_work(request, holder);
        if at_work || Instant::now() >= deadline {
            return Err(Failure::new(Exit::InUse, error));
        }
        if attempt == 0 {
            let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            log::warn!("waiting for {who} to let go of the legs (at most {} s)", PATIENCE.as_secs());
        }
        std::thread::sleep(PAUSE);
    }
    unreachable!("the loop ends by returning")
}

/// Whether the holder serves a mount of these legs, in the tree that it sees or in ours.
fn is_at_work(request: &MountRequest, holder: Option<u32>) -> bool {
    let its = holder.map(|pid| PathBuf::from(format!("/proc/{pid}/mountinfo")));
    let mounts = its.and_then(|file| mountinfo::read_of(&file).ok()).or_else(|| mountinfo::read().ok());
    mounts
        .unwrap_or_default()
        .iter()
        .any(|mount| mount.is_mirror() && is_of(request, mount) && !place::is_dead(mount))
}

/// Whether a mount is one of the request's legs, whatever they were called when it was made.
fn is_of(request: &MountRequest, mount: &Mount) -> bool {
    let Ok(legs) = spec::split(&mount.source) else { return false };
    legs.iter().filter_map(|(_, theirs)| theirs.path()).any(|theirs| {
        request.legs.iter().filter_map(|(_, ours)| ours.path()).any(|ours| {
            ours == theirs
                || matches!((ours.canonicalize(), theirs.canonicalize()), (Ok(ours), Ok(theirs)) if ours == theirs)
        })
    })
}
