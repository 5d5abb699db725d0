//! Makes what the target does not have: each object by itself in `incoming/`, then synced, then
//! renamed into place (O7).
//!
//! What is built is a single object: a directory is empty, a large file has no data yet. What is to
//! follow is marked before the rename.

use std::ffi::{OsStr, OsString};
use std::io;

use super::Sides;
use super::entries::SMALL;
use super::metadata;
use super::pairs::Child;
use super::rename_to_free;
use super::run::Run;
use super::spans::Spans;
use crate::bitmap::WriteIntent;
use crate::legs::{Area, Creator, Identity, Kind, Leg, Make, PerLeg};

/// Objects built before they are synced together.
const BATCH: usize = 256;

/// From this many on, one sync of the whole leg is cheaper than one of each object.
const SYNC_ALL: usize = 8;

/// Objects in `incoming/` that are to go into one directory.
pub(super) struct Batch<'d, L: Leg> {
    dir: &'d L::Node,
    built: Vec<Built<L>>,
}

impl<'d, L: Leg> Batch<'d, L> {
    /// For this directory of the target.
    pub fn new(dir: &'d L::Node) -> Batch<'d, L> {
        Batch { dir, built: Vec::new() }
    }

    /// Whether it is time to put them in place.
    pub fn is_full(&self) -> bool {
        self.built.len() >= BATCH
    }
}

/// One object in `incoming/`.
struct Built<L: Leg> {
    incoming: OsString,
    name: OsString,
    node: L::Node,
    wanted: Identity,
    identity: Identity,
    follows: Follows,
}

/// What a built object lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    Nothing,
    Data,
    Entries,
}

impl<L: Leg> Run<'_, L> {
    /// Builds the counterpart of `wanted`, to be put in place as `name` with the rest of the batch.
    pub fn build(
        &mut self,
        intent: &WriteIntent<'_>,
        s_node: &L::Node,
        wanted: &Child,
        name: &OsStr,
        batch: &mut Batch<'_, L>,
    ) -> io::Result<()> {
        let t = self.sides.t;
        self.at = Some(self.sides.pair(wanted.identity, Identity::UNKNOWN));
        let area = t.area(Area::Incoming)?;
        // What went wrong while the source was in use has left something here.
        let incoming = OsString::from(format!("{}-{}", wanted.stat.ino, self.built));
        self.built += 1;
        let identity = self.make(intent, s_node, wanted, (&area, &incoming))?;
        let node = t.child(&area, &incoming)?;
        let follows = self.fill(intent, s_node, wanted, &node)?;
        metadata::equalize(self.sides, intent, s_node, &node)?;
        let name = name.to_owned();
        batch.built.push(Built { incoming, name, node, wanted: wanted.identity, identity, follows });
        Ok(())
    }

    fn make(
        &self,
        intent: &WriteIntent<'_>,
        s_node: &L::Node,
        wanted: &Child,
        (area, name): (&L::Node, &OsStr),
    ) -> io::Result<Identity> {
        let stat = &wanted.stat;
        let (mode, target);
        let what = match stat.kind {
            Kind::File => Make::File { mode: 0o600 },
            Kind::Directory => Make::Directory { mode: 0o700 },
            Kind::Symlink => {
                target = self.sides.s.readlink(s_node)?;
                Make::Symlink { target: &target }
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                mode = stat.mode & 0o777;
                Make::Special { kind: stat.kind, mode, rdev: stat.rdev }
            }
        };
        let creator = Creator { uid: stat.uid, gid: stat.gid, umask: 0 };
        Ok(self.sides.t.make(intent, area, name, what, creator)?.0)
    }

    /// Copies the data of a small file. Says what is left to follow.
    fn fill(
        &mut self,
        intent: &WriteIntent<'_>,
        s_node: &L::Node,
        wanted: &Child,
        node: &L::Node,
    ) -> io::Result<Follows> {
        let Sides { s, t, .. } = self.sides;
        let size = wanted.stat.size;
        Ok(match wanted.stat.kind {
            Kind::File if size > 0 && (self.at_once || size <= SMALL) => {
                // The length first: what is a hole at the end of the source's file is one here.
                t.truncate(intent, node, size)?;
                match self.copy_data(intent, (s_node, node), size) {
                    Err(_) if self.copier.source_failed() && !self.at_once => Follows::Data,
                    copied => copied.map(|()| Follows::Nothing)?,
                }
            }
            Kind::File if size > 0 => Follows::Data,
            Kind::Directory if !s.read_dir(s_node)?.is_empty() => Follows::Entries,
            _ => Follows::Nothing,
        })
    }

    /// Gives the built objects their names.
    ///
    /// ORDER: synced, so that no name ever stands for less than was built. Then the slots: an object
    /// that lacks something has a slot that says so, bound to this very object, before it has a name,
    /// because under its name it would pass for equal. Then the names. A crash in between leaves
    /// things in `incoming/`, which the next resync throws away, and slots bound to objects that
    /// are gone, which it builds anew.
    pub fn put_in_place(&mut self, intent: &WriteIntent<'_>, batch: &mut Batch<'_, L>) -> io::Result<()> {
        let t = self.sides.t;
        if self.rehearses.is_some() {
            // ORDER: it is nobody's leg before the end of the last pass, which syncs all of it. Who begins again
            // compares everything, so that a name which stands for less after a power cut harms nothing.
        } else if batch.built.len() >= SYNC_ALL {
            t.sync_all()?;
        } else {
            batch.built.iter().try_for_each(|built| t.sync_node(&built.node))?;
        }
        let area = t.area(Area::Incoming)?;
        for built in batch.built.drain(..) {
            self.bind(intent, &built)?;
            let from = (&area, built.incoming.as_os_str());
            rename_to_free(t, intent, from, (batch.dir, &built.name))?;
        }
        Ok(())
    }

    /// The slots of the source's object stand for the built one from now on, and say what it lacks.
    fn bind(&mut self, intent: &WriteIntent<'_>, built: &Built<L>) -> io::Result<()> {
        let target = self.sides.target();
        if let Some(at) = self.known(&built.wanted) {
            for &slot in &self.objects[at].slots {
                self.bitmap.rebind(self.host, slot, target, built.identity)?;
            }
            self.objects[at].data = Spans::none();
        }
        self.now_is(&built.wanted, built.identity);
        let ids = self.sides.pair(built.wanted, built.identity);
        match built.follows {
            Follows::Nothing => Ok(()),
            Follows::Data if self.want_data(ids)? => Ok(()),
            Follows::Data => self.fill_now(intent, built),
            Follows::Entries if self.inside.is_some() => {
                self.inside.get_or_insert_default().push(ids);
                Ok(())
            }
            Follows::Entries if !self.at_once && self.want_entries(ids)? => Ok(()),
            Follows::Entries => self.furnish_now(intent, ids),
        }
    }

    /// Copies the data of a file that is still in `incoming/`.
    fn fill_now(&mut self, intent: &WriteIntent<'_>, built: &Built<L>) -> io::Result<()> {
        let Some(s_node) = self.sides.find(self.sides.source, &built.wanted)? else { return Ok(()) };
        self.copy_data(intent, (&s_node, &built.node), self.sides.s.stat(&s_node)?.size)?;
        metadata::equalize(self.sides, intent, &s_node, &built.node)?;
        self.sides.t.sync_node(&built.node)
    }

    /// Gives a directory that is still in `incoming/` all that is to be in it, to any depth.
    ///
    /// FAIL-SAFE: what was parked may be moved into it. If a crash leaves it in `incoming/`, that is
    /// thrown away with the rest, and built anew from the source.
    fn furnish_now(&mut self, intent: &WriteIntent<'_>, ids: PerLeg<Identity>) -> io::Result<()> {
        let before = std::mem::replace(&mut self.at_once, true);
        self.inside = Some(vec![ids]);
        let mut at = 0;
        while let Some(&dir) = self.inside.as_ref().and_then(|inside| inside.get(at)) {
            self.place(intent, &dir)?;
            at += 1;
        }
        self.at_once = before;
        let furnished = self.inside.take().unwrap_or_default();
        furnished.iter().try_for_each(|dir| self.equalize(intent, dir))?;
        self.sides.t.sync_all()
    }
}
