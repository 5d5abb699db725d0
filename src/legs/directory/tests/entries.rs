use std::os::unix::ffi::OsStrExt;

use super::*;
use crate::legs::{Area, Kind, RenameMode};

fn names(fixture: &Fixture, dir: &Node) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fixture.leg.read_dir(dir).unwrap().into_iter().map(|e| e.name).collect();
    names.sort();
    names
}

#[test]
fn what_is_made_is_looked_up_listed_and_pinned_alike() {
    let f = Fixture::new();
    let kinds = [
        ("file", Make::File { mode: 0o640 }, Kind::File),
        ("dir", Make::Directory { mode: 0o750 }, Kind::Directory),
        ("link", Make::Symlink { target: os("no/where") }, Kind::Symlink),
        ("fifo", Make::Special { kind: Kind::Fifo, mode: 0o600, rdev: 0 }, Kind::Fifo),
        ("socket", Make::Special { kind: Kind::Socket, mode: 0o600, rdev: 0 }, Kind::Socket),
    ];
    for (name, what, kind) in kinds {
        let made = f.leg.make(&marked(), &f.root(), os(name), what, own()).unwrap();
        assert_eq!(made.1.kind, kind);
        assert_eq!(f.leg.lookup(&f.root(), os(name)).unwrap(), made);
        let node = f.leg.child(&f.root(), os(name)).unwrap();
        assert_eq!((f.leg.identity(&node).unwrap(), f.leg.stat(&node).unwrap()), made);
        let listed = f.leg.read_dir(&f.root()).unwrap();
        let entry = listed.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!((entry.ino, entry.kind), (made.0.ino, kind));
        refused(f.leg.make(&marked(), &f.root(), os(name), what, own()), libc::EEXIST);
    }
    let link = f.leg.child(&f.root(), os("link")).unwrap();
    assert_eq!(f.leg.readlink(&link).unwrap(), "no/where");
    refused(f.leg.readlink(&f.root()), libc::EINVAL);
}

#[test]
fn names_are_bytes_up_to_255() {
    let f = Fixture::new();
    let long = [b'x'; 255];
    for name in [&b"\xff\xfe not text \n"[..], &long] {
        let name = OsStr::from_bytes(name);
        f.leg.make(&marked(), &f.root(), name, Make::File { mode: 0o600 }, own()).unwrap();
        f.leg.lookup(&f.root(), name).unwrap();
        assert_eq!(names(&f, &f.root()), [name]);
        f.leg.unlink(&marked(), &f.root(), name).unwrap();
        refused(f.leg.lookup(&f.root(), name), libc::ENOENT);
    }
    let too_long = [b'x'; 256];
    refused(f.leg.lookup(&f.root(), OsStr::from_bytes(&too_long)), libc::ENAMETOOLONG);
    let what = Make::Symlink { target: OsStr::from_bytes(&[b't'; 4095]) };
    f.leg.make(&marked(), &f.root(), os("long target"), what, own()).unwrap();
    let link = f.leg.child(&f.root(), os("long target")).unwrap();
    assert_eq!(f.leg.readlink(&link).unwrap().len(), 4095);
}

#[test]
fn directories_larger_than_one_buffer_are_listed_whole() {
    let f = Fixture::new();
    let dir = f.directory("d");
    let expected: Vec<_> =
        (0..1200).map(|n| format!("a rather long name to fill the buffer {n:05}")).collect();
    for name in &expected {
        std::fs::write(f.path.join("d").join(name), "").unwrap();
    }
    assert!(names(&f, &dir).iter().eq(expected.iter().map(|name| os(name))));
    refused(f.leg.read_dir(&f.file("file")), libc::ENOTDIR);
}

#[test]
fn nothing_leads_out_of_the_leg() {
    let f = Fixture::new();
    std::os::unix::fs::symlink("/", f.path.join("evil")).unwrap();
    let evil = f.leg.child(&f.root(), os("evil")).unwrap();
    assert_eq!(f.leg.stat(&evil).unwrap().kind, Kind::Symlink);
    refused(f.leg.lookup(&evil, os("etc")), libc::ENOTDIR);
    refused(f.leg.child(&evil, os("etc")), libc::ENOTDIR);
    refused(f.leg.read_dir(&evil), libc::ENOTDIR);
    refused(f.leg.open(&evil, READ_WRITE), libc::ELOOP);
    refused(f.leg.truncate(&marked(), &evil, 0), libc::EINVAL);
    for name in ["..", ".", "../leg", "evil/etc", "/etc"] {
        refused(f.leg.lookup(&f.root(), os(name)), libc::EINVAL);
        refused(f.leg.child(&f.root(), os(name)), libc::EINVAL);
        refused(f.leg.unlink(&marked(), &f.root(), os(name)), libc::EINVAL);
    }
    refused(f.leg.parent(&f.root()), libc::ENOENT);
    // What was set on the symlink was set on nothing behind it.
    let before = std::fs::metadata("/").unwrap();
    f.leg.set_times(&marked(), &evil, Some(at(1, 0)), Some(at(2, 0))).unwrap();
    assert_eq!(f.leg.stat(&evil).unwrap().mtime, at(2, 0));
    assert_eq!(std::fs::metadata("/").unwrap().modified().unwrap(), before.modified().unwrap());
}

#[test]
fn the_mirrors_own_directory_is_hidden_in_the_root_only() {
    let f = Fixture::new();
    let (root, state) = (f.root(), os(".mirrorfs"));
    let dir = f.directory("d");
    let file = f.file("f");
    assert_eq!(names(&f, &root), ["d", "f"]);
    refused(f.leg.lookup(&root, state), libc::ENOENT);
    refused(f.leg.child(&root, state), libc::ENOENT);
    refused(f.leg.rmdir(&marked(), &root, state), libc::ENOENT);
    refused(f.leg.unlink(&marked(), &root, state), libc::ENOENT);
    refused(f.leg.make(&marked(), &root, state, Make::File { mode: 0o600 }, own()), libc::EPERM);
    refused(f.leg.create(&marked(), &root, state, 0o600, own(), READ_WRITE), libc::EPERM);
    refused(f.leg.link(&marked(), &file, &root, state), libc::EPERM);
    for mode in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
        refused(f.leg.rename(&marked(), (&root, os("d")), (&root, state), mode), libc::EPERM);
        refused(f.leg.rename(&marked(), (&root, state), (&root, os("new")), mode), libc::ENOENT);
    }
    f.leg.make(&marked(), &dir, state, Make::File { mode: 0o600 }, own()).unwrap();
    assert_eq!(names(&f, &dir), [".mirrorfs"]);
}

#[test]
fn areas_are_made_when_first_wanted_and_work_like_directories() {
    let f = Fixture::new();
    for (area, name) in
        [(Area::Incoming, "incoming"), (Area::Parked, "parked"), (Area::Conflicts, "conflicts")]
    {
        assert!(!f.path.join(".mirrorfs").join(name).exists());
        let dir = f.leg.area(area).unwrap();
        assert_eq!(f.leg.stat(&dir).unwrap().mode, 0o700);
        let again = f.leg.area(area).unwrap();
        assert_eq!(f.leg.identity(&dir).unwrap(), f.leg.identity(&again).unwrap());
        f.make(&dir, "x", Make::File { mode: 0o600 });
        f.leg.rename(&marked(), (&dir, os("x")), (&f.root(), os(name)), RenameMode::NoReplace).unwrap();
    }
    assert_eq!(names(&f, &f.root()), ["conflicts", "incoming", "parked"]);
}

#[test]
fn links_and_removals_count_names() {
    let f = Fixture::new();
    let dir = f.directory("d");
    let file = f.file("f");
    f.leg.link(&marked(), &file, &dir, os("g")).unwrap();
    assert_eq!(f.leg.stat(&file).unwrap().nlink, 2);
    refused(f.leg.link(&marked(), &file, &dir, os("g")), libc::EEXIST);
    refused(f.leg.link(&marked(), &dir, &dir, os("loop")), libc::EPERM);
    let symlink = f.make(&f.root(), "s", Make::Symlink { target: os("f") });
    f.leg.link(&marked(), &symlink, &dir, os("s2")).unwrap();
    assert_eq!(f.leg.lookup(&dir, os("s2")).unwrap().1.kind, Kind::Symlink);
    refused(f.leg.rmdir(&marked(), &f.root(), os("d")), libc::ENOTEMPTY);
    refused(f.leg.rmdir(&marked(), &f.root(), os("f")), libc::ENOTDIR);
    refused(f.leg.unlink(&marked(), &f.root(), os("d")), libc::EISDIR);
    for (place, name) in [(&dir, "g"), (&dir, "s2"), (&f.root(), "f"), (&f.root(), "s")] {
        f.leg.unlink(&marked(), place, os(name)).unwrap();
    }
    assert_eq!(f.leg.stat(&file).unwrap().nlink, 0, "a pinned object outlives its name");
    refused(f.leg.link(&marked(), &file, &dir, os("again")), libc::ENOENT);
    f.leg.rmdir(&marked(), &f.root(), os("d")).unwrap();
    refused(f.leg.parent(&dir), libc::ENOENT);
    refused(f.leg.make(&marked(), &dir, os("x"), Make::File { mode: 0o600 }, own()), libc::ENOENT);
}

#[test]
fn renames_of_all_three_kinds() {
    let f = Fixture::new();
    let (root, dir) = (f.root(), f.directory("d"));
    let (a, b) = (f.file("a"), f.file("b"));
    refused(f.leg.rename(&marked(), (&root, os("a")), (&root, os("b")), RenameMode::NoReplace), libc::EEXIST);
    f.leg.rename(&marked(), (&root, os("a")), (&root, os("b")), RenameMode::Exchange).unwrap();
    assert_eq!(f.leg.lookup(&root, os("b")).unwrap().0, f.leg.identity(&a).unwrap());
    f.leg.rename(&marked(), (&root, os("b")), (&dir, os("c")), RenameMode::NoReplace).unwrap();
    f.leg.rename(&marked(), (&root, os("a")), (&dir, os("c")), RenameMode::Replace).unwrap();
    assert_eq!(f.leg.lookup(&dir, os("c")).unwrap().0, f.leg.identity(&b).unwrap());
    assert_eq!(f.leg.stat(&a).unwrap().nlink, 0);
    refused(f.leg.rename(&marked(), (&root, os("d")), (&dir, os("in")), RenameMode::Replace), libc::EINVAL);
    let inner = f.make(&dir, "inner", Make::Directory { mode: 0o700 });
    let parent = f.leg.parent(&inner).unwrap();
    assert_eq!(f.leg.identity(&parent).unwrap(), f.leg.identity(&dir).unwrap());
    refused(f.leg.parent(&b), libc::ENOTDIR);
}

#[test]
fn what_was_moved_out_behind_the_mirrors_back_has_no_parent() {
    let f = Fixture::new();
    let dir = f.directory("d");
    let inner = f.make(&dir, "inner", Make::Directory { mode: 0o700 });
    std::fs::rename(f.path.join("d"), f.path.parent().unwrap().join("outside")).unwrap();
    refused(f.leg.parent(&inner), libc::ENOENT);
    refused(f.leg.parent(&dir), libc::ENOENT);
}
