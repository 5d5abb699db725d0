//! Whatever is wrong with the legs or the command line: the error says what, where and what to do,
//! and nothing is changed on either leg (P9). And a leg that fails under a mounted mirror.
//!
//! Needs root and /dev/fuse, xfsprogs for the last.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::mirror::{mirrorfs, program, said};
use common::process::{must, run};
use common::tree::fingerprint;
use common::{Filesystem, TestMirror, can_mount, has_program, mounts};

/// Runs mirrorfs with these arguments; it has to fail, say all of `words` (in any case of letters),
/// and change nothing below the test's scratch place.
fn refused(test: &TestMirror, arguments: &[&dyn AsRef<OsStr>], words: &[&str]) {
    let before = fingerprint(test.scratch().path());
    let output = run(mirrorfs().args(arguments.iter().map(|argument| argument.as_ref())));
    let text = said(&output);
    assert!(
        !output.status.success(),
        "this has to fail: {:?}",
        arguments.iter().map(|one| one.as_ref()).collect::<Vec<_>>()
    );
    assert!(output.status.code().is_some(), "it ends by itself: {text}");
    for word in words {
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "the message lacks {word:?}: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    let after = fingerprint(test.scratch().path());
    // Who looks at a leg takes its lock, which changes nothing that anybody keeps.
    let is_lock = |path: &Path| path.ends_with(".mirrorfs/lock");
    let differs = |(path, line): &(&PathBuf, &String)| !is_lock(path) && before.get(*path) != Some(*line);
    let changed: Vec<_> = after.iter().filter(differs).collect();
    assert!(changed.is_empty(), "a refusal changes nothing, but: {changed:#?}");
    assert_eq!(before.len(), after.len(), "a refusal removes nothing");
    let mounted = || {
        mounts::all()
            .into_iter()
            .find(|mount| mount.at.starts_with(test.scratch().path()) && mount.fstype.starts_with("fuse"))
    };
    assert!(mounted().is_none(), "nothing is mounted after a refusal");
}

fn refused_mount(test: &TestMirror, words: &[&str]) {
    refused(test, &[&"mount", &test.a, &test.b, &test.mnt], words);
}

fn unmounted(name: &str) -> Option<TestMirror> {
    can_mount().then(|| TestMirror::unmounted(name, Filesystem::Plain, ""))
}

/// A mirror with some files in it, cleanly unmounted.
fn used(name: &str) -> Option<TestMirror> {
    let test = common::mounted(name)?;
    fs::create_dir(test.mnt.join("dir")).expect("mkdir");
    fs::write(test.mnt.join("dir/file"), "contents").expect("write");
    test.umount();
    Some(test)
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("scratch paths are plain")
}

#[test]
fn create_refuses_what_cannot_be_a_leg() {
    let Some(test) = unmounted("create") else { return };
    let missing = test.scratch().join("missing");
    refused(&test, &[&"create", &test.a, &missing], &[shown(&missing)]);
    let file = test.scratch().join("file");
    fs::write(&file, "x").expect("write");
    refused(&test, &[&"create", &file, &test.b], &[shown(&file)]);
    refused(&test, &[&"create", &test.a, &test.a], &[shown(&test.a), "same"]);
    fs::create_dir(test.a.join("inside")).expect("mkdir");
    refused(&test, &[&"create", &test.a, &test.a.join("inside")], &["inside"]);
    refused(&test, &[&"create", &test.a.join("inside"), &test.a], &["inside"]);
}

#[test]
fn create_refuses_legs_with_data_unless_told_which_is_the_source() {
    let Some(test) = unmounted("createdata") else { return };
    fs::write(test.a.join("precious"), "data").expect("write");
    refused(&test, &[&"create", &test.a, &test.b], &[shown(&test.a), "--source"]);
    fs::write(test.b.join("precious"), "other data").expect("write");
    refused(&test, &[&"create", &test.a, &test.b, &"--source", &"A"], &[shown(&test.b)]);
}

#[test]
fn create_refuses_the_legs_of_another_mirror() {
    let Some(test) = used("createused") else { return };
    let fresh = test.scratch().dir("fresh");
    refused(&test, &[&"create", &test.a, &fresh], &[shown(&test.a)]);
    refused(&test, &[&"create", &fresh, &test.b], &[shown(&test.b)]);
}

#[test]
fn create_refuses_a_leg_without_space() {
    let Some(test) = unmounted("createfull") else { return };
    let small = test.scratch().join("small");
    Filesystem::Tmpfs.make(&small, &test.scratch().join("unused"), 1);
    let leg = small.join("leg");
    fs::create_dir(&leg).expect("mkdir");
    // The leg is an empty directory of a filesystem that is full.
    let _ = fs::write(small.join("filler"), vec![1; 1 << 20]);
    refused(&test, &[&"create", &test.a, &leg], &[shown(&leg), "space"]);
}

#[test]
fn read_only_legs_are_refused() {
    let Some(test) = used("readonly") else { return };
    let ro = test.scratch().dir("ro");
    must(Command::new("mount").arg("--bind").arg(&test.b).arg(&ro));
    must(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&ro));
    refused(&test, &[&"mount", &test.a, &ro, &test.mnt], &[shown(&ro), "read-only"]);
    let fresh = test.scratch().dir("fresh");
    let ro_fresh = test.scratch().dir("rofresh");
    must(Command::new("mount").arg("--bind").arg(&fresh).arg(&ro_fresh));
    must(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&ro_fresh));
    refused(&test, &[&"create", &test.scratch().dir("other"), &ro_fresh], &[shown(&ro_fresh), "read-only"]);
}

#[test]
fn mount_refuses_a_leg_that_is_missing_empty_or_no_mirror() {
    let Some(test) = used("missing") else { return };
    let missing = test.scratch().join("missing");
    let empty = test.scratch().dir("empty");
    let other = test.scratch().dir("other");
    fs::write(other.join("file"), "somebody's data").expect("write");
    for [a, b, culprit] in [
        [&missing, &test.b, &missing],
        [&test.a, &missing, &missing],
        [&empty, &test.b, &empty],
        [&test.a, &empty, &empty],
        [&other, &test.b, &other],
        [&test.a, &other, &other],
    ] {
        refused(&test, &[&"mount", a, b, &test.mnt], &[shown(culprit)]);
    }
}

#[test]
fn mount_refuses_legs_that_do_not_belong_together() {
    let Some(test) = used("foreign") else { return };
    let [c, d] = ["c", "d"].map(|name| test.scratch().dir(name));
    assert!(run(mirrorfs().arg("create").arg(&c).arg(&d)).status.success());
    refused(&test, &[&"mount", &test.a, &d, &test.mnt], &[shown(&test.a), shown(&d), "mirror"]);
    refused(&test, &[&"mount", &c, &test.b, &test.mnt], &[shown(&c), shown(&test.b), "mirror"]);
    refused(&test, &[&"mount", &test.a, &test.a, &test.mnt], &[shown(&test.a), "same"]);
}

#[test]
fn mount_refuses_a_mount_point_that_is_in_the_way() {
    let Some(test) = used("mountpoint") else { return };
    let missing = test.scratch().join("missing");
    refused(&test, &[&"mount", &test.a, &test.b, &missing], &[shown(&missing)]);
    let inside = test.a.join("dir");
    refused(&test, &[&"mount", &test.a, &test.b, &inside], &[shown(&inside), "leg A"]);
    refused(&test, &[&"mount", &test.a, &test.b, &test.b], &[shown(&test.b), "leg B"]);
    // The legs would lie on the mirror itself.
    let above = test.scratch().path();
    refused(&test, &[&"mount", &test.a, &test.b, &above], &[shown(above)]);
    refused(&test, &[&"mount", &test.a, &test.b, &test.a.join("dir/file")], &["file"]);
}

#[test]
fn mount_names_the_option_it_does_not_know() {
    let Some(test) = used("options") else { return };
    for [option, word] in
        [["nosuchoption", "nosuchoption"], ["chunk=5", "chunk"], ["chunk=3M", "chunk"], ["bitmap=", "bitmap"]]
    {
        refused(&test, &[&"mount", &test.a, &test.b, &test.mnt, &"-o", &option], &[word]);
    }
}

#[test]
fn the_mount_helper_names_the_option_it_does_not_know() {
    let Some(test) = used("helperoptions") else { return };
    let spec = format!("{}:{}", test.a.display(), test.b.display());
    let helper = || Command::new(env!("CARGO_BIN_EXE_mount-mirrorfs"));
    let output = run(helper().arg(&spec).arg(&test.mnt).args(["-o", "rw,nosuchoption"]));
    assert!(!output.status.success() && said(&output).contains("nosuchoption"), "{}", said(&output));
    let output = run(helper().arg("no colon here").arg(&test.mnt));
    assert!(!output.status.success(), "{}", said(&output));
    let words = "defaults,nofail,noauto,user,_netdev,x-systemd.automount,comment=x,noatime,nodev,nosuid";
    let output = run(helper().arg(&spec).arg(&test.mnt).args(["-n", "-v", "-o", words]));
    assert!(output.status.success(), "words of fstab are understood: {}", said(&output));
    let mount = mounts::at(&test.mnt).expect("mounted");
    for word in ["nodev", "nosuid", "noatime"] {
        assert!(mount.options.contains(word), "{word} is set: {}", mount.options);
    }
    test.umount_and_compare();
}

/// Overwrites a part of a file below a leg's state directory.
fn damage(leg: &Path, name: &str, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(leg.join(".mirrorfs").join(name)).expect("state file");
    file.write_all_at(bytes, offset).expect("write");
    file.sync_all().expect("fsync");
}

#[test]
fn one_damaged_superblock_slot_is_repaired() {
    for slot in 0..2 {
        let Some(test) = used("oneslot") else { return };
        damage(&test.a, "superblock", slot * 4096 + 16, &[0xee; 64]);
        test.mount();
        assert_eq!(fs::read_to_string(test.mnt.join("dir/file")).expect("read"), "contents");
        test.umount_and_compare();
        test.mount();
        test.umount_and_compare();
    }
}

#[test]
fn two_damaged_superblock_slots_are_refused_with_the_way_out() {
    for leg in ["a", "b"] {
        let Some(test) = used("twoslots") else { return };
        let path = test.scratch().join(leg);
        damage(&path, "superblock", 16, &[0xee; 64]);
        damage(&path, "superblock", 4096 + 16, &[0xee; 64]);
        refused_mount(&test, &[shown(&path), "superblock"]);
    }
}

#[test]
fn a_newer_format_is_refused_and_named() {
    let Some(test) = used("newer") else { return };
    for slot in 0..2 {
        let path = test.b.join(".mirrorfs/superblock");
        let mut bytes = fs::read(&path).expect("read")[slot * 4096..][..4096].to_vec();
        bytes[8..12].copy_from_slice(&77u32.to_le_bytes());
        bytes[12..16].fill(0);
        let crc = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        damage(&test.b, "superblock", slot as u64 * 4096, &bytes);
    }
    refused_mount(&test, &[shown(&test.b), "version 77"]);
}

#[test]
fn legs_in_the_wrong_order_are_refused() {
    let Some(test) = used("swapped") else { return };
    refused(&test, &[&"mount", &test.b, &test.a, &test.mnt], &["order", shown(&test.a), shown(&test.b)]);
}

#[test]
fn a_leg_on_a_mounted_mirror_is_refused() {
    let Some(test) = common::mounted("nested") else { return };
    let fresh = test.scratch().dir("fresh");
    let nested = test.mnt.join("nested");
    fs::create_dir(&nested).expect("mkdir");
    let output = run(mirrorfs().arg("create").args([&fresh, &nested]));
    assert!(!output.status.success() && said(&output).contains("mirror"), "{}", said(&output));
    assert!(said(&output).contains(shown(&nested)), "{}", said(&output));
    assert_eq!(fs::read_dir(&nested).expect("list").count(), 0, "nothing was made");
    test.umount_and_compare();
}

#[test]
fn a_leg_from_an_old_image_is_made_equal_to_the_other() {
    for [old, new] in [["a", "b"], ["b", "a"]] {
        let Some(test) = used("older") else { return };
        let superblock = test.scratch().join(old).join(".mirrorfs/superblock");
        let before = fs::read(&superblock).expect("read");
        test.mount();
        fs::write(test.mnt.join("dir/file"), "newer").expect("write");
        test.umount();
        File::options().write(true).open(&superblock).expect("open").write_all_at(&before, 0).expect("write");
        fs::write(test.scratch().join(old).join("dir/file"), "older").expect("write");
        test.recover_and_compare();
        let kept = fs::read_to_string(test.scratch().join(new).join("dir/file")).expect("read");
        assert_eq!(kept, "newer", "everything is compared, and the other leg is right");
    }
}

/// A mirror killed while a file is dirty, whose B then has other data than A, as after a crash
/// between the two writes. The bitmap is all that knows.
fn crashed(name: &str) -> Option<TestMirror> {
    let test = common::mounted(name)?;
    fs::write(test.mnt.join("file"), vec![1; 100_000]).expect("write");
    test.umount();
    test.mount();
    fs::write(test.mnt.join("file"), vec![1; 100_000]).expect("write");
    fs::write(test.mnt.join("second"), "x").expect("write");
    test.kill();
    let _ = rustix::mount::unmount(&test.mnt, rustix::mount::UnmountFlags::DETACH);
    File::options()
        .write(true)
        .open(test.b.join("file"))
        .expect("open")
        .write_all_at(b"torn", 5000)
        .expect("write");
    Some(test)
}

#[test]
fn one_damaged_bitmap_is_replaced_by_the_other_copy() {
    for leg in ["a", "b"] {
        for (how, offset, bytes) in [("header", 0, 4096), ("slots", 4096, 8192)] {
            let Some(test) = crashed("onebitmap") else { return };
            damage(&test.scratch().join(leg), "bitmap", offset, &vec![0xee; bytes]);
            println!("damaged on {leg}: {how}");
            test.recover_and_compare();
            assert_eq!(fs::read(test.b.join("file")).expect("read"), vec![1; 100_000]);
        }
    }
}

/// A way to spoil a bitmap file.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn with_both_bitmaps_damaged_everything_is_compared() {
    let both = |test: &TestMirror, break_it: Damage| {
        [&test.a, &test.b].into_iter().for_each(|leg| break_it(&leg.join(".mirrorfs/bitmap")));
    };
    let open = |path: &Path| File::options().write(true).open(path).expect("open");
    let ways: [(&str, Damage); 4] = [
        ("overwritten", &|path| {
            let len = fs::metadata(path).expect("stat").len();
            fs::write(path, vec![0xee; len as usize]).expect("write");
        }),
        ("short", &|path| open(path).set_len(4096 + 100).expect("truncate")),
        ("empty", &|path| open(path).set_len(0).expect("truncate")),
        ("a hole", &|path| {
            let len = fs::metadata(path).expect("stat").len();
            open(path).set_len(0).and_then(|()| open(path).set_len(len)).expect("truncate");
        }),
    ];
    for (name, way) in ways {
        let Some(test) = crashed("bothbitmaps") else { return };
        both(&test, way);
        println!("both bitmaps: {name}");
        test.recover_and_compare();
        assert_eq!(fs::read(test.b.join("file")).expect("read"), vec![1; 100_000], "{name}");
    }
}

#[test]
fn a_bitmap_of_another_mirror_is_not_believed() {
    let Some(test) = crashed("foreignbitmap") else { return };
    let [c, d] = ["c", "d"].map(|name| test.scratch().dir(name));
    assert!(run(mirrorfs().arg("create").arg(&c).arg(&d)).status.success());
    for leg in [&test.a, &test.b] {
        fs::copy(c.join(".mirrorfs/bitmap"), leg.join(".mirrorfs/bitmap")).expect("copy");
    }
    test.recover_and_compare();
    assert_eq!(fs::read(test.b.join("file")).expect("read"), vec![1; 100_000]);
}

#[test]
fn a_bitmap_elsewhere_must_not_lie_where_the_mirror_is() {
    let Some(test) = unmounted("bitmapplace") else { return };
    for place in [test.a.join("bitmap"), test.b.join(".mirrorfs-bitmap")] {
        refused(&test, &[&"create", &test.a, &test.b, &"--bitmap", &place], &["bitmap"]);
    }
    let elsewhere = test.scratch().join("elsewhere.bitmap");
    let output = test.create(&["--bitmap".as_ref(), elsewhere.as_ref()]);
    assert!(output.status.success(), "{}", said(&output));
    let options = format!("bitmap={}", elsewhere.display());
    must(mirrorfs().arg("mount").args([&test.a, &test.b, &test.mnt]).args(["-o", &options]));
    fs::write(test.mnt.join("file"), "x").expect("write");
    test.kill();
    must(mirrorfs().arg("mount").args([&test.a, &test.b, &test.mnt]).args(["-o", &options]));
    test.wait_until_resynced();
    test.umount_and_compare();
}

#[test]
fn status_examine_and_compare_say_what_is_wrong() {
    let Some(test) = used("reports") else { return };
    refused(&test, &[&"status", &test.mnt], &[shown(&test.mnt)]);
    refused(&test, &[&"status", &test.scratch().join("missing")], &["missing"]);
    refused(&test, &[&"examine", &test.mnt], &[shown(&test.mnt)]);
    let examined = must(mirrorfs().arg("examine").arg(&test.a).arg("--json"));
    serde_json::from_str::<serde_json::Value>(&examined).expect("JSON");
    must(mirrorfs().arg("compare").args([&test.a, &test.b]));
    fs::write(test.b.join("dir/extra"), "x").expect("write");
    let output = run(mirrorfs().arg("compare").args([&test.a, &test.b]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("dir/extra"), "{}", said(&output));
    let output = run(Command::new(program()).arg("compare").args([&test.a, &test.scratch().join("missing")]));
    assert!(
        !matches!(output.status.code(), Some(0 | 1) | None),
        "trouble is not a difference: {}",
        said(&output)
    );
}

#[test]
fn examine_names_what_is_dirty() {
    let Some(test) = crashed("examine") else { return };
    let text = must(mirrorfs().arg("examine").arg(&test.a));
    assert!(text.contains("file"), "dirty slots are shown with their paths: {text}");
    assert!(text.contains("entries, births"), "what covers new files says so: {text}");
    test.recover_and_compare();
}

#[test]
fn a_leg_that_fails_is_left_behind_and_caught_up_by_the_next_mount() {
    if !can_mount() || !has_program("xfs_io") {
        return;
    }
    for bad in ["a", "b"] {
        let test = TestMirror::on("failing", Filesystem::Xfs, "");
        fs::write(test.mnt.join("file"), vec![1; 50_000]).expect("write");
        let leg = test.scratch().join(bad);
        must(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&leg));
        for number in 0..3 {
            fs::write(test.mnt.join(format!("new{number}")), "x").expect("the other leg takes it");
        }
        assert_eq!(test.status()["state"], "degraded");
        assert_eq!(fs::read(test.mnt.join("file")).expect("the other leg is read"), vec![1; 50_000]);
        test.umount();
        must(Command::new("umount").arg("-l").arg(&leg));
        common::filesystem::attach(&test.scratch().join(format!("{bad}.img")), &leg);
        test.recover_and_compare();
        assert_eq!(fs::read(test.a.join("file")).expect("read"), vec![1; 50_000]);
    }
}
