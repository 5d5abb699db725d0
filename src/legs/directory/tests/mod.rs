//! A directory leg on the temporary directory's filesystem. `creating` and `unprivileged` need root.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use super::{DirectoryLeg, File, Node};
use crate::bitmap::WriteIntent;
use crate::legs::{Creator, Leg, LegId, Make, OpenMode, Timestamp};

mod attributes;
mod contents;
mod creating;
mod entries;
mod finding;
mod unprivileged;

/// An ordinary user that every system has.
const NOBODY: u32 = 65534;

const READ_WRITE: OpenMode = OpenMode { read: true, write: true, direct: false };

/// A leg in a directory of its own, removed with it.
struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    leg: DirectoryLeg,
}

impl Fixture {
    fn new() -> Fixture {
        let (dir, path) = empty_leg();
        let leg = DirectoryLeg::open(&path, LegId::A).unwrap();
        Fixture { _dir: dir, path, leg }
    }

    fn root(&self) -> Node {
        self.leg.root()
    }

    fn file(&self, name: &str) -> Node {
        self.make(&self.root(), name, Make::File { mode: 0o644 })
    }

    fn directory(&self, name: &str) -> Node {
        self.make(&self.root(), name, Make::Directory { mode: 0o755 })
    }

    fn make(&self, dir: &Node, name: &str, what: Make<'_>) -> Node {
        self.leg.make(&marked(), dir, os(name), what, own()).unwrap();
        self.leg.child(dir, os(name)).unwrap()
    }

    fn open(&self, node: &Node) -> File {
        self.leg.open(node, READ_WRITE).unwrap()
    }
}

fn empty_leg() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leg");
    std::fs::create_dir_all(path.join(".mirrorfs")).unwrap();
    (dir, path)
}

fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn marked() -> WriteIntent<'static> {
    WriteIntent::before_first_mount()
}

fn own() -> Creator {
    let uid = rustix::process::geteuid().as_raw();
    Creator { uid, gid: rustix::process::getegid().as_raw(), umask: 0 }
}

fn at(secs: i64, nanos: u32) -> Timestamp {
    Timestamp { secs, nanos }
}

#[track_caller]
fn refused<T>(result: io::Result<T>, errno: i32) {
    match result {
        Ok(_) => panic!("expected errno {errno}, but it worked"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{error}"),
    }
}
