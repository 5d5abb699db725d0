//! State that is damaged, foreign, copied or on a filesystem that is read-only, met by a mount: what
//! the bitmap does not tell is compared, what is not understood is refused, and neither a refusal nor a
//! read-only mount changes anything. (`errors.rs` has the plain cases.)
//!
//! Needs root and /dev/fuse.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::mirror::{mirrorfs, said};
use common::process::{must, run};
use common::tree::fingerprint;
use common::{Filesystem, TestMirror, can_mount, mounted, mounts, wait_for};

const LEGS: [&str; 2] = ["a", "b"];

/// Mounts with other options than the test's own.
fn mount_with(test: &TestMirror, options: &str) -> std::process::Output {
    run(mirrorfs().arg("mount").args([&test.a, &test.b, &test.mnt]).args(["-o", options]))
}

/// Everything on both legs, the mirror's own files included.
fn state(test: &TestMirror) -> [BTreeMap<PathBuf, String>; 2] {
    [fingerprint(&test.a), fingerprint(&test.b)]
}

/// A mount that has to be refused with all of these words, and to change nothing on either leg.
fn refused(test: &TestMirror, options: &str, words: &[&str]) {
    let before = state(test);
    let output = mount_with(test, options);
    let text = said(&output);
    assert!(!output.status.success(), "this has to be refused: {text}");
    for word in words {
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "the message lacks {word:?}: {text}");
    }
    assert!(text.trim_end().lines().count() >= 3, "what, and what to do: {text}");
    assert!(state(test) == before, "a refusal changes nothing: {text}");
    assert!(!test.is_mounted());
}

fn detach(test: &TestMirror) {
    let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(bytes, offset).and_then(|()| file.sync_all()).expect("write");
}

/// Changes a file on B behind the mirror's back so that neither length nor times tell of it.
fn plant(path: &Path, offset: u64) {
    let meta = fs::metadata(path).expect("stat");
    overwrite(path, offset, b"planted");
    let times = fs::FileTimes::new()
        .set_accessed(meta.accessed().expect("atime"))
        .set_modified(meta.modified().expect("mtime"));
    File::options().write(true).open(path).and_then(|file| file.set_times(times)).expect("times");
}

/// A mirror whose daemon was killed: `clean` had been cleared by then, `dirty` had not.
fn crashed(name: &str, options: &str) -> Option<TestMirror> {
    if !can_mount() {
        return None;
    }
    let mut test = TestMirror::unmounted(name, Filesystem::Plain, options);
    let log = test.scratch().join("log");
    let comma = if options.is_empty() { "" } else { "," };
    test.mirror_mut().options = format!("log={}{comma}{options}", log.display());
    let output = test.create(&[]);
    assert!(output.status.success(), "{}", said(&output));
    test.mount();
    fs::write(test.mnt.join("clean"), vec![1; 300_000]).expect("write");
    test.umount();
    test.mount();
    fs::write(test.mnt.join("dirty"), vec![2; 300_000]).expect("write");
    test.kill();
    detach(&test);
    Some(test)
}

fn log(test: &TestMirror) -> String {
    fs::read_to_string(test.scratch().join("log")).expect("the log")
}

#[test]
fn a_damaged_superblock_slot_of_a_dirty_mirror_is_repaired() {
    for leg in LEGS {
        for slot in 0..2u64 {
            let Some(test) = crashed("slot", "") else { return };
            let path = test.scratch().join(leg).join(".mirrorfs/superblock");
            overwrite(&path, slot * 4096 + 40, &[0xee; 512]);
            plant(&test.b.join("dirty"), 5000);
            test.recover_and_compare();
            assert_eq!(fs::read(test.b.join("dirty")).expect("read"), vec![2; 300_000]);
            let text = must(mirrorfs().arg("examine").arg(test.scratch().join(leg)).arg("--json"));
            let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert!(report["damaged_slot"].is_null(), "repaired: {text}");
            assert!(log(&test).contains("superblock is damaged"), "the log: {}", log(&test));
        }
    }
}

#[test]
fn one_missing_or_damaged_bitmap_costs_nothing_but_a_line_in_the_log() {
    type Break = fn(&Path);
    let ways: [(&str, Break, &str); 5] = [
        ("missing", |path| fs::remove_file(path).expect("unlink"), "no such file"),
        (
            "short",
            |path| File::options().write(true).open(path).unwrap().set_len(8192).unwrap(),
            "8192 bytes",
        ),
        ("a hole", punch, "holes"),
        (
            "a bad CRC",
            |path| (0..1024).for_each(|slot| overwrite(path, 4096 + slot * 4096, &[0xee])),
            "the first is 0",
        ),
        ("another UUID", |path| fs::copy(foreign_bitmap(path), path).map(|_| ()).unwrap(), "another mirror"),
    ];
    for (name, way, word) in ways {
        for leg in LEGS {
            println!("{name} on {leg}");
            let Some(test) = crashed("onecopy", "") else { return };
            way(&test.scratch().join(leg).join(".mirrorfs/bitmap"));
            plant(&test.b.join("dirty"), 5000);
            // What the bitmap does not name is not looked at: the other copy tells everything.
            plant(&test.b.join("clean"), 5000);
            test.mount();
            test.wait_until_resynced();
            let said = log(&test).to_lowercase();
            assert!(said.contains(&format!("bitmap on leg {leg}")) && said.contains(word), "{name}: {said}");
            test.umount();
            assert_eq!(fs::read(test.b.join("dirty")).expect("read"), vec![2; 300_000], "{name}");
            assert_ne!(fs::read(test.b.join("clean")).expect("read"), vec![1; 300_000], "{name}");
            let lens = test.on_legs(".mirrorfs/bitmap").map(|path| fs::read(path).expect("bitmap"));
            assert!(lens[0] == lens[1], "{name}: made anew, and alike");
        }
    }
}

fn punch(path: &Path) {
    let file = File::options().write(true).open(path).expect("open");
    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, mode, 64 << 10, 64 << 10).expect("punch");
}

/// The bitmap of a mirror made beside this one.
fn foreign_bitmap(beside: &Path) -> PathBuf {
    let top = beside.ancestors().nth(3).expect("a bitmap lies in LEG/.mirrorfs");
    let [c, d] = ["c", "d"].map(|name| top.join(name));
    if !c.exists() {
        [&c, &d].into_iter().for_each(|leg| fs::create_dir(leg).expect("mkdir"));
        must(mirrorfs().arg("create").args([&c, &d]));
    }
    c.join(".mirrorfs/bitmap")
}

#[test]
fn without_any_bitmap_differences_that_nobody_marked_are_found() {
    let Some(test) = crashed("nobitmap", "") else { return };
    for path in test.on_legs(".mirrorfs/bitmap") {
        fs::remove_file(path).expect("unlink");
    }
    plant(&test.b.join("clean"), 5000);
    fs::write(test.b.join("extra"), "x").expect("write");
    test.recover_and_compare();
    for name in ["clean", "dirty"] {
        assert!(fs::read(test.b.join(name)).expect("read") == fs::read(test.a.join(name)).expect("read"));
    }
    assert_eq!(fs::read(test.b.join("clean")).expect("read"), vec![1; 300_000]);
    assert!(log(&test).contains("all files are compared"), "{}", log(&test));
}

/// The bitmaps that the first mount makes anew look whole to the second: that everything has to be
/// compared must last until it has been.
#[test]
fn a_crash_while_everything_is_compared_starts_it_again() {
    let Some(test) = mounted("compareagain") else { return };
    let large = 96 << 20;
    fs::write(test.mnt.join("large"), vec![1; large]).expect("write");
    for number in 0..200 {
        fs::write(test.mnt.join(format!("z{number}")), vec![3; 2000]).expect("write");
    }
    test.umount();
    for path in test.on_legs(".mirrorfs/bitmap") {
        fs::remove_file(path).expect("unlink");
    }
    plant(&test.b.join("large"), large as u64 - 100);
    plant(&test.b.join("z150"), 100);
    for round in 0..4 {
        test.mount();
        let active = test.status()["resync"]["active"] == true;
        test.kill();
        detach(&test);
        println!("killed in round {round}; comparing: {active}");
        let text = must(mirrorfs().arg("examine").arg(&test.a).arg("--json"));
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        if active {
            assert_eq!(report["bitmap"]["compare_all"], true, "{text}");
        }
    }
    test.recover_and_compare();
    assert!(fs::read(test.b.join("large")).expect("read") == vec![1; large]);
    let text = must(mirrorfs().arg("examine").arg(&test.a).arg("--json"));
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["bitmap"]["compare_all"], false, "{text}");
}

#[test]
fn a_later_format_of_a_bitmap_is_refused() {
    for leg in LEGS {
        let Some(test) = crashed("newerbitmap", "") else { return };
        let path = test.scratch().join(leg).join(".mirrorfs/bitmap");
        let mut header = fs::read(&path).expect("read")[..512].to_vec();
        header[8..12].copy_from_slice(&77u32.to_le_bytes());
        let crc = crc32c::crc32c(&header[..508]);
        header[508..].copy_from_slice(&crc.to_le_bytes());
        overwrite(&path, 0, &header);
        refused(&test, "rw", &["version 77", &format!("leg {leg}")]);
    }
}

#[test]
fn a_bitmap_moves_out_of_the_legs_and_back_in() {
    let Some(test) = crashed("move", "") else { return };
    let file = test.scratch().join("elsewhere");
    let option = format!("bitmap={}", file.display());
    plant(&test.b.join("dirty"), 5000);
    // Beside it lies what is not ours.
    fs::write(test.scratch().join("elsewhere.new"), "mine").expect("write");
    let must_mount = |options: &str| {
        let output = mount_with(&test, options);
        assert!(output.status.success(), "{options}: {}", said(&output));
        test.wait_until_resynced();
    };
    // Out, with what is dirty.
    must_mount(&option);
    assert_eq!(fs::read(test.b.join("dirty")).expect("read"), vec![2; 300_000]);
    fs::write(test.mnt.join("third"), vec![3; 100_000]).expect("write");
    test.kill();
    detach(&test);
    plant(&test.b.join("third"), 500);
    // It is dirty, so it is needed; and a lost one is not made up for in silence.
    refused(&test, "rw", &["bitmap", "-o bitmap="]);
    let kept = test.scratch().join("kept");
    fs::rename(&file, &kept).expect("rename");
    refused(&test, &option, &[file.to_str().expect("plain"), "bitmap"]);
    fs::rename(&kept, &file).expect("rename");
    must_mount(&option);
    test.umount();
    test.assert_equal();
    assert_eq!(fs::read(test.b.join("third")).expect("read"), vec![3; 100_000]);
    // A damaged one is rebuilt, and everything compared.
    must_mount(&option);
    fs::write(test.mnt.join("fourth"), vec![4; 100_000]).expect("write");
    test.kill();
    detach(&test);
    plant(&test.b.join("clean"), 500);
    overwrite(&file, 4096, &vec![0xee; 64 << 10]);
    must_mount(&option);
    test.umount();
    test.assert_equal();
    // Clean: back in.
    must_mount("rw");
    fs::write(test.mnt.join("fifth"), vec![5; 100_000]).expect("write");
    test.kill();
    detach(&test);
    plant(&test.b.join("fifth"), 500);
    must_mount("rw");
    test.umount();
    test.assert_equal();
    assert_eq!(fs::read(test.scratch().join("elsewhere.new")).expect("read"), b"mine");
}

#[test]
fn a_bitmap_file_that_is_not_this_mirrors_own_is_refused() {
    let Some(test) = crashed("foreignfile", "") else { return };
    let at = |name: &str| test.scratch().join(name);
    let option = |path: &Path| format!("bitmap={}", path.display());
    // Somebody's data.
    fs::write(at("precious"), "not a bitmap").expect("write");
    refused(&test, &option(&at("precious")), &["precious", "not a bitmap"]);
    assert_eq!(fs::read(at("precious")).expect("read"), b"not a bitmap");
    std::os::unix::fs::symlink("precious", at("link")).expect("symlink");
    refused(&test, &option(&at("link")), &["link", "symbolic link"]);
    assert_eq!(fs::read_link(at("link")).expect("still a link"), Path::new("precious"));
    // Another mirror's, in use and not.
    let [c, d, mnt] = ["c", "d", "mnt2"].map(|name| test.scratch().dir(name));
    must(mirrorfs().arg("create").args([&c, &d]).arg("--bitmap").arg(at("theirs")));
    refused(&test, &option(&at("theirs")), &["theirs", "another mirror"]);
    must(mirrorfs().arg("mount").args([&c, &d, &mnt]).args(["-o", &option(&at("theirs"))]));
    refused(&test, &option(&at("theirs")), &["theirs", "mirror"]);
    // On a leg, on a mirror, on a directory that is not there, a directory.
    refused(&test, &option(&test.a.join("bitmap")), &["inside leg A"]);
    refused(&test, &option(&test.b.join(".mirrorfs/other")), &["inside leg B"]);
    refused(&test, &option(&mnt.join("bitmap")), &["on a mounted mirror"]);
    refused(&test, &option(&at("nowhere/bitmap")), &["nowhere/bitmap"]);
    fs::create_dir(at("directory")).expect("mkdir");
    refused(&test, &option(&at("directory")), &["directory"]);
    must(Command::new("umount").arg(&mnt));
    wait_for("the other mirror's end", || run(mirrorfs().arg("examine").arg(&c)).status.success());
    test.recover_and_compare();
}

#[test]
fn a_mirror_with_its_bitmap_elsewhere_overwrites_no_other_file() {
    let Some(test) = crashed("otherfile", "") else { return };
    test.recover_and_compare();
    let at = |name: &str| test.scratch().join(name);
    let option = |name: &str| format!("bitmap={}", at(name).display());
    assert!(mount_with(&test, &option("own")).status.success());
    test.umount();
    let length = fs::metadata(at("own")).expect("stat").len();
    fs::write(at("short"), "not a bitmap").expect("write");
    fs::write(at("long"), vec![7; length as usize]).expect("write");
    let sparse = File::create(at("sparse")).expect("create");
    sparse.set_len(length).expect("set_len");
    sparse.write_all_at(b"precious", length / 2).expect("write");
    drop(sparse);
    for name in ["short", "long", "sparse"] {
        let before = fs::read(at(name)).expect("read");
        for clean in [true, false] {
            if !clean {
                assert!(mount_with(&test, &option("own")).status.success());
                fs::write(test.mnt.join(name), "dirty").expect("write");
                test.kill();
                detach(&test);
            }
            refused(&test, &option(name), &[name, "not a bitmap of this mirror"]);
            assert!(fs::read(at(name)).expect("read") == before, "{name}, clean: {clean}");
        }
        assert!(mount_with(&test, &option("own")).status.success());
        test.umount();
    }
    test.assert_equal();
}

#[test]
fn an_old_bitmap_file_is_known_for_old() {
    for crash in [true, false] {
        let Some(test) = crashed("oldfile", "") else { return };
        test.recover_and_compare();
        let at = |name: &str| test.scratch().join(name);
        let option = |name: &str| format!("bitmap={}", at(name).display());
        let mount = |name: &str| {
            let output = mount_with(&test, &option(name));
            assert!(output.status.success(), "{name}: {}", said(&output));
            test.wait_until_resynced();
        };
        // Whole and clean, and of this mirror: only that something else has been in use since.
        mount("first");
        test.umount();
        fs::copy(at("first"), at("copy")).expect("copy");
        for (used, old) in [("first", "copy"), ("second", "first")] {
            mount(used);
            fs::write(test.mnt.join("since"), vec![9; 100_000]).expect("write");
            if !crash {
                test.umount();
                mount(old);
                test.umount();
                test.assert_equal();
                continue;
            }
            test.kill();
            detach(&test);
            plant(&test.b.join("since"), 500);
            mount(old);
            test.umount();
            test.assert_equal();
            assert_eq!(fs::read(test.b.join("since")).expect("read"), vec![9; 100_000]);
        }
    }
}

#[test]
fn a_read_only_mount_changes_nothing() {
    for dirty in [false, true] {
        let Some(test) = crashed("readonly", "") else { return };
        if !dirty {
            test.recover_and_compare();
        } else {
            plant(&test.b.join("dirty"), 5000);
        }
        let before = state(&test);
        for options in ["ro", "ro,noatime"] {
            let output = mount_with(&test, options);
            assert!(output.status.success(), "{}", said(&output));
            assert_eq!(fs::read(test.mnt.join("dirty")).expect("read"), vec![2; 300_000]);
            let error = fs::write(test.mnt.join("new"), "x").expect_err("read-only");
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
            assert_eq!(test.status()["state"], "readonly");
            test.umount();
            assert!(state(&test) == before, "nothing has changed (dirty: {dirty})");
        }
        // The same with damaged state, which a mount for writing would repair.
        fs::remove_file(test.b.join(".mirrorfs/bitmap")).expect("unlink");
        overwrite(&test.a.join(".mirrorfs/superblock"), 4096 + 40, &[0xee; 64]);
        let before = state(&test);
        assert!(mount_with(&test, "ro").status.success());
        test.umount();
        assert!(state(&test) == before, "nothing has been repaired (dirty: {dirty})");
        test.mount();
        test.wait_until_resynced();
        test.umount();
        // Not all of the legs: looking at them from outside has raised access times.
        assert_eq!(fs::read(test.b.join("dirty")).expect("read"), vec![2; 300_000]);
        must(mirrorfs().arg("examine").arg(&test.b));
    }
}

#[test]
fn legs_on_a_read_only_filesystem_are_mounted_read_only_or_not_at_all() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::on("rolegs", Filesystem::Ext4, "");
    fs::write(test.mnt.join("file"), "contents").expect("write");
    for killed in [false, true] {
        if killed {
            test.mount();
            fs::write(test.mnt.join("second"), "more").expect("write");
            test.kill();
            detach(&test);
        } else {
            test.umount();
        }
        for leg in [&test.a, &test.b] {
            must(Command::new("mount").args(["-o", "remount,ro"]).arg(leg));
        }
        refused(&test, "rw", &["read-only", test.a.to_str().expect("plain")]);
        let output = mount_with(&test, "ro");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(fs::read_to_string(test.mnt.join("file")).expect("read"), "contents");
        test.umount();
        for leg in [&test.a, &test.b] {
            must(Command::new("mount").args(["-o", "remount,rw"]).arg(leg));
        }
        test.recover_and_compare();
    }
}

#[test]
fn a_copy_of_a_leg_does_not_stand_in_for_the_other() {
    let Some(test) = crashed("copied", "") else { return };
    for leg in [&test.a, &test.b] {
        let copy = test.scratch().join("copy");
        must(Command::new("cp").arg("-a").arg(leg).arg(&copy));
        let before = (state(&test), fingerprint(&copy));
        for pair in [[leg, &copy], [&copy, leg]] {
            let output = run(mirrorfs().arg("mount").args(pair).arg(&test.mnt));
            let text = said(&output);
            assert!(!output.status.success() && text.contains("copy"), "{text}");
        }
        assert!((state(&test), fingerprint(&copy)) == before, "nothing has changed");
        fs::remove_dir_all(&copy).expect("rm");
    }
    test.recover_and_compare();
}

#[test]
fn a_second_daemon_on_either_leg_is_refused_and_told_of_the_first() {
    let Some(test) = mounted("second") else { return };
    let pid = test.pid().to_string();
    let [c, d, mnt] = ["c", "d", "mnt2"].map(|name| test.scratch().dir(name));
    must(mirrorfs().arg("create").args([&c, &d]));
    let try_mount = |a: &Path, b: &Path, options: &str| {
        let output = run(mirrorfs().arg("mount").args([a, b, &mnt]).args(["-o", options]));
        assert!(!output.status.success(), "a second daemon");
        said(&output)
    };
    for options in ["rw", "ro"] {
        let text = try_mount(&test.a, &test.b, options);
        assert!(text.contains("in use") && text.contains(&pid), "{text}");
    }
    assert!(mounts::at(&mnt).is_none());
    fs::write(test.mnt.join("file"), "the first one goes on").expect("write");
    test.umount_and_compare();
    // A read-only mount keeps others out as well.
    assert!(mount_with(&test, "ro").status.success());
    let text = try_mount(&test.a, &test.b, "rw");
    assert!(text.contains("in use"), "{text}");
    test.umount();
}
