//! Who has changed a name, or what it names, since each leg went on alone. Pure.
//!
//! What a leg's bitmap says of an object is certain, for every change but a birth marks the object; a birth is
//! told by the birth time. What it says of a directory is only that some name in it has changed:
//! which one is concluded.
//!
//! | both legs have the name | then a leg has changed it |
//! |---|---|
//! | its object is marked there, or was born there since | yes |
//! | otherwise | no |
//!
//! | one leg has the name | the leg that has it has changed it | the other one has |
//! |---|---|---|
//! | the object was born there since, or moved to there | yes | no |
//! | it is marked for something else | yes | if the directory's names are marked there |
//! | it is not marked | no | if the directory's names are marked there |

use serde::Serialize;

use crate::legs::{LegId, PerLeg};

/// What a leg's bitmap says of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// Changed since the leg went on alone.
    Changed,
    /// Not changed since.
    Unchanged,
    /// The bitmap does not tell.
    Silent,
}

/// An object, on a leg that has one under the name.
#[derive(Clone, Copy, Debug)]
pub struct Here {
    /// What the bitmap says of the object.
    pub itself: Says,
    /// Whether it was born since the leg went on alone; `None`: not known.
    pub born: Option<bool>,
    /// Whether it had another name before; `None`: not known.
    pub moved: Option<bool>,
}

/// What one leg knows of a name.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// What it names there.
    pub object: Option<Here>,
    /// What the bitmap says of the names in its directory.
    pub names: Says,
}

/// Who has changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Who {
    /// Leg A only.
    A,
    /// Leg B only.
    B,
    /// Both.
    #[serde(rename = "both")]
    Both,
    /// The bitmaps do not tell.
    #[serde(rename = "unknown")]
    Unknown,
}

impl Who {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Who::A => "A",
            Who::B => "B",
            Who::Both => "both",
            Who::Unknown => "unknown",
        }
    }
}

/// Decides by the tables at the head of this file.
pub fn who(facts: &PerLeg<Facts>) -> Who {
    let says = PerLeg::from_fn(|leg| match (facts[leg].object, facts[leg.other()].object) {
        (Some(here), Some(_)) => of_common(here, facts[leg].names),
        (Some(here), None) => of_present(here, facts[leg].names, facts[leg.other()].names),
        (None, Some(there)) => of_absent(there, facts[leg].names),
        (None, None) => Says::Silent,
    });
    match (says[LegId::A], says[LegId::B]) {
        (Says::Changed, Says::Changed) => Who::Both,
        (Says::Changed, Says::Unchanged) => Who::A,
        (Says::Unchanged, Says::Changed) => Who::B,
        _ => Who::Unknown,
    }
}

fn of_common(here: Here, names: Says) -> Says {
    match (here.itself, here.born) {
        (Says::Changed, _) | (_, Some(true)) => Says::Changed,
        // Perhaps it is another object than before, and nobody knows.
        (Says::Unchanged, None) if names != Says::Unchanged => Says::Silent,
        (says, _) => says,
    }
}

/// Of the leg that has the name, if the other one has not.
fn of_present(here: Here, names: Says, names_there: Says) -> Says {
    match (here.itself, here.born) {
        (Says::Changed, _) | (_, Some(true)) => Says::Changed,
        (says, Some(false)) => says,
        (says, None) => match (names, names_there) {
            (Says::Unchanged, _) => says,
            (Says::Changed, Says::Unchanged) => Says::Changed,
            _ => Says::Silent,
        },
    }
}

/// Of the leg that has not the name, if the other one has.
fn of_absent(there: Here, names: Says) -> Says {
    let came_there = there.born == Some(true) || there.moved == Some(true);
    if came_there { Says::Unchanged } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Says::{Changed, Silent, Unchanged};

    fn here(itself: Says, born: Option<bool>, moved: Option<bool>) -> Option<Here> {
        Some(Here { itself, born, moved })
    }

    /// With each leg in the role of the first.
    fn check(first: Facts, other: Facts, expected: Who) {
        let swapped = match expected {
            Who::A => Who::B,
            Who::B => Who::A,
            same => same,
        };
        assert_eq!(who(&PerLeg::new(first, other)), expected, "{first:?} {other:?}");
        assert_eq!(who(&PerLeg::new(other, first)), swapped, "{other:?} {first:?}");
    }

    #[test]
    fn of_a_name_that_both_have_the_objects_tell() {
        let old = |says| Facts { object: here(says, Some(false), None), names: Changed };
        for (first, other, expected) in [
            (Changed, Unchanged, Who::A),
            (Changed, Changed, Who::Both),
            (Unchanged, Unchanged, Who::Unknown),
            (Changed, Silent, Who::Unknown),
            (Silent, Silent, Who::Unknown),
        ] {
            check(old(first), old(other), expected);
        }
        let new = Facts { object: here(Unchanged, Some(true), None), names: Changed };
        check(new, old(Unchanged), Who::A);
        check(new, old(Changed), Who::Both);
        check(new, new, Who::Both);
    }

    #[test]
    fn without_birth_times_what_lies_in_a_changed_directory_may_be_another_object() {
        let facts = |says, names| Facts { object: here(says, None, None), names };
        check(facts(Changed, Changed), facts(Unchanged, Unchanged), Who::A);
        check(facts(Changed, Changed), facts(Unchanged, Changed), Who::Unknown);
    }

    #[test]
    fn of_a_name_that_one_leg_has_it_is_told_whether_it_came_or_went() {
        let none = |names| Facts { object: None, names };
        let has = |itself, born, moved, names| Facts { object: here(itself, born, moved), names };
        for (present, absent, expected) in [
            (has(Unchanged, Some(true), None, Changed), none(Unchanged), Who::A),
            (has(Unchanged, Some(true), None, Changed), none(Changed), Who::A),
            (has(Changed, Some(false), Some(true), Changed), none(Changed), Who::A),
            (has(Unchanged, Some(false), None, Unchanged), none(Changed), Who::B),
            (has(Unchanged, Some(false), None, Changed), none(Changed), Who::B),
            (has(Changed, Some(false), Some(false), Unchanged), none(Changed), Who::Both),
            (has(Changed, Some(false), None, Changed), none(Unchanged), Who::A),
            (has(Unchanged, Some(false), None, Unchanged), none(Unchanged), Who::Unknown),
            (has(Silent, Some(false), None, Silent), none(Changed), Who::Unknown),
            (has(Unchanged, None, None, Changed), none(Unchanged), Who::A),
            (has(Unchanged, None, None, Unchanged), none(Changed), Who::B),
            (has(Unchanged, None, None, Changed), none(Changed), Who::Unknown),
        ] {
            check(present, absent, expected);
        }
    }
}
