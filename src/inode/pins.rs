//! A bounded cache of what is kept for a directory: the pinned directory itself, so that a path of hot directories is
//! not reopened at every request, or its listing. Files are not kept: a pinned file would hold its space after its
//! last unlink.
//!
//! Two generations: what is used moves to the young one; when that is full, the old one is dropped
//! and the young one becomes old. Bounded, and no list to maintain.

use std::collections::HashMap;

use crate::legs::LegId;
use crate::sync::{Mutex, Rank};

/// Which object of which leg. The second number tells objects apart that had one inode number in turn.
pub type Key = (u64, u64, LegId);

/// The cache. Holds at most twice `half` nodes.
pub struct Pins<N> {
    half: usize,
    /// Guards both generations; nothing is opened or closed under it but what falls out.
    generations: Mutex<[HashMap<Key, N>; 2]>,
}

impl<N: Clone> Pins<N> {
    /// An empty cache for `capacity` nodes.
    pub fn new(capacity: usize) -> Self {
        let generations = Mutex::new(Rank::Pins, [HashMap::new(), HashMap::new()]);
        Pins { half: (capacity / 2).max(1), generations }
    }

    /// The node, if it is here.
    pub fn get(&self, ino: u64, generation: u64, leg: LegId) -> Option<N> {
        let key = (ino, generation, leg);
        let mut generations = self.generations.lock();
        if let Some(node) = generations[0].get(&key) {
            return Some(node.clone());
        }
        let node = generations[1].remove(&key)?;
        let dropped = Self::add(&mut generations, self.half, key, node.clone());
        drop(generations);
        drop(dropped);
        Some(node)
    }

    /// Keeps a node.
    pub fn put(&self, ino: u64, generation: u64, leg: LegId, node: N) {
        self.put_while(|| true, (ino, generation, leg), node);
    }

    /// Keeps a node if it `is_still` one of that leg: asked under the lock under which the leg's are taken out.
    pub fn put_while(&self, is_still: impl Fn() -> bool, (ino, generation, leg): Key, node: N) {
        let mut generations = self.generations.lock();
        if !is_still() {
            return;
        }
        let dropped = Self::add(&mut generations, self.half, (ino, generation, leg), node);
        drop(generations);
        drop(dropped);
    }

    /// Lets go of an object's nodes on both legs.
    pub fn forget(&self, ino: u64, generation: u64) {
        let mut gone = Vec::new();
        let mut generations = self.generations.lock();
        for leg in LegId::ALL {
            for map in generations.iter_mut() {
                gone.extend(map.remove(&(ino, generation, leg)));
            }
        }
        drop(generations);
        drop(gone);
    }

    /// Takes all nodes of a leg out, for the caller to let go of.
    pub fn take_leg(&self, leg: LegId) -> [HashMap<Key, N>; 2] {
        let mut generations = self.generations.lock();
        generations.each_mut().map(|map| {
            let (gone, kept) = std::mem::take(map).into_iter().partition(|((_, _, of), _)| *of == leg);
            *map = kept;
            gone
        })
    }

    /// Drops what has not been used since the last call but one.
    pub fn age(&self) {
        let mut generations = self.generations.lock();
        let young = std::mem::take(&mut generations[0]);
        let dropped = std::mem::replace(&mut generations[1], young);
        drop(generations);
        drop(dropped);
    }

    /// Adds to the young generation; returns what falls out, to be closed without the lock.
    fn add(generations: &mut [HashMap<Key, N>; 2], half: usize, key: Key, node: N) -> HashMap<Key, N> {
        let mut dropped = HashMap::new();
        if generations[0].len() >= half {
            let young = std::mem::take(&mut generations[0]);
            dropped = std::mem::replace(&mut generations[1], young);
        }
        generations[0].insert(key, node);
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_than_its_capacity_and_keeps_what_is_used() {
        let pins = Pins::new(8);
        pins.put(1, 0, LegId::A, 1);
        for ino in 2..100 {
            pins.put(ino, 0, LegId::A, ino);
            assert_eq!(pins.get(1, 0, LegId::A), Some(1), "the one in use stays");
            let held: usize = pins.generations.lock().iter().map(HashMap::len).sum();
            assert!(held <= 8, "{held} held");
        }
        assert_eq!(pins.get(2, 0, LegId::A), None, "the ones not used go");
    }

    #[test]
    fn what_is_used_does_not_grow_old() {
        let pins = Pins::new(8);
        pins.put(1, 0, LegId::A, 1);
        pins.put(2, 0, LegId::A, 2);
        for _ in 0..3 {
            pins.age();
            assert_eq!(pins.get(1, 0, LegId::A), Some(1));
        }
        assert_eq!(pins.get(2, 0, LegId::A), None);
    }

    #[test]
    fn forgetting_lets_go_on_both_legs() {
        let pins = Pins::new(8);
        for leg in LegId::ALL {
            pins.put(1, 0, leg, 1);
        }
        pins.forget(1, 0);
        for leg in LegId::ALL {
            assert_eq!(pins.get(1, 0, leg), None);
        }
    }
}
