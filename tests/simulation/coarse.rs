//! A bitmap that is too small for what changes while a leg is away, crashed at every step of that.
//!
//! What must not be forgotten is one file, and that a directory's slot comes to stand for it happens once in a while:
//! in the runs by chance of `faults` both hardly ever meet.

use std::sync::Arc;

use mirrorfs::legs::LegId;
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, End, Plan, Rule};
use mirrorfs::sync::{Mutex, Rank};

use crate::check;
use crate::histories::{Left, Op, content_of, use_it};
use crate::model::Crash;
use crate::run::prepare;
use crate::world::{Broken, World};

/// The leg that is away.
const AWAY: LegId = LegId::B;

const DIRS: [&str; 3] = ["/d0", "/d1", "/d2"];
const FILES: u64 = 6;

/// One run: files are made on both legs, changed on one by a mirror that dies at this step, perhaps changed again,
/// and made equal. True if that step never came.
fn run(seed: u64, rule: Option<Rule>, step: u64) -> Result<bool, String> {
    let mut rng = Rng::new(seed);
    let slots = 8 + rng.below(5) as usize;
    let world = Arc::new(World::new(!rng.one_in(4), Broken::nothing(), Some(slots)));
    prepare(&world)?;
    let calm = Plan { broken: rule, ..Plan::calm(seed) };
    mount(&world, None, first(seed.is_multiple_of(2)), calm)?;
    let crashing = Plan { crash_at: Some(step), ..calm };
    let crashed = mount(&world, Some(AWAY), changes(&world, 24, &mut rng), crashing)? == End::Crashed;
    if crashed {
        let crash = *rng.pick(&[Crash::Kill, Crash::PowerCut]);
        world.survive(crash, &mut rng);
        if rng.one_in(2) {
            mount(&world, Some(AWAY), changes(&world, 6, &mut rng), calm)?;
        }
    }
    mount(&world, None, Vec::new(), calm)?;
    check::equal(&world)?;
    Ok(!crashed)
}

/// All files; perhaps each with a name in another directory that stays.
fn first(linked: bool) -> Vec<Op> {
    let mut ops = Vec::new();
    for (number, dir) in DIRS.iter().enumerate() {
        let other = DIRS[(number + 1) % DIRS.len()];
        for file in 0..FILES {
            let path = format!("{dir}/f{file}");
            ops.push(Op::Put(path.clone(), 1));
            ops.extend(linked.then(|| Op::Link(path, format!("{other}/l{file}"))));
        }
    }
    ops
}

/// So many changes of what the leg that is there holds.
fn changes(world: &World, count: u64, rng: &mut Rng) -> Vec<Op> {
    let mut content = content_of(&world.disk(AWAY.other()).live());
    let first = content.values().max().map_or(1, |tag| tag + 1);
    let next = |tag| {
        let files: Vec<String> = content.keys().cloned().collect();
        let op = match rng.one_in(3) || files.is_empty() {
            true => Op::by_chance((&DIRS, FILES), &content, tag, rng),
            false => Op::Put(rng.pick(&files).clone(), tag),
        };
        op.apply(&mut content);
        op
    };
    (first..first + count).map(next).collect()
}

fn mount(world: &Arc<World>, missing: Option<LegId>, ops: Vec<Op>, plan: Plan) -> Result<End, String> {
    let left = Arc::new(Mutex::new(Rank::Leaf, Left::default()));
    let report = scheduler::run(plan, {
        let (world, left) = (world.clone(), left.clone());
        move || use_it(&world, missing, ops, &left)
    });
    let refused = left.lock().refused.take();
    match (refused, report.end) {
        (None, end @ (End::Finished | End::Crashed)) => Ok(end),
        (refused, end) => Err(format!("{refused:?}, {end:?}")),
    }
}

#[test]
fn a_crash_at_every_step_of_a_mount_that_has_too_few_slots_is_recovered_from() {
    for seed in 0..20 {
        for step in 1000.. {
            match run(seed, None, step) {
                Ok(false) => {}
                Ok(true) => break,
                Err(what) => panic!("seed {seed}, step {step}: {what}"),
            }
        }
    }
}

#[test]
fn what_is_forgotten_when_slots_are_folded_is_found() {
    for rule in [Rule::CoarseFirst, Rule::MarkedWhole, Rule::MovedKept, Rule::OverflowSaid] {
        let found = (0..3000).find_map(|seed| {
            // By then slots are folded into directories that had none.
            let step = 20 + seed % 50;
            let found = run(seed, Some(rule), step).err()?;
            run(seed, None, step).ok()?;
            Some(format!("{rule:?}: seed {seed}, step {step}: {found}"))
        });
        println!("{}", found.unwrap_or_else(|| panic!("{rule:?} is not found")));
    }
}
