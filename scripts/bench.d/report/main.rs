//! The report of scripts/bench: reads what a run has left in a directory and prints it as Markdown
//! tables; with `--json FILE` and `--svg FILE` also for programs and as a picture.
//!
//! Usage: report LOADS.TABLE DIRECTORY [--json FILE] [--svg FILE]
//!
//! - `loads` knows the loads and their goals, `run` the files of the directory;
//! - `figures` is what follows from them: medians, ratios, goals reached and missed, costs;
//! - `text`, `json` and `svg` write that down and compute nothing of it themselves.
//!
//! One program of the standard library alone: scripts/bench builds it with rustc.

mod figures;
mod json;
mod loads;
mod run;
mod svg;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Default)]
struct Arguments {
    places: Vec<PathBuf>,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
}

fn arguments() -> Result<Arguments, String> {
    let mut given = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut file = || words.next().map(PathBuf::from).ok_or(format!("{word} needs a file"));
        match word.as_str() {
            "--json" => given.json = Some(file()?),
            "--svg" => given.svg = Some(file()?),
            _ => given.places.push(word.into()),
        }
    }
    Ok(given)
}

fn write(file: &Path, content: &str) -> Result<(), String> {
    fs::write(file, content).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

fn report() -> Result<(), String> {
    let given = arguments()?;
    let [table, directory] = given.places.as_slice() else {
        return Err("usage: report LOADS.TABLE DIRECTORY [--json FILE] [--svg FILE]".to_owned());
    };
    let all = loads::parse(&run::read(table)?)?;
    let run = run::Run::read(directory, &all)?;
    print!("{}", text::report(&run));
    if let Some(file) = given.json {
        write(&file, &json::report(&run))?;
    }
    if let Some(file) = given.svg {
        write(&file, &svg::picture(&run))?;
    }
    Ok(())
}

fn main() {
    if let Err(error) = report() {
        eprintln!("report: {error}");
        std::process::exit(1);
    }
}
