//! The leg of an ordinary user's daemon. Needs root, to become one.

use std::os::unix::fs::chown;

use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use super::*;
use crate::legs::RenameMode;

/// Runs `test` on a leg of nobody's, in a thread that is nobody; the other threads stay who they are.
fn as_nobody(test: impl FnOnce(&Fixture) + Send) {
    let (dir, path) = empty_leg();
    for place in [dir.path(), &path, &path.join(".mirrorfs")] {
        chown(place, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (rustix::fs::Uid::from_raw(NOBODY), rustix::fs::Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            let leg = DirectoryLeg::open(&path, LegId::A).unwrap();
            let f = Fixture { _dir: dir, path: path.clone(), leg };
            assert!(!f.leg.private && !f.leg.has_handles());
            test(&f);
            f
        });
        match thread.join() {
            // Removed as root: not all of it may be readable to nobody.
            Ok(fixture) => drop(fixture),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
}

#[test]
fn an_ordinary_user_makes_changes_links_and_finds() {
    as_nobody(|f| {
        let creator = Creator { uid: NOBODY, gid: NOBODY, umask: 0o027 };
        let what = Make::Directory { mode: 0o777 };
        let (identity, stat) = f.leg.make(&marked(), &f.root(), os("d"), what, creator).unwrap();
        assert_eq!((stat.uid, stat.gid, stat.mode), (NOBODY, NOBODY, 0o750));
        let dir = f.leg.find(&identity).unwrap();
        let (identity, _, file) = f.leg.create(&marked(), &dir, os("f"), 0o400, creator, READ_WRITE).unwrap();
        assert_eq!(f.leg.write(&marked(), &file, b"abc", 0).unwrap(), 3);
        let node = f.leg.find(&identity).unwrap();
        refused(f.leg.truncate(&marked(), &node, 2), libc::EACCES);
        f.leg.truncate_file(&marked(), &node, &file, 2).unwrap();
        f.leg.link(&marked(), &node, &f.root(), os("g")).unwrap();
        let symlink = f.make(&f.root(), "s", Make::Symlink { target: os("/") });
        f.leg.link(&marked(), &symlink, &dir, os("s2")).unwrap();
        f.leg.set_mode(&marked(), &node, 0o600).unwrap();
        f.leg.set_times(&marked(), &node, Some(at(5, 0)), None).unwrap();
        f.leg.set_xattr(&marked(), &node, os("user.x"), b"1", 0).unwrap();
        f.leg.truncate(&marked(), &node, 1).unwrap();
        f.leg.read(&f.open(&node), &mut [0; 8], 0).unwrap();
        assert_eq!(f.leg.stat(&node).unwrap().atime, at(5, 0), "reading changed the access time");
        refused(f.leg.set_owner(&marked(), &node, Some(0), None), libc::EPERM);
        f.leg.set_mode(&marked(), &node, 0).unwrap();
        f.leg.sync_node(&node).unwrap();
        f.leg.rename(&marked(), (&dir, os("f")), (&f.root(), os("h")), RenameMode::Replace).unwrap();
    });
}

#[test]
fn the_way_up_ends_at_the_root() {
    as_nobody(|f| {
        let dir = f.directory("d");
        let inner = f.make(&dir, "inner", Make::Directory { mode: 0o700 });
        assert_eq!(f.leg.parent(&inner).unwrap().0.ino, dir.0.ino);
        assert_eq!(f.leg.parent(&dir).unwrap().0.ino, f.root().0.ino);
        refused(f.leg.parent(&f.root()), libc::ENOENT);
        // Taken out of the leg behind the mirror's back.
        std::fs::rename(f.path.join("d"), f.path.parent().unwrap().join("outside")).unwrap();
        refused(f.leg.parent(&inner), libc::ENOENT);
    });
}

#[test]
fn what_lies_in_a_directory_that_cannot_be_read_is_not_gone() {
    for mode in [0o300, 0o000, 0o600] {
        as_nobody(|f| {
            let dir = f.directory("d");
            let file = f.make(&dir, "f", Make::File { mode: 0o644 });
            let identity = f.leg.identity(&file).unwrap();
            f.leg.set_mode(&marked(), &dir, mode).unwrap();
            let found = f.leg.find(&identity);
            f.leg.set_mode(&marked(), &dir, 0o700).unwrap();
            refused(found, libc::EACCES);
            assert_eq!(f.leg.find(&identity).unwrap().0.ino, file.0.ino, "it is readable again");
        });
    }
}
