//! One leg serves: taken out, missing at the mount, failed, brought back while programs are at work. What
//! the other leg missed is copied, and nothing else; a split brain is seen.
//!
//! Needs root, /dev/fuse, mkfs.ext4 and mkfs.xfs.

mod common;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::filesystem::attach;
use common::mirror::{mirrorfs, program, said};
use common::process::{must, run, running};
use common::raw::shut_down_filesystem;
use common::tree::fingerprint;
use common::{Filesystem, Random, TestMirror, can_mount, wait_for};

const LEGS: [(&str, &str); 2] = [("A", "a"), ("B", "b")];

fn other(leg: &str) -> &'static str {
    if leg == "A" { "B" } else { "A" }
}

fn verb(test: &TestMirror, words: &[&str], path: Option<&Path>) -> Output {
    run(mirrorfs().arg(words[0]).arg(&test.mnt).args(&words[1..]).args(path))
}

/// `mirrorfs fail`, `re-add` and so on; fails the test if that fails.
fn order(test: &TestMirror, words: &[&str], path: Option<&Path>) {
    let output = verb(test, words, path);
    assert!(output.status.success(), "{words:?}: {}", said(&output));
}

fn state(test: &TestMirror) -> String {
    test.status()["state"].as_str().unwrap_or_default().to_owned()
}

/// Waits until both legs are up to date, as a user would.
fn wait_until_whole(test: &TestMirror) {
    let output = verb(test, &["wait"], None);
    assert!(output.status.success(), "wait: {}", said(&output));
}

/// Mounts with one leg only.
fn mount_without(test: &TestMirror, leg: &str) -> Output {
    let place =
        |name: &str, path: &Path| if name == leg { Path::new("missing").to_owned() } else { path.to_owned() };
    let mut command = mirrorfs();
    command.arg("mount").arg(place("A", &test.a)).arg(place("B", &test.b)).arg(&test.mnt);
    run(&mut command)
}

fn detach(test: &TestMirror) {
    let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
}

/// An event program, and where it writes down what it is told.
fn listener(test: &TestMirror) -> (PathBuf, PathBuf) {
    let (script, heard) = (test.scratch().join("tell"), test.scratch().join("heard"));
    fs::write(&script, "#!/bin/sh\necho \"$1 $3\" >>\"${0%/*}/heard\"\n").expect("write");
    rustix::fs::chmod(&script, 0o755.into()).expect("chmod");
    (script, heard)
}

/// A tree of every kind of object.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("deep/er")).expect("mkdir");
    for number in 0..20 {
        fs::write(root.join(format!("deep/file{number}")), vec![number as u8; 5000]).expect("write");
    }
    fs::hard_link(root.join("deep/file0"), root.join("deep/er/linked")).expect("link");
    std::os::unix::fs::symlink("file1", root.join("deep/symlink")).expect("symlink");
    fs::write(root.join("large"), vec![7; 3 << 20]).expect("write");
}

/// Changes of every kind to that tree.
fn change_tree(root: &Path) {
    fs::write(root.join("deep/file2"), "changed").expect("write");
    File::options()
        .write(true)
        .open(root.join("large"))
        .unwrap()
        .write_all_at(b"patched", 2 << 20)
        .expect("write");
    fs::rename(root.join("deep/er"), root.join("moved")).expect("rename");
    fs::rename(root.join("deep/file3"), root.join("moved/file3")).expect("rename");
    fs::remove_file(root.join("deep/file4")).expect("unlink");
    fs::remove_file(root.join("deep/file5")).expect("unlink");
    fs::write(root.join("deep/file5"), "another one").expect("write");
    fs::hard_link(root.join("deep/file6"), root.join("six")).expect("link");
    fs::remove_file(root.join("deep/file0")).expect("unlink");
    fs::create_dir(root.join("new")).expect("mkdir");
    fs::write(root.join("new/born"), vec![9; 2 << 20]).expect("write");
    rustix::fs::chmod(root.join("deep/file7"), 0o640.into()).expect("chmod");
    fs::remove_file(root.join("deep/symlink")).expect("unlink");
    std::os::unix::fs::symlink("file8", root.join("deep/symlink")).expect("symlink");
}

#[test]
fn a_leg_taken_out_is_brought_back_with_what_it_missed() {
    if !can_mount() {
        return;
    }
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
        for (leg, _) in LEGS {
            println!("{leg} on {filesystem:?}");
            let test = TestMirror::on("takenout", filesystem, "");
            make_tree(&test.mnt);
            test.wait_until_clean();
            order(&test, &["fail", leg], None);
            assert_eq!(state(&test), "degraded");
            change_tree(&test.mnt);
            let open = File::create(test.mnt.join("open")).expect("create");
            open.write_all_at(&[1; 5000], 0).expect("write");
            order(&test, &["re-add", leg], None);
            open.write_all_at(&[2; 5000], 100).expect("an open file goes on");
            wait_until_whole(&test);
            assert_eq!(test.status()["legs"][usize::from(leg == "B")]["state"], "in_sync");
            fs::write(test.mnt.join("after"), "both").expect("write");
            drop(open);
            test.umount_and_compare();
        }
    }
}

#[test]
fn renamed_directories_and_large_files_are_not_copied() {
    if !can_mount() {
        return;
    }
    for (leg, name) in LEGS {
        let test = TestMirror::on("renamed", Filesystem::Ext4, "");
        fs::create_dir(test.mnt.join("dir")).expect("mkdir");
        fs::write(test.mnt.join("dir/big"), vec![5; 64 << 20]).expect("write");
        test.wait_until_clean();
        test.umount();
        let before = fs::metadata(test.scratch().join(name).join("dir/big")).expect("stat").ino();
        // Nobody has asked what these are on the leg that is away: they are known by their place.
        assert!(mount_without(&test, leg).status.success());
        fs::rename(test.mnt.join("dir"), test.mnt.join("renamed")).expect("rename");
        let file = File::options().write(true).open(test.mnt.join("renamed/big")).expect("open");
        file.write_all_at(b"one write", 10 << 20).expect("write");
        drop(file);
        fs::rename(test.mnt.join("renamed/big"), test.mnt.join("big")).expect("rename");
        test.umount();
        test.mount();
        test.wait_until_resynced();
        let read = test.counter("resync_bytes_read");
        assert!(read < 32 << 20, "{read} bytes were read for one chunk");
        test.umount_and_compare();
        let after = fs::metadata(test.scratch().join(name).join("big")).expect("stat").ino();
        assert_eq!(before, after, "the same object, moved and not copied");
    }
}

#[test]
fn a_missing_leg_is_no_reason_not_to_mount_when_told_so() {
    if !can_mount() {
        return;
    }
    for (leg, name) in LEGS {
        let mut test = TestMirror::on("missing", Filesystem::Ext4, "");
        make_tree(&test.mnt);
        test.umount();
        let path = test.scratch().join(name);
        must(Command::new("umount").arg(&path));
        let refused = run(&mut test.mount_command());
        assert!(!refused.status.success() && said(&refused).contains("empty"), "{}", said(&refused));
        test.mirror_mut().options = "degraded=yes".to_owned();
        test.mount();
        let status = test.status();
        assert_eq!(status["state"], "degraded");
        assert_eq!(status["legs"][usize::from(leg == "B")]["state"], "missing", "{status}");
        change_tree(&test.mnt);
        // A crash while one leg is away changes nothing of that.
        test.kill();
        detach(&test);
        test.mount();
        fs::write(test.mnt.join("more"), "x").expect("write");
        attach(&test.scratch().join(format!("{name}.img")), &path);
        order(&test, &["re-add", leg], None);
        wait_until_whole(&test);
        test.umount_and_compare();
    }
}

#[test]
fn a_leg_that_fails_under_work_is_brought_back_under_work() {
    if !can_mount() {
        return;
    }
    for (leg, name) in LEGS {
        println!("leg {leg} fails");
        let test = TestMirror::on("underwork", Filesystem::Xfs, "");
        make_tree(&test.mnt);
        let path = test.scratch().join(name);
        let working = |dir: &str| {
            let root = test.mnt.join(dir);
            fs::create_dir(&root).expect("mkdir");
            for number in 0..50 {
                let file = root.join(number.to_string());
                fs::write(&file, vec![number as u8; 3000]).expect("write");
                if number % 3 == 0 {
                    fs::rename(&file, root.join(format!("renamed{number}"))).expect("rename");
                }
            }
        };
        std::thread::scope(|scope| {
            let work = scope.spawn(|| working("before"));
            shut_down_filesystem(&path).expect("shutdown");
            work.join().expect("nobody notices");
        });
        fs::write(test.mnt.join("last"), "x").expect("write");
        File::open(test.mnt.join("last")).and_then(|file| file.sync_all()).expect("fsync");
        wait_for("the fault to be noticed", || state(&test) == "degraded");
        wait_for("the leg to be let go of", || run(Command::new("umount").arg(&path)).status.success());
        attach(&test.scratch().join(format!("{name}.img")), &path);
        std::thread::scope(|scope| {
            let work = scope.spawn(|| working("meanwhile"));
            order(&test, &["re-add", leg], None);
            work.join().expect("nobody notices");
        });
        wait_until_whole(&test);
        test.umount_and_compare();
    }
}

#[test]
fn each_leg_written_without_the_other_is_a_split_brain() {
    if !can_mount() {
        return;
    }
    for (first, _) in LEGS {
        let test = TestMirror::on("split", Filesystem::Plain, "");
        fs::write(test.mnt.join("file"), "both").expect("write");
        test.umount();
        for missing in [first, other(first)] {
            let output = mount_without(&test, missing);
            assert!(output.status.success(), "{}", said(&output));
            fs::write(test.mnt.join("file"), format!("without {missing}")).expect("write");
            test.umount();
        }
        let before = [&test.a, &test.b].map(|leg| fs::read(leg.join("file")).expect("read"));
        let (script, heard) = listener(&test);
        let refused = run(test.mount_command().arg("-o").arg(format!("on_event={}", script.display())));
        assert!(!refused.status.success() && said(&refused).contains("diverged"), "{}", said(&refused));
        assert_eq!(fs::read_to_string(heard).expect("the event program was run"), "SplitBrain -\n");
        assert_eq!(before, [&test.a, &test.b].map(|leg| fs::read(leg.join("file")).expect("read")));
    }
}

#[test]
fn the_last_leg_is_not_taken_out_and_what_is_not_the_leg_is_not_taken_in() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::on("lastleg", Filesystem::Plain, "");
    fs::write(test.mnt.join("file"), "x").expect("write");
    order(&test, &["fail", "B"], None);
    let last = verb(&test, &["fail", "A"], None);
    assert!(!last.status.success() && said(&last).contains("cannot take leg A out"), "{}", said(&last));
    let empty = test.scratch().dir("empty");
    let refused = verb(&test, &["re-add", "B"], Some(&empty));
    assert!(!refused.status.success() && said(&refused).contains("empty"), "{}", said(&refused));
    let itself = verb(&test, &["re-add", "B"], Some(&test.a));
    assert!(!itself.status.success() && said(&itself).contains("same directory"), "{}", said(&itself));
    assert_eq!(state(&test), "degraded");
    // At another path it is still the leg.
    let elsewhere = test.scratch().join("elsewhere");
    fs::rename(&test.b, &elsewhere).expect("rename");
    order(&test, &["re-add", "B"], Some(&elsewhere));
    wait_until_whole(&test);
    let twice = verb(&test, &["re-add", "B"], None);
    assert!(!twice.status.success() && said(&twice).contains("not away"), "{}", said(&twice));
    test.umount();
    fs::rename(&elsewhere, &test.b).expect("rename");
    test.assert_equal();
}

#[test]
fn more_objects_than_the_bitmap_has_slots_are_not_forgotten() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::on("overflow", Filesystem::Plain, "");
    for number in 0..7000 {
        File::create(test.mnt.join(number.to_string())).expect("create");
    }
    test.wait_until_clean();
    order(&test, &["fail", "B"], None);
    for number in 0..7000 {
        fs::write(test.mnt.join(number.to_string()), "changed").expect("no write fails for lack of room");
    }
    fs::write(test.mnt.join("new"), "x").expect("write");
    order(&test, &["re-add", "B"], None);
    wait_until_whole(&test);
    test.umount_and_compare();
}

/// Three times as many changed files as the bitmap has slots, in one directory of two.
#[test]
fn a_directory_with_more_changed_files_than_slots_is_compared_and_no_other() {
    if !can_mount() {
        return;
    }
    const FILES: usize = 3 * 8192;
    const OLD: [u8; 100] = [1; 100];
    let test = TestMirror::on("coarse", Filesystem::Plain, "");
    for (dir, files) in [("busy", FILES), ("quiet", 3000)] {
        fs::create_dir(test.mnt.join(dir)).expect("mkdir");
        for number in 0..files {
            fs::write(test.mnt.join(dir).join(number.to_string()), OLD).expect("write");
        }
    }
    fs::write(test.mnt.join("quiet/large"), vec![1; 64 << 20]).expect("write");
    test.wait_until_clean();
    order(&test, &["fail", "B"], None);
    let in_place = |path: &str| {
        let file = File::options().write(true).open(test.mnt.join(path)).expect("open");
        file.write_all_at(b"new", 0).expect("no write fails for lack of room");
    };
    in_place("quiet/7");
    (0..FILES).for_each(|number| in_place(&format!("busy/{number}")));
    fs::rename(test.mnt.join("busy/5"), test.mnt.join("quiet/moved")).expect("rename");
    let away = test.status();
    assert!(away["legs"][1]["missing_objects"].is_null(), "it is not known how many: {away}");
    order(&test, &["re-add", "B"], None);
    wait_until_whole(&test);
    let read = test.counter("resync_bytes_read");
    // Each of them on both legs, and of the other directory less than a twentieth of its small files.
    let changed = 2 * OLD.len() as u64 * FILES as u64;
    assert!(
        (changed / 2..changed + 30_000).contains(&read),
        "{read} bytes were read, {changed} are in what was changed"
    );
    test.umount_and_compare();
    assert!(fs::read(test.b.join("quiet/moved")).expect("read").starts_with(b"new"));
}

/// A leg is put back from an image of some time ago, at the mount or under way. It is brought up to date behind
/// everybody's back, also when that is broken off by a crash; until then the mirror does without it, and nobody takes it
/// for what it was.
#[test]
fn changes_do_not_wait_while_everything_is_compared_with_a_leg_that_returns() {
    if !can_mount() {
        return;
    }
    for ((leg, name), at_mount) in LEGS.into_iter().flat_map(|leg| [(leg, true), (leg, false)]) {
        // Slowly, so that it is still under way when it is looked at.
        let mut test = TestMirror::on("history", Filesystem::Ext4, "resync_min=1,resync_max=64K");
        make_tree(&test.mnt);
        fs::write(test.mnt.join("film"), vec![1; 8 << 20]).expect("write");
        test.umount();
        let (path, image) = (test.scratch().join(name), test.scratch().join(format!("{name}.img")));
        must(Command::new("umount").arg(&path));
        let old = test.scratch().join("old.img");
        fs::copy(&image, &old).expect("an image of the leg");
        attach(&image, &path);
        test.mount();
        change_tree(&test.mnt);
        test.wait_until_clean();
        let put_back = || {
            must(Command::new("umount").arg(&path));
            fs::rename(&old, &image).expect("put back");
            attach(&image, &path);
        };
        if at_mount {
            test.umount();
            put_back();
            test.mount();
        } else {
            order(&test, &["fail", leg], None);
            wait_for("the leg to be let go of", || run(Command::new("umount").arg(&path)).status.success());
            attach(&image, &path);
            put_back();
            order(&test, &["re-add", leg], None);
        }
        let of_leg = usize::from(leg == "B");
        fs::write(test.mnt.join("meanwhile"), "new").expect("write");
        fs::rename(test.mnt.join("film"), test.mnt.join("film.old")).expect("rename");
        wait_for("data to be copied", || test.counter("resync_bytes_read") > 0);
        let status = test.status();
        assert_eq!(
            (&status["state"], &status["resync"]["active"]),
            (&"degraded".into(), &true.into()),
            "{status}"
        );
        assert_eq!(status["legs"][of_leg]["state"], "recovering", "{status}");
        let twice = verb(&test, &["re-add", leg], None);
        assert!(
            !twice.status.success() && said(&twice).contains("brought up to date just now"),
            "{}",
            said(&twice)
        );
        if !at_mount {
            order(&test, &["fail", leg], None);
            let away = &test.status()["legs"][of_leg];
            assert_eq!(away["reason"], "taken out by hand");
            assert!(away["missing_objects"].is_null(), "nobody knows how much it misses: {away}");
            order(&test, &["re-add", leg], None);
            wait_for("it to be filled again", || test.status()["resync"]["active"] == true);
        }
        test.kill();
        detach(&test);
        let alone = mount_without(&test, other(leg));
        assert!(!alone.status.success() && said(&alone).contains("not complete"), "{}", said(&alone));

        test.mirror_mut().options = String::new();
        test.mount();
        fs::write(test.mnt.join("meanwhile"), "newer").expect("write");
        wait_until_whole(&test);
        test.umount_and_compare();
        assert_eq!(test.on_legs("meanwhile").map(|file| fs::read(file).expect("read")), [b"newer"; 2]);
    }
}

/// The leg was away when the bitmap moved. What is marked then counts after the next crash.
#[test]
fn a_leg_that_returns_after_the_bitmap_has_moved_knows_where_it_is() {
    if !can_mount() {
        return;
    }
    for (leg, name) in LEGS {
        let mut test = TestMirror::on("knows", Filesystem::Ext4, "");
        fs::write(test.mnt.join("file"), vec![1; 1 << 20]).expect("write");
        test.umount();
        let file = test.scratch().join("elsewhere");
        test.mirror_mut().options = format!("bitmap={}", file.display());
        let place =
            |is: &str, path: &Path| if is == leg { Path::new("missing").to_owned() } else { path.to_owned() };
        let [a, b] = [place("A", &test.a), place("B", &test.b)];
        must(mirrorfs().arg("mount").args([&a, &b, &test.mnt]).args(["-o", &test.options]));
        order(&test, &["re-add", leg], Some(&test.scratch().join(name)));
        wait_until_whole(&test);
        test.wait_until_clean();
        let changed = File::options().write(true).open(test.mnt.join("file")).expect("open");
        changed.write_all_at(&[2; 4096], 8192).expect("write");
        changed.sync_all().expect("fsync");
        test.kill();
        drop(changed);
        detach(&test);
        // As a power cut may leave it that took the write from one leg.
        let lost = File::options().write(true).open(test.b.join("file")).expect("open");
        lost.write_all_at(&[3; 4096], 8192).expect("write");
        test.recover_and_compare();
    }
}

#[test]
fn a_bitmap_that_moves_while_a_leg_is_away_is_still_the_one_that_counts() {
    if !can_mount() {
        return;
    }
    for (leg, name) in LEGS {
        let test = TestMirror::on("moves", Filesystem::Ext4, "");
        make_tree(&test.mnt);
        test.umount();
        let file = test.scratch().join("elsewhere");
        let option = format!("bitmap={}", file.display());
        let place =
            |is: &str, path: &Path| if is == leg { Path::new("missing").to_owned() } else { path.to_owned() };
        let mut mount = mirrorfs();
        mount
            .arg("mount")
            .arg(place("A", &test.a))
            .arg(place("B", &test.b))
            .arg(&test.mnt)
            .args(["-o", &option]);
        must(&mut mount);
        change_tree(&test.mnt);
        test.kill();
        detach(&test);
        must(mirrorfs().arg("mount").args([&test.a, &test.b, &test.mnt]).args(["-o", &option]));
        wait_until_whole(&test);
        test.umount();
        test.assert_equal();
        assert_eq!(fs::read(test.scratch().join(name).join("deep/file2")).expect("read"), b"changed");
    }
}

/// Somebody else has it open when it comes back: it is taken in as soon as it can be, and the log says once why not
/// before.
#[test]
fn a_leg_that_cannot_be_taken_back_at_once_is_tried_again() {
    if !can_mount() {
        return;
    }
    let mut test = TestMirror::unmounted("retry", Filesystem::Ext4, "");
    let log = test.scratch().join("log");
    assert!(test.create(&[]).status.success());
    must(Command::new("umount").arg(&test.b));
    test.mirror_mut().options = format!("degraded=yes,auto_readd=yes,log={}", log.display());
    test.mount();
    fs::write(test.mnt.join("alone"), "x").expect("write");
    assert_eq!(state(&test), "degraded");

    let elsewhere = test.scratch().dir("elsewhere");
    attach(&test.scratch().join("b.img"), &elsewhere);
    let lock = File::open(elsewhere.join(".mirrorfs/lock")).expect("its lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("flock");
    must(Command::new("mount").arg("--bind").arg(&elsewhere).arg(&test.b));
    let log = || fs::read_to_string(&log).expect("the log");
    wait_for("a try that fails", || log().contains("leg B is not taken back yet"));
    assert_eq!(state(&test), "degraded");
    drop(lock);
    wait_for("the leg to be taken back", || state(&test) != "degraded");
    wait_until_whole(&test);
    let log = log();
    assert_eq!(log.matches("is not taken back yet").count(), 1, "{log}");
    assert_eq!(log.matches("LegReturned: ").count(), 1, "{log}");
    test.umount_and_compare();
}

/// A leg misses a thousand small writes all over a sparse tree of 50 GiB, whose data alone is more than may be read.
#[test]
fn a_leg_that_returns_costs_the_chunks_it_missed_and_not_the_tree() {
    if !can_mount() {
        return;
    }
    const CHUNK: u64 = 64 << 10;
    const BLOCK: u64 = 4096;
    const WRITES: u64 = 1000;
    const FILES: u64 = 10;
    /// Each file is noted to the chunk: it has no more windows than it may have slots.
    const FILE: u64 = 5 << 30;
    const DATA: usize = 8 << 20;
    let mut random = Random::announced();
    let test = TestMirror::unmounted("sparse", Filesystem::Ext4, "");
    let created = test.create(&["--chunk", "64K"].map(OsStr::new));
    assert!(created.status.success(), "{}", said(&created));
    test.mount();
    let open = |number: u64| {
        let mut how = File::options();
        how.write(true).create(true).truncate(false).open(test.mnt.join(number.to_string())).expect("open")
    };
    for file in (0..FILES).map(open) {
        file.set_len(FILE).expect("truncate");
        for at in [0, FILE - DATA as u64] {
            file.write_all_at(&vec![1; DATA], at).expect("write");
        }
    }
    for (leg, _) in LEGS {
        test.umount();
        test.mount();
        assert_eq!(test.status()["dirty"]["slots"], 0);
        order(&test, &["fail", leg], None);
        let mut places = BTreeSet::new();
        while (places.len() as u64) < WRITES {
            places.insert(random.below(FILES * FILE / BLOCK) * BLOCK);
        }
        let files: Vec<File> = (0..FILES).map(open).collect();
        for place in &places {
            let data = random.bytes(BLOCK as usize);
            files[(place / FILE) as usize].write_all_at(&data, place % FILE).expect("write");
        }
        drop(files);
        let missed = places.iter().map(|place| place / CHUNK).collect::<BTreeSet<_>>().len() as u64;
        let status = test.status();
        assert_eq!(status["dirty"]["chunks"], missed, "{status}");
        assert_eq!(status["legs"][usize::from(leg == "B")]["missing_bytes"], missed * CHUNK, "{status}");
        order(&test, &["re-add", leg], None);
        wait_until_whole(&test);
        let [read, written] = ["resync_bytes_read", "resync_bytes_written"].map(|name| test.counter(name));
        println!("leg {leg}: {missed} chunks were missed, {read} bytes read, {written} written");
        // Each write at least from the one leg, at most the whole chunk from both.
        assert!((WRITES * BLOCK..=2 * missed * CHUNK).contains(&read), "{read} bytes were read");
        // More than was missed only where there was data around it.
        let most = WRITES * BLOCK * 3 / 2;
        assert!((WRITES * BLOCK..=most).contains(&written), "{written} bytes were written");
        test.umount_and_compare();
        test.mount();
    }
}

/// A leg whose disk is not mounted: nothing is in its place, or the empty directory of the mount point. Returns its place
/// and where it is now.
fn take_away(test: &TestMirror, name: &str, is_empty: bool) -> (PathBuf, PathBuf) {
    let (path, away) = (test.scratch().join(name), test.scratch().join("away"));
    fs::rename(&path, &away).expect("rename");
    if is_empty {
        fs::create_dir(&path).expect("mkdir");
    }
    (path, away)
}

/// Whether a mount of the mirror sleeps until it looks for a leg again.
fn is_waiting(test: &TestMirror) -> bool {
    let pids = running(program(), test.scratch().path());
    let sleeps =
        |pid| fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|at| at.contains("nanosleep"));
    pids.into_iter().any(sleeps)
}

#[test]
fn a_mount_waits_for_a_leg_and_ends_when_it_is_there() {
    if !can_mount() {
        return;
    }
    for ((leg, name), is_empty) in LEGS.into_iter().flat_map(|leg| [(leg, false), (leg, true)]) {
        println!("leg {leg}, {}", if is_empty { "an empty directory" } else { "no directory" });
        let mut test = TestMirror::on("awaited", Filesystem::Plain, "");
        make_tree(&test.mnt);
        test.umount();
        let (path, away) = take_away(&test, name, is_empty);
        test.mirror_mut().options = "degraded=wait=1h".to_owned();
        let output = std::thread::scope(|scope| {
            let mounting = scope.spawn(|| run(&mut test.mount_command()));
            wait_for("the mount to wait", || is_waiting(&test));
            assert!(!test.is_mounted() && !mounting.is_finished());
            fs::rename(&away, &path).expect("put back");
            mounting.join().expect("the mount")
        });
        assert!(output.status.success(), "{}", said(&output));
        let status = test.status();
        assert_eq!(status["state"], "clean", "{status}");
        assert!((0..2).all(|of_leg| status["legs"][of_leg]["state"] == "in_sync"), "{status}");
        change_tree(&test.mnt);
        test.umount_and_compare();
    }
}

#[test]
fn a_mount_that_has_waited_long_enough_goes_on_with_one_leg_and_tells() {
    if !can_mount() {
        return;
    }
    for ((leg, name), is_empty) in LEGS.into_iter().flat_map(|leg| [(leg, false), (leg, true)]) {
        println!("leg {leg}, {}", if is_empty { "an empty directory" } else { "no directory" });
        let mut test = TestMirror::on("waited", Filesystem::Plain, "");
        make_tree(&test.mnt);
        test.umount();
        let (path, away) = take_away(&test, name, is_empty);
        let (script, heard) = listener(&test);
        test.mirror_mut().options = format!("degraded=wait=1s,on_event={}", script.display());
        let start = Instant::now();
        test.mount();
        assert!(start.elapsed() >= Duration::from_secs(1), "it has not waited");
        let status = test.status();
        assert_eq!(status["state"], "degraded", "{status}");
        assert_eq!(status["legs"][usize::from(leg == "B")]["state"], "missing", "{status}");
        change_tree(&test.mnt);
        assert!(if is_empty { fs::read_dir(&path).expect("list").next().is_none() } else { !path.exists() });
        fs::rename(&away, &path).expect("put back");
        order(&test, &["re-add", leg], None);
        wait_until_whole(&test);
        test.umount_and_compare();
        // The daemon has told all before it ends.
        let told = fs::read_to_string(&heard).expect("the event program was run");
        assert!(told.starts_with(&format!("DegradedArray {leg}\n")), "{told}");
        assert_eq!(told.matches("DegradedArray").count(), 1, "{told}");
    }
}

#[test]
fn what_lies_in_a_legs_place_is_never_used_as_the_leg() {
    if !can_mount() {
        return;
    }
    for (leg, name) in LEGS {
        let mut test = TestMirror::on("inplace", Filesystem::Plain, "");
        make_tree(&test.mnt);
        test.umount();
        let (path, away) = (test.scratch().join(name), test.scratch().join("away"));
        fs::rename(&path, &away).expect("rename");

        // Somebody's files: as if nothing were there.
        make_tree(&path);
        let theirs = fingerprint(&path);
        test.mirror_mut().options = "degraded=yes".to_owned();
        test.mount();
        let status = test.status();
        assert_eq!(status["state"], "degraded", "{status}");
        assert_eq!(status["legs"][usize::from(leg == "B")]["state"], "missing", "{status}");
        change_tree(&test.mnt);
        let refused = verb(&test, &["re-add", leg], None);
        assert!(!refused.status.success() && said(&refused).contains("not a leg"), "{}", said(&refused));
        test.umount();
        assert_eq!(theirs, fingerprint(&path));
        fs::rename(&path, test.scratch().join("theirs")).expect("rename");

        // The same leg of another mirror: a mistake.
        let others = ["x", "y"].map(|name| test.scratch().dir(name));
        fs::write(others[0].join("file"), "theirs").expect("write");
        must(mirrorfs().arg("create").args(&others).args(["--source", "A"]));
        fs::rename(&others[usize::from(leg == "B")], &path).expect("rename");
        let (both, places) = ([&test.a, &test.b], [&test.a, &test.b].map(|path| fingerprint(path)));
        let refused = run(&mut test.mount_command());
        assert!(
            !refused.status.success() && said(&refused).contains("different mirrors"),
            "{}",
            said(&refused)
        );
        assert_eq!(places, both.map(|path| fingerprint(path)));
        fs::rename(&path, test.scratch().join("of another")).expect("rename");

        fs::rename(&away, &path).expect("put back");
        test.mount();
        wait_until_whole(&test);
        test.umount_and_compare();
    }
}

/// It is known by what is open of it, and misses nothing. Only who looks for it at its path has to find it there.
#[test]
fn a_leg_that_is_moved_or_unmounted_lazily_under_the_mount_goes_on_being_one() {
    if !can_mount() {
        return;
    }
    for (leg, lower) in LEGS {
        for filesystem in [Filesystem::Plain, Filesystem::Ext4] {
            let is_moved = filesystem == Filesystem::Plain;
            let test = TestMirror::on("goneaside", filesystem, "");
            let (path, aside) = (test.scratch().join(lower), test.scratch().join("aside"));
            fs::write(test.mnt.join("before"), "before").expect("write");
            match is_moved {
                true => fs::rename(&path, &aside).expect("rename"),
                false => {
                    rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).expect("umount -l")
                }
            }
            fs::write(test.mnt.join("after"), "after").expect("both legs take it");
            File::open(test.mnt.join("after")).and_then(|file| file.sync_all()).expect("fsync");
            let status = test.status();
            assert!(
                status["legs"].as_array().expect("two").iter().all(|leg| leg["state"] == "in_sync"),
                "{status}"
            );
            if is_moved {
                order(&test, &["fail", other(leg)], None);
                fs::write(test.mnt.join("alone"), "alone").expect("it serves alone");
                let refused = verb(&test, &["re-add", other(leg)], None);
                assert!(said(&refused).contains(&format!("cannot find leg {leg} at")), "{}", said(&refused));
                fs::rename(&aside, &path).expect("rename");
                order(&test, &["re-add", other(leg)], None);
                wait_until_whole(&test);
                test.umount();
            } else {
                test.umount();
                attach(&test.scratch().join(format!("{lower}.img")), &path);
            }
            test.assert_equal();
            assert_eq!(fs::read(path.join("after")).expect("read"), b"after");
        }
    }
}
