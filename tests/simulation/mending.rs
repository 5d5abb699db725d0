//! One file with bad sectors is read and mended, crashed at every step of that; somebody else reads it meanwhile.

use std::ffi::OsStr;
use std::sync::Arc;

use mirrorfs::inode::{Fh, Ino};
use mirrorfs::legs::LegId;
use mirrorfs::ops::{Herald, Mirror, News};
use mirrorfs::sim::rng::Rng;
use mirrorfs::sim::scheduler::{self, End, Plan};
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
    assert!(found[..read] == data(), "the reader saw something else");
    mirror.release(fh);
    Ok(())
}

/// Returns how it ended, and what was told of the error.
fn mend(world: &Arc<World>, seed: u64, step: u64) -> Result<(End, Vec<String>), String> {
    let heard = Arc::new(Heard(Mutex::new(Rank::Leaf, Vec::new())));
    let plan = Plan { seed, crash_at: Some(step), switch_one_in: 2, broken: None };
    let report = scheduler::run(plan, {
        let (world, heard) = (world.clone(), heard.clone());
        move || {
            let mirror = world.mount(&[], None).expect("it was unmounted cleanly").mirror;
            mirror.set_herald(heard);
            let reader = scheduler::spawn({
                let mirror = mirror.clone();
                move || (0..6).for_each(|_| read(&mirror).expect("the other leg has it"))
            });
            read(&mirror).expect("the other leg has it");
            mirror.mend();
            reader.join();
            mirror.stop();
            mirror.close().expect("both legs are there");
        }
    });
    let told = std::mem::take(&mut *heard.0.lock());
    Ok((report.end, told))
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

#[test]
fn a_crash_at_every_step_of_mending_leaves_the_file_as_it_was() {
    for (places, crash) in BAD.iter().flat_map(|bad| [(*bad, Crash::Kill), (*bad, Crash::PowerCut)]) {
        for seed in 1..7 {
            for step in 1.. {
                let world = Arc::new(World::new(true, Broken::nothing(), None));
                written(&world).unwrap();
                let image = world.disk(LegId::A).live();
                let id = check::tree(&image)[&format!("/{NAME}")].0;
                for at in places {
                    assert!(world.disk(LegId::A).spoil(id, *at, 1));
                }
                let (end, told) = mend(&world, seed, step).unwrap();
                let here = format!("bad at {places:?}, {crash:?} at step {step}, seed {seed}");
                match end {
                    End::Finished => {
                        assert!(told.iter().any(|told| told.ends_with("and rewritten")), "{here}: {told:?}");
                        break;
                    }
                    End::Crashed => {}
                    other => panic!("{here}: {other:?}"),
                }
                world.survive(crash, &mut Rng::new(seed));
                recover(&world).unwrap_or_else(|what| panic!("{here}: {what}"));
            }
        }
    }
}
