//! The order rules O1 and O3 as a reader of the trace can check them:
//!
//! - a change reaches a leg only after each copy of the bitmap has, written and done, a slot that
//!   covers it;
//! - a bit disappears from a copy only after both legs were synced, later than the last change under
//!   that bit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::slots::{self, BORN, ENTRIES, Slot};
use crate::trace::Call;

/// What the checker has to know of the tree: which inode numbers (on A and on B) a name stands for.
pub type Inodes = HashMap<String, [u64; 2]>;

/// Something that needs cover: a chunk of a file, the names in a directory, or what is new in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Region {
    Chunk { name: String, chunk: u64 },
    Entries { name: String },
    Births { name: String },
}

impl Region {
    fn covered_by(&self, slot: &Slot, inodes: &Inodes) -> bool {
        let (name, covered) = match self {
            Region::Chunk { name, chunk } => (name, slot.has_chunk(*chunk)),
            Region::Entries { name } => (name, slot.kinds & ENTRIES != 0),
            Region::Births { name } => (name, slot.kinds & (ENTRIES | BORN) == ENTRIES | BORN),
        };
        covered && inodes.get(name).is_some_and(|inos| slot.inos == *inos)
    }
}

/// What was found in a trace.
#[derive(Debug, Default)]
pub struct Report {
    /// Broken rules, a sentence each.
    pub violations: Vec<String>,
    /// Changes of data that were checked.
    pub writes: usize,
    /// Changes of names that were checked.
    pub names: usize,
    /// Changes of data of what was new in a directory that were checked.
    pub births: usize,
    /// Regions that were seen to lose their bit after a change.
    pub clears: usize,
}

/// One copy of the bitmap: the slots by their places, as far as writes have ended.
type Copy = BTreeMap<u64, Option<Slot>>;

pub struct Checker<'a> {
    inodes: &'a Inodes,
    chunk: u64,
    /// By descriptor.
    copies: BTreeMap<i32, Copy>,
    /// Where the last change of each region ended.
    changed: BTreeMap<Region, usize>,
    /// For each descriptor that a whole leg was synced through, where the last sync began.
    synced: BTreeMap<i32, usize>,
    report: Report,
}

impl<'a> Checker<'a> {
    /// `chunk` is in bytes.
    pub fn new(inodes: &'a Inodes, chunk: u64) -> Self {
        Checker {
            inodes,
            chunk,
            copies: BTreeMap::new(),
            changed: BTreeMap::new(),
            synced: BTreeMap::new(),
            report: Report::default(),
        }
    }

    /// Checks all calls of a daemon's life.
    pub fn check(mut self, mut calls: Vec<Call>) -> Report {
        // A call that changes something counts from its beginning, one that makes something durable
        // from its end.
        let durable = |call: &Call| is_bitmap(call) || call.name == "syncfs";
        calls.sort_by_key(|call| if durable(call) { call.ended } else { call.began });
        for call in calls.iter().filter(|call| call.result >= 0) {
            if is_bitmap(call) {
                self.bitmap_write(call);
            } else if call.name == "syncfs" {
                if let Some((fd, _)) = call.descriptor(0) {
                    self.synced.insert(fd, call.began);
                }
            } else {
                self.change(call);
            }
        }
        self.report
    }

    fn bitmap_write(&mut self, call: &Call) {
        let Some(((fd, _), offset)) = call.descriptor(0).zip(call.offset()) else { return };
        let mut written = self.copies.get(&fd).cloned().unwrap_or_default();
        written.extend(slots::decode(offset, &call.data()));
        let before = self.copies.insert(fd, written).unwrap_or_default();
        let after = &self.copies[&fd];
        let covers = |copy: &Copy, region: &Region| {
            copy.values().flatten().any(|slot| region.covered_by(slot, self.inodes))
        };
        let lost: Vec<(Region, usize)> = self
            .changed
            .iter()
            .filter(|(region, _)| covers(&before, region) && !covers(after, region))
            .map(|(region, ended)| (region.clone(), *ended))
            .collect();
        for (region, changed) in lost {
            self.report.clears += 1;
            let syncs: BTreeSet<i32> =
                self.synced.iter().filter(|(_, began)| **began > changed).map(|(fd, _)| *fd).collect();
            if syncs.len() < 2 {
                let line = call.began + 1;
                self.report.violations.push(format!(
                    "O3: line {line} clears {region:?}, changed up to line {}, after syncs of {syncs:?} only",
                    changed + 1
                ));
            }
        }
    }

    fn change(&mut self, call: &Call) {
        for region in self.regions(call) {
            match region {
                Region::Chunk { .. } => self.report.writes += 1,
                Region::Entries { .. } => self.report.names += 1,
                Region::Births { .. } => self.report.births += 1,
            }
            let covering =
                |copy: &&Copy| copy.values().flatten().any(|slot| region.covered_by(slot, self.inodes));
            let copies = self.copies.values().filter(covering).count();
            if copies < 2 {
                self.report.violations.push(format!(
                    "O1: line {} ({}) changes {region:?}, which {copies} of 2 copies cover",
                    call.began + 1,
                    call.name
                ));
            }
            let last = self.changed.entry(region).or_default();
            *last = call.ended.max(*last);
        }
    }

    /// What a call changes of the objects that the checker knows.
    fn regions(&self, call: &Call) -> Vec<Region> {
        // On a private mount a path starts at the leg's root, and the root itself is "/".
        let known_above = |index: usize, levels: usize| {
            let (_, path) = call.descriptor(index)?;
            let name = path.trim_end_matches(" (deleted)").rsplit('/').nth(levels)?.to_owned();
            self.inodes.contains_key(&name).then_some(name)
        };
        let known = |index: usize| known_above(index, 0);
        match call.name.as_str() {
            "pwrite64" | "pwritev" | "pwritev2" => {
                let Some((name, offset)) = known(0).zip(call.offset()) else {
                    return known_above(0, 1).map(|name| Region::Births { name }).into_iter().collect();
                };
                let end = offset + (call.result as u64).max(1);
                (offset / self.chunk..end.div_ceil(self.chunk))
                    .map(|chunk| Region::Chunk { name: name.clone(), chunk })
                    .collect()
            }
            "openat" | "openat2" if !call.says("O_CREAT") => Vec::new(),
            "openat" | "openat2" | "mkdirat" | "mknodat" | "unlinkat" => {
                known(0).map(|name| Region::Entries { name }).into_iter().collect()
            }
            "symlinkat" => known(1).map(|name| Region::Entries { name }).into_iter().collect(),
            "linkat" => known(2).map(|name| Region::Entries { name }).into_iter().collect(),
            "renameat" | "renameat2" => {
                [known(0), known(2)].into_iter().flatten().map(|name| Region::Entries { name }).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn is_bitmap(call: &Call) -> bool {
    call.name.starts_with("pwrite")
        && call.descriptor(0).is_some_and(|(_, path)| path.ends_with(".mirrorfs/bitmap"))
}

/// A proof that cannot fail proves nothing: traces made by hand that break a rule are found.
#[cfg(test)]
mod broken_rules_are_found {
    use super::*;
    use crate::trace::parse;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    fn page(marked: bool) -> String {
        let mut bytes = vec![0; slots::PAGE];
        if marked {
            bytes[4] = slots::DATA | slots::METADATA;
            bytes[24..32].fill(0xff);
            bytes[64] = 11;
            bytes[120] = 22;
            bytes[192] = 0b10;
        }
        hex(&bytes)
    }

    fn bitmap(fd: u32, marked: bool) -> String {
        format!("1 pwrite64({fd}<{}>, \"{}\", 4096, 4096) = 4096\n", hex(b"/.mirrorfs/bitmap"), page(marked))
    }

    fn data(fd: u32) -> String {
        format!("1 pwrite64({fd}<{}>, \"\\x00\", 1, 65600) = 1\n", hex(b"/file"))
    }

    fn new_data(fd: u32) -> String {
        format!("1 pwrite64({fd}<{}>, \"\\x00\", 1, 0) = 1\n", hex(b"/file/new"))
    }

    fn sync(fd: u32) -> String {
        format!("1 syncfs({fd}<{}>) = 0\n", hex(b"/"))
    }

    fn check(lines: &[String]) -> Report {
        let inodes = Inodes::from([("file".to_owned(), [11, 22])]);
        Checker::new(&inodes, 65536).check(parse(&lines.concat()))
    }

    #[test]
    fn the_right_order_is_accepted() {
        let report = check(&[
            bitmap(3, true),
            bitmap(4, true),
            data(5),
            data(6),
            sync(7),
            sync(8),
            bitmap(3, false),
            bitmap(4, false),
        ]);
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        assert_eq!((report.writes, report.clears), (2, 2));
    }

    #[test]
    fn data_before_the_second_copy_is_found() {
        let report = check(&[bitmap(3, true), data(5), bitmap(4, true), data(6)]);
        assert_eq!(report.violations.len(), 1, "{:?}", report.violations);
        assert!(report.violations[0].starts_with("O1"));
    }

    #[test]
    fn data_of_what_is_new_without_a_watermark_is_found() {
        let cover =
            |fd| bitmap(fd, true).replacen("\\x06", &format!("\\x{:02x}", slots::ENTRIES | slots::BORN), 1);
        let report = check(&[cover(3), cover(4), new_data(5), new_data(6)]);
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        assert_eq!(report.births, 2);
        let report = check(&[bitmap(3, true), bitmap(4, true), new_data(5)]);
        assert!(report.violations[0].starts_with("O1"));
    }

    #[test]
    fn a_bitmap_write_that_has_not_ended_covers_nothing() {
        let late = bitmap(4, true).replace(") = 4096", " <unfinished ...>");
        let report = check(&[
            bitmap(3, true),
            late,
            data(5).replace("1 pwrite64", "2 pwrite64"),
            "1 <... pwrite64 resumed>) = 4096\n".to_owned(),
        ]);
        assert_eq!(report.violations.len(), 1, "{:?}", report.violations);
    }

    #[test]
    fn clearing_after_a_sync_of_one_leg_or_an_older_sync_is_found() {
        let marked = [bitmap(3, true), bitmap(4, true), data(5), data(6)];
        let one_leg = [&marked[..], &[sync(7), bitmap(3, false)]].concat();
        assert!(check(&one_leg).violations[0].starts_with("O3"));
        let too_early = [&marked[..3], &[sync(7), sync(8), data(6), bitmap(3, false)]].concat();
        assert!(check(&too_early).violations[0].starts_with("O3"));
    }
}
