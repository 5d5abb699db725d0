//! A leg is filled where what names an object does not last: it is known by its place.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use super::world::{CALLER, NOBODY, Naming, World, content, file, sweep, wait_until};
use crate::inode::{Fh, Ino};
use crate::legs::simulated::SimLeg;
use crate::legs::simulated::image::ROOT;
use crate::legs::{LegId, Make, RenameMode};
use crate::ops::Mirror;
use crate::resync::RehearsalHost;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// A mirror with `d/f`, and that file opened.
fn with_a_file(world: &World) -> (Arc<Mirror<SimLeg>>, Fh) {
    let mirror = world.mount();
    let d = mirror.make(Ino::ROOT, name("d"), Make::Directory { mode: 0o755 }, NOBODY).unwrap().attr.ino;
    let (_, fh) = mirror.create(d, name("f"), 0o644, NOBODY, libc::O_RDWR).unwrap();
    mirror.write(fh, b"old", 0, false).unwrap();
    sweep(&mirror);
    (mirror, fh)
}

/// A hook that does this, on a thread that holds nothing.
fn between_calls(mut work: impl FnMut() + Send + 'static) -> impl FnMut() + Send + 'static {
    move || std::thread::scope(|scope| scope.spawn(&mut work).join().unwrap())
}

/// What one of its threads does, until it is told to go on.
type Part = Box<dyn FnOnce(&Mirror<SimLeg>, &AtomicBool) + Send>;

/// A rename that is done and noted, of which the mirror does not know yet, until it is told to go on or changes have to
/// wait.
struct Halfway {
    go_on: Arc<AtomicBool>,
    threads: [JoinHandle<()>; 3],
}

impl Halfway {
    fn begin(mirror: &Arc<Mirror<SimLeg>>) -> Halfway {
        let go_on = Arc::new(AtomicBool::new(false));
        let (is_held, held) = channel();
        let spawn = |work: Part| {
            let (mirror, go_on) = (mirror.clone(), go_on.clone());
            std::thread::spawn(move || work(&mirror, &go_on))
        };
        let holder = spawn(Box::new(move |mirror, go_on| {
            let _held = mirror.freed.hold();
            is_held.send(()).unwrap();
            wait_until(|| go_on.load(Ordering::SeqCst));
        }));
        held.recv().unwrap();
        let watcher = spawn(Box::new(|mirror, go_on| {
            wait_until(|| go_on.load(Ordering::SeqCst) || !mirror.gate.is_open());
            go_on.store(true, Ordering::SeqCst);
        }));
        let renamer = spawn(Box::new(|mirror, _| {
            mirror.rename(Ino::ROOT, name("d"), Ino::ROOT, name("e"), RenameMode::Replace).unwrap();
        }));
        wait_until(|| !mirror.noted().lock().is_empty());
        Halfway { go_on, threads: [holder, watcher, renamer] }
    }

    fn end(self) {
        self.go_on.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn what_is_changed_below_a_directory_while_its_new_place_is_not_known_is_on_the_new_leg() {
    for leg in LegId::ALL {
        // At which call after what the rename noted was taken.
        for at in 0.. {
            let mut world = World::new();
            world.naming = Naming::Fleeting;
            let (mirror, fh) = with_a_file(&world);
            world.new_disk(leg);
            let (is_written, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
            let hook = between_calls({
                let (mirror, is_written, is_over) = (mirror.clone(), is_written.clone(), is_over.clone());
                let (mut renaming, mut calls) = (None, 0);
                move || {
                    // From then on it would wait for itself.
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let halfway = renaming.get_or_insert_with(|| Some(Halfway::begin(&mirror)));
                    let is_taken = calls > 0 || mirror.noted().lock().is_empty();
                    if halfway.is_none() || !is_taken || !mirror.gate.is_open() {
                        return;
                    }
                    calls += 1;
                    if calls > at {
                        assert_eq!(mirror.write(fh, b"new", 0, false).unwrap(), 3);
                        is_written.store(true, Ordering::SeqCst);
                        halfway.take().expect("once").end();
                    }
                }
            });
            world.replace_again(&mirror, leg, hook).unwrap();
            is_over.store(true, Ordering::SeqCst);
            mirror.resync();
            mirror.release(fh);
            sweep(&mirror);
            assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "leg {leg}, written at call {at}");
            if !is_written.load(Ordering::SeqCst) {
                break;
            }
        }
    }
}

/// Their other names are not among what was touched: what goes for one of them would change the others.
#[test]
fn names_of_one_file_that_are_exchanged_with_those_of_another_stay_its_own() {
    for leg in LegId::ALL {
        let mut world = World::new();
        world.naming = Naming::Fleeting;
        let mirror = world.mount();
        for (first, second) in [("a", "b"), ("c", "d")] {
            let (ino, fh) = file(&mirror, first, first.as_bytes());
            mirror.release(fh);
            mirror.link(ino, Ino::ROOT, name(second)).unwrap();
        }
        sweep(&mirror);
        let disk = world.new_disk(leg);
        let mut is_done = false;
        let hook = {
            let mirror = mirror.clone();
            between_calls(move || {
                let live = disk.live();
                let is_there = |name: &&str| live.entry(&(ROOT, (*name).into())).is_some();
                if !is_done && mirror.gate.is_open() && ["a", "b", "c", "d"].iter().all(is_there) {
                    mirror.rename(Ino::ROOT, name("a"), Ino::ROOT, name("c"), RenameMode::Exchange).unwrap();
                    is_done = true;
                }
            })
        };
        world.replace_again(&mirror, leg, hook).unwrap();
        mirror.resync();
        assert_eq!(["a", "b", "c", "d"].map(|name| content(&mirror, name)), [b"c", b"a", b"a", b"c"]);
        sweep(&mirror);
        world.assert_equal();
        let found = mirror.lookup(Ino::ROOT, name("a")).unwrap();
        let fh = mirror.open(found.attr.ino, libc::O_RDWR, CALLER).unwrap();
        mirror.write(fh, b"X", 0, false).unwrap();
        mirror.release(fh);
        sweep(&mirror);
        world.assert_equal();
        assert_eq!(content(&mirror, "d"), b"X");
    }
}

/// What was written to it was noted by the name that is gone, and the one that is left was not touched.
#[test]
fn what_was_written_by_a_name_that_is_removed_is_there_by_the_other_one() {
    for leg in LegId::ALL {
        for at in 0.. {
            let mut world = World::new();
            world.naming = Naming::Fleeting;
            let mirror = world.mount();
            let (ino, fh) = file(&mirror, "a", b"old");
            sweep(&mirror);
            world.new_disk(leg);
            let is_over = Arc::new(AtomicBool::new(false));
            let calls = Arc::new(AtomicUsize::new(0));
            let hook = between_calls({
                let (mirror, is_over, calls) = (mirror.clone(), is_over.clone(), calls.clone());
                move || {
                    let is_open = mirror.gate.is_open() && !is_over.load(Ordering::SeqCst);
                    if is_open && calls.fetch_add(1, Ordering::SeqCst) == at {
                        mirror.link(ino, Ino::ROOT, name("b")).unwrap();
                        mirror.write(fh, b"new", 0, false).unwrap();
                        mirror.unlink(Ino::ROOT, name("b")).unwrap();
                    }
                }
            });
            world.replace_again(&mirror, leg, hook).unwrap();
            is_over.store(true, Ordering::SeqCst);
            mirror.resync();
            mirror.release(fh);
            sweep(&mirror);
            assert_eq!(world.tree(LegId::A), world.tree(LegId::B), "leg {leg}, written at call {at}");
            if calls.load(Ordering::SeqCst) <= at {
                break;
            }
        }
    }
}
