//! Asking the daemon of a mounted mirror: what all commands that take its mount point share.
//!
//! Over the control socket, never through the mount: a mirror that hangs still answers.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::exit::{Exit, Failure};
use crate::daemon::control::{self, Answer};
use crate::daemon::mountinfo::{self, Mount};
use crate::daemon::place;
use crate::daemon::request::Request;
use crate::daemon::status::Report;
use crate::error::Error;

/// How long to wait for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It is answered from memory.
    Short,
    /// It touches disks, and ends when it ends.
    Unlimited,
}

/// The mirror mounted on `mountpoint`.
pub fn find(mountpoint: &Path) -> Result<Mount, Failure> {
    let mountpoint = place::resolve(mountpoint)?;
    let mounts = mountinfo::read().map_err(|e| Error::new("cannot read /proc/self/mountinfo").because(e))?;
    mountinfo::top(mounts, &mountpoint).filter(Mount::is_mirror).ok_or_else(|| {
        Failure::new(
            Exit::NotMounted,
            Error::new(format!("no mirror is mounted on {}", mountpoint.display()))
                .hint("\"mirrorfs examine LEG\" shows a mirror that is not mounted."),
        )
    })
}

/// The daemon's report, as it came.
pub fn status(mount: &Mount) -> Result<Value, Failure> {
    ask(mount, &Request::new("status"), Patience::Short)
}

/// The report in it.
pub fn understood(status: Value) -> Result<Report, Failure> {
    let report = serde_json::from_value(status).map_err(|cause| {
        Error::new("the daemon's answer is not understood")
            .because(cause.into())
            .hint("It may be of another version: \"mirrorfs status --json\" shows the answer as it came.")
    })?;
    Ok(report)
}

/// Sends `request` to the daemon of `mount`. What comes back is the reply to it, not a refusal.
pub fn ask(mount: &Mount, request: &Request, patience: Patience) -> Result<Value, Failure> {
    let shown = mount.mountpoint.display();
    let silent = |what: &str, hint: String| {
        Failure::new(Exit::NoAnswer, Error::new(format!("the mirror on {shown} {what}")).hint(hint))
    };
    let limit = match patience {
        Patience::Short => Some(control::PATIENCE),
        Patience::Unlimited => None::<Duration>,
    };
    let answer = control::ask(mount, request, limit).map_err(|error| Failure::new(Exit::NoAnswer, error))?;
    match answer {
        Answer::Reply(Ok(value)) => Ok(value),
        Answer::Reply(Err(reason)) => {
            Err(Error::new(format!("the daemon of {shown} refuses: {reason}")).into())
        }
        Answer::Timeout => Err(silent(
            "has a daemon, but it does not answer",
            "It may be stopped, or a leg's disk may hang: look at the kernel log (dmesg) and try again."
                .into(),
        )),
        Answer::Nobody if !is_mounted(mount) => Err(Failure::new(
            Exit::NotMounted,
            Error::new(format!("the mirror on {shown} was unmounted before it had answered")),
        )),
        Answer::Nobody if place::is_dead(mount) => Err(silent(
            "is dead: its daemon has ended without unmounting it",
            format!("Mounting it again replaces it and makes the legs equal; or \"umount {shown}\"."),
        )),
        Answer::Nobody => Err(silent(
            "is served, but its daemon cannot be asked from here",
            "Its control socket belongs to another network namespace: ask from where it was mounted.".into(),
        )),
    }
}

/// Whether somebody still serves this very mount, even if silently.
pub fn is_served(mount: &Mount) -> bool {
    is_mounted(mount) && !place::is_dead(mount)
}

/// Whether this very mount is still there.
fn is_mounted(mount: &Mount) -> bool {
    let mounts = mountinfo::read().unwrap_or_default();
    mounts.iter().any(|now| now.device == mount.device && now.mountpoint == mount.mountpoint)
}
