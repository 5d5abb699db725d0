//! Who may do what, and what a change takes away: suid, sgid, sticky, umask.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::common::process::{NOBODY, shell, shell_as_nobody};
use crate::common::{TestMirror, mounted};

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod");
}

fn expect_mode(test: &TestMirror, name: &str, mode: u32) {
    for path in test.everywhere(name) {
        let seen = fs::symlink_metadata(&path).expect("stat").mode() & 0o7777;
        assert_eq!(format!("{seen:o}"), format!("{mode:o}"), "{path:?}");
    }
}

/// A file that everybody may write, with suid and sgid.
fn privileged_file(test: &TestMirror, name: &str) {
    fs::write(test.mnt.join(name), "some data").expect("write");
    fs::set_permissions(test.mnt.join(name), fs::Permissions::from_mode(0o6777)).expect("chmod");
}

#[test]
fn a_write_by_an_ordinary_user_drops_suid_and_sgid() {
    let Some(test) = mounted("killpriv") else { return };
    privileged_file(&test, "written");
    assert!(shell_as_nobody(&test.mnt, "echo x >> written").status.success());
    expect_mode(&test, "written", 0o777);
    test.umount_and_compare();
}

#[test]
fn a_truncation_by_an_ordinary_user_drops_suid_and_sgid() {
    let Some(test) = mounted("killprivtrunc") else { return };
    privileged_file(&test, "truncated");
    assert!(shell_as_nobody(&test.mnt, "truncate -s 3 truncated").status.success());
    expect_mode(&test, "truncated", 0o777);
    privileged_file(&test, "opened");
    assert!(shell_as_nobody(&test.mnt, ": > opened").status.success());
    expect_mode(&test, "opened", 0o777);
    test.umount_and_compare();
}

#[test]
fn a_write_by_root_keeps_suid_and_sgid() {
    let Some(test) = mounted("keeppriv") else { return };
    privileged_file(&test, "file");
    shell(&test.mnt, "echo x >> file");
    expect_mode(&test, "file", 0o6777);
    test.umount_and_compare();
}

#[test]
fn a_change_of_owner_drops_suid_and_sgid() {
    let Some(test) = mounted("chownpriv") else { return };
    privileged_file(&test, "file");
    chown(test.mnt.join("file"), Some(1234), Some(1234)).expect("chown");
    expect_mode(&test, "file", 0o777);
    test.umount_and_compare();
}

#[test]
fn a_write_drops_file_capabilities() {
    let Some(test) = mounted("capability") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, "x").expect("write");
    open_to_all(&path);
    // VFS_CAP_REVISION_2 with CAP_NET_RAW permitted and effective.
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "security.capability";
    rustix::fs::setxattr(&path, name, &value, rustix::fs::XattrFlags::empty()).expect("setcap");
    assert!(shell_as_nobody(&test.mnt, "echo x >> file").status.success());
    for path in test.everywhere("file") {
        let left = rustix::fs::getxattr(&path, name, &mut [0; 64][..]);
        assert_eq!(left, Err(rustix::io::Errno::NODATA), "{path:?}");
    }
    test.umount_and_compare();
}

#[test]
fn files_belong_to_their_creator_on_both_legs() {
    let Some(test) = mounted("creator") else { return };
    open_to_all(&test.mnt);
    let script = "echo x > file; mkdir dir; ln -s file link; mkfifo fifo; ln file hard";
    assert!(shell_as_nobody(&test.mnt, script).status.success());
    for name in ["file", "dir", "link", "fifo", "hard"] {
        for path in test.everywhere(name) {
            let meta = fs::symlink_metadata(&path).expect("stat");
            assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{path:?}");
        }
    }
    test.umount_and_compare();
}

#[test]
fn permissions_keep_others_out() {
    let Some(test) = mounted("denied") else { return };
    fs::create_dir(test.mnt.join("closed")).expect("mkdir");
    fs::write(test.mnt.join("closed/file"), "x").expect("write");
    fs::set_permissions(test.mnt.join("closed"), fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::write(test.mnt.join("file"), "x").expect("write");
    for script in [
        "cat closed/file",
        "echo x >> file",
        "rm -f file",
        "chmod 777 file",
        "touch new",
        "mv file elsewhere",
    ] {
        assert!(!shell_as_nobody(&test.mnt, script).status.success(), "nobody may: {script}");
    }
    assert!(shell_as_nobody(&test.mnt, "cat file").status.success());
    test.umount_and_compare();
}

#[test]
fn umask_takes_bits_away_from_what_is_made() {
    let Some(test) = mounted("umask") else { return };
    shell(&test.mnt, "umask 027; touch file; mkdir dir; mkfifo fifo; umask 000; touch open; mkdir opendir");
    for (name, mode) in
        [("file", 0o640), ("dir", 0o750), ("fifo", 0o640), ("open", 0o666), ("opendir", 0o777)]
    {
        expect_mode(&test, name, mode);
    }
    test.umount_and_compare();
}

#[test]
fn sgid_directories_pass_on_their_group() {
    let Some(test) = mounted("sgid") else { return };
    let dir = test.mnt.join("dir");
    fs::create_dir(&dir).expect("mkdir");
    chown(&dir, None, Some(4321)).expect("chown");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).expect("chmod");
    assert!(shell_as_nobody(&test.mnt, "umask 022; touch dir/file; mkdir dir/sub").status.success());
    for path in test.everywhere("dir/file").iter().chain(&test.everywhere("dir/sub")) {
        let meta = fs::metadata(path).expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, 4321), "{path:?}");
    }
    expect_mode(&test, "dir/sub", 0o2755);
    test.umount_and_compare();
}

#[test]
fn sticky_directories_protect_what_others_own() {
    let Some(test) = mounted("sticky") else { return };
    let dir = test.mnt.join("dir");
    fs::create_dir(&dir).expect("mkdir");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).expect("chmod");
    File::create(dir.join("roots")).expect("create");
    assert!(!shell_as_nobody(&dir, "rm -f roots").status.success(), "it belongs to root");
    assert!(!shell_as_nobody(&dir, "mv roots mine").status.success(), "it belongs to root");
    assert!(shell_as_nobody(&dir, "touch mine; mv mine own; rm own").status.success());
    test.umount_and_compare();
}
