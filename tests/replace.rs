//! `mirrorfs replace`: a new, empty directory takes the place of a leg that is away, or that serves, while the mirror is
//! in use. It gets everything; a crash at any moment leaves the old leg or the new one; what is not fit for it is
//! refused and left as it is.
//!
//! Needs root, /dev/fuse, mkfs.ext4 and mkfs.xfs.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::mirror::{mirrorfs, said};
use common::process::{must, run};
use common::raw::shut_down_filesystem;
use common::{Filesystem, Random, TestMirror, can_mount, differences, tree, wait_for};

const LEGS: [&str; 2] = ["A", "B"];

fn verb(test: &TestMirror, words: &[&str], path: Option<&Path>) -> Output {
    run(mirrorfs().arg(words[0]).arg(&test.mnt).args(&words[1..]).args(path))
}

fn order(test: &TestMirror, words: &[&str], path: Option<&Path>) {
    let output = verb(test, words, path);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
}

/// Fails the test unless it is refused in such words; returns them all.
fn refused(output: &Output, words: &str) -> String {
    let text = said(output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(words), "not refused by \"{words}\": {text}");
    text
}

/// The place of `leg`.
fn place<'t>(test: &'t mut TestMirror, leg: &str) -> &'t mut PathBuf {
    let mirror = test.mirror_mut();
    if leg == "A" { &mut mirror.a } else { &mut mirror.b }
}

/// From here on the test knows the mirror by its new leg; returns where the old one is.
fn moved_on(test: &mut TestMirror, leg: &str, new: &Path) -> PathBuf {
    std::mem::replace(place(test, leg), new.to_owned())
}

fn status_of(test: &TestMirror, leg: &str) -> serde_json::Value {
    test.status()["legs"][usize::from(leg == "B")].clone()
}

fn detach(test: &TestMirror) {
    let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
}

/// Objects of every kind, made in an order of its own.
fn make_tree(root: &Path, files: usize) {
    fs::create_dir_all(root.join("deep/er")).expect("mkdir");
    for number in 0..files {
        fs::write(root.join(format!("deep/file{number}")), vec![number as u8; 5000]).expect("write");
    }
    fs::hard_link(root.join("deep/file0"), root.join("deep/er/linked")).expect("link");
    std::os::unix::fs::symlink("file1", root.join("deep/symlink")).expect("symlink");
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mknod");
    let large = File::create(root.join("large")).expect("create");
    large.write_all_at(&[7; 3 << 20], 0).expect("write");
    large.set_len(64 << 20).expect("a hole");
    rustix::fs::chmod(root, 0o751.into()).expect("chmod");
    let set = rustix::fs::setxattr(root, "user.colour", b"blue", rustix::fs::XattrFlags::empty());
    set.expect("setxattr");
}

fn change_tree(root: &Path) {
    fs::rename(root.join("deep/er"), root.join("moved")).expect("rename");
    fs::rename(root.join("deep/file3"), root.join("moved/file3")).expect("rename");
    fs::remove_file(root.join("deep/file4")).expect("unlink");
    fs::write(root.join("deep/file5"), "changed").expect("write");
    fs::write(root.join("born"), vec![9; 2 << 20]).expect("write");
}

/// Writes, renames and removes below `root`, in a directory of its own.
fn work(root: &Path, name: &str, rounds: usize) {
    let dir = root.join(name);
    fs::create_dir(&dir).expect("mkdir");
    for number in 0..rounds {
        let file = dir.join(number.to_string());
        fs::write(&file, vec![number as u8; 3000]).expect("write");
        match number % 3 {
            0 => fs::rename(&file, dir.join(format!("renamed{number}"))).expect("rename"),
            1 => fs::remove_file(&file).expect("unlink"),
            _ => {}
        }
    }
}

#[test]
fn a_new_directory_takes_the_place_of_a_leg_while_programs_are_at_work() {
    if !can_mount() {
        return;
    }
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Plain] {
        for leg in LEGS {
            println!("leg {leg} on {filesystem:?}");
            let mut test = TestMirror::on("replace", filesystem, "");
            make_tree(&test.mnt, 40);
            let new = test.scratch().join("new");
            filesystem.make(&new, &test.scratch().join("new.img"), 512);
            // It is not mirrored, and the comparison would find it.
            let _ = fs::remove_dir(new.join("lost+found"));
            order(&test, &["fail", leg], None);
            change_tree(&test.mnt);
            let open = File::options().read(true).write(true).open(test.mnt.join("large")).expect("open");
            std::thread::scope(|scope| {
                let mnt = test.mnt.clone();
                let working = scope.spawn(move || work(&mnt, "meanwhile", 200));
                order(&test, &["replace", leg], Some(&new));
                open.write_all_at(b"an open file goes on", 40 << 20).expect("write");
                working.join().expect("nobody notices");
            });
            order(&test, &["wait"], None);
            let shown = status_of(&test, leg);
            assert_eq!((shown["state"].as_str(), shown["path"].as_str()), (Some("in_sync"), new.to_str()));
            work(&test.mnt, "after", 30);
            drop(open);
            let old = moved_on(&mut test, leg, &new);
            test.umount_and_compare();
            // The pair is a mirror like any other, also with the roles that they had.
            test.mount();
            test.wait_until_clean();
            test.umount_and_compare();
            // The old directory is as it was when it was taken out, and no leg any more.
            assert!(old.join("deep/er/linked").exists() && !old.join("born").exists());
            let now = moved_on(&mut test, leg, &old);
            let text = refused(&run(&mut test.mount_command()), "has been replaced");
            assert!(text.contains("/etc/fstab") && text.contains(&format!("leg {leg}")), "{text}");
            moved_on(&mut test, leg, &now);
            test.mount();
            order(&test, &["fail", leg], None);
            refused(&verb(&test, &["re-add", leg], Some(&old)), "has been replaced");
            refused(&verb(&test, &["replace", leg], Some(&old)), "a leg of mirror");
            order(&test, &["re-add", leg], None);
            order(&test, &["wait"], None);
            test.umount_and_compare();
        }
    }
}

#[test]
fn a_leg_whose_disk_is_dead_or_gone_is_replaced() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let mut test = TestMirror::on("replacedead", Filesystem::Xfs, "");
        make_tree(&test.mnt, 20);
        let heard = listen(&mut test);
        let path = place(&mut test, leg).clone();
        shut_down_filesystem(&path).expect("shutdown");
        fs::write(test.mnt.join("last"), "x").expect("write");
        File::open(test.mnt.join("last")).and_then(|file| file.sync_all()).expect("fsync");
        wait_for("the fault to be noticed", || test.status()["state"] == "degraded");
        let new = test.scratch().dir("new");
        order(&test, &["replace", leg], Some(&new));
        order(&test, &["wait"], None);
        moved_on(&mut test, leg, &new);
        test.umount_and_compare();
        let told = fs::read_to_string(&heard).expect("the event program was run");
        let lines = ["Fail", "DegradedArray", "RebuildStarted", "RebuildFinished", "SpareActive"];
        let mut told = told.lines().filter(|line| !line.starts_with("Rebuild") || line.len() > 11);
        for expected in lines.map(|name| format!("{name} {leg}")) {
            assert!(told.any(|line| line == expected), "{expected} was not told, or not in its turn");
        }
        // Not there at the mount at all.
        let mut command = mirrorfs();
        let there = |it: &str, path: &Path| if it == leg { "missing".into() } else { path.to_owned() };
        must(command.arg("mount").args([there("A", &test.a), there("B", &test.b), test.mnt.clone()]));
        let newest = test.scratch().dir("newest");
        order(&test, &["replace", leg], Some(&newest));
        order(&test, &["wait"], None);
        moved_on(&mut test, leg, &newest);
        test.umount_and_compare();
    }
}

/// Changes are let in all the while; a crash leaves the survivor as it was, and the command is given again.
#[test]
fn a_crash_while_the_new_leg_is_filled_leaves_the_survivor_and_the_old_leg() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let mut test = TestMirror::on("replacecrash", Filesystem::Ext4, "");
        make_tree(&test.mnt, 100);
        fs::write(test.mnt.join("big"), vec![3; 96 << 20]).expect("write");
        let new = test.scratch().join("new");
        Filesystem::Xfs.make(&new, &test.scratch().join("new.img"), 512);
        order(&test, &["fail", leg], None);
        change_tree(&test.mnt);
        order(&test, &["replace", leg], Some(&new));
        let shown = test.status();
        if shown["resync"]["active"] == true {
            assert_eq!(shown["state"].as_str(), Some("degraded"), "{shown}");
            let replacement = status_of(&test, leg)["replacement"].clone();
            assert!(replacement.is_null() || replacement["path"].as_str() == new.to_str(), "{replacement}");
        }
        work(&test.mnt, "during", 20);
        test.kill();
        detach(&test);
        let says = said(&run(mirrorfs().arg("examine").arg(&new)));
        let before = says.contains("is not finished");
        println!("leg {leg}: {}", if before { "before" } else { "after" });
        let old = moved_on(&mut test, leg, &new);
        if before {
            refused(&run(&mut test.mount_command()), "is not in use");
            let alone = |new: &Path| match leg {
                "A" => [new.to_owned(), "missing".into(), test.mnt.clone()],
                _ => ["missing".into(), new.to_owned(), test.mnt.clone()],
            };
            refused(&run(mirrorfs().arg("mount").args(alone(&new))), "not complete");
            // The old leg is the mirror's still, and would get what it missed; here the new one is given again.
            moved_on(&mut test, leg, &old);
            let there = |it: &str, path: &Path| if it == leg { "missing".into() } else { path.to_owned() };
            must(mirrorfs().arg("mount").args([there("A", &test.a), there("B", &test.b), test.mnt.clone()]));
            order(&test, &["replace", leg], Some(&new));
            order(&test, &["wait"], None);
            test.umount();
            moved_on(&mut test, leg, &new);
            test.mount();
        } else {
            test.mount();
        }
        test.wait_until_resynced();
        assert!(test.mnt.join("during").exists() && test.mnt.join("born").exists());
        test.umount_and_compare();
        moved_on(&mut test, leg, &old);
        refused(&run(&mut test.mount_command()), "has been replaced");
    }
}

#[test]
fn a_kill_during_the_command_leaves_the_old_leg_or_the_new_one() {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    for round in 0..8 {
        let leg = LEGS[round % 2];
        let mut test = TestMirror::on("replacekill", Filesystem::Plain, "");
        make_tree(&test.mnt, 10);
        order(&test, &["fail", leg], None);
        change_tree(&test.mnt);
        let new = test.scratch().dir("new");
        let pid = test.pid();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| verb(&test, &["replace", leg], Some(&new)));
            std::thread::sleep(Duration::from_micros(random.below(60_000)));
            common::process::kill_hard(pid);
            let _ = asked.join().expect("it ends");
        });
        detach(&test);
        let with_old = run(&mut test.mount_command());
        if with_old.status.success() {
            println!("round {round}: before");
            test.wait_until_resynced();
            test.umount();
            let old = moved_on(&mut test, leg, &new);
            let with_new = run(&mut test.mount_command());
            let text = said(&with_new);
            assert!(text.contains("is not in use") || text.contains("is empty"), "{text}");
            moved_on(&mut test, leg, &old);
            test.mount();
            test.umount_and_compare();
            // It can be begun again with what it has left.
            test.mount();
            order(&test, &["fail", leg], None);
            order(&test, &["replace", leg], Some(&new));
            order(&test, &["wait"], None);
            moved_on(&mut test, leg, &new);
            test.umount_and_compare();
        } else {
            println!("round {round}: after");
            refused(&with_old, "has been replaced");
            moved_on(&mut test, leg, &new);
            test.recover_and_compare();
        }
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::on("replacerefused", Filesystem::Plain, "");
    make_tree(&test.mnt, 3);
    fs::write(test.mnt.join("big"), vec![3; 30 << 20]).expect("write");
    let at = |name: &str| test.scratch().join(name);
    let free = test.scratch().dir("free");
    let full = test.scratch().dir("full");
    fs::write(full.join("file"), "mine").expect("write");
    let small = at("small");
    Filesystem::Tmpfs.make(&small, Path::new(""), 20);
    let others = [test.scratch().dir("x"), test.scratch().dir("y")];
    must(mirrorfs().arg("create").args(&others));
    let inside = ["x/inside", "a/inside", "b/inside"].map(|path| test.scratch().dir(path));
    let never = [
        (at("nowhere"), "cannot find"),
        (full.join("file"), "missing"),
        (full.clone(), "holds files"),
        (small.clone(), "no room"),
        (others[1].clone(), "a leg of mirror"),
        (inside[0].clone(), "inside a leg"),
        (inside[1].clone(), "inside the other"),
        (test.a.clone(), "same directory"),
        (test.mnt.clone(), "mount point"),
    ];
    let serving = [(inside[2].clone(), "inside the other"), (test.b.clone(), "same directory")];
    let away = [(test.b.clone(), "it is that leg")];
    let cases = never.iter().chain(&serving).map(|case| (false, case));
    let cases = cases.chain(never.iter().chain(&away).map(|case| (true, case)));
    let mut is_away = false;
    for (away, (path, words)) in cases {
        if away && !is_away {
            order(&test, &["fail", "B"], None);
            refused(&verb(&test, &["replace", "A"], Some(&free)), "leg A is the only one");
            is_away = true;
        }
        let listed = |path: &Path| fs::read_dir(path).map(|entries| entries.count()).ok();
        let superblock = |path: &Path| fs::read(path.join(".mirrorfs/superblock")).ok();
        let before = (listed(path), superblock(path), superblock(&test.a));
        refused(&verb(&test, &["replace", "B"], Some(path)), words);
        assert_eq!(before, (listed(path), superblock(path), superblock(&test.a)), "{}", path.display());
        assert_eq!(status_of(&test, "B")["path"].as_str(), test.b.to_str());
    }
    let output = run(mirrorfs().args([OsStr::new("replace"), test.mnt.as_os_str(), OsStr::new("B")]));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    inside[1..].iter().for_each(|dir| fs::remove_dir(dir).expect("rmdir"));
    // None of this has harmed the leg that is away.
    order(&test, &["re-add", "B"], None);
    order(&test, &["wait"], None);
    test.umount_and_compare();
    // A mount that may change nothing.
    must(test.mount_command().args(["-o", "ro"]));
    refused(&verb(&test, &["replace", "B"], Some(&free)), "read-only");
    test.umount();
    assert_eq!(fs::read_dir(&free).expect("list").count(), 0);
}

#[test]
fn the_bitmap_elsewhere_and_a_disk_of_its_own_are_no_hindrance() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let mut test = TestMirror::unmounted("replaceelsewhere", Filesystem::Plain, "");
        let file = test.scratch().join("bitmap");
        let made = test.create(&[OsStr::new("--bitmap"), file.as_os_str()]);
        assert!(made.status.success(), "{}", said(&made));
        test.mirror_mut().options = format!("bitmap={}", file.display());
        test.mount();
        make_tree(&test.mnt, 20);
        // A new ext4 has a lost+found, which is not the mirror's.
        let new = test.scratch().join("new");
        Filesystem::Ext4.make(&new, &test.scratch().join("new.img"), 512);
        assert!(new.join("lost+found").exists());
        order(&test, &["fail", leg], None);
        change_tree(&test.mnt);
        order(&test, &["replace", leg], Some(&new));
        order(&test, &["wait"], None);
        test.kill();
        detach(&test);
        moved_on(&mut test, leg, &new);
        test.mount();
        order(&test, &["wait"], None);
        test.umount();
        let mut found = differences(&test.a, &test.b);
        found.retain(|line| !line.starts_with("/lost+found"));
        assert!(found.is_empty(), "{found:#?}");
        assert!(!new.join(".mirrorfs/bitmap").exists());
        // Back to the legs, of which one has never had a copy.
        test.mirror_mut().options.clear();
        test.mount();
        work(&test.mnt, "last", 10);
        assert!(new.join(".mirrorfs/bitmap").exists() && new.join("last").exists());
        test.umount();
    }
}

/// Has what happens written down; returns where.
fn listen(test: &mut TestMirror) -> PathBuf {
    let (script, heard) = (test.scratch().join("tell"), test.scratch().join("heard"));
    fs::write(&script, "#!/bin/sh\necho \"$1 $3\" >>\"${0%/*}/heard\"\n").expect("write");
    rustix::fs::chmod(&script, 0o755.into()).expect("chmod");
    test.umount();
    test.mirror_mut().options = format!("on_event={}", script.display());
    test.mount();
    heard
}

#[test]
fn a_leg_that_serves_is_replaced_under_work_and_the_mirror_has_two_legs_throughout() {
    if !can_mount() {
        return;
    }
    for (filesystem, leg) in [(Filesystem::Ext4, LEGS[0]), (Filesystem::Xfs, LEGS[1])] {
        println!("leg {leg} on {filesystem:?}");
        let mut test = TestMirror::on("replaceserving", filesystem, "");
        let heard = listen(&mut test);
        make_tree(&test.mnt, 60);
        fs::write(test.mnt.join("big"), vec![3; 16 << 20]).expect("write");
        let new = test.scratch().join("new");
        filesystem.make(&new, &test.scratch().join("new.img"), 512);
        let _ = fs::remove_dir(new.join("lost+found"));
        let open = File::options().read(true).write(true).open(test.mnt.join("big")).expect("open");
        let stop = AtomicBool::new(false);
        let writes = std::thread::scope(|scope| {
            let at_end = tree::StopAtEnd(&stop);
            let restless = scope.spawn(|| tree::restless(&test.mnt, &stop, u32::MAX));
            let writing = scope.spawn(|| {
                let mut writes = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let at = writes * 77_777 % (16 << 20);
                    open.write_all_at(&writes.to_le_bytes(), at).expect("write");
                    writes += 1;
                }
                writes
            });
            order(&test, &["replace", leg], Some(&new));
            change_tree(&test.mnt);
            order(&test, &["wait"], None);
            drop(at_end);
            restless.join().expect("nobody notices");
            writing.join().expect("nobody notices")
        });
        assert!(writes > 0);
        let shown = status_of(&test, leg);
        assert_eq!((shown["state"].as_str(), shown["path"].as_str()), (Some("in_sync"), new.to_str()));
        assert!(shown["replacement"].is_null(), "{shown}");
        work(&test.mnt, "after", 30);
        drop(open);
        let old = moved_on(&mut test, leg, &new);
        test.umount_and_compare();
        assert!(!old.join("after").exists() && old.join("big").exists());
        // The daemon has told all before it ends.
        let told = fs::read_to_string(&heard).expect("the event program was run");
        let told: Vec<&str> = told.lines().collect();
        assert!(!told.iter().any(|line| line.contains("Fail") || line.contains("Degraded")), "{told:?}");
        for expected in ["RebuildStarted", "RebuildFinished", "SpareActive"] {
            let line = format!("{expected} {leg}");
            assert_eq!(told.iter().filter(|told| **told == line).count(), 1, "{expected}: {told:?}");
        }
        test.mount();
        test.umount_and_compare();
        let now = moved_on(&mut test, leg, &old);
        refused(&run(&mut test.mount_command()), "has been replaced");
        moved_on(&mut test, leg, &now);
    }
}

#[test]
fn a_kill_or_an_unmount_while_a_leg_that_serves_is_replaced_loses_nothing() {
    if !can_mount() {
        return;
    }
    let mut random = Random::announced();
    for round in 0..10 {
        let leg = LEGS[round % 2];
        let mut test = TestMirror::on("replaceservingkill", Filesystem::Plain, "");
        make_tree(&test.mnt, 40);
        fs::write(test.mnt.join("big"), vec![3; 8 << 20]).expect("write");
        let new = test.scratch().dir("new");
        let pid = test.pid();
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut done = 0u32;
                while !stop.load(Ordering::Relaxed)
                    && fs::write(test.mnt.join(format!("done{done}")), done.to_string()).is_ok()
                {
                    done += 1;
                }
                done
            });
            let _at_end = tree::StopAtEnd(&stop);
            order(&test, &["replace", leg], Some(&new));
            std::thread::sleep(Duration::from_micros(random.below(400_000)));
            if round < 8 {
                common::process::kill_hard(pid);
                return writing.join().expect("it ends");
            }
            stop.store(true, Ordering::Relaxed);
            let done = writing.join().expect("it ends");
            test.umount();
            done
        });
        detach(&test);
        wait_for("the daemon to end", || common::process::is_gone(pid));
        let with_old = run(&mut test.mount_command());
        let before = with_old.status.success();
        println!("round {round}: {}", if before { "before" } else { "after" });
        if before {
            test.wait_until_resynced();
            has_all(&test.mnt, acknowledged);
            test.umount_and_compare();
            let old = moved_on(&mut test, leg, &new);
            refused(&run(&mut test.mount_command()), "is not in use");
            moved_on(&mut test, leg, &old);
            test.mount();
            // With what was copied so far.
            order(&test, &["replace", leg], Some(&new));
            order(&test, &["wait"], None);
        } else {
            refused(&with_old, "has been replaced");
        }
        moved_on(&mut test, leg, &new);
        if !before {
            test.mount();
            test.wait_until_resynced();
        }
        has_all(&test.mnt, acknowledged);
        test.umount_and_compare();
    }
}

fn has_all(mnt: &Path, acknowledged: u32) {
    for number in 0..acknowledged {
        let found = fs::read_to_string(mnt.join(format!("done{number}"))).expect("it was acknowledged");
        assert_eq!(found, number.to_string());
    }
}

#[test]
fn a_new_disk_that_fills_up_is_told_of_and_both_legs_are_as_they_were() {
    if !can_mount() {
        return;
    }
    let mut test = TestMirror::on("replaceservingfull", Filesystem::Xfs, "");
    let heard = listen(&mut test);
    // What shares its space on the legs does not on the new one.
    fs::write(test.mnt.join("big"), vec![3; 16 << 20]).expect("write");
    for number in 0..12 {
        fs::copy(test.mnt.join("big"), test.mnt.join(format!("copy{number}"))).expect("copy");
    }
    let new = test.scratch().join("new");
    Filesystem::Tmpfs.make(&new, Path::new(""), 160);
    order(&test, &["replace", "B"], Some(&new));
    let text = refused(&verb(&test, &["wait"], None), "has not taken the place of leg B");
    assert!(text.contains("No space left on device"), "{text}");
    let shown = status_of(&test, "B");
    assert_eq!((shown["state"].as_str(), shown["path"].as_str()), (Some("in_sync"), test.b.to_str()));
    assert!(shown["replacement"]["failed"].is_string(), "{shown}");
    let told = || fs::read_to_string(&heard).unwrap_or_default();
    wait_for("it to be told", || told().lines().any(|line| line == "FailSpare B"));
    // Another one may try.
    let larger = test.scratch().dir("larger");
    order(&test, &["replace", "B"], Some(&larger));
    order(&test, &["wait"], None);
    moved_on(&mut test, "B", &larger);
    test.umount_and_compare();
}

#[test]
fn the_leg_that_is_replaced_may_die_meanwhile() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let mut test = TestMirror::on("replaceservingdies", Filesystem::Xfs, "");
        make_tree(&test.mnt, 40);
        fs::write(test.mnt.join("big"), vec![3; 96 << 20]).expect("write");
        let new = test.scratch().dir("new");
        order(&test, &["replace", leg], Some(&new));
        let text = said(&verb(&test, &["re-add", leg], None));
        assert!(text.contains("is being filled") || text.contains("is not away"), "{text}");
        let dying = place(&mut test, leg).clone();
        shut_down_filesystem(&dying).expect("shutdown");
        work(&test.mnt, "meanwhile", 100);
        File::open(test.mnt.join("deep")).and_then(|dir| dir.sync_all()).expect("fsync");
        order(&test, &["wait"], None);
        let shown = status_of(&test, leg);
        assert_eq!((shown["state"].as_str(), shown["path"].as_str()), (Some("in_sync"), new.to_str()));
        moved_on(&mut test, leg, &new);
        test.umount_and_compare();
    }
}

#[test]
fn how_far_a_rebuild_is_is_told_of_the_leg_in_order_and_once() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let mut test = TestMirror::new("replacemarks");
        let heard = listen(&mut test);
        fs::write(test.mnt.join("big"), vec![3; 48 << 20]).expect("write");
        test.umount();
        // Looks are a second apart.
        test.mirror_mut().options += ",resync_max=8M";
        test.mount();
        let new = test.scratch().dir("new");
        order(&test, &["replace", leg], Some(&new));
        order(&test, &["wait"], None);
        moved_on(&mut test, leg, &new);
        test.umount_and_compare();
        let told = fs::read_to_string(&heard).expect("the event program was run");
        let marks = [20, 40, 60, 80].map(|percent| format!("Rebuild{percent} {leg}"));
        let told: Vec<_> = told
            .lines()
            .filter(|line| line.starts_with("Rebuild2") || marks.iter().any(|mark| mark == line))
            .collect();
        let places: Vec<_> = told.iter().map(|line| marks.iter().position(|mark| mark == line)).collect();
        assert!(!places.is_empty() && places.is_sorted_by(|a, b| a.is_some() && a < b), "{told:?}");
    }
}
