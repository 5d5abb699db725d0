//! Listing directories.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;

use crate::common::raw::DirStream;
use crate::common::{TestMirror, mounted};

const MANY: usize = 3000;

fn fill(test: &TestMirror) -> BTreeSet<OsString> {
    (0..MANY)
        .map(|number| {
            let name = format!("a name that is long enough to need several requests {number}");
            File::create(test.mnt.join(&name)).expect("create");
            OsString::from(name)
        })
        .collect()
}

fn rest_of(stream: &DirStream) -> Vec<OsString> {
    let names = std::iter::from_fn(|| stream.read()).map(OsString::from_vec);
    names.filter(|name| name != "." && name != "..").collect()
}

#[test]
fn a_large_directory_is_listed_whole_and_once() {
    let Some(test) = mounted("listing") else { return };
    let expected = fill(&test);
    let stream = DirStream::open(&test.mnt).expect("opendir");
    let names = rest_of(&stream);
    assert_eq!(names.len(), MANY, "a name is missing or comes twice");
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
    drop(stream);
    test.umount_and_compare();
}

#[test]
fn deleting_while_listing_skips_nothing() {
    let Some(test) = mounted("deleting") else { return };
    let mut expected = fill(&test);
    for entry in fs::read_dir(&test.mnt).expect("list") {
        let name = entry.expect("entry").file_name();
        fs::remove_file(test.mnt.join(&name)).expect("unlink");
        assert!(expected.remove(&name), "{name:?} comes twice");
    }
    assert!(expected.is_empty(), "{} names were skipped", expected.len());
    assert_eq!(fs::read_dir(&test.mnt).expect("list").count(), 0);
    test.umount_and_compare();
}

#[test]
fn files_made_while_listing_disturb_nothing() {
    let Some(test) = mounted("making") else { return };
    let expected = fill(&test);
    let stream = DirStream::open(&test.mnt).expect("opendir");
    let mut seen = BTreeSet::new();
    let mut number = 0;
    while let Some(name) = stream.read().map(OsString::from_vec) {
        number += 1;
        if number % 10 == 0 && number < MANY {
            File::create(test.mnt.join(format!("new {number}"))).expect("create");
        }
        assert!(name == "." || name == ".." || seen.insert(name.clone()), "{name:?} comes twice");
    }
    assert!(seen.is_superset(&expected), "names that were there all the time are missing");
    drop(stream);
    test.umount_and_compare();
}

#[test]
fn positions_in_a_directory_can_be_told_and_sought() {
    let Some(test) = mounted("positions") else { return };
    fill(&test);
    let stream = DirStream::open(&test.mnt).expect("opendir");
    for _ in 0..MANY / 2 {
        stream.read().expect("there are more");
    }
    let middle = stream.tell();
    let first = rest_of(&stream);
    stream.seek(middle);
    assert_eq!(rest_of(&stream), first, "the same position gives the same rest");
    // A position outlives the deletion of what came before it.
    for name in first.iter().take(100) {
        fs::remove_file(test.mnt.join(name)).expect("unlink");
    }
    stream.seek(middle);
    let again = rest_of(&stream);
    assert!(first[100..].iter().all(|name| again.contains(name)), "a name was skipped");
    drop(stream);
    test.umount_and_compare();
}

#[test]
fn rewinding_shows_what_has_changed() {
    let Some(test) = mounted("rewind") else { return };
    fill(&test);
    let stream = DirStream::open(&test.mnt).expect("opendir");
    let before = rest_of(&stream);
    fs::remove_file(test.mnt.join(&before[17])).expect("unlink");
    File::create(test.mnt.join("new")).expect("create");
    stream.seek(0);
    let after: BTreeSet<_> = rest_of(&stream).into_iter().collect();
    assert!(!after.contains(&before[17]) && after.contains(&OsString::from("new")));
    drop(stream);
    test.umount_and_compare();
}

#[test]
fn removed_directories_answer_as_removed() {
    let Some(test) = mounted("rmdir") else { return };
    let dir = test.mnt.join("dir");
    fs::create_dir_all(dir.join("below")).expect("mkdir");
    let full = fs::remove_dir(&dir).expect_err("not empty");
    assert_eq!(full.raw_os_error(), Some(libc::ENOTEMPTY));
    let held = File::open(dir.join("below")).expect("open");
    fs::remove_dir(dir.join("below")).expect("rmdir");
    let gone = rustix::fs::mkdirat(&held, "x", rustix::fs::Mode::RWXU);
    assert_eq!(gone, Err(rustix::io::Errno::NOENT), "nothing is made in a removed directory");
    fs::remove_dir(&dir).expect("rmdir");
    for path in test.everywhere("dir") {
        assert!(!path.exists(), "{path:?}");
    }
    drop(held);
    test.umount_and_compare();
}
