//! Waiting for a daemon that is about to end.
//!
//! umount(8) returns before the daemon has written "clean" and let go of its locks. A mount that
//! comes right after must wait, not fail, and so must `compare` and the like; one that meets a daemon still at
//! work must fail at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::Events;
use super::mountinfo::{self, Mount};
use super::{MountRequest, Service, Start, StartError, place, spec};
use crate::cli::exit::{Exit, Failure};
use crate::owner::Refused;

/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before trying again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the holder is looked at closely, in pauses.
const LOOK_EVERY: u32 = 10;

/// Opens the mirror; while its legs belong to a daemon that has no mount any more, tries again.
pub fn start(request: &MountRequest, events: &Events, start: Start) -> Result<Arc<dyn Service>, Failure> {
    let legs: Vec<&Path> = request.legs.iter().filter_map(|(_, leg)| leg.path()).collect();
    let held = |refused: &StartError| match refused {
        StartError::Held { holder, .. } => Some(*holder),
        StartError::Failed(_) => None,
    };
    patiently(&legs, || start(request, events), held, |text| log::warn!("{text}")).map_err(|refused| {
        match refused {
            StartError::Held { error, .. } => Failure::new(Exit::InUse, error),
            StartError::Failed(error) => error.into(),
        }
    })
}

/// Takes the lock of a leg that is not mounted; while it belongs to a daemon that has no mount any more,
/// tries again.
pub fn own<T>(path: &Path, own: impl FnMut() -> Result<T, Refused>) -> Result<T, Refused> {
    let held = |refused: &Refused| match refused {
        Refused::InUse(holder, _) => Some(*holder),
        Refused::Failed(_) => None,
    };
    patiently(&[path], own, held, |text| eprintln!("mirrorfs: {text}"))
}

/// Tries again while an error says by `held` that somebody, who may be known, holds `legs`, and he has no mount
/// of them.
fn patiently<T, E>(
    legs: &[&Path],
    mut attempt: impl FnMut() -> Result<T, E>,
    held: impl Fn(&E) -> Option<Option<u32>>,
    tell: impl Fn(String),
) -> Result<T, E> {
    let deadline = Instant::now() + PATIENCE;
    for attempts in 0.. {
        let refused = match attempt() {
            Ok(had) => return Ok(had),
            Err(refused) => refused,
        };
        let Some(holder) = held(&refused) else { return Err(refused) };
        let at_work = attempts % LOOK_EVERY == 0 && is_at_work(legs, holder);
        if at_work || Instant::now() >= deadline {
            return Err(refused);
        }
        if attempts == 0 {
            let who = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
            tell(format!("waiting for {who} to let go of the legs (at most {} s)", PATIENCE.as_secs()));
        }
        std::thread::sleep(PAUSE);
    }
    unreachable!("the loop ends by returning")
}

/// Whether the holder is no mirrorfs, or serves a mount of these legs, in the tree that it sees or in ours.
fn is_at_work(legs: &[&Path], holder: Option<u32>) -> bool {
    if holder.is_some_and(is_another_program) {
        return true;
    }
    let its = holder.map(|pid| PathBuf::from(format!("/proc/{pid}/mountinfo")));
    let mounts = its.and_then(|file| mountinfo::read_of(&file).ok()).or_else(|| mountinfo::read().ok());
    mounts
        .unwrap_or_default()
        .iter()
        .any(|mount| mount.is_mirror() && is_of(legs, mount) && !place::is_dead(mount))
}

/// Whether a process is neither mirrorfs, its mount helper, nor what this one is.
fn is_another_program(pid: u32) -> bool {
    let name = |process: &str| std::fs::read_to_string(format!("/proc/{process}/comm"));
    let Ok(its) = name(&pid.to_string()) else { return false };
    !its.trim_end().ends_with(env!("CARGO_PKG_NAME")) && name("self").is_ok_and(|ours| ours != its)
}

/// Whether a mount is one of these legs, whatever they were called when it was made.
fn is_of(legs: &[&Path], mount: &Mount) -> bool {
    let Ok(mounted) = spec::split(&mount.source) else { return false };
    mounted.iter().filter_map(|(_, theirs)| theirs.path()).any(|theirs| {
        legs.iter().any(|ours| {
            *ours == theirs
                || matches!((ours.canonicalize(), theirs.canonicalize()), (Ok(ours), Ok(theirs)) if ours == theirs)
        })
    })
}
