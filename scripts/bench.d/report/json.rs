//! The report for programs: one object, version 2.

use crate::figures;
use crate::loads::{Load, Reference};
use crate::run::Run;

pub fn report(run: &Run) -> String {
    let facts = object(run.facts.iter().map(|(name, value)| (name.as_str(), string(value))));
    let peers = object(run.peers.iter().map(|peer| {
        let note = if peer.started { "version" } else { "not_started" };
        (peer.name.as_str(), object([(note, string(&peer.note))].into_iter()))
    }));
    let failures = run.failures.iter().map(|failure| {
        let fields = [("load", &failure.load), ("peer", &failure.peer), ("reason", &failure.reason)];
        object(fields.into_iter().map(|(name, value)| (name, string(value))))
    });
    let loads = run.loads.iter().map(|load| self::load(run, load));
    let all = [
        ("version", "2".to_owned()),
        ("facts", facts),
        ("peers", peers),
        ("failures", list(failures)),
        ("loads", lines(loads)),
    ];
    object(all.into_iter()) + "\n"
}

fn load(run: &Run, load: &Load) -> String {
    let rates = run.started().filter_map(|peer| {
        let figure = figures::of_peer(run, load, &peer.name)?;
        let samples = run.rates(&load.name, &peer.name).iter().map(|rate| number(*rate));
        let fields = [
            ("median", number(figure.median)),
            ("spread", number(figure.spread)),
            ("samples", list(samples)),
        ];
        Some((peer.name.as_str(), object(fields.into_iter())))
    });
    let ratios =
        Reference::ALL.into_iter().filter_map(|of| Some((of.name(), number(figures::ratio(run, load, of)?))));
    let mut fields = vec![
        ("load", string(&load.name)),
        ("title", string(&load.title)),
        ("unit", string(&load.unit)),
        ("rates", object(rates)),
        ("ratios", object(ratios)),
        ("goals", list(goals(run, load).into_iter())),
    ];
    if let Some(part) = figures::round_trips(run, load) {
        fields.push(("round_trips", number(part)));
    }
    // As they were counted: sums over the rounds, and the highest peak.
    for (name, counts) in [("counts", &run.counts), ("syscalls", &run.syscalls)] {
        if let Some(counts) = counts.get(&load.name) {
            fields.push((name, object(counts.iter().map(|(key, count)| (key.as_str(), number(*count))))));
        }
    }
    object(fields.into_iter())
}

fn goals(run: &Run, load: &Load) -> Vec<String> {
    let goal = |goal: &crate::loads::Goal| {
        let reached = figures::ratio(run, load, goal.of).map(|ratio| figures::reached(ratio, *goal));
        let fields = [
            ("of", string(goal.of.name())),
            ("factor", number(goal.factor)),
            ("reached", reached.map_or("null".to_owned(), |reached| reached.to_string())),
        ];
        object(fields.into_iter())
    };
    load.goals.iter().map(goal).collect()
}

/// Four digits behind the point are enough for all that is measured here.
fn number(value: f64) -> String {
    if value.is_finite() { ((value * 1e4).round() / 1e4).to_string() } else { "null".to_owned() }
}

fn string(text: &str) -> String {
    let mut out = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            char if char < ' ' => out += &format!("\\u{:04x}", u32::from(char)),
            char => out.push(char),
        }
    }
    out + "\""
}

fn object<'name>(fields: impl Iterator<Item = (&'name str, String)>) -> String {
    let fields: Vec<String> = fields.map(|(name, value)| format!("{}: {value}", string(name))).collect();
    format!("{{{}}}", fields.join(", "))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A list with an item a line, so that two files can be compared by eye.
fn lines(items: impl Iterator<Item = String>) -> String {
    format!("[\n{}\n]", items.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(string("a \"b\" \\ c\td"), "\"a \\\"b\\\" \\\\ c\\u0009d\"");
    }

    #[test]
    fn numbers_are_never_what_json_has_not() {
        for (value, wanted) in [(0.12345, "0.1235"), (2.0, "2"), (f64::NAN, "null"), (f64::INFINITY, "null")]
        {
            assert_eq!(number(value), wanted);
        }
    }

    #[test]
    fn a_goal_that_could_not_be_judged_is_null() {
        let loads = "create | op/s | create | 0.9 bare, 10 glusterfs";
        let run = crate::run::tests::of(loads, [95.0, 95.0], &[("bare", [100.0, 100.0])]);
        assert!(report(&run).contains(
            r#""goals": [{"of": "bare", "factor": 0.9, "reached": true}, {"of": "glusterfs", "factor": 10, "reached": null}]"#
        ));
    }
}
