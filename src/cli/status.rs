//! `mirrorfs status DIR`: what a mounted mirror says about itself.
//!
//! Asks the daemon over its control socket and never touches the mount: a mirror that hangs still
//! answers.

use std::fmt::Write;
use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::daemon::control::{self, Answer};
use crate::daemon::mountinfo::{self, Mount};
use crate::daemon::place;
use crate::daemon::status::{LegState, Report, Resync, State, Status};
use crate::error::Error;

/// Show the state of a mounted mirror
#[derive(clap::Args)]
pub struct Args {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mount = find(args)?;
    let value = ask(&mount)?;
    if args.json {
        println!("{value:#}");
        return Ok(Exit::Success);
    }
    let report: Report = serde_json::from_value(value).map_err(|cause| {
        Error::new("the daemon's answer is not understood")
            .because(cause.into())
            .hint("It may be of another version: \"mirrorfs status --json\" shows the answer as it came.")
    })?;
    print!("{}", text(&report));
    Ok(Exit::Success)
}

fn find(args: &Args) -> Result<Mount, Failure> {
    let mountpoint = place::resolve(&args.mountpoint)?;
    let mounts = mountinfo::read().map_err(|e| Error::new("cannot read /proc/self/mountinfo").because(e))?;
    mountinfo::top(mounts, &mountpoint).filter(Mount::is_mirror).ok_or_else(|| {
        Failure::new(
            Exit::NotMounted,
            Error::new(format!("no mirror is mounted on {}", mountpoint.display()))
                .hint("\"mirrorfs examine LEG\" shows a mirror that is not mounted."),
        )
    })
}

fn ask(mount: &Mount) -> Result<serde_json::Value, Failure> {
    let shown = mount.mountpoint.display();
    let silent = |what: &str, hint: String| {
        Failure::new(Exit::NoAnswer, Error::new(format!("the mirror on {shown} {what}")).hint(hint))
    };
    match control::ask_mount(mount, "status").map_err(|error| Failure::new(Exit::NoAnswer, error))? {
        Answer::Reply(Ok(value)) => Ok(value),
        Answer::Reply(Err(reason)) => {
            Err(Error::new(format!("the daemon of {shown} refuses: {reason}")).into())
        }
        Answer::Timeout => Err(silent(
            "has a daemon, but it does not answer",
            "It may be stopped, or a leg's disk may hang: look at the kernel log (dmesg) and try again."
                .into(),
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

/// The report for people, laid out like zpool's.
fn text(report: &Report) -> String {
    let mirror = &report.mirror;
    let (meaning, action) = explain(mirror);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "mirror: {} (process {})", report.mountpoint, report.pid);
    let _ = writeln!(out, " state: {}", word(mirror.state));
    let _ = writeln!(out, "status: {meaning}");
    if let Some(reason) = &mirror.reason {
        let _ = writeln!(out, "reason: {reason}");
    }
    if let Some(action) = action {
        let _ = writeln!(out, "action: {action}");
    }
    let _ = writeln!(out, "resync: {}", progress(&mirror.resync));
    let _ = writeln!(out, " dirty: {} slots, {} chunks", mirror.dirty.slots, mirror.dirty.chunks);
    let counters = &mirror.counters;
    let _ = writeln!(
        out,
        "counts: {} marks, {} flushes, {} clears; resync read {}, wrote {}",
        counters.marks,
        counters.flushes,
        counters.clears,
        bytes(counters.resync_bytes_read),
        bytes(counters.resync_bytes_written)
    );
    let _ = writeln!(out, "\n  {:<4} {:<11} PATH", "LEG", "STATE");
    for leg in &mirror.legs {
        let _ = write!(out, "  {:<4} {:<11} {}", leg.id, leg_word(leg.state), leg.path);
        let _ =
            writeln!(out, "{}", leg.reason.as_ref().map_or(String::new(), |reason| format!("  ({reason})")));
    }
    out
}

fn word(state: State) -> &'static str {
    match state {
        State::Clean => "clean",
        State::Active => "active",
        State::Resyncing => "resyncing",
        State::Degraded => "degraded",
        State::Readonly => "readonly",
    }
}

fn leg_word(state: LegState) -> &'static str {
    match state {
        LegState::InSync => "in sync",
        LegState::Recovering => "recovering",
        LegState::Stale => "stale",
        LegState::Faulted => "faulted",
        LegState::Missing => "missing",
    }
}

/// What the state means, and what to do about it.
fn explain(mirror: &Status) -> (&'static str, Option<&'static str>) {
    match mirror.state {
        State::Clean => ("Both legs are equal, nothing is being written.", None),
        State::Active => ("Both legs get every change; what was written lately is marked.", None),
        State::Resyncing => ("Both legs get every change; what a crash left is being made equal.", None),
        State::Degraded => {
            ("Only one leg gets the changes.", Some("Bring the other leg back, or replace it."))
        }
        State::Readonly if mirror.legs.iter().any(|leg| leg.state == LegState::Faulted) => (
            "A leg has failed: files can be read, but not changed.",
            Some("Unmount, see to the failed leg's disk, and mount again: what it missed is made good."),
        ),
        State::Readonly => ("Files can be read, but not changed.", None),
    }
}

fn progress(resync: &Resync) -> String {
    if !resync.active {
        return match resync.total_objects {
            0 => "none needed".to_owned(),
            _ => format!("done: {} objects, {}", resync.done_objects, bytes(resync.done_bytes)),
        };
    }
    let mut line = format!(
        "{} of {} objects, {} of {}",
        resync.done_objects,
        resync.total_objects,
        bytes(resync.done_bytes),
        bytes(resync.total_bytes)
    );
    if let Some(percent) = (resync.done_bytes * 100).checked_div(resync.total_bytes) {
        line.push_str(&format!(" ({percent}%)"));
    }
    if resync.rate_bytes_per_s > 0 {
        line.push_str(&format!(", {}/s", bytes(resync.rate_bytes_per_s)));
    }
    if let Some(left) = resync.eta_s {
        line.push_str(&format!(", {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60));
    }
    line
}

/// `12.3 MiB`; below 1 KiB `12 B`.
pub(crate) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (count.max(1).ilog2() / 10) as usize;
    if step == 0 {
        return format!("{count} B");
    }
    format!("{:.1} {}", count as f64 / (1u64 << (10 * step)) as f64, units[step])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::{FORMAT, Leg};

    fn report(mirror: Status) -> String {
        text(&Report {
            version: FORMAT,
            program: String::new(),
            mountpoint: "/mnt/m".to_owned(),
            pid: 7,
            mirror,
        })
    }

    #[test]
    fn sizes_are_human() {
        for (count, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (12_897_485, "12.3 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), shown);
        }
    }

    #[test]
    fn progress_has_rate_and_time_left() {
        let resync = Resync {
            active: true,
            done_objects: 5,
            total_objects: 10,
            done_bytes: 1 << 20,
            total_bytes: 4 << 20,
            rate_bytes_per_s: 1 << 10,
            eta_s: Some(3661),
        };
        assert_eq!(progress(&resync), "5 of 10 objects, 1.0 MiB of 4.0 MiB (25%), 1.0 KiB/s, 1:01:01 left");
        assert_eq!(progress(&Resync::default()), "none needed");
    }

    #[test]
    fn a_failed_leg_is_named_with_what_to_do() {
        let shown = report(Status {
            state: State::Readonly,
            reason: Some("leg B: Input/output error".to_owned()),
            legs: vec![Leg {
                id: "B".to_owned(),
                path: "/srv/b".to_owned(),
                state: LegState::Faulted,
                reason: Some("EIO".to_owned()),
            }],
            ..Status::default()
        });
        for words in
            ["state: readonly", "reason: leg B: Input", "action: Unmount", "faulted     /srv/b  (EIO)"]
        {
            assert!(shown.contains(words), "{words} in\n{shown}");
        }
    }
}
