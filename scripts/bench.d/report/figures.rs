//! What follows from the samples: medians, spreads, ratios, which goals are reached, what an operation
//! costs. Pure.

use std::collections::BTreeMap;

use crate::loads::{Goal, Load, Reference};
use crate::run::Run;

pub const MIRRORFS: &str = "mirrorfs";

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub median: f64,
    /// Half the distance between the lowest and the highest round, as a part of the median.
    pub spread: f64,
}

/// Nothing without a sample.
pub fn figure(samples: &[f64]) -> Option<Figure> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lowest, highest) = (sorted.first()?, sorted.last()?);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    let spread = if median > 0.0 { (highest - lowest) / 2.0 / median } else { 0.0 };
    Some(Figure { median, spread })
}

pub fn of_peer(run: &Run, load: &Load, peer: &str) -> Option<Figure> {
    figure(run.rates(&load.name, peer))
}

/// How much of the reference mirrorfs reaches. Nothing unless all of its peers have been measured: half
/// of "the better of two" would make the goal easier.
pub fn ratio(run: &Run, load: &Load, of: Reference) -> Option<f64> {
    let mirrorfs = of_peer(run, load, MIRRORFS)?.median;
    let peers: Option<Vec<f64>> =
        of.peers().iter().map(|peer| of_peer(run, load, peer).map(|figure| figure.median)).collect();
    let best = peers?.into_iter().fold(0.0, f64::max);
    (best > 0.0).then(|| mirrorfs / best)
}

/// The ratio as it is printed decides, so that no table says "0.90, and 0.9 is missed".
pub fn reached(ratio: f64, goal: Goal) -> bool {
    (ratio * 100.0).round() / 100.0 >= goal.factor
}

/// Each goal of the run's loads that could be judged, and whether it was reached.
pub fn judged(run: &Run) -> Vec<(&Load, Goal, bool)> {
    let goals = run.loads.iter().flat_map(|load| load.goals.iter().map(move |goal| (load, *goal)));
    goals
        .filter_map(|(load, goal)| ratio(run, load, goal.of).map(|ratio| (load, goal, reached(ratio, goal))))
        .collect()
}

/// What an operation of a load costs the daemon.
pub struct Cost<'run> {
    pub operations: f64,
    /// FUSE requests by kind; none where the daemon does not count them.
    pub requests: Vec<(&'run str, f64)>,
    /// In all rounds together, as these are few.
    pub flushes: f64,
    pub cpu_seconds: f64,
    pub peak_mib: f64,
}

pub fn cost<'run>(run: &'run Run, load: &Load) -> Option<Cost<'run>> {
    let counts = run.counts.get(&load.name)?;
    let count = |key: &str| counts.get(key).copied().unwrap_or(0.0);
    counts.get("cpu_ms")?;
    let requests = counts.iter().filter_map(|(key, value)| Some((key.strip_prefix("requests.")?, *value)));
    Some(Cost {
        operations: count("operations"),
        requests: often_first(requests, count("operations")),
        flushes: count("flushes"),
        cpu_seconds: count("cpu_ms") / 1000.0,
        peak_mib: count("peak_kib") / 1024.0,
    })
}

/// The load that measures a bare round trip.
const ROUND_TRIP: &str = "roundtrip";

/// What the kernel sends on nobody's time.
const NOT_WAITED_FOR: &[&str] = &["release", "forget", "batch_forget", "interrupt", "destroy"];

/// Which part of a load's time its round trips to the daemon take: requests that are waited for, times
/// what one costs that the daemon answers without doing anything. Nothing where one of the two was not
/// measured. More than all of it where requests are under way side by side.
pub fn round_trips(run: &Run, load: &Load) -> Option<f64> {
    let bare = figure(run.rates(ROUND_TRIP, MIRRORFS))?.median;
    let rate = of_peer(run, load, MIRRORFS)?.median;
    let requests = cost(run, load)?.requests;
    let waited_for = requests.iter().filter(|(kind, _)| !NOT_WAITED_FOR.contains(kind));
    Some(waited_for.map(|(_, each)| each).sum::<f64>() * rate / bare)
}

/// System calls that wait, allocate or talk to the kernel's FUSE device, and touch no leg. The daemon
/// writes to legs with offsets, never with `writev`.
const NOT_ON_LEGS: &[&str] = &[
    "brk",
    "capget",
    "capset",
    "clone3",
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getrandom",
    "gettid",
    "getuid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "read",
    "restart_syscall",
    "rseq",
    "rt_sigprocmask",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
    "umask",
    "unshare",
    "writev",
];

/// For each operation of a load: the system calls on the legs. Nothing where they were not traced.
pub fn on_legs<'run>(run: &'run Run, load: &Load) -> Option<Vec<(&'run str, f64)>> {
    let counts = run.counts.get(&load.name)?;
    counts.get("traced")?;
    let calls = run.syscalls.get(&load.name).into_iter().flatten();
    let on_legs = calls.filter(|(name, _)| !NOT_ON_LEGS.contains(&name.as_str()));
    let operations = counts.get("operations").copied().unwrap_or(0.0);
    Some(often_first(on_legs.map(|(name, count)| (name.as_str(), *count)), operations))
}

/// Counts for each operation, the most frequent first.
fn often_first<'run>(
    counts: impl Iterator<Item = (&'run str, f64)>,
    operations: f64,
) -> Vec<(&'run str, f64)> {
    let by_name: BTreeMap<&str, f64> = counts.collect();
    let mut each: Vec<_> =
        by_name.into_iter().map(|(name, count)| (name, count / operations.max(1.0))).collect();
    each.sort_by(|one, other| other.1.total_cmp(&one.1));
    each
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::of;

    #[test]
    fn medians_and_spreads() {
        for (samples, wanted) in [
            (&[][..], None),
            (&[5.0], Some((5.0, 0.0))),
            (&[3.0, 1.0], Some((2.0, 0.5))),
            (&[9.0, 1.0, 2.0], Some((2.0, 2.0))),
            (&[4.0, 1.0, 2.0, 3.0], Some((2.5, 0.6))),
            (&[0.0, 0.0], Some((0.0, 0.0))),
        ] {
            assert_eq!(
                figure(samples),
                wanted.map(|(median, spread)| Figure { median, spread }),
                "{samples:?}"
            );
        }
    }

    #[test]
    fn the_better_of_two_is_the_faster_one_and_needs_both() {
        let loads = "create | op/s | create | 0.9 better, 0.75 bare";
        let both = of(loads, [90.0, 90.0], &[("bindfs", [100.0, 100.0]), ("mergerfs", [60.0, 60.0])]);
        assert_eq!(ratio(&both, &both.loads[0], Reference::Better), Some(0.9));
        assert_eq!(ratio(&both, &both.loads[0], Reference::Bare), None);
        let one = of(loads, [90.0, 90.0], &[("mergerfs", [60.0, 60.0])]);
        assert_eq!(ratio(&one, &one.loads[0], Reference::Better), None);
    }

    #[test]
    fn a_goal_is_reached_by_the_ratio_as_printed() {
        for (ratio, reaches) in [(0.9, true), (0.896, true), (0.894, false), (2.0, true), (0.0, false)] {
            assert_eq!(reached(ratio, Goal { factor: 0.9, of: Reference::Bare }), reaches, "{ratio}");
        }
    }

    #[test]
    fn only_what_was_measured_is_judged() {
        let run =
            of("create | op/s | create | 0.9 better, 0.75 bare", [80.0, 80.0], &[("bare", [100.0, 100.0])]);
        let judged: Vec<(f64, bool)> =
            judged(&run).iter().map(|(_, goal, reached)| (goal.factor, *reached)).collect();
        assert_eq!(judged, [(0.75, true)]);
    }

    #[test]
    fn costs_are_for_one_operation() {
        let mut run = of("create | op/s | create |", [1.0, 1.0], &[]);
        assert!(cost(&run, &run.loads[0]).is_none());
        let counted = [
            ("operations", 100.0),
            ("cpu_ms", 500.0),
            ("requests.create", 100.0),
            ("requests.lookup", 200.0),
        ];
        run.counts.insert("create".to_owned(), counted.map(|(key, value)| (key.to_owned(), value)).into());
        let cost = cost(&run, &run.loads[0]).expect("it was counted");
        assert_eq!(cost.requests, [("lookup", 2.0), ("create", 1.0)]);
        assert_eq!(cost.cpu_seconds, 0.5);
    }

    #[test]
    fn round_trips_are_of_what_is_waited_for() {
        let loads = "create | op/s | create |\nroundtrip | op/s | a round trip |";
        let mut run = of(loads, [1000.0, 1000.0], &[]);
        let counted =
            [("operations", 10.0), ("cpu_ms", 1.0), ("requests.create", 5.0), ("requests.release", 900.0)];
        run.counts.insert("create".to_owned(), counted.map(|(key, value)| (key.to_owned(), value)).into());
        assert_eq!(round_trips(&run, &run.loads[0]), Some(0.5));
        assert_eq!(round_trips(&run, &run.loads[1]), None);
    }

    #[test]
    fn what_touches_no_leg_is_left_out() {
        let mut run = of("create | op/s | create |", [1.0, 1.0], &[]);
        run.counts.insert("create".to_owned(), [("operations".to_owned(), 10.0)].into());
        assert_eq!(on_legs(&run, &run.loads[0]), None);
        run.counts.insert(
            "create".to_owned(),
            [("operations".to_owned(), 10.0), ("traced".to_owned(), 1.0)].into(),
        );
        assert_eq!(on_legs(&run, &run.loads[0]), Some(vec![]));
        let calls = [("openat2", 20.0), ("futex", 500.0), ("writev", 30.0), ("statx", 40.0)];
        run.syscalls.insert("create".to_owned(), calls.map(|(name, count)| (name.to_owned(), count)).into());
        assert_eq!(on_legs(&run, &run.loads[0]), Some(vec![("statx", 4.0), ("openat2", 2.0)]));
    }
}
