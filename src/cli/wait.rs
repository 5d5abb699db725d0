//! `mirrorfs wait DIR`: returns when nothing is left to resync; the exit code says how it ended.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::client;
use super::exit::{Exit, Failure};
use super::status::text;
use crate::daemon::mountinfo::Mount;
use crate::daemon::status::{Leg, LegState, Report, State, Status};
use crate::error::Error;
use crate::options;

/// How often the daemon is asked: soon at first, for short resyncs.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);

/// Wait until nothing is left to resync
///
/// The exit code says how it ended: 0 both legs are in sync, 3 a new directory has not taken a leg's place, 9 only one leg serves, 10 the mirror is
/// read-only, 11 the mirror is gone, 12 the time is over. Shows the progress on a terminal.
#[derive(clap::Args)]
pub struct Args {
    /// Where the mirror is mounted
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// Give up after this time; seconds, or with a unit as in 5m and 2h
    #[arg(long, value_name = "SECONDS", value_parser = timeout)]
    timeout: Option<Duration>,
}

fn timeout(text: &str) -> Result<Duration, String> {
    options::duration(text).ok_or_else(|| format!("'{text}' is not a time such as 30, 30s or 5m"))
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mount = client::find(&args.mountpoint)?;
    let mut report = client::understood(client::status(&mount)?)?;
    let daemon = report.pid;
    let mut pause = *PAUSES.start();
    let mut shown = Progress::default();
    loop {
        if let Some(exit) = ended(&report.mirror) {
            shown.end();
            not_replaced(&report)?;
            return conclude(exit, &report);
        }
        shown.update(&report);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            shown.end();
            return Err(time_is_over(&report));
        }
        std::thread::sleep(left.map_or(pause, |left| left.min(pause)));
        pause = (pause * 2).min(*PAUSES.end());
        report = match ask_again(&mount, daemon)? {
            Some(report) => report,
            // It is there and silent, a heavy load perhaps: the last report stands.
            None => report,
        };
    }
}

/// `None` when the daemon is there but silent.
fn ask_again(mount: &Mount, daemon: u32) -> Result<Option<Report>, Failure> {
    let gone = |why: String| {
        let error = Error::new(format!("{} is gone: {why}", mount.mountpoint.display()));
        Failure::new(Exit::Gone, error.hint("The next mount makes the legs equal, if that is not done."))
    };
    let report = match client::status(mount) {
        Ok(value) => client::understood(value)?,
        Err(failure) if failure.exit == Exit::NoAnswer && client::is_served(mount) => return Ok(None),
        Err(failure) if matches!(failure.exit, Exit::NoAnswer | Exit::NotMounted) => {
            let why = failure.message.lines().next().unwrap_or_default().to_owned();
            return Err(gone(why));
        }
        Err(failure) => return Err(failure),
    };
    // The device number, and so the socket's name, may have been given to another mount.
    match report.pid == daemon {
        true => Ok(Some(report)),
        false => Err(gone("another daemon serves there by now".to_owned())),
    }
}

/// How the wait ends; `None` while there is something to wait for.
fn ended(mirror: &Status) -> Option<Exit> {
    let any = |state: LegState| mirror.legs.iter().any(|leg| leg.state == state);
    if mirror.resync.active || mirror.state == State::Resyncing {
        return None;
    }
    if mirror.state == State::Readonly {
        return Some(Exit::ReadOnly);
    }
    if any(LegState::Faulted) || any(LegState::Stale) || any(LegState::Missing) {
        return Some(Exit::Degraded);
    }
    if any(LegState::Recovering) {
        return None;
    }
    Some(if mirror.state == State::Degraded { Exit::Degraded } else { Exit::Success })
}

/// A leg that was to be replaced was not.
fn not_replaced(report: &Report) -> Result<(), Failure> {
    let broken_off = |leg: &Leg| {
        let replacement = leg.replacement.as_ref()?;
        let why = replacement.failed.as_ref()?;
        Some(Error::new(format!("{} has not taken the place of leg {}: {why}", replacement.path, leg.id)).hint(
            "The legs are as they were, as far as that is not the reason. See to it, then give the command again, with the \
             same directory if it is fit: what was copied is not copied again.",
        ))
    };
    report.mirror.legs.iter().find_map(broken_off).map_or(Ok(()), |error| Err(error.into()))
}

fn conclude(exit: Exit, report: &Report) -> Result<Exit, Failure> {
    let what = match exit {
        Exit::Success => return Ok(exit),
        Exit::ReadOnly => "is read-only",
        _ => "is degraded",
    };
    let told = text::explain(report);
    let mut error = Error::new(format!("{} {what}: {}", report.mountpoint, told.meaning));
    if let Some(action) = told.actions.first() {
        error = error.hint(action.clone());
    }
    Err(Failure::new(exit, error))
}

fn time_is_over(report: &Report) -> Failure {
    let progress = text::progress(&report.mirror.resync);
    let error =
        Error::new(format!("the time is over, and {} is not in sync yet: {progress}", report.mountpoint));
    Failure::new(Exit::TimedOut, error.hint("It goes on all the same; wait again, or longer."))
}

/// The line on the terminal, if there is one.
#[derive(Default)]
struct Progress {
    written: bool,
}

impl Progress {
    fn update(&mut self, report: &Report) {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            self.written = true;
            // Nobody is left to tell when the terminal is gone.
            let _ = write!(stderr, "\r\x1b[K{}", text::progress(&report.mirror.resync));
            let _ = stderr.flush();
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.written) {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::Resync;

    #[test]
    fn it_ends_when_nothing_is_left_to_resync() {
        use LegState::*;
        for (state, b, active, exit) in [
            (State::Clean, InSync, false, Some(Exit::Success)),
            (State::Active, InSync, false, Some(Exit::Success)),
            (State::Active, InSync, true, None),
            (State::Active, Recovering, false, None),
            (State::Resyncing, InSync, false, None),
            (State::Resyncing, Recovering, true, None),
            (State::Degraded, Recovering, true, None),
            (State::Degraded, Recovering, false, None),
            (State::Degraded, Faulted, false, Some(Exit::Degraded)),
            (State::Degraded, Stale, false, Some(Exit::Degraded)),
            (State::Degraded, Missing, false, Some(Exit::Degraded)),
            (State::Degraded, InSync, false, Some(Exit::Degraded)),
            (State::Readonly, InSync, false, Some(Exit::ReadOnly)),
            (State::Readonly, Recovering, false, Some(Exit::ReadOnly)),
            (State::Readonly, Faulted, false, Some(Exit::ReadOnly)),
            (State::Readonly, Recovering, true, None),
        ] {
            let legs = [InSync, b].map(|state| Leg { state, ..Leg::default() });
            for legs in [legs.to_vec(), legs.iter().rev().cloned().collect()] {
                let resync = Resync { active, ..Resync::default() };
                let status = Status { state, legs, resync, ..Status::default() };
                assert_eq!(ended(&status), exit, "{status:?}");
            }
        }
    }
}
