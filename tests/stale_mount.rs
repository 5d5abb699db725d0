//! A dead mount, left behind by a killed daemon, is found and replaced; a live one is not touched;
//! what lies below a mount point stays where it is.
//!
//! Needs root and /dev/fuse.

mod common;

use std::fs;
use std::process::Command;

use common::mirror::said;
use common::{Scratch, can_mount, mounted, mounts, process, wait_for};

#[test]
fn mount_replaces_a_dead_mount() {
    let Some(test) = mounted("stale") else { return };
    fs::write(test.mnt.join("file"), "x").expect("write");
    test.kill();
    let dead = fs::read(test.mnt.join("file")).expect_err("the daemon is gone");
    assert!(matches!(dead.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{dead}");
    test.mount();
    assert_eq!(fs::read_to_string(test.mnt.join("file")).expect("read"), "x");
    let mounts_there = mounts::all().into_iter().filter(|mount| mount.at == test.mnt).count();
    assert_eq!(mounts_there, 1, "the dead mount is gone, not covered");
    test.umount_and_compare();
}

#[test]
fn the_mount_helper_replaces_a_dead_mount() {
    let Some(test) = mounted("stalehelper") else { return };
    test.kill();
    let spec = format!("{}:{}", test.a.display(), test.b.display());
    let helper = env!("CARGO_BIN_EXE_mount-mirrorfs");
    let output = process::run(Command::new(helper).arg(&spec).arg(&test.mnt).args(["-o", "rw,noatime"]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(test.is_mounted());
    test.wait_until_resynced();
    test.umount_and_compare();
}

#[test]
fn a_live_mount_is_not_replaced() {
    let Some(test) = mounted("live") else { return };
    let pid = test.pid();
    let output = process::run(&mut test.mount_command());
    assert!(!output.status.success() && said(&output).contains("already"), "{}", said(&output));
    let mut elsewhere = (*test).clone();
    elsewhere.mnt = test.scratch().dir("elsewhere");
    let output = process::run(&mut elsewhere.mount_command());
    assert!(!output.status.success(), "a second daemon on the same legs");
    assert!(said(&output).contains(&pid.to_string()), "it names who has them: {}", said(&output));
    assert!(!elsewhere.is_mounted());
    assert_eq!(test.pid(), pid, "the first goes on");
    fs::write(test.mnt.join("file"), "still here").expect("write");
    test.umount_and_compare();
}

#[test]
fn unmounting_takes_nothing_away_from_underneath() {
    let Some(test) = mounted("underneath") else { return };
    test.umount();
    process::must(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&test.mnt));
    fs::write(test.mnt.join("below"), "x").expect("write");
    test.mount();
    assert!(!test.mnt.join("below").exists(), "the mirror lies above");
    test.umount();
    assert!(mounts::at(&test.mnt).is_some_and(|mount| mount.fstype == "tmpfs"), "the tmpfs is still there");
    assert!(test.mnt.join("below").exists());
    test.assert_equal();
}

#[test]
fn a_lazy_unmount_ends_when_the_last_user_goes() {
    let Some(test) = mounted("lazy") else { return };
    let pid = test.pid();
    let file = fs::File::create(test.mnt.join("file")).expect("create");
    process::must(Command::new("umount").arg("-l").arg(&test.mnt));
    std::os::unix::fs::FileExt::write_all_at(&file, b"after", 0).expect("the open file still works");
    drop(file);
    wait_for("the daemon to end", || process::is_gone(pid));
    test.assert_equal();
    assert_eq!(fs::read_to_string(test.b.join("file")).expect("read"), "after");
}

#[test]
fn sigterm_unmounts_cleanly() {
    let Some(test) = mounted("sigterm") else { return };
    fs::write(test.mnt.join("file"), "x").expect("write");
    let pid = test.pid();
    process::signal(pid, rustix::process::Signal::TERM);
    wait_for("the daemon to end", || process::is_gone(pid));
    assert!(!test.is_mounted(), "it takes its mount away");
    test.assert_equal();
    test.mount();
    assert_eq!(test.status()["resync"]["active"], false, "it was a clean shutdown");
    test.umount_and_compare();
}

/// It prints how: kill the daemon, run it again.
#[test]
fn scripts_try_runs_again_over_the_mount_of_a_killed_daemon() {
    use std::os::unix::fs::PermissionsExt;
    if !can_mount() {
        return;
    }
    let scratch = Scratch::new("try");
    // Stands in for cargo: the program has been built.
    let tools = scratch.dir("tools");
    fs::write(tools.join("cargo"), "#!/bin/sh\n").expect("write");
    fs::set_permissions(tools.join("cargo"), fs::Permissions::from_mode(0o755)).expect("chmod");
    std::os::unix::fs::symlink(common::mirror::program(), scratch.dir("release").join("mirrorfs"))
        .expect("link");
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("PATH"));
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/try");
    let run = || {
        let mut command = Command::new(&script);
        command.args(["a leg", "b", "mount point"]).current_dir(scratch.path());
        process::must(command.env("PATH", &path).env("CARGO_TARGET_DIR", scratch.path()))
    };
    let said = run();
    assert!(said.contains("a\\ leg"), "what is printed can be typed: {said}");
    let mnt = scratch.join("mount point");
    let kill = said.split("kill -9 ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it says how");
    process::kill_hard(kill.parse().expect("a process id"));
    // What the kernel has in its cache it lists and tells as before.
    assert!(fs::File::create(mnt.join("new")).is_err(), "dead");
    run();
    assert!(mnt.join("README.md").exists());
    process::must(Command::new("umount").arg(&mnt));
}
