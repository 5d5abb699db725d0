//! A place to mount in: two legs and a mount point in a directory of its own, and the program that
//! serves an empty mirror there. Whatever is mounted below it is taken away at the end, also when
//! the test fails.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Long enough for anything that works at all.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Stage {
    directory: tempfile::TempDir,
}

/// The example `empty_mirror`, which cargo builds along with the tests.
pub fn program() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_mirrorfs")).with_file_name("examples");
    beside.join("empty_mirror")
}

impl Stage {
    pub fn new() -> Stage {
        let directory = tempfile::Builder::new().prefix("mirrorfs-mount-").tempdir().unwrap();
        for name in ["a", "b", "m"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Stage { directory }
    }

    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(Path::new(name.as_ref()))
    }

    /// `mirrorfs WORDS...`, in the stage's directory.
    pub fn mirrorfs(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.path("")).args(words);
        command
    }

    /// `mount.mirrorfs WORDS...`.
    pub fn helper(&self, words: &[&str]) -> Command {
        let mut command = self.mirrorfs(&["helper"]);
        command.args(words);
        command
    }

    /// Mounts A and B on `m`; it must work.
    pub fn mount(&self) {
        succeeds(&mut self.mirrorfs(&["mount", "a", "b", "m", "-o", "log=log"]));
    }

    /// The mirrors mounted on `m`, the topmost last, as lines of mountinfo.
    pub fn mounted(&self) -> Vec<String> {
        let at = format!(" {} ", self.path("m").display());
        let lines = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        lines.lines().filter(|line| line.contains(&at)).map(str::to_owned).collect()
    }

    /// The process that serves.
    pub fn daemon(&self) -> i32 {
        std::fs::read_to_string(self.path("a/owner")).unwrap().parse().unwrap()
    }

    pub fn signal_daemon(&self, signal: i32) {
        let pid = self.daemon();
        succeeds(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()));
    }

    /// Kills the daemon as a crash would, and waits until the mount is dead.
    pub fn crash(&self) {
        self.signal_daemon(9);
        until("the mount is dead", || {
            rustix::fs::statfs(self.path("m")).is_err_and(|error| error == rustix::io::Errno::NOTCONN)
        });
    }

    /// Waits until the daemon has ended cleanly, and forgets that it has.
    pub fn ends_cleanly(&self) {
        until("the daemon has ended cleanly", || std::fs::remove_file(self.path("a/clean")).is_ok());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let lines = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = self.path("");
        for line in lines.lines().rev() {
            let at = Path::new(line.split(' ').nth(4).unwrap_or_default());
            if at.starts_with(&below) {
                let _ = Command::new("umount").arg("-l").arg(at).output();
            }
        }
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs it, and returns what it printed on stdout.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it; it must end with this exit code. Returns what it printed.
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output));
    text(&output)
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}
