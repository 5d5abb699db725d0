//! Random marks, clears, faults and crashes against a model.

use super::*;

const SLOTS: u32 = 64;
const OBJECTS: u64 = 90;

/// A random mark of one object.
fn random_want<'a>(random: &mut Random, objects: &'a [Object]) -> Want<'a> {
    let object = &objects[random.below(OBJECTS) as usize];
    let chunk = random.below(3) * random.below(3000);
    match random.below(5) {
        0 => object.metadata(),
        1 => object.want(Kinds::ENTRIES | Kinds::METADATA, Span::None),
        2 => object.from(chunk),
        _ => object.data(chunk..chunk + 1 + random.below(30)),
    }
}

#[test]
fn every_mark_since_the_last_sync_is_there_after_a_crash() {
    let mut random = Random::seeded();
    for _ in 0..2 {
        let objects: Vec<_> = (0..OBJECTS).map(Object::new).collect();
        let (mut bitmap, stores) = mirrored(SLOTS);
        let host = Mirror::default();
        // What was marked must hold as long as its change is under way.
        for _ in 0..40 {
            let mut open: Vec<(WriteIntent<'_>, Want<'_>)> = Vec::new();
            for _ in 0..random.below(12) {
                let want = random_want(&mut random, &objects);
                let again = Want {
                    object: want.object,
                    kinds: want.kinds,
                    span: want.span.clone(),
                    slot: Needs::Any,
                    moves: None,
                };
                open.push((mark_and_check(&bitmap, &host, &stores, SLOTS, &[want]), again));
                match random.below(8) {
                    0 => bitmap.tick(),
                    1 => drop(bitmap.clear(&bitmap.idle(random.below(3)))),
                    2 => bitmap.write_back(&host).unwrap(),
                    _ => {}
                }
                // What is under way stays marked whatever is swept meanwhile.
                for leg in LegId::ALL {
                    let dirty = alone(&stores[leg], SLOTS).dirty();
                    assert!(open.iter().all(|(_, want)| says(&dirty, want)));
                }
            }
            drop(open);
            if random.below(10) == 0 {
                bitmap = crash(&mut random, &objects, &stores);
            }
        }
    }
}

/// Loses power in the midst of a flush, and comes back with all of it resynced.
fn crash(random: &mut Random, objects: &[Object], stores: &PerLeg<Memory>) -> Bitmap {
    let bitmap = reload(stores, SLOTS);
    let host = Mirror::default();
    host.refuse.store(libc::EIO as u64, Ordering::SeqCst);
    let before = alone(&stores[LegId::A], SLOTS).dirty();
    stores.iter().for_each(|(_, store)| {
        store.tear();
        store.fail(libc::EIO);
    });
    objects.iter().for_each(|object| object.hint.store(0, Ordering::Relaxed));
    assert!(bitmap.mark(&host, &[Object::new(OBJECTS + random.below(1 << 30)).from(0)]).is_err());
    stores.iter().for_each(|(_, store)| store.fail(0));
    let bitmap = reload(stores, SLOTS);
    let after: Vec<_> = bitmap.unresynced();
    for slot in &before {
        let there = |own: &&DirtySlot| own.identities == slot.identities && own.kinds.contains(slot.kinds);
        assert!(after.iter().any(|own| there(&own)), "{slot:?}");
    }
    after.iter().for_each(|slot| bitmap.resynced(slot.index));
    bitmap
}

#[test]
fn threads_and_a_sweeper_never_break_the_promise() {
    let mut random = Random::seeded();
    let seeds: Vec<u64> = (0..4).map(|_| random.next() | 1).collect();
    let (bitmap, stores) = mirrored(SLOTS);
    let (host, working) = (Mirror::default(), AtomicUsize::new(seeds.len()));
    let objects: Vec<_> = (0..OBJECTS).map(Object::new).collect();
    std::thread::scope(|scope| {
        for seed in seeds {
            let (bitmap, host, stores, objects, working) = (&bitmap, &host, &stores, &objects, &working);
            scope.spawn(move || {
                let _done = Done(working);
                let mut random = Random(seed);
                for _ in 0..300 {
                    let count = 1 + random.below(3);
                    let wants: Vec<_> = (0..count).map(|_| random_want(&mut random, objects)).collect();
                    let intent = mark_and_check(bitmap, host, stores, SLOTS, &wants);
                    if random.below(2) == 0 {
                        std::thread::yield_now();
                    }
                    // Still there at the end of the change, whoever swept meanwhile.
                    for leg in LegId::ALL {
                        let dirty = alone(&stores[leg], SLOTS).dirty();
                        assert!(wants.iter().all(|want| says(&dirty, want)));
                    }
                    drop(intent);
                }
            });
        }
        while working.load(Ordering::SeqCst) > 0 {
            bitmap.tick();
            bitmap.clear(&bitmap.idle(2));
            bitmap.write_back(&host).unwrap();
            std::thread::yield_now();
        }
    });
    bitmap.clear(&bitmap.idle(0));
    bitmap.write_back(&host).unwrap();
    for leg in LegId::ALL {
        assert_eq!(alone(&stores[leg], SLOTS).dirty(), []);
    }
}

#[test]
fn while_copies_fail_a_mark_returns_an_error_or_is_durable() {
    let mut random = Random::seeded();
    let (bitmap, stores) = mirrored(SLOTS);
    let host = Mirror::default();
    host.refuse.store(libc::EROFS as u64, Ordering::SeqCst);
    let objects: Vec<_> = (0..OBJECTS).map(Object::new).collect();
    let working = AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let seed = random.next() | 1;
            let (bitmap, host, stores, objects, working) = (&bitmap, &host, &stores, &objects, &working);
            scope.spawn(move || {
                let _done = Done(working);
                let mut random = Random(seed);
                for _ in 0..200 {
                    let want = random_want(&mut random, objects);
                    let Ok(_intent) = bitmap.mark(host, std::slice::from_ref(&want)) else { continue };
                    for leg in LegId::ALL {
                        assert!(says(&alone(&stores[leg], SLOTS).dirty(), &want));
                    }
                }
            });
        }
        stores.iter().for_each(|(_, store)| store.tear());
        while working.load(Ordering::SeqCst) > 0 {
            let leg = LegId::ALL[random.below(2) as usize];
            stores[leg].fail(if random.below(2) == 0 { libc::EIO } else { 0 });
            std::thread::yield_now();
        }
    });
    LegId::ALL.into_iter().for_each(|leg| stores[leg].fail(0));
    drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[Object::new(1 << 40).metadata()]));
}

/// Counts a thread out, also when it panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
