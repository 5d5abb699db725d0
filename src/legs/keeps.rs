//! What a leg's filesystem keeps of what it is given, where filesystems differ. Pure.

use super::{Kind, Stat, Timestamp};

const SECOND: u32 = 1_000_000_000;

/// What can be trusted to be read back as it was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeps {
    /// Times are kept in multiples of so many nanoseconds; 1 where all of it is kept.
    pub grain: u32,
    /// Owner and times of a symlink itself are kept. Where they are not, setting them may reach what it leads to.
    pub of_symlinks: bool,
}

impl Keeps {
    /// Whatever there is.
    pub const ALL: Keeps = Keeps { grain: 1, of_symlinks: true };

    /// What both of two legs keep.
    pub fn both(self, other: Keeps) -> Keeps {
        Keeps { grain: self.grain.max(other.grain), of_symlinks: self.of_symlinks && other.of_symlinks }
    }

    /// Whether two legs could have been given one time.
    pub fn is_same_time(&self, a: Timestamp, b: Timestamp) -> bool {
        let nanos = |time: Timestamp| i128::from(time.secs) * i128::from(SECOND) + i128::from(time.nanos);
        nanos(a).abs_diff(nanos(b)) < u128::from(self.grain)
    }

    /// Whether owner and times of an object of this kind can be compared and set.
    pub fn is_kept_of(&self, kind: Kind) -> bool {
        self.of_symlinks || kind != Kind::Symlink
    }

    /// Whether the modification time of two objects tells that they were last alike.
    pub fn is_same_mtime(&self, a: &Stat, b: &Stat) -> bool {
        self.is_same_time(a.mtime, b.mtime)
    }
}

/// The grain of a filesystem that was given `set` and shows `got`: the coarsest of those that are in use.
pub fn grain_of(set: Timestamp, got: Timestamp) -> u32 {
    const GRAINS: [u32; 6] = [1, 100, 1_000, 1_000_000, SECOND, 2 * SECOND];
    let fits = |grain: &u32| Keeps { grain: *grain, ..Keeps::ALL }.is_same_time(set, got);
    GRAINS.into_iter().find(fits).unwrap_or(2 * SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> Timestamp {
        Timestamp { secs, nanos }
    }

    #[test]
    fn times_are_one_within_the_grain_and_no_further() {
        // (grain, one time, the other, same)
        let table = [
            (1, at(5, 1), at(5, 1), true),
            (1, at(5, 1), at(5, 2), false),
            (100, at(5, 100), at(5, 199), true),
            (100, at(5, 100), at(5, 200), false),
            (SECOND, at(5, 0), at(5, 999_999_999), true),
            (SECOND, at(5, 0), at(6, 0), false),
            // Counted forward from the second before 1970, too.
            (SECOND, at(-2, 0), at(-2, 800_000_000), true),
            (SECOND, at(-1, 0), at(-2, 0), false),
            // Rounded, not cut off.
            (SECOND, at(6, 0), at(5, 600_000_000), true),
            (2 * SECOND, at(6, 0), at(7, 999_999_999), true),
        ];
        for (grain, a, b, same) in table {
            let keeps = Keeps { grain, of_symlinks: true };
            assert_eq!(keeps.is_same_time(a, b), same, "{a:?} and {b:?} with {grain}");
            assert_eq!(keeps.is_same_time(b, a), same, "{b:?} and {a:?} with {grain}");
        }
    }

    #[test]
    fn the_grain_is_measured_by_what_is_left_of_a_time() {
        let set = at(11, 123_456_789);
        let table = [
            (set, 1),
            (at(11, 123_456_700), 100),
            (at(11, 123_456_000), 1_000),
            (at(11, 123_000_000), 1_000_000),
            (at(11, 0), SECOND),
            (at(10, 0), 2 * SECOND),
            (at(0, 0), 2 * SECOND),
        ];
        for (got, grain) in table {
            assert_eq!(grain_of(set, got), grain, "{got:?}");
        }
    }

    #[test]
    fn two_legs_keep_what_each_keeps() {
        let coarse = Keeps { grain: SECOND, of_symlinks: false };
        assert_eq!(Keeps::ALL.both(coarse), coarse);
        assert_eq!(coarse.both(Keeps::ALL), coarse);
        assert!(!coarse.is_kept_of(Kind::Symlink) && coarse.is_kept_of(Kind::File));
    }
}
