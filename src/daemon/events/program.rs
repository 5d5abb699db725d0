//! Running the program that `on_event` names: no shell, nothing of the daemon's that it has no use for.
//!
//! The daemon may be what the kernel waits for to get memory back, so it is started with vfork(2) by
//! std (posix_spawn): a fork(2) would share the pages that are pinned for the bitmap, and the next mark
//! would have to wait for a new page. Invariant: whoever was started has been waited for when [`run`]
//! returns.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Error, Result, errno};

/// Where the program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Refuses a program that cannot be run, as far as looking at it tells.
pub fn check(program: &Path) -> Result<()> {
    let failed = |cause: io::Error| {
        Error::new(format!("cannot run on_event={}", program.display()))
            .because(cause)
            .hint("Name a program, or a script that begins with #!, and make it executable.")
    };
    let kind = std::fs::metadata(program).map_err(failed)?;
    if !kind.is_file() {
        return Err(failed(errno(if kind.is_dir() { libc::EISDIR } else { libc::EACCES })));
    }
    rustix::fs::accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|errno| failed(errno.into()))
}

/// Runs `program` with `words` to its end, or for `limit` at most.
pub fn run(program: &Path, words: &[OsString], limit: Duration) {
    let shown =
        format!("{} for {}", program.display(), words.first().map_or(OsStr::new(""), |word| word).display());
    let mut child = match start(program, words) {
        Ok(child) => child,
        Err(error) => return log::error!("cannot run {shown}: {error}"),
    };
    match wait(&mut child, limit) {
        Ok(Some(status)) if status.success() => {}
        Ok(Some(status)) => log::warn!("{shown} ended {}", ending(status)),
        Ok(None) => {
            log::error!("{shown} did not end within {} s and is killed", limit.as_secs());
            kill(&mut child);
        }
        Err(error) => {
            log::warn!("{shown} cannot be watched, and is waited for: {error}");
            // It has ended then, which is all that matters here.
            let _ = child.wait();
        }
    }
}

fn start(program: &Path, words: &[OsString]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(words).env_clear().env("PATH", PATH);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Its own group, so that what it starts ends with it, and a Ctrl-C meant for the daemon spares it.
    command.process_group(0);
    let child = as_an_ordinary_process(|| command.spawn())?;
    forget_oom_protection(child.id());
    Ok(child)
}

/// Runs `spawn` while this thread is no IO_FLUSHER, which a child would inherit for good: it would eat
/// into the memory that is kept for those who free some.
///
/// Only around the call: elsewhere this thread may hold a lock (the log's) while it allocates.
fn as_an_ordinary_process<T>(spawn: impl FnOnce() -> T) -> T {
    let flusher = rustix::process::is_io_flusher().unwrap_or(false);
    let set = |on: bool| {
        if flusher && let Err(error) = rustix::process::configure_io_flusher_behavior(on) {
            log::info!("PR_SET_IO_FLUSHER {on} refused: {error}");
        }
    };
    set(false);
    let spawned = spawn();
    set(true);
    spawned
}

/// The daemon must not be killed for want of memory; its event program may.
///
/// Done from here since a child started by vfork runs nothing of ours; what it does in the few
/// microseconds until then costs no more than a process that is spared.
fn forget_oom_protection(pid: u32) {
    let file = format!("/proc/{pid}/oom_score_adj");
    let inherited = std::fs::read_to_string(&file).is_ok_and(|adj| adj.trim() == "-1000");
    if inherited && let Err(error) = std::fs::write(&file, "0") {
        log::info!("{file} stays at -1000: {error}");
    }
}

/// `None` when it still runs after `limit`.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.try_into().map_err(|_| errno(libc::EINVAL))?;
        match rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends it and what it started. Its number is not given out again before it has been waited for.
fn kill(child: &mut Child) {
    if let Err(error) = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL) {
        log::warn!("cannot kill process {}: {error}", child.id());
    }
    let _ = child.wait();
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "without a word".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_cannot_be_run_is_refused_with_its_path() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        for (path, words) in [
            (top.path().join("none"), "No such file"),
            (top.path().to_owned(), "Is a directory"),
            (file.clone(), "Permission denied"),
            ("/dev/null".into(), "Permission denied"),
        ] {
            let error = check(&path).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(path.to_str().unwrap()), "{error}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        check(&file).unwrap();
    }
}
