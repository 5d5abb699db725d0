//! Both trees at once, name by name. Holds one directory of each tree open, however deep they are.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::object::{self, Object};
use crate::layout;
use crate::sys;

/// In what the trees differ under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// Only the first tree has the name.
    OnlyOnA,
    /// Only the second one has it.
    OnlyOnB,
    /// Another kind of object, or another device.
    Kind,
    /// Which names belong to one object.
    Links,
    /// Data, length, or a symlink's target.
    Content,
    /// Mode, owner, extended attributes with ACLs.
    Metadata,
    /// Modification time.
    Time,
    /// Access time: reading changes it.
    AccessTime,
}

/// One name.
pub struct At<'w> {
    /// Below the roots; empty for the roots themselves.
    pub path: &'w Path,
    /// The directories that have it; the roots have themselves.
    pub dirs: &'w [File; 2],
    /// What it names, when both trees have it.
    pub both: Option<&'w [Object; 2]>,
}

impl At<'_> {
    /// The name itself; `None` for the roots.
    pub fn name(&self) -> Option<&OsStr> {
        self.path.file_name()
    }
}

/// Is told of what is seen.
pub trait Witness {
    /// The trees differ here. Called once for each difference, for one name without another in between.
    fn differs(&mut self, at: &At<'_>, aspect: Aspect, says: &str) -> io::Result<()>;

    /// A name of two objects of one kind, no directories, of which one or both have several.
    fn has_links(&mut self, _at: &At<'_>, _both: &[Object; 2]) {}
}

/// What tells objects of one tree apart.
type Id = (u64, u64);

/// A comparison under way.
pub struct Walk<'a> {
    here: [File; 2],
    above: Vec<Level>,
    names: Vec<(OsString, [bool; 2])>,
    path: PathBuf,
    links: Links,
    /// Which of the trees are on a FUSE filesystem.
    on_fuse: [bool; 2],
    witness: &'a mut dyn Witness,
}

/// A directory that is not done yet.
struct Level {
    ids: [Id; 2],
    names: Vec<(OsString, [bool; 2])>,
}

impl<'a> Walk<'a> {
    pub fn new(roots: [File; 2], witness: &'a mut dyn Witness) -> Walk<'a> {
        let (above, names, path) = (Vec::new(), Vec::new(), PathBuf::new());
        let on_fuse = roots.each_ref().map(|root| sys::file::is_on_fuse(root).unwrap_or(false));
        Walk { here: roots, above, names, path, links: Links::default(), on_fuse, witness }
    }

    /// Where the comparison is, or stopped.
    pub fn path(&self) -> &Path {
        shown_path(&self.path)
    }

    pub fn run(&mut self) -> io::Result<()> {
        let roots = [Object::of_dir(&self.here[0])?, Object::of_dir(&self.here[1])?];
        let at = At { path: &self.path, dirs: &self.here, both: Some(&roots) };
        compare_attributes(&at, &roots, self.on_fuse, self.witness)?;
        self.names = union(&self.here)?;
        self.names.retain(|(name, _)| !layout::is_hidden(name));
        loop {
            if let Some((name, present)) = self.names.pop() {
                self.path.push(&name);
                if !self.name(&name, present)? {
                    self.path.pop();
                }
            } else if let Some(level) = self.above.pop() {
                self.here =
                    [object::up(&self.here[0], level.ids[0])?, object::up(&self.here[1], level.ids[1])?];
                self.names = level.names;
                self.path.pop();
            } else {
                return Ok(());
            }
        }
    }

    /// Compares what a name names. True when it has gone down into a directory.
    fn name(&mut self, name: &OsStr, present: [bool; 2]) -> io::Result<bool> {
        let at = At { path: &self.path, dirs: &self.here, both: None };
        if present != [true, true] {
            let (aspect, which) =
                if present[0] { (Aspect::OnlyOnA, "only on A") } else { (Aspect::OnlyOnB, "only on B") };
            self.witness.differs(&at, aspect, which)?;
            return Ok(false);
        }
        let both = [Object::open(&self.here[0], name)?, Object::open(&self.here[1], name)?];
        let at = At { both: Some(&both), ..at };
        let kinds = [both[0].kind(), both[1].kind()];
        if kinds[0] != kinds[1] {
            self.witness.differs(&at, Aspect::Kind, &differ_in("kind", kinds[0], kinds[1]))?;
            return Ok(false);
        }
        if both[0].meta.is_dir() {
            compare_attributes(&at, &both, self.on_fuse, self.witness)?;
            self.go_down(name)?;
            return Ok(true);
        }
        if !self.links.met_before(&at, &both, self.witness)? {
            compare_attributes(&at, &both, self.on_fuse, self.witness)?;
            compare_content(&at, name, &both, self.witness)?;
        }
        Ok(false)
    }

    fn go_down(&mut self, name: &OsStr) -> io::Result<()> {
        let below = [object::open_dir(&self.here[0], name)?, object::open_dir(&self.here[1], name)?];
        let ids = [object::id(&self.here[0].metadata()?), object::id(&self.here[1].metadata()?)];
        self.here = below;
        let names = std::mem::replace(&mut self.names, union(&self.here)?);
        self.above.push(Level { ids, names });
        Ok(())
    }
}

/// Objects with several names that have been met.
#[derive(Default)]
struct Links {
    /// For each object of A: the object of B that the first of its names named there.
    pairs: HashMap<Id, Id>,
    /// The same from B to A.
    pairs_back: HashMap<Id, Id>,
}

impl Links {
    /// Whether both are further names of two objects that have been compared, and belong together on
    /// both sides alike.
    fn met_before(&mut self, at: &At<'_>, both: &[Object; 2], witness: &mut dyn Witness) -> io::Result<bool> {
        let ids = [object::id(&both[0].meta), object::id(&both[1].meta)];
        let links = [both[0].meta.nlink(), both[1].meta.nlink()];
        if links == [1, 1] {
            return Ok(false);
        }
        witness.has_links(at, both);
        let known = (self.pairs.get(&ids[0]).copied(), self.pairs_back.get(&ids[1]).copied());
        match known {
            (Some(b), Some(a)) if b == ids[1] && a == ids[0] => Ok(true),
            (None, None) => {
                self.pairs.insert(ids[0], ids[1]);
                self.pairs_back.insert(ids[1], ids[0]);
                if links[0] != links[1] {
                    let says = differ_in("number of names", links[0], links[1]);
                    witness.differs(at, Aspect::Links, &says)?;
                }
                Ok(false)
            }
            (known_a, known_b) => {
                let says =
                    |known: Option<Id>| if known.is_some() { "of an earlier name" } else { "of its own" };
                let says = differ_in("hard links: object", says(known_a), says(known_b));
                witness.differs(at, Aspect::Links, &says)?;
                Ok(false)
            }
        }
    }
}

/// Whether two times differ in more than their filesystems keep. On FUSE a whole second stands for any time in it:
/// what such a filesystem keeps could be told only by changing something there.
fn times_differ(times: [(i64, i64); 2], on_fuse: [bool; 2]) -> bool {
    let [a, b] = times;
    let is_coarse = (on_fuse[0] && a.1 == 0) || (on_fuse[1] && b.1 == 0);
    a.0 != b.0 || (a.1 != b.1 && !is_coarse)
}

fn compare_attributes(
    at: &At<'_>,
    both: &[Object; 2],
    on_fuse: [bool; 2],
    witness: &mut dyn Witness,
) -> io::Result<()> {
    let [a, b] = [&both[0].meta, &both[1].meta];
    let mut differs =
        |aspect, what: &str, a: String, b: String| witness.differs(at, aspect, &differ_in(what, a, b));
    if a.mode() & 0o7777 != b.mode() & 0o7777 {
        let mode = |mode: u32| format!("{:04o}", mode & 0o7777);
        differs(Aspect::Metadata, "mode", mode(a.mode()), mode(b.mode()))?;
    }
    let kept = !a.is_symlink() || on_fuse == [false, false];
    if kept && (a.uid(), a.gid()) != (b.uid(), b.gid()) {
        let owner = |meta: &std::fs::Metadata| format!("{}:{}", meta.uid(), meta.gid());
        differs(Aspect::Metadata, "owner", owner(a), owner(b))?;
    }
    let time = |secs: i64, nanos: i64| format!("{secs}.{nanos:09}");
    let [a_mtime, b_mtime] = [a, b].map(|meta| (meta.mtime(), meta.mtime_nsec()));
    if kept && times_differ([a_mtime, b_mtime], on_fuse) {
        differs(Aspect::Time, "mtime", time(a.mtime(), a.mtime_nsec()), time(b.mtime(), b.mtime_nsec()))?;
    }
    let [a_atime, b_atime] = [a, b].map(|meta| (meta.atime(), meta.atime_nsec()));
    if !a.is_symlink() && times_differ([a_atime, b_atime], on_fuse) {
        differs(
            Aspect::AccessTime,
            "atime",
            time(a.atime(), a.atime_nsec()),
            time(b.atime(), b.atime_nsec()),
        )?;
    }
    let [xattrs_a, xattrs_b] = [both[0].xattrs()?, both[1].xattrs()?];
    let names: std::collections::BTreeSet<_> = xattrs_a.keys().chain(xattrs_b.keys()).collect();
    for name in names {
        let values = [xattrs_a.get(name), xattrs_b.get(name)];
        if values[0] != values[1] {
            let what = format!("xattr {}", String::from_utf8_lossy(name));
            differs(Aspect::Metadata, &what, shown(values[0]), shown(values[1]))?;
        }
    }
    Ok(())
}

/// What is in two objects of one kind that are no directories.
fn compare_content(
    at: &At<'_>,
    name: &OsStr,
    both: &[Object; 2],
    witness: &mut dyn Witness,
) -> io::Result<()> {
    let file_type = both[0].meta.file_type();
    if file_type.is_file() {
        return compare_data(at, name, both, witness);
    }
    if file_type.is_symlink() {
        let [a, b] = [both[0].target()?, both[1].target()?];
        if a != b {
            let says = differ_in("symlink target", a.display(), b.display());
            witness.differs(at, Aspect::Content, &says)?;
        }
    }
    let rdev = [both[0].meta.rdev(), both[1].meta.rdev()];
    if (file_type.is_char_device() || file_type.is_block_device()) && rdev[0] != rdev[1] {
        witness.differs(at, Aspect::Kind, &differ_in("device", rdev[0], rdev[1]))?;
    }
    Ok(())
}

fn compare_data(at: &At<'_>, name: &OsStr, both: &[Object; 2], witness: &mut dyn Witness) -> io::Result<()> {
    let lens = [both[0].meta.len(), both[1].meta.len()];
    if lens[0] != lens[1] {
        witness.differs(at, Aspect::Content, &differ_in("length", lens[0], lens[1]))?;
    }
    let files = [object::open_file(&at.dirs[0], name)?, object::open_file(&at.dirs[1], name)?];
    if let Some(from) = object::first_difference(&files, lens[0].min(lens[1]))? {
        witness.differs(at, Aspect::Content, &format!("data from byte {from}"))?;
    }
    Ok(())
}

fn differ_in(what: &str, a: impl std::fmt::Display, b: impl std::fmt::Display) -> String {
    format!("{what} (A: {a} B: {b})")
}

fn shown_path(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// A path as one line, whatever is in a name.
pub fn one_line(path: &Path) -> Vec<u8> {
    let mut line = Vec::new();
    for &byte in shown_path(path).as_os_str().as_bytes() {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\\' => line.extend(b"\\\\"),
            byte => line.push(byte),
        }
    }
    line
}

/// Names of both directories, in descending order, with the sides that have them.
fn union(dirs: &[File; 2]) -> io::Result<Vec<(OsString, [bool; 2])>> {
    let mut union: std::collections::BTreeMap<OsString, [bool; 2]> = Default::default();
    for (side, dir) in dirs.iter().enumerate() {
        for name in object::names(dir)? {
            union.entry(name).or_default()[side] = true;
        }
    }
    Ok(union.into_iter().rev().collect())
}

fn shown(value: Option<&Vec<u8>>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => {
            let text: String = value
                .iter()
                .take(32)
                .flat_map(|&byte| std::ascii::escape_default(byte))
                .map(char::from)
                .collect();
            let more = if value.len() > 32 { ".." } else { "" };
            format!("\"{text}{more}\" of {} bytes", value.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_fuse_a_whole_second_stands_for_any_time_in_it() {
        // (A, B, on FUSE, differ)
        let table = [
            ((5, 1), (5, 1), [false, false], false),
            ((5, 1), (5, 0), [false, false], true),
            ((5, 1), (5, 0), [false, true], false),
            ((5, 1), (5, 0), [true, false], true),
            ((5, 0), (5, 1), [true, false], false),
            ((5, 1), (6, 0), [false, true], true),
            ((5, 1), (5, 2), [true, true], true),
        ];
        for (a, b, on_fuse, differ) in table {
            assert_eq!(times_differ([a, b], on_fuse), differ, "{a:?} {b:?} {on_fuse:?}");
        }
    }
}
