//! What the kernel has to ask the daemon: counted by the daemon, by kind of request.
//!
//! Needs root and /dev/fuse.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use common::{TestMirror, can_mount, wait_for};

type Counts = BTreeMap<String, u64>;

fn counts(test: &TestMirror) -> Counts {
    let status = test.status();
    let counts =
        status["counters"]["requests"].as_object().unwrap_or_else(|| panic!("no counts in {status}"));
    counts.iter().map(|(kind, count)| (kind.clone(), count.as_u64().expect("a number"))).collect()
}

/// What was asked during `work`. Not what the kernel let go of: that it does when it likes.
fn asked(test: &TestMirror, work: impl FnOnce()) -> Counts {
    let before = counts(test);
    work();
    // The kernel does not wait for the answer when it closes a file: the request may still be on its way.
    wait_for("all that was opened to be closed", || {
        let now = counts(test);
        now["open"] + now["create"] == now["release"]
    });
    let mut asked = counts(test);
    for (kind, count) in &mut asked {
        *count -= before[kind];
    }
    asked.retain(|kind, &mut count| count > 0 && kind != "forget");
    asked
}

fn some<const N: usize>(counts: [(&str, u64); N]) -> Counts {
    counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
}

/// As find(1) and ls(1) do it: every name listed, everything looked at, symlinks read. Returns how much there is.
fn walk(dir: &Path) -> usize {
    let mut seen = 0;
    for entry in fs::read_dir(dir).expect("list").map(|entry| entry.expect("an entry")) {
        seen += 1;
        let kind = fs::symlink_metadata(entry.path()).expect("stat").file_type();
        if kind.is_dir() {
            seen += walk(&entry.path());
        } else if kind.is_symlink() {
            fs::read_link(entry.path()).expect("readlink");
        }
    }
    seen
}

#[test]
fn a_warm_tree_is_walked_without_a_request() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::new("requests-walk");
    let dirs = 21;
    for dir in 0..dirs {
        let path = test.mnt.join(format!("dir{dir}"));
        fs::create_dir(&path).expect("mkdir");
        // The last one is listed in many pieces.
        for file in 0..if dir == dirs - 1 { 3000 } else { 30 } {
            File::create(path.join(format!("file{file}"))).expect("create");
        }
        symlink("file0", path.join("link")).expect("symlink");
    }
    test.umount();
    test.mount();
    let all = walk(&test.mnt);
    assert_eq!(all, dirs * 32 + 2970);
    let again = || asked(&test, || assert_eq!(walk(&test.mnt), all));
    let second = again();
    for kind in ["opendir", "releasedir", "open"] {
        assert_eq!(second.get(kind), None, "{second:?}");
    }
    until_nothing_is_asked(again);
    test.umount_and_compare();
}

/// Does `work` again until it costs nothing. What has been read once has another access time, for all that the kernel
/// knows, and it asks for it when it is next wanted: so the second time may still cost a GETATTR for each directory,
/// file or symlink. And a machine short of memory may drop what it had.
fn until_nothing_is_asked(work: impl Fn() -> Counts) {
    let mut asked = some([]);
    for _ in 0..5 {
        asked = work();
        if asked.is_empty() {
            return;
        }
    }
    panic!("again and again {asked:?}");
}

#[test]
fn a_warm_file_is_read_without_a_request_for_its_data_or_attributes() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::new("requests-read");
    let path = test.mnt.join("file");
    fs::write(&path, vec![7; 3 << 20]).expect("write");
    test.umount();
    test.mount();
    let read = || assert_eq!(fs::read(&path).expect("read").len(), 3 << 20);
    let cold = asked(&test, read);
    assert!(cold["read"] > 0, "{cold:?}");
    // That it is opened and closed the mirror has to know.
    until_nothing_is_asked(|| {
        let mut warm = asked(&test, read);
        assert_eq!((warm.remove("open"), warm.remove("release")), (Some(1), Some(1)));
        warm
    });
    let file = File::open(&path).expect("open");
    until_nothing_is_asked(|| {
        asked_while_open(&test, || {
            let mut data = vec![0; 3 << 20];
            file.read_exact_at(&mut data, 0).expect("read");
            assert_eq!(file.metadata().expect("fstat").len(), 3 << 20);
        })
    });
    drop(file);
    test.umount_and_compare();
}

/// As [`asked`], for work that opens and closes nothing.
fn asked_while_open(test: &TestMirror, work: impl FnOnce()) -> Counts {
    let before = counts(test);
    work();
    let mut asked = counts(test);
    for (kind, count) in &mut asked {
        *count -= before[kind];
    }
    asked.retain(|kind, &mut count| count > 0 && kind != "forget");
    asked
}

#[test]
fn names_that_are_not_there_and_what_symlinks_say_is_asked_once() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::new("requests-names");
    let link = test.mnt.join("link");
    symlink("target", &link).expect("symlink");
    let look = || {
        assert!(!fs::exists(test.mnt.join("missing")).expect("stat"));
        assert_eq!(fs::read_link(&link).expect("readlink"), Path::new("target"));
    };
    let first = asked(&test, look);
    assert_eq!((first.get("lookup"), first.get("readlink")), (Some(&1), Some(&1)), "{first:?}");
    until_nothing_is_asked(|| asked(&test, look));
    test.umount_and_compare();
}

#[test]
fn a_new_file_costs_no_more_than_it_must() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::new("requests-create");
    let create = |name: &str| {
        let mut file = File::create(test.mnt.join(name)).expect("create");
        file.write_all(&[7; 1024]).expect("write");
    };
    create("first");
    let mut asked = asked(&test, || create("second"));
    // These two come from the kernel before it reaches its own FUSE: a directory that something has been made in
    // has to tell its mode again before the next path goes through it, and before the first write to a file it wants
    // to know whether that has capabilities to lose. Neither can be told in advance.
    for kind in ["getattr", "getxattr"] {
        assert!(asked.remove(kind).is_none_or(|count| count == 1), "{kind}");
    }
    assert_eq!(asked, some([("lookup", 1), ("create", 1), ("write", 1), ("release", 1)]));
    test.umount_and_compare();
}

#[test]
fn overwriting_in_an_open_file_costs_one_request_a_write() {
    if !can_mount() {
        return;
    }
    let test = TestMirror::new("requests-write");
    let path = test.mnt.join("file");
    fs::write(&path, vec![7; 1 << 20]).expect("write");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    file.write_all_at(&[8; 4096], 0).expect("write");
    let asked = asked_while_open(&test, || {
        for block in 1..=64 {
            file.write_all_at(&[8; 4096], block * 4096).expect("write");
        }
    });
    assert_eq!(asked, some([("write", 64)]));
    drop(file);
    test.umount_and_compare();
}
