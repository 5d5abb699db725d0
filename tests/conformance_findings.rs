//! What comparing a mirror with the bare filesystem of its legs has found: one test for each
//! difference that was a mistake of the mirror.
//!
//! Needs root and /dev/fuse; some need xfsprogs and acl.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use common::mirror::mirrorfs;
use common::process::{self, NOBODY, must, shell, shell_as_nobody};
use common::{Filesystem, TestMirror, can_mount, has_program, mounted};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// A group that nobody is in.
const TEAM: u32 = 4444;

#[test]
fn a_removed_directory_that_is_in_use_is_empty_and_not_stale() {
    let Some(test) = mounted("removedcwd") else { return };
    // `stat` without following a path: the shell's current directory has none any more.
    let said = shell(&test.mnt, "mkdir dir; cd dir; rmdir ../dir; ls -A .; stat -c '%F %h' .");
    assert_eq!(said, "directory 0\n");
    test.umount_and_compare();
}

#[test]
fn trusted_attributes_are_listed_for_root_only() {
    let Some(test) = mounted("trustedlist") else { return };
    if !has_program("getfattr") {
        return;
    }
    shell(&test.mnt, "echo x >file; setfattr -n trusted.hidden -v 1 file; setfattr -n user.shown -v 1 file");
    let list = "getfattr --absolute-names -m - file";
    let to_root = shell(&test.mnt, list);
    assert!(to_root.contains("trusted.hidden") && to_root.contains("user.shown"), "{to_root}");
    let to_nobody = String::from_utf8(shell_as_nobody(&test.mnt, list).stdout).expect("names are text");
    assert!(!to_nobody.contains("trusted") && to_nobody.contains("user.shown"), "{to_nobody}");
    test.umount_and_compare();
}

/// Mode of `name` after its owner, in `groups` besides the own one, has given it an ACL.
fn mode_after_an_acl_by_its_owner(test: &TestMirror, name: &str, groups: &[&str]) -> u32 {
    let path = test.mnt.join(name);
    fs::write(&path, "x").expect("write");
    chown(&path, Some(NOBODY), Some(TEAM)).expect("chown");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o2775)).expect("chmod");
    let groups =
        if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={}", groups.join(",")) };
    let user = format!("{NOBODY}");
    must(
        Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &user, &groups])
            .args(["setfacl", "-m", "u:1234:rx"])
            .arg(&path),
    );
    let [seen, a, b] = test.everywhere(name).map(|path| fs::metadata(path).expect("stat").mode() & 0o7777);
    assert_eq!((a, b), (seen, seen), "the legs and what the mount shows");
    seen
}

#[test]
fn a_new_acl_by_an_owner_outside_the_group_drops_sgid() {
    let Some(test) = mounted("aclsgid") else { return };
    if !(has_program("setfacl") && has_program("setpriv")) {
        return;
    }
    assert_eq!(mode_after_an_acl_by_its_owner(&test, "outside", &[]), 0o775);
    assert_eq!(mode_after_an_acl_by_its_owner(&test, "member", &["4444"]), 0o2775);
    assert_eq!(mode_after_an_acl_by_its_owner(&test, "elsewhere", &["7", "8"]), 0o775);
    test.umount_and_compare();
}

/// A mirror of an ext4 and an xfs, `first` being leg A.
fn of_two_kinds(name: &str, first: Filesystem) -> Option<TestMirror> {
    if !(can_mount() && has_program("mkfs.xfs") && has_program("setfacl")) {
        return None;
    }
    let test = TestMirror::unmounted(name, Filesystem::Plain, "");
    let kinds = if first == Filesystem::Xfs { [first, Filesystem::Ext4] } else { [first, Filesystem::Xfs] };
    for (leg, kind) in [&test.a, &test.b].into_iter().zip(kinds) {
        kind.make(leg, &leg.with_extension("img"), 320);
        let _ = fs::remove_dir(leg.join("lost+found"));
    }
    let output = test.create(&[]);
    assert!(output.status.success(), "cannot create: {}", common::mirror::said(&output));
    test.mount();
    Some(test)
}

#[test]
fn an_acl_on_xfs_and_ext4_is_one_acl() {
    for first in [Filesystem::Xfs, Filesystem::Ext4] {
        let Some(test) = of_two_kinds("aclxfs", first) else { return };
        shell(&test.mnt, "mkdir dir; setfacl -m u:1234:rwx,d:u:1234:rx dir; echo x >dir/file");
        let list = shell(&test.mnt, "getfattr --absolute-names -R -m - dir");
        assert!(list.contains("posix_acl_default") && !list.contains("SGI_ACL"), "{list}");
        for name in ["trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"] {
            let path = test.mnt.join("dir");
            let set = rustix::fs::setxattr(&path, name, b"junk", XattrFlags::empty());
            assert_eq!(set, Err(Errno::OPNOTSUPP), "{name}");
            assert_eq!(rustix::fs::getxattr(&path, name, &mut [0; 64][..]), Err(Errno::NODATA), "{name}");
            assert_eq!(rustix::fs::removexattr(&path, name), Err(Errno::NODATA), "{name}");
        }
        test.umount();
        // The program's own comparison: the one that users trust.
        let compared = process::run(mirrorfs().arg("compare").args([&test.a, &test.b]));
        assert!(compared.status.success(), "{}", common::mirror::said(&compared));
    }
}

#[test]
fn emptying_an_empty_file_is_a_modification() {
    for kind in [Filesystem::Ext4, Filesystem::Xfs] {
        if !(can_mount() && has_program("mkfs.xfs")) {
            return;
        }
        let test = TestMirror::on("stamp", kind, "");
        shell(&test.mnt, ": >stamp; touch -d 2001-02-03 stamp; : >stamp");
        let seen = fs::metadata(test.mnt.join("stamp")).expect("stat").mtime();
        assert!(seen > 1_600_000_000, "{kind:?}: the time of the last O_TRUNC, not {seen}");
        test.umount_and_compare();
    }
}
