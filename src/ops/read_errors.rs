//! Counting what a leg could not read, and when that is too much. Pure.

use crate::legs::Timestamp;

/// More ranges than this rewritten within an hour, and the leg is left behind: its medium is failing.
pub const LIMIT: u32 = 20;

/// Seconds in which what was counted loses half its weight.
const HALF_LIFE_S: i64 = 3600;

/// Of one leg, since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadErrors {
    /// Reads that the other leg answered instead.
    pub count: u64,
    /// The file of the last one, from the root of the mirror.
    pub last: Option<String>,
    /// Ranges rewritten, those of earlier hours counting less.
    recent: u32,
    /// When `recent` was last halved, in seconds.
    halved: Option<i64>,
}

impl ReadErrors {
    /// The leg could not read a part of this file.
    pub fn met(&mut self, file: String) {
        self.count += 1;
        self.last = Some(file);
    }

    /// One more range was rewritten. Whether these are too many.
    pub fn rewritten(&mut self, now: Timestamp) -> bool {
        let since = *self.halved.get_or_insert(now.secs);
        // A clock that was set back stops the hours, no more.
        let hours = now.secs.saturating_sub(since).max(0) / HALF_LIFE_S;
        if hours > 0 {
            self.recent = self.recent.checked_shr(u32::try_from(hours).unwrap_or(u32::MAX)).unwrap_or(0);
            self.halved = Some(since + hours * HALF_LIFE_S);
        }
        self.recent += 1;
        self.recent > LIMIT
    }

    /// The leg is taken in again: what its medium did before is not counted against it.
    pub fn forgive(&mut self) {
        (self.recent, self.halved) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    /// How many rewritten ranges, one every `pause` seconds, it takes to be too many; `None`: never.
    fn too_many(pause: i64) -> Option<usize> {
        let mut errors = ReadErrors::default();
        (0..1000).position(|number| errors.rewritten(at(1000 + number * pause)))
    }

    #[test]
    fn so_many_in_an_hour_are_too_many_and_as_many_in_a_day_are_not() {
        assert_eq!(too_many(0), Some(LIMIT as usize));
        assert_eq!(too_many(60), Some(LIMIT as usize));
        assert_eq!(too_many(3600), None, "one an hour");
        assert_eq!(too_many(600), None, "six an hour never come to more than twelve");
        assert!(too_many(200).is_some(), "eighteen an hour do in the end");
    }

    #[test]
    fn a_clock_that_jumps_changes_little() {
        let mut errors = ReadErrors::default();
        assert!(!errors.rewritten(at(i64::MAX)));
        assert!(!errors.rewritten(at(0)));
        assert!(!errors.rewritten(at(i64::MIN)));
        let mut errors = ReadErrors::default();
        (0..LIMIT).for_each(|_| assert!(!errors.rewritten(at(0))));
        assert!(!errors.rewritten(at(100 * 365 * 86_400)), "all is forgotten");
    }

    #[test]
    fn a_leg_that_is_taken_in_again_starts_from_nothing() {
        let mut errors = ReadErrors::default();
        (0..=LIMIT).for_each(|_| {
            errors.met("dir/f".to_owned());
            errors.rewritten(at(0));
        });
        errors.forgive();
        assert!(!errors.rewritten(at(0)));
        assert_eq!((errors.count, errors.last.as_deref()), (u64::from(LIMIT) + 1, Some("dir/f")));
    }
}
