//! A new disk is filled while clients change what it is filled from, and takes the place of a leg that serves or is away;
//! or a leg that was away is filled so, and serves again.
//!
//! At any step the machine dies, a leg fails or is taken out, the new disk fails or is full, the mirror is unmounted. What
//! is modelled here is what the daemon's `Served` does: one leg is taken in or replaced at a time, a new disk is given
//! a superblock first, and one that has not become a leg may be given again, with what it has got.

use std::sync::Arc;

use mirrorfs::inode::Ino;
use mirrorfs::legs::simulated::Call;
use mirrorfs::legs::timed::Calls;
use mirrorfs::legs::{LegId, Make, PerLeg};
use mirrorfs::ops::{LegState, Mirror};
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, End, Plan, Rule, Spawned};

use crate::check::{self, Verdict};
use crate::client::{CREATOR, Mix, SHARED_DIRS};
use crate::faults::{CHANGES, all_of, first_found, share};
use crate::hanging::is_given_up;
use crate::run::{Counts, Setup, prepare, run, spawn};
use crate::world::{Blames, Broken, Fault, Mounted, TestLeg, World};

/// What a sound mirror may say of a replacement that has not come to its end.
const EXCUSES: [&str; 3] = ["Device or resource busy", "out of service", "unmounted"];

/// Replaces legs every now and then, and takes one in that is away.
pub fn begin(world: &Arc<World>, mirror: &Arc<Mirror<TestLeg>>, mut rng: Rng, unsound: bool) -> Spawned {
    let world = world.clone();
    spawn(mirror, move |mirror| {
        for _ in 0..1 + rng.below(3) {
            (0..rng.below(100)).for_each(|_| scheduler::pause());
            let _one_at_a_time = world.take_turn();
            let is_away = |&leg: &LegId| matches!(mirror.leg_state(leg), LegState::Lost(_));
            match LegId::ALL.into_iter().find(is_away) {
                Some(leg) if rng.one_in(2) => comes_back(&world, mirror, leg, rng.one_in(2), unsound),
                away => replace(&world, mirror, away.unwrap_or(*rng.pick(&LegId::ALL)), &mut rng, unsound),
            }
        }
    })
}

/// At once, or when it is equal: the daemon chooses that where everything is to be compared anyway.
pub fn comes_back(world: &World, mirror: &Mirror<TestLeg>, leg: LegId, filled: bool, unsound: bool) {
    let returning = world.returning(leg, None).unwrap_or_else(|why| panic!("{why}"));
    if filled || mirror.is_to_be_filled(&returning) {
        return after_filling(mirror, leg, mirror.fill(returning), unsound);
    }
    match mirror.take_in(returning) {
        Ok(()) => mirror.resync(),
        Err(error) => assert!(unsound || error.raw_os_error() == Some(libc::EROFS), "not taken in: {error}"),
    }
}

fn replace(world: &World, mirror: &Mirror<TestLeg>, leg: LegId, rng: &mut Rng, unsound: bool) {
    let fault = rng.one_in(4).then(|| {
        let calls = [Call::Make, Call::Write, Call::Rename, Call::Attributes, Call::Sync, Call::Lookup];
        let errno = *rng.pick(&[libc::EIO, libc::ENOSPC]);
        Fault { leg, call: *rng.pick(&calls), after: rng.below(12), errno, for_good: true }
    });
    let again = rng.one_in(2);
    let replaced = mirror.fill(world.replacement_with(leg, fault, again));
    world.settle();
    after_filling(mirror, leg, replaced, unsound || fault.is_some());
}

pub fn after_filling(mirror: &Mirror<TestLeg>, leg: LegId, filled: Result<(), String>, unsound: bool) {
    match filled {
        Ok(()) => mirror.resync(),
        Err(why) => {
            let is_excused = EXCUSES.iter().any(|excuse| why.contains(excuse));
            assert!(is_excused || unsound, "leg {leg} is not filled: {why}");
            log::debug!("leg {leg} is not filled: {why}");
        }
    }
}

fn filling(seed: u64) -> Setup {
    let mix = if seed.is_multiple_of(3) { Mix::Renames } else { Mix::Everything };
    Setup { filling: true, without: seed.is_multiple_of(2), mix, ..Setup::of_seed(600_000 + seed) }
}

#[test]
fn a_new_disk_that_is_filled_while_clients_are_at_work_is_equal_or_no_leg() {
    let Counts { replaced, kills, power_cuts, .. } = all_of((0..share(400)).map(filling));
    println!("{replaced} replaced, {kills} kills, {power_cuts} power cuts");
    assert!(replaced > 40 && kills > 200 && power_cuts > 200, "{replaced}, {kills}, {power_cuts}");
}

#[test]
fn a_leg_that_fails_while_a_new_disk_is_filled_is_recovered_from() {
    for leg in LegId::ALL {
        let setups = (0..share(100)).map(|seed| {
            let mut rng = Rng::new(seed);
            let (call, errno) = (*rng.pick(&CHANGES), *rng.pick(&[libc::EIO, libc::ENOSPC]));
            let fault = Fault { leg, call, after: rng.below(20), errno, for_good: rng.one_in(2) };
            Setup { faults: [Some(fault), None], ..filling(1000 + seed) }
        });
        all_of(setups);
    }
}

#[test]
fn a_crash_at_every_step_of_a_replacement_is_recovered_from() {
    let seed = 2000;
    for step in 1.. {
        match run(Setup { first_crash: Some(step), mounts: 1, ..filling(seed) }) {
            Ok(counts) if counts.first_finished => break,
            Ok(_) => {}
            Err(what) => panic!("seed {seed}, crash at step {step}: {what}"),
        }
    }
}

/// On the legs named numbers do not last, and one look in so many (0: none) finds that one has been forgotten.
fn fleeting(legs: &'static [LegId], forgets_one_in: u64, runs: u64) -> impl Iterator<Item = Setup> {
    (5000..5000 + runs).map(move |seed| {
        let fleeting = PerLeg::from_fn(|leg| legs.contains(&leg).then_some(forgets_one_in));
        Setup { fleeting, ..filling(seed) }
    })
}

#[test]
fn legs_whose_numbers_do_not_last_are_filled_and_replaced() {
    for (legs, forgets_one_in) in
        [&[LegId::A][..], &[LegId::B], &LegId::ALL].into_iter().flat_map(|legs| [(legs, 0), (legs, 6)])
    {
        let setups = fleeting(legs, forgets_one_in, share(60));
        let Counts { replaced, kills, power_cuts, .. } = all_of(setups);
        assert!(replaced > 4 && kills > 30 && power_cuts > 30, "{replaced}, {kills}, {power_cuts}");
    }
}

#[test]
fn other_names_of_what_is_known_by_its_place_that_are_passed_over_are_found() {
    let broken = Broken { rule: Some(Rule::AllNames), ..Broken::nothing() };
    println!("{}", first_found(fleeting(&[LegId::B], 0, 6000), broken).expect("it is found"));
}

#[test]
fn a_change_while_a_leg_that_was_filled_takes_its_place_is_found() {
    let broken = Broken { rule: Some(Rule::GateLock), ..Broken::nothing() };
    let found = first_found((0..3000).map(|seed| filling(3000 + seed)), broken);
    println!("{}", found.expect("what is changed then comes to one leg only"));
}

/// The leg that is replaced here: reads are served from it.
const OLD: LegId = LegId::A;

/// Whether a new disk takes the place of a leg and serves from then on, with what is done beside it. `fault`: of the
/// old leg.
fn replaced_beside(
    seed: u64,
    rule: Option<Rule>,
    fault: Option<Fault>,
    beside: impl FnOnce(&Mirror<TestLeg>, &PerLeg<Calls>) + Send + 'static,
) -> Verdict {
    let world = Arc::new(World::new(true, Broken::nothing(), None));
    prepare(&world)?;
    world.may_fail(OLD);
    let plan = Plan { broken: rule, switch_one_in: 64, ..Plan::calm(seed) };
    let report = scheduler::run(plan, {
        let world = world.clone();
        move || {
            let mounted = world.mount(fault.as_slice(), None).expect("it is mounted");
            let Mounted { mirror, calls, .. } = mounted;
            mirror.set_herald(Arc::new(Blames(world.clone())));
            let beside = spawn(&mirror, move |mirror| beside(mirror, &calls));
            mirror.fill(world.replacement(OLD, None)).expect("it is taken in");
            mirror.resync();
            beside.join();
            change_everywhere(&mirror);
            mirror.stop();
            (0..4).for_each(|_| mirror.sweep());
            mirror.close().expect("it is unmounted");
        }
    });
    if report.end != End::Finished {
        return Err(format!("{:?}", report.end));
    }
    world.settle();
    world.take_wronged().map_or(Ok(()), Err)?;
    check::equal(&world)?;
    match world.dirty_slots() {
        0 => Ok(()),
        slots => Err(format!("unmounted cleanly with {slots} dirty slots")),
    }
}

/// A new file in each directory.
fn change_everywhere(mirror: &Mirror<TestLeg>) {
    for dir in SHARED_DIRS {
        let at = match dir.strip_prefix('/') {
            Some(name) => mirror.lookup(Ino::ROOT, name.as_ref()).expect("it is there").attr.ino,
            None => Ino::ROOT,
        };
        mirror.make(at, "after".as_ref(), Make::File { mode: 0o644 }, CREATOR).expect("it is made");
    }
}

/// Names are looked up all the time in directories that nobody has looked into.
fn looked_up_beside(seed: u64) -> Verdict {
    replaced_beside(seed, None, None, |mirror, _| {
        for number in 0..60 {
            let dir = SHARED_DIRS[1 + number % (SHARED_DIRS.len() - 1)];
            let dir = mirror.lookup(Ino::ROOT, dir[1..].as_ref()).expect("it is there").attr.ino;
            let _none = mirror.lookup(dir, format!("none{number}").as_ref());
            mirror.forget(dir, 1);
        }
    })
}

/// Bits are cleared all the time, until the old leg fails at a sync.
fn swept_beside(seed: u64, rule: Option<Rule>) -> Verdict {
    let fault = Fault { leg: OLD, call: Call::Sync, after: seed % 16, errno: libc::EIO, for_good: true };
    replaced_beside(seed, rule, Some(fault), |mirror, _| {
        for number in 0..8 {
            let name = format!("new{number}");
            let what = Make::File { mode: 0o644 };
            mirror.make(Ino::ROOT, name.as_ref(), what, CREATOR).expect("it is made");
            (0..3).for_each(|_| mirror.sweep());
        }
    })
}

/// Names are looked up all the time, until the old leg fails at that.
fn read_beside(seed: u64) -> Verdict {
    let fault =
        Fault { leg: OLD, call: Call::Lookup, after: 20 + seed % 64, errno: libc::EIO, for_good: true };
    replaced_beside(seed, None, Some(fault), |mirror, _| {
        for _ in 0..60 {
            let found = mirror.lookup(Ino::ROOT, "d0".as_ref()).expect("the other leg answers");
            mirror.forget(found.attr.ino, 1);
        }
    })
}

/// The old leg is found hanging at some time, and again.
fn found_hanging_beside(seed: u64, rule: Option<Rule>, tells_who: bool) -> Verdict {
    replaced_beside(seed, rule, None, move |mirror, calls| {
        let is_given_up = is_given_up(&calls[OLD]);
        let mut rng = Rng::new(seed);
        for _ in 0..2 {
            (0..rng.below(300)).for_each(|_| scheduler::pause());
            mirror.leg_hangs(OLD, || tells_who && is_given_up());
        }
    })
}

#[test]
fn a_new_leg_is_not_left_behind_for_what_the_old_one_did() {
    for seed in 0..200 {
        swept_beside(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        looked_up_beside(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        read_beside(seed).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        found_hanging_beside(seed, None, true).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn what_an_old_leg_did_and_is_held_against_the_new_one_is_found() {
    let ways: [(&str, &dyn Fn(u64) -> Verdict); 3] = [
        ("sweeps", &|seed| swept_beside(seed, Some(Rule::AskedLeg))),
        ("being left behind", &|seed| found_hanging_beside(seed, Some(Rule::FaultsAreOver), true)),
        ("hanging", &|seed| found_hanging_beside(seed, None, false)),
    ];
    for (what, is_well) in ways {
        let found = (0..2000).find_map(|seed| Some(format!("seed {seed}: {}", is_well(seed).err()?)));
        println!("{what}: {}", found.unwrap_or_else(|| panic!("{what}")));
    }
}

#[test]
fn a_leg_that_was_filled_and_not_synced_is_found() {
    let broken = Broken { rule: Some(Rule::FilledSynced), ..Broken::nothing() };
    let found = first_found((0..6000).map(|seed| filling(9000 + seed)), broken);
    println!("{}", found.expect("a power cut takes it back"));
}

/// A new leg has no names at first: nobody may look for them there who came in before it did.
#[test]
fn a_directory_is_synced_while_a_new_leg_is_taken_in() {
    for seed in 0..40 {
        let world = Arc::new(World::new(true, Broken::nothing(), None));
        prepare(&world).expect("it is made");
        let report = scheduler::run(Plan::calm(seed), move || {
            let mirror = world.mount(&[], Some(LegId::B)).expect("it is mounted").mirror;
            let dir = mirror.lookup(Ino::ROOT, "d0".as_ref()).expect("it is there").attr.ino;
            let syncs = spawn(&mirror, move |mirror| {
                (0..40).for_each(|_| mirror.fsyncdir(dir).expect("it is synced"));
            });
            mirror.fill(world.replacement(LegId::B, None)).expect("it is taken in");
            mirror.resync();
            syncs.join();
            mirror.stop();
        });
        assert_eq!(report.end, End::Finished, "seed {seed}");
    }
}
