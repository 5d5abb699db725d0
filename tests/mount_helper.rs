//! mount.mirrorfs as mount(8) calls it, with an empty mirror. Each test that goes through mount(8)
//! runs in a mount namespace of its own, in which /sbin holds our helper and nothing else.
//! Needs root, /dev/fuse and fuse3.

#[path = "common/mount.rs"]
mod stage;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use stage::{Stage, fails, program, succeeds};

#[test]
fn exit_codes_are_those_of_mount() {
    let stage = Stage::new();
    for (words, code, what) in [
        (&["a:b"][..], 1, "Usage"),
        (&["a:b", "m", "-q"], 1, "-q"),
        (&["a", "m"], 1, "two legs"),
        (&["a:b", "m", "-o", "ro,frobnicate=3"], 1, "\"frobnicate\""),
        (&["a:b", "missing"], 32, "No such file"),
        (&["a:none", "m"], 32, "leg B"),
        (&["a:a", "m"], 32, "same directory"),
        (&["a:b", "a"], 32, "below the mount point"),
    ] {
        let said = fails(&mut stage.helper(words), code);
        assert!(said.contains(what) && said.starts_with("mount.mirrorfs: "), "{words:?}: {said}");
        assert_eq!(stage.mounted().len(), 0);
    }
}

#[test]
fn fake_mounts_nothing_and_verbose_says_what() {
    let stage = Stage::new();
    let output = stage.helper(&["a:b", "m", "-fv", "-o", "noatime"]).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(stage.path("m").to_str().unwrap()), "{said}");
    assert_eq!(stage.mounted().len(), 0);
    assert!(!stage.path("a/owner").exists());
}

#[test]
fn sloppy_mounts_in_spite_of_unknown_options() {
    let stage = Stage::new();
    succeeds(&mut stage.helper(&["a:b", "m", "-s", "-o", "frobnicate,nodev"]));
    assert!(stage.mounted()[0].contains(" rw,nodev,"), "{:?}", stage.mounted());
}

#[test]
fn a_dead_mount_is_replaced() {
    let stage = Stage::new();
    succeeds(&mut stage.helper(&["a:b", "m"]));
    stage.crash();
    succeeds(&mut stage.helper(&["a:b", "m"]));
    assert_eq!(stage.mounted().len(), 1);
}

#[test]
fn fstab_mounts_remounts_and_unmounts() {
    let stage = Stage::new();
    fstab(&stage, b"a", "defaults,nofail,chunk=4M,nodev,x-systemd.automount,_netdev,comment=c");
    let said = namespace(
        &stage,
        "mount -T fstab \"$PWD/m\"; show
         mount -a -T fstab; show
         mount -T fstab -o remount,ro,noexec \"$PWD/m\"; show
         mount -o remount,rw \"$PWD/m\"; show
         umount \"$PWD/m\"; show",
    );
    let options: Vec<&str> = said.lines().map(|line| line.split(' ').nth(5).unwrap_or("none")).collect();
    let noexec = "ro,nodev,noexec,relatime";
    assert_eq!(
        options,
        ["rw,nodev,relatime", "rw,nodev,relatime", noexec, "rw,nodev,noexec,relatime", "none"],
        "{said}"
    );
    stage.ends_cleanly();
}

#[test]
fn paths_of_any_bytes_work_from_fstab() {
    for name in [&b"a b"[..], b"a,b", b"a:b", b"a\\b", b"\xff\xfe", b"a#b", b"a\"b"] {
        let stage = Stage::new();
        std::fs::create_dir(stage.path(OsStr::from_bytes(name))).unwrap();
        fstab(&stage, name, "defaults");
        namespace(
            &stage,
            "mount -T fstab \"$PWD/m\"; mount -a -T fstab; [ \"$(show | wc -l)\" = 1 ]; umount \"$PWD/m\"",
        );
        let owner = stage.path(OsStr::from_bytes(name)).join("owner");
        assert!(owner.exists(), "{}", String::from_utf8_lossy(name));
    }
}

#[test]
fn ordinary_users_mount_with_fusermount() {
    let stage = Stage::new();
    for name in ["", "a", "b", "m"] {
        std::os::unix::fs::chown(stage.path(name), Some(65534), Some(65534)).unwrap();
    }
    let said = namespace(
        &stage,
        "mkdir dev; mount -t tmpfs none dev; mknod -m 666 dev/fuse c 10 229; mount --bind dev/fuse /dev/fuse
         user() { setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }
         user sbin/mirrorfs mount a b m -o ro; show
         user sbin/mirrorfs status m | head -n 2
         user fusermount3 -u m
         user sbin/mirrorfs mount a b m
         kill -9 \"$(cat a/owner)\"
         user sbin/mirrorfs mount a b m; show
         user fusermount3 -u m",
    );
    assert!(said.contains("ro,nosuid,nodev,relatime") && said.contains("user_id=65534"), "{said}");
    assert!(said.contains(" state: clean"), "{said}");
    let mounts = said.lines().filter(|line| line.contains("fuse.mirrorfs")).count();
    assert_eq!(mounts, 2, "one before, one in place of the dead one: {said}");
}

/// Writes an fstab whose first leg is `name`.
fn fstab(stage: &Stage, name: &[u8], options: &str) {
    let leg = stage.path(OsStr::from_bytes(name));
    let mut spec = Vec::new();
    for &byte in leg.as_os_str().as_bytes() {
        match byte {
            b':' => spec.extend(b"\\134:"),
            b'\\' => spec.extend(b"\\134\\134"),
            b' ' => spec.extend(b"\\040"),
            b'#' => spec.extend(b"\\043"),
            other => spec.push(other),
        }
    }
    let mut line = spec;
    line.extend(b":");
    line.extend(stage.path("b").as_os_str().as_bytes());
    line.extend(format!(" {} mirrorfs {options} 0 0\n", stage.path("m").display()).bytes());
    std::fs::write(stage.path("fstab"), line).unwrap();
}

/// Runs a shell script in the stage's directory and a mount namespace of its own, where `show`
/// prints what is mounted on `m`. Returns its output; it must succeed.
fn namespace(stage: &Stage, script: &str) -> String {
    let sbin = stage.path("sbin");
    std::fs::create_dir(&sbin).unwrap();
    for (name, words) in [("mount.mirrorfs", "helper"), ("mount.fuse.mirrorfs", "helper"), ("mirrorfs", "")] {
        let file = sbin.join(name);
        std::fs::write(&file, format!("#!/bin/sh\nexec {} {words} \"$@\"\n", program().display())).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let whole = format!(
        "set -eu
         mount --bind sbin /usr/sbin
         show() {{ grep -a \" $PWD/m \" /proc/self/mountinfo || echo; }}
         trap 'umount -l \"$PWD/m\" 2>/dev/null || true' EXIT
         {script}"
    );
    succeeds(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &whole])
            .current_dir(stage.path("")),
    )
}
