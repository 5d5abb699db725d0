//! Modification times that the kernel has told of files which are open: with `writeback` it is the kernel that keeps
//! them.
//!
//! It tells a time by SETATTR after the data that the time belongs to. But when it writes pages back of its own accord
//! it does not wait for them before it tells, and a write that lands on a leg later moves the time there:
//!
//! ```text
//!   program   write ......................................... close
//!   kernel          WRITE   WRITE  SETATTR time               (nothing: all has been told)
//!   legs            WRITE          SETATTR time  WRITE        RELEASE: the time that was told
//! ```
//!
//! So the mirror keeps what was told last, and sets it again at a RELEASE: by then nothing is under way.
//! FAIL-SAFE: what is forgotten by a crash are times of a moment ago, which the resync makes the same on both legs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;

use super::change::Touch;
use super::{Mirror, SetAttr};
use crate::inode::{Ino, Object};
use crate::legs::{Kind, Leg, Timestamp};
use crate::sync::{Mutex, Rank};

/// By the object's number.
pub(super) struct Mtimes(Mutex<HashMap<Ino, Time>>);

struct Time {
    mtime: Timestamp,
    /// Something was written since.
    moved: bool,
}

impl Mtimes {
    pub fn new() -> Mtimes {
        Mtimes(Mutex::new(Rank::Leaf, HashMap::new()))
    }
}

impl<L: Leg> Mirror<L> {
    /// The legs have this time now. The object's lock is held.
    pub(super) fn time_told(&self, object: &Object<L>, mtime: Timestamp) {
        if self.options.writeback && object.kind == Kind::File && object.is_open() {
            self.mtimes.0.lock().insert(object.ino, Time { mtime, moved: false });
        }
    }

    /// The legs gave the file times of their own. The object's lock is held.
    pub(super) fn time_moved(&self, object: &Object<L>) {
        if self.options.writeback
            && let Some(time) = self.mtimes.0.lock().get_mut(&object.ino)
        {
            time.moved = true;
        }
    }

    /// Before a handle is closed: the file has the time that was told last.
    pub(super) fn settle_told(&self, object: &Arc<Object<L>>) -> io::Result<()> {
        if !self.options.writeback || !self.mtimes.0.lock().get(&object.ino).is_some_and(|time| time.moved) {
            return Ok(());
        }
        let _inside = self.enter()?;
        let _changing = object.lock.write();
        let mtime = match self.mtimes.0.lock().entry(object.ino) {
            Entry::Occupied(mut told) if told.get().moved => {
                told.get_mut().moved = false;
                told.get().mtime
            }
            _ => return Ok(()),
        };
        let nodes = self.nodes(object)?;
        self.change_all([Touch::metadata(object)], |intent, leg| {
            self.leg(leg)?.set_times(intent, nodes.on(leg)?, None, Some(mtime))
        })?;
        Ok(())
    }

    /// Nothing is told of a file that is not open.
    pub(super) fn forget_told(&self, object: &Object<L>) {
        if self.options.writeback && !object.is_open() {
            self.mtimes.0.lock().remove(&object.ino);
        }
    }

    /// Whether a SETATTR only repeats the time that the file has on both legs: the kernel tells it after each rename, link
    /// and the like. The object's lock is held.
    pub(super) fn says_nothing_new(&self, object: &Arc<Object<L>>, set: &SetAttr) -> io::Result<bool> {
        let time_alone = SetAttr { mtime: None, ..*set }.is_empty();
        let Some(super::SetTime::At(mtime)) = set.mtime.filter(|_| time_alone) else { return Ok(false) };
        if !self.options.writeback || !self.is_equal() || self.health.is_degraded() {
            return Ok(false);
        }
        let source = self.source();
        let has_it = |leg| Ok(self.stat_on(object, leg)?.mtime == mtime);
        Ok(self.reading(has_it)? && has_it(source.other()).unwrap_or(false))
    }
}
