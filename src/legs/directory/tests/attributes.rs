use super::*;
use crate::legs::Kind;

#[test]
fn times_before_1970_and_far_ahead_are_kept() {
    let f = Fixture::new();
    let file = f.file("f");
    for (atime, mtime) in [(at(-1, 999_999_999), at(-1_000_000_000, 1)), (at(0, 0), at(5_000_000_000, 7))] {
        f.leg.set_times(&marked(), &file, Some(atime), Some(mtime)).unwrap();
        let stat = f.leg.stat(&file).unwrap();
        assert_eq!((stat.atime, stat.mtime), (atime, mtime));
    }
    f.leg.set_times(&marked(), &file, None, Some(at(-7, 3))).unwrap();
    f.leg.set_times(&marked(), &file, Some(at(9, 4)), None).unwrap();
    let stat = f.leg.stat(&file).unwrap();
    assert_eq!((stat.atime, stat.mtime), (at(9, 4), at(-7, 3)));
}

#[test]
fn modes_have_twelve_bits_and_symlinks_none() {
    let f = Fixture::new();
    for node in [f.file("f"), f.directory("d")] {
        for mode in [0, 0o777, 0o4755, 0o2755, 0o7777, 0o1000] {
            f.leg.set_mode(&marked(), &node, mode).unwrap();
            assert_eq!(f.leg.stat(&node).unwrap().mode, mode);
        }
    }
    let link = f.make(&f.root(), "l", Make::Symlink { target: os("f") });
    refused(f.leg.set_mode(&marked(), &link, 0o600), libc::EOPNOTSUPP);
    assert_eq!(f.leg.lookup(&f.root(), os("f")).unwrap().1.mode, 0o1000);
}

#[test]
fn extended_attributes_of_any_length_and_kind_of_object() {
    let f = Fixture::new();
    let name = os("user.mirrorfs.test");
    for node in [f.file("f"), f.directory("d"), f.root()] {
        refused(f.leg.get_xattr(&node, name), libc::ENODATA);
        refused(f.leg.remove_xattr(&marked(), &node, name), libc::ENODATA);
        for len in [0, 1, 256, 257, 3000] {
            let value = vec![b'v'; len];
            f.leg.set_xattr(&marked(), &node, name, &value, 0).unwrap();
            assert_eq!(f.leg.get_xattr(&node, name).unwrap(), value);
        }
        refused(f.leg.set_xattr(&marked(), &node, name, b"", libc::XATTR_CREATE), libc::EEXIST);
        f.leg.set_xattr(&marked(), &node, os("user.a"), b"1", libc::XATTR_CREATE).unwrap();
        refused(f.leg.set_xattr(&marked(), &node, os("user.b"), b"", libc::XATTR_REPLACE), libc::ENODATA);
        let mut names = f.leg.list_xattr(&node).unwrap();
        names.retain(|name| name.as_encoded_bytes().starts_with(b"user."));
        assert_eq!(names, ["user.a", "user.mirrorfs.test"]);
        f.leg.remove_xattr(&marked(), &node, name).unwrap();
        refused(f.leg.get_xattr(&node, name), libc::ENODATA);
    }
}

#[test]
fn more_names_of_attributes_than_the_first_guess_holds() {
    let f = Fixture::new();
    let file = f.file("f");
    let names: Vec<_> = (0..40).map(|n| format!("user.a-long-attribute-name-{n:02}")).collect();
    for name in names.iter().rev() {
        f.leg.set_xattr(&marked(), &file, os(name), b"", 0).unwrap();
    }
    assert!(f.leg.list_xattr(&file).unwrap().iter().eq(names.iter().map(|name| os(name))));
}

#[test]
fn attributes_of_a_symlink_are_its_own() {
    let f = Fixture::new();
    let file = f.file("f");
    let link = f.make(&f.root(), "l", Make::Symlink { target: os("f") });
    refused(f.leg.set_xattr(&marked(), &link, os("user.x"), b"1", 0), libc::EPERM);
    assert!(f.leg.list_xattr(&link).unwrap().is_empty());
    f.leg.set_xattr(&marked(), &file, os("user.x"), b"1", 0).unwrap();
    refused(f.leg.get_xattr(&link, os("user.x")), libc::ENODATA);
}

#[test]
fn stat_of_an_open_file_without_a_name() {
    let f = Fixture::new();
    let node = f.file("f");
    let file = f.open(&node);
    f.leg.write(&marked(), &file, b"12345", 0).unwrap();
    f.leg.unlink(&marked(), &f.root(), os("f")).unwrap();
    let stat = f.leg.stat_file(&file).unwrap();
    assert_eq!((stat.kind, stat.nlink, stat.size), (Kind::File, 0, 5));
    assert_eq!(stat, f.leg.stat(&node).unwrap());
    f.leg.truncate(&marked(), &node, 2).unwrap();
    assert_eq!(f.leg.stat_file(&file).unwrap().size, 2);
}

#[test]
fn statfs_tells_of_the_legs_filesystem() {
    let f = Fixture::new();
    let stat = f.leg.statfs().unwrap();
    assert!(stat.frsize >= 512 && stat.blocks > 0 && stat.bavail <= stat.bfree);
    assert_eq!(stat.namelen, 255);
}

#[test]
fn a_directory_without_the_mirrors_state_is_no_leg() {
    let dir = tempfile::tempdir().unwrap();
    let error = DirectoryLeg::open(dir.path(), LegId::B).err().unwrap().to_string();
    assert!(error.contains("leg B") && error.contains("not part of a mirror"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was changed");
    std::os::unix::fs::symlink("/", dir.path().join(".mirrorfs")).unwrap();
    let error = DirectoryLeg::open(dir.path(), LegId::B).err().unwrap();
    assert_eq!(error.errno(), Some(libc::ELOOP));
}
