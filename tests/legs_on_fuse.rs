//! Legs on FUSE filesystems, which number their objects as they like, and anew when the kernel has forgotten one: what is
//! dirty cannot be found again there, so everything is compared, by where it lies. Changes do not wait for that: the leg is
//! filled while the mirror goes on, after a crash, at its return, and when a new one takes the place of one that serves.
//!
//! Needs root, /dev/fuse, sshfs and openssh-sftp-server.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::bad_leg::can_misbehave;
use common::compare::assert_same_data;
use common::mirror::{mirrorfs, said};
use common::process::run;
use common::sshfs::can_sshfs;
use common::{BadLeg, Filesystem, Sshfs, TestMirror, tree, wait_for};

/// So often a program beside it renames something. Without an end it could be faster than such a leg for ever.
const MOST: u32 = 400;

fn verb(test: &TestMirror, words: &[&str], path: Option<&Path>) -> Output {
    run(mirrorfs().arg(words[0]).arg(&test.mnt).args(&words[1..]).args(path))
}

fn order(test: &TestMirror, words: &[&str], path: Option<&Path>) {
    let output = verb(test, words, path);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
}

/// A mirror with a leg on FUSE, `a` or `b`, made and mounted, with something in it.
fn on_fuse(name: &str, which: &str) -> (TestMirror, BadLeg) {
    let mut test = TestMirror::unmounted(name, Filesystem::Plain, "");
    let leg = BadLeg::before(&mut test, which);
    let output = test.create(&[]);
    assert!(output.status.success(), "{}", said(&output));
    test.mount();
    tree::source_tree(&test.mnt.join("tree"), 60, 5);
    fs::create_dir_all(test.mnt.join("shelf/old")).expect("mkdir");
    fs::write(test.mnt.join("shelf/old/film"), vec![1; 3 << 20]).expect("write");
    // What is there is marked no more.
    test.umount();
    test.mount();
    (test, leg)
}

/// Something of each sort. Reads nothing of the film.
fn change_all_sorts(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::write(at("new"), "new").expect("write");
    fs::create_dir_all(at("new.d/below")).expect("mkdir");
    fs::write(at("new.d/below/file"), "below").expect("write");
    fs::rename(at("shelf/old"), at("shelf/moved")).expect("rename");
    let film = File::options().write(true).open(at("shelf/moved/film")).expect("open");
    film.write_all_at(&[2; 4096], 1 << 20).expect("write");
    fs::hard_link(at("new"), at("new.d/linked")).expect("link");
    fs::rename(at("new"), at("newer")).expect("rename");
    fs::remove_dir_all(at("tree")).expect("rm -r");
}

fn is_whole(test: &TestMirror) -> bool {
    let status = test.status();
    status["resync"]["active"] == false && [0, 1].iter().all(|&leg| status["legs"][leg]["state"] == "in_sync")
}

#[test]
fn changes_do_not_wait_while_everything_is_compared_with_a_leg_on_fuse() {
    if !can_misbehave() {
        return;
    }
    for which in ["a", "b"] {
        // Who is filled: at the mount after a crash it is B.
        for filled in ["after a crash", "A", "B"] {
            println!("{which} is on FUSE; {filled} is filled");
            let (test, leg) = on_fuse("onfuse", which);
            if filled == "after a crash" {
                fs::write(test.mnt.join("dirty"), "dirty").expect("write");
                test.kill();
                let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
                leg.on("read").within("film").hang();
                test.mount();
            } else {
                order(&test, &["fail", filled], None);
                fs::write(test.mnt.join("missed"), "missed").expect("write");
                leg.on("read").within("film").hang();
                order(&test, &["re-add", filled], None);
            }
            leg.wait_until_hanging(1);
            change_all_sorts(&test.mnt);
            let status = test.status();
            let of_filled = usize::from(filled != "A");
            assert_eq!(status["state"], "degraded", "{status}");
            assert_eq!(status["legs"][of_filled]["state"], "recovering", "{status}");
            leg.heal();
            leg.release();
            wait_for("it to be filled", || is_whole(&test));
            assert_eq!(fs::read(test.mnt.join("new.d/linked")).expect("read"), b"new");
            test.umount_and_compare();
        }
    }
}

/// From here on the test knows the mirror by its new leg.
fn moved_on(test: &mut TestMirror, leg: &str, new: &Path) -> PathBuf {
    let mirror = test.mirror_mut();
    std::mem::replace(if leg == "A" { &mut mirror.a } else { &mut mirror.b }, new.to_owned())
}

#[test]
fn a_leg_that_serves_is_replaced_under_work_where_a_fuse_filesystem_takes_part() {
    if !can_misbehave() {
        return;
    }
    for which in ["a", "b"] {
        for leg in ["A", "B"] {
            println!("{which} is on FUSE; {leg} is replaced by one that is not, then by one that is");
            let (mut test, _fuse) = on_fuse("onfusereplaced", which);
            let plain = test.scratch().dir("plain");
            let other = BadLeg::start(&test.scratch().dir("other"), &test.scratch().join("fuse-other"));
            for new in [&plain, other.path()] {
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let at_end = tree::StopAtEnd(&stop);
                    let restless = scope.spawn(|| tree::restless(&test.mnt, &stop, MOST));
                    order(&test, &["replace", leg], Some(new));
                    order(&test, &["wait"], None);
                    drop(at_end);
                    restless.join().expect("nobody notices");
                });
                assert!(is_whole(&test), "{}", test.status());
                fs::rename(test.mnt.join("restless"), test.mnt.join("rested")).expect("rename");
                moved_on(&mut test, leg, new);
                test.umount_and_compare();
                test.mount();
                fs::remove_dir_all(test.mnt.join("rested")).expect("rm -r");
            }
            test.umount_and_compare();
        }
    }
}

/// sshfs gives an object another number as soon as the kernel has forgotten it, which happens here all the time.
#[test]
fn a_leg_on_sshfs_is_filled_though_the_kernel_forgets_its_numbers() {
    if !can_sshfs() {
        return;
    }
    for which in ["a", "b"] {
        let mut test = TestMirror::unmounted("forgotten", Filesystem::Plain, "");
        let beneath = [&test.a, &test.b].map(|path| path.to_owned());
        let _leg = Sshfs::before(&mut test, which, "");
        let output = test.create(&[]);
        assert!(output.status.success(), "{}", said(&output));
        test.mount();
        tree::source_tree(&test.mnt.join("tree"), 150, 3);
        order(&test, &["fail", "B"], None);
        fs::rename(test.mnt.join("tree"), test.mnt.join("wood")).expect("rename");
        tree::source_tree(&test.mnt.join("tree"), 50, 4);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let at_end = tree::StopAtEnd(&stop);
            let restless = scope.spawn(|| tree::restless(&test.mnt, &stop, MOST));
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Names and numbers that nobody uses.
                    fs::write("/proc/sys/vm/drop_caches", "2").expect("root may");
                    // The machine has others, too.
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            order(&test, &["re-add", "B"], None);
            order(&test, &["wait"], None);
            drop(at_end);
            restless.join().expect("nobody notices");
        });
        assert!(is_whole(&test), "{}", test.status());
        test.umount();
        assert_same_data(&beneath[0], &beneath[1]);
    }
}

/// Also while a call does not come back: that is said, and when it does the leg stays out.
#[test]
fn a_leg_that_is_filled_is_taken_out_by_hand() {
    if !can_misbehave() {
        return;
    }
    for (filled, place) in [("A", 0), ("B", 1)] {
        let (mut test, leg) = on_fuse("onfusefail", "b");
        test.umount();
        test.mirror_mut().options = "leg_timeout=0".to_owned();
        test.mount();
        order(&test, &["fail", filled], None);
        fs::write(test.mnt.join("missed"), "missed").expect("write");
        leg.on("read").within("film").hang();
        order(&test, &["re-add", filled], None);
        leg.wait_until_hanging(1);
        let fails = verb(&test, &["fail", filled], None);
        assert!(!fails.status.success());
        assert!(said(&fails).contains("that does not end"), "{}", said(&fails));
        leg.heal();
        wait_for("it to be out", || test.status()["legs"][place]["state"] == "faulted");
        let status = test.status();
        assert_eq!(status["legs"][place]["reason"], "taken out by hand", "{status}");
        change_all_sorts(&test.mnt);
        order(&test, &["re-add", filled], None);
        order(&test, &["wait"], None);
        assert!(is_whole(&test), "{}", test.status());
        test.umount_and_compare();
    }
}
