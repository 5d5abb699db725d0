//! What a leg has marked since it went on alone, by inode number: from its own copy of the bitmap. Reads only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use super::who::{Here, Says};
use crate::bitmap::{ChunkSize, CopyId, DirtySlot, Expect, Kinds, Loaded};
use crate::cli::examine::read_image;
use crate::error::errno;
use crate::legs::{LegId, Place, Timestamp, name_hash};
use crate::superblock::{BitmapPlace, Superblock};
use crate::sys;

/// The marks of one leg.
#[derive(Debug)]
pub struct Marks {
    by_ino: HashMap<u64, Mark>,
    alone_since: Option<Timestamp>,
    /// Why what is not marked may have been changed all the same.
    pub silent_because: Option<String>,
}

#[derive(Debug, Default)]
struct Mark {
    /// Marked while the other leg was away.
    since: Kinds,
    /// Marked before that: both legs have seen the change begin.
    before: Kinds,
    /// Where the other leg has it.
    was_at: Option<Place>,
}

impl Marks {
    /// Of the leg with this superblock.
    pub fn read(state_dir: BorrowedFd<'_>, says: &Superblock) -> io::Result<Marks> {
        let none = |because: &str| Marks {
            by_ino: HashMap::new(),
            alone_since: says.alone_since,
            silent_because: Some(because.to_owned()),
        };
        if says.bitmap_place == BitmapPlace::Elsewhere {
            return Ok(none("it is kept in a file elsewhere"));
        }
        if sys::file::is_on_fuse(state_dir)? {
            return Ok(none("it tells inode numbers, which do not last on a FUSE filesystem"));
        }
        let chunk = ChunkSize::new(says.chunk_size).ok_or_else(|| errno(libc::EINVAL))?;
        let expect = Expect {
            mirror: says.mirror,
            slots: says.bitmap_slots,
            chunk,
            file: uuid::Uuid::nil(),
            stale: None,
        };
        let loaded = Loaded::from_images(vec![(CopyId::Leg(says.role), read_image(state_dir))], &expect);
        let mut marks = Marks::of(&loaded.dirty(), says.role, says.alone_since);
        if loaded.compare_all {
            let verdict = loaded.verdicts.first().map(|(_, verdict)| verdict.to_string());
            marks.silent_because = Some(match verdict.as_deref() {
                Some("good") | None => "it says that everything may have been changed".to_owned(),
                Some(verdict) => format!("it is {verdict}"),
            });
        }
        Ok(marks)
    }

    fn of(slots: &[DirtySlot], leg: LegId, alone_since: Option<Timestamp>) -> Marks {
        let mut by_ino: HashMap<u64, Mark> = HashMap::new();
        for slot in slots {
            let mark = by_ino.entry(slot.identities[leg].ino).or_default();
            if slot.kinds.missed_by(leg.other()) {
                mark.since = mark.since | slot.kinds;
            } else {
                mark.before = mark.before | slot.kinds;
            }
            mark.was_at = mark.was_at.or(slot.identities[leg.other()].place());
        }
        Marks { by_ino, alone_since, silent_because: None }
    }

    /// Of the names in a directory.
    pub fn of_names(&self, dir: u64) -> Says {
        self.says(dir, &[Kinds::ENTRIES])
    }

    /// Of what `name` in `dir` names; the roots have no name.
    pub fn of_object(&self, dir: u64, name: Option<&OsStr>, object: &Metadata) -> Here {
        let was_at = self.by_ino.get(&object.ino()).and_then(|mark| mark.was_at);
        Here {
            itself: self.says(object.ino(), &[Kinds::ENTRIES, Kinds::METADATA, Kinds::DATA]),
            born: self.alone_since.zip(birth(object)).map(|(since, born)| born >= since),
            moved: was_at.zip(name).map(|(at, name)| (at.dir.ino, at.name_hash) != (dir, name_hash(name))),
        }
    }

    fn says(&self, ino: u64, kinds: &[Kinds]) -> Says {
        let has = |marked: Kinds| kinds.iter().any(|&kind| marked.contains(kind));
        match self.by_ino.get(&ino) {
            Some(mark) if has(mark.since) => Says::Changed,
            Some(mark) if has(mark.before) => Says::Silent,
            _ if self.silent_because.is_some() => Says::Silent,
            _ => Says::Unchanged,
        }
    }
}

fn birth(object: &Metadata) -> Option<Timestamp> {
    let born = object.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp { secs: i64::try_from(born.as_secs()).ok()?, nanos: born.subsec_nanos() })
}
