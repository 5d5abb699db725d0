//! Each step on real directories, a crash after each of them, and the same command once more.

use super::*;
use crate::cli::compare;
use crate::cli::create;
use crate::cli::resolve::differing::{self, Found as Differences};
use crate::cli::resolve::marks::Marks;
use crate::superblock::{FileStore, Found, Plan, Refusal, Superblocks, Work, plan, plan_alone};
use std::fs::{self, File};

/// Two legs of which each has been changed without the other.
struct Split {
    top: tempfile::TempDir,
    legs: PerLeg<LegDir>,
}

impl Split {
    fn new() -> Split {
        let top = tempfile::tempdir().unwrap();
        let paths = PerLeg::new(top.path().join("a"), top.path().join("b"));
        for (_, path) in paths.iter() {
            fs::create_dir(path).unwrap();
        }
        fs::create_dir(paths[LegId::A].join("dir")).unwrap();
        for name in ["same", "changed", "dir/linked"] {
            fs::write(paths[LegId::A].join(name), name).unwrap();
        }
        fs::hard_link(paths[LegId::A].join("dir/linked"), paths[LegId::A].join("link")).unwrap();
        create::create(&create::Args {
            a: paths[LegId::A].clone(),
            b: paths[LegId::B].clone(),
            source: Some(LegId::A),
            chunk: ChunkSize::default(),
            bitmap: None,
        })
        .unwrap();
        let legs = PerLeg::from_fn(|leg| LegDir::open(&paths[leg]).unwrap());
        let split = Split { top, legs };
        for leg in LegId::ALL {
            split.go_on_alone(leg);
            let at = |name: &str| split.legs[leg].path().join(name);
            fs::write(at("changed"), format!("by {leg}")).unwrap();
            fs::write(at("dir/linked"), format!("linked by {leg}")).unwrap();
            fs::create_dir(at(&format!("only {leg}"))).unwrap();
            fs::write(at(&format!("only {leg}/file")), "x").unwrap();
        }
        split
    }

    fn go_on_alone(&self, leg: LegId) {
        let decided = plan_alone(leg, &self.found()[leg]).unwrap();
        let superblock = self.superblocks()[leg].clone();
        let store = FileStore::open(self.legs[leg].state_dir().unwrap().as_fd(), &superblock).unwrap();
        let mut found: PerLeg<Option<superblock::FoundSide>> = PerLeg::new(None, None);
        found[leg] = Some((superblock, Box::new(store)));
        Superblocks::mount(found, &decided, None).unwrap().unmount().unwrap();
    }

    fn found(&self) -> PerLeg<Found> {
        PerLeg::from_fn(|leg| superblock::store::read(self.legs[leg].as_fd()).unwrap())
    }

    fn superblocks(&self) -> PerLeg<Superblock> {
        self.found().map(|found| match found {
            Found::Leg { superblock, .. } => superblock,
            other => panic!("{other:?}"),
        })
    }

    fn differences(&self) -> Differences {
        let superblocks = self.superblocks();
        let marks = PerLeg::from_fn(|leg| {
            Marks::read(self.legs[leg].state_dir().unwrap().as_fd(), &superblocks[leg]).unwrap()
        });
        let roots = LegId::ALL.map(|leg| File::from(self.legs[leg].view().unwrap()));
        differing::find(roots, &marks).unwrap()
    }

    /// The first `steps` steps; as the command does it from the start.
    fn discard(&self, leg: LegId, steps: usize) {
        let chosen = Chosen::of(&self.differences(), leg);
        let mut discard = Discard::new(&self.legs, self.superblocks(), leg, None).unwrap();
        let complain = &mut |path: &Path, error: io::Error| panic!("{}: {error}", path.display());
        for step in 0..steps {
            match step {
                0 => discard.announce().unwrap(),
                1 => drop(discard.move_aside(&chosen, "then", complain).unwrap()),
                2 => discard.forget_marks().unwrap(),
                _ => discard.hand_over().unwrap(),
            }
        }
    }

    /// What a leg holds in its tree and aside, by the bytes of the files.
    fn all_contents(&self, leg: LegId) -> Vec<String> {
        let output = std::process::Command::new("find")
            .arg(self.legs[leg].path())
            .args(["-type", "f", "-not", "-name", "superblock*", "-not", "-name", "bitmap", "-not", "-name"])
            .args(["lock", "-exec", "cat", "{}", ";", "-printf", "\n"])
            .output()
            .unwrap();
        let mut all: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        all.sort();
        all
    }
}

#[test]
fn a_crash_after_any_step_leaves_what_the_same_command_finishes() {
    for leg in LegId::ALL {
        let kept = leg.other();
        for steps in 0..=4 {
            let split = Split::new();
            let before = PerLeg::from_fn(|leg| split.all_contents(leg));
            split.discard(leg, steps);
            // Interrupted: nothing is lost, and the leg that is kept is as it was.
            assert_eq!(split.all_contents(leg), before[leg], "after {steps} steps");
            assert_eq!(split.all_contents(kept), before[kept]);
            let alone = |leg| plan_alone(leg, &split.found()[leg]);
            let incomplete = Err(Refusal::Incomplete(leg));
            assert_eq!(alone(leg) == incomplete, steps > 0, "after {steps} steps");
            assert!(alone(kept).is_ok());
            let decided = plan(&split.found());
            if steps < 4 {
                assert!(matches!(decided, Err(Refusal::Divergent(_))), "{decided:?} after {steps} steps");
                split.go_on_alone(kept);
                split.discard(leg, 4);
            }
            let expected = Plan { source: kept, work: Work::CompareAll, stale: Some(leg) };
            assert_eq!(plan(&split.found()), Ok(expected));
            assert_eq!(alone(leg), incomplete);
            split.go_on_alone(kept);
            assert_eq!(plan(&split.found()), Ok(expected), "the one that is kept goes on alone first");
            assert_eq!(split.all_contents(leg), before[leg]);

            let at = |path: &str| split.legs[leg].path().join(path);
            let aside = |path: &str| at(".mirrorfs/conflicts/then").join(path);
            assert_eq!(fs::read_to_string(aside("changed")).unwrap(), format!("by {leg}"));
            for name in ["link", "dir/linked"] {
                assert_eq!(fs::read_to_string(aside(name)).unwrap(), format!("linked by {leg}"));
                assert!(!at(name).exists());
            }
            assert!(aside(&format!("only {leg}/file")).exists() && !at(&format!("only {leg}")).exists());
            assert!(at("same").exists() && !aside("same").exists());
        }
    }
}

#[test]
fn an_object_of_which_an_interrupted_run_has_moved_one_name_follows_with_the_others() {
    for leg in LegId::ALL {
        let split = Split::new();
        split.discard(leg, 1);
        let at = |path: &str| split.legs[leg].path().join(path);
        let mut aside = Aside::new(split.legs[leg].view().unwrap(), "before").unwrap();
        aside.take(Path::new("dir/linked")).unwrap();
        // On the other leg it has two names as well, and the same bytes: nothing else tells.
        fs::write(at("link"), "same").unwrap();
        fs::write(split.legs[leg.other()].path().join("link"), "same").unwrap();
        split.discard(leg, 4);
        assert!(!at("link").exists() && at(".mirrorfs/conflicts/then/link").exists());
    }
}

#[test]
fn no_mark_is_left_in_any_copy_and_all_of_them_say_compare_everything() {
    let split = Split::new();
    let file = |leg: LegId| split.legs[leg].path().join(".mirrorfs/bitmap");
    // One that is not there is made.
    fs::remove_file(file(LegId::A)).unwrap();
    split.discard(LegId::B, 3);
    let says = &split.superblocks()[LegId::A];
    let chunk = ChunkSize::new(says.chunk_size).unwrap();
    let expect =
        Expect { mirror: says.mirror, slots: says.bitmap_slots, chunk, file: says.bitmap_file, stale: None };
    for leg in LegId::ALL {
        let loaded = Loaded::from_images(vec![(CopyId::Leg(leg), fs::read(file(leg)))], &expect);
        assert_eq!(loaded.verdicts, [(CopyId::Leg(leg), Verdict::Good)]);
        assert!(loaded.compare_all && loaded.dirty().is_empty());
    }
}

#[test]
fn a_bitmap_elsewhere_has_to_be_named_and_is_reset_too() {
    let split = Split::new();
    let file = split.top.path().join("bitmap");
    let mut superblocks = split.superblocks();
    let new = |superblocks: &PerLeg<Superblock>, file: Option<&Path>| {
        Discard::new(&split.legs, superblocks.clone(), LegId::B, file).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(new(&superblocks, Some(&file)).unwrap_err().contains("kept on the legs"));
    superblocks[LegId::A].bitmap_place = BitmapPlace::Elsewhere;
    assert!(new(&superblocks, None).unwrap_err().contains("--bitmap FILE"));
    let says = superblocks[LegId::A].clone();
    let chunk = ChunkSize::new(says.chunk_size).unwrap();
    let foreign = Bitmap::create_image(Uuid::new_v4(), says.bitmap_slots, chunk);
    for theirs in [foreign, b"a letter".to_vec(), vec![7; 5 << 20]] {
        fs::write(&file, &theirs).unwrap();
        assert!(new(&superblocks, Some(&file)).unwrap_err().contains("not this mirror's bitmap"));
        assert!(fs::read(&file).unwrap() == theirs, "not touched");
    }
    let own = Bitmap::create_image(says.mirror, says.bitmap_slots, chunk);
    let outdated = Bitmap::ignorant_image(says.mirror, says.bitmap_slots, chunk, Uuid::new_v4());
    for there in [None, Some(Vec::new()), Some(own), Some(outdated)] {
        let _ = fs::remove_file(&file);
        there.iter().for_each(|bytes| fs::write(&file, bytes).unwrap());
        let mut discard = Discard::new(&split.legs, superblocks.clone(), LegId::B, Some(&file)).unwrap();
        discard.forget_marks().unwrap();
        drop(discard);
        // The file and the leg that is kept name each other, anew: an older one is known for one.
        let named = split.superblocks()[LegId::A].clone();
        assert_ne!(named.bitmap_file, superblocks[LegId::A].bitmap_file);
        assert_eq!((named.events, named.generation), (says.events, says.generation));
        let expected = Bitmap::ignorant_image(says.mirror, says.bitmap_slots, chunk, named.bitmap_file);
        assert!(fs::read(&file).unwrap() == expected);
        superblocks[LegId::A] = named;
    }
}

#[test]
fn what_is_equal_stays_and_a_comparison_finds_no_other_version_left() {
    let split = Split::new();
    split.discard(LegId::B, 4);
    let [a, b] = LegId::ALL.map(|leg| split.legs[leg].path().to_owned());
    let mut left = Vec::new();
    compare::compare(&a, &b, &mut |line| left.push(String::from_utf8(line).unwrap())).unwrap();
    let missing_or_times = |line: &String| line.contains("only on A") || line.contains("time (A");
    assert!(left.iter().all(missing_or_times), "{left:?}");
}
