//! Making, linking, renaming and removing names.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;

use crate::common::mounted;

#[test]
fn every_kind_of_object_is_made_on_both_legs() {
    let Some(test) = mounted("kinds") else { return };
    let device = rustix::fs::makedev(1, 3);
    let kinds = [
        ("file", FileType::RegularFile, 0),
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("char", FileType::CharacterDevice, device),
        ("block", FileType::BlockDevice, device),
    ];
    for (name, kind, device) in kinds {
        mknodat(CWD, test.mnt.join(name), kind, Mode::from_raw_mode(0o640), device).expect(name);
        for path in test.everywhere(name) {
            let meta = fs::symlink_metadata(&path).expect(name);
            assert_eq!(FileType::from_raw_mode(meta.mode()), kind, "{path:?}");
            assert_eq!(meta.rdev(), device, "{path:?}");
            assert_eq!(meta.mode() & 0o7777, 0o640, "{path:?}");
        }
    }
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    symlink("../no such/target", test.mnt.join("symlink")).expect("symlink");
    for [dir, link] in test.on_legs("dir").into_iter().zip(test.on_legs("symlink")).map(|(d, l)| [d, l]) {
        assert!(dir.is_dir());
        assert_eq!(fs::read_link(link).expect("readlink").as_os_str(), "../no such/target");
    }
    test.umount_and_compare();
}

#[test]
fn special_files_work_through_the_mount() {
    let Some(test) = mounted("special") else { return };
    let fifo = test.mnt.join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("mkfifo");
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, "through the pipe")
    });
    assert_eq!(fs::read_to_string(&fifo).expect("reading a fifo"), "through the pipe");
    writer.join().expect("the writer").expect("writing to a fifo");

    let socket = test.mnt.join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    assert!(fs::symlink_metadata(test.a.join("socket")).expect("on leg A").file_type().is_socket());
    let mut client = std::os::unix::net::UnixStream::connect(&socket).expect("connect");
    client.write_all(b"hello").expect("write to the socket");
    drop(client);
    let mut heard = String::new();
    listener.accept().expect("accept").0.read_to_string(&mut heard).expect("read from the socket");
    assert_eq!(heard, "hello");
    drop(listener);
    test.umount_and_compare();
}

#[test]
fn names_of_255_bytes_and_of_any_bytes_are_kept() {
    let Some(test) = mounted("bytes") else { return };
    let longest = "n".repeat(255);
    let odd = OsStr::from_bytes(b"\xff\xfe \n\t\\ not UTF-8 \x80");
    for name in [OsStr::new(&longest), odd, OsStr::new("..."), OsStr::new(" ")] {
        fs::write(test.mnt.join(name), name.as_bytes()).expect("create");
        for leg in [&test.a, &test.b] {
            assert_eq!(fs::read(leg.join(name)).expect("on the leg"), name.as_bytes());
        }
        assert!(
            fs::read_dir(&test.mnt).expect("list").any(|entry| entry.expect("entry").file_name() == name)
        );
    }
    let too_long = fs::write(test.mnt.join("n".repeat(256)), "").expect_err("256 bytes are too long");
    assert_eq!(too_long.raw_os_error(), Some(libc::ENAMETOOLONG));
    test.umount_and_compare();
}

#[test]
fn rename_replaces_and_keeps_the_source_inode() {
    let Some(test) = mounted("rename") else { return };
    let at = |name: &str| test.mnt.join(name);
    fs::write(at("from"), "new").expect("write");
    fs::write(at("to"), "old").expect("write");
    let ino = fs::metadata(at("from")).expect("stat").ino();
    fs::rename(at("from"), at("to")).expect("rename");
    assert_eq!(fs::metadata(at("to")).expect("stat").ino(), ino);
    for path in test.everywhere("to") {
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
    }
    for path in test.everywhere("from") {
        assert!(!path.exists(), "{path:?}");
    }
    fs::create_dir_all(at("dir/below")).expect("mkdir");
    fs::write(at("dir/below/file"), "x").expect("write");
    fs::create_dir(at("other")).expect("mkdir");
    fs::rename(at("dir"), at("other")).expect("a directory replaces an empty one");
    for path in test.everywhere("other/below/file") {
        assert!(path.exists(), "{path:?}");
    }
    let full = fs::rename(at("to"), at("other")).expect_err("a file does not replace a directory");
    assert_eq!(full.raw_os_error(), Some(libc::EISDIR));
    let into_itself =
        fs::rename(at("other"), at("other/below/x")).expect_err("no directory goes into itself");
    assert_eq!(into_itself.raw_os_error(), Some(libc::EINVAL));
    test.umount_and_compare();
}

#[test]
fn rename_noreplace_and_exchange() {
    let Some(test) = mounted("renameat2") else { return };
    let at = |name: &str| test.mnt.join(name);
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, at(from), CWD, at(to), flags);
    fs::write(at("file"), "a file").expect("write");
    fs::create_dir_all(at("dir/inside")).expect("mkdir");
    assert_eq!(rename("file", "dir", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("file", "moved", RenameFlags::NOREPLACE).expect("nothing in the way");
    rename("moved", "dir", RenameFlags::EXCHANGE).expect("exchange of a file and a directory");
    for [file, inside] in
        test.everywhere("dir").into_iter().zip(test.everywhere("moved/inside")).map(|(f, i)| [f, i])
    {
        assert_eq!(fs::read_to_string(&file).expect("now a file"), "a file");
        assert!(inside.is_dir(), "{inside:?}");
    }
    assert_eq!(rename("moved", "missing", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    test.umount_and_compare();
}

#[test]
fn hard_links_are_one_inode_on_both_legs() {
    let Some(test) = mounted("links") else { return };
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    fs::write(test.mnt.join("one"), "first").expect("write");
    fs::hard_link(test.mnt.join("one"), test.mnt.join("dir/two")).expect("link");
    symlink("one", test.mnt.join("symlink")).expect("symlink");
    fs::hard_link(test.mnt.join("symlink"), test.mnt.join("symlink2")).expect("a link to a symlink");
    fs::write(test.mnt.join("dir/two"), "second").expect("write");
    for [one, two] in
        test.everywhere("one").into_iter().zip(test.everywhere("dir/two")).map(|(one, two)| [one, two])
    {
        assert_eq!(fs::read_to_string(&one).expect("read"), "second");
        let [one, two] = [one, two].map(|path| fs::metadata(path).expect("stat"));
        assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    }
    fs::remove_file(test.mnt.join("one")).expect("unlink");
    assert_eq!(fs::metadata(test.mnt.join("dir/two")).expect("stat").nlink(), 1);
    test.umount_and_compare();
}

#[test]
fn unlinked_files_live_as_long_as_they_are_open() {
    let Some(test) = mounted("orphans") else { return };
    let path = test.mnt.join("file");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("create");
    file.write_all(b"before").expect("write");
    fs::remove_file(&path).expect("unlink");
    for path in test.everywhere("file") {
        assert!(!path.exists(), "{path:?}");
    }
    file.write_all(b" and after").expect("write to a file without a name");
    file.set_len(12).expect("truncate a file without a name");
    file.sync_all().expect("fsync of a file without a name");
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("fchmod without a name");
    file.rewind().expect("seek");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before and a");
    assert_eq!(file.metadata().expect("fstat").nlink(), 0);
    // The name is free for another object, which is another object.
    fs::write(&path, "another").expect("create again");
    file.rewind().expect("seek");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before and a");
    drop(file);
    test.umount_and_compare();
}

#[test]
fn a_replaced_open_file_keeps_its_data() {
    let Some(test) = mounted("replaced") else { return };
    fs::write(test.mnt.join("file"), "old").expect("write");
    let mut old = OpenOptions::new().read(true).write(true).open(test.mnt.join("file")).expect("open");
    fs::write(test.mnt.join("new"), "new").expect("write");
    fs::rename(test.mnt.join("new"), test.mnt.join("file")).expect("rename over an open file");
    old.write_all(b"OLD").expect("write to the replaced file");
    for path in test.everywhere("file") {
        assert_eq!(fs::read_to_string(path).expect("read"), "new");
    }
    drop(old);
    test.umount_and_compare();
}

#[test]
fn open_flags_exclusive_truncate_and_no_follow() {
    let Some(test) = mounted("openflags") else { return };
    let path = test.mnt.join("file");
    OpenOptions::new().write(true).create_new(true).mode(0o604).open(&path).expect("O_EXCL on a new name");
    let taken = OpenOptions::new().write(true).create_new(true).open(&path).expect_err("the name is taken");
    assert_eq!(taken.raw_os_error(), Some(libc::EEXIST));
    fs::write(&path, "some data").expect("write");
    File::create(&path).expect("O_TRUNC");
    for path in test.everywhere("file") {
        let meta = fs::metadata(&path).expect("stat");
        assert_eq!((meta.len(), meta.mode() & 0o777), (0, 0o604), "{path:?}");
    }
    symlink("file", test.mnt.join("link")).expect("symlink");
    let link = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(test.mnt.join("link"));
    assert_eq!(link.expect_err("O_NOFOLLOW").raw_os_error(), Some(libc::ELOOP));
    let not_dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&path);
    assert_eq!(not_dir.expect_err("O_DIRECTORY").raw_os_error(), Some(libc::ENOTDIR));
    test.umount_and_compare();
}

#[test]
fn inode_numbers_stay_the_same_across_remounts() {
    let Some(test) = mounted("inos") else { return };
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    fs::write(test.mnt.join("dir/file"), "x").expect("write");
    let numbers =
        || ["", "dir", "dir/file"].map(|path| fs::metadata(test.mnt.join(path)).expect("stat").ino());
    let before = numbers();
    test.umount();
    test.mount();
    assert_eq!(numbers(), before);
    test.umount_and_compare();
}

#[test]
fn the_state_directory_is_not_shown_and_not_reachable() {
    let Some(test) = mounted("hidden") else { return };
    assert!(test.a.join(".mirrorfs").is_dir(), "the leg has it");
    let names: Vec<_> =
        fs::read_dir(&test.mnt).expect("list").flatten().map(|entry| entry.file_name()).collect();
    assert!(names.is_empty(), "{names:?}");
    assert!(!test.mnt.join(".mirrorfs").exists());
    let errors = [
        fs::create_dir(test.mnt.join(".mirrorfs")).err(),
        fs::write(test.mnt.join(".mirrorfs"), "").err(),
        fs::read(test.mnt.join(".mirrorfs/superblock")).err(),
    ];
    assert!(errors.iter().all(Option::is_some), "{errors:?}");
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    fs::create_dir(test.mnt.join("dir/.mirrorfs")).expect("the name means nothing but at the root");
    test.umount_and_compare();
}
