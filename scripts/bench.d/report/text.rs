//! The report for people: Markdown, aligned so that it reads well in a terminal too.

use std::fmt::Write as _;

use crate::figures::{self, Cost, Figure};
use crate::loads::{Load, Reference};
use crate::run::Run;

pub fn report(run: &Run) -> String {
    let mut out = String::new();
    out += &facts(run);
    if run.loads.iter().any(|load| figures::on_legs(run, load).is_some()) {
        out += &section("System calls on the legs for each operation", &syscalls(run));
        return out;
    }
    out += &section("Operations (or MiB) a second", &rates(run));
    out += &section("What mirrorfs reaches of the others", &ratios(run));
    if run.loads.iter().any(|load| figures::cost(run, load).is_some()) {
        out += &section("What it costs the daemon", &costs(run));
    }
    out
}

fn section(title: &str, table: &str) -> String {
    format!("\n{title}:\n\n{table}")
}

fn facts(run: &Run) -> String {
    let mut out = String::new();
    for (name, value) in &run.facts {
        let _ = writeln!(out, "- {}: {value}", name.replace('_', " "));
    }
    for peer in &run.peers {
        let state = if peer.started { "" } else { "**not started**: " };
        let _ = writeln!(out, "- {}: {state}{}", peer.title(), peer.note);
    }
    for failure in &run.failures {
        let _ = writeln!(out, "- **failed**: {} on {}: {}", failure.load, failure.peer, failure.reason);
    }
    let judged = figures::judged(run);
    if !judged.is_empty() {
        let reached = judged.iter().filter(|(_, _, reached)| *reached).count();
        let all: usize = run.loads.iter().map(|load| load.goals.len()).sum();
        let _ = write!(out, "- goals: {reached} of {} reached", judged.len());
        out += &match all - judged.len() {
            0 => "\n".to_owned(),
            others => format!("; of {others} the other one was not measured\n"),
        };
    }
    out
}

fn rates(run: &Run) -> String {
    let peers: Vec<_> = run.started().collect();
    let mut table = vec![vec!["load".to_owned(), "".to_owned(), "unit".to_owned()]];
    table[0].extend(peers.iter().map(|peer| peer.title().to_owned()));
    for load in &run.loads {
        let mut row = named(load);
        row.push(load.unit.clone());
        row.extend(peers.iter().map(|peer| rate(figures::of_peer(run, load, &peer.name))));
        table.push(row);
    }
    aligned(&table)
}

fn rate(figure: Option<Figure>) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{:.0} ±{:.0}%", figure.median, figure.spread * 100.0))
}

fn ratios(run: &Run) -> String {
    let mut table = vec![vec!["load".to_owned(), "".to_owned()]];
    table[0].extend(Reference::ALL.map(|of| format!("of {of}")));
    for load in &run.loads {
        let mut row = named(load);
        row.extend(Reference::ALL.map(|of| ratio(run, load, of)));
        table.push(row);
    }
    aligned(&table)
}

/// The ratio, and what became of each goal: "0.72: 0.9 **missed**, 0.6 reached".
fn ratio(run: &Run, load: &Load, of: Reference) -> String {
    let Some(ratio) = figures::ratio(run, load, of) else { return "-".to_owned() };
    let goals: Vec<String> = load
        .goals_of(of)
        .map(|goal| {
            let verdict = if figures::reached(ratio, goal) { "reached" } else { "**missed**" };
            format!("{} {verdict}", goal.factor)
        })
        .collect();
    let colon = if goals.is_empty() { "" } else { ": " };
    format!("{}{colon}{}", short(ratio), goals.join(", "))
}

fn costs(run: &Run) -> String {
    let costs: Vec<_> = run.loads.iter().filter_map(|load| Some((load, figures::cost(run, load)?))).collect();
    let with_requests = costs.iter().any(|(_, cost)| !cost.requests.is_empty());
    let mut head = vec!["load", "", "operations", "flushes", "CPU s", "CPU us each", "peak MiB"];
    let with_round_trips = costs.iter().any(|(load, _)| figures::round_trips(run, load).is_some());
    if with_round_trips {
        head.push("round trips");
    }
    if with_requests {
        head.push("FUSE requests each");
    }
    let mut table = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (load, cost) in &costs {
        let mut row = named(load);
        row.extend(cost_cells(cost));
        if with_round_trips {
            let part = figures::round_trips(run, load);
            row.push(part.map_or("-".to_owned(), |part| format!("{:.0}%", part * 100.0)));
        }
        if with_requests {
            row.push(each(&cost.requests));
        }
        table.push(row);
    }
    aligned(&table)
}

fn cost_cells(cost: &Cost) -> [String; 5] {
    [
        format!("{:.0}", cost.operations),
        format!("{:.0}", cost.flushes),
        format!("{:.2}", cost.cpu_seconds),
        format!("{:.1}", cost.cpu_seconds * 1e6 / cost.operations.max(1.0)),
        format!("{:.0}", cost.peak_mib),
    ]
}

fn syscalls(run: &Run) -> String {
    let mut table = vec![["load", "", "calls each"].map(str::to_owned).to_vec()];
    for load in &run.loads {
        let Some(calls) = figures::on_legs(run, load) else { continue };
        let mut row = named(load);
        row.push(each(&calls));
        table.push(row);
    }
    aligned(&table)
}

/// "lookup 2.0, create 1.0": what is rarer than once in a hundred operations is left out.
fn each(counts: &[(&str, f64)]) -> String {
    let frequent = counts.iter().filter(|(_, each)| *each >= 0.01);
    let words: Vec<String> = frequent.map(|(name, each)| format!("{name} {each:.2}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn named(load: &Load) -> Vec<String> {
    vec![load.title.clone(), format!("`{}`", load.name)]
}

/// Two digits where that tells something.
pub fn short(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.2}") }
}

/// A Markdown table whose first row is the head; all cells of a column take the same room.
fn aligned(table: &[Vec<String>]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
    let mut out = String::new();
    for (number, row) in table.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out += "|\n";
        if number == 0 {
            for width in &widths {
                let _ = write!(out, "|{:-<1$}", "", width + 2);
            }
            out += "|\n";
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::of;

    #[test]
    fn a_ratio_names_its_goals_and_what_became_of_them() {
        let run = of(
            "create | op/s | create a file | 0.9 bare, 0.6 bare, 10 glusterfs",
            [72.0, 72.0],
            &[("bare", [100.0, 100.0])],
        );
        let text = report(&run);
        assert!(text.contains("| 0.72: 0.9 **missed**, 0.6 reached "), "{text}");
        assert!(text.contains("- goals: 1 of 2 reached; of 1 the other one was not measured\n"), "{text}");
    }

    #[test]
    fn what_was_not_measured_is_named() {
        let mut run = of("create | op/s | create a file |", [1.0, 1.0], &[("glusterfs", [1.0, 1.0])]);
        run.peers[1].started = false;
        run.peers[1].note = "no network".to_owned();
        let failure = |load: &str| crate::run::Failure {
            load: load.into(),
            peer: "bindfs".into(),
            reason: "EIO".into(),
        };
        run.failures.push(failure("direct"));
        let text = report(&run);
        assert!(text.contains("- GlusterFS: **not started**: no network\n"), "{text}");
        assert!(text.contains("- **failed**: direct on bindfs: EIO\n"), "{text}");
        assert!(!text.contains("| GlusterFS |"), "{text}");
    }

    #[test]
    fn without_counted_requests_there_is_no_column_for_them() {
        let mut run = of("create | op/s | create a file |", [1.0, 1.0], &[]);
        run.counts.insert("create".into(), [("operations".into(), 10.0), ("cpu_ms".into(), 50.0)].into());
        assert!(!report(&run).contains("FUSE requests"));
        run.counts.get_mut("create").expect("it is there").insert("requests.lookup".into(), 20.0);
        assert!(report(&run).contains("| lookup 2.00 "));
    }
}
