//! One run: a mirror is used by several clients, crashed, recovered (with crashes inside), and looked
//! at after each mount. A [`Setup`] replays it exactly.

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mirrorfs::inode::Ino;
use mirrorfs::legs::simulated::Call;
use mirrorfs::legs::{LegId, Make, PerLeg};
use mirrorfs::ops::{LegState, Mirror, MirrorState, SetAttr};
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, End, Plan, Spawned};
use mirrorfs::superblock::PeerState;
use mirrorfs::sync::{Mutex, Rank};

use crate::check::{self, Verdict};
use crate::client::{CREATOR, Client, Memory, Mix, ROOT_CALLER, SHARED_DIRS, SHARED_FILES, SHARED_GRAINS};
use crate::filling;
use crate::hanging::{Hanging, Slow};
use crate::model::{Crash, GRAIN};
use crate::reads;
use crate::world::{Blames, Broken, Fault, Mounted, TestLeg, World};

/// What a run does.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub seed: u64,
    /// The step of the first mount in which the machine dies. `None`: chance decides.
    pub first_crash: Option<u64>,
    pub broken: Broken,
    /// Mounts that may crash, before the one that does not.
    pub mounts: u64,
    pub mix: Mix,
    /// Faults during the first mount.
    pub faults: [Option<Fault>; 2],
    /// Legs that are not there at a mount, and come back.
    pub without: bool,
    /// Sectors of this leg become bad, now and then, in all mounts but the last.
    pub bad_sectors: Option<LegId>,
    /// Legs are taken out, and in again or replaced, while clients are at work, in all mounts but the last.
    pub verbs: bool,
    /// New disks are filled to take the place of legs that serve or are away, in all mounts but the last.
    pub filling: bool,
    /// A leg hangs at a call that chance decides, and answers late, in all mounts but the last.
    pub hanging: bool,
    /// It is one change that hangs, until long after the leg could have been taken in again.
    pub late_change: bool,
    /// Legs on which objects have other numbers in each mount, and one look in so many.
    pub fleeting: PerLeg<Option<u64>>,
    /// The bitmap has room for so few slots while a leg is away.
    pub crowded: Option<usize>,
    /// The legs' clocks step, and births are coarse.
    pub clocks: bool,
}

impl Setup {
    /// Whether a leg may do what a sound one does not.
    fn is_unsound(&self) -> bool {
        self.faults != [None; 2] || self.bad_sectors.is_some() || self.hanging
    }

    pub fn of_seed(seed: u64) -> Setup {
        Setup {
            seed,
            first_crash: None,
            broken: Broken::nothing(),
            mounts: 3,
            mix: Mix::Everything,
            faults: [None; 2],
            without: false,
            bad_sectors: None,
            verbs: false,
            filling: false,
            hanging: false,
            late_change: false,
            fleeting: PerLeg::new(None, None),
            crowded: None,
            clocks: false,
        }
    }

    /// One that depends on births. The first mount ends cleanly, so that there is something old.
    pub fn of_births(seed: u64) -> Setup {
        let clocks = seed.is_multiple_of(3);
        Setup { mix: Mix::Renewals, clocks, first_crash: Some(u64::MAX), ..Setup::of_seed(seed) }
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub runs: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub clean: u64,
    pub steps: u64,
    /// Legs of which a new disk took the place.
    pub replaced: u64,
    /// A digest of the whole run.
    pub trace: u64,
    /// Whether the first mount came to its end.
    pub first_finished: bool,
    /// Mounts at whose end a directory's slot stood for what lies in it.
    pub coarse: u64,
    /// Renames for which the directory's slot, or the one that covers it, was enough.
    pub spared: u64,
    /// Mounts at whose end everything was to be compared.
    pub everything: u64,
    /// Mounts that were not made, for a leg did not answer or what the mirror keeps on it could not be written.
    pub not_mounted: u64,
    /// Mounts at whose end the mirror was read-only.
    pub read_only: u64,
    /// Calls that hung until they were let go.
    pub late: u64,
    /// Legs that were given up for that, or after a fault.
    pub given_up: u64,
    /// Legs that may hang and were taken in again.
    pub taken_in: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { runs, kills, power_cuts, clean, steps, .. } = self;
        write!(
            f,
            "{runs} runs, {kills} kills, {power_cuts} power cuts, {clean} clean unmounts, {steps} steps"
        )
    }
}

/// Does one run. The error says what was found to be wrong.
pub fn run(setup: Setup) -> Result<Counts, String> {
    let mut rng = Rng::new(setup.seed);
    let clients = 1 + rng.below(3) as usize;
    let mut world = World::new(!rng.one_in(4), setup.broken, setup.crowded);
    world.fleeting = setup.fleeting;
    let world = Arc::new(world);
    let memory = Arc::new(Memory::new(clients));
    prepare(&world)?;
    let mut run = Run { setup, rng, world, memory, counts: Counts { runs: 1, ..Counts::default() } };
    for mount in 0..=setup.mounts {
        let last = mount == setup.mounts;
        run.mount(mount, last).map_err(|what| format!("mount {mount}: {what}"))?;
    }
    run.counts.replaced = run.world.replaced();
    Ok(run.counts)
}

/// The directories and files that all clients use, made and unmounted cleanly.
pub fn prepare(world: &World) -> Verdict {
    let Mounted { mirror, .. } = world.mount(&[], None)?;
    let make = || -> std::io::Result<()> {
        for dir in SHARED_DIRS.iter().filter(|dir| !dir.is_empty()) {
            mirror.make(Ino::ROOT, OsStr::new(&dir[1..]), Make::Directory { mode: 0o755 }, CREATOR)?;
        }
        for file in SHARED_FILES {
            let (dir, name) = file.rsplit_once('/').unwrap_or_default();
            let dir = match dir.strip_prefix('/') {
                Some(dir) => mirror.lookup(Ino::ROOT, OsStr::new(dir))?.attr.ino,
                None => Ino::ROOT,
            };
            let found = mirror.make(dir, OsStr::new(name), Make::File { mode: 0o644 }, CREATOR)?;
            let set = SetAttr { size: Some(SHARED_GRAINS * GRAIN), ..SetAttr::default() };
            mirror.setattr(found.attr.ino, &set, None, ROOT_CALLER)?;
        }
        mirror.stop();
        mirror.close()
    };
    make().map_err(|error| format!("preparing: {error}"))?;
    check::equal(world)
}

struct Run {
    setup: Setup,
    rng: Rng,
    world: Arc<World>,
    memory: Arc<Memory>,
    counts: Counts,
}

/// What the simulated threads of a mount leave behind.
#[derive(Default)]
struct Left {
    mirror: Option<Arc<Mirror<TestLeg>>>,
    refused: Option<String>,
    /// For a reason that a run may have.
    not_mounted: bool,
    late: u64,
    given_up: u64,
    taken_in: u64,
}

impl Run {
    /// One mount, to its end or to a crash, and what must be so afterwards.
    fn mount(&mut self, number: u64, last: bool) -> Verdict {
        let crash_at = match self.setup.first_crash {
            Some(step) if number == 0 => Some(step),
            _ if last => None,
            _ => {
                let within = *self.rng.pick(&[10, 40, 150, 400]);
                Some(1 + self.rng.below(within))
            }
        };
        let plan = Plan {
            seed: self.rng.bits(),
            crash_at,
            switch_one_in: *self.rng.pick(&[1, 2, 4, 16]),
            broken: self.setup.broken.rule,
        };
        let faults = if number == 0 { self.setup.faults } else { [None; 2] };
        // A leg that is not there: one that the other can do without.
        let missing = (self.setup.without && !last && self.rng.one_in(3))
            .then(|| self.world.source().other())
            .filter(|_| faults == [None; 2]);
        let use_it = Use {
            missing,
            comes_back: self.rng.one_in(2) || self.setup.late_change,
            is_replaced: self.rng.one_in(3),
            faults: faults.into_iter().flatten().collect(),
            mix: self.setup.mix,
            operations: match (last, self.setup.filling) {
                (true, _) => 0,
                (false, true) => self.rng.below(60) as usize,
                (false, false) => self.rng.below(25) as usize,
            },
            bad_sectors: self.setup.bad_sectors.filter(|_| !last),
            clocks: self.setup.clocks,
            stop_early: !last && self.rng.one_in(4),
            verbs: self.setup.verbs && !last,
            filling: self.setup.filling && !last,
            hanging: (self.setup.hanging && !last).then(|| match self.setup.late_change {
                true => Hanging::one_change(&mut self.rng),
                false => Hanging::by_chance(&mut self.rng),
            }),
            rng: self.rng.fork(),
        };
        if self.setup.clocks {
            for leg in LegId::ALL {
                let grain = *self.rng.pick(&[1, 3, 50, 1000]);
                self.world.disk(leg).coarse_births(grain);
                self.world.disk(leg).step_clock(self.rng.below(400) as i64 - 200);
            }
        }
        if last {
            // The disk is replaced by one that can be read: what was left for it must have stayed marked.
            LegId::ALL.into_iter().for_each(|leg| self.world.disk(leg).heal());
        }
        let left = Arc::new(Mutex::new(Rank::Leaf, Left::default()));
        let report = scheduler::run(plan, {
            let (world, memory, left) = (self.world.clone(), self.memory.clone(), left.clone());
            move || use_it.all(&world, &memory, &left)
        });
        log::debug!("mount {number}: {:?} after {} steps", report.end, report.steps);
        self.counts.steps += report.steps;
        self.counts.trace = self.counts.trace.rotate_left(7) ^ report.trace;
        self.counts.first_finished |= number == 0 && report.end == End::Finished;
        let mut left = std::mem::take(&mut *left.lock());
        if let Some(refused) = left.refused.take().or_else(|| self.world.take_wronged()) {
            return Err(refused);
        }
        self.counts.late += left.late;
        self.counts.given_up += left.given_up;
        self.counts.taken_in += left.taken_in;
        if let Some(mirror) = &left.mirror {
            let stats = mirror.bitmap_stats();
            self.counts.coarse += u64::from(stats.covered_directories > 0);
            self.counts.everything += u64::from(stats.compare_all);
            self.counts.read_only += u64::from(mirror.state() == MirrorState::ReadOnly);
            self.counts.spared += stats.spared;
        }
        match report.end {
            End::Finished => self.after_unmount(left, last),
            End::Crashed => self.after_crash(left),
            other => Err(format!("{other:?}")),
        }
    }

    fn after_unmount(&mut self, left: Left, last: bool) -> Verdict {
        let mirror = match left.mirror {
            Some(mirror) => mirror,
            None if left.not_mounted && !last => {
                self.counts.not_mounted += 1;
                self.judge(Crash::Kill, false)?;
                return self.go_on(Crash::Kill);
            }
            None => return Err("nothing was mounted".into()),
        };
        // A leg that fails while its times are settled leaves bits set, so the mount is no clean one.
        let clean = LegId::ALL.into_iter().all(|leg| self.world.superblock(leg).clean);
        let excused = self.setup.is_unsound() && !clean;
        let equal = in_step(&mirror) && !excused;
        self.after_fault(&mirror)?;
        drop(mirror);
        self.judge(Crash::Kill, equal)?;
        if last && !equal {
            return Err("the resync did not end".into());
        }
        if equal {
            self.counts.clean += 1;
            self.after_clean_unmount()?;
        }
        self.go_on(Crash::Kill)
    }

    /// A leg that failed is recorded as stale on the other, which is then the source (O4, O8).
    fn after_fault(&self, mirror: &Mirror<TestLeg>) -> Verdict {
        let is_faulted = |&leg: &LegId| matches!(mirror.leg_state(leg), LegState::Lost(_));
        let Some(leg) = LegId::ALL.into_iter().find(is_faulted) else { return Ok(()) };
        let (survivor, lost) = (self.world.superblock(leg.other()), self.world.superblock(leg));
        let is_source = self.world.source() == leg;
        let records_fail = self.setup.faults.iter().flatten().any(|fault| fault.call == Call::Record);
        if records_fail && survivor.peer_state == PeerState::Recovering && !is_source {
            // Taking it in has failed half way, and so has taking that back.
            return Ok(());
        }
        if !matches!(survivor.peer_state, PeerState::Stale { .. }) {
            return Err(format!("leg {leg} failed, and the other says {:?}", survivor.peer_state));
        }
        // A new disk that had not been filled yet has no events, and is compared in full.
        let told = survivor.events_cleared <= lost.events || lost.events == 0;
        if survivor.events <= lost.events || !told {
            return Err(format!("leg {leg} failed: {survivor:?} against {lost:?}"));
        }
        if is_source { Err(format!("leg {leg} failed, and is the source")) } else { Ok(()) }
    }

    fn after_clean_unmount(&mut self) -> Verdict {
        check::equal(&self.world).map_err(|what| format!("after a clean unmount: {what}"))?;
        if let Some(leg) = LegId::ALL.into_iter().find(|&leg| !self.world.superblock(leg).clean) {
            return Err(format!("unmounted, and leg {leg} does not say so"));
        }
        match self.world.dirty_slots() {
            0 => {}
            slots => return Err(format!("unmounted cleanly with {slots} dirty slots")),
        }
        // What is called clean is not looked at again: the power may go now.
        if self.rng.one_in(2) && !self.setup.is_unsound() {
            self.world.survive(Crash::PowerCut, &mut self.rng);
            check::equal(&self.world).map_err(|what| format!("power cut after a clean unmount: {what}"))?;
            self.judge(Crash::Kill, true)?;
        }
        Ok(())
    }

    fn after_crash(&mut self, left: Left) -> Verdict {
        // What a full leg gave back is not in the histories, so its way to the disk cannot be judged.
        let is_full = |fault: &Fault| matches!(fault.errno, libc::ENOSPC | libc::EDQUOT);
        let full = self.setup.faults.iter().flatten().any(is_full);
        let crash = if full || self.rng.one_in(2) { Crash::Kill } else { Crash::PowerCut };
        match crash {
            Crash::Kill => self.counts.kills += 1,
            Crash::PowerCut => self.counts.power_cuts += 1,
        }
        // While something on one leg is written anew, the other one is the one to be believed.
        let mending = LegId::ALL.into_iter().any(|leg| self.world.superblock(leg).source.is_some());
        let equal = left.mirror.is_some_and(|mirror| in_step(&mirror)) && !mending;
        log::debug!("{crash:?}; the legs were {}in step", if equal { "" } else { "not " });
        self.world.survive(crash, &mut self.rng);
        self.judge(crash, equal).map_err(|what| format!("after a {crash:?}: {what}"))?;
        self.go_on(crash)
    }

    /// What clients were promised is on the source, and on the other leg too if both were in step.
    fn judge(&self, crash: Crash, both: bool) -> Verdict {
        let source = self.world.source();
        for leg in LegId::ALL.into_iter().filter(|&leg| both || leg == source) {
            let image = self.world.disk(leg).live();
            let tree = check::tree(&image);
            for (number, history) in self.memory.histories.iter().enumerate() {
                check::client(number, &tree, &history.lock(), crash)
                    .map_err(|what| format!("leg {leg}: {what}"))?;
            }
            let shared = self.memory.shared.lock();
            for (number, path) in SHARED_FILES.iter().enumerate() {
                check::shared(path, &tree, &shared[&number], crash)
                    .map_err(|what| format!("leg {leg}: {what}"))?;
            }
        }
        Ok(())
    }

    /// What is on the source is what clients find from now on.
    fn go_on(&mut self, crash: Crash) -> Verdict {
        let image = self.world.disk(self.world.source()).live();
        let tree = check::tree(&image);
        for (number, history) in self.memory.histories.iter().enumerate() {
            let mut history = history.lock();
            let (count, found) = check::client(number, &tree, &history, crash)?;
            match crash {
                Crash::Kill => history.go_on_with(count),
                Crash::PowerCut => history.start_from(found),
            }
        }
        let mut shared = self.memory.shared.lock();
        for (number, path) in SHARED_FILES.iter().enumerate() {
            let file = shared.entry(number).or_default();
            let found = check::shared(path, &tree, file, crash)?;
            match crash {
                Crash::Kill => file.go_on(),
                Crash::PowerCut => file.start_from(found),
            }
        }
        Ok(())
    }
}

/// Whether both legs have everything.
fn in_step(mirror: &Mirror<TestLeg>) -> bool {
    mirror.is_equal() && !matches!(mirror.state(), MirrorState::ReadOnly | MirrorState::Degraded)
}

/// What happens during one mount, on simulated threads.
struct Use {
    missing: Option<LegId>,
    /// What is away is taken in again, while clients are at work.
    comes_back: bool,
    /// It does not: a new disk takes its place.
    is_replaced: bool,
    mix: Mix,
    faults: Vec<Fault>,
    operations: usize,
    bad_sectors: Option<LegId>,
    clocks: bool,
    stop_early: bool,
    verbs: bool,
    filling: bool,
    hanging: Option<Hanging>,
    rng: Rng,
}

impl Use {
    /// Whether a leg may do what a sound one does not.
    fn is_unsound(&self) -> bool {
        !self.faults.is_empty() || self.bad_sectors.is_some() || self.hanging.is_some()
    }

    /// Whether a leg has failed, and may have failed to write the mirror's bitmap or superblock.
    fn cannot_record(&self, world: &World) -> bool {
        self.faults.iter().any(|fault| fault.is_of_own_files() && world.has_failed(fault.leg))
    }

    fn all(mut self, world: &Arc<World>, memory: &Arc<Memory>, left: &Mutex<Left>) {
        let slow = self.hanging.map(Slow::new);
        let mounted = match world.mount_slow(&self.faults, self.missing, slow.as_ref()) {
            Ok(mounted) => mounted,
            // A leg that does not answer is not mounted.
            Err(refused) if slow.is_some() && refused.starts_with("mount:") => {
                slow.iter().for_each(Slow::end);
                left.lock().not_mounted = true;
                return;
            }
            // Nor one on which the mirror cannot write what it keeps there.
            Err(refused) if self.cannot_record(world) && !refused.starts_with("refused:") => {
                left.lock().not_mounted = true;
                return;
            }
            Err(refused) => {
                left.lock().refused = Some(refused);
                return;
            }
        };
        let mirror = mounted.mirror.clone();
        left.lock().mirror = Some(mirror.clone());
        if self.bad_sectors.is_none() {
            mirror.set_herald(Arc::new(Blames(world.clone())));
        }
        let letting_go = slow.as_ref().map(|slow| slow.begin(&mirror, self.rng.fork()));
        let resync = spawn(&mirror, {
            let (world, later, unsound) = (world.clone(), mounted.later, self.is_unsound());
            move |mirror| match later {
                Some(leg) => {
                    let _one_at_a_time = world.take_turn();
                    if matches!(mirror.leg_state(leg), LegState::Lost(_)) {
                        filling::comes_back(&world, mirror, leg, true, unsound);
                    }
                }
                None => mirror.resync(),
            }
        });
        let sweeps = self.rng.below(6);
        let done = Arc::new(AtomicBool::new(false));
        let sweeper = spawn(&mirror, {
            let done = done.clone();
            move |mirror| {
                for _ in 0..sweeps {
                    (0..40).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|_| scheduler::pause());
                    mirror.sweep();
                }
            }
        });
        if self.operations == 0
            && !self.is_unsound()
            && self.missing.is_none()
            && !self.verbs
            && !self.filling
        {
            // Nobody reads but the resync, so what it reads can be judged.
            resync.join();
            sweeper.join();
            if !mounted.compare_all
                && let Err(what) = reads::only_dirty(world, &mounted)
            {
                left.lock().refused = Some(what);
            }
        } else {
            let spoiler = self.bad_sectors.map(|leg| self.spoil(world, &mirror, leg, done.clone()));
            let clients = self.clients(&mirror, memory);
            let clocks = self.clocks.then(|| self.step_clocks(world, done.clone()));
            let takes_out = self.verbs || self.filling && self.rng.one_in(2);
            let failing = takes_out.then(|| self.takes_out(&mirror));
            let filler =
                self.filling.then(|| filling::begin(world, &mirror, self.rng.fork(), self.is_unsound()));
            let rounds = match (self.verbs, self.filling) {
                (_, true) => 0,
                (true, false) => 3,
                (false, false) => u64::from(self.comes_back),
            };
            for _ in 0..rounds {
                if let Err(what) = self.comes_back(world, &mirror, slow.as_ref()) {
                    left.lock().refused = Some(what);
                }
                self.is_replaced ^= self.verbs;
            }
            clients.into_iter().for_each(Spawned::join);
            failing.into_iter().for_each(Spawned::join);
            done.store(true, Ordering::Relaxed);
            sweeper.join();
            spoiler.into_iter().chain(clocks).for_each(Spawned::join);
            if self.stop_early {
                mirror.stop();
            }
            filler.into_iter().for_each(Spawned::join);
            resync.join();
        }
        mirror.stop();
        let read_only = mirror.state() == MirrorState::ReadOnly;
        let keeps = read_only || mirror.state() == MirrorState::Degraded;
        if read_only && !self.is_unsound() {
            left.lock().refused = Some(format!("read-only: {:?}", mirror.reason()));
        }
        let clears = mirror.bitmap_stats().clears;
        (0..4).for_each(|_| mirror.sweep());
        if let Err(error) = mirror.close()
            && self.hanging.is_none()
            && !self.cannot_record(world)
        {
            left.lock().refused = Some(format!("close: {error}"));
        }
        if keeps && mirror.bitmap_stats().clears != clears {
            left.lock().refused =
                Some("bits were cleared although a leg is not what it should be (O4)".into());
        }
        if let (Some(slow), Some(letting_go)) = (slow, letting_go) {
            let given_up = slow.given_up();
            slow.end();
            letting_go.join();
            let (late, taken_in) = (slow.late(), slow.taken_again());
            let mut left = left.lock();
            (left.late, left.given_up, left.taken_in) = (late, given_up, taken_in);
        }
    }

    fn clients(&mut self, mirror: &Arc<Mirror<TestLeg>>, memory: &Arc<Memory>) -> Vec<Spawned> {
        (0..memory.histories.len())
            .map(|number| {
                let client = Client::new(number, mirror.clone(), memory.clone(), self.mix, self.rng.fork());
                let operations = self.operations;
                scheduler::spawn(move || client.work(operations))
            })
            .collect()
    }

    /// Steps a leg's clock every now and then.
    fn step_clocks(&mut self, world: &World, done: Arc<AtomicBool>) -> Spawned {
        let (disks, mut rng) = (LegId::ALL.map(|leg| world.disk(leg)), self.rng.fork());
        scheduler::spawn(move || {
            for _ in 0..rng.below(4) {
                let pauses = rng.below(60);
                (0..pauses).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|_| scheduler::pause());
                rng.pick(&disks).step_clock(rng.below(200) as i64 - 100);
            }
        })
    }

    /// Spoils a sector of some file every now and then, and as often reads it and sees to it that it is mended,
    /// while clients are at work.
    fn spoil(
        &mut self,
        world: &World,
        mirror: &Arc<Mirror<TestLeg>>,
        leg: LegId,
        done: Arc<AtomicBool>,
    ) -> Spawned {
        let (disk, mut rng) = (world.disk(leg), self.rng.fork());
        spawn(mirror, move |mirror| {
            for _ in 0..1 + rng.below(4) {
                let pauses = rng.below(60);
                (0..pauses).take_while(|_| !done.load(Ordering::Relaxed)).for_each(|_| scheduler::pause());
                let image = disk.live();
                let tree = check::tree(&image);
                let shared = rng.one_in(4);
                let is_wanted = |path: &str| !shared || SHARED_FILES.contains(&path);
                let files: Vec<_> = tree
                    .iter()
                    .filter(|(path, _)| is_wanted(path))
                    .filter_map(|(path, (id, file))| Some((path.clone(), *id, file.content()?)))
                    .collect();
                if files.is_empty() {
                    continue;
                }
                let (path, id, content) = rng.pick(&files);
                // The last one is often whole only together with what lies behind the file's end.
                let sectors: Vec<u64> = content.sectors().map(|(at, _)| at).collect();
                let Some(&last) = sectors.last() else { continue };
                let at = if rng.one_in(2) { last } else { *rng.pick(&sectors) };
                disk.spoil(*id, at, 1);
                if rng.one_in(2) {
                    // Whatever comes of it: the file may be gone by now, and what is read is the clients' to judge.
                    let _ = read_at(mirror, path, at);
                    mirror.mend();
                }
            }
        })
    }

    /// Takes legs out by hand every now and then, those that the mirror can do without.
    fn takes_out(&mut self, mirror: &Arc<Mirror<TestLeg>>) -> Spawned {
        let mut rng = self.rng.fork();
        let unsound = self.is_unsound();
        spawn(mirror, move |mirror| {
            for _ in 0..3 {
                (0..rng.below(150)).for_each(|_| scheduler::pause());
                let taken = mirror.take_out(*rng.pick(&LegId::ALL));
                let number = taken.err().map(|error| error.raw_os_error());
                // Or it cannot be recorded, or the other one has failed meanwhile.
                let is_excused = unsound && number == Some(Some(libc::EIO));
                assert!(
                    is_excused || matches!(number, None | Some(Some(libc::EBUSY))),
                    "taken out: {number:?}"
                );
            }
        })
    }

    /// Waits until a leg is away, for a while, and takes it in.
    fn comes_back(
        &mut self,
        world: &World,
        mirror: &Arc<Mirror<TestLeg>>,
        slow: Option<&Slow>,
    ) -> Result<(), String> {
        let is_away = |&leg: &LegId| matches!(mirror.leg_state(leg), LegState::Lost(_));
        for _ in 0..self.rng.below(200) {
            scheduler::pause();
        }
        if let Some(slow) = slow {
            slow.wait_until(|| LegId::ALL.iter().any(is_away));
        }
        let _one_at_a_time = world.take_turn();
        // Which disk is the leg would be open if that could not be recorded, and both are asked for together.
        self.is_replaced &= !self.faults.iter().any(|fault| fault.call == Call::Record);
        let Some(leg) = LegId::ALL.into_iter().find(is_away) else { return Ok(()) };
        if slow.is_some_and(|slow| !slow.close(mirror, leg)) {
            return Ok(());
        }
        let returning = match self.is_replaced {
            true => world.replacement(leg, slow),
            false => world.returning(leg, slow)?,
        };
        let directory = returning.directory.clone();
        if returning.is_new || mirror.is_to_be_filled(&returning) {
            let filled = mirror.fill(returning);
            world.settle();
            if let (Ok(()), Some(slow)) = (&filled, slow) {
                slow.taken_in(mirror, leg, &directory);
            }
            filling::after_filling(mirror, leg, filled, self.is_unsound());
            return Ok(());
        }
        match mirror.take_in(returning) {
            Ok(()) => {
                slow.iter().for_each(|slow| slow.taken_in(mirror, leg, &directory));
                mirror.resync();
            }
            // The mirror may have turned read-only, or the machine is about to die.
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => {}
            Err(error) if self.is_unsound() => {
                log::debug!("not taken in: {error}");
            }
            Err(error) => return Err(format!("leg {leg} is not taken in: {error}")),
        }
        Ok(())
    }
}

fn read_at(mirror: &Mirror<TestLeg>, path: &str, offset: u64) -> std::io::Result<()> {
    let mut at = Ino::ROOT;
    let mut looked_up = Vec::new();
    let mut found = Ok(());
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match mirror.lookup(at, OsStr::new(name)) {
            Ok(object) => at = object.attr.ino,
            Err(error) => {
                found = Err(error);
                break;
            }
        }
        looked_up.push(at);
    }
    let read = found.and_then(|()| {
        let fh = mirror.open(at, libc::O_RDONLY, ROOT_CALLER)?;
        let read = mirror.read(fh, &mut [0; 600], offset);
        mirror.release(fh);
        read.map(drop)
    });
    looked_up.into_iter().for_each(|ino| mirror.forget(ino, 1));
    read
}

pub fn spawn(mirror: &Arc<Mirror<TestLeg>>, work: impl FnOnce(&Mirror<TestLeg>) + Send + 'static) -> Spawned {
    let mirror = mirror.clone();
    scheduler::spawn(move || work(&mirror))
}
