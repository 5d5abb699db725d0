//! A leg on which an object is known by where it lies, for as long as this is in use.
//!
//! A FUSE filesystem may number its objects anew whenever it likes. Where they have to be known for longer than a look,
//! as while a leg is filled, that will not do. Here what is found at a place has a number of its own, which goes with it when
//! it is moved *through this*. What others move is another object at its new place, and what they put in its old one passes for
//! it: they have to tell (see `ops::filling`).
//!
//! One thing the leg's own numbers are asked for: whether two names are one object's.
//!
//! Invariant: the numbers are never given out again. So memory grows with what is looked at, by some 200 bytes a name.

mod book;

use std::ffi::{OsStr, OsString};
use std::io::{self, Result};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use book::{Book, Looks};

use super::{
    Area, Creator, Entry, Identity, Keeps, Kind, Leg, Make, OpenMode, RenameMode, Seek, Stat, Statfs,
    Timestamp,
};
use crate::bitmap::WriteIntent;
use crate::error::errno;
use crate::sync::{Mutex, Rank};

const ROOT: u64 = 1;
/// The first number of what lies on the leg, behind those of the mirror's own directories.
const FIRST: u64 = 16;
/// The first number of what stands for a place, whatever lies there.
const FIRST_NOTED: u64 = 1 << 63;

fn number_of(area: Area) -> u64 {
    match area {
        Area::Incoming => 2,
        Area::Parked => 3,
        Area::Conflicts => 4,
    }
}

/// See the module.
pub struct ByPlace<L: Leg> {
    leg: Arc<L>,
    book: Mutex<Book>,
    /// Places that were told of.
    noted: Mutex<Book>,
}

/// An object of such a leg, pinned.
#[derive(Clone)]
pub struct Node<N> {
    node: N,
    number: u64,
}

fn identity(number: u64) -> Identity {
    Identity { ino: number, handle: None }
}

fn looks(stat: &Stat) -> Looks {
    let is_linked = stat.kind != Kind::Directory && stat.nlink > 1;
    Looks { kind: stat.kind, real: stat.ino, is_linked }
}

impl<L: Leg> ByPlace<L> {
    /// Nothing of it is known yet.
    pub fn new(leg: Arc<L>) -> Self {
        let book = |first| Mutex::new(Rank::Leaf, Book::new(first));
        ByPlace { leg, book: book(FIRST), noted: book(FIRST_NOTED) }
    }

    /// What stands for this place, for [`same_place`](Self::same_place). The path has no `.` or `..`. Asks the leg
    /// nothing.
    pub fn place(&self, path: &Path) -> Identity {
        const ANY: Looks = Looks { kind: Kind::Directory, real: 0, is_linked: false };
        let mut noted = self.noted.lock();
        identity(path.iter().fold(ROOT, |dir, name| noted.see(dir, name, ANY)))
    }

    /// What lies here, and what lies on `other` at the same place.
    ///
    /// # Errors
    /// Only those that do not tell that nothing lies there.
    pub fn same_place(&self, known: &Identity, other: &Self) -> Result<[Option<(Identity, Stat)>; 2]> {
        let is_noted = known.ino >= FIRST_NOTED;
        let book = if is_noted { &self.noted } else { &self.book };
        let ways = book.lock().ways(known.ino, ROOT);
        for way in ways {
            let here = self.look_at(&way)?;
            // What has several names may have lost one to another object.
            if let Some(here) = here.filter(|(identity, _)| is_noted || identity == known) {
                return Ok([Some(here), other.look_at(&way)?]);
            }
        }
        Ok([None, None])
    }

    fn look_at(&self, path: &[Arc<OsStr>]) -> Result<Option<(Identity, Stat)>> {
        let Some((last, dirs)) = path.split_last() else {
            return Ok(Some((identity(ROOT), self.stat(&self.root())?)));
        };
        let dir = dirs.iter().try_fold(self.root(), |dir, name| self.child(&dir, name));
        match dir.and_then(|dir| self.lookup(&dir, last)) {
            Err(error) if is_nothing(&error) => Ok(None),
            found => found.map(Some),
        }
    }

    fn seen(&self, dir: u64, name: &OsStr, node: L::Node) -> Result<Node<L::Node>> {
        let looks = looks(&self.leg.stat(&node)?);
        Ok(Node { number: self.book.lock().see(dir, name, looks), node })
    }

    fn shown(&self, dir: &Node<L::Node>, name: &OsStr, stat: Stat) -> (Identity, Stat) {
        let number = self.book.lock().see(dir.number, name, looks(&stat));
        (identity(number), Stat { ino: number, ..stat })
    }

    /// The same of what was just made there.
    fn shown_new(&self, dir: &Node<L::Node>, name: &OsStr, stat: Stat) -> (Identity, Stat) {
        self.book.lock().left(dir.number, name);
        self.shown(dir, name, stat)
    }

    fn fixed(&self, number: u64) -> Option<Result<Node<L::Node>>> {
        if number == ROOT {
            return Some(Ok(self.root()));
        }
        let areas = [Area::Incoming, Area::Parked, Area::Conflicts];
        areas.into_iter().find(|&area| number_of(area) == number).map(|area| self.area(area))
    }
}

/// Whether nothing lies at a place of which a look at it gives this error.
fn is_nothing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ELOOP))
}

impl<L: Leg> Leg for ByPlace<L> {
    type Node = Node<L::Node>;
    type File = L::File;

    fn root(&self) -> Self::Node {
        Node { node: self.leg.root(), number: ROOT }
    }

    fn area(&self, area: Area) -> Result<Self::Node> {
        Ok(Node { node: self.leg.area(area)?, number: number_of(area) })
    }

    fn find(&self, known: &Identity) -> Result<Self::Node> {
        if let Some(fixed) = self.fixed(known.ino) {
            return fixed;
        }
        let places = self.book.lock().places(known.ino);
        for ((dir, name), wanted) in places {
            let at = || self.leg.child(&self.find(&identity(dir))?.node, &name);
            let node = match at() {
                Err(error) if is_nothing(&error) => continue,
                node => node?,
            };
            let stat = self.leg.stat(&node)?;
            if stat.kind == wanted.kind && (!wanted.is_linked || wanted.real == stat.ino) {
                return Ok(Node { node, number: known.ino });
            }
        }
        Err(errno(libc::ESTALE))
    }

    fn lookup(&self, dir: &Self::Node, name: &OsStr) -> Result<(Identity, Stat)> {
        let (_, stat) = self.leg.lookup(&dir.node, name)?;
        Ok(self.shown(dir, name, stat))
    }

    fn child(&self, dir: &Self::Node, name: &OsStr) -> Result<Self::Node> {
        self.seen(dir.number, name, self.leg.child(&dir.node, name)?)
    }

    fn parent(&self, dir: &Self::Node) -> Result<Self::Node> {
        let place = self.book.lock().places(dir.number).pop();
        let Some(((number, _), _)) = place else { return Err(errno(libc::ENOENT)) };
        Ok(Node { node: self.leg.parent(&dir.node)?, number })
    }

    fn identity(&self, node: &Self::Node) -> Result<Identity> {
        Ok(identity(node.number))
    }

    fn stat(&self, node: &Self::Node) -> Result<Stat> {
        Ok(Stat { ino: node.number, ..self.leg.stat(&node.node)? })
    }

    fn stat_file(&self, file: &L::File) -> Result<Stat> {
        self.leg.stat_file(file)
    }

    fn readlink(&self, node: &Self::Node) -> Result<OsString> {
        self.leg.readlink(&node.node)
    }

    fn read_dir(&self, dir: &Self::Node) -> Result<Vec<Entry>> {
        let mut entries = self.leg.read_dir(&dir.node)?;
        let mut book = self.book.lock();
        for entry in &mut entries {
            entry.ino = book.see_entry(dir.number, &entry.name, entry.kind, entry.ino);
        }
        Ok(entries)
    }

    fn get_xattr(&self, node: &Self::Node, name: &OsStr) -> Result<Vec<u8>> {
        self.leg.get_xattr(&node.node, name)
    }

    fn list_xattr(&self, node: &Self::Node) -> Result<Vec<OsString>> {
        self.leg.list_xattr(&node.node)
    }

    fn statfs(&self) -> Result<Statfs> {
        self.leg.statfs()
    }

    // As long as this is in use.
    fn identities_last(&self) -> bool {
        true
    }

    fn measure(&self) {
        self.leg.measure();
    }

    fn keeps(&self) -> Keeps {
        self.leg.keeps()
    }

    fn birth_now(&self) -> Result<Option<Timestamp>> {
        self.leg.birth_now()
    }

    fn open(&self, node: &Self::Node, mode: OpenMode) -> Result<L::File> {
        self.leg.open(&node.node, mode)
    }

    fn descriptor<'f>(&self, file: &'f L::File) -> Option<BorrowedFd<'f>> {
        self.leg.descriptor(file)
    }

    fn read(&self, file: &L::File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.leg.read(file, buf, offset)
    }

    fn read_stored(&self, file: &L::File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.leg.read_stored(file, buf, offset)
    }

    fn seek(&self, file: &L::File, offset: u64, what: Seek) -> Result<u64> {
        self.leg.seek(file, offset, what)
    }

    fn make(
        &self,
        intent: &WriteIntent<'_>,
        dir: &Self::Node,
        name: &OsStr,
        what: Make<'_>,
        creator: Creator,
    ) -> Result<(Identity, Stat)> {
        let (_, stat) = self.leg.make(intent, &dir.node, name, what, creator)?;
        Ok(self.shown_new(dir, name, stat))
    }

    fn create(
        &self,
        intent: &WriteIntent<'_>,
        dir: &Self::Node,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        open: OpenMode,
    ) -> Result<(Identity, Stat, L::File)> {
        let (_, stat, file) = self.leg.create(intent, &dir.node, name, mode, creator, open)?;
        let (identity, stat) = self.shown_new(dir, name, stat);
        Ok((identity, stat, file))
    }

    fn link(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        dir: &Self::Node,
        name: &OsStr,
    ) -> Result<()> {
        self.leg.link(intent, &node.node, &dir.node, name)?;
        let stat = self.leg.stat(&node.node)?;
        self.book.lock().linked(node.number, dir.number, name, looks(&stat));
        Ok(())
    }

    fn unlink(&self, intent: &WriteIntent<'_>, dir: &Self::Node, name: &OsStr) -> Result<()> {
        self.leg.unlink(intent, &dir.node, name)?;
        self.book.lock().left(dir.number, name);
        Ok(())
    }

    fn rmdir(&self, intent: &WriteIntent<'_>, dir: &Self::Node, name: &OsStr) -> Result<()> {
        self.leg.rmdir(intent, &dir.node, name)?;
        self.book.lock().left(dir.number, name);
        Ok(())
    }

    fn rename(
        &self,
        intent: &WriteIntent<'_>,
        (from, name): (&Self::Node, &OsStr),
        (to, new_name): (&Self::Node, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        self.leg.rename(intent, (&from.node, name), (&to.node, new_name), mode)?;
        self.book.lock().moved((from.number, name), (to.number, new_name), mode);
        Ok(())
    }

    fn set_mode(&self, intent: &WriteIntent<'_>, node: &Self::Node, mode: u32) -> Result<()> {
        self.leg.set_mode(intent, &node.node, mode)
    }

    fn set_owner(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        self.leg.set_owner(intent, &node.node, uid, gid)
    }

    fn set_times(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<()> {
        self.leg.set_times(intent, &node.node, atime, mtime)
    }

    fn truncate(&self, intent: &WriteIntent<'_>, node: &Self::Node, size: u64) -> Result<()> {
        self.leg.truncate(intent, &node.node, size)
    }

    fn set_xattr(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        self.leg.set_xattr(intent, &node.node, name, value, flags)
    }

    fn remove_xattr(&self, intent: &WriteIntent<'_>, node: &Self::Node, name: &OsStr) -> Result<()> {
        self.leg.remove_xattr(intent, &node.node, name)
    }

    fn write(&self, intent: &WriteIntent<'_>, file: &L::File, data: &[u8], offset: u64) -> Result<usize> {
        self.leg.write(intent, file, data, offset)
    }

    fn fallocate(
        &self,
        intent: &WriteIntent<'_>,
        file: &L::File,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        self.leg.fallocate(intent, file, mode, offset, len)
    }

    fn copy_range(
        &self,
        intent: &WriteIntent<'_>,
        from: (&L::File, u64),
        to: (&L::File, u64),
        len: u64,
    ) -> Result<usize> {
        self.leg.copy_range(intent, from, to, len)
    }

    fn sync_file(&self, file: &L::File, data_only: bool) -> Result<()> {
        self.leg.sync_file(file, data_only)
    }

    fn sync_node(&self, node: &Self::Node) -> Result<()> {
        self.leg.sync_node(&node.node)
    }

    fn sync_all(&self) -> Result<()> {
        self.leg.sync_all()
    }

    fn probe(&self) {
        self.leg.probe();
    }

    fn answers(&self) -> bool {
        self.leg.answers()
    }

    fn detach_callers(&self, wanted: bool) {
        self.leg.detach_callers(wanted);
    }

    fn give_up(&self) {
        self.leg.give_up();
    }

    fn is_given_up(&self) -> bool {
        self.leg.is_given_up()
    }
}
