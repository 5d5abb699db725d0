//! An ordinary user mounts own directories with fusermount3, without any right that root has.
//!
//! Needs root (to become that user), /dev/fuse, fusermount3, and the user nobody.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use common::mirror::{program, said};
use common::process::NOBODY;
use common::{Scratch, can_mount, differences, has_program, mounts, process, wait_for};

struct Place {
    scratch: Scratch,
    program: std::path::PathBuf,
}

impl Place {
    /// Directories that belong to nobody, and the program where nobody can reach it. `None` where a
    /// user cannot mount at all.
    fn new(name: &str) -> Option<Place> {
        let device_open_to_all =
            || fs::metadata("/dev/fuse").is_ok_and(|meta| meta.permissions().mode() & 0o006 == 0o006);
        let able = can_mount()
            && has_program("fusermount3")
            && common::have("/dev/fuse open to all users", device_open_to_all());
        if !able {
            return None;
        }
        let scratch = Scratch::new(name);
        for dir in ["a", "b", "mnt"] {
            chown(scratch.dir(dir), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let copy = scratch.join("mirrorfs");
        fs::copy(program(), &copy).expect("a copy of the program");
        Some(Place { program: copy, scratch })
    }

    fn as_nobody(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.scratch.path()).uid(NOBODY).gid(NOBODY);
        process::run(&mut command)
    }

    fn must_as_nobody(&self, arguments: &[&str]) -> String {
        let output = self.as_nobody(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn pid(&self) -> u32 {
        let status: serde_json::Value =
            serde_json::from_str(&self.must_as_nobody(&["status", "mnt", "--json"])).expect("JSON");
        status["pid"].as_u64().expect("a pid") as u32
    }

    fn is_mounted(&self) -> bool {
        mounts::at(&self.scratch.join("mnt")).is_some()
    }
}

fn work(mnt: &Path) {
    let script = "echo text > file; mkdir dir; ln file dir/hard; ln -s file link; chmod 640 file
        mv dir other; setfattr -n user.colour -v blue file 2>/dev/null || true
        dd if=/dev/urandom of=data bs=100k count=20 2>/dev/null; rm other/hard";
    let output = process::shell_as_nobody(mnt, script);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_user_may_have_the_kernel_keep_what_is_written() {
    let Some(place) = Place::new("user-writeback") else { return };
    place.must_as_nobody(&["create", "a", "b"]);
    place.must_as_nobody(&["mount", "a", "b", "mnt", "-o", "writeback"]);
    let mnt = place.scratch.join("mnt");
    work(&mnt);
    // Parts of pages of a file that its owner may not read: the kernel reads the rest of them.
    let output = process::shell_as_nobody(
        &mnt,
        "umask 577; seq 5000 > secret; umask 022; head -c 5000 /dev/zero > part
        printf change | dd of=part bs=1 seek=1234 conv=notrunc 2>/dev/null",
    );
    assert!(output.status.success(), "{}", said(&output));
    let pid = place.pid();
    let output = process::shell_as_nobody(place.scratch.path(), "fusermount3 -u mnt");
    assert!(output.status.success(), "{}", said(&output));
    wait_for("the daemon to end", || process::is_gone(pid));
    let [a, b] = ["a", "b"].map(|leg| place.scratch.join(leg));
    let found = differences(&a, &b);
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(&fs::read(b.join("part")).expect("read")[1230..1244], b"\0\0\0\0change\0\0\0\0");
    assert_eq!(fs::metadata(b.join("secret")).expect("stat").len(), 23_893);
}

#[test]
fn a_user_creates_mounts_works_and_unmounts() {
    let Some(place) = Place::new("user") else { return };
    place.must_as_nobody(&["create", "a", "b"]);
    place.must_as_nobody(&["mount", "a", "b", "mnt"]);
    assert!(place.is_mounted());
    let mnt = place.scratch.join("mnt");
    work(&mnt);
    let pid = place.pid();
    let output = process::shell_as_nobody(place.scratch.path(), "fusermount3 -u mnt");
    assert!(output.status.success(), "{}", said(&output));
    wait_for("the daemon to end", || process::is_gone(pid));
    let [a, b] = ["a", "b"].map(|leg| place.scratch.join(leg));
    let found = differences(&a, &b);
    assert!(found.is_empty(), "{found:#?}");
    let meta = fs::metadata(b.join("file")).expect("on leg B");
    assert_eq!((meta.uid(), meta.mode() & 0o777), (NOBODY, 0o640));
    place.must_as_nobody(&["compare", "a", "b"]);
}

#[test]
fn a_user_comes_back_from_a_crash() {
    let Some(place) = Place::new("usercrash") else { return };
    place.must_as_nobody(&["create", "a", "b"]);
    place.must_as_nobody(&["mount", "a", "b", "mnt"]);
    work(&place.scratch.join("mnt"));
    process::kill_hard(place.pid());
    place.must_as_nobody(&["mount", "a", "b", "mnt"]);
    let synced =
        || place.must_as_nobody(&["status", "mnt", "--json"]).replace(' ', "").contains("\"active\":false");
    wait_for("the resync to end", synced);
    let pid = place.pid();
    let output = process::shell_as_nobody(place.scratch.path(), "fusermount3 -u mnt");
    assert!(output.status.success(), "{}", said(&output));
    wait_for("the daemon to end", || process::is_gone(pid));
    let found = differences(&place.scratch.join("a"), &place.scratch.join("b"));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_user_replaces_a_leg() {
    let Some(place) = Place::new("userreplace") else { return };
    place.must_as_nobody(&["create", "a", "b"]);
    place.must_as_nobody(&["mount", "a", "b", "mnt"]);
    work(&place.scratch.join("mnt"));
    place.must_as_nobody(&["fail", "mnt", "B"]);
    let roots = place.scratch.dir("roots");
    let output = place.as_nobody(&["replace", "mnt", "B", "roots"]);
    assert!(!output.status.success() && said(&output).contains("cannot write"), "{}", said(&output));
    assert_eq!(fs::read_dir(&roots).expect("list").count(), 0, "nothing was made");
    chown(place.scratch.dir("c"), Some(NOBODY), Some(NOBODY)).expect("chown");
    place.must_as_nobody(&["replace", "mnt", "B", "c"]);
    place.must_as_nobody(&["wait", "mnt"]);
    let pid = place.pid();
    let output = process::shell_as_nobody(place.scratch.path(), "fusermount3 -u mnt");
    assert!(output.status.success(), "{}", said(&output));
    wait_for("the daemon to end", || process::is_gone(pid));
    place.must_as_nobody(&["compare", "a", "c"]);
    let found = differences(&place.scratch.join("a"), &place.scratch.join("c"));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_user_cannot_mount_what_belongs_to_others() {
    let Some(place) = Place::new("userdenied") else { return };
    for leg in ["a", "b"] {
        chown(place.scratch.join(leg), Some(0), Some(0)).expect("chown");
    }
    let output = place.as_nobody(&["create", "a", "b"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("denied") || said(&output).contains("permitted"), "{}", said(&output));
    assert!(!place.is_mounted());
    assert_eq!(fs::read_dir(place.scratch.join("a")).expect("list").count(), 0, "nothing was made");
}
