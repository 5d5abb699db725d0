//! Builds what the target does not have: each object by itself in `incoming/`, several at the same time ([`each`]).
//!
//! For what a small one costs is waiting: for its source to be read, and on a network for every call. Here and in the data
//! phase several threads work on several objects. They decide nothing: which object is what,
//! and what it is called, was found before, and what becomes of it is `batch`'s.
//!
//! What is built is a single object: a directory is empty, a large file has no data yet.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Sides;
use super::copy::{Copier, OpenPair};
use super::entries::{SMALL, child_of_source};
use super::metadata;
use super::pairs::Child;
use super::run::Run;
use crate::bitmap::WriteIntent;
use crate::legs::{Creator, Identity, Kind, Leg, Make, OpenMode, PerLeg, Stat};
use crate::sync::each;

/// Objects that are built, or compared, at the same time. In tests only one, which makes every step of them come in one order; the
/// simulation runs them all, in an order that its seed gives.
pub(super) const AT_ONCE: usize = if cfg!(test) { 1 } else { 4 };

/// A directory, on both legs, of which names are placed under this intent.
pub(super) struct Place<'r, L: Leg> {
    pub ids: PerLeg<Identity>,
    pub intent: WriteIntent<'r>,
    pub s: L::Node,
    pub t: L::Node,
}

/// A name that the target does not have.
pub(super) struct Wanted<'r, L: Leg> {
    pub place: Arc<Place<'r, L>>,
    pub name: OsString,
    /// What the source has there.
    pub child: Child,
    /// Its name in `incoming/`.
    pub incoming: OsString,
}

/// One object in `incoming/`.
pub(super) struct Built {
    pub identity: Identity,
    pub follows: Follows,
}

/// What a built object lacks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    Data,
    Entries,
}

/// Builds single objects. What it needs is shared with nobody who builds another one meanwhile, but what does not change.
struct Builder<'b, L: Leg> {
    sides: Sides<'b, L>,
    /// The target's `incoming/`.
    area: &'b L::Node,
    /// See [`Run`].
    at_once: bool,
    /// The source is changed by others.
    moves: bool,
    /// One could not be built: no more are begun.
    failed: AtomicBool,
}

impl<L: Leg> Builder<'_, L> {
    /// `None` if it was not begun, since another one has failed.
    fn build(&self, copier: &mut Copier<'_>, wanted: &Wanted<'_, L>) -> Option<io::Result<Built>> {
        if self.failed.load(Ordering::Relaxed) {
            return None;
        }
        let built = self.try_to_build(copier, wanted);
        if built.is_err() && !self.moves {
            self.failed.store(true, Ordering::Relaxed);
        }
        Some(built)
    }

    fn try_to_build(&self, copier: &mut Copier<'_>, wanted: &Wanted<'_, L>) -> io::Result<Built> {
        let (Sides { s, t, .. }, intent) = (self.sides, &wanted.place.intent);
        let s_node = child_of_source(s, &wanted.place.s, &wanted.name, &wanted.child, self.moves)?;
        let (stat, incoming) = (&wanted.child.stat, &wanted.incoming);
        let (identity, follows) = match stat.kind {
            Kind::File if stat.size > 0 && (self.at_once || stat.size <= SMALL) => {
                let open = OpenMode { read: true, write: true, direct: false };
                // Often its final mode already, and one in which its owner may write to it.
                let mode = (stat.mode & 0o777) | 0o600;
                let (identity, _, file) = t.create(intent, self.area, incoming, mode, creator(stat), open)?;
                let files = OpenPair::with_new(self.sides, &s_node, file)?;
                match copier.fill_new(self.sides, intent, &files, stat) {
                    Err(_) if copier.source_failed() && !self.at_once => (identity, Follows::Data),
                    copied => copied.map(|()| (identity, Follows::Nothing))?,
                }
            }
            Kind::File if stat.size > 0 => (self.make(&s_node, wanted)?, Follows::Data),
            Kind::Directory if !s.read_dir(&s_node)?.is_empty() => {
                (self.make(&s_node, wanted)?, Follows::Entries)
            }
            _ => (self.make(&s_node, wanted)?, Follows::Nothing),
        };
        metadata::equalize(self.sides, intent, &s_node, &t.child(self.area, incoming)?)?;
        Ok(Built { identity, follows })
    }

    /// Makes what has no data of its own, or gets it later.
    fn make(&self, s_node: &L::Node, wanted: &Wanted<'_, L>) -> io::Result<Identity> {
        let stat = &wanted.child.stat;
        let target;
        let what = match stat.kind {
            Kind::File => Make::File { mode: 0o600 },
            Kind::Directory => Make::Directory { mode: 0o700 },
            Kind::Symlink => {
                target = self.sides.s.readlink(s_node)?;
                Make::Symlink { target: &target }
            }
            Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
                Make::Special { kind: stat.kind, mode: stat.mode & 0o777, rdev: stat.rdev }
            }
        };
        let made =
            self.sides.t.make(&wanted.place.intent, self.area, &wanted.incoming, what, creator(stat))?;
        Ok(made.0)
    }
}

fn creator(stat: &Stat) -> Creator {
    Creator { uid: stat.uid, gid: stat.gid, umask: 0 }
}

impl<'r, L: Leg> Run<'r, L> {
    /// Builds them all, several at the same time. `None` for what was not begun, since another one has failed: that may
    /// stand behind it.
    pub fn build_all(&mut self, area: &L::Node, wanted: &[Wanted<'r, L>]) -> Vec<Option<io::Result<Built>>> {
        let (sides, progress) = (self.sides, self.progress);
        let moves = self.moves();
        let builder = Builder { sides, area, at_once: self.at_once, moves, failed: AtomicBool::new(false) };
        // To wake somebody for a single small object takes longer than to build it.
        let workers = AT_ONCE.min(wanted.len() / 2).max(1);
        while self.builders.len() < workers {
            self.builders.push(Copier::new(progress));
        }
        each(&mut self.builders[..workers], wanted, |copier, wanted| builder.build(copier, wanted))
    }
}
