//! Legs that are mounted without each other, and legs that are put back from an old image.
//!
//! ```text
//!   together     both legs, perhaps refused; alone: one of them; each may crash, also between two superblock writes
//!   put back     a leg is what it was before some mounts
//!   resolve      of legs that have diverged one is given up, perhaps in several attempts
//! ```
//!
//! The oracle keeps a [`Line`] for each leg: the acknowledged changes that it has, and the mounts that have been
//! recorded on it. Legs of which each has a change that the other lacks must be refused; legs of which one has been
//! recorded nothing that the other lacks must not; and never is a leg the source that lacks a change.
//!
//! Everything is the code that ships but for `resolve`, of which [`World::discard`] does the durable steps. What the
//! leg that is given up has alone must be found aside ever after, and until that is announced it must be in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use mirrorfs::inode::Ino;
use mirrorfs::legs::simulated::image::{Id, Image, Object, ROOT};
use mirrorfs::legs::{LegId, PerLeg, RenameMode};
use mirrorfs::ops::Mirror;
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, End, Plan, Rule};
use mirrorfs::superblock::{DivergentBecause, PeerState, Refusal, Work};
use mirrorfs::sync::{Mutex, Rank};

use crate::check::{self, Verdict};
use crate::client::{CREATOR, ROOT_CALLER, filled};
use crate::filling::comes_back;
use crate::model::{Crash, Tag};
use crate::run::prepare;
use crate::world::{Broken, Half, TestLeg, World};

/// The files that are changed, by path, with what fills them; 0 is an empty one.
pub type Content = BTreeMap<String, Tag>;

const LEN: u64 = 512;

/// One change, durable when it is acknowledged.
#[derive(Clone, Debug)]
pub enum Op {
    Put(String, Tag),
    Remove(String),
    Move(String, String),
    /// Another name. Not in histories: there a path is a file.
    Link(String, String),
}

impl Op {
    /// Of so many files in each of these directories.
    pub fn by_chance((dirs, files): (&[&str], u64), content: &Content, tag: Tag, rng: &mut Rng) -> Op {
        let mut path = || format!("{}/f{}", rng.pick(dirs), rng.below(files));
        let (one, other) = (path(), path());
        match rng.below(4) {
            0 if content.contains_key(&one) => Op::Remove(one),
            1 if content.contains_key(&one) && one != other => Op::Move(one, other),
            _ => Op::Put(one, tag),
        }
    }

    fn paths(&self) -> Vec<String> {
        match self {
            Op::Put(path, _) | Op::Remove(path) => vec![path.clone()],
            Op::Move(from, to) | Op::Link(from, to) => vec![from.clone(), to.clone()],
        }
    }

    pub fn apply(&self, content: &mut Content) {
        match self {
            Op::Put(path, tag) => drop(content.insert(path.clone(), *tag)),
            Op::Remove(path) => drop(content.remove(path)),
            Op::Move(from, to) => {
                let tag = content.remove(from);
                content.extend(tag.map(|tag| (to.clone(), tag)));
            }
            Op::Link(from, to) => drop(content.insert(to.clone(), content[from])),
        }
    }

    pub fn perform(&self, mirror: &Mirror<TestLeg>) -> io::Result<()> {
        let dirs = self.paths().into_iter().map(|path| in_directory(mirror, &path));
        let dirs = dirs.collect::<io::Result<Vec<_>>>()?;
        let (dir, name) = (dirs[0].0, OsStr::new(&dirs[0].1));
        match self {
            Op::Put(_, tag) => {
                let fh = match mirror.lookup(dir, name) {
                    Ok(found) => mirror.open(found.attr.ino, libc::O_RDWR, ROOT_CALLER)?,
                    Err(_) => mirror.create(dir, name, 0o644, CREATOR, libc::O_RDWR)?.1,
                };
                mirror.write(fh, &filled(*tag, LEN), 0, false)?;
                mirror.fsync(fh, false)?;
                mirror.release(fh);
            }
            Op::Remove(_) => mirror.unlink(dir, name)?,
            Op::Move(..) => {
                let (new_dir, new_name) = (dirs[1].0, OsStr::new(&dirs[1].1));
                mirror.rename(dir, name, new_dir, new_name, RenameMode::Replace)?;
            }
            Op::Link(..) => {
                let file = mirror.lookup(dir, name)?.attr.ino;
                mirror.link(file, dirs[1].0, OsStr::new(&dirs[1].1))?;
            }
        }
        dirs.iter().try_for_each(|(dir, _)| mirror.fsyncdir(*dir))
    }
}

fn in_directory(mirror: &Mirror<TestLeg>, path: &str) -> io::Result<(Ino, String)> {
    let (dir, name) = path.rsplit_once('/').unwrap_or_default();
    let dir = match dir.strip_prefix('/') {
        Some(dir) => mirror.lookup(Ino::ROOT, OsStr::new(dir))?.attr.ino,
        None => Ino::ROOT,
    };
    Ok((dir, name.to_owned()))
}

/// The files on a leg's disk that are changed.
pub fn content_of(image: &Image) -> Content {
    let is_ours = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with('f'));
    let tree = check::tree(image);
    let files = tree.iter().filter(|(path, _)| is_ours(path));
    let tag = |grains: check::Found| grains.map_or(Tag::MAX, |grains| grains.get(&0).copied().unwrap_or(0));
    files
        .filter_map(|(path, (_, file))| Some((path.clone(), tag(check::read_grains(file.content()?)))))
        .collect()
}

/// What the files hold that have been moved aside.
fn aside(image: &Image) -> BTreeSet<Tag> {
    let within = |dir: Id, name: &str| image.entry(&(dir, name.into())).expect("every leg has it");
    let lost = within(within(ROOT, ".mirrorfs"), "conflicts");
    let files =
        image.get(lost).into_iter().flat_map(Object::entries).filter_map(|(_, id)| image.get(id)?.content());
    files.filter_map(|content| check::read_grains(content).ok()?.get(&0).copied()).collect()
}

/// What a leg has.
#[derive(Clone, Default)]
struct Line {
    content: Content,
    /// Paths whose last change was not acknowledged: it may be there, and may go yet when the power does.
    loose: BTreeSet<String>,
    /// Acknowledged changes.
    changes: BTreeSet<Tag>,
    /// Mounts that its superblock knows of.
    mounts: BTreeSet<u64>,
}

/// What was met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub runs: u64,
    pub diverged: u64,
    pub stale: u64,
    pub put_back: u64,
    pub incomplete: u64,
    /// Everything was compared.
    pub compared: u64,
}

/// What a mount leaves behind.
#[derive(Default)]
pub struct Left {
    pub refused: Option<String>,
    done: Vec<Op>,
    pending: Option<Op>,
    /// The legs were equal, or the one was durable, and that was recorded.
    closed: bool,
}

struct Run {
    rng: Rng,
    rule: Option<Rule>,
    world: Arc<World>,
    lines: PerLeg<Line>,
    /// What must be found aside.
    aside: PerLeg<BTreeSet<Tag>>,
    backups: Vec<(LegId, Half, Line, BTreeSet<Tag>)>,
    /// The leg that is being made equal to the other one: it must not be used alone.
    incomplete: Option<LegId>,
    numbers: u64,
    met: Met,
}

/// Does one run.
pub fn run(seed: u64, broken: Broken) -> Result<Met, String> {
    let mut rng = Rng::new(seed);
    let world = Arc::new(World::new(!rng.one_in(4), broken, None));
    prepare(&world)?;
    let met = Met { runs: 1, ..Met::default() };
    let lines = PerLeg::from_fn(|_| Line::default());
    let aside = PerLeg::from_fn(|_| BTreeSet::new());
    let mut run = Run {
        rng,
        rule: broken.rule,
        world,
        lines,
        aside,
        backups: Vec::new(),
        incomplete: None,
        numbers: 0,
        met,
    };
    let favourite = *run.rng.pick(&LegId::ALL);
    for step in 0..3 + run.rng.below(6) {
        let leg = if run.rng.one_in(4) { favourite.other() } else { favourite };
        let (what, done) = match run.rng.below(8) {
            0..=2 => ("together", run.together(true)),
            3..=5 => ("alone", run.alone(leg)),
            6 => {
                run.back_up(leg);
                ("backup", Ok(()))
            }
            _ => {
                run.put_back();
                ("put back", Ok(()))
            }
        };
        log::debug!("step {step}: {what} {leg}: {done:?}");
        done.map_err(|wrong| format!("step {step}, {what} {leg}: {wrong}"))?;
    }
    run.together(false).map_err(|wrong| format!("the last mount: {wrong}"))?;
    run.at_the_end().map_err(|wrong| format!("in the end: {wrong}"))?;
    Ok(run.met)
}

impl Run {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn scheduled(&mut self, crashes: bool) -> Plan {
        let within = *self.rng.pick(&[6, 12, 60, 300]);
        let crash_at = (crashes && self.rng.one_in(2)).then(|| 1 + self.rng.below(within));
        let switch_one_in = *self.rng.pick(&[1, 4, 16]);
        Plan { seed: self.rng.bits(), crash_at, switch_one_in, broken: self.rule }
    }

    /// Mounts, changes what there is, and unmounts or crashes. `content` is what the source has.
    fn mount(&mut self, missing: Option<LegId>, content: &Content, crashes: bool) -> Result<Left, String> {
        let plan = self.scheduled(crashes);
        let (mut content, mut rng) = (content.clone(), self.rng.fork());
        let ops: Vec<Op> = (0..self.rng.below(6))
            .map(|_| {
                let op = Op::by_chance((&["", "/d0"], 4), &content, self.number(), &mut rng);
                op.apply(&mut content);
                op
            })
            .collect();
        let left = Arc::new(Mutex::new(Rank::Leaf, Left::default()));
        let report = scheduler::run(plan, {
            let (world, left) = (self.world.clone(), left.clone());
            move || use_it(&world, missing, ops, &left)
        });
        match report.end {
            End::Finished => {}
            End::Crashed => {
                let crash = *self.rng.pick(&[Crash::Kill, Crash::PowerCut]);
                log::debug!("{crash:?}");
                self.world.survive(crash, &mut self.rng);
            }
            other => return Err(format!("{other:?}")),
        }
        Ok(std::mem::take(&mut *left.lock()))
    }

    fn alone(&mut self, leg: LegId) -> Verdict {
        let before = self.world.superblock(leg);
        let content = self.lines[leg].content.clone();
        let left = self.mount(Some(leg.other()), &content, true)?;
        match (&left.refused, self.incomplete == Some(leg)) {
            (Some(refused), true) if refused.contains("Incomplete") => {
                self.met.incomplete += 1;
                return Ok(());
            }
            (None, false) => {}
            (refused, incomplete) => {
                return Err(format!("refused: {refused:?}, and it is incomplete: {incomplete}"));
            }
        }
        if self.world.superblock(leg) != before {
            let number = self.number();
            self.lines[leg].mounts.insert(number);
        }
        self.lines[leg].has_done(&left);
        LegId::ALL.into_iter().try_for_each(|leg| self.settle(leg))
    }

    fn together(&mut self, crashes: bool) -> Verdict {
        let knows =
            |this: &Self, leg: LegId| this.lines[leg].mounts.is_superset(&this.lines[leg.other()].mounts);
        let has_all =
            |this: &Self, leg: LegId| this.lines[leg].changes.is_superset(&this.lines[leg.other()].changes);
        let either = |is_so: &dyn Fn(&Self, LegId) -> bool, this: &Self| {
            LegId::ALL.iter().any(|&leg| is_so(this, leg))
        };
        let plan = match self.world.plan(None) {
            Err(Refusal::Divergent(DivergentBecause::Sources)) if self.is_copy_of_source() => {
                self.met.diverged += 1;
                return self.resolve();
            }
            Err(Refusal::Divergent(because)) if either(&knows, self) => {
                return Err(format!("refused as {because:?}, and one leg's history contains the other's"));
            }
            Err(Refusal::Divergent(because)) => {
                log::debug!("{because:?}");
                self.met.diverged += 1;
                return self.resolve();
            }
            Err(refusal) => return Err(format!("refused: {refusal:?}")),
            Ok(plan) => plan,
        };
        if !either(&has_all, self) {
            return Err(format!(
                "each leg has a change that the other lacks, and they are mounted: {plan:?}"
            ));
        }
        let (source, target) = (plan.source, plan.source.other());
        if !has_all(self, source) || self.incomplete == Some(source) {
            return Err(format!("leg {source} is the source and lacks a change: {plan:?}"));
        }
        self.met.stale += u64::from(plan.stale.is_some());
        self.met.compared += u64::from(plan.work == Work::CompareAll);
        let before = PerLeg::from_fn(|leg| self.world.superblock(leg));
        let content = self.lines[source].content.clone();
        let left = self.mount(None, &content, crashes)?;
        if let Some(refused) = &left.refused {
            return Err(refused.clone());
        }
        if self.world.superblock(source) != before[source] {
            let number = self.number();
            self.lines[source].mounts.insert(number);
        }
        let began = self.world.superblock(target) != before[target];
        self.lines[source].has_done(&left);
        if began {
            self.lines[target].mounts = self.lines[source].mounts.clone();
        }
        if left.closed {
            (self.lines[target], self.incomplete) = (self.lines[source].clone(), None);
            check::equal(&self.world)?;
        } else if began && plan.work != Work::Nothing {
            // What is recorded as done is done, whatever came after.
            let is_done = self.world.superblock(target).source.is_none();
            self.incomplete = (!is_done).then_some(target);
            if is_done {
                self.lines[target] = self.lines[source].clone();
            }
        } else if plan.work == Work::Nothing {
            self.lines[target].has_done(&left);
        }
        LegId::ALL.into_iter().try_for_each(|leg| self.settle(leg))
    }

    /// Whether a leg was to be made equal to what the other one was before it was put back: what it may lack nobody has.
    fn is_copy_of_source(&self) -> bool {
        let says = PerLeg::from_fn(|leg| self.world.superblock(leg));
        let is_copy =
            |leg: LegId| says[leg.other()].source == Some(leg) && says[leg].events < says[leg.other()].events;
        LegId::ALL.into_iter().any(is_copy)
    }

    /// What is on a leg is what it has to have.
    fn settle(&mut self, leg: LegId) -> Verdict {
        let aside = aside(&self.world.disk(leg).live());
        if !aside.is_superset(&self.aside[leg]) {
            return Err(format!("leg {leg} has {aside:?} aside, not {:?}", self.aside[leg]));
        }
        if self.incomplete == Some(leg) {
            return Ok(());
        }
        let found = content_of(&self.world.disk(leg).live());
        let line = &mut self.lines[leg];
        let sure = |content: &Content| -> Content {
            content
                .iter()
                .filter(|(path, _)| !line.loose.contains(*path))
                .map(|(path, tag)| (path.clone(), *tag))
                .collect()
        };
        if sure(&found) != sure(&line.content) {
            return Err(format!("leg {leg} has {found:?}, not {:?}, loose {:?}", line.content, line.loose));
        }
        line.content = found;
        Ok(())
    }

    /// Not of a leg that calls the other one stale: when it is put back after that one has been recovered from it,
    /// it may as well have gone on since, and is refused.
    fn back_up(&mut self, leg: LegId) {
        if self.incomplete.is_none() && self.world.superblock(leg).peer_state == PeerState::InSync {
            let (line, aside) = (self.lines[leg].clone(), self.aside[leg].clone());
            self.backups.push((leg, self.world.back_up(leg), line, aside));
        }
    }

    fn put_back(&mut self) {
        if self.incomplete.is_none() && !self.backups.is_empty() {
            let (leg, half, line, aside) = self.rng.pick(&self.backups).clone();
            self.world.put_back(leg, &half);
            (self.lines[leg], self.aside[leg]) = (line, aside);
            self.met.put_back += 1;
        }
    }

    /// Gives one leg up, however often that takes.
    fn resolve(&mut self) -> Verdict {
        let discarded = *self.rng.pick(&LegId::ALL);
        let discarded = self.incomplete.unwrap_or(discarded);
        let is_complete = self.incomplete.is_none();
        let sure = |path: &String| is_complete && !self.lines[discarded].loose.contains(path);
        let alone = self.differing(discarded).into_iter().filter(|(path, _)| sure(path)).collect::<Content>();
        for attempt in 0.. {
            let plan = Plan {
                crash_at: (attempt < 3 && self.rng.one_in(2)).then(|| 1 + self.rng.below(16)),
                ..self.scheduled(false)
            };
            let differing = self.differing(discarded);
            let image = self.world.disk(discarded).live();
            let named = |path: &String| {
                let (dir, name) = path.rsplit_once('/').unwrap_or_default();
                ((check::tree(&image)[dir].0, name.into()), self.number().to_string())
            };
            let differing: Vec<_> = differing.keys().map(named).collect();
            let world = self.world.clone();
            let discard = move || world.discard(discarded, &differing).expect("its disks are sound");
            if scheduler::run(plan, discard).end == End::Finished {
                break;
            }
            let crash = *self.rng.pick(&[Crash::Kill, Crash::PowerCut]);
            self.world.survive(crash, &mut self.rng);
            let plan = self.world.plan(Some(discarded.other()));
            let is_announced = self.world.superblock(discarded).is_announced();
            if is_announced != matches!(plan, Err(Refusal::Incomplete(_))) {
                return Err(format!("being discarded: {is_announced}, and it is used alone: {plan:?}"));
            }
            // The power may have taken what was loose on either.
            let in_place = if is_announced { &[discarded.other()][..] } else { &LegId::ALL };
            in_place.iter().try_for_each(|&leg| self.settle(leg))?;
            match self.world.plan(None) {
                Err(Refusal::Divergent(_)) => {}
                Ok(plan) if plan.source != discarded => break,
                other => return Err(format!("leg {discarded} is being discarded: {other:?}")),
            }
        }
        // What a power cut has made the other leg's content, too, is not moved.
        let kept = content_of(&self.world.disk(discarded.other()).live());
        let lost = alone.into_iter().filter(|(path, tag)| *tag != 0 && kept.get(path) != Some(tag));
        self.aside[discarded].extend(lost.map(|(_, tag)| tag));
        self.lines[discarded] = Line::default();
        self.incomplete = Some(discarded);
        self.settle(discarded)
    }

    /// The files of which a leg has its own version.
    fn differing(&self, leg: LegId) -> Content {
        let mut content = content_of(&self.world.disk(leg).live());
        let kept = content_of(&self.world.disk(leg.other()).live());
        content.retain(|path, tag| kept.get(path) != Some(tag));
        content
    }

    /// The legs become equal, as the one is that had all.
    fn at_the_end(&mut self) -> Verdict {
        self.together(false)?;
        if let Some(leg) = self.incomplete {
            return Err(format!("leg {leg} has not been made equal"));
        }
        check::equal(&self.world)
    }
}

impl Line {
    fn has_done(&mut self, left: &Left) {
        for op in &left.done {
            op.apply(&mut self.content);
            if let Op::Put(_, tag) = op {
                self.changes.insert(*tag);
            }
        }
        self.loose.extend(left.pending.iter().flat_map(Op::paths));
        if left.closed {
            self.loose.clear();
        }
    }
}

/// One mount: changes, and a resync beside them.
pub fn use_it(world: &World, missing: Option<LegId>, ops: Vec<Op>, left: &Mutex<Left>) {
    let mirror = match world.mount(&[], missing) {
        Ok(mounted) => mounted.mirror,
        Err(refused) => {
            left.lock().refused = Some(refused);
            return;
        }
    };
    let resync = scheduler::spawn({
        let mirror = mirror.clone();
        move || mirror.resync()
    });
    for op in ops {
        left.lock().pending = Some(op.clone());
        op.perform(&mirror).expect("the legs are sound");
        let mut left = left.lock();
        left.pending = None;
        left.done.push(op);
    }
    resync.join();
    mirror.stop();
    (0..4).for_each(|_| mirror.sweep());
    mirror.close().expect("the legs are sound");
    left.lock().closed = missing.is_some() || mirror.is_equal();
}

/// A leg is used alone, and put back from an image of before, perhaps of a mirror that had crashed, when the machine has
/// died at this step of the recovery of the other one. True if that step never came.
fn put_back_in_a_recovery(
    leg: LegId,
    rule: Option<Rule>,
    seed: u64,
    (step, crash): (u64, Crash),
) -> Result<bool, String> {
    let world = Arc::new(World::new(!seed.is_multiple_of(3), Broken::nothing(), None));
    prepare(&world)?;
    let names = || check::tree(&world.disk(leg).live()).into_keys().collect::<BTreeSet<String>>();
    let (prepared, nothing, mut rng) = (names(), Content::new(), Rng::new(seed));
    let mut changes = |first: Tag| -> Vec<Op> {
        let change = |tag| Op::by_chance((&["", "/d0"], 4), &nothing, tag, &mut rng);
        (first..first + 5).map(change).collect()
    };
    let calm = Plan { broken: rule, ..Plan::calm(seed) };
    let used = |missing, ops, crash_at| {
        let left = Arc::new(Mutex::new(Rank::Leaf, Left::default()));
        let world = world.clone();
        match scheduler::run(Plan { crash_at, ..calm }, move || use_it(&world, missing, ops, &left)).end {
            End::Finished => Ok(true),
            End::Crashed => Ok(false),
            end => Err(format!("without {missing:?}: {end:?}")),
        }
    };
    let survive = || world.survive(crash, &mut Rng::new(seed));
    if seed.is_multiple_of(2) && !used(None, changes(1), Some(5 * seed))? {
        survive();
    }
    let image = world.back_up(leg);
    used(Some(leg.other()), changes(6), None)?;
    if used(None, Vec::new(), Some(step))? {
        return Ok(true);
    }
    survive();
    world.put_back(leg, &image);
    match (world.plan(None), world.plan(Some(leg))) {
        (Err(Refusal::Divergent(_)), _) => return Ok(false),
        (Err(refusal), _) => return Err(format!("refused: {refusal:?}")),
        // It is there only when the other one has been mounted without it.
        (_, Ok(_)) if seed % 4 > 1 => {
            let (world, changes) = (world.clone(), changes(11));
            let report = scheduler::run(calm, move || {
                let mirror = world.mount(&[], Some(leg)).expect("it can be used alone").mirror;
                changes.iter().for_each(|op| op.perform(&mirror).expect("the legs are sound"));
                comes_back(&world, &mirror, leg, false, false);
                mirror.stop();
                (0..4).for_each(|_| mirror.sweep());
                mirror.close().expect("the legs are sound");
            });
            if report.end != End::Finished {
                return Err(format!("it comes back: {:?}", report.end));
            }
        }
        _ => drop(used(None, Vec::new(), None)?),
    };
    check::equal(&world)?;
    let lost: Vec<_> = prepared.difference(&names()).cloned().collect();
    if lost.is_empty() { Ok(false) } else { Err(format!("{lost:?} is lost")) }
}

/// What is found first of it.
fn first_found(rule: Option<Rule>) -> Option<String> {
    for leg in LegId::ALL {
        for (seed, crash) in (1..9).flat_map(|seed| [(seed, Crash::Kill), (seed, Crash::PowerCut)]) {
            for step in 1.. {
                match put_back_in_a_recovery(leg, rule, seed, (step, crash)) {
                    Ok(false) => {}
                    Ok(true) => break,
                    Err(what) => {
                        return Some(format!("leg {leg}, seed {seed}, {crash:?} at step {step}: {what}"));
                    }
                }
            }
        }
    }
    None
}

#[test]
fn a_leg_that_is_put_back_in_a_recovery_from_it_takes_nothing_from_the_other() {
    assert_eq!(first_found(None), None);
    println!("{}", first_found(Some(Rule::AnotherHistory)).expect("what is not so of these legs is gone by"));
}

/// The first thing found with this broken, in a run that is sound without.
fn finds(broken: Broken) -> String {
    let found = (1..4000).find_map(|seed| {
        let found = run(seed, broken).err()?;
        run(seed, Broken::nothing()).ok()?;
        Some(format!("{broken:?}: seed {seed}: {found}"))
    });
    let found = found.unwrap_or_else(|| panic!("{broken:?} is not found"));
    println!("{found}");
    found
}

#[test]
fn legs_that_diverged_are_refused_and_legs_that_are_stale_are_not() {
    let _ = env_logger::builder().format_timestamp(None).try_init();
    let mut all = Met::default();
    let first = crate::number_from("MIRRORFS_SIM_SEED").unwrap_or(1);
    let mut wrong = Vec::new();
    for seed in first..first + crate::number_from("MIRRORFS_SIM_RUNS").unwrap_or(300) {
        match run(seed, Broken::nothing()) {
            Ok(met) => {
                all.runs += met.runs;
                all.diverged += met.diverged;
                all.stale += met.stale;
                all.put_back += met.put_back;
                all.incomplete += met.incomplete;
                all.compared += met.compared;
            }
            Err(what) => wrong.push(format!("seed {seed}: {what}")),
        }
    }
    assert!(wrong.is_empty(), "{} runs failed: {}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
    println!("{all:?}");
    let Met { diverged, stale, put_back, incomplete, compared, .. } = all;
    let enough = diverged > 25 && stale > 100 && put_back > 20 && incomplete > 5 && compared > 20;
    assert!(enough, "{all:?}");
}

#[test]
fn histories_that_are_misjudged_are_found() {
    use crate::world::Misjudged;
    for judging in [Misjudged::Divergent, Misjudged::WentOn, Misjudged::Incomplete, Misjudged::Reach] {
        finds(Broken { judging: Some(judging), ..Broken::nothing() });
    }
}

#[test]
fn a_leg_that_is_given_up_in_another_order_is_found() {
    use crate::world::Misordered;
    for discarding in [Misordered::MovedFirst, Misordered::NotSynced] {
        finds(Broken { discarding: Some(discarding), ..Broken::nothing() });
    }
    // Of either the other one would be enough.
    let (discarding, rule) = (Some(Misordered::MarksKept), Some(Rule::AnotherHistory));
    finds(Broken { discarding, rule, ..Broken::nothing() });
}

#[test]
fn a_leg_that_goes_on_alone_without_a_durable_record_is_found() {
    finds(Broken { superblock_lies: true, ..Broken::nothing() });
}
