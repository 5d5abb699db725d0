//! The report as people read it.

use std::fmt::Write;

use super::{Bitmap, Report};
use crate::cli::size;
use crate::error::errno;

/// Laid out like `mirrorfs status`.
pub fn report(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_report(&mut text, report);
    text
}

fn write_report(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out, "      leg: {} at {} ({})", report.role, report.path, report.leg)?;
    writeln!(out, "   mirror: {}", report.mirror)?;
    writeln!(out, "    state: {}", state(report))?;
    writeln!(out, "     peer: {} ({})", peer(report), report.peer)?;
    writeln!(
        out,
        "  history: generation {}, {} events, cleared up to {}",
        report.generation, report.events, report.events_cleared
    )?;
    for ancestor in &report.ancestors {
        writeln!(out, "           before: generation {ancestor}")?;
    }
    if let Some(fault) = &report.damaged_slot {
        writeln!(out, "  warning: one superblock slot is damaged ({fault}); the next mount repairs it")?;
    }
    write_bitmap(out, &report.bitmap, report.chunk_size)
}

fn state(report: &Report) -> String {
    match (report.resync_source, report.clean) {
        (Some(source), _) => {
            format!("a resync from leg {source} is not finished; the next mount goes on with it")
        }
        (None, true) => "clean".to_owned(),
        (None, false) => "unclean: was not unmounted; the next mount resyncs what is dirty".to_owned(),
    }
}

fn peer(report: &Report) -> String {
    match (report.peer_stale_since_events, report.peer_errno) {
        (Some(since), Some(number)) => {
            format!("stale since {since} events, when it failed with: {}", errno(number))
        }
        _ if report.peer_state == "recovering" => "being brought up to date from this leg".to_owned(),
        _ => report.peer_state.to_owned(),
    }
}

fn write_bitmap(out: &mut String, bitmap: &Bitmap, chunk_size: u64) -> std::fmt::Result {
    let sizes = format!("{} slots, chunks of {}", bitmap.slots, size::human(chunk_size));
    match &bitmap.verdict {
        None => return writeln!(out, "   bitmap: in a file elsewhere ({sizes})"),
        Some(verdict) => writeln!(out, "   bitmap: {verdict} ({sizes})")?,
    }
    if bitmap.compare_all {
        writeln!(out, "           does not tell everything: unless the other leg's does, all is compared")?;
    }
    match bitmap.dirty.len() {
        0 => return writeln!(out, "    dirty: nothing"),
        1 => writeln!(out, "    dirty: 1 slot")?,
        many => writeln!(out, "    dirty: {many} slots")?,
    }
    for dirty in &bitmap.dirty {
        let object = match &dirty.path {
            Some(path) => path.replace('\\', "\\\\").replace('\n', "\\n"),
            None => format!("inode {}", dirty.inode),
        };
        let ranges: Vec<_> = dirty.ranges.iter().map(range).collect();
        let ranges = if ranges.is_empty() { String::new() } else { format!(": {}", ranges.join(", ")) };
        writeln!(out, "           {object}  {}{ranges}", dirty.kinds.join(", "))?;
    }
    Ok(())
}

fn range(&(start, end): &(u64, Option<u64>)) -> String {
    match end {
        Some(end) => format!("{} to {}", size::human(start), size::human(end)),
        None => format!("{} to the end", size::human(start)),
    }
}
