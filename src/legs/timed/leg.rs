//! The calls of a [`Leg`], each made in place with what is borrowed, or by a courier with copies of it.
//!
//! Couriers get a lent intent: see [`WriteIntent::lend`].

// One expression serves what is borrowed and what is owned.
#![allow(clippy::needless_borrow)]

use std::ffi::{OsStr, OsString};
use std::io::Result;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::{File, Pace, Timed};
use crate::bitmap::WriteIntent;
use crate::legs::{
    Area, Creator, Entry, Identity, Keeps, Leg, Make, OpenMode, RenameMode, Seek, Stat, Statfs, Timestamp,
};

/// One call in both ways: `[name = what a courier takes along instead]`, then the call.
macro_rules! ask {
    ($timed:ident, $pace:expr, [$($arg:ident = $owned:expr),* $(,)?], |$leg:ident| $call:expr) => {
        match $timed.watch() {
            Some(watch) => $timed.in_place(watch, |$leg| $call),
            None => {
                $(let $arg = $owned;)*
                $timed.by_courier($pace, move |$leg| $call)
            }
        }
    };
}

/// The same for what is answered promptly.
macro_rules! prompt {
    ($timed:ident, [$($args:tt)*], |$leg:ident| $call:expr) => {
        ask!($timed, Pace::Prompt, [$($args)*], |$leg| $call)
    };
}

impl<L: Leg> Timed<L> {
    fn open_file(&self, file: L::File) -> File<L::File> {
        File::new(file, &self.closing)
    }
}

impl<L: Leg> Leg for Timed<L> {
    type Node = L::Node;
    type File = File<L::File>;

    fn root(&self) -> L::Node {
        self.leg.root()
    }

    fn area(&self, area: Area) -> Result<L::Node> {
        prompt!(self, [], |leg| leg.area(area))
    }

    fn find(&self, identity: &Identity) -> Result<L::Node> {
        ask!(self, Pace::Long, [identity = *identity], |leg| leg.find(&identity))
    }

    fn lookup(&self, dir: &L::Node, name: &OsStr) -> Result<(Identity, Stat)> {
        prompt!(self, [dir = dir.clone(), name = name.to_owned()], |leg| leg.lookup(&dir, &name))
    }

    fn child(&self, dir: &L::Node, name: &OsStr) -> Result<L::Node> {
        prompt!(self, [dir = dir.clone(), name = name.to_owned()], |leg| leg.child(&dir, &name))
    }

    fn parent(&self, dir: &L::Node) -> Result<L::Node> {
        prompt!(self, [dir = dir.clone()], |leg| leg.parent(&dir))
    }

    fn identity(&self, node: &L::Node) -> Result<Identity> {
        prompt!(self, [node = node.clone()], |leg| leg.identity(&node))
    }

    fn stat(&self, node: &L::Node) -> Result<Stat> {
        prompt!(self, [node = node.clone()], |leg| leg.stat(&node))
    }

    fn stat_file(&self, file: &Self::File) -> Result<Stat> {
        prompt!(self, [file = file.share()], |leg| leg.stat_file(&file))
    }

    fn readlink(&self, node: &L::Node) -> Result<OsString> {
        prompt!(self, [node = node.clone()], |leg| leg.readlink(&node))
    }

    fn read_dir(&self, dir: &L::Node) -> Result<Vec<Entry>> {
        prompt!(self, [dir = dir.clone()], |leg| leg.read_dir(&dir))
    }

    fn get_xattr(&self, node: &L::Node, name: &OsStr) -> Result<Vec<u8>> {
        prompt!(self, [node = node.clone(), name = name.to_owned()], |leg| leg.get_xattr(&node, &name))
    }

    fn list_xattr(&self, node: &L::Node) -> Result<Vec<OsString>> {
        prompt!(self, [node = node.clone()], |leg| leg.list_xattr(&node))
    }

    fn statfs(&self) -> Result<Statfs> {
        prompt!(self, [], |leg| leg.statfs())
    }

    fn birth_now(&self) -> Result<Option<Timestamp>> {
        prompt!(self, [], |leg| leg.birth_now())
    }

    fn open(&self, node: &L::Node, mode: OpenMode) -> Result<Self::File> {
        let file = prompt!(self, [node = node.clone()], |leg| leg.open(&node, mode))?;
        Ok(self.open_file(file))
    }

    fn descriptor<'f>(&self, file: &'f Self::File) -> Option<BorrowedFd<'f>> {
        self.leg.descriptor(file)
    }

    fn read(&self, file: &Self::File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_by(L::read, file, buf, offset)
    }

    fn read_stored(&self, file: &Self::File, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_by(L::read_stored, file, buf, offset)
    }

    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> Result<u64> {
        prompt!(self, [file = file.share()], |leg| leg.seek(&file, offset, what))
    }

    fn make(
        &self,
        intent: &WriteIntent<'_>,
        dir: &L::Node,
        name: &OsStr,
        what: Make<'_>,
        creator: Creator,
    ) -> Result<(Identity, Stat)> {
        match what {
            Make::Symlink { target } => prompt!(
                self,
                [
                    intent = intent.lend(),
                    dir = dir.clone(),
                    name = name.to_owned(),
                    target = target.to_owned()
                ],
                |leg| leg.make(&intent, &dir, &name, Make::Symlink { target: &target }, creator)
            ),
            Make::File { mode } => self.make_plain(intent, dir, name, Make::File { mode }, creator),
            Make::Directory { mode } => self.make_plain(intent, dir, name, Make::Directory { mode }, creator),
            Make::Special { kind, mode, rdev } => {
                self.make_plain(intent, dir, name, Make::Special { kind, mode, rdev }, creator)
            }
        }
    }

    fn create(
        &self,
        intent: &WriteIntent<'_>,
        dir: &L::Node,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        open: OpenMode,
    ) -> Result<(Identity, Stat, Self::File)> {
        let (identity, stat, file) =
            prompt!(self, [intent = intent.lend(), dir = dir.clone(), name = name.to_owned()], |leg| leg
                .create(&intent, &dir, &name, mode, creator, open))?;
        Ok((identity, stat, self.open_file(file)))
    }

    fn link(&self, intent: &WriteIntent<'_>, node: &L::Node, dir: &L::Node, name: &OsStr) -> Result<()> {
        prompt!(
            self,
            [intent = intent.lend(), node = node.clone(), dir = dir.clone(), name = name.to_owned()],
            |leg| leg.link(&intent, &node, &dir, &name)
        )
    }

    fn unlink(&self, intent: &WriteIntent<'_>, dir: &L::Node, name: &OsStr) -> Result<()> {
        prompt!(self, [intent = intent.lend(), dir = dir.clone(), name = name.to_owned()], |leg| leg
            .unlink(&intent, &dir, &name))
    }

    fn rmdir(&self, intent: &WriteIntent<'_>, dir: &L::Node, name: &OsStr) -> Result<()> {
        prompt!(self, [intent = intent.lend(), dir = dir.clone(), name = name.to_owned()], |leg| leg
            .rmdir(&intent, &dir, &name))
    }

    fn rename(
        &self,
        intent: &WriteIntent<'_>,
        (from, old): (&L::Node, &OsStr),
        (to, new): (&L::Node, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        prompt!(
            self,
            [
                intent = intent.lend(),
                from = from.clone(),
                old = old.to_owned(),
                to = to.clone(),
                new = new.to_owned(),
            ],
            |leg| leg.rename(&intent, (&from, &old), (&to, &new), mode)
        )
    }

    fn set_mode(&self, intent: &WriteIntent<'_>, node: &L::Node, mode: u32) -> Result<()> {
        prompt!(self, [intent = intent.lend(), node = node.clone()], |leg| leg.set_mode(&intent, &node, mode))
    }

    fn set_owner(
        &self,
        intent: &WriteIntent<'_>,
        node: &L::Node,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        prompt!(self, [intent = intent.lend(), node = node.clone()], |leg| leg
            .set_owner(&intent, &node, uid, gid))
    }

    fn set_times(
        &self,
        intent: &WriteIntent<'_>,
        node: &L::Node,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> Result<()> {
        prompt!(self, [intent = intent.lend(), node = node.clone()], |leg| leg
            .set_times(&intent, &node, atime, mtime))
    }

    fn set_times_of(
        &self,
        intent: &WriteIntent<'_>,
        dir: &L::Node,
        name: &OsStr,
        atime: Timestamp,
        mtime: Timestamp,
    ) -> Result<()> {
        prompt!(self, [intent = intent.lend(), dir = dir.clone(), name = name.to_owned()], |leg| leg
            .set_times_of(&intent, &dir, &name, atime, mtime))
    }

    fn truncate(&self, intent: &WriteIntent<'_>, node: &L::Node, size: u64) -> Result<()> {
        prompt!(self, [intent = intent.lend(), node = node.clone()], |leg| leg.truncate(&intent, &node, size))
    }

    fn truncate_file(
        &self,
        intent: &WriteIntent<'_>,
        node: &L::Node,
        file: &Self::File,
        size: u64,
    ) -> Result<()> {
        prompt!(self, [intent = intent.lend(), node = node.clone(), file = file.share()], |leg| leg
            .truncate_file(&intent, &node, &file, size))
    }

    fn set_xattr(
        &self,
        intent: &WriteIntent<'_>,
        node: &L::Node,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        prompt!(
            self,
            [intent = intent.lend(), node = node.clone(), name = name.to_owned(), value = value.to_owned()],
            |leg| leg.set_xattr(&intent, &node, &name, &value, flags)
        )
    }

    fn remove_xattr(&self, intent: &WriteIntent<'_>, node: &L::Node, name: &OsStr) -> Result<()> {
        prompt!(self, [intent = intent.lend(), node = node.clone(), name = name.to_owned()], |leg| leg
            .remove_xattr(&intent, &node, &name))
    }

    fn write(&self, intent: &WriteIntent<'_>, file: &Self::File, data: &[u8], offset: u64) -> Result<usize> {
        prompt!(self, [intent = intent.lend(), file = file.share(), data = data.to_owned()], |leg| leg
            .write(&intent, &file, &data, offset))
    }

    fn fallocate(
        &self,
        intent: &WriteIntent<'_>,
        file: &Self::File,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        prompt!(self, [intent = intent.lend(), file = file.share()], |leg| leg
            .fallocate(&intent, &file, mode, offset, len))
    }

    fn copy_range(
        &self,
        intent: &WriteIntent<'_>,
        (from, at): (&Self::File, u64),
        (to, there): (&Self::File, u64),
        len: u64,
    ) -> Result<usize> {
        ask!(self, Pace::Long, [intent = intent.lend(), from = from.share(), to = to.share()], |leg| leg
            .copy_range(&intent, (&from, at), (&to, there), len))
    }

    fn sync_file(&self, file: &Self::File, data_only: bool) -> Result<()> {
        ask!(self, self.syncs, [file = file.share()], |leg| leg.sync_file(&file, data_only))
    }

    fn sync_node(&self, node: &L::Node) -> Result<()> {
        ask!(self, self.syncs, [node = node.clone()], |leg| leg.sync_node(&node))
    }

    fn sync_all(&self) -> Result<()> {
        ask!(self, Pace::Long, [], |leg| leg.sync_all())
    }

    // Known, without asking the filesystem.
    fn identities_last(&self) -> bool {
        self.leg.identities_last()
    }

    fn keeps(&self) -> Keeps {
        self.leg.keeps()
    }

    fn measure(&self) {
        // FAIL-SAFE: of a leg that does not answer nothing has been found out, as if it kept everything.
        let _ = prompt!(self, [], |leg| {
            leg.measure();
            Ok(())
        });
    }

    fn probe(&self) {
        self.leg.probe();
    }

    fn answers(&self) -> bool {
        self.patience.timeout().is_none_or(|timeout| self.patience.answers(timeout / 2))
    }

    fn detach_callers(&self, wanted: bool) {
        // Without a limit nobody is let go anyway.
        self.detached.store(wanted && self.patience.timeout().is_some(), Ordering::Release);
    }

    fn give_up(&self) {
        self.patience.give_up();
    }

    fn is_given_up(&self) -> bool {
        self.patience.check().is_err()
    }
}

impl<L: Leg> Timed<L> {
    /// Reads into `buf`; a courier reads into memory of its own, which outlives a caller that is let go.
    fn read_by(
        &self,
        read: fn(&L, &L::File, &mut [u8], u64) -> Result<usize>,
        file: &File<L::File>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        if let Some(watch) = self.watch() {
            return self.in_place(watch, |leg| read(leg, file, buf, offset));
        }
        let (file, len) = (file.share(), buf.len());
        let read = self.by_courier(Pace::Prompt, move |leg| {
            let mut bytes = vec![0; len];
            let read = read(leg, &file, &mut bytes, offset)?;
            bytes.truncate(read);
            Ok(bytes)
        })?;
        buf[..read.len()].copy_from_slice(&read);
        Ok(read.len())
    }

    /// Makes what is told without borrowing.
    fn make_plain(
        &self,
        intent: &WriteIntent<'_>,
        dir: &L::Node,
        name: &OsStr,
        what: Make<'static>,
        creator: Creator,
    ) -> Result<(Identity, Stat)> {
        prompt!(self, [intent = intent.lend(), dir = dir.clone(), name = name.to_owned()], |leg| leg
            .make(&intent, &dir, &name, what, creator))
    }
}
