//! What differs, as people and as scripts read it.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::differing::Differing;
use super::who::Who;
use crate::cli::compare::walk::{Aspect, one_line};

/// The version of the JSON: raised when a key changes its meaning.
const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    objects: Vec<Object<'a>>,
}

#[derive(Serialize)]
struct Object<'a> {
    path: String,
    changed_by: Who,
    differs: Vec<&'a str>,
    directory: bool,
}

/// One object a line: who has changed it, in what it differs, its path.
pub fn lines(out: &mut impl Write, differing: &[Differing]) -> io::Result<()> {
    for one in differing {
        let words = words(one).join(",");
        write!(out, "{:<7}  {words:<16}  ", one.who.word())?;
        out.write_all(&one_line(&one.path))?;
        out.write_all(if is_directory(one) { b"/\n" } else { b"\n" })?;
    }
    out.flush()
}

/// The same as JSON. Bytes of a path that are not UTF-8 are replaced.
pub fn json(out: &mut impl Write, differing: &[Differing]) -> io::Result<()> {
    let object = |one| Object {
        path: shown(one).display().to_string(),
        changed_by: one.who,
        differs: words(one),
        directory: is_directory(one),
    };
    let report = Report { version: JSON_VERSION, objects: differing.iter().map(object).collect() };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)?;
    out.flush()
}

/// How many there are of each kind, for people.
pub fn summary(differing: &[Differing]) -> String {
    let count = |who| differing.iter().filter(|one| one.who == who).count();
    let all = differing.len();
    let plural = if all == 1 { " differs" } else { "s differ" };
    format!(
        "{all} object{plural}: {} changed on leg A only, {} on leg B only, {} on both, {} unknown.",
        count(Who::A),
        count(Who::B),
        count(Who::Both),
        count(Who::Unknown)
    )
}

fn shown(one: &Differing) -> &Path {
    if one.path.as_os_str().is_empty() { Path::new(".") } else { &one.path }
}

fn is_directory(one: &Differing) -> bool {
    one.directory.iter().all(|(_, directory)| *directory != Some(false))
}

fn words(one: &Differing) -> Vec<&'static str> {
    let word = |aspect: &Aspect| match aspect {
        Aspect::OnlyOnA => "only-on-A",
        Aspect::OnlyOnB => "only-on-B",
        Aspect::Kind => "kind",
        Aspect::Links => "links",
        Aspect::Content => "content",
        Aspect::Metadata => "metadata",
        Aspect::Time => "time",
        Aspect::AccessTime => "access-time",
    };
    let mut aspects = one.aspects.clone();
    aspects.sort();
    aspects.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::PerLeg;

    fn differing(path: &str, who: Who, aspects: &[Aspect], directory: [Option<bool>; 2]) -> Differing {
        let directory = PerLeg::new(directory[0], directory[1]);
        Differing { path: path.into(), aspects: aspects.to_vec(), who, directory }
    }

    #[test]
    fn one_object_is_one_line_and_one_element() {
        let both_files = [Some(false); 2];
        let all = [
            differing("", Who::Both, &[Aspect::Time], [Some(true); 2]),
            differing("a\nb", Who::A, &[Aspect::Time, Aspect::Content], both_files),
            differing("new", Who::B, &[Aspect::OnlyOnB], [None, Some(true)]),
            differing("x", Who::Unknown, &[Aspect::Kind], [Some(true), Some(false)]),
        ];
        let mut text = Vec::new();
        lines(&mut text, &all).unwrap();
        let expected = "both     time              ./\n\
                        A        content,time      a\\nb\n\
                        B        only-on-B         new/\n\
                        unknown  kind              x\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        let mut text = Vec::new();
        json(&mut text, &all).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let first = serde_json::json!(
            {"path": ".", "changed_by": "both", "differs": ["time"], "directory": true}
        );
        assert_eq!((&value["version"], &value["objects"][0]), (&1.into(), &first));
        assert_eq!(value["objects"][1]["path"], "a\nb");
        let expected = "4 objects differ: 1 changed on leg A only, 1 on leg B only, 1 on both, 1 unknown.";
        assert_eq!(summary(&all), expected);
    }
}
