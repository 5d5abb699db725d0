//! Compares two trees in everything that mirrorfs promises to keep equal (P3). Written against the
//! system only: it shares no code with the daemon, so that one mistake cannot hide another.
//!
//! Compared: names, types, data, length, mode, owner, modification time, access time (but of
//! symlinks, whose access time reading them changes), extended attributes with ACLs, link targets,
//! device numbers, and which names are links to one inode. Not compared: inode numbers, change and
//! birth times, which nobody can set, and how many blocks are in use.
//!
//! Reads without touching access times, so that comparing changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, Stat};

use super::process::must;

/// The mirror's own directory at a leg's root, which belongs to no user.
const STATE_DIRECTORY: &str = ".mirrorfs";

/// More lines than this help nobody.
const ENOUGH: usize = 200;

/// Fails the test with the list of differences, if there are any.
pub fn assert_equal(a: &Path, b: &Path) {
    let found = differences(a, b);
    assert!(found.is_empty(), "the legs differ:\n  {}", found.join("\n  "));
}

/// Fails the test unless both hold the same names, data, link targets. Of times the protocol of sshfs
/// (SFTP 3) carries whole seconds only, and a symlink's not at all.
pub fn assert_same_data(a: &Path, b: &Path) {
    must(
        std::process::Command::new("diff")
            .args(["-r", "--no-dereference", "--exclude=.mirrorfs"])
            .args([a, b]),
    );
}

/// Every difference between two trees, a line each.
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    let mut comparison =
        Comparison { roots: [a, b], found: Vec::new(), twins: HashMap::new(), taken: HashMap::new() };
    comparison.object(Path::new(""));
    comparison.found
}

struct Comparison<'a> {
    roots: [&'a Path; 2],
    found: Vec<String>,
    /// Inode of a file with several names on A, and the inode its first name has on B.
    twins: HashMap<u64, u64>,
    /// The same, from B to A.
    taken: HashMap<u64, u64>,
}

impl Comparison<'_> {
    fn object(&mut self, path: &Path) {
        let paths = self.roots.map(|root| root.join(path));
        let stats = paths.each_ref().map(|path| rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW));
        let [a, b] = match stats {
            [Ok(a), Ok(b)] => [a, b],
            [a, b] => return self.differ(path, "stat", &a.err(), &b.err(), true),
        };
        let [kind_a, kind_b] = [a, b].map(|stat| FileType::from_raw_mode(stat.st_mode));
        self.differ(path, "type", &kind_a, &kind_b, false);
        if kind_a != kind_b {
            return;
        }
        self.attributes(path, kind_a, &a, &b);
        self.attempt(path, "extended attributes", &paths, xattrs);
        self.links(path, &a, &b);
        match kind_a {
            FileType::Directory => self.directory(path, &paths),
            FileType::Symlink => self.attempt(path, "link target", &paths, |path| std::fs::read_link(path)),
            FileType::RegularFile => self.data(path, &paths),
            _ => self.differ(path, "device number", &a.st_rdev, &b.st_rdev, false),
        }
    }

    fn attributes(&mut self, path: &Path, kind: FileType, a: &Stat, b: &Stat) {
        self.differ(path, "mode", &Octal(a.st_mode), &Octal(b.st_mode), false);
        self.differ(path, "owner", &(a.st_uid, a.st_gid), &(b.st_uid, b.st_gid), false);
        self.differ(path, "mtime", &(a.st_mtime, a.st_mtime_nsec), &(b.st_mtime, b.st_mtime_nsec), false);
        if kind != FileType::Symlink {
            self.differ(path, "atime", &(a.st_atime, a.st_atime_nsec), &(b.st_atime, b.st_atime_nsec), false);
        }
        // Filesystems count a directory's links and size in their own ways.
        if kind != FileType::Directory {
            self.differ(path, "number of links", &a.st_nlink, &b.st_nlink, false);
            self.differ(path, "size", &a.st_size, &b.st_size, false);
        }
    }

    /// Names that are one inode on A have to be one inode on B, and the other way round.
    fn links(&mut self, path: &Path, a: &Stat, b: &Stat) {
        if a.st_nlink < 2 || FileType::from_raw_mode(a.st_mode) == FileType::Directory {
            return;
        }
        let expected_b = *self.twins.entry(a.st_ino).or_insert(b.st_ino);
        let expected_a = *self.taken.entry(b.st_ino).or_insert(a.st_ino);
        if (expected_a, expected_b) != (a.st_ino, b.st_ino) {
            self.report(path, "is a link to different files on the two legs".into());
        }
    }

    fn directory(&mut self, path: &Path, paths: &[PathBuf; 2]) {
        let is_root = path.as_os_str().is_empty();
        let names = paths.each_ref().map(|path| names(path, is_root));
        let [Ok(a), Ok(b)] = names else {
            return self.report(path, format!("cannot be listed: {names:?}"));
        };
        for name in a.symmetric_difference(&b) {
            let only_on = if a.contains(name) { "A" } else { "B" };
            self.report(&path.join(name), format!("is only on leg {only_on}"));
        }
        for name in a.intersection(&b) {
            self.object(&path.join(name));
        }
    }

    fn data(&mut self, path: &Path, paths: &[PathBuf; 2]) {
        match first_difference(&paths[0], &paths[1]) {
            Ok(None) => {}
            Ok(Some(offset)) => self.report(path, format!("data differ from byte {offset}")),
            Err(error) => self.report(path, format!("cannot be read: {error}")),
        }
    }

    fn attempt<T: std::fmt::Debug>(
        &mut self,
        path: &Path,
        what: &str,
        paths: &[PathBuf; 2],
        get: impl Fn(&Path) -> io::Result<T>,
    ) {
        match paths.each_ref().map(|path| get(path)) {
            [Ok(a), Ok(b)] => self.differ(path, what, &a, &b, false),
            [a, b] => self.differ(path, what, &a, &b, true),
        }
    }

    fn differ(
        &mut self,
        path: &Path,
        what: &str,
        a: &impl std::fmt::Debug,
        b: &impl std::fmt::Debug,
        always: bool,
    ) {
        let [a, b] = [format!("{a:?}"), format!("{b:?}")];
        if always || a != b {
            self.report(path, format!("{what}: A has {a}, B has {b}"));
        }
    }

    fn report(&mut self, path: &Path, what: String) {
        if self.found.len() < ENOUGH {
            self.found.push(format!("/{}: {what}", path.display()));
        }
    }
}

/// Mode bits, shown as people write them.
struct Octal(u32);

impl std::fmt::Debug for Octal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:o}", self.0 & 0o7777)
    }
}

/// Opens without a trace where that is allowed (to the owner and to root).
pub fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty());
    Ok(File::from(opened.or_else(|_| rustix::fs::open(path, flags, Mode::empty()))?))
}

pub fn names(path: &Path, is_root: bool) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::new(open(path, OFlags::DIRECTORY)?)? {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        let ours = is_root && name == OsStr::new(STATE_DIRECTORY);
        if !ours && name != OsStr::new(".") && name != OsStr::new("..") {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Name and value of every extended attribute.
fn xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut list = vec![0; 64 << 10];
    let used = rustix::fs::llistxattr(path, &mut list[..])?;
    let mut found = BTreeMap::new();
    for name in list[..used].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let used = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(used);
        found.insert(OsStr::from_bytes(name).to_owned(), value);
    }
    Ok(found)
}

/// The first byte in which two files differ. Where both have a hole nothing is read, so that a
/// sparse file of terabytes is compared at once.
fn first_difference(a: &Path, b: &Path) -> io::Result<Option<u64>> {
    let files = [open(a, OFlags::NONBLOCK)?, open(b, OFlags::NONBLOCK)?];
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let mut offset = 0;
    while let Some(start) = next_data(&files, offset)? {
        offset = start;
        let [len_a, len_b] = [0, 1].map(|leg| fill(&files[leg], &mut buffers[leg], offset));
        let [data_a, data_b] = [&buffers[0][..len_a?], &buffers[1][..len_b?]];
        if let Some(at) = data_a.iter().zip(data_b).position(|(a, b)| a != b) {
            return Ok(Some(offset + at as u64));
        }
        if data_a.len() != data_b.len() {
            return Ok(Some(offset + data_a.len().min(data_b.len()) as u64));
        }
        offset += data_a.len() as u64;
    }
    Ok(None)
}

/// Where the next data of either file are, at or after `offset`.
fn next_data(files: &[File; 2], offset: u64) -> io::Result<Option<u64>> {
    let mut next = None;
    for file in files {
        match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => next = Some(next.map_or(start, |other: u64| other.min(start))),
            Err(rustix::io::Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(next)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], offset + len as u64)? {
            0 => break,
            more => len += more,
        }
    }
    Ok(len)
}
