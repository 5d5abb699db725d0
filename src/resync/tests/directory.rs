//! On real directories: one leg has seen all of it, the other has lost all of it.

use std::sync::Arc;

use super::scenarios::{all, base};
use super::world::{Medium, World, assert_equal, tree};
use crate::legs::directory::DirectoryLeg;
use crate::legs::{LegId, PerLeg};
use crate::resync::Scope;

/// Removed when dropped.
pub struct Ground {
    _dir: tempfile::TempDir,
    pub legs: PerLeg<Arc<DirectoryLeg>>,
}

/// Two legs with the base tree, and an empty bitmap.
pub fn ground() -> (Ground, Medium) {
    let dir = tempfile::tempdir().unwrap();
    let legs = PerLeg::from_fn(|id| {
        let path = dir.path().join(id.to_string());
        for area in ["incoming", "parked", "conflicts"] {
            std::fs::create_dir_all(path.join(".mirrorfs").join(area)).unwrap();
        }
        Arc::new(DirectoryLeg::open(&path, id).unwrap())
    });
    let world = World::new(legs.clone(), &Medium::new());
    base(&world);
    world.settle();
    (Ground { _dir: dir, legs }, Medium::new())
}

fn resyncs_what_one_leg_lost(scope: Scope) {
    for (name, scenario) in all() {
        for (source, changed) in LegId::ALL.into_iter().flat_map(|s| LegId::ALL.map(|c| (s, c))) {
            let (ground, medium) = ground();
            let mut world = World::new(ground.legs.clone(), &medium);
            world.only(changed);
            scenario(&world);
            let bitmap = if scope == Scope::Everything { Medium::new() } else { medium };
            let world = World::new(ground.legs.clone(), &bitmap);
            let before = tree(&*ground.legs[source]);
            let what = format!("{name}; changed on {changed}, source {source}");
            world.resync(source, scope).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(tree(&*ground.legs[source]), before, "{what}: the source was changed");
            assert_equal(&world, &what);
        }
    }
}

#[test]
fn the_bitmap_is_enough_to_make_the_legs_equal() {
    resyncs_what_one_leg_lost(Scope::Dirty);
}

#[test]
fn without_a_bitmap_everything_is_compared_and_made_equal() {
    resyncs_what_one_leg_lost(Scope::Everything);
}
