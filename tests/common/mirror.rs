//! A mirror under test: made, mounted, killed and taken away through the commands a user types.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::{Filesystem, Scratch, compare, mounts, process, wait_for};

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_mirrorfs"))
}

/// A call of it, to be given arguments.
pub fn mirrorfs() -> Command {
    Command::new(program())
}

/// Two legs and a mount point, by their paths, and how to mount them.
#[derive(Clone, Debug)]
pub struct Mirror {
    pub a: PathBuf,
    pub b: PathBuf,
    pub mnt: PathBuf,
    /// What stands behind `-o`, if anything.
    pub options: String,
}

impl Mirror {
    /// `mirrorfs create`, with more arguments behind the legs.
    pub fn create(&self, more: &[&OsStr]) -> Output {
        process::run(mirrorfs().arg("create").arg(&self.a).arg(&self.b).args(more))
    }

    /// The command that mounts it.
    pub fn mount_command(&self) -> Command {
        let mut command = mirrorfs();
        command.args(self.mount_arguments());
        command
    }

    /// What stands behind `mirrorfs` to mount it.
    pub fn mount_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["mount".into()];
        arguments.extend([&self.a, &self.b, &self.mnt].map(|path| path.clone().into_os_string()));
        if !self.options.is_empty() {
            arguments.extend(["-o".into(), OsString::from(&self.options)]);
        }
        arguments
    }

    /// Mounts; fails the test if that fails.
    pub fn mount(&self) {
        let output = process::run(&mut self.mount_command());
        assert!(output.status.success(), "cannot mount: {}", said(&output));
        // "exits 0 only once mounted"
        assert!(self.is_mounted(), "mount ended with 0, but nothing is mounted");
    }

    /// Waits for a daemon that was started with `-f` elsewhere to have mounted.
    pub fn wait_until_mounted(&self) {
        wait_for("the mount", || self.is_mounted() && self.try_status().is_ok());
    }

    /// True when a FUSE filesystem is mounted there, alive or not.
    pub fn is_mounted(&self) -> bool {
        mounts::at(&self.mnt).is_some_and(|mount| mount.fstype.starts_with("fuse"))
    }

    /// `mirrorfs status --json`; what the command said when it failed.
    pub fn try_status(&self) -> Result<Value, String> {
        let output = process::run(mirrorfs().arg("status").arg(&self.mnt).arg("--json"));
        if !output.status.success() {
            return Err(said(&output));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| format!("status --json is no JSON: {error}"))
    }

    /// `mirrorfs status --json`, of a mounted mirror.
    pub fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|why| panic!("no status: {why}"))
    }

    /// One of the numbers under `counters`.
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.status();
        status["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {status}"))
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        let status = self.status();
        let pid = status["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {status}"));
        u32::try_from(pid).expect("a process id")
    }

    /// Kills the daemon with SIGKILL. The mount stays behind, dead.
    pub fn kill(&self) {
        process::kill_hard(self.pid());
    }

    /// Waits until no resync is going on.
    pub fn wait_until_resynced(&self) {
        wait_for("the resync to end", || self.status()["resync"]["active"] == Value::Bool(false));
    }

    /// Waits until the mirror itself finds nothing dirty any more.
    pub fn wait_until_clean(&self) {
        wait_for("nothing dirty", || self.status()["dirty"]["slots"] == 0);
    }

    /// umount(8), then waits for the daemon to have ended: only then all is on the legs.
    pub fn umount(&self) {
        let pid = self.pid();
        process::must(Command::new("umount").arg(&self.mnt));
        wait_for("the daemon to end after umount", || process::is_gone(pid));
    }

    /// Fails the test unless both legs (of an unmounted mirror) hold the same.
    pub fn assert_equal(&self) {
        compare::assert_equal(&self.a, &self.b);
    }

    /// After a crash: mount, let the resync end, unmount, compare.
    pub fn recover_and_compare(&self) {
        self.mount();
        self.wait_until_resynced();
        self.umount();
        self.assert_equal();
    }
}

/// A mirror in a scratch place, made and mounted.
pub struct TestMirror {
    mirror: Mirror,
    scratch: Scratch,
}

impl std::ops::Deref for TestMirror {
    type Target = Mirror;
    fn deref(&self) -> &Mirror {
        &self.mirror
    }
}

impl TestMirror {
    /// Mounted, on two plain directories.
    pub fn new(name: &str) -> TestMirror {
        TestMirror::on(name, Filesystem::Plain, "")
    }

    /// Mounted, with each leg on its own filesystem of this kind, and these options behind `-o`.
    pub fn on(name: &str, filesystem: Filesystem, options: &str) -> TestMirror {
        let test = TestMirror::unmounted(name, filesystem, options);
        let output = test.create(&[]);
        assert!(output.status.success(), "cannot create: {}", said(&output));
        test.mount();
        test
    }

    /// Two empty legs: nothing made of them yet, nothing mounted.
    pub fn unmounted(name: &str, filesystem: Filesystem, options: &str) -> TestMirror {
        TestMirror::sized(name, filesystem, options, 512)
    }

    /// As [`unmounted`](Self::unmounted), with filesystems of `mib` MiB.
    pub fn sized(name: &str, filesystem: Filesystem, options: &str, mib: u64) -> TestMirror {
        let scratch = Scratch::new(name);
        let images = scratch.path().to_owned();
        TestMirror::in_scratch(scratch, &images, filesystem, options, mib)
    }

    /// As [`sized`](Self::sized), with the filesystems' images `a.img` and `b.img` in `images`.
    pub fn in_scratch(
        scratch: Scratch,
        images: &Path,
        filesystem: Filesystem,
        options: &str,
        mib: u64,
    ) -> TestMirror {
        let mirror = Mirror {
            a: scratch.join("a"),
            b: scratch.join("b"),
            mnt: scratch.dir("mnt"),
            options: options.to_owned(),
        };
        filesystem.make(&mirror.a, &images.join("a.img"), mib);
        filesystem.make(&mirror.b, &images.join("b.img"), mib);
        for leg in [&mirror.a, &mirror.b] {
            // A new ext4 is not empty, and half of a mirror has to be.
            let _ = std::fs::remove_dir(leg.join("lost+found"));
        }
        TestMirror { mirror, scratch }
    }

    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The mirror's paths, to be changed by a test that wants to mount it differently.
    pub fn mirror_mut(&mut self) -> &mut Mirror {
        &mut self.mirror
    }

    /// The same path in the mount, on leg A and on leg B.
    pub fn everywhere(&self, path: &str) -> [PathBuf; 3] {
        [self.mnt.join(path), self.a.join(path), self.b.join(path)]
    }

    /// The same path on both legs.
    pub fn on_legs(&self, path: &str) -> [PathBuf; 2] {
        [self.a.join(path), self.b.join(path)]
    }

    /// Fails the test unless a clean unmount leaves both legs the same and nothing dirty.
    pub fn umount_and_compare(&self) {
        self.umount();
        self.assert_equal();
    }
}

/// Exit status and everything printed, for a message.
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// How long the first request through a mount takes to be answered: a list of its root.
pub fn time_to_first_answer(mirror: &Mirror) -> Duration {
    let start = std::time::Instant::now();
    mirror.mount();
    std::fs::read_dir(&mirror.mnt).expect("the mount serves").next();
    start.elapsed()
}
