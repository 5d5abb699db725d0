//! The events there are: a closed list, one table from which the log, the man page's check and the
//! program's first word come. Pure.
//!
//! Named as mdadm(8) names them where they mean the same, so that a script for the one serves the
//! other. A name is never given another meaning.

use log::Level;

/// What happened. Written as it stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Name {
    Fail,
    FailSpare,
    DegradedArray,
    RebuildStarted,
    Rebuild20,
    Rebuild40,
    Rebuild60,
    Rebuild80,
    RebuildFinished,
    SpareActive,
    LegReturned,
    ReadError,
    NeitherLeg,
    ReadOnly,
    SplitBrain,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: Name,
    /// How loud it is in the log.
    pub level: Level,
    /// When it is told: one sentence of the man page.
    pub help: &'static str,
    /// What to do about it; DIR and LEG stand for the mount point and the leg. Empty: nothing.
    pub action: &'static str,
}

const fn row(name: Name, level: Level, action: &'static str, help: &'static str) -> Row {
    Row { name, level, help, action }
}

const PASSED: &str =
    "So many percent of the leg have been brought up to date; told for the highest mark passed.";

/// Every event, in the order of [`Name`].
pub const TABLE: &[Row] = &[
    row(
        Name::Fail,
        Level::Error,
        "See to its disk, then type: mirrorfs re-add DIR LEG",
        "A leg has failed, or was taken out by hand; the mirror goes on with the other one.",
    ),
    row(
        Name::FailSpare,
        Level::Error,
        "See to the disk that gave the error; \"mirrorfs status DIR\" says what to type then.",
        "A leg has failed while it was being brought up to date, or a new directory that was to take its place; the mirror goes on as before.",
    ),
    row(
        Name::DegradedArray,
        Level::Warn,
        "\"mirrorfs status DIR\" says what to do.",
        "Only one leg serves: told when it comes to that, and at each mount that finds it so.",
    ),
    row(
        Name::RebuildStarted,
        Level::Info,
        "\"mirrorfs status DIR\" shows how far it is.",
        "A leg is being brought up to date: what it missed is copied, or what a crash left is made equal.",
    ),
    row(Name::Rebuild20, Level::Info, "", PASSED),
    row(Name::Rebuild40, Level::Info, "", PASSED),
    row(Name::Rebuild60, Level::Info, "", PASSED),
    row(Name::Rebuild80, Level::Info, "", PASSED),
    row(
        Name::RebuildFinished,
        Level::Info,
        "",
        "A leg is not being brought up to date any more: all is done, or it was broken off; the detail says which.",
    ),
    row(
        Name::SpareActive,
        Level::Info,
        "",
        "A leg that had been away, or is new, is up to date and serves again.",
    ),
    row(
        Name::LegReturned,
        Level::Warn,
        "Unless auto_readd=yes takes it back, type: mirrorfs re-add DIR LEG",
        "The directory of a leg that failed or was missing is there again, and is that leg.",
    ),
    row(
        Name::ReadError,
        Level::Warn,
        "Look after its disk; \"mirrorfs status DIR\" counts such errors.",
        "A leg could not read a part of a file that the other one has answered; the detail says which file, and whether it could be rewritten.",
    ),
    row(
        Name::NeitherLeg,
        Level::Error,
        "See to both disks; \"mirrorfs status DIR\" counts such requests.",
        "Neither leg could do what a program asked, so it got the error and no leg is left behind; told again after ten minutes if it goes on.",
    ),
    row(
        Name::ReadOnly,
        Level::Error,
        "See to the disks, then unmount and mount again.",
        "The mirror takes no changes any more: it cannot record what would have to be made equal.",
    ),
    row(
        Name::SplitBrain,
        Level::Error,
        "With both unmounted, \"mirrorfs resolve A B --list\" shows what each leg has that the other has not.",
        "Each leg has been changed without the other one, and a mount or re-add is refused; none is chosen until \"mirrorfs resolve\" is told which.",
    ),
];

impl Name {
    /// Its row of the table.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The highest mark that is passed on the way from `before` to `now` percent.
    pub fn rebuilt(before: u64, now: u64) -> Option<Name> {
        let marks =
            [(20, Name::Rebuild20), (40, Name::Rebuild40), (60, Name::Rebuild60), (80, Name::Rebuild80)];
        marks.into_iter().rev().find(|(mark, _)| before < *mark && *mark <= now).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_finds_its_row() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.name as usize, at, "{:?}", row.name);
            assert!(row.help.ends_with('.'), "{}", row.help);
        }
        assert_eq!(Name::SplitBrain as usize + 1, TABLE.len(), "the last name has the last row");
    }

    #[test]
    fn the_highest_mark_passed_is_told_once() {
        for (before, now, name) in [
            (0, 0, None),
            (0, 19, None),
            (0, 20, Some(Name::Rebuild20)),
            (20, 20, None),
            (20, 39, None),
            (19, 61, Some(Name::Rebuild60)),
            (79, 100, Some(Name::Rebuild80)),
            (80, 100, None),
            (50, 10, None),
        ] {
            assert_eq!(Name::rebuilt(before, now), name, "{before} {now}");
        }
    }
}
