//! Which leg gave an error, and for what: asked after the fact, of what was being worked on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use super::Sides;
use crate::legs::{Identity, Kind, Leg, LegId, OpenMode, PerLeg};

/// A leg that does not answer as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which.
    pub leg: LegId,
    /// Of what: its inode number on the source. `None`: of its root, or of all.
    pub source_ino: Option<u64>,
}

/// The leg that gives an error now for what can be read of this object, or of its root, the source asked first.
pub(super) fn find<L: Leg>(sides: Sides<'_, L>, ids: Option<&PerLeg<Identity>>) -> Option<Trouble> {
    let legs = [sides.source, sides.target()];
    let troubled = |leg: &LegId| match ids {
        Some(ids) => sides.find(*leg, &ids[*leg]).and_then(|node| look(sides.leg(*leg), node)).is_err(),
        None => false,
    };
    let of_object = legs.into_iter().find(troubled).zip(ids.map(|ids| ids[sides.source].ino));
    let of_root = || legs.into_iter().find(|&leg| look(sides.leg(leg), Some(sides.leg(leg).root())).is_err());
    of_object
        .map(|(leg, ino)| Trouble { leg, source_ino: Some(ino) })
        .or_else(|| of_root().map(|leg| Trouble { leg, source_ino: None }))
}

fn look<L: Leg>(leg: &L, node: Option<L::Node>) -> io::Result<()> {
    let Some(node) = node else { return Ok(()) };
    leg.list_xattr(&node)?;
    match leg.stat(&node)?.kind {
        Kind::Directory => {
            for entry in leg.read_dir(&node)? {
                leg.lookup(&node, &entry.name)?;
            }
            Ok(())
        }
        Kind::File => leg.open(&node, OpenMode { read: true, write: false, direct: false }).map(drop),
        _ => Ok(()),
    }
}

/// A path from the leg's root for each of these inode numbers, as far as they are found before
/// `stop_requested`. Walks the leg.
pub fn places_of<L: Leg>(
    leg: &L,
    wanted: &BTreeSet<u64>,
    stop_requested: impl Fn() -> bool,
) -> BTreeMap<u64, PathBuf> {
    let mut found = BTreeMap::new();
    // Not the directories themselves: of these only so many can be open.
    let mut dirs = vec![PathBuf::new()];
    while let Some(path) = dirs.pop() {
        if found.len() == wanted.len() || stop_requested() {
            break;
        }
        let dir = path.iter().try_fold(leg.root(), |dir, name| leg.child(&dir, name));
        for entry in dir.and_then(|dir| leg.read_dir(&dir)).unwrap_or_default() {
            let path = path.join(&entry.name);
            if wanted.contains(&entry.ino) {
                found.insert(entry.ino, path.clone());
            }
            if entry.kind == Kind::Directory {
                dirs.push(path);
            }
        }
    }
    found
}
