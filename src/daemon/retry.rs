//! When to try again what has failed for a reason that may pass: after growing pauses. Pure.

/// The longest pause, in looks; there is one a second.
const LONGEST: u32 = 60;

/// Counts the looks until the next try; the first one is due at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Retry {
    left: u32,
    pause: u32,
}

impl Retry {
    /// One more look. Whether it is time to try.
    pub fn is_due(&mut self) -> bool {
        let due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        due
    }

    /// It has failed again. Whether that was the first time.
    pub fn failed(&mut self) -> bool {
        let first = self.pause == 0;
        self.pause = (2 * self.pause).clamp(1, LONGEST);
        self.left = self.pause - 1;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_to_a_minute_and_only_the_first_failure_is_new() {
        let mut retry = Retry::default();
        let mut tries = Vec::new();
        for look in 0..310 {
            if retry.is_due() {
                assert_eq!(retry.failed(), tries.is_empty());
                tries.push(look);
            }
        }
        assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303]);
    }
}
