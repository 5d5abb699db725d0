//! A leg that refuses: writes of the mirror's own bitmap and superblock that fail, and changes that one leg has a
//! quota or a limit against. What was acknowledged is never lost, and what is refused leaves both legs alike.
//!
//! Needs root and /dev/fuse.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, setxattr};

use common::bad_leg::can_misbehave;
use common::compare::assert_equal;
use common::mirror::{mirrorfs, said};
use common::process::must;
use common::{BadLeg, Filesystem, TestMirror, wait_for};

const BITMAP: &str = ".mirrorfs/bitmap";
const SUPERBLOCK: &str = ".mirrorfs/superblock";

/// A leg, as the harness and as the command line call it, and its place in the status.
#[derive(Clone, Copy)]
struct Side {
    lower: &'static str,
    upper: &'static str,
    place: usize,
}

const A: Side = Side { lower: "a", upper: "A", place: 0 };
const B: Side = Side { lower: "b", upper: "B", place: 1 };
const LEGS: [Side; 2] = [A, B];

impl Side {
    fn other(self) -> Side {
        LEGS[1 - self.place]
    }
}

/// A mirror on two legs that can refuse, with old files of which nothing is dirty.
struct Mirror {
    bad: [BadLeg; 2],
    test: TestMirror,
}

const OLD: [&str; 4] = ["old0", "old1", "old2", "old3"];

impl Mirror {
    fn new(name: &str) -> Mirror {
        let mut test = TestMirror::unmounted(name, Filesystem::Plain, "");
        let bad = LEGS.map(|leg| BadLeg::before(&mut test, leg.lower));
        let (script, log) = (test.scratch().join("tell"), test.scratch().join("log"));
        fs::write(&script, "#!/bin/sh\necho \"$1\" >>\"${0%/*}/heard\"\n").expect("write");
        rustix::fs::chmod(&script, 0o755.into()).expect("chmod");
        test.mirror_mut().options = format!("log={},on_event={}", log.display(), script.display());
        let output = test.create(&[]);
        assert!(output.status.success(), "{}", said(&output));
        test.mount();
        for old in OLD {
            fs::write(test.mnt.join(old), vec![1; 20_000]).expect("write");
        }
        test.umount();
        test.mount();
        Mirror { bad, test }
    }

    fn bad(&self, leg: Side) -> &BadLeg {
        &self.bad[leg.place]
    }

    /// Writes a file that is old, over what it holds.
    fn overwrite(&self, name: &str) -> io::Result<()> {
        let file = File::options().write(true).open(self.test.mnt.join(name))?;
        file.write_all_at(&[2; 20_000], 0)
    }

    fn is_new(&self, root: &Path, name: &str) -> bool {
        let data = fs::read(root.join(name)).expect("read");
        assert!(data == [1; 20_000] || data == [2; 20_000], "{name} is torn in {}", root.display());
        data[0] == 2
    }

    fn state(&self, leg: Side) -> String {
        self.test.status()["legs"][leg.place]["state"].as_str().expect("a state").to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.test.scratch().join("log")).expect("a log")
    }

    fn is_told(&self, event: &str) -> bool {
        let heard = fs::read_to_string(self.test.scratch().join("heard")).unwrap_or_default();
        heard.lines().any(|line| line == event)
    }

    /// No change is let in, everybody can still read, and why is said.
    fn is_read_only_because(&self, why: &str) {
        let status = self.test.status();
        assert_eq!(status["state"], "readonly", "{status}");
        assert!(status["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{status}");
        let refused = self.overwrite(OLD[3]).expect_err("no change is let in");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
        assert!(!self.is_new(&self.test.mnt, OLD[3]));
        assert!(fs::read_dir(&self.test.mnt).expect("a listing").count() >= OLD.len());
        wait_for("it to be told", || self.is_told("ReadOnly"));
    }

    /// Both legs answer again, and the next mount makes them equal.
    fn becomes_whole(&self) {
        self.bad.iter().for_each(BadLeg::heal);
        self.test.umount();
        assert_eq!(self.log().matches("ReadOnly:").count(), 1, "it is told once: {}", self.log());
        self.test.mount();
        self.wait_until_in_sync();
        self.overwrite(OLD[3]).expect("changes are let in again");
        self.ends_equal();
    }

    fn wait_until_in_sync(&self) {
        wait_for("both legs to be in sync", || LEGS.iter().all(|&leg| self.state(leg) == "in_sync"));
    }

    fn ends_equal(&self) {
        self.test.umount();
        assert_equal(self.bad(A).beneath(), self.bad(B).beneath());
    }

    /// This is on both legs, which are not mounted.
    fn both_have(&self, name: &str) {
        LEGS.iter()
            .for_each(|&leg| assert!(self.is_new(self.bad(leg).beneath(), name), "{name} on {}", leg.upper));
    }
}

#[test]
fn a_leg_whose_bitmap_cannot_be_written_is_faulted_and_taken_back_later() {
    if !can_misbehave() {
        return;
    }
    for leg in LEGS {
        let mirror = Mirror::new("bitmap");
        mirror.bad(leg).on("write").within(BITMAP).fail(libc::EIO);
        mirror.overwrite(OLD[0]).expect("the other leg has a bitmap");
        wait_for("the fault to show", || mirror.state(leg) == "faulted");
        let status = mirror.test.status();
        let errno = status["legs"][leg.place]["errno"].as_str();
        assert!(errno.is_some_and(|errno| errno.starts_with("Input/output error")), "{status}");
        assert_eq!(
            (&*mirror.state(leg.other()), &status["state"]),
            ("in_sync", &"degraded".into()),
            "{status}"
        );
        mirror.overwrite(OLD[1]).expect("the other leg goes on");

        mirror.bad(leg).heal();
        must(mirrorfs().arg("re-add").arg(&mirror.test.mnt).arg(leg.upper));
        must(mirrorfs().arg("wait").arg(&mirror.test.mnt));
        mirror.wait_until_in_sync();
        mirror.ends_equal();
        OLD[..2].iter().for_each(|name| mirror.both_have(name));
    }
}

#[test]
fn a_mirror_whose_last_bitmap_cannot_be_written_turns_read_only_and_loses_nothing() {
    if !can_misbehave() {
        return;
    }
    for last in LEGS {
        let mirror = Mirror::new("lastbitmap");
        must(mirrorfs().arg("fail").arg(&mirror.test.mnt).arg(last.other().upper));
        mirror.overwrite(OLD[0]).expect("one leg serves");
        mirror.bad(last).on("write").within(BITMAP).fail(libc::EIO);
        let refused = mirror.overwrite(OLD[1]).expect_err("nowhere to mark it");
        assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
        mirror.is_read_only_because(&format!("the bitmap on leg {} cannot be written", last.upper));
        assert!(mirror.is_new(&mirror.test.mnt, OLD[0]) && !mirror.is_new(&mirror.test.mnt, OLD[1]));
        assert_eq!(mirror.state(last), "in_sync", "the last leg is never left behind");
        mirror.becomes_whole();
        mirror.both_have(OLD[0]);
        LEGS.iter().for_each(|&leg| assert!(!mirror.is_new(mirror.bad(leg).beneath(), OLD[1])));
    }
}

/// Nobody could tell the next mount which leg lacks the change (O2, P6).
#[test]
fn a_change_that_one_leg_missed_is_not_acknowledged_where_that_cannot_be_recorded() {
    if !can_misbehave() {
        return;
    }
    for failing in LEGS {
        let write = |mirror: &Mirror| mirror.overwrite(OLD[1]);
        let create = |mirror: &Mirror| File::create_new(mirror.test.mnt.join("new")).map(drop);
        let sync = |mirror: &Mirror| File::open(mirror.test.mnt.join(OLD[0]))?.sync_all();
        type Change<'a> = &'a dyn Fn(&Mirror) -> io::Result<()>;
        let changes: [(&str, &str, Change<'_>); 4] = [
            ("write", OLD[1], &write),
            ("create", "new", &create),
            ("fsync", OLD[0], &sync),
            ("write", BITMAP, &write),
        ];
        for (op, word, change) in changes {
            println!("{op} of {word} on leg {}", failing.upper);
            let mirror = Mirror::new("unrecorded");
            mirror.overwrite(OLD[0]).expect("both legs answer");
            mirror.bad(failing.other()).on("write").within(SUPERBLOCK).fail(libc::EIO);
            mirror.bad(failing).on(op).within(word).fail(libc::EIO);
            let refused = change(&mirror).expect_err("it is on one leg at most");
            assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{refused}");
            mirror.is_read_only_because(&format!("cannot be recorded on leg {}", failing.other().upper));
            assert!(mirror.is_new(&mirror.test.mnt, OLD[0]));
            mirror.becomes_whole();
            mirror.both_have(OLD[0]);
        }
    }
}

/// What a program asks, of which nothing may be left when one leg refuses it.
fn attempt(op: &str, at: impl Fn(&str) -> std::path::PathBuf) -> io::Result<()> {
    let open = || File::options().write(true).open(at("refused"));
    match op {
        "write" => open()?.write_all_at(&[3; 10_000], 15_000),
        "fallocate" => Ok(fallocate(&open()?, FallocateFlags::empty(), 0, 50_000)?),
        "truncate" => open()?.set_len(50_000),
        "create" => File::create_new(at("refused-file")).map(drop),
        "mkdir" => fs::create_dir(at("refused-dir")),
        "mknod" => Ok(rustix::fs::mkfifoat(rustix::fs::CWD, at("refused-fifo"), 0o600.into())?),
        "symlink" => std::os::unix::fs::symlink("nowhere", at("refused-symlink")),
        "link" => fs::hard_link(at("refused"), at("refused-link")),
        "rename" => fs::rename(at("refused"), at("refused-moved")),
        "setxattr" => Ok(setxattr(at("refused"), "user.name", b"new", XattrFlags::empty())?),
        _ => unreachable!("{op} is not tried"),
    }
}

/// Each of these operations meets this errno on one leg, which is what the program gets; and all is as it was.
fn refuse(name: &str, attempts: &[(&str, i32)]) {
    if !can_misbehave() {
        return;
    }
    for leg in LEGS {
        let mirror = Mirror::new(name);
        let (dir, before) = (mirror.test.mnt.join("dir"), mirror.test.scratch().dir("before"));
        for root in [&dir, &before] {
            fs::create_dir_all(root).expect("mkdir");
            fs::write(root.join("refused"), vec![1; 20_000]).expect("write");
            setxattr(root.join("refused"), "user.name", b"old", XattrFlags::empty()).expect("setxattr");
        }
        for &(op, errno) in attempts {
            mirror.bad(leg).on(op).within("refused").fail(errno);
            let refused = attempt(op, |name| dir.join(name)).expect_err(op);
            assert_eq!(refused.raw_os_error(), Some(errno), "{op} on leg {}: {refused}", leg.upper);
            mirror.bad(leg).heal();
            let status = mirror.test.status();
            assert!(status["state"] == "active" || status["state"] == "clean", "{op}: {status}");
            assert!(LEGS.iter().all(|&leg| mirror.state(leg) == "in_sync"), "{op}: {status}");
            is_as_before(&before, &dir, op);
            LEGS.iter().for_each(|&leg| is_as_before(&before, &mirror.bad(leg).beneath().join("dir"), op));
        }
        for &(op, _) in attempts.iter().filter(|(op, _)| *op != "rename") {
            attempt(op, |name| dir.join(name))
                .unwrap_or_else(|error| panic!("{op}, by no leg refused: {error}"));
        }
        mirror.ends_equal();
    }
}

/// The same names, data and attributes; times are the legs' to agree on.
fn is_as_before(before: &Path, dir: &Path, op: &str) {
    let names: Vec<_> =
        fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names, ["refused"], "{op}: {}", dir.display());
    let read = |root: &Path| fs::read(root.join("refused")).expect("read");
    assert!(read(before) == read(dir), "{op}: {}", dir.display());
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(dir.join("refused"), "user.name", &mut value[..]).expect("getxattr");
    assert_eq!(&value[..len], b"old", "{op}: {}", dir.display());
}

#[test]
fn a_quota_of_one_leg_is_the_mirrors() {
    let ops = [
        "write",
        "fallocate",
        "truncate",
        "create",
        "mkdir",
        "mknod",
        "symlink",
        "link",
        "rename",
        "setxattr",
    ];
    refuse("quota", &ops.map(|op| (op, libc::EDQUOT)));
}

#[test]
fn what_one_leg_has_a_limit_for_or_does_not_know_is_refused_and_leaves_both_alike() {
    refuse(
        "limits",
        &[
            ("create", libc::ENAMETOOLONG),
            ("mkdir", libc::ENAMETOOLONG),
            ("rename", libc::ENAMETOOLONG),
            ("link", libc::EMLINK),
            ("write", libc::EFBIG),
            ("truncate", libc::EFBIG),
            ("setxattr", libc::EOPNOTSUPP),
            ("setxattr", libc::E2BIG),
            ("mknod", libc::EPERM),
        ],
    );
}

/// As one on NFS whose export is gone. One file that is gone is no reason to leave a leg behind.
#[test]
fn a_leg_that_is_stale_as_a_whole_is_left_behind_and_one_with_a_stale_file_is_not() {
    if !can_misbehave() {
        return;
    }
    for leg in LEGS {
        let mirror = Mirror::new("stale");
        mirror.bad(leg).on("lookup,getattr,open").within(OLD[1]).fail(libc::ESTALE);
        let _ = fs::read(mirror.test.mnt.join(OLD[1]));
        assert_eq!((mirror.state(A), mirror.state(B)), ("in_sync".into(), "in_sync".into()));
        mirror.bad(leg).heal();

        mirror.bad(leg).fail("all", libc::ESTALE);
        assert!(!mirror.is_new(&mirror.test.mnt, OLD[0]), "the other leg answers");
        mirror.overwrite(OLD[2]).expect("the other leg does it");
        assert_eq!(mirror.state(leg), "faulted");
        let told = format!("at {}: Stale file handle", mirror.bad(leg).path().display());
        assert!(
            mirror.log().contains(&format!("Fail: leg {} of", leg.upper)) && mirror.log().contains(&told)
        );
        mirror.bad(leg).heal();
        must(mirrorfs().arg("re-add").arg(&mirror.test.mnt).arg(leg.upper));
        must(mirrorfs().arg("wait").arg(&mirror.test.mnt));
        mirror.test.umount();
        assert_equal(mirror.bad(A).beneath(), mirror.bad(B).beneath());
        assert!(mirror.is_new(mirror.bad(leg).beneath(), OLD[2]));
    }
}
