//! The life of a mount, with an empty mirror: mounting, refusing, dying, replacing, ending.
//! Needs root, /dev/fuse and fuse3.

#[path = "common/mount.rs"]
mod stage;

use std::process::{Child, Command, Stdio};

use stage::{Stage, fails, succeeds, until};

#[test]
fn exit_code_zero_means_mounted() {
    let stage = Stage::new();
    stage.mount();
    let [line] = &stage.mounted()[..] else { panic!("{:?}", stage.mounted()) };
    let source = format!("fuse.mirrorfs {}:{} ", stage.path("a").display(), stage.path("b").display());
    assert!(line.contains(&source), "{line}");
    assert!(line.contains("default_permissions,allow_other"), "{line}");
    assert_eq!(std::fs::read_dir(stage.path("m")).unwrap().count(), 0);
    succeeds(Command::new("umount").arg(stage.path("m")));
    stage.ends_cleanly();
    assert_eq!(stage.mounted().len(), 0);
}

#[test]
fn a_missing_leg_shows_in_the_source_and_both_missing_is_refused() {
    let stage = Stage::new();
    succeeds(&mut stage.mirrorfs(&["mount", "a", "missing", "m"]));
    let source = format!(" {}:missing ", stage.path("a").display());
    assert!(stage.mounted()[0].contains(&source), "{:?}", stage.mounted());
    let said = fails(&mut stage.mirrorfs(&["mount", "a", "missing", "m"]), 6);
    assert!(said.contains("already mounted"), "{said}");
    succeeds(Command::new("umount").arg(stage.path("m")));
    stage.ends_cleanly();
    let said = fails(&mut stage.mirrorfs(&["mount", "missing", "missing", "m"]), 3);
    assert!(said.contains("both legs are missing") && said.contains("./missing"), "{said}");
    std::fs::create_dir(stage.path("missing")).unwrap();
    succeeds(&mut stage.mirrorfs(&["mount", "a", "./missing", "m"]));
    let source = format!(":{} ", stage.path("missing").display());
    assert!(stage.mounted()[0].contains(&source), "{:?}", stage.mounted());
}

#[test]
fn the_event_program_hears_of_the_last_event_and_a_bad_one_is_refused() {
    let stage = Stage::new();
    let script = stage.path("tell");
    std::fs::write(&script, "#!/bin/sh\nsleep 0.3\nprintf '%s|' \"$@\" >\"${0%/*}/heard\"\n").unwrap();
    let options = format!("log=log,on_event={}", script.display());
    let said = fails(&mut stage.mirrorfs(&["mount", "a", "b", "m", "-o", &options]), 3);
    assert!(said.contains(&format!("cannot run on_event={}", script.display())), "{said}");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    succeeds(&mut stage.mirrorfs(&["mount", "a", "b", "m", "-o", &options]));
    succeeds(Command::new("umount").arg(stage.path("m")));
    let expected = format!("RebuildFinished|{}|B|the end|", stage.path("m").display());
    until("the program has heard", || {
        std::fs::read_to_string(stage.path("heard")).is_ok_and(|heard| heard == expected)
    });
    assert_eq!(stage.log().matches("RebuildFinished").count(), 1, "{}", stage.log());
    let said = fails(&mut stage.mirrorfs(&["mount", "a", "b", "m", "-o", "on_event=tell"]), 2);
    assert!(said.contains("not an absolute path"), "{said}");
}

#[test]
fn unmounting_takes_nothing_from_underneath() {
    let stage = Stage::new();
    succeeds(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(stage.path("m")));
    stage.mount();
    succeeds(Command::new("umount").arg(stage.path("m")));
    stage.ends_cleanly();
    assert_eq!(stage.mounted().len(), 1);
}

#[test]
fn errors_of_the_daemon_reach_the_shell() {
    let stage = Stage::new();
    std::fs::create_dir(stage.path("a/owner")).unwrap();
    let said = fails(&mut stage.mirrorfs(&["mount", "a", "b", "m"]), 3);
    assert!(said.contains("cannot open leg A") && said.contains("Is a directory"), "{said}");
    assert_eq!(stage.mounted().len(), 0);
}

#[test]
fn a_live_mount_is_refused_and_stays() {
    let stage = Stage::new();
    stage.mount();
    let said = fails(&mut stage.mirrorfs(&["mount", "a", "b", "m"]), 6);
    assert!(said.contains("already mounted"), "{said}");
    std::fs::create_dir(stage.path("m2")).unwrap();
    let said = fails(&mut stage.mirrorfs(&["mount", "a", "b", "m2"]), 6);
    assert!(said.contains(&format!("in use by process {}", stage.daemon())), "{said}");
    assert_eq!(stage.mounted().len(), 1);
    succeeds(&mut stage.mirrorfs(&["status", "m"]));
}

#[test]
fn dead_mounts_are_replaced_however_many() {
    let stage = Stage::new();
    succeeds(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(stage.path("m")));
    for _ in 0..2 {
        stage.mount();
        // Hidden under the next one, a mount is not taken for dead while it is set up.
        stage.crash();
    }
    assert_eq!(stage.mounted().len(), 2, "the tmpfs and one dead mirror: {:?}", stage.mounted());
    stage.mount();
    assert_eq!(stage.mounted().len(), 2, "{:?}", stage.mounted());
    assert!(stage.log().contains("took away 1 dead"), "{}", stage.log());
    succeeds(&mut stage.mirrorfs(&["status", "m"]));
}

#[test]
fn a_dead_mount_stays_when_the_new_one_is_refused() {
    let stage = Stage::new();
    stage.mount();
    stage.crash();
    std::fs::remove_file(stage.path("a/owner")).unwrap();
    std::fs::create_dir(stage.path("a/owner")).unwrap();
    fails(&mut stage.mirrorfs(&["mount", "a", "b", "m"]), 3);
    assert_eq!(stage.mounted().len(), 1);
}

#[test]
fn a_mount_right_after_umount_waits_for_the_daemon() {
    let stage = Stage::new();
    succeeds(stage.mirrorfs(&["mount", "a", "b", "m"]).env("LINGER_MS", "1000"));
    let first = stage.daemon();
    succeeds(Command::new("umount").arg(stage.path("m")));
    let output = stage.mirrorfs(&["mount", "a", "b", "m"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("waiting for process {first}")), "{said}");
    assert!(stage.path("a/clean").exists());
    assert_ne!(stage.daemon(), first);
}

#[test]
fn a_signal_ends_cleanly_also_while_in_use() {
    for signal in [1, 2, 15] {
        for in_use in [false, true] {
            let stage = Stage::new();
            stage.mount();
            let user = in_use.then(|| User::of(&stage));
            stage.signal_daemon(signal);
            stage.ends_cleanly();
            assert_eq!(stage.mounted().len(), 0, "signal {signal}");
            assert_eq!(stage.log().contains("cutting off"), user.is_some(), "{}", stage.log());
        }
    }
}

#[test]
fn the_foreground_lasts_as_long_as_the_mount() {
    let stage = Stage::new();
    let mut daemon = stage.mirrorfs(&["mount", "a", "b", "m", "-f"]).stderr(Stdio::piped()).spawn().unwrap();
    until("it is mounted", || stage.mounted().len() == 1);
    until("it answers", || stage.mirrorfs(&["status", "m"]).output().unwrap().status.success());
    assert_eq!(stage.daemon(), daemon.id() as i32);
    assert!(daemon.try_wait().unwrap().is_none());
    succeeds(Command::new("umount").arg(stage.path("m")));
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn status_tells_live_dead_hung_and_absent_apart() {
    let stage = Stage::new();
    let said = fails(&mut stage.mirrorfs(&["status", "m"]), 4);
    assert!(said.contains("no mirror is mounted"), "{said}");
    stage.mount();
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(&mut stage.mirrorfs(&["status", "m", "--json"]))).unwrap();
    assert_eq!(json["pid"], stage.daemon());
    assert_eq!(json["mountpoint"], stage.path("m").to_str().unwrap());
    assert_eq!(json["legs"][1]["path"], stage.path("b").to_str().unwrap());
    stage.signal_daemon(19);
    let said = fails(&mut stage.mirrorfs(&["status", "m"]), 5);
    let refused = fails(&mut stage.mirrorfs(&["mount", "a", "b", "m"]), 6);
    stage.signal_daemon(18);
    assert!(said.contains("does not answer"), "{said}");
    assert!(refused.contains("already mounted"), "{refused}");
    stage.crash();
    let said = fails(&mut stage.mirrorfs(&["status", "m"]), 5);
    assert!(said.contains("is dead") && said.contains("Mounting it again"), "{said}");
}

#[test]
fn verbs_reach_the_daemon_with_leg_and_path() {
    let stage = Stage::new();
    let said = fails(&mut stage.mirrorfs(&["fail", "m", "B"]), 4);
    assert!(said.contains("no mirror is mounted"), "{said}");
    stage.mount();
    for words in [&["fail", "m", "C"][..], &["fail", "m"], &["re-add", "m"]] {
        fails(&mut stage.mirrorfs(words), 2);
    }
    let said = succeeds(&mut stage.mirrorfs(&["fail", "m", "B"]));
    assert!(said.contains(&format!("mirrorfs re-add {} B", stage.path("m").display())), "{said}");
    let said = succeeds(&mut stage.mirrorfs(&["status", "m"]));
    assert!(said.contains(" state: degraded") && said.contains("Leg B is out of service"), "{said}");
    let name = std::os::unix::ffi::OsStrExt::from_bytes(b"b \xff");
    succeeds(stage.mirrorfs(&["re-add", "m", "b"]).arg::<&std::ffi::OsStr>(name));
    let asked = std::fs::read(stage.path("a/asked")).unwrap();
    assert_eq!(asked, stage.path(name).into_os_string().into_encoded_bytes());
}

#[test]
fn waiting_ends_with_a_code_for_each_end() {
    let stage = Stage::new();
    fails(&mut stage.mirrorfs(&["wait", "m"]), 4);
    stage.mount();
    assert_eq!(succeeds(&mut stage.mirrorfs(&["wait", "m"])), "");
    succeeds(&mut stage.mirrorfs(&["fail", "m", "A"]));
    let said = fails(&mut stage.mirrorfs(&["wait", "m"]), 9);
    assert!(said.contains("is degraded: Leg A is out of service") && said.contains("re-add"), "{said}");

    std::fs::write(stage.path("a/copying"), "").unwrap();
    succeeds(&mut stage.mirrorfs(&["re-add", "m", "A"]));
    let said = fails(&mut stage.mirrorfs(&["wait", "m", "--timeout", "0"]), 12);
    assert!(said.contains("the time is over"), "{said}");
    std::fs::remove_file(stage.path("a/seen")).unwrap();
    let mut waiting = stage.mirrorfs(&["wait", "m"]).spawn().unwrap();
    until("it has asked", || std::fs::remove_file(stage.path("a/seen")).is_ok());
    assert!(waiting.try_wait().unwrap().is_none());
    std::fs::remove_file(stage.path("a/copying")).unwrap();
    assert!(waiting.wait().unwrap().success());

    for end in ["umount", "crash"] {
        std::fs::write(stage.path("a/copying"), "").unwrap();
        succeeds(&mut stage.mirrorfs(&["re-add", "m", "A"]));
        let waiting = stage.mirrorfs(&["wait", "m"]).stderr(Stdio::piped()).spawn().unwrap();
        until("it has asked", || std::fs::remove_file(stage.path("a/seen")).is_ok());
        match end {
            "umount" => {
                succeeds(Command::new("umount").arg(stage.path("m")));
                stage.ends_cleanly();
            }
            _ => stage.crash(),
        }
        let output = waiting.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(11), "{end}: {said}");
        assert!(said.contains("is gone"), "{said}");
        if end == "umount" {
            stage.mount();
        }
    }
}

#[test]
fn only_the_owner_and_root_may_ask() {
    let stage = Stage::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(stage.path(""), open).unwrap();
    stage.mount();
    let copy = stage.path("program");
    std::fs::copy(stage::program(), &copy).unwrap();
    let mut ask = Command::new("setpriv");
    ask.args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .arg("status")
        .arg(stage.path("m"));
    let said = fails(&mut ask, 3);
    assert!(said.contains("only root and the mount's owner"), "{said}");
}

/// A program with its working directory in the mount.
struct User(Child);

impl User {
    fn of(stage: &Stage) -> User {
        User(Command::new("sleep").arg("60").current_dir(stage.path("m")).spawn().unwrap())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
