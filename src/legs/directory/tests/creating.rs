//! Needs root.

use super::*;
use crate::legs::Kind;

fn somebody(umask: u32) -> Creator {
    Creator { uid: 1234, gid: 4321, umask }
}

/// An access control list in the kernel's form: version 2, then (tag, permissions, id) each.
fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
    }
    bytes
}

#[test]
fn objects_belong_to_their_creator_and_the_umask_is_the_creators() {
    let f = Fixture::new();
    for (number, creator) in
        [own(), Creator { umask: 0o027, ..own() }, somebody(0o022), somebody(0o777)].into_iter().enumerate()
    {
        let name = |what: &str| format!("{what}{number}");
        let root = f.root();
        let expected = |mode: u32| (creator.uid, creator.gid, mode & !creator.umask);
        let owned = |stat: crate::legs::Stat| (stat.uid, stat.gid, stat.mode);
        let made =
            |what: &str, make| owned(f.leg.make(&marked(), &root, os(&name(what)), make, creator).unwrap().1);
        assert_eq!(made("f", Make::File { mode: 0o666 }), expected(0o666));
        assert_eq!(made("d", Make::Directory { mode: 0o1777 }), expected(0o1777));
        let fifo = Make::Special { kind: Kind::Fifo, mode: 0o666, rdev: 0 };
        assert_eq!(made("p", fifo), expected(0o666));
        assert_eq!(made("s", Make::Symlink { target: os("x") }).0, creator.uid);
        let (_, stat, file) =
            f.leg.create(&marked(), &root, os(&name("c")), 0o606, creator, READ_WRITE).unwrap();
        assert_eq!(owned(stat), expected(0o606));
        assert_eq!(f.leg.write(&marked(), &file, b"x", 0).unwrap(), 1);
    }
}

#[test]
fn set_id_bits_come_out_as_given_also_for_strangers_to_the_group() {
    let f = Fixture::new();
    let dir = f.directory("plain");
    let shared = f.directory("shared");
    f.leg.set_owner(&marked(), &shared, None, Some(77)).unwrap();
    f.leg.set_mode(&marked(), &shared, 0o2777).unwrap();
    for (place, creator) in [(&dir, own()), (&dir, somebody(0)), (&shared, own()), (&shared, somebody(0))] {
        let name = format!("{}", creator.uid);
        let file = |mode| {
            let (_, stat) = f.leg.make(&marked(), place, os(&name), Make::File { mode }, creator).unwrap();
            f.leg.unlink(&marked(), place, os(&name)).unwrap();
            stat.mode
        };
        for mode in [0o6755, 0o4755, 0o2755, 0o7777] {
            assert_eq!(file(mode), mode);
        }
        let what = Make::Directory { mode: 0o2755 };
        let (_, stat) = f.leg.make(&marked(), place, os("d"), what, creator).unwrap();
        assert_eq!(stat.mode, 0o2755);
        f.leg.rmdir(&marked(), place, os("d")).unwrap();
    }
}

#[test]
fn sgid_directories_pass_their_group_on() {
    let f = Fixture::new();
    let shared = f.directory("shared");
    f.leg.set_owner(&marked(), &shared, None, Some(77)).unwrap();
    f.leg.set_mode(&marked(), &shared, 0o2700).unwrap();
    let (_, stat) = f.leg.make(&marked(), &shared, os("f"), Make::File { mode: 0o644 }, somebody(0)).unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (1234, 77, 0o644));
    let what = Make::Directory { mode: 0o755 };
    let (_, stat) = f.leg.make(&marked(), &shared, os("d"), what, somebody(0)).unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (1234, 77, 0o2755));
}

#[test]
fn a_default_acl_takes_the_place_of_the_umask() {
    let f = Fixture::new();
    let dir = f.directory("d");
    // user::rwx group::rwx mask::rwx other::--- would need a named entry: three plain ones suffice.
    let default = acl(&[(0x01, 7), (0x04, 6), (0x20, 0)]);
    f.leg.set_xattr(&marked(), &dir, os("system.posix_acl_default"), &default, 0).unwrap();
    let (_, stat) =
        f.leg.make(&marked(), &dir, os("f"), Make::File { mode: 0o666 }, somebody(0o077)).unwrap();
    assert_eq!(stat.mode, 0o660, "not 0600 as the umask alone would have it");
    let (_, stat, _) = f.leg.create(&marked(), &dir, os("g"), 0o666, somebody(0o077), READ_WRITE).unwrap();
    assert_eq!(stat.mode, 0o660);
    let sub = f.make(&dir, "sub", Make::Directory { mode: 0o777 });
    assert_eq!(f.leg.get_xattr(&sub, os("system.posix_acl_default")).unwrap(), default);
}

#[test]
fn device_nodes_are_made_for_anybody_who_got_past_the_kernel() {
    let f = Fixture::new();
    let rdev = rustix::fs::makedev(259, 70_000);
    let what = Make::Special { kind: Kind::BlockDevice, mode: 0o640, rdev };
    let (_, stat) = f.leg.make(&marked(), &f.root(), os("b"), what, somebody(0)).unwrap();
    assert_eq!((stat.kind, stat.rdev, stat.uid), (Kind::BlockDevice, rdev, 1234));
    let what = Make::Special { kind: Kind::Directory, mode: 0o640, rdev: 0 };
    refused(f.leg.make(&marked(), &f.root(), os("x"), what, somebody(0)), libc::EINVAL);
}

#[test]
fn a_thread_is_itself_again_after_making_also_when_that_failed() {
    let f = Fixture::new();
    let before = rustix::thread::capabilities(None).unwrap();
    for _ in 0..2 {
        // The second time it is EEXIST.
        let _ = f.leg.make(&marked(), &f.root(), os("f"), Make::File { mode: 0o600 }, somebody(0o777));
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        assert_ne!(umask.as_raw_mode(), 0o777);
        let path = f.path.join("direct");
        std::fs::write(&path, "x").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((metadata.uid(), metadata.gid()), (own().uid, own().gid));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn owners_change_and_set_id_bits_fall() {
    let f = Fixture::new();
    let node = f.make(&f.root(), "f", Make::File { mode: 0o6755 });
    f.leg.set_owner(&marked(), &node, Some(7), None).unwrap();
    let stat = f.leg.stat(&node).unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode), (7, own().gid, 0o755));
    let link = f.make(&f.root(), "l", Make::Symlink { target: os("f") });
    f.leg.set_owner(&marked(), &link, Some(8), Some(9)).unwrap();
    let stat = f.leg.stat(&link).unwrap();
    assert_eq!((stat.uid, stat.gid), (8, 9));
    assert_eq!(f.leg.stat(&node).unwrap().uid, 7);
    f.leg.set_xattr(&marked(), &link, os("trusted.x"), b"on the link", 0).unwrap();
    assert_eq!(f.leg.get_xattr(&link, os("trusted.x")).unwrap(), b"on the link");
    refused(f.leg.get_xattr(&node, os("trusted.x")), libc::ENODATA);
}

#[test]
fn threads_create_for_different_users_at_the_same_time() {
    let f = Fixture::new();
    let shared = f.directory("shared");
    f.leg.set_mode(&marked(), &shared, 0o1777).unwrap();
    std::thread::scope(|scope| {
        for uid in [0, 1001, 1002, 1003] {
            let (leg, shared) = (&f.leg, &shared);
            scope.spawn(move || {
                let creator = Creator { uid, gid: uid + 10, umask: uid & 7 };
                for number in 0..200 {
                    let name = format!("{uid}-{number}");
                    let what = Make::File { mode: 0o666 };
                    let (_, stat) = leg.make(&marked(), shared, os(&name), what, creator).unwrap();
                    assert_eq!((stat.uid, stat.gid, stat.mode), (uid, uid + 10, 0o666 & !(uid & 7)));
                }
            });
        }
    });
}
