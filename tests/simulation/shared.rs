//! A file that all clients write to: its length stays, its ranges overlap.
//!
//! Writes of several clients have no order but in time: one that was acknowledged before another
//! began came before it. A value is ruled out only by such a later write that must be there.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Crash, Grains, Tag, grains};

struct Write {
    tag: Tag,
    offset: u64,
    len: u64,
    began: u64,
    ended: Option<u64>,
    /// Was under way when the daemon was killed: may or may not be there for good.
    uncertain: bool,
}

/// All writes to one shared file since its content was known.
#[derive(Default)]
pub struct SharedFile {
    base: Grains,
    writes: Vec<Write>,
    clock: u64,
    /// When acknowledged syncs began.
    synced: Vec<u64>,
}

impl SharedFile {
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn begin(&mut self, tag: Tag, offset: u64, len: u64) {
        let began = self.tick();
        self.writes.push(Write { tag, offset, len, began, ended: None, uncertain: false });
    }

    pub fn acknowledge(&mut self, tag: Tag) {
        let ended = self.tick();
        self.writes.iter_mut().filter(|write| write.tag == tag).for_each(|write| write.ended = Some(ended));
    }

    pub fn synced(&mut self, began: u64) {
        self.synced.push(began);
    }

    /// What a read that began at `since` and has just returned may have seen in a grain.
    pub fn readable(&self, grain: u64, since: u64) -> BTreeSet<Tag> {
        self.values(grain, |write| !write.uncertain && write.ended.is_some_and(|ended| ended < since))
    }

    /// What a crash may have left in a grain.
    pub fn allowed(&self, grain: u64, crash: Crash) -> BTreeSet<Tag> {
        self.values(grain, |write| {
            let synced = || self.synced.iter().any(|&began| write.ended.is_some_and(|ended| ended < began));
            !write.uncertain && (crash == Crash::Kill && write.ended.is_some() || synced())
        })
    }

    fn values(&self, grain: u64, is_sure: impl Fn(&Write) -> bool) -> BTreeSet<Tag> {
        let here = || self.writes.iter().filter(|write| grains(write.offset, write.len).contains(&grain));
        let latest_sure = here().filter(|write| is_sure(write)).map(|write| write.began).max();
        let survives =
            |write: &&Write| latest_sure.is_none_or(|sure| write.ended.is_none_or(|ended| ended >= sure));
        let mut values: BTreeSet<Tag> = here().filter(survives).map(|write| write.tag).collect();
        if latest_sure.is_none() {
            values.insert(self.base.get(&grain).copied().unwrap_or(0));
        }
        values
    }

    /// Grains that are, or were meant to be, something else than zero.
    pub fn touched(&self) -> BTreeSet<u64> {
        let written = self.writes.iter().flat_map(|write| grains(write.offset, write.len));
        self.base.keys().copied().chain(written).collect()
    }

    /// After the power went: `found` is what there is.
    pub fn start_from(&mut self, found: Grains) {
        self.base = found;
        self.writes.clear();
        self.synced.clear();
    }

    /// After a kill.
    pub fn go_on(&mut self) {
        let now = self.tick();
        for write in self.writes.iter_mut().filter(|write| write.ended.is_none()) {
            write.ended = Some(now);
            write.uncertain = true;
        }
    }
}

/// By number of the file.
pub type SharedFiles = BTreeMap<usize, SharedFile>;
