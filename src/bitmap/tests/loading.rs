//! What the next mount makes of copies in every state.

use super::*;

const SLOTS: u32 = 64;

type Images = Vec<(CopyId, io::Result<Vec<u8>>)>;

fn images(a: io::Result<Vec<u8>>, b: io::Result<Vec<u8>>) -> Images {
    vec![(CopyId::Leg(LegId::A), a), (CopyId::Leg(LegId::B), b)]
}

fn load(images: Images) -> Loaded {
    Loaded::from_images(images, &expect(SLOTS))
}

/// An image with one marked object a slot.
fn image_of(objects: Range<u64>) -> Vec<u8> {
    let (bitmap, stores) = mirrored(SLOTS);
    for number in objects {
        drop(bitmap.mark(&Mirror::default(), &[Object::new(number).data(number..number + 1)]).unwrap());
    }
    stores[LegId::A].bytes()
}

fn sector(slot: usize) -> Range<usize> {
    PAGE_SIZE + slot * SLOT_SIZE..PAGE_SIZE + (slot + 1) * SLOT_SIZE
}

fn numbers(loaded: &Loaded) -> Vec<u64> {
    let mut numbers: Vec<_> = loaded.dirty().iter().map(|slot| slot.identities[LegId::A].ino).collect();
    numbers.sort();
    numbers
}

#[test]
fn equal_copies_are_one() {
    let image = image_of(1..20);
    let loaded = load(images(Ok(image.clone()), Ok(image.clone())));
    assert_eq!(numbers(&loaded), (1..20).collect::<Vec<_>>());
    assert!(!loaded.compare_all);
    assert!(loaded.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Good));
    assert_eq!(loaded.image(), image);
}

#[test]
fn each_fault_of_one_copy_is_named_and_made_good_by_the_other() {
    let good = image_of(1..9);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        Ok(bad)
    };
    let other = Uuid::from_u128(9);
    let smaller = Bitmap::create_image(MIRROR, 128, ChunkSize::DEFAULT)[..good.len()].to_vec();
    let table: Vec<(io::Result<Vec<u8>>, Verdict)> = vec![
        (Err(errno(libc::ENOENT)), Verdict::Missing),
        (Err(errno(libc::EUCLEAN)), Verdict::Holes),
        (Err(errno(libc::EACCES)), Verdict::Unreadable { errno: libc::EACCES }),
        (changed(&|bad| bad.truncate(5000)), Verdict::Short { len: 5000 }),
        (changed(&|bad| bad.clear()), Verdict::Short { len: 0 }),
        (changed(&|bad| bad[20] ^= 1), Verdict::DamagedHeader),
        (changed(&|bad| bad.fill(0)), Verdict::DamagedHeader),
        (Ok(smaller), Verdict::DamagedHeader),
        (Ok(Bitmap::create_image(MIRROR, SLOTS, ChunkSize::MAX)), Verdict::DamagedHeader),
        (Ok(Bitmap::create_image(other, SLOTS, ChunkSize::DEFAULT)), Verdict::Foreign { mirror: other }),
        (changed(&|bad| bad[sector(3)][77] ^= 1), Verdict::DamagedSlot(SlotIndex(3))),
        (changed(&|bad| bad[sector(60)][0] = 1), Verdict::DamagedSlot(SlotIndex(60))),
    ];
    for (bad, verdict) in table {
        let again = || match &bad {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => Err(errno(error.raw_os_error().unwrap())),
        };
        for (both, at) in [(images(again(), Ok(good.clone())), 0), (images(Ok(good.clone()), again()), 1)] {
            let loaded = load(both);
            assert_eq!(loaded.verdicts[at].1, verdict);
            assert_eq!(loaded.verdicts[1 - at].1, Verdict::Good, "beside {verdict:?}");
            assert_eq!(numbers(&loaded), (1..9).collect::<Vec<_>>(), "beside {verdict:?}");
            assert!(!loaded.compare_all, "{verdict:?}");
        }
        assert!(load(images(again(), again())).compare_all, "{verdict:?} on both");
        assert!(load(vec![(CopyId::Single, again())]).compare_all, "{verdict:?} alone");
    }
}

#[test]
fn different_slots_damaged_in_each_copy_still_tell_all() {
    let (mut a, mut b) = (image_of(1..20), image_of(1..20));
    a[sector(3)][77] ^= 1;
    b[sector(4)][77] ^= 1;
    let loaded = load(images(Ok(a.clone()), Ok(b.clone())));
    assert!(!loaded.compare_all);
    assert_eq!(numbers(&loaded), (1..20).collect::<Vec<_>>());
    b[sector(3)][77] ^= 1;
    let loaded = load(images(Ok(a), Ok(b)));
    assert!(loaded.compare_all);
    assert_eq!(loaded.dirty().len(), 18);
}

#[test]
fn a_stale_copy_adds_what_it_has_and_contradicting_slots_are_both_kept() {
    let loaded = load(images(Ok(image_of(1..9)), Ok(image_of(5..30))));
    assert_eq!(numbers(&loaded), (1..30).collect::<Vec<_>>());
    assert!(!loaded.compare_all);
    let first: Vec<_> = loaded.dirty()[..8].iter().map(|slot| slot.identities[LegId::A].ino).collect();
    assert_eq!(first, (1..9).collect::<Vec<_>>(), "slots of the first copy stay where they are");
}

#[test]
fn bits_of_one_object_are_united() {
    let marked = |wants: &[Want<'_>]| {
        let (bitmap, stores) = mirrored(SLOTS);
        drop(bitmap.mark(&Mirror::default(), wants).unwrap());
        Ok(stores[LegId::A].bytes())
    };
    let file = Object::new(7);
    let (a, b) = (marked(&[file.data(1..3), file.metadata()]), marked(&[file.data(2..9), file.from(4000)]));
    let loaded = load(images(a, b));
    assert_eq!(loaded.dirty().len(), 1);
    for want in [file.data(1..9), file.from(4000), file.metadata()] {
        assert!(says(&loaded.dirty(), &want));
    }
}

#[test]
fn compare_all_is_remembered_until_all_is_compared() {
    let mut image = image_of(1..9);
    image[sector(3)][77] ^= 1;
    let stores = PerLeg::from_fn(|_| Memory::new(image.clone()));
    let bitmap = reload(&stores, SLOTS);
    assert!(bitmap.compare_all());
    drop(bitmap);
    let bitmap = reload(&stores, SLOTS);
    assert!(bitmap.compare_all(), "a second crash has mended slots and has to compare all the same");
    bitmap.all_compared(&Mirror::default()).unwrap();
    drop(bitmap);
    assert!(!reload(&stores, SLOTS).compare_all());
}

#[test]
fn a_copy_in_a_file_survives_a_crash_and_a_missing_one_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap();
    let (a, b) = (std::path::Path::new("a"), std::path::Path::new("b"));
    let file = Object::new(7);
    let single = |name| Copies::Single(Box::new(FileStore::open(&fd, name).unwrap()));
    FileStore::create(&fd, a, &Bitmap::create_image(MIRROR, SLOTS, ChunkSize::DEFAULT)).unwrap();
    let copies = single(a);
    let loaded = copies.load(&expect(SLOTS));
    drop(
        Bitmap::new(copies, loaded, LegId::A).unwrap().mark(&Mirror::default(), &[file.data(5..6)]).unwrap(),
    );
    let loaded = single(a).load(&expect(SLOTS));
    assert!(says(&loaded.dirty(), &file.data(5..6)) && !loaded.compare_all);
    FileStore::create(&fd, b, &loaded.image()).unwrap();
    assert_eq!(std::fs::read(dir.path().join(a)).unwrap(), std::fs::read(dir.path().join(b)).unwrap());
}

#[test]
fn more_slots_than_fit_means_compare_all() {
    let loaded = load(images(Ok(image_of(0..48)), Ok(image_of(100..148))));
    assert!(loaded.compare_all);
    assert_eq!(loaded.dirty().len(), 56);
}

#[test]
fn bringing_the_copies_up_loses_nothing_at_any_write() {
    let mut random = Random::seeded();
    for _ in 0..6 {
        let (mut a, b) = (image_of(0..20), image_of(10..10 + random.below(40)));
        if random.below(2) == 0 {
            a[sector(random.below(64) as usize)].fill(0xff);
        }
        let before = load(images(Ok(a.clone()), Ok(b.clone())));
        // Cut off after so many writes, the last one torn.
        for cut in 0..30 {
            let stores = PerLeg::new(a.clone(), b.clone()).map(Memory::new);
            let budget = Arc::new(AtomicUsize::new(cut));
            let cutting = stores.as_ref().map(|store| {
                store.tear();
                let cut = Cut { store: store.clone(), budget: budget.clone() };
                Some(Box::new(cut) as Box<dyn PageStore>)
            });
            let cutting = Copies::PerLeg(cutting);
            let loaded = cutting.load(&expect(SLOTS));
            let finished = Bitmap::new(cutting, loaded, LegId::A).is_ok();
            let [a, b] = LegId::ALL.map(|leg| stores[leg].bytes());
            let after = load(images(Ok(a.clone()), Ok(b.clone())));
            assert!(after.compare_all || !before.compare_all, "after {cut} writes");
            for slot in before.dirty() {
                let object = Object::new(slot.identities[LegId::A].ino);
                let want = object.data(object.number..object.number + 1);
                assert!(says(&after.dirty(), &want), "{} after {cut} writes", object.number);
            }
            if finished {
                assert_eq!(a, b);
                break;
            }
        }
    }
}

/// Works for so many writes, all copies together, and then for none.
struct Cut {
    store: Memory,
    budget: Arc<AtomicUsize>,
}

impl PageStore for Cut {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.store.read_all()
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        let spent = |left: usize| left.checked_sub(1);
        if self.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spent).is_err() {
            self.store.fail(libc::EIO);
        }
        self.store.write(page, bytes)
    }
}

#[test]
fn forgetting_a_copy_says_that_everything_is_to_be_compared_before_the_first_slot_is_gone() {
    let image = Bitmap::ignorant_image(MIRROR, SLOTS, ChunkSize::DEFAULT, Uuid::nil());
    let whole = image_of(0..20);
    for cut in 0..3 {
        let store = Memory::new(whole.clone());
        store.tear();
        let cutting = Cut { store: store.clone(), budget: Arc::new(AtomicUsize::new(cut)) };
        let finished = Bitmap::forget(&cutting, &image).is_ok();
        let after = load(images(Ok(store.bytes()), Err(errno(libc::ENOENT))));
        assert_eq!(finished, cut == 2);
        assert!(after.compare_all || store.bytes() == whole, "after {cut} writes");
        assert!(!finished || (after.compare_all && after.dirty().is_empty()));
    }
}

#[test]
fn an_old_file_tells_nothing_not_even_by_its_slots() {
    let renewed = Expect { file: Uuid::from_u128(5), ..expect(SLOTS) };
    let loaded = Loaded::from_images(vec![(CopyId::Single, Ok(image_of(0..20)))], &renewed);
    assert_eq!(loaded.verdicts, [(CopyId::Single, Verdict::Outdated)]);
    assert!(loaded.compare_all && loaded.dirty().is_empty());
}
