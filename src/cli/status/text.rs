//! The report for people, laid out like zpool's: the state, what it means, what to do. Pure.

use std::fmt::Write;

use crate::cli::time;
use crate::daemon::status::{Leg, LegState, Report, Resync, State};
use crate::fuse::Caching;
use crate::shell::quoted;

/// What a state means, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// One sentence.
    pub meaning: String,
    /// Sentences, the likeliest first, with the command to type at the end.
    pub actions: Vec<String>,
}

/// The whole report. `now` is in seconds since 1970.
pub fn text(report: &Report, now: i64) -> String {
    let mirror = &report.mirror;
    let mut told = explain(report);
    if mirror.neither.is_some() {
        told.actions
            .push("See to both disks: what neither leg can do stays an error for programs.".to_owned());
    }
    let lost = lost(report);
    let mut out = String::new();
    let mut line = |label: &str, text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{label:>6}{} {text}", if label.is_empty() { " " } else { ":" });
    };
    line("mirror", &format!("{} (process {})", report.mountpoint, report.pid));
    line("state", word(mirror.state));
    line("status", &told.meaning);
    if let Some(since) = lost.and_then(|leg| leg.since).or(mirror.since) {
        line("since", &format!("{} ({})", time::utc(since), time::ago(since, now)));
    }
    if let Some(reason) = mirror.reason.clone().or_else(|| lost.and_then(reason_of)) {
        line("reason", &reason);
    }
    if let Some(missed) = lost.and_then(missed) {
        line("missed", &missed);
    }
    if let Some(neither) = &mirror.neither {
        line(
            "failed",
            &format!(
                "{} on both legs, the last {}: {}",
                counted(neither.count, "request"),
                time::ago(neither.last, now),
                neither.what
            ),
        );
    }
    for (at, action) in told.actions.iter().enumerate() {
        line(if at == 0 { "action" } else { "" }, action);
    }
    match mirror.caching {
        Caching::Through => {}
        Caching::Back => {
            line("cache", "writes stay with the kernel until the file is synced or closed (writeback)")
        }
        Caching::Direct => line("cache", "the kernel keeps no data of files (direct_io)"),
        Caching::Passthrough => line("cache", "the kernel reads one leg's files itself (passthrough)"),
    }
    line("resync", &resync(&mirror.resync, lost));
    line("dirty", &format!("{} slots, {} chunks", mirror.dirty.slots, mirror.dirty.chunks));
    let counters = &mirror.counters;
    line(
        "counts",
        &format!(
            "{} marks, {} flushes, {} clears; resync read {}, wrote {}",
            counters.marks,
            counters.flushes,
            counters.clears,
            bytes(counters.resync_bytes_read),
            bytes(counters.resync_bytes_written)
        ),
    );
    out.push_str(&legs(&mirror.legs));
    out
}

fn legs(legs: &[Leg]) -> String {
    let mut out = format!("\n  {:<4} {:<11} PATH\n", "LEG", "STATE");
    for leg in legs {
        let _ = write!(out, "  {:<4} {:<11} {}", leg.id, leg_word(leg.state), leg.path);
        let reason = leg.reason.as_ref().or(leg.errno.as_ref());
        let _ = writeln!(out, "{}", reason.map_or(String::new(), |reason| format!("  ({reason})")));
        if let Some(new) = &leg.replacement {
            let _ = match &new.failed {
                None => writeln!(out, "       {} is being filled to take its place", new.path),
                Some(why) => writeln!(out, "       {} has not taken its place: {why}", new.path),
            };
        }
        if leg.read_errors > 0 {
            let last =
                leg.last_read_error.as_ref().map_or(String::new(), |file| format!(", the last of {file}"));
            let errors = counted(leg.read_errors, "read error");
            let _ = writeln!(out, "       {errors}{last}: answered from the other leg");
        }
    }
    out
}

/// `1 thing`, `2 things`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The leg that does not serve, or not yet.
fn lost(report: &Report) -> Option<&Leg> {
    report.mirror.legs.iter().find(|leg| leg.state != LegState::InSync)
}

fn reason_of(leg: &Leg) -> Option<String> {
    let why = leg.reason.as_ref().or(leg.errno.as_ref())?;
    Some(format!("leg {}: {why}", leg.id))
}

fn missed(leg: &Leg) -> Option<String> {
    let objects = leg.missing_objects.map(|count| format!("{count} objects"));
    let bytes = leg.missing_bytes.map(|count| format!("at most {} of data", bytes(count)));
    let missed: Vec<String> = objects.into_iter().chain(bytes).collect();
    (!missed.is_empty()).then(|| format!("{} to copy to leg {}", missed.join(", "), leg.id))
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
pub fn explain(report: &Report) -> Told {
    let told =
        |meaning: &str, actions: &[String]| Told { meaning: meaning.to_owned(), actions: actions.to_vec() };
    match (report.mirror.state, lost(report)) {
        (State::Clean, _) => told("Both legs are equal, nothing is being written.", &[]),
        (State::Active, _) => told("Both legs get every change; what was written lately is marked.", &[]),
        (State::Resyncing, _) => {
            told("Both legs get every change; what one of them missed is being made equal.", &[])
        }
        (State::Degraded, Some(leg)) => degraded(&quoted(&report.mountpoint), leg),
        (State::Degraded, None) => told("Only one leg gets the changes.", &[]),
        (State::Readonly, Some(leg)) if leg.state != LegState::Recovering => told(
            "A leg is out of service: files can be read, but not changed.",
            &[format!(
                "Unmount, see to the disk of leg {}, and mount again: what it missed is made good.",
                leg.id
            )],
        ),
        (State::Readonly, _) => told("Files can be read, but not changed.", &[]),
    }
}

/// One leg serves alone. `at` is the mount point as a shell takes it.
fn degraded(at: &str, leg: &Leg) -> Told {
    let (id, alone) = (&leg.id, if leg.id == "A" { "B" } else { "A" });
    let (what, mut first) = match leg.state {
        LegState::Recovering => {
            return Told {
                meaning: format!(
                    "Leg {id} is being brought up to date; until that is done leg {alone} alone is read."
                ),
                actions: vec![format!("To wait for the end, type: mirrorfs wait {at}")],
            };
        }
        LegState::Missing => {
            ("is not there", format!("Once its directory is there, type: mirrorfs re-add {at} {id} PATH"))
        }
        LegState::Stale => {
            ("has missed changes", format!("To copy them to it, type: mirrorfs re-add {at} {id}"))
        }
        LegState::Faulted if of_the_other(leg, alone) => (
            "is not complete",
            format!("See to what leg {alone} cannot read, then type: mirrorfs re-add {at} {id}"),
        ),
        LegState::Faulted | LegState::InSync => {
            ("is out of service", format!("See to its disk, then type: mirrorfs re-add {at} {id}"))
        }
    };
    if leg.replacement.as_ref().is_some_and(|new| new.failed.is_none()) {
        first = format!(
            "Another directory is being filled to take its place; to wait for that, type: mirrorfs wait {at}"
        );
    }
    Told {
        meaning: format!(
            "Leg {id} {what}; leg {alone} alone gets the changes, and they are noted for leg {id}."
        ),
        actions: vec![first],
    }
}

/// Whether a leg was left behind for what the other one could not do while it was made equal to it.
fn of_the_other(leg: &Leg, other: &str) -> bool {
    leg.reason.as_ref().is_some_and(|reason| reason.starts_with(&format!("leg {other}")))
}

fn resync(resync: &Resync, lost: Option<&Leg>) -> String {
    match lost {
        Some(leg) if !resync.active && leg.state != LegState::Recovering => {
            format!("none until leg {} is back", leg.id)
        }
        _ => progress(resync),
    }
}

/// How far a resync is, in one line.
pub fn progress(resync: &Resync) -> String {
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
mod tests;
