//! Mode, owner, times and extended attributes.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, utimensat};
use rustix::io::Errno;

use crate::common::{has_program, mounted, process};

/// Length, mode, owner, and both times of what is at `path`.
fn attributes(path: &Path) -> (u32, u32, u32, (i64, i64), (i64, i64)) {
    let meta = fs::symlink_metadata(path).expect("stat");
    let [atime, mtime] = [(meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())];
    (meta.mode(), meta.uid(), meta.gid(), atime, mtime)
}

#[test]
fn mode_and_owner_are_set_on_both_legs() {
    let Some(test) = mounted("owner") else { return };
    let path = test.mnt.join("file");
    let file = File::create(&path).expect("create");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).expect("chmod");
    file.set_permissions(fs::Permissions::from_mode(0o1640)).expect("fchmod");
    chown(&path, Some(1234), None).expect("chown of the user");
    std::os::unix::fs::fchown(&file, None, Some(4321)).expect("fchown of the group");
    symlink("file", test.mnt.join("link")).expect("symlink");
    lchown(test.mnt.join("link"), Some(77), Some(88)).expect("lchown");
    for [file, link] in
        test.everywhere("file").into_iter().zip(test.everywhere("link")).map(|(file, link)| [file, link])
    {
        let (mode, uid, gid, ..) = attributes(&file);
        assert_eq!((mode & 0o7777, uid, gid), (0o1640, 1234, 4321), "{file:?}");
        let (_, uid, gid, ..) = attributes(&link);
        assert_eq!((uid, gid), (77, 88), "{link:?}");
    }
    drop(file);
    test.umount_and_compare();
}

#[test]
fn truncating_by_name_and_by_handle() {
    let Some(test) = mounted("truncate") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, vec![1; 10_000]).expect("write");
    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(7_000).expect("ftruncate");
    rustix::fs::ftruncate(&file, 20_000_000).expect("a longer file");
    process::shell(&test.mnt, "truncate -s 6500000 file");
    for path in test.everywhere("file") {
        let data = fs::read(&path).expect("read");
        assert_eq!(data.len(), 6_500_000, "{path:?}");
        assert!(data[..7000].iter().all(|&byte| byte == 1) && data[7000..].iter().all(|&byte| byte == 0));
    }
    let dir = File::open(&test.mnt).expect("open");
    assert_eq!(rustix::fs::ftruncate(&dir, 0), Err(Errno::INVAL));
    drop(file);
    drop(dir);
    test.umount_and_compare();
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_1970() {
    let Some(test) = mounted("times") else { return };
    symlink("nowhere", test.mnt.join("link")).expect("symlink");
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    File::create(test.mnt.join("file")).expect("create");
    let times = [
        ((1_000_000_000, 123_456_789), (2_000_000_000, 1)),
        ((-1, 999_999_999), (-86_400 * 365, 5)),
        ((0, 0), (-1, 0)),
    ];
    for name in ["file", "dir", "link"] {
        for (atime, mtime) in times {
            let spec = |(secs, nanos)| Timespec { tv_sec: secs, tv_nsec: nanos };
            let both = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
            utimensat(CWD, test.mnt.join(name), &both, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
            for path in test.everywhere(name) {
                let (.., seen_atime, seen_mtime) = attributes(&path);
                assert_eq!((seen_atime, seen_mtime), (atime, mtime), "{path:?}");
            }
        }
    }
    test.umount_and_compare();
}

#[test]
fn utime_now_and_utime_omit() {
    let Some(test) = mounted("utimenow") else { return };
    let path = test.mnt.join("file");
    let file = File::create(&path).expect("create");
    let old = SystemTime::UNIX_EPOCH + Duration::new(1000, 7);
    file.set_times(fs::FileTimes::new().set_accessed(old).set_modified(old)).expect("futimens");
    let special = |nanos| Timespec { tv_sec: 0, tv_nsec: nanos };
    let omit = Timestamps { last_access: special(UTIME_OMIT), last_modification: special(UTIME_NOW) };
    utimensat(CWD, &path, &omit, AtFlags::empty()).expect("utimensat");
    for path in test.everywhere("file") {
        let (.., atime, mtime) = attributes(&path);
        assert_eq!(atime, (1000, 7), "{path:?}");
        assert!(mtime.0 > 1_600_000_000, "{path:?}");
    }
    drop(file);
    test.umount_and_compare();
}

#[test]
fn a_write_gives_the_file_one_time_on_both_legs_after_unmount() {
    let Some(test) = mounted("settled") else { return };
    let path = test.mnt.join("file");
    fs::write(&path, "x").expect("write");
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    File::create(test.mnt.join("dir/new")).expect("create");
    let seen = ["file", "dir"].map(|name| attributes(&test.mnt.join(name)));
    test.umount_and_compare();
    for leg in [&test.a, &test.b] {
        let settled = ["file", "dir"].map(|name| attributes(&leg.join(name)).4);
        assert_eq!(settled, seen.map(|attributes| attributes.4), "the time the user saw stays");
    }
}

#[test]
fn extended_attributes_are_set_listed_and_removed() {
    let Some(test) = mounted("xattrs") else { return };
    let path = test.mnt.join("file");
    File::create(&path).expect("create");
    let value = vec![0xa5; 2000];
    rustix::fs::setxattr(&path, "user.large", &value, XattrFlags::CREATE).expect("a new one");
    rustix::fs::setxattr(&path, "user.empty", b"", XattrFlags::empty()).expect("an empty one");
    rustix::fs::setxattr(&path, "trusted.root", b"only", XattrFlags::empty()).expect("trusted");
    let again = rustix::fs::setxattr(&path, "user.large", b"", XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    let none = rustix::fs::setxattr(&path, "user.none", b"", XattrFlags::REPLACE);
    assert_eq!(none, Err(Errno::NODATA));
    let mut buffer = [0; 4096];
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut buffer[..10]), Err(Errno::RANGE));
    for path in test.everywhere("file") {
        let len = rustix::fs::getxattr(&path, "user.large", &mut buffer[..]).expect("getxattr");
        assert_eq!(&buffer[..len], &value, "{path:?}");
        let len = rustix::fs::listxattr(&path, &mut buffer[..]).expect("listxattr");
        let list: Vec<&[u8]> = buffer[..len].split(|&byte| byte == 0).collect();
        for name in ["user.large", "user.empty", "trusted.root"] {
            assert!(list.contains(&name.as_bytes()), "{path:?} lacks {name}");
        }
    }
    rustix::fs::removexattr(&path, "user.large").expect("removexattr");
    assert_eq!(rustix::fs::removexattr(&path, "user.large"), Err(Errno::NODATA));
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut buffer[..]), Err(Errno::NODATA));
    test.umount_and_compare();
}

#[test]
fn acls_and_default_acls_are_inherited_on_both_legs() {
    let Some(test) = mounted("acls") else { return };
    if !has_program("setfacl") {
        return;
    }
    process::shell(
        &test.mnt,
        "mkdir dir
        setfacl -m u:1234:rwx,g:99:r-- dir
        setfacl -d -m u:1234:rw-,g::r-x,o::--- dir
        umask 077; touch dir/file; mkdir dir/sub; mkfifo dir/fifo",
    );
    let acls = |root: &Path| process::shell(root, "getfacl -n dir dir/file dir/sub dir/fifo");
    let shown = acls(&test.mnt);
    assert!(shown.contains("default:user:1234:rw-") && shown.contains("user:1234:rwx"), "{shown}");
    let file = process::shell(&test.mnt, "getfacl -n dir/file");
    assert!(file.contains("user:1234:rw-"), "a default ACL overrides the umask: {file}");
    for leg in [&test.a, &test.b] {
        assert_eq!(acls(leg), shown);
    }
    let denied = process::shell_as_nobody(&test.mnt, "cat dir/file");
    assert!(!denied.status.success(), "o::--- keeps others out");
    process::shell(&test.mnt, "setfacl -m u:65534:r-x dir; setfacl -m u:65534:r-- dir/file");
    let allowed = process::shell_as_nobody(&test.mnt, "cat dir/file");
    assert!(allowed.status.success(), "the ACL lets them in: {}", String::from_utf8_lossy(&allowed.stderr));
    test.umount_and_compare();
}
