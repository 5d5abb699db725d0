//! Changing directories: make, create, link, unlink, rmdir, rename.
//!
//! What is marked, and why it is enough for the resync to find the way back:
//! - a directory whose names change: its entries;
//! - what is made: nothing of its own. The directory's slot covers it, and most of what happens to it after (see
//!   `covers`);
//! - what moves, gets one more name, or loses one of several: itself, so that its identities on both
//!   legs are known together and it is moved or linked again, never copied (O7). Not a file that is covered and stays
//!   in its directory: all of it is compared anyway, under whichever name each leg has it. Nor a small clean one there
//!   whose new name leaves no doubt (see `freed`).

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::Touch;
use super::outcome::{Class, class};
use super::{Found, Mirror};
use crate::bitmap::WriteIntent;
use crate::error::errno;
use crate::inode::{Fh, Ino, Object, OpenFile};
use crate::legs::{Creator, Identity, Kind, Leg, LegId, Make, OpenMode, PerLeg, RenameMode, Stat};
use crate::sync::{MutexGuard, WriteGuard};

impl<L: Leg> Mirror<L> {
    /// Makes an object of any kind under a new name. Counts one lookup.
    pub fn make(&self, parent: Ino, name: &OsStr, what: Make<'_>, creator: Creator) -> io::Result<Found> {
        let _inside = self.enter()?;
        let dir = self.directory(parent)?;
        let _changing = dir.lock.write();
        let nodes = self.nodes(&dir)?;
        let mut first = None;
        let done = self.change_all([Touch::name(&dir, name)], |intent, leg| {
            let made = self.leg(leg)?.make(intent, nodes.on(leg)?, name, what, creator)?;
            self.same_birth(intent, leg, nodes.on(leg)?, name, &mut first, made.1)?;
            Ok(made)
        })?;
        Ok(self.born(&dir, name, &done.legs)?.1)
    }

    /// Makes a regular file and opens it; `flags` as in open(2). Counts one lookup.
    pub fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        flags: i32,
    ) -> io::Result<(Found, Fh)> {
        let _inside = self.enter()?;
        let dir = self.directory(parent)?;
        let _changing = dir.lock.write();
        let nodes = self.nodes(&dir)?;
        let open = open_mode(flags);
        let files = PerLeg::from_fn(|_| Cell::new(None));
        let mut first = None;
        let done = self.change_all([Touch::name(&dir, name)], |intent, leg| {
            let (identity, stat, file) =
                self.leg(leg)?.create(intent, nodes.on(leg)?, name, mode, creator, open)?;
            self.same_birth(intent, leg, nodes.on(leg)?, name, &mut first, stat)?;
            files[leg].set(Some(file));
            Ok((identity, stat))
        })?;
        let (object, found) = self.born(&dir, name, &done.legs)?;
        object.unprivileged.store(mode & 0o6000 == 0, Ordering::Relaxed);
        object.incapable.store(true, Ordering::Relaxed);
        let opened = OpenFile::new(object, open);
        for leg in LegId::ALL {
            if let Some(file) = files[leg].take() {
                opened.keep(leg, file);
            }
        }
        Ok((found, self.handles.add_file(opened)))
    }

    /// Gives what was just made on the second leg the times it has on the first.
    ///
    /// # Errors
    /// The leg has failed, or has no room for that; then it is not made.
    fn same_birth(
        &self,
        intent: &WriteIntent<'_>,
        leg: LegId,
        dir: &L::Node,
        name: &OsStr,
        first: &mut Option<Stat>,
        made: Stat,
    ) -> io::Result<()> {
        let Some(first) = first else {
            *first = Some(made);
            return Ok(());
        };
        let here = self.leg(leg)?;
        let take_back = || match made.kind {
            Kind::Directory => here.rmdir(intent, dir, name),
            _ => here.unlink(intent, dir, name),
        };
        // No slot of its own would tell of other times once the directory's is cleared.
        match here.set_times_of(intent, dir, name, first.atime, first.mtime) {
            Ok(()) => Ok(()),
            Err(error) if class(error.raw_os_error().unwrap_or(libc::EIO)) == Class::Failure => {
                // One that the other cannot do without stays, and what it has counts. Others are left behind, or have been.
                if let Err(kept) = take_back()
                    && self.health.in_service(leg)
                    && !self.may_lose(leg)
                {
                    self.turn_read_only(format!(
                        "leg {leg} has made an object and cannot set its times ({error}) nor take it back ({kept}); \
                         unmount, see to it, and mount again"
                    ));
                }
                Err(error)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                take_back()?;
                Err(error)
            }
            Err(error) => {
                log::warn!("leg {leg}: cannot set the times of a new object: {error}");
                Ok(())
            }
        }
    }

    /// What was just made becomes known, with its identities on the legs that made it.
    ///
    /// While a leg is away the birth tells what it cannot have. If the clock of the other one has gone
    /// back, it does not, and the object is marked itself.
    fn born(
        &self,
        dir: &Arc<Object<L>>,
        name: &OsStr,
        made: &PerLeg<Option<(Identity, Stat)>>,
    ) -> io::Result<(Arc<Object<L>>, Found)> {
        let identities = PerLeg::from_fn(|leg| made[leg].as_ref().map(|(identity, _)| *identity));
        let stat = made[self.source()].as_ref().or(made[self.source().other()].as_ref());
        let stat = stat.map(|(_, stat)| *stat).ok_or_else(|| errno(libc::EIO))?;
        let known = match self.intern(dir, name, identities, stat, 1) {
            Some(known) => known,
            // Made by a leg that has been left behind since, and by the other one: found there.
            None => self.look_up(dir, name, 1)?,
        };
        self.cover(dir, &known.0, made);
        if self.health.is_degraded() {
            known.0.with_names(|names| names.born_alone = true);
            let late = |since| stat.btime.is_some_and(|born| born >= since);
            if self.health.alone_since().is_some_and(|since| !late(since)) {
                self.mark(Touch::moved(&known.0))?;
            }
        }
        Ok(known)
    }

    /// Gives an object one more name. Counts one lookup.
    pub fn link(&self, ino: Ino, new_parent: Ino, name: &OsStr) -> io::Result<Found> {
        let _inside = self.enter()?;
        let object = self.object(ino)?;
        let dir = self.directory(new_parent)?;
        let _changing = dir.lock.write();
        let dirs = self.nodes(&dir)?;
        let nodes = self.nodes(&object)?;
        self.change_all([Touch::name(&dir, name), Touch::moved(&object)], |intent, leg| {
            self.leg(leg)?.link(intent, nodes.on(leg)?, dirs.on(leg)?, name)
        })?;
        Ok(self.look_up(&dir, name, 1)?.1)
    }

    /// Takes a name away from what is not a directory.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> io::Result<()> {
        self.remove(parent, name, |intent, leg, dir| self.leg(leg)?.unlink(intent, dir, name))
    }

    /// Takes an empty directory away.
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> io::Result<()> {
        self.remove(parent, name, |intent, leg, dir| self.leg(leg)?.rmdir(intent, dir, name))
    }

    fn remove(
        &self,
        parent: Ino,
        name: &OsStr,
        act: impl Fn(&WriteIntent<'_>, LegId, &L::Node) -> io::Result<()>,
    ) -> io::Result<()> {
        let _inside = self.enter()?;
        let dir = self.directory(parent)?;
        let _changing = dir.lock.write();
        let nodes = self.nodes(&dir)?;
        let (object, found) = self.look_up(&dir, name, 0)?;
        let unchanged = keep_out(&object);
        let keeps_a_name = self.leaving(&object, &found)?;
        let act = |intent: &WriteIntent<'_>, leg: LegId| act(intent, leg, nodes.on(leg)?);
        let removed = if keeps_a_name {
            self.change_all([Touch::lost(&dir, name), Touch::moved(&object)], act)
        } else {
            self.change_all([Touch::lost(&dir, name)], act)
        };
        self.note_holder(&dir, name, &object);
        if keeps_a_name {
            self.note_lost_name();
        }
        removed.inspect_err(|_| self.stayed(&object, &dir, name))?;
        self.left(&object, keeps_a_name, &dir, name);
        drop(unchanged);
        self.table.reap(Some(object));
        Ok(())
    }

    /// Makes an object ready to lose a name: it is still found on both legs by whoever uses it. Returns whether it
    /// keeps another one. Its lock is held.
    fn leaving(&self, object: &Arc<Object<L>>, found: &Found) -> io::Result<bool> {
        let keeps_a_name = object.kind != Kind::Directory && found.attr.stat.nlink > 1;
        if keeps_a_name {
            self.pin(object)?;
        } else if object.opens.load(Ordering::Relaxed) > 0 || object.kind == Kind::Directory {
            // A directory is used without being opened, too: as somebody's current one.
            self.pin_open(object)?;
        }
        Ok(keeps_a_name)
    }

    /// The name was to be lost and is still there. A leg that had lost it already has another object there
    /// now, built from the one of the leg that refused.
    fn stayed(&self, object: &Arc<Object<L>>, dir: &Arc<Object<L>>, name: &OsStr) {
        let source = self.source();
        for leg in LegId::ALL.into_iter().filter(|&leg| self.health.in_service(leg)) {
            let there = self.leg(leg).and_then(|it| it.lookup(&self.node(dir, leg)?, name));
            let Ok((now, _)) = there else { continue };
            match object.with_names(|names| names.identity(leg)) {
                Some(before) if before.is_same(&now) => {}
                _ if leg == source => self.replaced(object, dir, name),
                before => self.renewed(object, leg, before, now),
            }
        }
    }

    /// What the other leg has of the object is another inode from now on: what is open goes on with that one.
    /// The object's lock is held.
    fn renewed(&self, object: &Arc<Object<L>>, leg: LegId, before: Option<Identity>, now: Identity) {
        let old = object.with_names(|names| {
            let old = names.identities();
            names.identify(leg, Some(now));
            (old, names.unpin(leg))
        });
        self.pins.forget(object.ino.0, object.generation);
        let closed = self.handles.forget(object, leg);
        let marked = match (old.0[leg.other()], before) {
            (Some(of_source), Some(before)) => {
                let mut known = PerLeg::new(of_source, of_source);
                known[leg] = before;
                self.bitmap.renew(self, &known, leg, now)
            }
            _ => Ok(()),
        };
        // A resync that knows it by its old identity finds the new one in its slot.
        let marked = marked.and_then(|()| self.mark(Touch::moved(object)).map(drop));
        if let Err(error) = marked {
            self.turn_read_only(format!(
                "inode {} of leg {leg} was made anew, and that cannot be recorded ({error}); unmount and mount again",
                object.ino.0
            ));
        }
        drop((closed, old));
    }

    /// What the kernel knows by this name is not what the source has there now.
    fn replaced(&self, object: &Arc<Object<L>>, dir: &Arc<Object<L>>, name: &OsStr) {
        object.replaced.store(true, Ordering::Release);
        object.with_names(|names| names.gone = true);
        self.covers.drop_gone(object);
        self.displaced(object, dir, name);
        self.pins.forget(object.ino.0, object.generation);
        if let Some(caches) = self.invalidate.get() {
            caches.entry(dir.ino, name);
        }
    }

    /// The name is gone.
    fn left(&self, object: &Arc<Object<L>>, keeps_a_name: bool, dir: &Arc<Object<L>>, name: &OsStr) {
        self.displaced(object, dir, name);
        if !keeps_a_name {
            object.with_names(|names| names.gone = true);
            self.pins.forget(object.ino.0, object.generation);
            self.covers.drop_gone(object);
        }
    }

    /// Renames.
    pub fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> io::Result<()> {
        let _inside = self.enter()?;
        let from = self.directory(parent)?;
        let to = self.directory(new_parent)?;
        let _changing = self.lock_both(&from, &to);
        let from_nodes = self.nodes(&from)?;
        let to_nodes = self.nodes(&to)?;

        let (moving, found) = self.look_up(&from, name, 0)?;
        self.pin(&moving)?;
        let there = match self.look_up(&to, new_name, 0) {
            Ok(there) => Some(there),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(error) => return Err(error),
        };
        let unchanged = there.as_ref().map(|(target, _)| keep_out(target));
        let target = match &there {
            Some((target, found)) => {
                let keeps_a_name = self.leaving(target, found)?;
                if mode == RenameMode::Exchange {
                    self.pin(target)?;
                }
                Some((target, keeps_a_name))
            }
            None => None,
        };
        let act = |intent: &WriteIntent<'_>, leg: LegId| {
            self.leg(leg)?.rename(intent, (from_nodes.on(leg)?, name), (to_nodes.on(leg)?, new_name), mode)
        };
        // While a leg is away, what it misses is told of each object by itself.
        let alike = self.is_equal() && !self.health.is_degraded();
        let stays = alike && Arc::ptr_eq(&from, &to) && mode != RenameMode::Exchange;
        // A resync may have to make it anew under its new name, which is too much of what holds others.
        let moved = match stays && moving.kind != Kind::Directory {
            true if there.is_none() && self.may_be_copied(&to, new_name, &moving, &found)? => {
                Touch::renamed_free(&moving)
            }
            true => Touch::renamed(&moving),
            false => Touch::moved(&moving),
        };
        let changed = match target {
            Some((target, keeps_a_name)) => {
                let (to_name, target_is) = match mode {
                    RenameMode::Replace if keeps_a_name || !alike => {
                        (Touch::lost(&to, new_name), Touch::moved(target))
                    }
                    RenameMode::Replace => (Touch::lost(&to, new_name), Touch::replaced(target)),
                    _ => (Touch::name(&to, new_name), Touch::moved(target)),
                };
                self.change_all([Touch::name(&from, name), to_name, moved, target_is], act)
                    .inspect_err(|_| self.stayed(target, &to, new_name))
            }
            None => self.change_all([Touch::name(&from, name), Touch::name(&to, new_name), moved], act),
        };
        // The new one also if it was refused: a leg may have had it for a moment.
        self.note_holder(&from, name, &moving);
        self.note_holder(&to, new_name, &moving);
        if target.is_some_and(|(_, keeps_a_name)| keeps_a_name) {
            self.note_lost_name();
        }
        changed?;

        match target {
            // Two names of one object: rename(2) leaves both and does nothing.
            Some((target, _)) if Arc::ptr_eq(target, &moving) => self.placed(&moving, &from, name),
            Some((target, _)) if mode == RenameMode::Exchange => {
                self.placed(&moving, &to, new_name);
                self.placed(target, &from, name);
            }
            Some((target, keeps_a_name)) => {
                self.left(target, keeps_a_name, &to, new_name);
                self.placed(&moving, &to, new_name);
            }
            None => self.placed(&moving, &to, new_name),
        }
        self.note_placed(&[Touch::name(&from, name), Touch::name(&to, new_name)]);
        drop(unchanged);
        self.table.reap(there.map(|(target, _)| target));
        Ok(())
    }

    /// Locks one or two directories to change their entries (O6).
    fn lock_both<'a>(&'a self, from: &'a Arc<Object<L>>, to: &'a Arc<Object<L>>) -> LockedDirs<'a> {
        if Arc::ptr_eq(from, to) {
            return LockedDirs { _first: from.lock.write(), _second: None, _rename: None };
        }
        #[cfg(feature = "simulation")]
        if crate::sim::scheduler::breaks(crate::sim::scheduler::Rule::LockOrder) {
            return LockedDirs { _first: from.lock.write(), _second: Some(to.lock.write()), _rename: None };
        }
        let rename = self.rename.lock();
        let from_first = if is_ancestor(from, to) {
            true
        } else if is_ancestor(to, from) {
            false
        } else {
            from.ino < to.ino
        };
        let (first, second) = if from_first { (from, to) } else { (to, from) };
        LockedDirs { _first: first.lock.write(), _second: Some(second.lock.write()), _rename: Some(rename) }
    }
}

/// Keeps those out who write to what is about to lose a name, and who open it: should a leg have to get it
/// back, that is a copy; and whoever has it open must have been seen. What is in a directory that goes is
/// nobody's.
fn keep_out<L: Leg>(object: &Object<L>) -> Option<WriteGuard<'_, ()>> {
    (object.kind != Kind::Directory).then(|| object.lock.write())
}

/// The directories of a rename, locked. Dropped in this order.
struct LockedDirs<'a> {
    _first: WriteGuard<'a, ()>,
    _second: Option<WriteGuard<'a, ()>>,
    _rename: Option<MutexGuard<'a, ()>>,
}

/// Whether `above` lies on the way from the root to `below`.
fn is_ancestor<L: Leg>(above: &Arc<Object<L>>, below: &Arc<Object<L>>) -> bool {
    let mut at = below.with_names(|names| names.place.as_ref().map(|(dir, _)| dir.clone()));
    while let Some(dir) = at {
        if Arc::ptr_eq(&dir, above) {
            return true;
        }
        at = dir.with_names(|names| names.place.as_ref().map(|(dir, _)| dir.clone()));
    }
    false
}

/// What open(2) flags ask of a leg's file. Reading is always possible: a write of part of a page may
/// need it, and repair does.
pub(super) fn open_mode(flags: i32) -> OpenMode {
    OpenMode {
        read: true,
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        direct: flags & libc::O_DIRECT != 0,
    }
}
