//! `mirrorfs create`, `compare` and `examine` as a user runs them. Needs root for device nodes, owners
//! and small filesystems; mounts only tmpfs, below its own temporary directory.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Two directories to be legs, and a place beside them.
struct Legs {
    top: tempfile::TempDir,
    mounted: Vec<PathBuf>,
}

impl Legs {
    fn new() -> Legs {
        let legs = Legs { top: tempfile::tempdir().unwrap(), mounted: Vec::new() };
        for name in ["a", "b"] {
            std::fs::create_dir(legs.at(name)).unwrap();
        }
        legs
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    /// A tmpfs on a leg: small, or read-only later.
    fn mount_tmpfs(&mut self, name: &str, options: &str) {
        let at = self.at(name);
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at));
        self.mounted.push(at);
    }

    fn create(&self, more: &[&str]) -> Output {
        let (a, b) = (self.at("a"), self.at("b"));
        mirrorfs().arg("create").arg(a).arg(b).args(more).output().unwrap()
    }

    fn compare(&self) -> (i32, String) {
        let output = mirrorfs().arg("compare").arg(self.at("a")).arg(self.at("b")).output().unwrap();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Creates a mirror of what is in leg A and compares the legs.
    fn copied(&self) {
        succeeds(&self.create(&["--source", "A"]));
        assert_eq!(self.compare(), (0, String::new()));
    }
}

impl Drop for Legs {
    fn drop(&mut self) {
        for mounted in &self.mounted {
            let _ = Command::new("umount").arg(mounted).status();
        }
    }
}

fn mirrorfs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mirrorfs"))
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Refused with this in the message, and a second line that says what to do.
fn refused(output: &Output, words: &str) {
    let message = text(&output.stderr);
    assert!(!output.status.success() && message.contains(words), "{words:?} is not in: {message}");
    assert_eq!(message.lines().count(), 2, "{message}");
}

fn set_times(path: &Path, secs: i64) {
    let time = |secs| Timespec { tv_sec: secs, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time(secs - 1), last_modification: time(secs) };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An ACL as the xattr has it: owner, user 1000, group, mask and others may all read and write.
fn acl() -> Vec<u8> {
    let mut acl = vec![2, 0, 0, 0];
    for (tag, id) in [(1_u16, !0_u32), (2, 1000), (4, !0), (16, !0), (32, !0)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(6_u16.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// One of everything that a mirror must keep.
fn fill_with_everything(leg: &Path) {
    let at = |name: &str| leg.join(name);
    std::fs::create_dir_all(at("dir/sub/empty")).unwrap();
    std::fs::write(at("dir/file"), vec![7; 3_000_001]).unwrap();
    std::fs::hard_link(at("dir/file"), at("second name")).unwrap();
    std::fs::hard_link(at("dir/file"), at("dir/sub/third")).unwrap();
    std::fs::File::create(at("sparse")).unwrap().set_len(10 << 30).unwrap();
    let sparse = std::fs::File::options().write(true).open(at("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"island", 5 << 30).unwrap();
    symlink("../no where", at("dir/link")).unwrap();
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("disk", FileType::BlockDevice, rustix::fs::makedev(7, 99)),
    ] {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    }
    std::os::unix::fs::chown(at("dir/file"), Some(1234), Some(5678)).unwrap();
    std::os::unix::fs::lchown(at("dir/link"), Some(1), Some(2)).unwrap();
    std::fs::set_permissions(at("dir/file"), PermissionsExt::from_mode(0o6755)).unwrap();
    std::fs::set_permissions(at("dir/sub"), PermissionsExt::from_mode(0o3700)).unwrap();
    std::fs::set_permissions(leg, PermissionsExt::from_mode(0o2775)).unwrap();
    for (name, xattr, value) in [
        ("dir", "user.comment", &b"with \0 bytes"[..]),
        ("", "user.root", b""),
        ("dir/sub", "system.posix_acl_default", &acl()),
        ("sparse", "system.posix_acl_access", &acl()),
    ] {
        rustix::fs::setxattr(at(name), xattr, value, XattrFlags::empty()).unwrap();
    }
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not \xff utf8\n");
    std::fs::write(leg.join(odd), "odd").unwrap();
    for (name, secs) in
        [("dir/link", -5), ("dir/file", 1), ("dir/sub", -1_000_000_000), ("dir", 4_000_000_000)]
    {
        set_times(&at(name), secs);
    }
    set_times(leg, 1_000_000_000);
}

#[test]
fn everything_is_copied_and_found_equal() {
    let legs = Legs::new();
    fill_with_everything(&legs.at("a"));
    legs.copied();
    let copy = |name: &str| legs.at("b").join(name).symlink_metadata().unwrap();
    assert_eq!(copy("dir/file").nlink(), 3);
    assert!(copy("sparse").blocks() < 1000, "holes stay holes");
    assert_eq!((copy("dir/link").mtime(), copy("dir/link").mtime_nsec()), (-5, 123_456_789));
    assert_eq!(copy("").mtime(), 1_000_000_000);
    assert_eq!(legs.at("a").metadata().unwrap().mtime(), 1_000_000_000, "the source's root keeps its time");
    assert!(copy("fifo").file_type().is_fifo());
    assert!(legs.at("b/.mirrorfs/incoming").read_dir().unwrap().next().is_none());
}

#[test]
fn a_default_acl_of_the_target_leaves_no_trace() {
    let legs = Legs::new();
    fill_with_everything(&legs.at("a"));
    rustix::fs::setxattr(legs.at("b"), "system.posix_acl_default", &acl(), XattrFlags::empty()).unwrap();
    legs.copied();
}

#[test]
fn leg_b_can_be_the_source_and_depth_takes_no_descriptors() {
    let legs = Legs::new();
    let mut here = rustix::fs::open(legs.at("b"), rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..300 {
        rustix::fs::mkdirat(&here, "deeper", Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "deeper", rustix::fs::OFlags::PATH, Mode::empty()).unwrap();
    }
    let with_few_descriptors = |arguments: &str| {
        let (program, a, b) = (env!("CARGO_BIN_EXE_mirrorfs"), legs.at("a"), legs.at("b"));
        let script = format!("ulimit -n 40; exec \"$0\" {arguments}");
        Command::new("sh").args(["-c", &script, program]).arg(a).arg(b).output().unwrap()
    };
    succeeds(&with_few_descriptors("create --source B \"$@\""));
    succeeds(&with_few_descriptors("compare \"$@\""));
}

#[test]
fn each_difference_is_named_on_a_line_of_its_own() {
    type Change = fn(&Path);
    let cases: [(&str, Change, &[&str]); 12] = [
        ("one byte", |b| flip(&b.join("sparse"), 5 << 30), &["sparse: data from byte 5368709120"]),
        (
            "length",
            |b| set_len(&b.join("sparse"), 1 << 30),
            &["sparse: length (A: 10737418240 B: 1073741824)"],
        ),
        ("mode", |b| set_mode(&b.join("null"), 0o600), &["null: mode (A: 0640 B: 0600)"]),
        ("owner", |b| chown(&b.join("fifo")), &["fifo: owner (A: 0:0 B: 9:9)"]),
        (
            "time",
            |b| set_times(&b.join("dir/link"), -6),
            &["dir/link: mtime (A: -5.123456789 B: -6.123456789)"],
        ),
        ("missing", |b| remove(&b.join("socket")), &["socket: only on A"]),
        ("added", |b| add(&b.join("dir/sub/empty/new")), &["dir/sub/empty/new: only on B"]),
        ("kind", |b| replace(&b.join("fifo")), &["fifo: kind (A: fifo B: file)"]),
        ("target", |b| relink(&b.join("dir/link")), &["dir/link: symlink target (A: ../no where B: else)"]),
        (
            "xattr",
            |b| comment(&b.join("dir")),
            &["dir: xattr user.comment (A: \"with \\x00 bytes\" of 12 bytes B: "],
        ),
        ("acl", |b| drop_acl(&b.join("sparse")), &["sparse: xattr system.posix_acl_access (A: "]),
        ("hard link", |b| split(&b.join("second name")), &["number of names", "second name: hard links"]),
    ];
    let legs = Legs::new();
    fill_with_everything(&legs.at("a"));
    legs.copied();
    let kept = legs.at("kept");
    for (what, change, expected) in cases {
        let _ = std::fs::remove_dir_all(&kept);
        run(Command::new("cp").arg("-a").arg(legs.at("b")).arg(&kept));
        change(&legs.at("b"));
        let (code, output) = legs.compare();
        assert_eq!(code, 1, "{what}");
        for line in expected {
            assert!(
                output.lines().any(|found| found.contains(line)),
                "{what}: {line:?} is not in:\n{output}"
            );
        }
        std::fs::remove_dir_all(legs.at("b")).unwrap();
        std::fs::rename(&kept, legs.at("b")).unwrap();
        assert_eq!(legs.compare(), (0, String::new()), "restored after {what}");
    }
}

fn flip(path: &Path, at: u64) {
    let times = std::fs::metadata(path).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"I", at).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
}

fn set_len(path: &Path, len: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn chown(path: &Path) {
    std::os::unix::fs::chown(path, Some(9), Some(9)).unwrap();
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

fn add(path: &Path) {
    std::fs::write(path, "").unwrap();
}

fn replace(path: &Path) {
    remove(path);
    add(path);
}

fn relink(path: &Path) {
    remove(path);
    symlink("else", path).unwrap();
}

fn comment(path: &Path) {
    rustix::fs::setxattr(path, "user.comment", b"other", XattrFlags::empty()).unwrap();
}

fn drop_acl(path: &Path) {
    rustix::fs::removexattr(path, "system.posix_acl_access").unwrap();
}

fn split(path: &Path) {
    let content = std::fs::read(path).unwrap();
    remove(path);
    std::fs::write(path, content).unwrap();
}

#[test]
fn comparing_changes_nothing() {
    let legs = Legs::new();
    fill_with_everything(&legs.at("a"));
    legs.copied();
    let seen = || {
        let mut seen = Vec::new();
        for name in ["a", "a/dir", "a/dir/sub", "b/dir/file", "b/sparse", "b"] {
            let meta = legs.at(name).metadata().unwrap();
            seen.push((meta.atime(), meta.atime_nsec(), meta.ctime(), meta.ctime_nsec()));
        }
        seen
    };
    let before = seen();
    legs.compare();
    assert_eq!(seen(), before);
}

#[test]
fn what_cannot_become_a_mirror_is_refused_and_left_alone() {
    let legs = Legs::new();
    std::fs::write(legs.at("a/file"), "").unwrap();
    refused(&legs.create(&[]), "has files and leg B");
    refused(&legs.create(&["--source", "B"]), "source is to be leg B");
    std::fs::write(legs.at("b/file"), "").unwrap();
    refused(&legs.create(&["--source", "A"]), "both");
    let same = mirrorfs().arg("create").arg(legs.at("a")).arg(legs.at("a/.")).output().unwrap();
    refused(&same, "same directory");
    std::fs::create_dir(legs.at("a/in")).unwrap();
    let nested = mirrorfs().arg("create").arg(legs.at("a")).arg(legs.at("a/in")).output().unwrap();
    refused(&nested, "lies inside leg A");
    let missing = mirrorfs().arg("create").arg(legs.at("a")).arg(legs.at("none")).output().unwrap();
    refused(&missing, "leg B at");
    let not_a_directory = mirrorfs().arg("create").arg(legs.at("a")).arg(legs.at("b/file")).output().unwrap();
    refused(&not_a_directory, "Not a directory");
    for leg in ["a", "b"] {
        assert!(!legs.at(leg).join(".mirrorfs").exists(), "{leg} was changed");
    }
}

#[test]
fn a_mirror_is_not_made_twice_nor_robbed_of_a_leg() {
    let legs = Legs::new();
    succeeds(&legs.create(&[]));
    refused(&legs.create(&[]), "is a leg of mirror");
    std::fs::create_dir(legs.at("c")).unwrap();
    let robbed = mirrorfs().arg("create").arg(legs.at("a")).arg(legs.at("c")).output().unwrap();
    refused(&robbed, "is a leg of mirror");
    std::fs::write(legs.at("a/.mirrorfs/superblock"), vec![1; 8192]).unwrap();
    refused(&legs.create(&[]), "damaged");
}

#[test]
fn lost_and_found_counts_as_nothing_and_is_not_copied() {
    let legs = Legs::new();
    std::fs::create_dir(legs.at("b/lost+found")).unwrap();
    std::fs::create_dir(legs.at("a/lost+found")).unwrap();
    std::fs::write(legs.at("a/lost+found/#12"), "").unwrap();
    let output = legs.create(&[]);
    succeeds(&output);
    assert!(text(&output.stdout).contains("lost+found of leg A"), "{}", text(&output.stdout));
    assert_eq!(legs.compare(), (0, String::new()));
    assert!(legs.at("b/lost+found").read_dir().unwrap().next().is_none());
}

#[test]
fn a_leg_without_room_is_refused_before_anything_is_written() {
    for (target, options) in [("b", "size=6m"), ("b", "size=64m,nr_inodes=30"), ("a", "size=1m")] {
        let mut legs = Legs::new();
        legs.mount_tmpfs(target, options);
        if target == "b" {
            std::fs::write(legs.at("a/big"), vec![1; 4 << 20]).unwrap();
            for number in 0..20 {
                std::fs::write(legs.at(&format!("a/{number}")), "").unwrap();
            }
        }
        refused(&legs.create(&["--source", "A"]), "no room on leg");
        assert!(!legs.at("a/.mirrorfs").exists() && !legs.at("b/.mirrorfs").exists());
    }
}

#[test]
fn a_read_only_leg_is_refused() {
    let mut legs = Legs::new();
    legs.mount_tmpfs("b", "size=64m");
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(legs.at("b")));
    refused(&legs.create(&[]), "cannot write to leg B");
}

#[test]
fn what_a_mount_covers_is_copied_and_compare_says_that_it_cannot_see_it() {
    let mut legs = Legs::new();
    std::fs::create_dir_all(legs.at("a/sub/there")).unwrap();
    std::fs::write(legs.at("a/sub/there/covered"), "below").unwrap();
    legs.mount_tmpfs("a/sub/there", "size=1m");
    // The mirror shows what lies below the mount, so that is what is copied.
    succeeds(&legs.create(&["--source", "A"]));
    assert!(legs.at("b/sub/there/covered").exists());
    let (code, output) = legs.compare();
    assert!(code > 1 && output.contains("sub/there"), "{code} {output}");
}

#[test]
fn an_interrupted_create_is_started_over() {
    let legs = Legs::new();
    fill_with_everything(&legs.at("a"));
    // While copying: the target has leftovers in incoming.
    std::fs::create_dir_all(legs.at("b/.mirrorfs/incoming/root/dir/deep")).unwrap();
    std::fs::write(legs.at("b/.mirrorfs/incoming/root/dir/file"), "half").unwrap();
    std::fs::write(legs.at("b/.mirrorfs/superblock.new"), "half").unwrap();
    legs.copied();

    // Between the superblocks.
    let legs = Legs::new();
    succeeds(&legs.create(&[]));
    std::fs::write(legs.at("b/.mirrorfs/unfinished"), "").unwrap();
    std::fs::remove_file(legs.at("a/.mirrorfs/superblock")).unwrap();
    succeeds(&legs.create(&[]));

    // While what was copied is moved into place.
    let legs = Legs::new();
    std::fs::create_dir(legs.at("b/.mirrorfs")).unwrap();
    std::fs::write(legs.at("b/.mirrorfs/filling"), "").unwrap();
    std::fs::write(legs.at("a/file"), "").unwrap();
    std::fs::write(legs.at("b/file"), "").unwrap();
    refused(&legs.create(&["--source", "A"]), "interrupted");
    std::fs::remove_file(legs.at("b/file")).unwrap();
    legs.copied();
}

#[test]
fn the_bitmap_can_be_kept_elsewhere_but_not_on_a_leg() {
    let legs = Legs::new();
    let on_leg = legs.at("a/bitmap").display().to_string();
    refused(&legs.create(&["--bitmap", &on_leg]), "inside leg A");
    let file = legs.at("bitmap");
    let output = legs.create(&["--chunk", "64K", "--bitmap", file.to_str().unwrap()]);
    succeeds(&output);
    assert!(text(&output.stdout).contains("-o bitmap="), "{}", text(&output.stdout));
    let meta = file.metadata().unwrap();
    assert!(meta.blocks() * 512 >= meta.len(), "written in full, not sparse");
    assert!(!legs.at("a/.mirrorfs/bitmap").exists());
    let examined = mirrorfs().arg("examine").arg(legs.at("a")).output().unwrap();
    succeeds(&examined);
    assert!(text(&examined.stdout).contains("chunks of 64 KiB"), "{}", text(&examined.stdout));
}

#[test]
fn examine_tells_of_each_leg_and_of_a_damaged_slot() {
    let legs = Legs::new();
    succeeds(&legs.create(&[]));
    for (leg, letter) in [("a", "A"), ("b", "B")] {
        let output = mirrorfs().args(["examine", "--json"]).arg(legs.at(leg)).output().unwrap();
        succeeds(&output);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((json["version"].as_u64(), json["role"].as_str()), (Some(1), Some(letter)));
        assert_eq!((json["state"].as_str(), json["peer_state"].as_str()), (Some("clean"), Some("in sync")));
        assert_eq!(json["bitmap"]["verdict"].as_str(), Some("good"));
    }
    let file = std::fs::File::options().write(true).open(legs.at("a/.mirrorfs/superblock")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 200).unwrap();
    let output = mirrorfs().arg("examine").arg(legs.at("a")).output().unwrap();
    assert!(text(&output.stdout).contains("slot is damaged"), "{}", text(&output.stdout));
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 4096 + 200).unwrap();
    refused(&mirrorfs().arg("examine").arg(legs.at("a")).output().unwrap(), "cannot examine");
    refused(&mirrorfs().arg("examine").arg(legs.top.path()).output().unwrap(), "not a leg");
}

#[test]
fn legs_in_use_are_not_touched_and_the_holder_is_named() {
    let legs = Legs::new();
    succeeds(&legs.create(&[]));
    let lock = std::fs::File::options().write(true).open(legs.at("b/.mirrorfs/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let holder = format!("in use by process {}", std::process::id());
    let (code, output) = legs.compare();
    assert!(code > 1 && output.contains(&holder), "{output}");
    refused(&mirrorfs().arg("examine").arg(legs.at("b")).output().unwrap(), &holder);
}

#[test]
fn a_daemon_that_is_about_to_end_is_waited_for() {
    let legs = Legs::new();
    succeeds(&legs.create(&[]));
    // It holds the lock until its input ends, and serves no mount.
    let daemon = legs.at("mirrorfs");
    std::fs::copy("/usr/bin/flock", &daemon).unwrap();
    let mut daemon = Command::new(&daemon)
        .arg("-o")
        .arg(legs.at("b/.mirrorfs/lock"))
        .args(["sh", "-c", "echo locked; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "locked\n");
    let mut compare = mirrorfs()
        .arg("compare")
        .args([legs.at("a"), legs.at("b")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    line.clear();
    BufReader::new(compare.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    drop(daemon.stdin.take());
    assert!(daemon.wait().unwrap().success());
    assert!(line.contains(&format!("waiting for process {}", daemon.id())), "{line}");
    assert_eq!(compare.wait().unwrap().code(), Some(0));
}

#[test]
fn who_stops_reading_the_output_is_no_failure() {
    let legs = Legs::new();
    std::fs::write(legs.at("a/file"), "text").unwrap();
    legs.copied();
    std::fs::write(legs.at("b/more"), "text").unwrap();
    let (a, b) = (legs.at("a"), legs.at("b"));
    for (arguments, code) in [
        (vec!["examine".into(), a.clone()], 0),
        (vec!["examine".into(), a.clone(), "--json".into()], 0),
        (vec!["compare".into(), a.clone(), b], 1),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = mirrorfs().args(&arguments).stdout(writer).output().unwrap();
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(code), String::new()),
            "{arguments:?}"
        );
    }
}
