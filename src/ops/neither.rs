//! What neither leg could do: an answer to the program, and nobody is left behind for it. But somebody has to hear
//! of it, for the state stays as it was.

use super::failover::failure;
use super::{Mirror, News};
use crate::error::errno;
use crate::legs::{Leg, LegId, Timestamp};

/// Seconds until it is told again, if it goes on.
const QUIET_S: i64 = 600;

/// Requests since the mount that both legs failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neither {
    /// How many.
    pub count: u64,
    /// The last one: its file, as far as that is known, and what each leg answered.
    pub what: String,
    /// When that was, in seconds.
    pub last: i64,
    told: Option<i64>,
}

impl Neither {
    /// One more. Whether it is to be told.
    fn met(&mut self, what: String, now: Timestamp) -> bool {
        (self.count, self.what, self.last) = (self.count + 1, what, now.secs);
        // A clock that was set back ends the quiet.
        let quiet = self.told.is_some_and(|told| (0..QUIET_S).contains(&now.secs.saturating_sub(told)));
        if !quiet {
            self.told = Some(now.secs);
        }
        !quiet
    }
}

impl<L: Leg> Mirror<L> {
    /// The source and the other leg answered so. Nothing, unless both tell of a broken leg.
    pub(super) fn note_neither(
        &self,
        source: LegId,
        of_source: &std::io::Error,
        of_other: &std::io::Error,
        file: impl FnOnce() -> Option<String>,
    ) {
        let (Some(ours), Some(theirs)) = (failure(of_source), failure(of_other)) else { return };
        let file = file().map_or(String::new(), |file| format!("{file}: "));
        let what = format!("{file}leg {source}: {}; leg {}: {}", errno(ours), source.other(), errno(theirs));
        if self.neither.lock().met(what.clone(), (self.options.clock)()) {
            self.tell(News::Neither(what));
        }
    }

    /// What neither leg could do since the mount.
    pub fn neither(&self) -> Neither {
        self.neither.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_and_again_when_it_goes_on_for_long() {
        let mut neither = Neither::default();
        for (secs, told) in
            [(0, true), (0, false), (599, false), (600, true), (601, false), (5, true), (6, false)]
        {
            let what = format!("at {secs}");
            assert_eq!(neither.met(what.clone(), Timestamp { secs, nanos: 0 }), told, "at {secs}");
            assert_eq!((&neither.what, neither.last), (&what, secs));
        }
        assert_eq!(neither.count, 7);
    }
}
