//! Which number stands for which place. Pure.
//!
//! A number is one object for as long as it lies where it was seen. What has several names is one object under all of
//! them, as far as they have been seen.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use crate::legs::{Kind, RenameMode};

/// A directory by its number, and a name in it.
pub type Place = (u64, Arc<OsStr>);

/// What lies at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    pub kind: Kind,
    /// Its number on the leg, which may be another one tomorrow.
    pub real: u64,
    /// It has several names, and that number is all that tells which.
    pub is_linked: bool,
}

impl Looks {
    /// Whether what was seen so at a place, and this that is seen there now, are one object; or pass for one, as both have
    /// no other name.
    fn continues(&self, before: &Looks) -> bool {
        let is_alone = !before.is_linked && !self.is_linked;
        self.kind == before.kind && (is_alone || self.real == before.real)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    /// By directory, then by name.
    names: HashMap<u64, HashMap<Arc<OsStr>, (u64, Looks)>>,
    places: HashMap<u64, Vec<Place>>,
    /// What has several names, by its number on the leg.
    linked: HashMap<u64, u64>,
    next: u64,
}

impl Book {
    /// Nothing seen. `first` is the first number to be given.
    pub fn new(first: u64) -> Book {
        Book { names: HashMap::new(), places: HashMap::new(), linked: HashMap::new(), next: first }
    }

    /// Something that looks so is there. Its number.
    pub fn see(&mut self, dir: u64, name: &OsStr, looks: Looks) -> u64 {
        let before = self.at(dir, name).copied();
        let of_others = self.linked.get(&looks.real).copied().filter(|_| looks.is_linked);
        let number = match before.filter(|(_, before)| looks.continues(before)) {
            Some((known, _)) if of_others.is_none_or(|number| number == known) => known,
            _ => of_others.unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            }),
        };
        match before {
            _ if looks.is_linked => {
                self.linked.insert(looks.real, number);
            }
            // It has lost its other names. What is another one tells nothing of the one that was there.
            Some((_, before)) if before.is_linked && looks.continues(&before) => {
                self.linked.remove(&before.real);
            }
            _ => {}
        }
        if before != Some((number, looks)) {
            self.put(dir, name, (number, looks));
        }
        number
    }

    /// Something of this kind is there; no more is known of it.
    pub fn see_entry(&mut self, dir: u64, name: &OsStr, kind: Kind, real: u64) -> u64 {
        match self.at(dir, name) {
            Some(&(known, looks)) if looks.kind == kind && (!looks.is_linked || looks.real == real) => known,
            _ => self.see(dir, name, Looks { kind, real, is_linked: false }),
        }
    }

    /// The object with this number got one more name.
    pub fn linked(&mut self, number: u64, dir: u64, name: &OsStr, looks: Looks) {
        self.linked.insert(looks.real, number);
        for ((dir, name), _) in self.places(number) {
            self.put(dir, &name, (number, looks));
        }
        self.put(dir, name, (number, looks));
    }

    /// Nothing is there any more.
    pub fn left(&mut self, dir: u64, name: &OsStr) {
        self.take(dir, name);
    }

    /// A rename was done.
    pub fn moved(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), mode: RenameMode) {
        let moving = self.take(from.0, from.1);
        let there = self.take(to.0, to.1);
        let there = there.filter(|_| mode == RenameMode::Exchange);
        for ((number, looks), (dir, name)) in
            moving.map(|moving| (moving, to)).into_iter().chain(there.map(|there| (there, from)))
        {
            self.put(dir, name, (number, looks));
        }
    }

    /// Where this one was seen, and how it looked there.
    pub fn places(&self, number: u64) -> Vec<(Place, Looks)> {
        let places = self.places.get(&number).into_iter().flatten();
        let looks = |(dir, name): &Place| self.at(*dir, name).map(|(_, looks)| *looks);
        places.filter_map(|place| Some((place.clone(), looks(place)?))).collect()
    }

    /// The names that lead from the directory `root` to this one, to each place where it was seen.
    pub fn ways(&self, number: u64, root: u64) -> Vec<Vec<Arc<OsStr>>> {
        if number == root {
            return vec![Vec::new()];
        }
        let way = |(dir, name): &Place| {
            let (mut at, mut way) = (*dir, vec![name.clone()]);
            while at != root {
                let (dir, name) = self.places.get(&at)?.last()?;
                way.push(name.clone());
                at = *dir;
            }
            way.reverse();
            Some(way)
        };
        self.places.get(&number).into_iter().flatten().filter_map(way).collect()
    }

    fn at(&self, dir: u64, name: &OsStr) -> Option<&(u64, Looks)> {
        self.names.get(&dir)?.get(name)
    }

    fn put(&mut self, dir: u64, name: &OsStr, (number, looks): (u64, Looks)) {
        self.take(dir, name);
        let name: Arc<OsStr> = name.into();
        self.names.entry(dir).or_default().insert(name.clone(), (number, looks));
        self.places.entry(number).or_default().push((dir, name));
    }

    fn take(&mut self, dir: u64, name: &OsStr) -> Option<(u64, Looks)> {
        let taken = self.names.get_mut(&dir)?.remove(name)?;
        if let Some(places) = self.places.get_mut(&taken.0) {
            places.retain(|(at, called)| (*at, &**called) != (dir, name));
            if places.is_empty() {
                self.places.remove(&taken.0);
            }
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = 1;
    const FILE: Looks = Looks { kind: Kind::File, real: 70, is_linked: false };
    const DIR: Looks = Looks { kind: Kind::Directory, real: 71, is_linked: false };

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn way(book: &Book, number: u64) -> Option<String> {
        let way = book.ways(number, ROOT).pop()?;
        Some(way.iter().map(|name| name.to_str().expect("as given")).collect::<Vec<_>>().join("/"))
    }

    #[test]
    fn a_place_keeps_its_number_while_what_is_there_looks_the_same() {
        let mut book = Book::new(2);
        let file = book.see(ROOT, name("f"), FILE);
        assert_eq!(book.see(ROOT, name("f"), FILE), file);
        assert_eq!(book.see(ROOT, name("f"), Looks { real: 99, ..FILE }), file, "it was numbered anew");
        assert_eq!(book.see_entry(ROOT, name("f"), Kind::File, 98), file);
        let dir = book.see(ROOT, name("f"), DIR);
        assert_ne!(dir, file);
        assert!(book.places(file).is_empty() && book.ways(file, ROOT).is_empty());
        book.left(ROOT, name("f"));
        assert_ne!(book.see(ROOT, name("f"), DIR), dir);
    }

    #[test]
    fn what_moves_keeps_its_number_with_all_that_is_in_it() {
        let mut book = Book::new(2);
        let dir = book.see(ROOT, name("d"), DIR);
        let file = book.see(dir, name("f"), FILE);
        let other = book.see(ROOT, name("e"), DIR);
        assert_eq!(way(&book, file).as_deref(), Some("d/f"));
        book.moved((ROOT, name("d")), (other, name("g")), RenameMode::NoReplace);
        assert_eq!(way(&book, file).as_deref(), Some("e/g/f"));
        assert_eq!(book.see(other, name("g"), DIR), dir);
        assert_ne!(book.see(ROOT, name("d"), DIR), dir);
        book.moved((ROOT, name("d")), (ROOT, name("e")), RenameMode::Exchange);
        assert_eq!(way(&book, file).as_deref(), Some("d/g/f"));
        let over = book.see(ROOT, name("over"), DIR);
        book.moved((ROOT, name("d")), (ROOT, name("over")), RenameMode::Replace);
        assert!(book.places(over).is_empty());
        assert_eq!(way(&book, file).as_deref(), Some("over/g/f"));
    }

    #[test]
    fn what_has_several_names_is_one_object_under_those_that_are_left() {
        let mut book = Book::new(2);
        let linked = Looks { is_linked: true, ..FILE };
        let number = book.see(ROOT, name("a"), FILE);
        assert_eq!(book.see(ROOT, name("a"), linked), number, "it got another name");
        assert_eq!(book.see(ROOT, name("b"), linked), number);
        assert_eq!(book.see_entry(ROOT, name("b"), Kind::File, FILE.real), number);
        book.linked(number, ROOT, name("c"), linked);
        assert_eq!(book.places(number).len(), 3);
        book.left(ROOT, name("b"));
        book.left(ROOT, name("c"));
        assert_eq!(book.see(ROOT, name("a"), FILE), number, "it lost its other names");
        assert_eq!(way(&book, number).as_deref(), Some("a"));
        book.moved((ROOT, name("a")), (ROOT, name("c")), RenameMode::NoReplace);
        assert_eq!(way(&book, number).as_deref(), Some("c"));
        let other = Looks { real: 80, ..linked };
        assert_ne!(book.see(ROOT, name("c"), other), number, "another one has come there");
    }

    #[test]
    fn what_comes_to_a_name_of_several_is_another_object() {
        let mut book = Book::new(2);
        let linked = Looks { is_linked: true, ..FILE };
        let number = book.see(ROOT, name("a"), linked);
        assert_eq!(book.see(ROOT, name("b"), linked), number);
        // Somebody has removed a, and made it anew.
        let new = book.see(ROOT, name("a"), Looks { real: 80, ..FILE });
        assert_ne!(new, number);
        assert_eq!(book.see(ROOT, name("c"), linked), number);
        book.left(ROOT, name("c"));
        assert_eq!(book.see(ROOT, name("b"), FILE), number);
        assert_eq!(way(&book, number).as_deref(), Some("b"));
    }
}
