//! One file with bad sectors is read and mended, crashed at every step of that; somebody else reads it all the time.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mirrorfs::inode::{Fh, Ino};
use mirrorfs::legs::{LegId, Timestamp};
use mirrorfs::ops::{Herald, Mirror, News};
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, End, Plan, Rule};
use mirrorfs::sync::{Mutex, Rank};

use crate::check::{self, Verdict};
use crate::client::{CREATOR, ROOT_CALLER};
use crate::model::Crash;
use crate::world::{Broken, TestLeg, World};

const NAME: &str = "f";

/// Of several units, with an end that fills no sector.
fn data() -> Vec<u8> {
    (0..130_123u32).map(|at| 1 + (at % 251) as u8).collect()
}

/// Where it is bad: a whole sector, the last one, both.
const BAD: [&[u64]; 3] = [&[70_000], &[130_100], &[100, 130_100]];

struct Heard(Mutex<Vec<String>>);

impl Herald for Heard {
    fn tell(&self, news: News) {
        if let News::ReadError { told, .. } = news {
            self.0.lock().push(told);
        }
    }
}

fn written(world: &World) -> Verdict {
    let mirror = world.mount(&[], None)?.mirror;
    let write = || -> std::io::Result<()> {
        let (_, fh) = mirror.create(Ino::ROOT, OsStr::new(NAME), 0o644, CREATOR, libc::O_RDWR)?;
        mirror.write(fh, &data(), 0, false)?;
        mirror.release(fh);
        mirror.stop();
        mirror.close()
    };
    write().map_err(|error| format!("writing: {error}"))
}

fn open(mirror: &Mirror<TestLeg>) -> std::io::Result<Fh> {
    let found = mirror.lookup(Ino::ROOT, OsStr::new(NAME))?;
    mirror.open(found.attr.ino, libc::O_RDONLY, ROOT_CALLER)
}

/// Reads all of it; what is read must be what was written.
fn read(mirror: &Mirror<TestLeg>) -> std::io::Result<()> {
    let fh = open(mirror)?;
    let mut found = vec![0; 140_000];
    let read = mirror.read(fh, &mut found, 0)?;
    mirror.release(fh);
    if found[..read] == data() { Ok(()) } else { Err(std::io::Error::other("something else is read")) }
}

fn mtime(mirror: &Mirror<TestLeg>, ino: Ino) -> Timestamp {
    mirror.getattr(ino, None).expect("it is there").stat.mtime
}

/// Returns how it ended, and what was told of the error.
fn mend(world: &Arc<World>, plan: Plan) -> (End, Vec<String>) {
    let heard = Arc::new(Heard(Mutex::new(Rank::Leaf, Vec::new())));
    let report = scheduler::run(plan, {
        let (world, heard) = (world.clone(), heard.clone());
        move || {
            let mirror = world.mount(&[], None).expect("it was unmounted cleanly").mirror;
            mirror.set_herald(heard);
            let is_mended = Arc::new(AtomicBool::new(false));
            let beside = |work: fn(&Mirror<TestLeg>, Ino, Timestamp)| {
                let (mirror, is_mended) = (mirror.clone(), is_mended.clone());
                let ino = mirror.lookup(Ino::ROOT, OsStr::new(NAME)).expect("it is there").attr.ino;
                let written = mtime(&mirror, ino);
                scheduler::spawn(move || {
                    while !is_mended.load(Ordering::Relaxed) {
                        work(&mirror, ino, written);
                    }
                })
            };
            let reader = beside(|mirror, _, _| read(mirror).expect("the other leg has it"));
            // Writing moves the times, and nobody has written.
            let watcher = beside(|mirror, ino, written| assert_eq!(mtime(mirror, ino), written));
            read(&mirror).expect("the other leg has it");
            mirror.mend();
            is_mended.store(true, Ordering::Relaxed);
            reader.join();
            watcher.join();
            mirror.stop();
            mirror.close().expect("both legs are there");
        }
    });
    let told = std::mem::take(&mut *heard.0.lock());
    (report.end, told)
}

/// The next two mounts, of a disk that may still be bad: the first one may read from the other leg.
fn recover(world: &World) -> Verdict {
    for _ in 0..2 {
        let mirror = world.mount(&[], None)?.mirror;
        mirror.resync();
        read(&mirror).map_err(|error| format!("read after the crash: {error}"))?;
        mirror.mend();
        mirror.stop();
        (0..4).for_each(|_| mirror.sweep());
        mirror.close().map_err(|error| format!("close: {error}"))?;
    }
    match LegId::ALL.into_iter().find(|&leg| world.disk(leg).has_bad_sectors()) {
        Some(leg) => Err(format!("leg {leg} still has bad sectors")),
        None => check::equal(world),
    }
}

/// One file that is bad at some places, and how it is mended.
#[derive(Clone, Copy)]
struct Case {
    places: &'static [u64],
    broken: Broken,
    seed: u64,
    /// The machine dies at this step, so.
    crash: Option<(u64, Crash)>,
    /// The turn is given away once in so many times.
    switch_one_in: u64,
}

impl Case {
    /// Mends it, and what is left after the crash. True if that never came.
    fn run(self) -> Result<bool, String> {
        let Case { places, broken, seed, crash, switch_one_in } = self;
        let world = Arc::new(World::new(true, broken, None));
        written(&world)?;
        let image = world.disk(LegId::A).live();
        let id = check::tree(&image)[&format!("/{NAME}")].0;
        for at in places {
            assert!(world.disk(LegId::A).spoil(id, *at, 1));
        }
        let crash_at = crash.map(|(step, _)| step);
        let (end, told) = mend(&world, Plan { seed, crash_at, switch_one_in, broken: broken.rule });
        match (end, crash) {
            (End::Finished, _) if told.iter().any(|told| told.ends_with("and rewritten")) => Ok(true),
            (End::Crashed, Some((_, crash))) => {
                world.survive(crash, &mut Rng::new(seed));
                recover(&world).map(|()| false)
            }
            (end, _) => Err(format!("{end:?}, and it is told {told:?}")),
        }
    }
}

/// What is found first when the machine dies at each step.
fn first_found(broken: Broken) -> Option<String> {
    for (places, crash) in BAD.iter().flat_map(|bad| [(*bad, Crash::Kill), (*bad, Crash::PowerCut)]) {
        for seed in 1..7 {
            for step in 1.. {
                let crash = Some((step, crash));
                match (Case { places, broken, seed, crash, switch_one_in: 2 }).run() {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(what) => return Some(format!("bad at {places:?}, {crash:?}, seed {seed}: {what}")),
                }
            }
        }
    }
    None
}

/// What is found first when it does not die, and whoever has the turn keeps it for long.
fn first_found_by_readers(broken: Broken) -> Option<String> {
    (1..2000).find_map(|seed| {
        let places = BAD[seed as usize % BAD.len()];
        let found = Case { places, broken, seed, crash: None, switch_one_in: 1 << (seed % 6) }.run().err()?;
        Some(format!("bad at {places:?}, seed {seed}: {found}"))
    })
}

fn rule(rule: Rule) -> Broken {
    Broken { rule: Some(rule), ..Broken::nothing() }
}

#[test]
fn a_crash_at_every_step_of_mending_leaves_the_file_as_it_was() {
    assert_eq!(first_found(Broken::nothing()), None);
}

#[test]
fn whoever_reads_what_is_being_written_anew_reads_what_was_written() {
    assert_eq!(first_found_by_readers(Broken::nothing()), None);
}

#[test]
fn mending_in_another_order_is_found() {
    let unmarked = Broken { bitmap_lies: true, ..Broken::nothing() };
    let crashed = [rule(Rule::PreferredFirst), unmarked, rule(Rule::MendedSynced)]
        .map(|broken| (broken, first_found(broken)));
    let shown = rule(Rule::ReadersKeptAway);
    for (broken, found) in crashed.into_iter().chain([(shown, first_found_by_readers(shown))]) {
        println!("{broken:?}: {}", found.unwrap_or_else(|| panic!("{broken:?} is not found")));
    }
}
