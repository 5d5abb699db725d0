//! A directory leg on the filesystems that people have, each in a loop-mounted image of its own.
//! Needs root, loop devices, mkfs.ext4, mkfs.xfs, mkfs.btrfs and btrfs.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use mirrorfs::bitmap::WriteIntent;
use mirrorfs::legs::{
    Creator, DirectoryLeg, Identity, Kind, Leg, LegId, Make, OpenMode, RenameMode, Seek, Stat, Timestamp,
};

const SOMEBODY: Creator = Creator { uid: 1234, gid: 4321, umask: 0o022 };
const DIRECT: OpenMode = OpenMode { read: true, write: true, direct: true };

/// A filesystem mounted in a temporary directory; unmounted and removed when dropped, also by a panic.
struct Mounted {
    dir: tempfile::TempDir,
    kind: &'static str,
}

impl Mounted {
    /// `mib` is the size in MiB: the filesystems have different minima.
    fn new(kind: &'static str, mib: u64) -> Mounted {
        let mounted = Mounted { dir: tempfile::tempdir().unwrap(), kind };
        std::fs::create_dir(mounted.path()).unwrap();
        if kind == "tmpfs" {
            let size = format!("size={mib}m");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(mounted.path()));
        } else {
            let image = std::fs::File::create(mounted.image()).unwrap();
            image.set_len(mib << 20).unwrap();
            run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(mounted.image()));
            mounted.mount();
        }
        std::fs::create_dir_all(mounted.leg_path().join(".mirrorfs")).unwrap();
        mounted
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn leg_path(&self) -> PathBuf {
        self.path().join("leg")
    }

    fn leg(&self) -> DirectoryLeg {
        let leg = DirectoryLeg::open(&self.leg_path(), LegId::A).unwrap();
        assert!(leg.has_handles(), "{} has handles", self.kind);
        leg
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.path()));
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(self.path()));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily and with all that is mounted below: a failed test may still hold the leg.
        let _ = Command::new("umount").args(["-R", "-l"]).arg(self.path()).output();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn marked() -> WriteIntent<'static> {
    WriteIntent::before_first_mount()
}

fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

fn make<L: Leg>(leg: &L, dir: &L::Node, name: &str, what: Make<'_>) -> (Identity, Stat) {
    leg.make(&marked(), dir, os(name), what, SOMEBODY).unwrap()
}

#[track_caller]
fn refused<T>(result: io::Result<T>, errno: i32) {
    match result {
        Ok(_) => panic!("expected errno {errno}, but it worked"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{error}"),
    }
}

/// What must hold on every filesystem.
fn everything_a_leg_does(mounted: &Mounted) {
    let leg = mounted.leg();
    owners_and_groups(&leg);
    attributes(&leg);
    contents(&leg);
    names(&leg);
    handles(&leg);
    a_mount_below_is_not_seen(&leg);
    a_mount_below_is_refused_without_privilege(leg.path());
    leg.sync_all().unwrap();
    // The private view of the mount alone would let it go.
    let umount = Command::new("umount").arg(mounted.path()).output().unwrap();
    assert!(!umount.status.success(), "the filesystem of an open leg is busy");
    drop(leg);
}

fn owners_and_groups(leg: &DirectoryLeg) {
    let root = leg.root();
    make(leg, &root, "shared", Make::Directory { mode: 0o755 });
    let shared = leg.child(&root, os("shared")).unwrap();
    leg.set_owner(&marked(), &shared, None, Some(77)).unwrap();
    leg.set_mode(&marked(), &shared, 0o2777).unwrap();
    let (_, stat) = make(leg, &shared, "d", Make::Directory { mode: 0o777 });
    assert_eq!((stat.uid, stat.gid, stat.mode), (1234, 77, 0o2755));
    let (_, stat) = make(leg, &shared, "f", Make::File { mode: 0o6777 });
    assert_eq!((stat.uid, stat.gid, stat.mode), (1234, 77, 0o6755));
    let (_, stat) = make(leg, &root, "f", Make::File { mode: 0o666 });
    assert_eq!((stat.uid, stat.gid, stat.mode), (1234, 4321, 0o644));
    let (_, stat) = make(leg, &root, "s", Make::Symlink { target: os("/etc") });
    assert_eq!((stat.uid, stat.gid, stat.kind), (1234, 4321, Kind::Symlink));
    let device = Make::Special { kind: Kind::CharDevice, mode: 0o600, rdev: rustix::fs::makedev(1, 300) };
    assert_eq!(make(leg, &root, "c", device).1.rdev, rustix::fs::makedev(1, 300));
    // user::rwx group::rw- other::---, which takes the place of the umask.
    let default =
        b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    leg.set_xattr(&marked(), &shared, os("system.posix_acl_default"), default, 0).unwrap();
    assert_eq!(make(leg, &shared, "acl", Make::File { mode: 0o666 }).1.mode, 0o660);
}

fn attributes(leg: &DirectoryLeg) {
    for name in ["f", "s", "shared"] {
        let node = leg.child(&leg.root(), os(name)).unwrap();
        let (atime, mtime) = (Timestamp { secs: -2, nanos: 5 }, Timestamp { secs: -1, nanos: 999_999_999 });
        leg.set_times(&marked(), &node, Some(atime), Some(mtime)).unwrap();
        let stat = leg.stat(&node).unwrap();
        assert_eq!((stat.atime, stat.mtime), (atime, mtime));
        assert!(stat.btime.is_some());
        leg.set_xattr(&marked(), &node, os("trusted.t"), &[1; 500], 0).unwrap();
        assert_eq!(leg.get_xattr(&node, os("trusted.t")).unwrap(), [1; 500]);
        assert!(leg.list_xattr(&node).unwrap().contains(&os("trusted.t").to_owned()));
        leg.remove_xattr(&marked(), &node, os("trusted.t")).unwrap();
    }
}

fn contents(leg: &DirectoryLeg) {
    let root = leg.root();
    let (_, _, file) = leg.create(&marked(), &root, os("data"), 0o600, SOMEBODY, DIRECT).unwrap();
    let far = 1 << 31;
    let data: Vec<u8> = (0..100_000u32).map(|n| (n % 247) as u8).collect();
    assert_eq!(leg.write(&marked(), &file, &data, far + 1).unwrap(), data.len());
    let found = leg.seek(&file, 0, Seek::Data).unwrap();
    assert!(found <= far + 1 && far - found < 1 << 20, "data was found at {found}");
    assert_eq!(leg.copy_range(&marked(), (&file, far), (&file, 0), 100_001).unwrap(), 100_001);
    let mut back = vec![9; 200_000];
    assert_eq!(leg.read(&file, &mut back, far).unwrap(), 100_001);
    assert_eq!(back[1..100_001], data);
    leg.read(&file, &mut back[..100_001], 0).unwrap();
    assert_eq!((back[0], &back[1..100_001]), (0, &data[..]));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    leg.fallocate(&marked(), &file, punch, 0, 65536).unwrap();
    leg.read(&file, &mut back[..65536], 0).unwrap();
    assert!(back[..65536].iter().all(|&byte| byte == 0));
    leg.sync_file(&file, true).unwrap();
    leg.unlink(&marked(), &root, os("data")).unwrap();
    assert_eq!(leg.stat_file(&file).unwrap().nlink, 0);
}

fn names(leg: &DirectoryLeg) {
    let root = leg.root();
    make(leg, &root, "from", Make::Directory { mode: 0o700 });
    let (identity, _) = make(leg, &root, "to", Make::Directory { mode: 0o700 });
    refused(
        leg.rename(&marked(), (&root, os("to")), (&root, os("from")), RenameMode::NoReplace),
        libc::EEXIST,
    );
    leg.rename(&marked(), (&root, os("to")), (&root, os("from")), RenameMode::Exchange).unwrap();
    assert_eq!(leg.lookup(&root, os("from")).unwrap().0, identity);
    let node = leg.find(&identity).unwrap();
    assert_eq!(leg.identity(&leg.parent(&node).unwrap()).unwrap(), leg.identity(&root).unwrap());
    leg.rmdir(&marked(), &root, os("from")).unwrap();
    refused(leg.find(&identity), libc::ESTALE);
    let entries = leg.read_dir(&root).unwrap();
    for entry in &entries {
        let (identity, stat) = leg.lookup(&root, &entry.name).unwrap();
        assert_eq!((entry.ino, entry.kind), (identity.ino, stat.kind));
    }
    assert!(entries.iter().all(|entry| entry.name != ".mirrorfs"));
}

fn handles(leg: &DirectoryLeg) {
    for name in ["f", "s", "c", "shared"] {
        let (identity, stat) = leg.lookup(&leg.root(), os(name)).unwrap();
        let node = leg.find(&identity).unwrap();
        assert_eq!((leg.identity(&node).unwrap(), leg.stat(&node).unwrap()), (identity, stat));
    }
    // Without the handle, by walking.
    let (identity, _) = leg.lookup(&leg.root(), os("f")).unwrap();
    let found = leg.find(&Identity { handle: None, ..identity }).unwrap();
    assert_eq!(leg.identity(&found).unwrap(), identity);
    // Found by its handle, a file is as good as any.
    leg.link(&marked(), &leg.find(&identity).unwrap(), &leg.root(), os("f2")).unwrap();
    assert_eq!(leg.lookup(&leg.root(), os("f2")).unwrap().0, identity);
}

fn a_mount_below_is_not_seen(leg: &DirectoryLeg) {
    let (identity, _) = make(leg, &leg.root(), "below", Make::Directory { mode: 0o700 });
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(leg.path().join("below")));
    assert_eq!(leg.lookup(&leg.root(), os("below")).unwrap().0, identity);
    let below = leg.child(&leg.root(), os("below")).unwrap();
    make(leg, &below, "inside", Make::File { mode: 0o600 });
    run(Command::new("umount").arg(leg.path().join("below")));
    assert!(leg.path().join("below/inside").exists());
}

/// Without a private view a mount below shows, and is refused.
fn a_mount_below_is_refused_without_privilege(path: &Path) {
    let below = path.join("plain below");
    std::fs::create_dir(&below).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&below));
    std::fs::write(below.join("inside"), "").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Of this thread alone.
            let none = rustix::thread::CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap();
            let leg = DirectoryLeg::open(path, LegId::B).unwrap();
            assert!(!leg.has_handles());
            refused(leg.lookup(&leg.root(), os("plain below")), libc::EXDEV);
            refused(leg.child(&leg.root(), os("plain below")), libc::EXDEV);
            // A search for a number goes past it.
            let (identity, _) = leg.lookup(&leg.root(), os("f")).unwrap();
            assert_eq!(leg.identity(&leg.find(&identity).unwrap()).unwrap(), identity);
        });
    });
    run(Command::new("umount").arg(&below));
}

/// Handles and inode numbers mean the same after the filesystem was mounted again.
fn identities_outlive_a_remount(mounted: &Mounted) {
    let leg = mounted.leg();
    let (file, _) = make(&leg, &leg.root(), "kept", Make::File { mode: 0o600 });
    let (gone, _) = make(&leg, &leg.root(), "gone", Make::File { mode: 0o600 });
    leg.unlink(&marked(), &leg.root(), os("gone")).unwrap();
    drop(leg);
    mounted.unmount();
    mounted.mount();
    let leg = mounted.leg();
    let node = leg.find(&file).unwrap();
    assert_eq!(leg.identity(&node).unwrap(), file);
    refused(leg.find(&gone), libc::ESTALE);
}

/// A number that is used again comes with another handle, and the old one stays gone. Only here does nobody
/// else take the numbers.
fn a_recycled_number_has_another_handle(mounted: &Mounted) {
    let leg = mounted.leg();
    let mut seen: HashMap<u64, Identity> = HashMap::new();
    for _ in 0..50_000 {
        let (identity, _) = make(&leg, &leg.root(), "recycled", Make::File { mode: 0o600 });
        if let Some(old) = seen.insert(identity.ino, identity) {
            assert_ne!(old.handle, identity.handle);
            refused(leg.find(&old), libc::ESTALE);
            assert_eq!(leg.identity(&leg.find(&identity).unwrap()).unwrap(), identity);
            return;
        }
        leg.unlink(&marked(), &leg.root(), os("recycled")).unwrap();
    }
    panic!("no inode number was used again: nothing was shown");
}

/// As much as fits is written and counted, then it is ENOSPC.
fn a_full_filesystem_takes_what_it_can(mounted: &Mounted) {
    let leg = mounted.leg();
    let buffered = OpenMode { direct: false, ..DIRECT };
    let (_, _, file) = leg.create(&marked(), &leg.root(), os("big"), 0o600, SOMEBODY, buffered).unwrap();
    let data = vec![7; 100 << 20];
    let mut written = 0;
    // ext4 finds a little more room each time that it has committed what was freed before.
    let error = loop {
        match leg.write(&marked(), &file, &data, written) {
            Ok(more) => written += more as u64,
            Err(error) => break error,
        }
        assert!(written > 0 && written < data.len() as u64);
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(leg.stat_file(&file).unwrap().size, written);
}

#[test]
fn on_ext4() {
    let mounted = Mounted::new("ext4", 64);
    everything_a_leg_does(&mounted);
    identities_outlive_a_remount(&mounted);
    a_recycled_number_has_another_handle(&mounted);
    a_full_filesystem_takes_what_it_can(&mounted);
}

#[test]
fn on_xfs() {
    let mounted = Mounted::new("xfs", 400);
    everything_a_leg_does(&mounted);
    identities_outlive_a_remount(&mounted);
    a_recycled_number_has_another_handle(&mounted);
}

#[test]
fn on_btrfs() {
    let mounted = Mounted::new("btrfs", 256);
    everything_a_leg_does(&mounted);
    identities_outlive_a_remount(&mounted);
    a_subvolume_is_another_device(&mounted.leg());
}

#[test]
fn on_tmpfs() {
    let mounted = Mounted::new("tmpfs", 64);
    everything_a_leg_does(&mounted);
    a_full_filesystem_takes_what_it_can(&mounted);
}

fn a_subvolume_is_another_device(leg: &DirectoryLeg) {
    let path: &Path = leg.path();
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(path.join("sub")));
    refused(leg.lookup(&leg.root(), os("sub")), libc::EXDEV);
    refused(leg.child(&leg.root(), os("sub")), libc::EXDEV);
}
