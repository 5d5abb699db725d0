//! Which object of the source is which object of the target. Pure.
//!
//! The slots of the bitmap tell it for every object that was moved, linked or changed; the resync
//! adds what it builds. An object without a slot has only its name to go by.
//!
//! Invariant: nothing here is contradictory. One object of a leg has one partner at most, and its
//! partner has it. [`Pairs::from_slots`] refuses slots of which that is not true.

use std::collections::HashMap;

use crate::legs::{Identity, LegId, PerLeg, Stat};

/// The known pairs, to be asked from either side.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    all: Vec<PerLeg<Identity>>,
    by_ino: PerLeg<HashMap<u64, Vec<usize>>>,
}

impl Pairs {
    /// From the identities of slots. `None` when they contradict each other: one object of a leg
    /// would have two partners.
    pub fn from_slots(pairs: impl IntoIterator<Item = PerLeg<Identity>>) -> Option<Pairs> {
        let mut known = Pairs::default();
        for pair in pairs {
            if pair.iter().any(|(_, identity)| !identity.is_known()) || known.agrees(&pair)? {
                continue;
            }
            known.insert(pair);
        }
        Some(known)
    }

    /// Whether the pair is known already; `None` if it contradicts one that is.
    fn agrees(&self, pair: &PerLeg<Identity>) -> Option<bool> {
        let mut found = false;
        for (leg, identity) in pair.iter() {
            if let Some(partner) = self.partner(leg, identity) {
                if !partner.is_same(&pair[leg.other()]) {
                    return None;
                }
                found = true;
            }
        }
        Some(found)
    }

    /// Adds a pair, in place of whatever either side was paired with before.
    pub fn insert(&mut self, pair: PerLeg<Identity>) {
        for (leg, identity) in pair.iter() {
            if let Some(at) = self.position(leg, identity) {
                for (other_leg, old) in self.all[at].iter() {
                    if let Some(positions) = self.by_ino[other_leg].get_mut(&old.ino) {
                        positions.retain(|&position| position != at);
                    }
                }
            }
        }
        let at = self.all.len();
        self.all.push(pair);
        for (leg, identity) in pair.iter() {
            self.by_ino[leg].entry(identity.ino).or_default().push(at);
        }
    }

    /// What the object `identity` of `leg` is on the other leg.
    pub fn partner(&self, leg: LegId, identity: &Identity) -> Option<Identity> {
        self.position(leg, identity).map(|at| self.all[at][leg.other()])
    }

    /// What has a partner, by its number on this leg.
    pub fn all_of(&self, leg: LegId) -> impl Iterator<Item = u64> + '_ {
        self.by_ino[leg].iter().filter(|(_, positions)| !positions.is_empty()).map(|(&ino, _)| ino)
    }

    fn position(&self, leg: LegId, identity: &Identity) -> Option<usize> {
        let positions = self.by_ino[leg].get(&identity.ino)?;
        positions.iter().copied().find(|&at| self.all[at][leg].is_same(identity))
    }
}

/// A name as one leg has it.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub identity: Identity,
    pub stat: Stat,
}

/// Whether two objects under one name in one directory may stay under it, to be made equal where
/// they are. `source` is the leg that `s` is on.
///
/// Two objects of which neither is in a pair correspond: either they are the same object, which
/// nothing has touched since the legs were last alike, or at least one was born here since. Then all of both is
/// compared, unless that one was never written to.
pub(super) fn correspond(pairs: &Pairs, source: LegId, s: &Child, t: &Child) -> bool {
    if s.stat.kind != t.stat.kind || s.stat.rdev != t.stat.rdev {
        return false;
    }
    match (pairs.partner(source, &s.identity), pairs.partner(source.other(), &t.identity)) {
        (Some(partner), _) => partner.is_same(&t.identity),
        (None, Some(_)) => false,
        (None, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::{Handle, Kind, Timestamp};

    fn bare(ino: u64) -> Identity {
        Identity { ino, handle: None }
    }

    fn handled(ino: u64, generation: u8) -> Identity {
        Identity { ino, handle: Handle::new(1, &[generation]) }
    }

    fn child(identity: Identity, kind: Kind) -> Child {
        let zero = Timestamp::default();
        let stat = Stat {
            ino: identity.ino,
            kind,
            mode: 0,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 4096,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: None,
        };
        Child { identity, stat }
    }

    #[test]
    fn the_same_number_with_another_handle_is_another_object() {
        let pairs =
            Pairs::from_slots([PerLeg::new(handled(1, 1), bare(9)), PerLeg::new(handled(1, 2), bare(8))]);
        let pairs = pairs.expect("no contradiction");
        assert_eq!(pairs.partner(LegId::A, &handled(1, 2)), Some(bare(8)));
        assert_eq!(pairs.partner(LegId::B, &bare(9)), Some(handled(1, 1)));
        assert_eq!(pairs.partner(LegId::A, &handled(1, 3)), None);
    }

    #[test]
    fn two_partners_for_one_object_are_a_contradiction() {
        assert!(Pairs::from_slots([PerLeg::new(bare(1), bare(9)), PerLeg::new(bare(1), bare(8))]).is_none());
        assert!(Pairs::from_slots([PerLeg::new(bare(1), bare(9)), PerLeg::new(bare(2), bare(9))]).is_none());
        assert!(Pairs::from_slots([PerLeg::new(bare(1), bare(9)), PerLeg::new(bare(1), bare(9))]).is_some());
    }

    #[test]
    fn a_new_partner_takes_the_place_of_the_old_one() {
        let mut pairs = Pairs::from_slots([PerLeg::new(bare(1), bare(9))]).expect("no contradiction");
        pairs.insert(PerLeg::new(bare(1), bare(8)));
        assert_eq!(pairs.partner(LegId::A, &bare(1)), Some(bare(8)));
        assert_eq!(pairs.partner(LegId::B, &bare(9)), None);
    }

    #[test]
    fn objects_correspond_by_pair_and_else_by_name_alone() {
        let pairs = Pairs::from_slots([PerLeg::new(bare(1), bare(9))]).expect("no contradiction");
        // (ino on A, ino on B, correspond)
        for (a, b, expected) in [(1, 9, true), (1, 8, false), (2, 9, false), (2, 8, true)] {
            let (s, t) = (child(bare(a), Kind::File), child(bare(b), Kind::File));
            assert_eq!(correspond(&pairs, LegId::A, &s, &t), expected, "{a} on A, {b} on B");
            assert_eq!(correspond(&pairs, LegId::B, &t, &s), expected, "{b} on B is the source");
        }
        let (file, fifo) = (child(bare(1), Kind::File), child(bare(9), Kind::Fifo));
        assert!(!correspond(&pairs, LegId::A, &file, &fifo));
    }
}
