//! What a run has left in its directory, one file a kind, fields between tabs:
//!
//! - `facts`: name, value: machine, sizes, command; `loads`: the names of the loads that were chosen;
//! - `peers`: name, `started` or `not started`, its version or the reason;
//! - `samples`: load, peer, round, operations, seconds; `failures`: load, peer, reason;
//! - `counts`: load, key, value, for mirrorfs alone, a set of lines a round; `syscalls`: load, system
//!   call, how often.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::loads::Load;

pub struct Peer {
    pub name: String,
    pub started: bool,
    /// Its version, or why it has not started.
    pub note: String,
}

impl Peer {
    pub fn title(&self) -> &str {
        match self.name.as_str() {
            "btrfs" => "btrfs raid1",
            "twice" => "both legs",
            "glusterfs" => "GlusterFS",
            other => other,
        }
    }
}

pub struct Failure {
    pub load: String,
    pub peer: String,
    pub reason: String,
}

/// By load: what was counted, added up over the rounds.
type Counts = BTreeMap<String, BTreeMap<String, f64>>;

pub struct Run {
    pub facts: Vec<(String, String)>,
    pub loads: Vec<Load>,
    pub peers: Vec<Peer>,
    pub failures: Vec<Failure>,
    /// Operations a second, one for each round, by load and peer.
    rates: BTreeMap<(String, String), Vec<f64>>,
    pub counts: Counts,
    pub syscalls: Counts,
}

impl Run {
    pub fn read(directory: &Path, all: &[Load]) -> Result<Self, String> {
        let rows = |file: &str| read(&directory.join(file)).map(|text| rows(&text));
        let named = |name: &str| {
            all.iter().find(|load| load.name == name).cloned().ok_or(format!("no load is named {name}"))
        };
        Ok(Self {
            facts: rows("facts")?.into_iter().map(two).collect::<Result<_, _>>()?,
            loads: rows("loads")?.iter().map(|row| named(&row[0])).collect::<Result<_, _>>()?,
            peers: rows("peers")?.into_iter().map(peer).collect::<Result<_, _>>()?,
            failures: rows("failures")?.into_iter().map(failure).collect::<Result<_, _>>()?,
            rates: rates(rows("samples")?)?,
            counts: counts(rows("counts")?)?,
            syscalls: counts(rows("syscalls")?)?,
        })
    }

    pub fn started(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.started)
    }

    /// Nothing where that peer was not measured.
    pub fn rates(&self, load: &str, peer: &str) -> &[f64] {
        self.rates.get(&(load.to_owned(), peer.to_owned())).map_or(&[], Vec::as_slice)
    }

    pub fn fact(&self, name: &str) -> &str {
        self.facts.iter().find(|fact| fact.0 == name).map_or("", |fact| &fact.1)
    }
}

pub fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn fields<const N: usize>(row: Vec<String>) -> Result<[String; N], String> {
    row.try_into().map_err(|row: Vec<String>| format!("{N} fields were expected, not {row:?}"))
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no number"))
}

fn two(row: Vec<String>) -> Result<(String, String), String> {
    fields(row).map(|[name, value]| (name, value))
}

fn peer(row: Vec<String>) -> Result<Peer, String> {
    fields(row).map(|[name, state, note]| Peer {
        name,
        started: state == "started",
        note: note.trim().to_owned(),
    })
}

fn failure(row: Vec<String>) -> Result<Failure, String> {
    fields(row).map(|[load, peer, reason]| Failure { load, peer, reason })
}

fn rates(rows: Vec<Vec<String>>) -> Result<BTreeMap<(String, String), Vec<f64>>, String> {
    let mut rates: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for row in rows {
        let [load, peer, _round, operations, seconds] = fields(row)?;
        // What took less than can be told took a microsecond.
        let rate = number(&operations)? / number(&seconds)?.max(1e-6);
        rates.entry((load, peer)).or_default().push(rate);
    }
    Ok(rates)
}

/// A peak is the highest one of all rounds, all else is a sum.
fn counts(rows: Vec<Vec<String>>) -> Result<Counts, String> {
    let mut counts = Counts::new();
    for row in rows {
        let [load, key, value] = fields(row)?;
        let value = number(&value)?;
        let peak = key.starts_with("peak");
        let so_far = counts.entry(load).or_default().entry(key).or_default();
        *so_far = if peak { value.max(*so_far) } else { value + *so_far };
    }
    Ok(counts)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A run of two rounds in which mirrorfs does `mirrorfs` operations a second in every load, and
    /// each of the others what is given for it.
    pub fn of(loads: &str, mirrorfs: [f64; 2], others: &[(&str, [f64; 2])]) -> Run {
        let loads = crate::loads::parse(loads).expect("the test's loads are well formed");
        let all = [("mirrorfs", mirrorfs)].into_iter().chain(others.iter().copied());
        let mut run = Run {
            facts: vec![("command".to_owned(), "scripts/bench".to_owned())],
            loads,
            peers: Vec::new(),
            failures: Vec::new(),
            rates: BTreeMap::new(),
            counts: Counts::new(),
            syscalls: Counts::new(),
        };
        for (name, rates) in all {
            run.peers.push(Peer { name: name.to_owned(), started: true, note: String::new() });
            for load in &run.loads {
                run.rates.insert((load.name.clone(), name.to_owned()), rates.to_vec());
            }
        }
        run
    }

    #[test]
    fn counts_are_sums_and_peaks_are_the_highest() {
        let text = "create\tflushes\t2\ncreate\tpeak_kib\t700\ncreate\tflushes\t3\ncreate\tpeak_kib\t600\n";
        let counts = counts(rows(text)).expect("the rows are well formed");
        assert_eq!(counts["create"]["flushes"], 5.0);
        assert_eq!(counts["create"]["peak_kib"], 700.0);
    }

    #[test]
    fn a_sample_is_operations_by_seconds() {
        let rates = rates(rows("stat\tbare\t1\t5000\t0.5\nstat\tbare\t2\t300\t1\n")).expect("well formed");
        assert_eq!(rates[&("stat".to_owned(), "bare".to_owned())], [10000.0, 300.0]);
    }

    #[test]
    fn a_line_that_is_cut_off_is_refused() {
        assert!(rates(rows("stat\tbare\t1\t5000")).is_err());
        assert!(counts(rows("stat\tflushes\tmany")).is_err());
    }
}
