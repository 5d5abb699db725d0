//! A full table while a leg is away: fewer slots say the same or more.

use super::*;

const SLOTS: u32 = 64;
const ROOM: u64 = 48;
const B: LegId = LegId::B;

/// A file of which the leg that is away was not asked what it is there.
struct Placed {
    file: Object,
    dir: u64,
    /// What it is on B is known; where it lies, only the mirror knows.
    known: bool,
}

fn placed(dir: u64, number: u64) -> Placed {
    Placed { file: Object::new(number), dir, known: false }
}

fn directory(dir: u64) -> PerLeg<Identity> {
    Object::new(1_000_000_000 + dir).pair()
}

impl Placed {
    fn want(&self, kinds: Kinds, span: Span) -> Want<'_> {
        Want { object: self, kinds, span, slot: Needs::Any, moves: None }
    }

    fn metadata(&self) -> Want<'_> {
        self.want(Kinds::METADATA, Span::None)
    }

    fn moved(&self) -> Want<'_> {
        Want { slot: Needs::Own, moves: Some(Kinds::METADATA | Kinds::DATA), ..self.metadata() }
    }

    fn chunk(&self, chunk: u64) -> Want<'_> {
        self.want(Kinds::DATA, Span::Chunks(ChunkIndex(chunk)..ChunkIndex(chunk + 1)))
    }
}

impl Markable for Placed {
    fn slot_hint(&self) -> &AtomicU64 {
        &self.file.hint
    }

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        let pair = self.file.pair();
        let name = self.file.number.to_string();
        let place = Identity::at_place(&directory(self.dir)[LegId::A], std::ffi::OsStr::new(&name), true);
        Ok(if self.known { pair } else { PerLeg::new(pair[LegId::A], place) })
    }

    fn directory(&self) -> Option<Identity> {
        Some(directory(self.dir)[LegId::A])
    }
}

/// Knows all directories but those of which it is told that it does not.
#[derive(Default)]
struct Knows {
    unknown: Vec<u64>,
}

impl Host for Knows {
    fn settle_and_sync(&self, _: &[IdleSlot]) -> io::Result<()> {
        panic!("nothing is cleared while a leg is away")
    }

    fn copy_failed(&self, _: CopyId, _: &io::Error) -> io::Result<()> {
        Err(errno(libc::EIO))
    }

    fn directory(&self, dir: &Identity) -> Option<PerLeg<Identity>> {
        let number = dir.ino - 1_000_000_000;
        (!self.unknown.contains(&number)).then(|| directory(number))
    }
}

fn away() -> (Bitmap, PerLeg<Memory>) {
    let (bitmap, stores) = mirrored(SLOTS);
    bitmap.stop_using(B);
    bitmap.set_away(Some(B));
    (bitmap, stores)
}

fn mark(bitmap: &Bitmap, want: Want<'_>) {
    drop(bitmap.mark(&Knows::default(), &[want]).unwrap());
}

fn covered(dirty: &[DirtySlot]) -> Vec<u64> {
    let covering = dirty.iter().filter(|slot| slot.kinds.contains(Kinds::CHILDREN | Kinds::ENTRIES));
    covering.map(|slot| slot.identities[LegId::A].ino - 1_000_000_000).collect()
}

#[test]
fn the_slots_of_one_directory_become_one_and_those_of_others_stay() {
    for known in [false, true] {
        let (bitmap, stores) = away();
        let few: Vec<Placed> = (0..3).map(|number| Placed { known, ..placed(2, 5000 + number) }).collect();
        few.iter().for_each(|file| mark(&bitmap, file.chunk(7)));
        for number in 0..200 {
            mark(&bitmap, Placed { known, ..placed(1, number) }.chunk(1));
        }
        let loaded = alone(&stores[LegId::A], SLOTS);
        assert!(!loaded.compare_all, "known: {known}");
        assert_eq!(covered(&loaded.dirty()), [1]);
        assert!(few.iter().all(|file| says(&loaded.dirty(), &file.chunk(7))));
        assert!(loaded.dirty().len() <= ROOM as usize);
        let stats = bitmap.stats();
        assert_eq!((stats.covered_directories, stats.bounded, stats.compare_all), (1, false, false));
    }
}

#[test]
fn more_directories_than_slots_are_everything() {
    let (bitmap, stores) = away();
    for dir in 0..100 {
        for number in 0..2 {
            mark(&bitmap, placed(dir, 10 * dir + number).chunk(1));
        }
    }
    assert!(alone(&stores[LegId::A], SLOTS).compare_all);
}

#[test]
fn a_directory_that_cannot_be_told_is_not_folded_into() {
    let (bitmap, stores) = away();
    let host = Knows { unknown: vec![1] };
    for number in 0..100 {
        drop(bitmap.mark(&host, &[placed(1, number).chunk(1)]).unwrap());
    }
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert!(loaded.compare_all && covered(&loaded.dirty()).is_empty());
}

#[test]
fn what_leaves_a_covered_directory_has_all_of_itself_marked_and_is_not_folded_again() {
    let (bitmap, stores) = away();
    let first = placed(1, 0);
    mark(&bitmap, first.chunk(3));
    (1..=ROOM).for_each(|number| mark(&bitmap, placed(1, number).chunk(1)));
    let dirty = || alone(&stores[LegId::A], SLOTS).dirty();
    assert!(!says(&dirty(), &first.chunk(3)), "it is folded");
    let whole = first.want(Kinds::METADATA | Kinds::DATA, Span::From(ChunkIndex(0)));
    mark(&bitmap, first.chunk(3));
    mark(&bitmap, first.moved());
    assert!(says(&dirty(), &whole));
    (100..200).for_each(|number| mark(&bitmap, placed(1, number).chunk(1)));
    assert!(says(&dirty(), &whole));
    let bitmap = reload_alone(&stores);
    (200..300).for_each(|number| mark(&bitmap, placed(1, number).chunk(1)));
    assert!(says(&dirty(), &whole), "nor by a later mount");
    assert!(!alone(&stores[LegId::A], SLOTS).compare_all);
}

fn reload_alone(stores: &PerLeg<Memory>) -> Bitmap {
    let only = PerLeg::new(Some(Box::new(stores[LegId::A].clone()) as Box<dyn PageStore>), None);
    let copies = Copies::PerLeg(only);
    let loaded = copies.load(&Expect { stale: Some(B), ..expect(SLOTS) });
    let bitmap = Bitmap::new(copies, loaded, LegId::A).unwrap();
    bitmap.set_away(Some(B));
    bitmap
}

#[test]
fn what_was_moved_or_is_held_or_was_dirty_before_is_not_folded() {
    let (bitmap, stores) = mirrored(SLOTS);
    let (before, moved, held) = (placed(1, 0), placed(1, 1), placed(1, 2));
    mark(&bitmap, before.chunk(1));
    bitmap.stop_using(B);
    bitmap.set_away(Some(B));
    mark(&bitmap, moved.moved());
    let _held = bitmap.mark(&Knows::default(), &[held.chunk(1)]).unwrap();
    (3..200).for_each(|number| mark(&bitmap, placed(1, number).chunk(1)));
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert_eq!(covered(&loaded.dirty()), [1]);
    for want in [before.chunk(1), moved.metadata(), held.chunk(1)] {
        assert!(says(&loaded.dirty(), &want), "{:?}", want.kinds);
    }
}

#[test]
fn what_a_resync_knows_by_number_is_not_folded() {
    let (bitmap, stores) = away();
    (0..40).for_each(|number| mark(&bitmap, placed(1, number).chunk(1)));
    let bitmap = {
        drop(bitmap);
        reload_alone(&stores)
    };
    bitmap.resyncs(true);
    for number in 0..40 {
        mark(&bitmap, placed(1, 1000 + number).chunk(1));
    }
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert!((0..40).all(|number| says(&loaded.dirty(), &placed(1, number).chunk(1))));
    bitmap.resyncs(false);
    (0..40).for_each(|number| mark(&bitmap, placed(1, 2000 + number).chunk(1)));
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert!(!(0..40).any(|number| says(&loaded.dirty(), &placed(1, number).chunk(1))));
}

#[test]
fn the_pieces_of_one_file_become_one_to_its_end() {
    let (bitmap, stores) = away();
    let (large, other) = (Object::new(1), Object::new(2));
    mark(&bitmap, other.data(5000..5001));
    for window in (1..60).rev() {
        mark(&bitmap, large.data(2048 * window..2048 * window + 1));
    }
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert!(!loaded.compare_all);
    assert!(says(&loaded.dirty(), &large.from(13 * 2048)), "from the first of those that filled the table");
    assert!((1..60).all(|window| says(&loaded.dirty(), &large.data(2048 * window..2048 * window + 1))));
    assert!(loaded.dirty().len() < 40);
    let small: Vec<_> = loaded.dirty().into_iter().filter(|slot| slot.identities == other.pair()).collect();
    assert_eq!((small.len(), small[0].from), (1, None));
}

/// A copy that keeps every state that a crash could leave.
#[derive(Clone)]
struct History(Arc<Mutex<Vec<Vec<u8>>>>);

impl PageStore for History {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().last().cloned().unwrap())
    }

    fn write(&self, page: PageIndex, new: &[u8]) -> io::Result<()> {
        let mut states = self.0.lock();
        for (at, sector) in new.chunks(SLOT_SIZE).enumerate() {
            let mut bytes = states.last().cloned().unwrap();
            let start = page.0 as usize * PAGE_SIZE + at * SLOT_SIZE;
            if &bytes[start..start + SLOT_SIZE] != sector {
                bytes[start..start + SLOT_SIZE].copy_from_slice(sector);
                states.push(bytes);
            }
        }
        Ok(())
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_fine_slots_or_the_coarse_one() {
    let image = Bitmap::create_image(MIRROR, SLOTS, ChunkSize::DEFAULT);
    let history = History(Arc::new(Mutex::new(Rank::Leaf, vec![image])));
    let copies = Copies::Single(Box::new(history.clone()));
    let loaded = copies.load(&expect(SLOTS));
    let bitmap = Bitmap::new(copies, loaded, LegId::A).unwrap();
    bitmap.set_away(Some(B));
    let mut random = Random::seeded();
    let mut since = Vec::new();
    for number in 0..400 {
        let (dir, chunk) = (random.below(3), 2048 * random.below(3));
        let file = if random.below(8) == 0 { placed(9, 9) } else { placed(dir, 1000 * (dir + 1) + number) };
        mark(&bitmap, file.chunk(chunk));
        since.push((history.0.lock().len() - 1, file, chunk));
    }
    let states = history.0.lock().clone();
    for (at, state) in states.into_iter().enumerate() {
        let loaded = Loaded::from_images(vec![(CopyId::Single, Ok(state))], &expect(SLOTS));
        assert!(!loaded.compare_all, "state {at}");
        let dirty = loaded.dirty();
        let dirs = covered(&dirty);
        for (_, file, chunk) in since.iter().filter(|(since, _, _)| *since <= at) {
            assert!(dirs.contains(&file.dir) || says(&dirty, &file.chunk(*chunk)), "state {at}");
        }
    }
}
