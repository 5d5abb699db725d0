//! Each leg has been changed without the other: `resolve` tells who changed what, and gives up the leg that it is
//! told to, whose versions are kept aside. And legs that were copied or restored from a backup.
//!
//! Needs root, /dev/fuse and mkfs.ext4.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use common::filesystem::attach;
use common::mirror::{mirrorfs, said};
use common::process::{must, run};
use common::tree::fingerprint;
use common::{Filesystem, TestMirror, can_mount};

const LEGS: [&str; 2] = ["A", "B"];

fn other(leg: &str) -> &'static str {
    if leg == "A" { "B" } else { "A" }
}

fn path_of(test: &TestMirror, leg: &str) -> PathBuf {
    if leg == "A" { test.a.clone() } else { test.b.clone() }
}

/// Mounts this leg without the other one.
fn mount_alone(test: &TestMirror, leg: &str) -> Output {
    let place = |name| if name == leg { path_of(test, name) } else { PathBuf::from("missing") };
    run(mirrorfs().arg("mount").arg(place("A")).arg(place("B")).arg(&test.mnt))
}

fn resolve(test: &TestMirror, words: &[&str]) -> Output {
    run(mirrorfs().arg("resolve").arg(&test.a).arg(&test.b).args(words))
}

/// Gives up a leg; fails the test if that fails. Returns the directory its versions are in.
fn discard(test: &TestMirror, leg: &str) -> PathBuf {
    let output = resolve(test, &["--discard-leg", leg]);
    assert!(output.status.success(), "{}", said(&output));
    last_conflicts(test, leg)
}

/// The newest directory of what was moved aside on a leg.
fn last_conflicts(test: &TestMirror, leg: &str) -> PathBuf {
    conflicts(test, leg).pop().expect("something was moved aside")
}

fn conflicts(test: &TestMirror, leg: &str) -> Vec<PathBuf> {
    let dirs = fs::read_dir(path_of(test, leg).join(".mirrorfs/conflicts")).expect("a leg has it");
    let mut dirs: Vec<_> = dirs.map(|entry| entry.expect("an entry").path()).collect();
    dirs.sort();
    dirs
}

/// What `--list --json` says: by path, who and in what.
fn listed(test: &TestMirror) -> BTreeMap<String, (String, String)> {
    let output = resolve(test, &["--list", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["version"], 1);
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    let objects = report["objects"].as_array().expect("a list").iter();
    objects
        .map(|object| {
            let words: Vec<String> = object["differs"].as_array().expect("a list").iter().map(text).collect();
            (text(&object["path"]), (text(&object["changed_by"]), words.join(",")))
        })
        .collect()
}

/// Changes the mirror's content on `leg` alone.
fn change_alone(test: &TestMirror, leg: &str, change: impl FnOnce(&Path)) {
    let output = mount_alone(test, leg);
    assert!(output.status.success(), "{}", said(&output));
    change(&test.mnt);
    test.umount();
}

/// What lies in a leg, without the mirror's own.
fn content(leg: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = fingerprint(leg);
    found.retain(|path, _| !path.starts_with(leg.join(".mirrorfs")));
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: PathBuf, text: &str) {
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn set_xattr(path: &Path, value: &str) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.of", value.as_bytes(), flags).expect("an extended attribute");
}

fn make_special(path: &Path, kind: rustix::fs::FileType) {
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), null).expect("mknod");
}

#[test]
fn the_list_tells_who_changed_what() {
    if !can_mount() {
        return;
    }
    for first in LEGS {
        let test = TestMirror::on("list", Filesystem::Plain, "");
        for leg in LEGS {
            for name in ["content", "gone", "old", "mode", "xattr", "again", "kind", "symlink", "one"] {
                write(test.mnt.join(format!("{name}-{leg}")), name);
            }
            fs::create_dir_all(test.mnt.join(format!("dir-{leg}/sub"))).expect("mkdir");
            write(test.mnt.join(format!("dir-{leg}/sub/file")), "x");
            fs::create_dir(test.mnt.join(format!("away-{leg}"))).expect("mkdir");
            write(test.mnt.join(format!("away-{leg}/file")), "x");
        }
        for name in ["both", "both-mode", "fight-A", "fight-B", "same", "untouched", "sneaky"] {
            write(test.mnt.join(name), name);
        }
        test.umount();
        for leg in [first, other(first)] {
            change_alone(&test, leg, |mnt| {
                let at = |name: &str| mnt.join(format!("{name}-{leg}"));
                write(at("content"), "changed");
                write(at("new"), "new");
                fs::remove_file(at("gone")).expect("unlink");
                fs::rename(at("old"), at("renamed")).expect("rename");
                rustix::fs::chmod(at("mode"), 0o640.into()).expect("chmod");
                set_xattr(&at("xattr"), leg);
                fs::remove_file(at("again")).expect("unlink");
                write(at("again"), "another one");
                fs::remove_file(at("kind")).expect("unlink");
                fs::create_dir(at("kind")).expect("mkdir");
                fs::remove_file(at("symlink")).expect("unlink");
                symlink("elsewhere", at("symlink")).expect("symlink");
                fs::hard_link(at("one"), at("two")).expect("link");
                write(at("dir").join("sub/file"), "y");
                fs::rename(at("away"), mnt.join(format!("dir-{leg}/away"))).expect("rename");
                write(mnt.join("both"), leg);
                rustix::fs::chmod(mnt.join("both-mode"), if leg == "A" { 0o600 } else { 0o666 }.into())
                    .expect("chmod");
                write(mnt.join("both-new"), leg);
                write(mnt.join(format!("fight-{leg}")), "changed here, removed there");
                fs::remove_file(mnt.join(format!("fight-{}", other(leg)))).expect("unlink");
                write(mnt.join("same"), "sane");
            });
        }
        // Nobody but a bitmap knows who did something, and this it does not know.
        write(test.b.join("sneaky"), "sneeky");
        let before = [&test.a, &test.b].map(|leg| fingerprint(leg));

        let list = listed(&test);
        let mut expected: BTreeMap<String, (String, String)> = BTreeMap::new();
        let mut expect = |path: String, who: &str, how: &str| {
            expected.insert(path, (who.to_owned(), how.to_owned()));
        };
        for leg in LEGS {
            let (here, there) = (format!("only-on-{leg}"), format!("only-on-{}", other(leg)));
            for (name, how) in [
                ("content", "content,time"),
                ("new", &here),
                ("gone", &there),
                ("old", &there),
                ("renamed", &here),
                ("mode", "metadata"),
                ("xattr", "metadata"),
                ("again", "content,time"),
                ("kind", "kind"),
                ("symlink", "kind"),
                ("one", "links"),
                ("two", &here),
                ("away", &there),
                ("dir", "time"),
            ] {
                expect(format!("{name}-{leg}"), leg, how);
            }
            expect(format!("dir-{leg}/away"), leg, &here);
            expect(format!("dir-{leg}/sub/file"), leg, "content,time");
            expect(format!("fight-{leg}"), "both", &here);
        }
        expect("both".to_owned(), "both", "content,time");
        expect("both-mode".to_owned(), "both", "metadata");
        expect("both-new".to_owned(), "both", "content,time");
        expect("same".to_owned(), "both", "time");
        expect(".".to_owned(), "both", "time");
        expect("sneaky".to_owned(), "unknown", "content,time");
        assert_eq!(list, expected, "{first} went first");

        let output = resolve(&test, &["--list"]);
        let text = String::from_utf8(output.stdout.clone()).expect("text");
        assert_eq!(text.lines().count(), expected.len());
        assert!(text.contains("\nA        only-on-A         new-A\n"), "{text}");
        assert!(text.contains("\nB        only-on-B         dir-B/away/\n"), "{text}");
        let summary = String::from_utf8_lossy(&output.stderr).into_owned();
        let count = |who| expected.values().filter(|(by, _)| by == who).count();
        let counted = format!(
            "{} objects differ: {} changed on leg A only, {} on leg B only, {} on both, 1 unknown.",
            expected.len(),
            count("A"),
            count("B"),
            count("both")
        );
        assert_eq!(summary.trim(), counted);
        assert_eq!([&test.a, &test.b].map(|leg| fingerprint(leg)), before, "looking changes nothing");
    }
}

/// Every kind of object, each changed by each leg in its own way.
fn make_split(test: &TestMirror, first: &str) {
    let mnt = &test.mnt;
    fs::create_dir_all(mnt.join("deep/er")).expect("mkdir");
    for name in ["both", "mode", "linked", "deep/er/file", "untouched", "replaced", "deep/moved"] {
        write(mnt.join(name), name);
    }
    fs::hard_link(mnt.join("linked"), mnt.join("deep/er/link")).expect("link");
    symlink("untouched", mnt.join("symlink")).expect("symlink");
    fs::create_dir(mnt.join("only-mode")).expect("mkdir");
    write(mnt.join("only-mode/inside"), "stays");
    write(mnt.join("large"), "");
    File::options().write(true).open(mnt.join("large")).unwrap().set_len(3 << 20).expect("truncate");
    test.umount();
    for leg in [first, other(first)] {
        change_alone(test, leg, |mnt| {
            write(mnt.join("both"), &format!("both by {leg}"));
            rustix::fs::chmod(mnt.join("mode"), if leg == "A" { 0o600 } else { 0o640 }.into()).unwrap();
            rustix::fs::chmod(mnt.join("only-mode"), if leg == "A" { 0o700 } else { 0o750 }.into()).unwrap();
            write(mnt.join("linked"), &format!("linked by {leg}"));
            write(mnt.join("deep/er/file"), &format!("file by {leg}"));
            fs::remove_file(mnt.join("symlink")).expect("unlink");
            symlink(leg, mnt.join("symlink")).expect("symlink");
            fs::create_dir_all(mnt.join(format!("new-{leg}/sub"))).expect("mkdir");
            write(mnt.join(format!("new-{leg}/sub/file")), leg);
            fs::hard_link(mnt.join("linked"), mnt.join(format!("new-{leg}/link"))).expect("link");
            make_special(&mnt.join(format!("new-{leg}/null")), rustix::fs::FileType::CharacterDevice);
            make_special(&mnt.join(format!("fifo-{leg}")), rustix::fs::FileType::Fifo);
            fs::remove_file(mnt.join("replaced")).expect("unlink");
            match leg {
                "A" => fs::create_dir(mnt.join("replaced")).expect("mkdir"),
                _ => make_special(&mnt.join("replaced"), rustix::fs::FileType::Fifo),
            }
            fs::rename(mnt.join("deep/moved"), mnt.join(format!("moved-{leg}"))).expect("rename");
            let large = File::options().write(true).open(mnt.join("large")).expect("open");
            large.write_all_at(leg.as_bytes(), 2 << 20).expect("write");
        });
    }
}

/// The versions of `make_split` of this leg, in a directory of conflicts.
fn assert_kept(aside: &Path, leg: &str) {
    assert_eq!(read(aside.join("both")), format!("both by {leg}"));
    let mode = |name: &str| fs::metadata(aside.join(name)).expect("stat").permissions().mode() & 0o777;
    assert_eq!(mode("mode"), if leg == "A" { 0o600 } else { 0o640 });
    assert_eq!(mode("only-mode"), if leg == "A" { 0o700 } else { 0o750 });
    assert!(!aside.join("only-mode/inside").exists(), "what is equal stays");
    assert_eq!(read(aside.join("deep/er/file")), format!("file by {leg}"));
    let ino = |name: &str| fs::symlink_metadata(aside.join(name)).expect("stat").ino();
    let names = ["linked", "deep/er/link", &format!("new-{leg}/link")];
    for name in names {
        assert_eq!(read(aside.join(name)), format!("linked by {leg}"));
        assert_eq!(ino(name), ino("linked"), "still one object");
    }
    assert_eq!(fs::metadata(aside.join("linked")).unwrap().nlink(), 3, "and of the mirror no part");
    assert_eq!(fs::read_link(aside.join("symlink")).expect("readlink"), Path::new(leg));
    assert_eq!(read(aside.join(format!("new-{leg}/sub/file"))), leg);
    let kind = |name: &str| fs::symlink_metadata(aside.join(name)).expect("stat").file_type();
    assert!(kind(&format!("new-{leg}/null")).is_char_device());
    assert!(kind(&format!("fifo-{leg}")).is_fifo());
    assert!(if leg == "A" { kind("replaced").is_dir() } else { kind("replaced").is_fifo() });
    assert_eq!(read(aside.join(format!("moved-{leg}"))), "deep/moved");
    let large = fs::read(aside.join("large")).expect("read");
    assert_eq!((large.len(), large[2 << 20]), (3 << 20, leg.as_bytes()[0]));
    for gone in [format!("new-{}", other(leg)), "untouched".to_owned(), "deep/moved".to_owned()] {
        assert!(!aside.join(&gone).exists(), "{gone}");
    }
}

fn examined(test: &TestMirror, leg: &str) -> serde_json::Value {
    let text = must(mirrorfs().arg("examine").arg(path_of(test, leg)).arg("--json"));
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_discarded_leg_is_made_equal_to_the_other_and_its_versions_are_aside() {
    if !can_mount() {
        return;
    }
    for filesystem in [Filesystem::Plain, Filesystem::Ext4] {
        for leg in LEGS {
            println!("{leg} on {filesystem:?}");
            let test = TestMirror::on("discard", filesystem, "");
            make_split(&test, leg);
            let kept = path_of(&test, other(leg));
            let before = content(&kept);
            let refused = run(&mut test.mount_command());
            let hint =
                format!("mirrorfs resolve {} {} --discard-leg {leg}", test.a.display(), test.b.display());
            assert!(!refused.status.success() && said(&refused).contains(&hint), "{}", said(&refused));

            let aside = discard(&test, leg);
            assert_kept(&aside, leg);
            let name = aside.file_name().and_then(OsStr::to_str).expect("a date");
            assert!(name.len() == 18 && name.ends_with('Z') && name.contains('T'), "{name}");
            assert_eq!(content(&kept), before, "not touched");
            assert_eq!(conflicts(&test, other(leg)), Vec::<PathBuf>::new());

            // In between both say what is going on.
            let (loser, winner) = (examined(&test, leg), examined(&test, other(leg)));
            assert_eq!(loser["resync_source"], other(leg), "{loser}");
            assert_eq!(loser["state"], "resync unfinished");
            assert_eq!(loser["generation"], winner["generation"]);
            assert_eq!(winner["bitmap"]["compare_all"], true);
            let again = resolve(&test, &["--discard-leg", leg]);
            assert_eq!(again.status.code(), Some(13), "{}", said(&again));
            let text = format!("makes leg {leg} equal to leg {}", other(leg));
            assert!(said(&again).contains(&text), "{}", said(&again));
            let alone = mount_alone(&test, leg);
            assert!(!alone.status.success() && said(&alone).contains("not complete"), "{}", said(&alone));

            test.mount();
            let waited = run(mirrorfs().arg("wait").arg(&test.mnt));
            assert!(waited.status.success(), "{}", said(&waited));
            write(test.mnt.join("after"), "both");
            // What is aside has no part in it any more.
            write(test.mnt.join("linked"), "changed after");
            test.umount();
            test.assert_equal();
            assert_kept(&aside, leg);
            let changed = ["", "after", "linked", "deep/er/link"].map(|name| kept.join(name));
            let but = |mut all: BTreeMap<PathBuf, String>| {
                all.retain(|path, _| {
                    !changed.contains(path) && !path.ends_with(format!("new-{}/link", other(leg)))
                });
                all
            };
            assert_eq!(but(content(&kept)), but(before), "not touched");
            for leg in LEGS {
                let report = examined(&test, leg);
                assert_eq!(
                    (&report["state"], &report["bitmap"]["compare_all"]),
                    (&"clean".into(), &false.into())
                );
            }
        }
    }
}

/// The slots of before the split know both legs' objects: a recovery that went by them would find those that
/// are aside, and overwrite them.
#[test]
fn what_was_dirty_when_the_legs_parted_is_kept_as_well() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        for readd in [false, true] {
            let test = TestMirror::on("dirtysplit", Filesystem::Ext4, "");
            fs::create_dir(test.mnt.join("dir")).expect("mkdir");
            for name in ["one", "dir/two"] {
                write(test.mnt.join(name), "before");
            }
            test.kill();
            let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
            for leg in LEGS {
                change_alone(&test, leg, |mnt| {
                    write(mnt.join("one"), leg);
                    fs::rename(mnt.join("dir/two"), mnt.join(format!("two-{leg}"))).expect("rename");
                    fs::rename(mnt.join("dir"), mnt.join(format!("dir-{leg}"))).expect("rename");
                });
            }
            let aside = discard(&test, leg);
            if readd {
                assert!(mount_alone(&test, other(leg)).status.success());
                write(test.mnt.join("meanwhile"), "x");
                let output = run(mirrorfs().arg("re-add").arg(&test.mnt).arg(leg).arg(path_of(&test, leg)));
                assert!(output.status.success(), "{}", said(&output));
                assert!(run(mirrorfs().arg("wait").arg(&test.mnt)).status.success());
                test.umount();
                test.assert_equal();
            } else {
                test.recover_and_compare();
            }
            assert_eq!(read(aside.join("one")), leg);
            assert_eq!(read(aside.join(format!("two-{leg}"))), "before");
            assert!(aside.join(format!("dir-{leg}")).is_dir());
            assert_eq!(read(path_of(&test, leg).join("one")), other(leg));
            assert!(path_of(&test, leg).join(format!("dir-{}", other(leg))).is_dir());
        }
    }
}

#[test]
fn killed_anywhere_the_same_command_goes_on_and_no_other_one_does() {
    if !can_mount() {
        return;
    }
    let files = 600;
    let name = |number: usize| format!("dir{}/{number}", number % 20);
    let mut interrupted = 0;
    for round in 0..8u64 {
        let leg = LEGS[round as usize % 2];
        let test = TestMirror::on("killed", Filesystem::Plain, "");
        for number in 0..files {
            if number < 20 {
                fs::create_dir(test.mnt.join(format!("dir{number}"))).expect("mkdir");
            }
            write(test.mnt.join(name(number)), "before");
        }
        test.umount();
        for leg in LEGS {
            change_alone(&test, leg, |mnt| {
                (0..files).for_each(|number| write(mnt.join(name(number)), &format!("{leg}{number}")));
            });
        }
        let mut command = mirrorfs();
        command.arg("resolve").arg(&test.a).arg(&test.b).args(["--discard-leg", leg]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let moving = || !conflicts(&test, leg).is_empty();
        let mut ended = None;
        while !moving() && ended.is_none() {
            ended = child.try_wait().expect("our own child");
        }
        std::thread::sleep(Duration::from_millis(round * round / 4));
        let _ = child.kill();
        let status = child.wait().expect("our own child");
        if !status.success() {
            interrupted += 1;
            let both = run(&mut test.mount_command());
            assert!(!both.status.success() && said(&both).contains("diverged"), "{}", said(&both));
            let alone = mount_alone(&test, leg);
            assert!(!alone.status.success() && said(&alone).contains("not complete"), "{}", said(&alone));
            let wrong = resolve(&test, &["--discard-leg", other(leg)]);
            let hint = format!("--discard-leg {leg}");
            assert!(!wrong.status.success() && said(&wrong).contains(&hint), "{}", said(&wrong));
            let list = resolve(&test, &["--list"]);
            assert!(said(&list).contains(&format!("Leg {leg} is being discarded")), "{}", said(&list));
            discard(&test, leg);
        }
        test.recover_and_compare();
        let aside = conflicts(&test, leg);
        for number in 0..files {
            assert_eq!(read(path_of(&test, leg).join(name(number))), format!("{}{number}", other(leg)));
            let kept: Vec<_> =
                aside.iter().map(|dir| dir.join(name(number))).filter(|at| at.exists()).collect();
            assert_eq!(kept.len(), 1, "{number}");
            assert_eq!(read(&kept[0]), format!("{leg}{number}"));
        }
    }
    println!("{interrupted} of 8 were interrupted");
    assert!(interrupted > 0);
}

#[test]
fn what_is_not_a_split_brain_is_not_resolved() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::on("nothing", Filesystem::Plain, "");
    write(test.mnt.join("file"), "x");
    for words in [["--list"].as_slice(), &["--discard-leg", "B"]] {
        let output = resolve(&test, words);
        assert!(!output.status.success(), "mounted: {}", said(&output));
    }
    test.umount();
    let before = [&test.a, &test.b].map(|leg| content(leg));
    for words in [["--list"].as_slice(), &["--discard-leg", "A"]] {
        let output = resolve(&test, words);
        assert_eq!(output.status.code(), Some(13), "{}", said(&output));
        assert!(said(&output).contains("nothing to resolve"), "{}", said(&output));
    }
    // A leg that only missed something is the mount's business.
    change_alone(&test, "A", |mnt| write(mnt.join("file"), "y"));
    let stale = resolve(&test, &["--discard-leg", "B"]);
    assert_eq!(stale.status.code(), Some(13), "{}", said(&stale));
    assert!(said(&stale).contains("makes leg B equal to leg A"), "{}", said(&stale));
    assert_eq!(content(&test.b), before[1]);
    // Nothing is chosen without being told.
    change_alone(&test, "B", |mnt| write(mnt.join("file"), "z"));
    let output = resolve(&test, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    for words in ["does not choose", "--list", "--discard-leg A", "--discard-leg B"] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    assert_eq!(resolve(&test, &["--list", "--discard-leg", "A"]).status.code(), Some(2));
    let swapped = run(mirrorfs().arg("resolve").arg(&test.b).arg(&test.a).arg("--list"));
    assert!(said(&swapped).contains("wrong order"), "{}", said(&swapped));
    // In use by somebody: neither looked at nor changed.
    assert!(mount_alone(&test, "A").status.success());
    for words in [["--list"].as_slice(), &["--discard-leg", "B"], &["--discard-leg", "A"]] {
        let output = resolve(&test, words);
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        assert!(said(&output).contains("in use"), "{}", said(&output));
    }
    test.umount();
}

#[test]
fn a_bitmap_kept_elsewhere_is_reset_with_the_legs() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let mut test = TestMirror::unmounted("elsewhere", Filesystem::Plain, "");
        let file = test.scratch().join("bitmap");
        test.mirror_mut().options = format!("bitmap={}", file.display());
        assert!(test.create(&["--bitmap".as_ref(), file.as_os_str()]).status.success());
        test.mount();
        write(test.mnt.join("file"), "before");
        test.umount();
        for leg in LEGS {
            let place = |name| if name == leg { path_of(&test, name) } else { PathBuf::from("missing") };
            let mut command = mirrorfs();
            command.arg("mount").arg(place("A")).arg(place("B")).arg(&test.mnt);
            must(command.arg("-o").arg(&test.options));
            write(test.mnt.join("file"), leg);
            test.umount();
        }
        assert_eq!(listed(&test)["file"].0, "unknown", "whose marks these are cannot be told");
        let without = resolve(&test, &["--discard-leg", leg]);
        assert!(!without.status.success() && said(&without).contains("--bitmap FILE"), "{}", said(&without));
        let old = test.scratch().join("old-bitmap");
        fs::copy(&file, &old).expect("a copy");
        let output = resolve(&test, &["--discard-leg", leg, "--bitmap", &file.display().to_string()]);
        assert!(output.status.success(), "{}", said(&output));
        // Whoever names the file of before gets no harm from what it says.
        if leg == "A" {
            test.mirror_mut().options = format!("bitmap={}", old.display());
        }
        test.recover_and_compare();
        assert_eq!(read(test.a.join("file")), other(leg));
        assert_eq!(read(last_conflicts(&test, leg).join("file")), leg);
    }
}

/// Copies a leg with all that is in it, as rsync -aHAX does.
fn copy(from: &Path, to: &Path) {
    must(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[test]
fn a_copy_of_a_leg_is_not_taken_for_the_other_one() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let test = TestMirror::on("copied", Filesystem::Ext4, "");
        write(test.mnt.join("file"), "x");
        test.umount();
        let by_files = test.scratch().join("by-files");
        copy(&path_of(&test, leg), &by_files);
        // By image, as dd copies a disk.
        let by_image = test.scratch().dir("by-image");
        must(Command::new("umount").arg(path_of(&test, leg)));
        let image = |name: &str| test.scratch().join(format!("{name}.img"));
        fs::copy(image(&leg.to_lowercase()), image("copy")).expect("a copy of the image");
        attach(&image(&leg.to_lowercase()), &path_of(&test, leg));
        attach(&image("copy"), &by_image);
        for twin in [&by_files, &by_image] {
            let before = fingerprint(&path_of(&test, leg));
            let legs = if leg == "A" { [&test.a, twin] } else { [twin, &test.b] };
            for words in [vec!["mount"], vec!["resolve", "--list"], vec!["resolve", "--discard-leg", "B"]] {
                let mut command = mirrorfs();
                command.arg(words[0]).args(legs);
                command.args(&words[1..]);
                if words[0] == "mount" {
                    command.arg(&test.mnt);
                }
                let output = run(&mut command);
                let text = said(&output);
                assert!(!output.status.success() && text.contains("same leg"), "{words:?}: {text}");
            }
            assert_eq!(fingerprint(&path_of(&test, leg)), before);
            // Nor while the mirror serves.
            assert!(mount_alone(&test, leg).status.success());
            let output = run(mirrorfs().arg("re-add").arg(&test.mnt).arg(other(leg)).arg(twin));
            assert!(!output.status.success() && said(&output).contains("same leg"), "{}", said(&output));
            test.umount();
        }
        // Making the copies has raised access times: only the mirror itself is of interest.
        test.mount();
        test.wait_until_resynced();
        test.umount();
        assert_eq!(test.on_legs("file").map(read), ["x", "x"]);
    }
}

/// A leg, and its copy that went on in its place: the mirror goes on with one of them, and the other one is
/// what a restored backup is.
#[test]
fn a_leg_restored_from_a_backup_is_stale_and_everything_is_compared() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let test = TestMirror::on("restored", Filesystem::Ext4, "");
        fs::create_dir(test.mnt.join("dir")).expect("mkdir");
        for name in ["changed", "removed", "dir/renamed", "same"] {
            write(test.mnt.join(name), "old");
        }
        test.umount();
        let (path, backup) = (path_of(&test, leg), test.scratch().join("backup"));
        copy(&path, &backup);
        for _ in 0..2 {
            test.mount();
            write(test.mnt.join("changed"), "new");
            let _ = fs::remove_file(test.mnt.join("removed"));
            let _ = fs::rename(test.mnt.join("dir/renamed"), test.mnt.join("renamed"));
            test.wait_until_clean();
            test.umount();
        }
        let expected = content(&path_of(&test, other(leg)));
        for name in fs::read_dir(&path).expect("list").map(|entry| entry.expect("an entry").file_name()) {
            must(Command::new("rm").arg("-rf").arg(path.join(name)));
        }
        must(Command::new("cp").arg("-a").arg(backup.join(".")).arg(&path));
        assert_eq!(read(path.join("changed")), "old");
        let nothing = resolve(&test, &["--discard-leg", leg]);
        assert_eq!(nothing.status.code(), Some(13), "{}", said(&nothing));
        test.recover_and_compare();
        assert_eq!(
            content(&path_of(&test, other(leg))),
            expected,
            "the one that is up to date is the source"
        );
    }
}

/// A backup that was written to is a history of its own.
#[test]
fn a_backup_that_was_mounted_alone_has_diverged() {
    if !can_mount() {
        return;
    }
    for leg in LEGS {
        let test = TestMirror::on("usedbackup", Filesystem::Plain, "");
        write(test.mnt.join("file"), "old");
        test.umount();
        let (path, backup) = (path_of(&test, leg), test.scratch().join("backup"));
        copy(&path, &backup);
        test.mount();
        write(test.mnt.join("file"), "new");
        test.wait_until_clean();
        test.umount();
        fs::rename(&path, test.scratch().join("away")).expect("rename");
        copy(&backup, &path);
        change_alone(&test, leg, |mnt| write(mnt.join("file"), "backup"));
        // Neither contains the other, though the one has a generation of which the other's is the ancestor.
        let refused = run(&mut test.mount_command());
        assert!(!refused.status.success() && said(&refused).contains("diverged"), "{}", said(&refused));
        discard(&test, leg);
        test.recover_and_compare();
        assert_eq!(read(test.a.join("file")), "new");
        assert_eq!(read(last_conflicts(&test, leg).join("file")), "backup");
    }
}
