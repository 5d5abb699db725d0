//! Each order rule, broken on purpose, is found: a proof that cannot fail proves nothing.
//!
//! What breaks a rule sits at the seams (a store or leg that lies, a lock that does not exclude), so
//! the code that keeps the rules is the one that ships. The rules about faults (O4, P10) are in
//! `faults`, what superblocks mean in `histories` (O8), new legs in `filling`.

use mirrorfs::legs::LegId;
use mirrorfs::legs::simulated::Flaw;
use mirrorfs::sim::scheduler::Rule;

use crate::client::Mix;
use crate::run::{Setup, run};
use crate::world::Broken;

/// Within so many seeds a broken rule must show.
const ENOUGH: u64 = 3000;

/// The first thing found with this broken. A seed that finds fault with a sound mirror as well proves
/// nothing and does not count.
fn finds(broken: Broken) -> Option<String> {
    finds_that(broken, Mix::Everything, |_| true)
}

fn finds_that(broken: Broken, mix: Mix, wanted: impl Fn(&str) -> bool) -> Option<String> {
    (1..ENOUGH).find_map(|seed| {
        let sound = Setup { mix, ..Setup::of_seed(seed) };
        let found = run(Setup { broken, ..sound }).err().filter(|found| wanted(found))?;
        run(sound).ok()?;
        println!("{broken:?}: seed {seed}: {found}");
        Some(found)
    })
}

fn leg(leg: LegId, flaw: Flaw) -> Broken {
    let mut broken = Broken::nothing();
    broken.legs[leg] = flaw;
    broken
}

#[test]
fn bits_that_are_not_durable_before_the_change_are_found() {
    assert!(finds(Broken { bitmap_lies: true, ..Broken::nothing() }).is_some(), "O1");
}

#[test]
fn a_reply_before_both_legs_are_done_is_found() {
    for id in LegId::ALL {
        assert!(finds(leg(id, Flaw::WritesLate)).is_some(), "O2 on {id}");
    }
}

#[test]
fn bits_cleared_over_legs_that_are_not_durable_are_found() {
    for id in LegId::ALL {
        for flaw in [Flaw::ClearsUnsynced, Flaw::ClearsEarly] {
            assert!(finds(leg(id, flaw)).is_some(), "O3: {flaw:?} on {id}");
        }
    }
}

#[test]
fn an_fsync_that_does_nothing_on_one_leg_is_found() {
    for id in LegId::ALL {
        assert!(finds(leg(id, Flaw::NeverSyncs)).is_some(), "P2 on {id}");
    }
}

#[test]
fn reads_from_a_leg_that_is_being_made_equal_are_found() {
    assert!(finds(Broken { rule: Some(Rule::ReadFromSource), ..Broken::nothing() }).is_some(), "P4");
}

#[test]
fn writes_that_reach_the_legs_in_two_orders_are_found() {
    let broken = Broken { rule: Some(Rule::ObjectLock), ..Broken::nothing() };
    let found =
        finds_that(broken, Mix::SharedFiles, |found| found.contains("data") || found.contains("grain"));
    assert!(found.is_some(), "O5");
}

#[test]
fn directories_locked_in_the_order_of_the_request_are_found() {
    let broken = Broken { rule: Some(Rule::LockOrder), ..Broken::nothing() };
    assert!(finds_that(broken, Mix::Renames, |found| found.contains("Deadlock")).is_some(), "O6");
}

#[test]
fn what_is_deleted_instead_of_parked_is_found() {
    assert!(finds(leg(LegId::B, Flaw::ParkingDeletes)).is_some(), "O7");
}

#[test]
fn what_was_born_under_a_cover_and_is_not_compared_is_found() {
    let broken = Broken { rule: Some(Rule::BornCompared), ..Broken::nothing() };
    assert!(finds(broken).is_some());
}

#[test]
fn a_birth_that_only_the_target_tells_and_that_is_not_counted_is_found() {
    let broken = Broken { rule: Some(Rule::EitherBirth), ..Broken::nothing() };
    let found = (1..ENOUGH).find_map(|seed| {
        let found = run(Setup { broken, ..Setup::of_births(seed) }).err()?;
        run(Setup::of_births(seed)).ok()?;
        Some(format!("seed {seed}: {found}"))
    });
    println!("{}", found.expect("what the source has lost is taken for what it has"));
}
