//! Exit codes of `mirrorfs`. Scripts rely on them: a number is never used for something else.

use std::fmt;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// Done; for `compare`: the legs are equal.
    Success = 0,
    /// `compare`: the legs differ.
    Different = 1,
    /// The command line is wrong, or names an option that does not exist.
    Usage = 2,
    /// Anything else that failed; the message says what.
    Failed = 3,
    /// No mirror is mounted there.
    NotMounted = 4,
    /// A mirror is mounted there, but no daemon answers for it.
    NoAnswer = 5,
    /// `mount`: the mirror is mounted already. `mount`, `resolve`: another process owns a leg.
    InUse = 6,
    /// The daemon was told to end at once, by a second signal: the next mount resyncs.
    Interrupted = 7,
    /// No process or pipe could be had to start the daemon.
    System = 8,
    /// `wait`: nothing is being resynced, and only one leg serves.
    Degraded = 9,
    /// `wait`: nothing is being resynced, and the mirror takes no changes.
    ReadOnly = 10,
    /// `wait`: the mirror was unmounted meanwhile, or its daemon ended.
    Gone = 11,
    /// `wait`: the time is over, and something is still being resynced.
    TimedOut = 12,
    /// `resolve`: the legs have not diverged, there is nothing to resolve.
    NotDivergent = 13,
}

impl Exit {
    /// Every code, for the man page's check.
    pub const ALL: [Exit; 14] = [
        Exit::Success,
        Exit::Different,
        Exit::Usage,
        Exit::Failed,
        Exit::NotMounted,
        Exit::NoAnswer,
        Exit::InUse,
        Exit::Interrupted,
        Exit::System,
        Exit::Degraded,
        Exit::ReadOnly,
        Exit::Gone,
        Exit::TimedOut,
        Exit::NotDivergent,
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error with the exit code it leads to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What to print: one line that says what failed and why, one that says what to do.
    pub message: String,
}

impl Failure {
    /// `error`, ending with `exit`.
    pub fn new(exit: Exit, error: Error) -> Failure {
        Failure { exit, message: error.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
