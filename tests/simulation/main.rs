//! The mirror on simulated legs, crashed at every step.
//!
//! ```text
//!   world    two disks with their bitmaps and superblocks; how they are mounted, what a crash does
//!   client   random operations, checked as they go; model, shared: what they may find afterwards
//!   check    disks against the model, leg against leg; reads: what a resync may look at
//!   run      one seed from beginning to end
//!   filling  new disks are filled while clients are at work, and take legs' places
//!   hanging  a leg that answers late, and the daemon's part in that
//!   histories: legs mounted without each other, or put back from an old image
//!   coarse   too few slots while a leg is away
//!   mending  what one leg cannot read is written anew
//!   broken   each order rule broken on purpose is found
//! ```
//!
//! `MIRRORFS_SIM_SEED` says where to begin, `MIRRORFS_SIM_SECONDS` how long `runs_of_every_kind` goes on
//! (`scripts/simulate` sets them), `MIRRORFS_SIM_RUNS` how many runs there are of the tests that have a share of their own.
//! With `RUST_LOG=trace` a replay tells every change of a leg.

mod broken;
mod check;
mod client;
mod coarse;
mod faults;
mod filling;
mod hanging;
mod histories;
mod mending;
mod model;
mod reads;
mod run;
mod shared;
mod world;

use std::time::{Duration, Instant};

use run::{Counts, Setup, run};
use world::Broken;

/// Runs of the test suite's fixed share.
const SHARE: u64 = 400;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn add(total: &mut Counts, one: Counts) {
    total.runs += one.runs;
    total.kills += one.kills;
    total.power_cuts += one.power_cuts;
    total.clean += one.clean;
    total.steps += one.steps;
    total.spared += one.spared;
}

#[test]
fn whatever_happens_the_legs_become_equal_and_nothing_promised_is_lost() {
    let first = number_from("MIRRORFS_SIM_SEED").unwrap_or(1);
    let mut total = Counts::default();
    for seed in first..first + SHARE {
        let setup = if seed.is_multiple_of(4) { Setup::of_births(seed) } else { Setup::of_seed(seed) };
        match run(setup) {
            Ok(counts) => add(&mut total, counts),
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    println!("{total}; {} renames without a slot", total.spared);
    assert!(total.spared > SHARE / 4, "{} renames without a slot in {} runs", total.spared, total.runs);
}

/// One run of any kind; in every eighth legs are mounted without each other.
fn run_of_any_kind(seed: u64) -> Result<Counts, String> {
    if seed.is_multiple_of(8) {
        return histories::run(seed, Broken::nothing()).map(|_| Counts { runs: 1, ..Counts::default() });
    }
    run(faults::of_any_kind(seed))
}

#[test]
fn runs_of_every_kind() {
    let _ = env_logger::builder().format_timestamp(None).try_init();
    let first = number_from("MIRRORFS_SIM_SEED").unwrap_or(1);
    let time = number_from("MIRRORFS_SIM_SECONDS").map(Duration::from_secs);
    let started = Instant::now();
    let mut total = Counts::default();
    for seed in first.. {
        match run_of_any_kind(seed) {
            Ok(counts) => add(&mut total, counts),
            Err(what) => panic!("seed {seed}: {what}\nreplay: scripts/simulate --seed {seed} --seconds 0"),
        }
        if time.map_or(total.runs >= SHARE, |time| started.elapsed() >= time) {
            break;
        }
    }
    let crashes = (total.kills + total.power_cuts) as f64 / started.elapsed().as_secs_f64();
    println!("{total}; {crashes:.0} crashes a second, seeds from {first}");
}

#[test]
fn a_crash_at_every_step_of_a_mount_is_recovered_from() {
    let first = number_from("MIRRORFS_SIM_SEED").unwrap_or(1);
    for seed in first..first + 2 {
        for step in 1.. {
            let setup = Setup { first_crash: Some(step), mounts: 1, ..Setup::of_seed(seed) };
            match run(setup) {
                Ok(counts) if counts.first_finished => break,
                Ok(_) => {}
                Err(what) => panic!("seed {seed}, crash at step {step}: {what}"),
            }
        }
    }
}

#[test]
fn a_seed_replays_its_run_exactly() {
    for seed in 1..20 {
        let trace = |seed| run(Setup::of_seed(seed)).map(|counts| (counts.trace, counts.steps));
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}
