//! On simulated legs: the power goes during the scenario, and again at every step of the resync.

use std::sync::Arc;

use super::scenarios::{Scenario, all, base};
use super::world::{Medium, Quiet, World, assert_equal, tree};
use crate::legs::simulated::{Call, SimDisk, SimLeg};
use crate::legs::{Leg, LegId, PerLeg};
use crate::resync::{Outcome, Progress, Resync, Scope};
use crate::sim::rng::Rng;

/// Two disks and the bitmap, as a crash leaves them.
struct Wreck {
    disks: PerLeg<SimDisk>,
    medium: Medium,
    rng: Rng,
}

impl Wreck {
    /// The power goes at some time while the legs have not yet kept all of the scenario.
    fn of(scenario: &Scenario<SimLeg>, seed: u64, handles: bool) -> Wreck {
        let mut rng = Rng::new(seed);
        let disks = PerLeg::from_fn(SimDisk::new);
        let leg = |id| SimLeg::new(id, disks[id].clone());
        let legs =
            || PerLeg::from_fn(|id| Arc::new(if handles { leg(id) } else { leg(id).without_handles() }));
        let world = World::new(legs(), &Medium::new());
        base(&world);
        world.settle();
        let medium = Medium::new();
        (scenario.1)(&World::new(legs(), &medium));
        let mut wreck = Wreck { disks: disks.clone(), medium, rng: rng.fork() };
        wreck.crash();
        wreck
    }

    fn crash(&mut self) {
        for id in LegId::ALL {
            if self.rng.one_in(4) {
                self.disks[id].survive_kill()
            } else {
                self.disks[id].survive_power_cut(&mut self.rng)
            }
        }
    }

    /// The next mount. Its legs refuse all changes after `allowed` of them.
    fn mount(&self, handles: bool, allowed: u64) -> World<SimLeg> {
        let legs = PerLeg::from_fn(|id| {
            let mut left = allowed;
            let leg = SimLeg::new(id, self.disks[id].clone()).with_faults(Box::new(move |_, call| {
                let looks =
                    matches!(call, Call::Lookup | Call::Stat | Call::ReadDir | Call::Read | Call::Open);
                if looks {
                    return None;
                }
                left = left.saturating_sub(1);
                (left == 0).then_some(libc::EIO)
            }));
            Arc::new(if handles { leg } else { leg.without_handles() })
        });
        World::new(legs, &self.medium)
    }
}

/// Crashes a resync after `allowed` changes, once more after some, then lets it finish. False if the
/// first one came to its end.
fn survives(scenario: &Scenario<SimLeg>, seed: u64, allowed: u64, source: LegId, handles: bool) -> bool {
    let mut wreck = Wreck::of(scenario, seed, handles);
    let what =
        format!("{}; seed {seed}, {allowed} changes allowed, source {source}, handles {handles}", scenario.0);
    let crashed = wreck.mount(handles, allowed).resync(source, Scope::Dirty).is_err();
    wreck.crash();
    let again = 1 + wreck.rng.below(30);
    let _ = wreck.mount(handles, again).resync(source, Scope::Dirty);
    wreck.crash();
    let world = wreck.mount(handles, u64::MAX);
    let before = tree(&*world.legs[source]);
    world.resync(source, Scope::Dirty).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(tree(&*world.legs[source]), before, "{what}: the source was changed");
    assert_equal(&world, &what);
    crashed
}

#[test]
fn a_crash_at_any_step_of_the_resync_is_harmless() {
    for scenario in all() {
        for seed in 0..2 {
            for source in LegId::ALL {
                let mut allowed = 1;
                while survives(&scenario, seed, allowed, source, true) {
                    allowed += 1;
                }
            }
        }
    }
}

#[test]
fn what_the_power_cut_left_is_made_equal() {
    for scenario in all() {
        for seed in 100..110 {
            for source in LegId::ALL {
                survives(&scenario, seed, u64::MAX, source, true);
            }
        }
    }
}

#[test]
fn without_handles_a_number_used_again_misleads_nobody() {
    for scenario in all() {
        for seed in 200..210 {
            for source in LegId::ALL {
                survives(&scenario, seed, 1 + seed * 7 % 60, source, false);
            }
        }
    }
}

/// From then on what was born under a cover may be moved out of its reach.
#[test]
fn what_a_watermark_stood_for_is_durable_on_both_legs_before_changes_are_let_in() {
    for seed in 0..100 {
        let (disks, medium) = (PerLeg::from_fn(SimDisk::new), Medium::new());
        let legs = || PerLeg::from_fn(|id| Arc::new(SimLeg::new(id, disks[id].clone())));
        let world = World::new(legs(), &medium);
        world.bitmap.note_births(PerLeg::from_fn(|id| world.legs[id].birth_now().unwrap()));
        world.file("f", &[1; 5000]);
        drop(world);
        LegId::ALL.into_iter().for_each(|id| disks[id].survive_kill());

        let world = World::new(legs(), &medium);
        let progress = Progress::default();
        let resync = Resync::new(&world.legs, &world.bitmap, LegId::A, Scope::Dirty, &Quiet, &progress);
        assert_eq!(resync.namespace_and_metadata().unwrap(), Outcome::Done);
        drop(resync);
        drop(world);
        let mut rng = Rng::new(seed);
        LegId::ALL.into_iter().for_each(|id| disks[id].survive_power_cut(&mut rng));
        let [a, b] = LegId::ALL.map(|id| tree(&SimLeg::new(id, disks[id].clone())));
        assert!(a == b, "seed {seed}");
    }
}
