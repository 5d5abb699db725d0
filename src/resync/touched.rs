//! What was changed on the source while a new leg was filled from it. Kept in memory alone: a leg that is not
//! complete is no leg, so a crash starts over. Pure.
//!
//! A note says where the legs may differ, never what of: it may be there for nothing, but none may be missing.
//! So what is too much to be kept in mind becomes more, not less: many names become all of a directory, many
//! ranges all of a file, many objects everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::ops::Range;

use super::spans::Spans;
use crate::legs::Identity;

/// So many objects are kept in mind, some 200 bytes each.
const OBJECTS: usize = 1 << 17;
/// So many of them that have had one number.
const OBJECTS_OF_NUMBER: usize = 64;
/// So many names of one directory.
const NAMES: usize = 1 << 10;
/// So many ranges of one file.
const RANGES: usize = 1 << 8;
/// Ranges are kept in units of this many bytes.
const UNIT: u64 = 64 << 10;

/// A part of an object.
#[derive(Clone, Debug)]
pub enum Part<'p> {
    /// What a directory has under this name.
    Name(&'p OsStr),
    /// All names of a directory.
    Names,
    /// Attributes.
    Metadata,
    /// These bytes.
    Data(Range<u64>),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    everything: bool,
    /// By inode number on the source. Several may have had one number in turn, and what is told last need not be of the
    /// one that has it now.
    objects: BTreeMap<u64, Vec<One>>,
}

/// What of one object was touched, beside its attributes.
#[derive(Clone, Debug)]
pub(super) struct One {
    pub identity: Identity,
    pub names: Option<Names>,
    pub data: Spans,
}

/// Names of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Names {
    All,
    These(BTreeSet<OsString>),
}

impl Touched {
    /// All there is.
    pub fn everything() -> Touched {
        Touched { everything: true, ..Touched::default() }
    }

    /// Whether that is all there is.
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    /// Adds a part of the object that is this one on the source.
    pub fn note(&mut self, identity: Identity, part: Part<'_>) {
        if self.everything {
            return;
        }
        if self.objects.len() >= OBJECTS && !self.objects.contains_key(&identity.ino) {
            self.note_everything();
            return;
        }
        let of_number = self.objects.entry(identity.ino).or_default();
        if let Some(one) = of_number.iter_mut().find(|one| one.identity.is_same(&identity)) {
            one.add(part);
            return;
        }
        let mut one = One { identity, names: None, data: Spans::none() };
        one.add(part);
        of_number.push(one);
        if of_number.len() > OBJECTS_OF_NUMBER {
            self.note_everything();
        }
    }

    /// Adds all there is.
    pub fn note_everything(&mut self) {
        *self = Touched::everything();
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && !self.everything
    }

    /// Bytes of data in the ranges that have an end.
    pub fn bytes(&self) -> u64 {
        let ranges = self.objects.values().flatten().flat_map(|one| one.data.iter());
        ranges.filter(|range| range.end != u64::MAX).map(|range| range.end - range.start).sum()
    }

    pub(super) fn into_objects(self) -> impl Iterator<Item = One> {
        self.objects.into_values().flatten()
    }
}

impl One {
    fn add(&mut self, part: Part<'_>) {
        match (part, &mut self.names) {
            (Part::Metadata, _) | (Part::Name(_), Some(Names::All)) => {}
            (Part::Names, names) => *names = Some(Names::All),
            (Part::Name(name), Some(Names::These(these))) => {
                these.insert(name.to_owned());
                if these.len() > NAMES {
                    self.names = Some(Names::All);
                }
            }
            (Part::Name(name), names @ None) => {
                *names = Some(Names::These(BTreeSet::from([name.to_owned()])));
            }
            (Part::Data(bytes), _) => {
                let start = bytes.start / UNIT * UNIT;
                let end = bytes.end.checked_next_multiple_of(UNIT).unwrap_or(u64::MAX);
                self.data.add(Spans::of(std::iter::once(start..end)));
                if self.data.iter().count() > RANGES {
                    self.data = Spans::everything();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::Handle;

    fn identity(ino: u64, generation: u8) -> Identity {
        Identity { ino, handle: Handle::new(1, &[generation]) }
    }

    fn only(touched: Touched) -> One {
        let mut all = touched.into_objects();
        let one = all.next().expect("there is one");
        assert!(all.next().is_none());
        one
    }

    #[test]
    fn parts_of_one_object_add_up() {
        let mut touched = Touched::default();
        assert!(touched.is_empty());
        let file = identity(5, 1);
        touched.note(file, Part::Metadata);
        touched.note(file, Part::Data(10..20));
        touched.note(file, Part::Data(UNIT * 3..u64::MAX));
        assert_eq!((touched.len(), touched.bytes()), (1, UNIT));
        let one = only(touched);
        assert_eq!(one.data, Spans::of([0..UNIT, UNIT * 3..u64::MAX]));
        assert_eq!(one.names, None);
        let mut touched = Touched::default();
        touched.note(identity(6, 1), Part::Name(OsStr::new("b")));
        touched.note(identity(6, 1), Part::Name(OsStr::new("a")));
        let these = ["a", "b"].map(OsString::from);
        assert_eq!(only(touched.clone()).names, Some(Names::These(BTreeSet::from(these))));
        touched.note(identity(6, 1), Part::Names);
        touched.note(identity(6, 1), Part::Name(OsStr::new("c")));
        assert_eq!(only(touched).names, Some(Names::All));
    }

    #[test]
    fn what_is_too_much_becomes_more_and_not_less() {
        let mut touched = Touched::default();
        for number in 0..=NAMES as u64 {
            touched.note(identity(1, 1), Part::Name(OsStr::new(&number.to_string())));
        }
        assert_eq!(only(touched).names, Some(Names::All));
        let mut touched = Touched::default();
        for number in 0..=RANGES as u64 {
            touched.note(identity(1, 1), Part::Data(number * 2 * UNIT..number * 2 * UNIT + 1));
        }
        assert_eq!(only(touched).data, Spans::everything());
        let mut touched = Touched::default();
        for number in 0..OBJECTS as u64 {
            touched.note(identity(number, 1), Part::Metadata);
        }
        touched.note(identity(0, 1), Part::Metadata);
        assert!(!touched.is_everything());
        touched.note(identity(OBJECTS as u64, 1), Part::Metadata);
        assert!(touched.is_everything() && !touched.is_empty());
        touched.note(identity(1, 1), Part::Metadata);
        assert!(touched.is_everything());
    }

    #[test]
    fn nothing_of_an_object_is_forgotten_for_another_one_that_had_its_number() {
        let mut touched = Touched::default();
        touched.note(identity(1, 2), Part::Data(0..1));
        touched.note(identity(1, 1), Part::Metadata);
        touched.note(identity(1, 2), Part::Metadata);
        let all: Vec<_> = touched.into_objects().map(|one| (one.identity, one.data)).collect();
        assert_eq!(
            all,
            [(identity(1, 2), Spans::of(std::iter::once(0..UNIT))), (identity(1, 1), Spans::none())]
        );
    }
}
