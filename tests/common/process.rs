//! Running programs and ending processes, always by their id.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// Runs a command to its end and returns what it said, whatever its exit status.
///
/// A command that does not end in time is killed, and the test fails. Output goes through files:
/// a daemon that keeps its parent's stderr open must not keep the test waiting.
pub fn run(command: &mut Command) -> Output {
    run_within(command, PATIENCE * 4)
}

/// As [`run`], with a time limit of its own.
pub fn run_within(command: &mut Command, limit: Duration) -> Output {
    use std::io::{Read, Seek};
    let mut stdout = tempfile::tempfile().expect("a temporary file");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().expect("a second descriptor"));
    command.stderr(stderr.try_clone().expect("a second descriptor"));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().expect("our own child") {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            None => {
                let _ = child.kill();
                panic!("{command:?} did not end within {limit:?}");
            }
        }
    };
    let read = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("reading what was written");
        bytes
    };
    Output { status, stdout: read(&mut stdout), stderr: read(&mut stderr) }
}

/// Runs a command that has to succeed; returns its standard output.
pub fn must(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell script that has to succeed, in `dir`, with `set -e`.
pub fn shell(dir: &Path, script: &str) -> String {
    must(Command::new("sh").arg("-ec").arg(script).current_dir(dir))
}

/// Kills a process that is not our child with SIGKILL and waits until all its threads are gone, so
/// that its locks and descriptors are free.
pub fn kill_hard(pid: u32) {
    signal(pid, Signal::KILL);
    super::wait_for("a killed process to be gone", || is_gone(pid));
}

/// Sends a signal; a process that is gone already is none of our worries.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process id is not zero");
    let _ = kill_process(pid, signal);
}

/// True once a process has ended, reaped by its parent or not.
pub fn is_gone(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    // The first thread can be a zombie while others still hold the descriptors.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    matches!(state, Some('Z' | 'X') | None) && threads <= 1
}

/// Processes that run `program` and have `argument` somewhere in their command line.
pub fn running(program: &Path, argument: &Path) -> Vec<u32> {
    use std::os::unix::ffi::OsStrExt;
    let wanted = argument.as_os_str().as_bytes();
    let names = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let is_program = std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.file_name() == program.file_name());
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_program && line.windows(wanted.len()).any(|part| part == wanted)
    })
    .collect()
}

/// Highest resident size of a process so far, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel reports VmHWM");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("VmHWM is a number of kB");
    kib * 1024
}

/// Number of open descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The user and group for tests that need somebody without rights: nobody and nogroup.
pub const NOBODY: u32 = 65534;

/// Runs a shell script in `dir` as a user without rights and without further groups.
pub fn shell_as_nobody(dir: &Path, script: &str) -> Output {
    use std::os::unix::process::CommandExt;
    run(Command::new("sh").arg("-ec").arg(script).current_dir(dir).uid(NOBODY).gid(NOBODY))
}
