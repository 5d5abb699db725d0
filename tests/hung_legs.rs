//! A leg that stops answering: it is left behind after `leg_timeout`, nobody is kept waiting, and what it does
//! late harms nothing.
//!
//! No outcome depends on how fast the machine is: where something has to happen while a leg hangs, the time
//! is so long that it never ends; where the time has to end, it is waited for.
//!
//! Needs root, /dev/fuse, sshfs and openssh-sftp-server.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use common::bad_leg::can_misbehave;
use common::mirror::{mirrorfs, said};
use common::process::{self, is_gone, must};
use common::sshfs::can_sshfs;
use common::{BadLeg, Filesystem, Sshfs, TestMirror, assert_equal, can_mount, wait_for};

/// The leg that hangs, as the harness and as the command line call it, and its place in the status.
#[derive(Clone, Copy)]
struct Hung {
    lower: &'static str,
    upper: &'static str,
    place: usize,
}

const A: Hung = Hung { lower: "a", upper: "A", place: 0 };
const B: Hung = Hung { lower: "b", upper: "B", place: 1 };

/// For which nobody waits.
const FOR_EVER: &str = "1h";
/// That is waited for. Long enough for a busy machine to answer within it.
const SHORT: &str = "4s";

/// A mirror, mounted, with a bad leg in one place. The leg is dropped last, when nobody waits for it.
fn on_bad_leg(name: &str, hung: Hung, timeout: &str, options: &str) -> (TestMirror, BadLeg) {
    let mut test = unmounted(name, timeout, options);
    let leg = BadLeg::before(&mut test, hung.lower);
    assert!(test.create(&[]).status.success());
    test.mount();
    (test, leg)
}

fn unmounted(name: &str, timeout: &str, options: &str) -> TestMirror {
    let mut test = TestMirror::unmounted(name, Filesystem::Plain, "");
    let log = test.scratch().join("log");
    test.mirror_mut().options = format!("log={},leg_timeout={timeout}{options}", log.display());
    test
}

fn leg_state(test: &TestMirror, hung: Hung) -> String {
    test.status()["legs"][hung.place]["state"].as_str().expect("a state").to_owned()
}

fn timed_out(leg: &serde_json::Value) -> bool {
    leg["errno"].as_str().is_some_and(|errno| errno.starts_with("Connection timed out"))
}

/// Makes a file, writes it, syncs it and closes it.
fn write_synced(path: &Path, byte: u8) -> std::io::Result<()> {
    let file = File::options().write(true).create(true).truncate(true).open(path)?;
    file.write_all_at(&[byte; 10_000], 0)?;
    file.sync_all()
}

/// Programs that write files of their own.
fn writers(test: &TestMirror, names: &[&str]) -> Vec<(PathBuf, JoinHandle<std::io::Result<()>>)> {
    let start = |(number, name): (usize, &&str)| {
        let path = test.mnt.join(name);
        let written = path.clone();
        (path, std::thread::spawn(move || write_synced(&written, number as u8)))
    };
    names.iter().enumerate().map(start).collect()
}

/// Each has been told that all is well, and it is.
fn have_written(writers: Vec<(PathBuf, JoinHandle<std::io::Result<()>>)>) {
    for (number, (path, writer)) in writers.into_iter().enumerate() {
        writer.join().expect("no panic").unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(fs::read(&path).expect("read"), vec![number as u8; 10_000], "{}", path.display());
    }
}

fn re_add(test: &TestMirror, hung: Hung) -> Output {
    process::run(mirrorfs().arg("re-add").arg(&test.mnt).arg(hung.upper))
}

/// Takes the leg back as soon as that is possible, and has it made equal.
fn take_back(test: &TestMirror, hung: Hung) {
    wait_for("the leg to be taken back", || re_add(test, hung).status.success());
    wait_until_in_sync(test, hung);
}

fn wait_until_in_sync(test: &TestMirror, hung: Hung) {
    wait_for("the leg to be in sync", || {
        let state = leg_state(test, hung);
        assert_ne!(state, "faulted", "{}", log(test));
        state == "in_sync"
    });
}

fn log(test: &TestMirror) -> String {
    fs::read_to_string(test.scratch().join("log")).unwrap_or_default()
}

/// What the good leg and the one behind the bad leg hold.
fn assert_legs_equal(test: &TestMirror, hung: Hung, beneath: &Path) {
    let good = if hung.place == 0 { &test.b } else { &test.a };
    assert_equal(good, beneath);
}

/// One operation hangs on one leg; the whole story of it.
fn left_behind_and_back(name: &str, ops: &str, hung: Hung) {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg(name, hung, SHORT, "");
    write_synced(&test.mnt.join("before"), 7).expect("both legs answer");
    leg.hang(ops);
    let writers = writers(&test, &["one", "two", "before"]);
    leg.wait_until_hanging(1);
    have_written(writers);
    wait_for("the leg to be left behind", || leg_state(&test, hung) == "faulted");
    let status = test.status();
    let of_leg = &status["legs"][hung.place];
    assert!(timed_out(of_leg), "{status}");

    // Nothing waits for it any more.
    write_synced(&test.mnt.join("after"), 9).expect("the other leg");
    fs::rename(test.mnt.join("after"), test.mnt.join("renamed")).expect("the other leg");
    assert_eq!(fs::read(test.mnt.join("renamed")).expect("read"), vec![9; 10_000]);

    // What hangs could change it yet.
    let refused = re_add(&test, hung);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("still under way"), "{}", said(&refused));

    // It does late what it was asked.
    leg.release();
    take_back(&test, hung);
    test.umount();
    assert_legs_equal(&test, hung, leg.beneath());
}

macro_rules! left_behind_and_back {
    ($($name:ident: $ops:literal $hung:ident;)*) => {
        $(#[test]
        fn $name() {
            left_behind_and_back(stringify!($name), $ops, $hung);
        })*
    };
}

left_behind_and_back! {
    a_write_that_hangs_on_a: "write" A;
    a_write_that_hangs_on_b: "write" B;
    an_fsync_that_hangs_on_a: "fsync" A;
    an_fsync_that_hangs_on_b: "fsync" B;
    a_lookup_that_hangs_on_a: "lookup" A;
    a_lookup_that_hangs_on_b: "lookup" B;
    a_create_or_open_that_hangs_on_a: "create,open" A;
    a_create_or_open_that_hangs_on_b: "create,open" B;
    everything_that_hangs_on_a: "all" A;
    everything_that_hangs_on_b: "all" B;
}

#[test]
fn while_requests_wait_for_a_leg_all_others_are_answered_and_so_is_status() {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg("meanwhile", B, FOR_EVER, "");
    let names: Vec<String> = (0..20).map(|number| format!("file{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        write_synced(&test.mnt.join(name), 1).expect("both legs answer");
    }
    leg.on("write").within("file").hang();
    let writers = writers(&test, &names);
    leg.wait_until_hanging(names.len() as u64);
    // Each is a question to the daemon: no such name is known to the kernel.
    for number in 0..200 {
        assert!(!test.mnt.join(format!("nothing{number}")).exists());
    }
    assert_eq!(fs::read_dir(&test.mnt).expect("a listing").count(), names.len());
    // Nor does a change that nothing hangs in wait.
    fs::create_dir(test.mnt.join("directory")).expect("both legs answer");
    assert_eq!(leg_state(&test, B), "in_sync");
    assert!(writers.iter().all(|(_, writer)| !writer.is_finished()));
    leg.release();
    have_written(writers);
    assert_eq!(leg_state(&test, B), "in_sync", "it was slow, and nobody has given it up");
    test.umount();
    assert_legs_equal(&test, B, leg.beneath());
}

#[test]
fn many_that_wait_are_all_let_go_and_leave_nothing_behind_them() {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg("many", B, SHORT, "");
    let names: Vec<String> = (0..100).map(|number| format!("file{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        fs::write(test.mnt.join(name), "x").expect("both legs answer");
    }
    leg.hang("all");
    // More than there are event loops.
    have_written(writers(&test, &names));
    have_written(writers(&test, &names));
    assert_eq!(leg_state(&test, B), "faulted");
    leg.release();
    take_back(&test, B);
    test.umount();
    assert_legs_equal(&test, B, leg.beneath());
}

#[test]
fn the_last_leg_is_waited_for() {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg("last", A, SHORT, "");
    must(mirrorfs().arg("fail").arg(&test.mnt).arg("B"));
    leg.hang("write");
    let writers = writers(&test, &["one", "two"]);
    wait_for("the mirror to say that it waits", || log(&test).contains("cannot do without it"));
    assert!(writers.iter().all(|(_, writer)| !writer.is_finished()));
    assert_eq!(leg_state(&test, A), "in_sync");
    leg.release();
    have_written(writers);
    take_back(&test, B);
    test.umount();
    assert_legs_equal(&test, A, leg.beneath());
}

#[test]
fn a_target_that_hangs_during_its_recovery_is_left_behind_again() {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg("target", B, SHORT, "");
    must(mirrorfs().arg("fail").arg(&test.mnt).arg("B"));
    for number in 0..20 {
        write_synced(&test.mnt.join(format!("file{number}")), number).expect("leg A");
    }
    leg.on("write").within("incoming").after(3).hang();
    wait_for("the leg to be taken back", || re_add(&test, B).status.success());
    wait_for("it to be left behind again", || leg_state(&test, B) == "faulted");
    assert!(timed_out(&test.status()["legs"][1]));
    write_synced(&test.mnt.join("file3"), 99).expect("leg A");
    leg.release();
    take_back(&test, B);
    test.umount();
    assert_legs_equal(&test, B, leg.beneath());
}

#[test]
fn a_source_that_hangs_during_a_recovery_is_waited_for() {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg("source", A, SHORT, "");
    must(mirrorfs().arg("fail").arg(&test.mnt).arg("B"));
    for number in 0..20 {
        write_synced(&test.mnt.join(format!("file{number}")), number).expect("leg A");
    }
    leg.on("read,open").within("file").after(3).hang();
    wait_for("the leg to be taken back", || re_add(&test, B).status.success());
    leg.wait_until_hanging(1);
    wait_for("the mirror to say that it waits", || log(&test).contains("cannot do without it"));
    assert_eq!((leg_state(&test, A).as_str(), leg_state(&test, B).as_str()), ("in_sync", "recovering"));
    leg.release();
    wait_until_in_sync(&test, B);
    for number in 0..20 {
        let read = fs::read(test.mnt.join(format!("file{number}"))).expect("read");
        assert_eq!(read, vec![number; 10_000]);
    }
    test.umount();
    assert_legs_equal(&test, A, leg.beneath());
}

#[test]
fn an_unmount_ends_while_a_leg_hangs_and_the_other_can_be_mounted_at_once() {
    if !can_misbehave() {
        return;
    }
    for hung in [A, B] {
        let (test, leg) = on_bad_leg("unmount", hung, SHORT, "");
        write_synced(&test.mnt.join("file"), 1).expect("both legs answer");
        let pid = test.pid();
        leg.hang("all");
        must(Command::new("umount").arg(&test.mnt));
        wait_for("the daemon to say that it is done", || log(&test).contains("both legs are closed"));
        // The lock on the good leg is free although that process cannot end: it is in a call to the other.
        let mut alone = mirrorfs();
        alone.arg("mount");
        let (a, b): (&Path, &Path) =
            if hung.place == 0 { (Path::new("missing"), &test.b) } else { (&test.a, Path::new("missing")) };
        must(alone.args([a, b, &test.mnt]));
        write_synced(&test.mnt.join("file"), 2).expect("one leg");
        test.umount();
        leg.release();
        wait_for("the first daemon to end", || is_gone(pid));
        test.mount();
        wait_until_in_sync(&test, hung);
        assert_eq!(fs::read(test.mnt.join("file")).expect("read"), vec![2; 10_000]);
        test.umount();
        assert_legs_equal(&test, hung, leg.beneath());
    }
}

#[test]
fn a_mount_on_a_leg_that_hangs_is_refused_in_time_and_says_so() {
    if !can_misbehave() {
        return;
    }
    for hung in [A, B] {
        let (test, leg) = on_bad_leg("mount", hung, SHORT, "");
        test.umount();
        leg.hang("all");
        let output = process::run(&mut test.mount_command());
        assert!(!output.status.success() && !test.is_mounted());
        let (words, said) =
            (format!("leg {} at {} does not answer", hung.upper, leg.path().display()), said(&output));
        assert!(said.contains(&words) && said.contains("missing"), "{said}");
        leg.release();
        test.mount();
        test.umount();
    }
}

#[test]
fn what_hung_and_answers_again_is_taken_back_by_itself_when_that_is_wished() {
    if !can_misbehave() {
        return;
    }
    let (test, leg) = on_bad_leg("by-itself", B, SHORT, ",auto_readd=yes");
    leg.hang("all");
    have_written(writers(&test, &["one", "two"]));
    wait_for("the leg to be left behind", || leg_state(&test, B) == "faulted");
    leg.release();
    wait_for("the leg to be in sync", || leg_state(&test, B) == "in_sync");
    test.umount();
    assert_legs_equal(&test, B, leg.beneath());
}

#[test]
fn what_was_asked_of_a_leg_that_is_taken_away_has_ended() {
    if !can_misbehave() {
        return;
    }
    let (test, mut leg) = on_bad_leg("taken-away", B, SHORT, "");
    leg.hang("all");
    have_written(writers(&test, &["one", "two"]));
    wait_for("the leg to be left behind", || leg_state(&test, B) == "faulted");
    leg.replug();
    take_back(&test, B);
    test.umount();
    assert_legs_equal(&test, B, leg.beneath());
}

#[test]
fn a_leg_on_sshfs_whose_server_is_stopped_is_left_behind_and_comes_back() {
    if !can_sshfs() {
        return;
    }
    for hung in [A, B] {
        let mut test = unmounted("sshfs", SHORT, "");
        let leg = Sshfs::before(&mut test, hung.lower, "");
        assert!(test.create(&[]).status.success());
        test.mount();
        let names = ["one", "two", "three"];
        for name in names {
            write_synced(&test.mnt.join(name), 7).expect("both legs answer");
        }
        leg.stop();
        have_written(writers(&test, &names));
        wait_for("the leg to be left behind", || leg_state(&test, hung) == "faulted");
        let refused = re_add(&test, hung);
        assert!(said(&refused).contains("still under way"), "{}", said(&refused));
        // Its late answers come now.
        leg.carry_on();
        take_back(&test, hung);
        test.umount();
        for (number, name) in names.iter().enumerate() {
            let read = fs::read(leg.beneath().join(name)).expect("read");
            assert_eq!(read, vec![number as u8; 10_000], "{name} on leg {}", hung.upper);
        }
    }
}

/// A filesystem that takes no changes until it is thawed: writers wait in the kernel, as for a disk that does not
/// answer, and cannot be called back.
struct Frozen<'a>(&'a Path);

impl Frozen<'_> {
    fn freeze(at: &Path) -> Frozen<'_> {
        must(Command::new("fsfreeze").arg("-f").arg(at));
        Frozen(at)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        process::run(Command::new("fsfreeze").arg("-u").arg(self.0));
    }
}

#[test]
fn a_disk_that_hangs_keeps_those_who_are_in_a_call_to_it_and_nobody_else() {
    if !can_mount() {
        return;
    }
    let mut test = TestMirror::unmounted("disk", Filesystem::Ext4, "");
    let log = test.scratch().join("log");
    test.mirror_mut().options = format!("log={},leg_timeout={SHORT}", log.display());
    assert!(test.create(&[]).status.success());
    test.mount();
    let names: Vec<String> = (0..12).map(|number| format!("file{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        fs::write(test.mnt.join(name), "before").expect("both legs answer");
    }
    test.wait_until_clean();
    let frozen = Frozen::freeze(&test.b);
    let writers = writers(&test, &names);
    // It answers probes, as a disk does that is only slow: so it is given longer.
    wait_for("the leg to be left behind", || leg_state(&test, B) == "faulted");
    for number in 0..20 {
        write_synced(&test.mnt.join(format!("new{number}")), 5).expect("the other leg");
    }
    assert_eq!(fs::read_dir(&test.mnt).expect("a listing").count(), 32);
    let refused = re_add(&test, B);
    assert!(said(&refused).contains("still under way"), "{}", said(&refused));
    drop(frozen);
    have_written(writers);
    take_back(&test, B);
    test.umount_and_compare();
}

/// A mirror of two sound legs, mounted, and a new disk for it that may hang.
fn beside_a_new_disk(name: &str, timeout: &str) -> (TestMirror, BadLeg) {
    let test = unmounted(name, timeout, "");
    let new = BadLeg::start(&test.scratch().dir("new"), &test.scratch().join("fuse-new"));
    assert!(test.create(&[]).status.success());
    test.mount();
    write_synced(&test.mnt.join("file"), 7).expect("both legs answer");
    (test, new)
}

fn replace(test: &TestMirror, leg: Hung, new: &BadLeg) -> Output {
    process::run(mirrorfs().arg("replace").arg(&test.mnt).arg(leg.upper).arg(new.path()))
}

/// Fills it as soon as that is possible; from then on the test knows the mirror by it.
fn replace_at_last(test: &mut TestMirror, leg: Hung, new: &BadLeg) {
    wait_for("the new disk to be taken", || replace(test, leg, new).status.success());
    must(mirrorfs().arg("wait").arg(&test.mnt));
    let mirror = test.mirror_mut();
    *(if leg.place == 0 { &mut mirror.a } else { &mut mirror.b }) = new.path().to_owned();
    test.umount_and_compare();
}

/// It is no leg yet: the mirror goes on with both. But what it does late must not land in what is copied to it later.
#[test]
fn a_new_disk_that_hangs_is_given_up_and_not_filled_again_before_it_answers() {
    if !can_misbehave() {
        return;
    }
    for leg in [A, B] {
        let (mut test, new) = beside_a_new_disk("new-disk", SHORT);
        new.on("write").within("incoming").hang();
        let begun = replace(&test, leg, &new);
        assert!(begun.status.success(), "{}", said(&begun));
        new.wait_until_hanging(1);
        write_synced(&test.mnt.join("meanwhile"), 8).expect("both legs answer");
        wait_for("it to be given up", || {
            let status = test.status();
            assert!(
                status["legs"].as_array().expect("two").iter().all(|leg| leg["state"] == "in_sync"),
                "{status}"
            );
            let failed = &status["legs"][leg.place]["replacement"]["failed"];
            failed.as_str().is_some_and(|why| why.contains("timed out"))
        });
        let again = replace(&test, leg, &new);
        assert!(!again.status.success());
        assert!(said(&again).contains("still in use by this mount"), "{}", said(&again));
        new.release();
        replace_at_last(&mut test, leg, &new);
    }
}

#[test]
fn an_unmount_ends_while_a_new_disk_hangs_which_is_kept_until_it_answers() {
    if !can_misbehave() {
        return;
    }
    let (mut test, new) = beside_a_new_disk("new-disk-unmounted", SHORT);
    new.on("write").within("incoming").hang();
    assert!(replace(&test, B, &new).status.success());
    new.wait_until_hanging(1);
    let pid = test.pid();
    must(Command::new("umount").arg(&test.mnt));
    wait_for("the daemon to say that it is done", || log(&test).contains("both legs are closed"));
    // Both legs are what they were, and there to be mounted, although that process cannot end.
    test.mount();
    assert!(!is_gone(pid));
    let again = replace(&test, B, &new);
    assert!(said(&again).contains("is in use by process"), "{}", said(&again));
    new.release();
    wait_for("the first daemon to end", || is_gone(pid));
    replace_at_last(&mut test, B, &new);
}
