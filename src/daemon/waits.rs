//! How the daemon waits for its legs: who carries calls to them, and how long an answer may take
//! (`leg_timeout`).

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::LegPlace;
use crate::error::{Error, Result};
use crate::layout::LegDir;
use crate::legs::timed::{Couriers, Patience};
use crate::legs::{DirectoryLeg, Leg, LegId, PerLeg, Timed};
use crate::superblock;

/// What the daemon mirrors.
pub type BackingLeg = Timed<DirectoryLeg>;

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Waits {
    couriers: Couriers,
    /// Zero: for ever.
    timeout: Duration,
}

impl Waits {
    /// To be called after the daemon has forked: it starts a thread.
    pub fn start(timeout: Duration) -> Result<Waits> {
        Ok(Waits { couriers: Couriers::start().map_err(no_thread)?, timeout })
    }

    /// Opens the directory at `path` as a leg.
    pub fn open(&self, path: &Path, id: LegId) -> Result<Arc<BackingLeg>> {
        let leg = Arc::new(DirectoryLeg::open(path, id)?);
        // Weak: who waits for a leg is still known when the leg has been let go of, to be unmounted.
        let probed = Arc::downgrade(&leg);
        let probe = Arc::new(move || probed.upgrade().iter().for_each(|leg| leg.probe()));
        let patience = Patience::new(self.couriers.clone(), self.timeout, probe);
        let backing = leg.backing();
        log::debug!("leg {id} at {} rests on {backing:?}", path.display());
        Timed::new(leg, backing, patience).map(Arc::new).map_err(no_thread)
    }

    /// What `work` gives, if it ends within the time that a leg is waited for. Else it ends when it ends, and
    /// what it gives is dropped then.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.timeout.is_zero() {
            return Some(work());
        }
        self.couriers.call(self.timeout, || Ok(work())).ok()
    }

    /// For a leg whose answer has not come in time.
    pub fn no_answer(&self, leg: LegId, path: &Path) -> Error {
        no_answer(leg, path, self.timeout)
    }
}

/// Refuses legs that do not answer. Looks at both at once, on threads of their own, one of which stays until
/// the leg answers if it does not: not to be called by a process whose end somebody waits for.
pub fn check_answers(legs: &PerLeg<LegPlace>, timeout: Duration) -> Result<()> {
    if timeout.is_zero() {
        return Ok(());
    }
    let (tell, told) = bounded(LegId::ALL.len());
    let mut awaited = PerLeg::new(None, None);
    for (leg, path) in legs.iter().filter_map(|(leg, place)| Some((leg, place.path()?.to_owned()))) {
        awaited[leg] = Some(path.clone());
        let tell = tell.clone();
        std::thread::Builder::new()
            .name("looks".to_owned())
            .spawn(move || {
                // Whether it is there is told by whoever opens it.
                let _ = LegDir::open(&path).and_then(|dir| superblock::store::read(dir.as_fd()));
                let _ = tell.send(leg);
            })
            .map_err(no_thread)?;
    }
    let deadline = Instant::now() + timeout;
    loop {
        let missing = awaited.iter().find_map(|(leg, path)| Some((leg, path.clone()?)));
        let Some((leg, path)) = missing else { return Ok(()) };
        match told.recv_deadline(deadline) {
            Ok(answered) => awaited[answered] = None,
            Err(_) => {
                return Err(no_answer(leg, &path, timeout).hint(
                    "See to the network, or to the program behind it, and mount again. To go on with the other leg alone, \
                     write \"missing\" in its place.",
                ));
            }
        }
    }
}

fn no_answer(leg: LegId, path: &Path, timeout: Duration) -> Error {
    Error::new(format!(
        "leg {leg} at {} does not answer: nothing came within {} s (leg_timeout)",
        path.display(),
        timeout.as_secs()
    ))
}

fn no_thread(cause: std::io::Error) -> Error {
    Error::new("cannot start a thread").because(cause).hint("See whether the limit of threads is reached.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_what_is_not_both_answer() {
        let top = tempfile::tempdir().unwrap();
        let there = LegPlace::At(top.path().to_owned());
        let not_there = LegPlace::At(top.path().join("not-there"));
        for legs in [PerLeg::new(there.clone(), not_there), PerLeg::new(LegPlace::Missing, there)] {
            check_answers(&legs, Duration::from_secs(600)).unwrap();
        }
    }

    #[test]
    fn what_ends_too_late_is_not_waited_for() {
        let waits = Waits::start(Duration::from_millis(80)).unwrap();
        let (opener, closed) = bounded::<()>(0);
        assert_eq!(waits.within(move || closed.recv().is_err()), None);
        assert_eq!(waits.within(|| 7), Some(7));
        drop(opener);
    }

    #[test]
    fn without_a_limit_everything_is_waited_for() {
        assert_eq!(Waits::start(Duration::ZERO).unwrap().within(|| 7), Some(7));
    }
}
