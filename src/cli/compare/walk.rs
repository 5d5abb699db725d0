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

/// What tells objects of one tree apart.
type Id = (u64, u64);

/// A comparison under way.
pub struct Walk<'a> {
    here: [File; 2],
    above: Vec<Level>,
    names: Vec<(OsString, [bool; 2])>,
    path: PathBuf,
    /// For each object of A with several names: the object of B that the first of them named there.
    pairs: HashMap<Id, Id>,
    /// The same from B to A.
    pairs_back: HashMap<Id, Id>,
    tell: &'a mut dyn FnMut(Vec<u8>),
    differences: u64,
}

/// A directory that is not done yet.
struct Level {
    ids: [Id; 2],
    names: Vec<(OsString, [bool; 2])>,
}

impl<'a> Walk<'a> {
    pub fn new(roots: [File; 2], tell: &'a mut dyn FnMut(Vec<u8>)) -> Walk<'a> {
        Walk {
            here: roots,
            above: Vec::new(),
            names: Vec::new(),
            path: PathBuf::new(),
            pairs: HashMap::new(),
            pairs_back: HashMap::new(),
            tell,
            differences: 0,
        }
    }

    pub fn differences(&self) -> u64 {
        self.differences
    }

    /// Where the comparison is, or stopped.
    pub fn path(&self) -> &Path {
        if self.path.as_os_str().is_empty() { Path::new(".") } else { &self.path }
    }

    pub fn run(&mut self) -> io::Result<()> {
        let roots = [Object::of_dir(&self.here[0])?, Object::of_dir(&self.here[1])?];
        self.compare_attributes(&roots)?;
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
        if present != [true, true] {
            let which = if present[0] { "A" } else { "B" };
            self.differ(&format!("only on {which}"));
            return Ok(false);
        }
        let both = [Object::open(&self.here[0], name)?, Object::open(&self.here[1], name)?];
        let kinds = [both[0].kind(), both[1].kind()];
        if kinds[0] != kinds[1] {
            self.differ_in("kind", kinds[0], kinds[1]);
            return Ok(false);
        }
        let directory = both[0].meta.is_dir();
        if !directory && self.met_before(&both) {
            return Ok(false);
        }
        self.compare_attributes(&both)?;
        let file_type = both[0].meta.file_type();
        if file_type.is_file() {
            self.compare_data(name, &both)?;
        } else if file_type.is_symlink() {
            let [a, b] = [both[0].target()?, both[1].target()?];
            if a != b {
                self.differ_in("symlink target", a.display(), b.display());
            }
        } else if (file_type.is_char_device() || file_type.is_block_device())
            && both[0].meta.rdev() != both[1].meta.rdev()
        {
            self.differ_in("device", both[0].meta.rdev(), both[1].meta.rdev());
        }
        if directory {
            self.go_down(name)?;
        }
        Ok(directory)
    }

    fn go_down(&mut self, name: &OsStr) -> io::Result<()> {
        let below = [object::open_dir(&self.here[0], name)?, object::open_dir(&self.here[1], name)?];
        let ids = [object::id(&self.here[0].metadata()?), object::id(&self.here[1].metadata()?)];
        self.here = below;
        let names = std::mem::replace(&mut self.names, union(&self.here)?);
        self.above.push(Level { ids, names });
        Ok(())
    }

    /// Whether both are further names of two objects that have been compared, and belong together on
    /// both sides alike.
    fn met_before(&mut self, both: &[Object; 2]) -> bool {
        let ids = [object::id(&both[0].meta), object::id(&both[1].meta)];
        let links = [both[0].meta.nlink(), both[1].meta.nlink()];
        if links == [1, 1] {
            return false;
        }
        let known = (self.pairs.get(&ids[0]).copied(), self.pairs_back.get(&ids[1]).copied());
        match known {
            (Some(b), Some(a)) if b == ids[1] && a == ids[0] => true,
            (None, None) => {
                self.pairs.insert(ids[0], ids[1]);
                self.pairs_back.insert(ids[1], ids[0]);
                if links[0] != links[1] {
                    self.differ_in("number of names", links[0], links[1]);
                }
                false
            }
            (known_a, known_b) => {
                let says =
                    |known: Option<Id>| if known.is_some() { "of an earlier name" } else { "of its own" };
                self.differ_in("hard links: object", says(known_a), says(known_b));
                false
            }
        }
    }

    fn compare_attributes(&mut self, both: &[Object; 2]) -> io::Result<()> {
        let [a, b] = [&both[0].meta, &both[1].meta];
        if a.mode() & 0o7777 != b.mode() & 0o7777 {
            self.differ_in(
                "mode",
                format!("{:04o}", a.mode() & 0o7777),
                format!("{:04o}", b.mode() & 0o7777),
            );
        }
        if (a.uid(), a.gid()) != (b.uid(), b.gid()) {
            self.differ_in("owner", format!("{}:{}", a.uid(), a.gid()), format!("{}:{}", b.uid(), b.gid()));
        }
        let time = |secs: i64, nanos: i64| format!("{secs}.{nanos:09}");
        if (a.mtime(), a.mtime_nsec()) != (b.mtime(), b.mtime_nsec()) {
            self.differ_in("mtime", time(a.mtime(), a.mtime_nsec()), time(b.mtime(), b.mtime_nsec()));
        }
        if !a.is_symlink() && (a.atime(), a.atime_nsec()) != (b.atime(), b.atime_nsec()) {
            self.differ_in("atime", time(a.atime(), a.atime_nsec()), time(b.atime(), b.atime_nsec()));
        }
        let [xattrs_a, xattrs_b] = [both[0].xattrs()?, both[1].xattrs()?];
        let names: std::collections::BTreeSet<_> = xattrs_a.keys().chain(xattrs_b.keys()).collect();
        for name in names {
            let values = [xattrs_a.get(name), xattrs_b.get(name)];
            if values[0] != values[1] {
                let what = format!("xattr {}", String::from_utf8_lossy(name));
                self.differ_in(&what, shown(values[0]), shown(values[1]));
            }
        }
        Ok(())
    }

    fn compare_data(&mut self, name: &OsStr, both: &[Object; 2]) -> io::Result<()> {
        let lens = [both[0].meta.len(), both[1].meta.len()];
        if lens[0] != lens[1] {
            self.differ_in("length", lens[0], lens[1]);
        }
        let files = [object::open_file(&self.here[0], name)?, object::open_file(&self.here[1], name)?];
        if let Some(at) = object::first_difference(&files, lens[0].min(lens[1]))? {
            self.differ(&format!("data from byte {at}"));
        }
        Ok(())
    }

    fn differ_in(&mut self, what: &str, a: impl std::fmt::Display, b: impl std::fmt::Display) {
        self.differ(&format!("{what} (A: {a} B: {b})"));
    }

    fn differ(&mut self, what: &str) {
        self.differences += 1;
        // One difference is one line, whatever is in a name.
        let mut line = Vec::new();
        for &byte in self.path().as_os_str().as_bytes() {
            match byte {
                b'\n' => line.extend(b"\\n"),
                b'\\' => line.extend(b"\\\\"),
                byte => line.push(byte),
            }
        }
        line.extend(b": ");
        line.extend(what.replace('\n', "\\n").into_bytes());
        (self.tell)(line);
    }
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
