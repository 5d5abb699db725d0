//! Going into the background, and telling the shell how it went.
//!
//! The process forks before anything else is done. The child opens, mounts and serves; the parent
//! waits at the end of a pipe, and ends with the child's success or prints the child's error: exit
//! code 0 means "mounted". A child that dies without a word is an error too.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions};

use super::logging;
use crate::cli::exit::{Exit, Failure};
use crate::error::Error;
use crate::sys::process::{Forked, fork};

/// Sent instead of a failure.
const MOUNTED: &[u8] = b"mounted";

/// How the process that serves tells that it is mounted, or why not.
pub struct Readiness {
    /// To the parent; none in the foreground, or when it has been told.
    parent: Option<File>,
}

/// Which process this is after [`start`].
pub enum Side {
    /// The one that serves.
    Daemon(Readiness),
    /// The one that the shell waits for; everything is done, this is how it ends.
    Parent(Result<(), Failure>),
}

/// Splits off the daemon, unless it is to stay in the foreground.
pub fn start(foreground: bool) -> Result<Side, Failure> {
    if foreground {
        return Ok(Side::Daemon(Readiness { parent: None }));
    }
    let failed =
        |what: &str, cause| Failure::new(Exit::System, Error::new(format!("cannot {what}")).because(cause));
    let (hear, tell) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed("make a pipe", errno.into()))?;
    match fork().map_err(|cause| failed("start the daemon", cause))? {
        Forked::Child => {
            drop(hear);
            rustix::process::setsid().map_err(|errno| failed("leave the session", errno.into()))?;
            Ok(Side::Daemon(Readiness { parent: Some(File::from(tell)) }))
        }
        Forked::Parent(child) => {
            drop(tell);
            Ok(Side::Parent(wait(hear, child)))
        }
    }
}

impl Readiness {
    /// The mirror is mounted and answers. In the background this is where the terminal is left.
    pub fn mounted(&mut self) {
        if self.parent.is_none() {
            return;
        }
        logging::leave_terminal();
        if let Err(error) = leave_output() {
            log::info!("cannot close stdout and stderr: {error}");
        }
        self.send(MOUNTED);
    }

    /// It did not come to a mount. Returns the failure when there is nobody to tell: the caller prints it.
    pub fn failed(&mut self, failure: Failure) -> Option<Failure> {
        if self.parent.is_none() {
            return Some(failure);
        }
        match serde_json::to_vec(&failure) {
            Ok(told) => {
                self.send(&told);
                None
            }
            Err(_) => Some(failure),
        }
    }

    fn send(&mut self, message: &[u8]) {
        let told = self.parent.take().map(|mut parent| parent.write_all(message));
        if let Some(Err(error)) = told {
            log::info!("whoever started the mount has gone: {error}");
        }
    }
}

fn leave_output() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

fn wait(hear: OwnedFd, child: i32) -> Result<(), Failure> {
    let mut told = Vec::new();
    let heard = File::from(hear).read_to_end(&mut told);
    if told == MOUNTED {
        return Ok(());
    }
    if let (Ok(_), Ok(failure)) = (heard, serde_json::from_slice::<Failure>(&told)) {
        return Err(failure);
    }
    let end = Pid::from_raw(child)
        .and_then(|pid| rustix::process::waitpid(Some(pid), WaitOptions::empty()).ok().flatten());
    let how = match end.map(|(_, status)| (status.exit_status(), status.terminating_signal())) {
        Some((Some(code), _)) => format!("with exit code {code}"),
        Some((_, Some(signal))) => format!("by signal {signal}"),
        _ => "without a word".to_owned(),
    };
    Err(Error::new(format!("the daemon ended {how} before it had mounted"))
        .hint("Try again with -f, which shows what it does.")
        .into())
}
