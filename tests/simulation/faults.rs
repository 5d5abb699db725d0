//! A leg that fails a call, or is full: the mirror says so on the other leg first (O8), clears nothing
//! any more (O4), and the next mount makes the legs equal from the one that did not fail.

use mirrorfs::legs::simulated::{Call, Flaw};
use mirrorfs::legs::{LegId, PerLeg};
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::Rule;

use crate::client::Mix;
use crate::number_from;
use crate::run::{Counts, Setup, run};
use crate::world::{Broken, Fault};

pub const CHANGES: [Call; 9] = [
    Call::Make,
    Call::Link,
    Call::Unlink,
    Call::Rename,
    Call::Attributes,
    Call::Xattr,
    Call::Truncate,
    Call::Write,
    Call::Fallocate,
];

/// Runs with faults of this errno at these calls, for each leg in turn.
fn try_all(errno: i32, calls: &[Call], seeds: u64) {
    for leg in LegId::ALL {
        for (number, &call) in calls.iter().enumerate() {
            for seed in 0..seeds {
                let mut rng = Rng::new(seed);
                let fault = Fault { leg, call, after: rng.below(12), errno, for_good: rng.one_in(2) };
                let seed = 1000 * (number as u64 + 1) + seed;
                let setup = Setup { faults: [Some(fault), None], mounts: 2, ..Setup::of_seed(seed) };
                if let Err(what) = run(setup) {
                    panic!("seed {seed}, {fault:?}: {what}");
                }
            }
        }
    }
}

#[test]
fn a_leg_that_fails_is_stale_at_the_next_mount_and_nothing_is_cleared_before() {
    try_all(libc::EIO, &CHANGES, 12);
    try_all(libc::EIO, &[Call::Sync, Call::Open, Call::Lookup, Call::Stat, Call::Read, Call::ReadDir], 12);
}

#[test]
fn a_full_leg_leaves_both_as_they_were() {
    let calls =
        [Call::Make, Call::Link, Call::Rename, Call::Xattr, Call::Truncate, Call::Write, Call::Fallocate];
    try_all(libc::ENOSPC, &calls, 12);
    try_all(libc::EDQUOT, &calls, 6);
}

/// Runs in which a leg cannot write what the mirror keeps on it, and most of which need that: the other leg fails, too,
/// or is taken out.
fn cannot_write(call: Call, seeds: u64) {
    for leg in LegId::ALL {
        let Counts { not_mounted, read_only, .. } = all_of((0..share(seeds)).map(|seed| {
            let mut rng = Rng::new(seed);
            let mut fault = |leg, call, within| Fault {
                leg,
                call,
                after: rng.below(within),
                errno: libc::EIO,
                for_good: !rng.one_in(4),
            };
            let own = fault(leg, call, 6);
            let call = if seed % 3 == 0 { Call::Mark } else { CHANGES[seed as usize % CHANGES.len()] };
            let other = (seed % 4 > 0).then(|| fault(leg.other(), call, 4));
            let first_crash = rng.one_in(2).then_some(u64::MAX);
            let faults = [Some(own), other];
            Setup { faults, first_crash, verbs: rng.one_in(3), mounts: 2, ..Setup::of_seed(60_000 + seed) }
        }));
        println!("{call:?} on leg {leg}: {not_mounted} mounts refused, {read_only} ended read-only");
        assert!(read_only > seeds / 20, "on leg {leg}: {not_mounted}, {read_only}");
    }
}

#[test]
fn a_leg_whose_bitmap_cannot_be_written_is_left_behind_and_the_last_one_loses_nothing() {
    cannot_write(Call::Mark, 150);
}

#[test]
fn what_cannot_be_recorded_in_a_superblock_is_not_acknowledged() {
    cannot_write(Call::Record, 200);
}

/// Runs in which a leg fails one of the calls, or is full.
fn failing(errno: i32, runs: u64) -> impl Iterator<Item = Setup> {
    (40_000..40_000 + runs).map(move |seed| {
        let mut rng = Rng::new(seed);
        let (leg, call) = (*rng.pick(&LegId::ALL), *rng.pick(&CHANGES));
        let fault = Fault { leg, call, after: rng.below(12), errno, for_good: rng.one_in(2) };
        Setup { faults: [Some(fault), None], mounts: 2, ..Setup::of_seed(seed) }
    })
}

#[test]
fn bits_that_are_cleared_while_a_leg_is_away_are_found() {
    let broken = Broken { rule: Some(Rule::BitsKept), ..Broken::nothing() };
    println!("{}", first_found(failing(libc::EIO, 2000), broken).expect("O4"));
}

#[test]
fn what_one_leg_has_no_room_for_and_the_other_keeps_is_found() {
    let broken = Broken { rule: Some(Rule::TakenBack), ..Broken::nothing() };
    println!("{}", first_found(failing(libc::ENOSPC, 2000), broken).expect("P10"));
}

#[test]
fn what_cannot_be_undone_is_not_forgotten() {
    for seed in 0..60 {
        let full =
            Fault { leg: LegId::B, call: Call::Make, after: seed % 5, errno: libc::ENOSPC, for_good: true };
        let failing = Fault { leg: LegId::A, call: Call::Rename, after: 0, errno: libc::EIO, for_good: true };
        let setup = Setup { faults: [Some(full), Some(failing)], mounts: 2, ..Setup::of_seed(seed) };
        if let Err(what) = run(setup) {
            panic!("seed {seed}, {full:?}, {failing:?}: {what}");
        }
    }
}

#[test]
fn a_leg_that_fails_comes_back_or_is_replaced_while_the_mirror_is_in_use() {
    for leg in LegId::ALL {
        for (number, &call) in CHANGES.iter().enumerate() {
            for seed in 0..20 {
                let mut rng = Rng::new(seed);
                let fault = Fault { leg, call, after: rng.below(6), errno: libc::EIO, for_good: true };
                let seed = 50_000 + 100 * (number as u64 + 1) + seed;
                let setup = Setup { faults: [Some(fault), None], without: true, ..Setup::of_seed(seed) };
                if let Err(what) = run(setup) {
                    panic!("seed {seed}, {fault:?}: {what}");
                }
            }
        }
    }
}

/// Such as the source, from which the other one is being made equal, and which cannot be left behind.
#[test]
fn a_leg_that_fails_while_legs_are_taken_out_and_in_leaves_nothing_unequal() {
    for leg in LegId::ALL {
        for (number, &call) in CHANGES.iter().enumerate() {
            // A new object is given the other one's times.
            let seeds = if call == Call::Attributes { 120 } else { 8 };
            all_of((0..share(seeds)).map(|seed| {
                let mut rng = Rng::new(seed);
                let fault =
                    Fault { leg, call, after: rng.below(8), errno: libc::EIO, for_good: rng.one_in(2) };
                let seed = 40_000 + 1000 * number as u64 + seed;
                let sound = Setup { first_crash: Some(u64::MAX), mounts: 1, ..Setup::of_seed(seed) };
                Setup { faults: [Some(fault), None], verbs: true, ..sound }
            }));
        }
    }
}

/// Sectors become bad while clients are at work, in mounts that crash, also while they are written anew: nobody
/// reads old or wrong data, and when the disk can be read again the legs become equal.
#[test]
fn bad_sectors_never_give_old_data_and_the_legs_become_equal() {
    for leg in LegId::ALL {
        for seed in 0..400 {
            let without = seed % 3 == 0;
            let mix = if seed % 2 == 0 { Mix::SharedFiles } else { Mix::Everything };
            let sound = Setup::of_seed(70_000 + seed);
            let setup = Setup { bad_sectors: Some(leg), without, mix, mounts: 4, ..sound };
            if let Err(what) = run(setup) {
                panic!("seed {}, bad sectors on {leg}: {what}", setup.seed);
            }
        }
    }
}

/// Among them those in which a range is neither what it was nor what it is to be.
#[test]
fn a_crash_at_every_step_of_mending_is_recovered_from() {
    for leg in LegId::ALL {
        for seed in 90_000..90_005 {
            for step in 1.. {
                let sound = Setup::of_seed(seed);
                let setup = Setup { bad_sectors: Some(leg), first_crash: Some(step), mounts: 1, ..sound };
                match run(setup) {
                    Ok(counts) if counts.first_finished => break,
                    Ok(_) => {}
                    Err(what) => panic!("seed {seed}, bad sectors on {leg}, crash at step {step}: {what}"),
                }
            }
        }
    }
}

#[test]
fn legs_that_are_not_there_at_a_mount_come_back_or_are_replaced() {
    let mut replaced = 0;
    for seed in 0..900 {
        let setup = Setup { without: true, mounts: 5, ..Setup::of_seed(seed) };
        match run(setup) {
            Ok(counts) => replaced += counts.replaced,
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    // A new disk is a leg when it is complete: many a crash comes before that.
    assert!(replaced > 50, "only {replaced} legs were replaced");
}

/// What one leg calls by a name the other one may have called so as well, before it went.
#[test]
fn names_that_are_given_anew_while_a_leg_is_away_are_those_of_the_new_ones() {
    for seed in 0..300 {
        let crowded = (seed % 2 == 0).then_some(4 + (seed % 9) as usize);
        let setup = Setup { without: true, crowded, mounts: 5, ..Setup::of_births(800_000 + seed) };
        if let Err(what) = run(setup) {
            panic!("seed {}: {what}", setup.seed);
        }
    }
}

/// Room for few slots while a leg is away, so that directories' slots come to stand for what lies in them.
fn crowded(seed: u64) -> Setup {
    let slots = Some(4 + (seed % 9) as usize);
    Setup { without: true, mounts: 5, crowded: slots, ..Setup::of_seed(700_000 + seed) }
}

#[test]
fn a_bitmap_that_is_full_while_a_leg_is_away_forgets_nothing() {
    let (mut coarse, mut everything) = (0, 0);
    for seed in 0..500 {
        match run(crowded(seed)) {
            Ok(counts) => {
                coarse += counts.coarse;
                everything += counts.everything;
            }
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    println!("{coarse} mounts ended with a covered directory, {everything} with everything to compare");
    assert!(coarse > 10 && everything > 20, "both are tried: {coarse} and {everything}");
}

#[test]
fn a_bitmap_that_is_full_when_a_leg_has_failed_forgets_nothing() {
    for leg in LegId::ALL {
        for seed in 0..150 {
            let call = CHANGES[(seed % CHANGES.len() as u64) as usize];
            let fault = Fault { leg, call, after: seed % 5, errno: libc::EIO, for_good: true };
            let setup = Setup { faults: [Some(fault), None], ..crowded(seed) };
            if let Err(what) = run(setup) {
                panic!("seed {seed}, {fault:?}: {what}");
            }
        }
    }
}

/// A run of the kind that the seed says: each is one of which a test here, or in `filling`, has its share.
pub fn of_any_kind(seed: u64) -> Setup {
    let sound = Setup::of_seed(seed);
    let mut rng = Rng::new(seed);
    let leg = *rng.pick(&LegId::ALL);
    let mut fault = |calls: &[Call], errno, within| Fault {
        leg,
        call: *rng.pick(calls),
        after: rng.below(within),
        errno,
        for_good: rng.one_in(2),
    };
    let without = (seed / KINDS).is_multiple_of(2);
    let slots = Some(4 + (seed / KINDS % 9) as usize);
    match seed % KINDS {
        0 => sound,
        1 => Setup::of_births(seed),
        2 => Setup { faults: [Some(fault(&CHANGES, libc::EIO, 12)), None], mounts: 2, ..sound },
        3 => Setup { faults: [Some(fault(&CHANGES, libc::ENOSPC, 12)), None], mounts: 2, ..sound },
        4 => Setup { without: true, mounts: 5, ..sound },
        5 => Setup { verbs: true, without, mounts: 4, ..sound },
        6 => Setup { filling: true, without, ..sound },
        7 => Setup { filling: true, without, faults: [Some(fault(&CHANGES, libc::EIO, 20)), None], ..sound },
        8 => Setup { hanging: true, mounts: 4, ..sound },
        9 => Setup { without: true, mounts: 5, crowded: slots, ..sound },
        10 => Setup { without: true, mounts: 5, crowded: slots, ..Setup::of_births(seed) },
        11 => Setup { fleeting: PerLeg::from_fn(|one| (one == leg).then_some(0)), without, ..sound },
        12 => Setup { bad_sectors: Some(leg), without, mounts: 4, ..sound },
        _ => Setup {
            faults: [
                Some(fault(&[Call::Mark, Call::Record], libc::EIO, 6)),
                Some(Fault { leg: leg.other(), ..fault(&CHANGES, libc::EIO, 4) }),
            ],
            mounts: 2,
            ..sound
        },
    }
}

/// Of [`of_any_kind`].
const KINDS: u64 = 14;

/// All of these runs, or what is wrong with the first few of them.
pub fn all_of(setups: impl Iterator<Item = Setup>) -> Counts {
    let _ = env_logger::builder().format_timestamp(None).try_init();
    let (mut total, mut wrong) = (Counts::default(), Vec::new());
    for setup in setups {
        match run(setup) {
            Ok(counts) => {
                total.not_mounted += counts.not_mounted;
                total.read_only += counts.read_only;
                total.late += counts.late;
                total.replaced += counts.replaced;
                total.kills += counts.kills;
                total.power_cuts += counts.power_cuts;
                total.given_up += counts.given_up;
                total.taken_in += counts.taken_in;
            }
            Err(what) => wrong.push(format!("seed {}: {what}", setup.seed)),
        }
    }
    assert!(wrong.is_empty(), "{} runs failed: {}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
    total
}

/// How many runs, if not as many as usual.
pub fn share(usual: u64) -> u64 {
    number_from("MIRRORFS_SIM_RUNS").unwrap_or(usual)
}

/// The first of these runs in which something is found when it is broken so, and nothing when it is not.
pub fn first_found(setups: impl Iterator<Item = Setup>, broken: Broken) -> Option<String> {
    setups.filter_map(|sound| Some((sound, run(Setup { broken, ..sound }).err()?))).find_map(
        |(sound, found)| {
            run(sound).ok()?;
            Some(format!("{broken:?}: seed {}: {found}", sound.seed))
        },
    )
}

/// On the legs named numbers do not last, as on FUSE filesystems.
fn fleeting(legs: &'static [LegId], runs: u64) -> impl Iterator<Item = Setup> {
    (850_000..850_000 + runs).map(|seed| {
        let fleeting = PerLeg::from_fn(|leg| legs.contains(&leg).then_some(0));
        Setup { fleeting, without: seed % 2 == 0, ..Setup::of_seed(seed) }
    })
}

#[test]
fn legs_whose_numbers_do_not_last_become_equal() {
    for legs in [&[LegId::A][..], &[LegId::B], &LegId::ALL] {
        all_of(fleeting(legs, share(40)));
    }
}

#[test]
fn a_leg_that_says_its_numbers_last_and_they_do_not_is_found() {
    for legs in [&[LegId::A][..], &[LegId::B]] {
        let mut broken = Broken::nothing();
        legs.iter().for_each(|&leg| broken.legs[leg] = Flaw::SeemsToLast);
        println!("{}", first_found(fleeting(legs, 2000), broken).expect("it is found"));
    }
}

#[test]
fn legs_that_are_taken_out_and_in_and_replaced_at_random_become_equal() {
    let setup = |seed| Setup { verbs: true, without: seed % 2 == 0, mounts: 4, ..Setup::of_seed(seed) };
    let Counts { replaced, kills, power_cuts, .. } = all_of((900_000..900_000 + share(100)).map(setup));
    assert!(replaced > 20 && kills > 50 && power_cuts > 50, "{replaced}, {kills}, {power_cuts}");
}

fn hanging(runs: u64) -> impl Iterator<Item = Setup> {
    (800_000..800_000 + runs).map(|seed| Setup { hanging: true, mounts: 4, ..Setup::of_seed(seed) })
}

/// In a mount that does not crash one change hangs for long.
fn late_changes(runs: u64) -> impl Iterator<Item = Setup> {
    hanging(runs).map(|setup| Setup { late_change: true, first_crash: Some(u64::MAX), mounts: 1, ..setup })
}

/// What hangs does what it was told late, after everything that was done meanwhile: nobody waits for it too long,
/// and it harms nothing.
#[test]
fn a_leg_that_hangs_is_left_behind_and_what_it_does_late_harms_nothing() {
    all_of(late_changes(share(30)));
    let Counts { late, given_up, taken_in, .. } = all_of(hanging(share(200)));
    println!("{late} calls hung, {given_up} legs were given up, {taken_in} were taken in again");
    assert!(late > 40 && given_up > 10 && taken_in > 3, "{late}, {given_up}, {taken_in}");
}

#[test]
fn guards_against_what_a_leg_does_late_are_found_when_they_are_broken() {
    for rule in [Rule::TakenWhenQuiet, Rule::CountedUntilBack] {
        let broken = Broken { rule: Some(rule), ..Broken::nothing() };
        println!("{}", first_found(late_changes(2000), broken).unwrap_or_else(|| panic!("{rule:?}")));
    }
}
