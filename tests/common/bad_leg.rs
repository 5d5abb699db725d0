//! A leg that misbehaves on request: a directory shown through FUSE by the program `bad-leg`
//! (`tests/bad-leg/`), which fails, delays or hangs chosen operations.
//!
//! Operations are named by words: `write`, `write,fsync`, `all`, `changes` (all that change
//! something), `setattr`, `sync`. The first rule that a request meets counts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{PATIENCE, TestMirror, have, mounts, wait_for};

/// The program, built when the tests are built with the feature `simulation`.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bad-leg"))
}

/// True where a bad leg can be had; says so and is false (or fails, in CI) otherwise.
pub fn can_misbehave() -> bool {
    super::can_mount() && have("bad-leg, built with --features simulation", program().exists())
}

/// A directory shown through FUSE, and how it misbehaves. Dropping it ends the program by its process
/// id and unmounts, whatever hangs. It also ends with the thread that started it.
pub struct BadLeg {
    beneath: PathBuf,
    at: PathBuf,
    running: Running,
}

struct Running {
    child: Child,
    /// One command and its answer at a time.
    talk: Mutex<(ChildStdin, Receiver<String>)>,
}

impl BadLeg {
    /// Shows `directory` at `at`, which is made. Behaves well at first.
    pub fn start(directory: &Path, at: &Path) -> BadLeg {
        std::fs::create_dir_all(at).expect("a mount point");
        BadLeg { beneath: directory.to_owned(), at: at.to_owned(), running: Running::start(directory, at) }
    }

    /// Puts a bad leg before leg `a` or `b` of a mirror that is not mounted: it has its leg in
    /// `fuse-a` or `fuse-b` of its scratch place from now on.
    pub fn before(test: &mut TestMirror, leg: &str) -> BadLeg {
        let at = test.scratch().join(format!("fuse-{leg}"));
        let mirror = test.mirror_mut();
        let path = if leg == "a" { &mut mirror.a } else { &mut mirror.b };
        let bad = BadLeg::start(path, &at);
        *path = at;
        bad
    }

    /// Where it is mounted: what is given to mirrorfs as a leg.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// The directory that it shows, for a look that nothing hinders.
    pub fn beneath(&self) -> &Path {
        &self.beneath
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// From now on these operations do nothing and give this errno.
    pub fn fail(&self, ops: &str, errno: i32) {
        self.on(ops).fail(errno);
    }

    /// From now on these operations take so much longer.
    pub fn delay(&self, ops: &str, time: Duration) {
        self.on(ops).delay(time);
    }

    /// From now on these operations do not return, until [`release`](Self::release).
    pub fn hang(&self, ops: &str) {
        self.on(ops).hang();
    }

    /// The same for chosen requests only: `on("write").within("file").after(2).times(1).fail(EIO)`.
    pub fn on(&self, ops: &str) -> Rule<'_> {
        Rule { leg: self, ops: ops.to_owned(), conditions: String::new() }
    }

    /// What hangs or is delayed goes on: it is done now, late. Nothing hangs any more; what is to fail
    /// goes on failing.
    pub fn release(&self) {
        self.ask("release");
    }

    /// As [`release`](Self::release), and nothing fails any more.
    pub fn heal(&self) {
        self.ask("heal");
    }

    /// How many requests hang right now.
    pub fn hanging(&self) -> u64 {
        self.number("hanging")
    }

    /// Waits until so many requests hang.
    pub fn wait_until_hanging(&self, requests: u64) {
        wait_for("requests to hang", || self.hanging() >= requests);
    }

    /// How many requests for these operations have come since it was started.
    pub fn count(&self, ops: &str) -> u64 {
        self.number(&format!("count {ops}"))
    }

    /// The program dies, as a server that crashes: everything fails with ENOTCONN, what hangs too. The
    /// mount stays behind, dead.
    pub fn kill(&mut self) {
        self.running.end();
    }

    /// The leg is gone: its mount point is an empty directory, its users get ENOTCONN.
    pub fn unplug(&mut self) {
        self.kill();
        detach(&self.at);
    }

    /// Unplugged, and back at the same path with the same contents, behaving well.
    pub fn replug(&mut self) {
        self.unplug();
        self.running = Running::start(&self.beneath, &self.at);
    }

    fn ask(&self, command: &str) -> String {
        self.running.ask(command).unwrap_or_else(|why| panic!("bad-leg: {command}: {why}"))
    }

    fn number(&self, command: &str) -> u64 {
        let answer = self.ask(command);
        answer.parse().unwrap_or_else(|_| panic!("bad-leg: {command}: no number: {answer:?}"))
    }
}

impl Drop for BadLeg {
    fn drop(&mut self) {
        // What hangs is done before the end, like what a leg does late.
        let _ = self.running.ask("heal");
        self.running.end();
        detach(&self.at);
    }
}

impl Running {
    fn start(directory: &Path, at: &Path) -> Running {
        let mut child = Command::new(program())
            .args([directory, at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bad-leg, which cargo has built");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        // Made first: from here on the program is ended also when waiting for it fails.
        let mut running = Running { child, talk: Mutex::new((stdin, answers)) };
        wait_for("bad-leg to be mounted", || {
            let ended = running.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "bad-leg has ended: {ended:?}");
            is_mounted(at)
        });
        running
    }

    /// What stands behind `ok` in the answer.
    fn ask(&self, command: &str) -> Result<String, String> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(talk.0, "{command}").map_err(|error| error.to_string())?;
        let answer = talk.1.recv_timeout(PATIENCE).map_err(|error| error.to_string())?;
        match answer.strip_prefix("ok") {
            Some(value) => Ok(value.trim().to_owned()),
            None => Err(answer),
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A rule for chosen requests; made by its last word.
#[must_use = "a rule is made by fail, delay or hang"]
pub struct Rule<'a> {
    leg: &'a BadLeg,
    ops: String,
    conditions: String,
}

impl Rule<'_> {
    /// Only where the path below the leg's root holds this word, such as `dir/file` or `.mirrorfs/bitmap`.
    pub fn within(mut self, word: &str) -> Self {
        assert!(!word.contains(char::is_whitespace), "a word, for a protocol of words: {word:?}");
        self.conditions += &format!(" in {word}");
        self
    }

    /// Lets so many requests through first.
    pub fn after(mut self, requests: u64) -> Self {
        self.conditions += &format!(" after {requests}");
        self
    }

    /// Meets so many requests, then no more.
    pub fn times(mut self, requests: u64) -> Self {
        self.conditions += &format!(" times {requests}");
        self
    }

    pub fn fail(self, errno: i32) {
        self.leg.ask(&format!("fail {} {errno}{}", self.ops, self.conditions));
    }

    pub fn delay(self, time: Duration) {
        self.leg.ask(&format!("delay {} {}{}", self.ops, time.as_millis(), self.conditions));
    }

    pub fn hang(self) {
        self.leg.ask(&format!("hang {}{}", self.ops, self.conditions));
    }
}

fn is_mounted(at: &Path) -> bool {
    mounts::at(at).is_some_and(|mount| mount.fstype == "fuse.bad-leg")
}

fn detach(at: &Path) {
    if is_mounted(at) {
        let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
    }
}
