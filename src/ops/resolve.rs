//! From an object to its node on a leg.
//!
//! An object is found by its handle; where there are none, by its place: the directory it lies in and
//! its name there. What is about to lose its place (unlink, rename) is identified or pinned on both
//! legs first, so that whoever looks for it meanwhile still finds it.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Attr, Found, Mirror};
use crate::bitmap::{Kinds, Markable};
use crate::error::errno;
use crate::inode::{Ino, NameIn, Object};
use crate::legs::{Identity, Kind, Leg, LegId, PerLeg, Stat};

impl<L: Leg> Mirror<L> {
    /// The object that the kernel calls `ino`.
    pub(super) fn object(&self, ino: Ino) -> io::Result<Arc<Object<L>>> {
        self.table.get(ino).ok_or(errno(libc::ESTALE))
    }

    /// The same, and it must be a directory.
    pub(super) fn directory(&self, ino: Ino) -> io::Result<Arc<Object<L>>> {
        let object = self.object(ino)?;
        if object.kind != Kind::Directory {
            return Err(errno(libc::ENOTDIR));
        }
        Ok(object)
    }

    /// The object's node on `leg`.
    pub(super) fn node(&self, object: &Arc<Object<L>>, leg: LegId) -> io::Result<L::Node> {
        if object.ino == Ino::ROOT {
            return Ok(self.leg(leg)?.root());
        }
        if let Some(node) = self.pins.get(object.ino.0, object.generation, leg) {
            return Ok(node);
        }
        let is_still = self.term(leg);
        let node = self.find(object, leg)?;
        if object.kind == Kind::Directory {
            self.pins.put_while(&is_still, (object.ino.0, object.generation, leg), node.clone());
        }
        if is_still() { Ok(node) } else { Err(errno(libc::ENOTCONN)) }
    }

    /// The object's nodes on the legs that serve and have it, to be changed. ESTALE if they are not one
    /// object any more.
    pub(super) fn nodes(&self, object: &Arc<Object<L>>) -> io::Result<Nodes<L>> {
        if object.replaced.load(Ordering::Acquire) {
            return Err(errno(libc::ESTALE));
        }
        let has_it = |leg| !object.with_names(|names| names.absent[leg]);
        Ok(Nodes(self.asking_each(has_it, |leg| self.node(object, leg))?))
    }

    fn find(&self, object: &Arc<Object<L>>, leg: LegId) -> io::Result<L::Node> {
        loop {
            let is_still = self.term(leg);
            let (pinned, identity, place) = object
                .with_names(|names| (names.pinned(leg).cloned(), names.identity(leg), names.place.clone()));
            if let Some(node) = pinned {
                return Ok(node);
            }
            if let Some(identity) = identity.filter(Identity::opens) {
                return self.leg(leg)?.find(&identity);
            }
            let Some((dir, name)) = place.as_ref() else { return Err(errno(libc::ESTALE)) };
            let found = self.node(dir, leg).and_then(|dir| self.leg(leg)?.child(&dir, name));
            // A rename may have moved it between the look at its place and the look into the
            // directory. Before it does, it pins or identifies what it moves.
            let moved = object.with_names(|names| {
                let known = names.identity(leg).is_some_and(|identity| identity.opens());
                names.pinned(leg).is_some() || known || !same_place(&names.place, &place)
            });
            match found {
                Ok(node) if !moved => {
                    self.learn(object, leg, &node, is_still)?;
                    return Ok(node);
                }
                Err(error) if !moved => return Err(error),
                _ => {}
            }
        }
    }

    /// Keeps the identity that `node` has; ESTALE if the object is known to have another.
    fn learn(
        &self,
        object: &Object<L>,
        leg: LegId,
        node: &L::Node,
        is_still: impl Fn() -> bool,
    ) -> io::Result<()> {
        let here = self.leg(leg)?;
        let identity = here.identity(node)?;
        let known = object.with_names(|names| names.identity(leg));
        match known.filter(|known| !known.is_same(&identity)) {
            Some(_) if here.identities_last() => return Err(errno(libc::ESTALE)),
            // Where numbers do not last, the place tells more: whoever moves an object pins it first.
            Some(before) if is_still() => self.table.renumber(object, leg, before, identity),
            _ => {}
        }
        self.identify(object, leg, identity, is_still)
    }

    /// What names the object on both legs. On one that is away and was not asked in time: the place where it
    /// has the object.
    pub(super) fn identities(&self, object: &Arc<Object<L>>) -> io::Result<PerLeg<Identity>> {
        let here = |leg: LegId| self.health.in_service(leg) && !object.with_names(|names| names.absent[leg]);
        let asked = self.asking_each(here, |leg| self.identity_on(object, leg))?;
        let known = object.with_names(|names| names.identities());
        let all = PerLeg::from_fn(|leg| {
            asked[leg].or(known[leg]).unwrap_or_else(|| self.place_on(object, leg.other()))
        });
        if all.iter().any(|(_, identity)| *identity == Identity::UNKNOWN) {
            // FAIL-SAFE: there is no telling where the leg that is away has it.
            self.bitmap.set_compare_all(self)?;
        }
        Ok(all)
    }

    /// What names the object on one leg, known from now on.
    pub(super) fn identity_on(&self, object: &Arc<Object<L>>, leg: LegId) -> io::Result<Identity> {
        if let Some(known) = object.with_names(|names| names.identity(leg)) {
            return Ok(known);
        }
        let is_still = self.term(leg);
        let identity = self.leg(leg)?.identity(&self.node(object, leg)?)?;
        self.identify(object, leg, identity, is_still).map(|()| identity)
    }

    /// Keeps what the object is on a leg, if that `is_still` the one.
    fn identify(
        &self,
        object: &Object<L>,
        leg: LegId,
        identity: Identity,
        is_still: impl Fn() -> bool,
    ) -> io::Result<()> {
        // ORDER: asked under the lock under which it is forgotten.
        object.with_names(|names| match is_still() {
            true => {
                names.identify(leg, Some(identity));
                Ok(())
            }
            false => Err(errno(libc::ENOTCONN)),
        })
    }

    /// Where the leg that is away has the object: where it is on `here`, which serves alone.
    ///
    /// Whoever moves an object marks it first, so at its first mark it still is where the other leg has it.
    fn place_on(&self, object: &Arc<Object<L>>, here: LegId) -> Identity {
        if object.ino == Ino::ROOT {
            let of_root = object.with_names(|names| names.identity(here));
            return of_root.map_or(Identity::UNKNOWN, |of_root| Identity::at_root(&of_root));
        }
        let Some((dir, name)) = object.with_names(|names| names.place.clone()) else {
            return Identity::UNKNOWN;
        };
        let of_dir = dir.with_names(|names| names.identity(here));
        of_dir.map_or(Identity::UNKNOWN, |of_dir| Identity::at_place(&of_dir, &name, self.is_certain(object)))
    }

    /// What names a directory on both legs while one is away; `None` where that cannot be told.
    ///
    /// One that the kernel does not know has been moved by nobody since the leg went, or it has a slot, which
    /// says where that leg has it: the bitmap goes by that first.
    pub(super) fn directory_alone(&self, dir: &Identity) -> Option<PerLeg<Identity>> {
        let here = self.source();
        let is_it = |object: &Arc<Object<L>>| object.with_names(|names| names.identity(here) == Some(*dir));
        let there = match self.table.by_number(dir.ino).filter(is_it) {
            Some(object) => {
                let known = object.with_names(|names| names.identity(here.other()));
                known.unwrap_or_else(|| self.place_on(&object, here))
            }
            None if dir.opens() => self.place_of_unknown(dir, here).ok()?,
            None => return None,
        };
        let mut both = PerLeg::new(*dir, *dir);
        both[here.other()] = there;
        (there != Identity::UNKNOWN).then_some(both)
    }

    fn place_of_unknown(&self, dir: &Identity, here: LegId) -> io::Result<Identity> {
        let leg = self.leg(here)?;
        if leg.identity(&leg.root())?.is_same(dir) {
            return Ok(Identity::at_root(dir));
        }
        let parent = leg.parent(&leg.find(dir)?)?;
        let entry = leg.read_dir(&parent)?.into_iter().find(|entry| entry.ino == dir.ino);
        let name = entry.ok_or_else(|| errno(libc::ESTALE))?.name;
        Ok(Identity::at_place(&leg.identity(&parent)?, &name, false))
    }

    /// Whether it is certain what the object is on the leg that is away: that was asked before it went, or the
    /// object was born before and nothing about its names was open then.
    pub(super) fn is_certain(&self, object: &Arc<Object<L>>) -> bool {
        let source = self.source();
        let (known, born_alone, place) = object.with_names(|names| {
            let known = names.identity(source.other()).is_some() || names.absent[source.other()];
            (known, names.born_alone, names.place.clone())
        });
        if known || born_alone || object.ino == Ino::ROOT {
            return !born_alone;
        }
        let (Some(since), Some((dir, _))) = (self.health.alone_since(), place) else { return false };
        let born = self.stat_on(object, source).ok().and_then(|stat| stat.btime);
        let mut of_dir = PerLeg::new(Identity::UNKNOWN, Identity::UNKNOWN);
        match dir.with_names(|names| names.identity(source)) {
            Some(identity) => of_dir[source] = identity,
            None => return false,
        }
        // What was born under a cover has no slot, whatever was open about it.
        let since = self.bitmap.born_since(source).map_or(since, |covered| covered.min(since));
        born.is_some_and(|born| born < since) && !self.bitmap.was_marked_before(&of_dir, Kinds::ENTRIES)
    }

    /// Makes sure the object is found on the legs that serve while its place changes: by handle, or else by
    /// a pinned node. [`placed`](Self::placed) ends it.
    pub(super) fn pin(&self, object: &Arc<Object<L>>) -> io::Result<()> {
        let by_place = |leg: LegId| {
            object.with_names(|names| !names.absent[leg] && !names.identity(leg).is_some_and(|id| id.opens()))
        };
        self.pin_where(object, by_place)
    }

    /// Pins the nodes themselves: for what is about to lose its last name and is still in use.
    pub(super) fn pin_open(&self, object: &Arc<Object<L>>) -> io::Result<()> {
        self.pin_where(object, |leg| object.with_names(|names| !names.absent[leg]))
    }

    fn pin_where(&self, object: &Arc<Object<L>>, leg: impl Fn(LegId) -> bool) -> io::Result<()> {
        let nodes = self.asking_each(leg, |leg| self.node(object, leg))?;
        object.with_names(|names| {
            for leg in LegId::ALL {
                if let Some(node) = &nodes[leg] {
                    names.pin(leg, node.clone());
                }
            }
        });
        Ok(())
    }

    /// The object is at this place now, and found there again.
    pub(super) fn placed(&self, object: &Object<L>, dir: &Arc<Object<L>>, name: &OsStr) {
        let left =
            object.with_names(|names| (names.place.replace((dir.clone(), name.into())), names.unpin_all()));
        self.table.reap(left.0.map(|(dir, _)| dir));
    }

    /// The object is no longer at this place; it may have others that are not known.
    pub(super) fn displaced(&self, object: &Object<L>, dir: &Object<L>, name: &OsStr) {
        let left = object.with_names(|names| {
            let here =
                matches!(&names.place, Some((at, known)) if std::ptr::eq(&**at, dir) && **known == *name);
            if here { names.place.take() } else { None }
        });
        self.table.reap(left.map(|(dir, _)| dir));
    }

    /// Looks a name up on the source: the object, known from now on, and what it is. `lookups` are the
    /// kernel's.
    pub(super) fn look_up(
        &self,
        dir: &Arc<Object<L>>,
        name: &OsStr,
        lookups: u64,
    ) -> io::Result<(Arc<Object<L>>, Found)> {
        loop {
            let (leg, (identity, stat)) =
                self.reading(|leg| Ok((leg, self.leg(leg)?.lookup(&self.node(dir, leg)?, name)?)))?;
            let mut identities = PerLeg::new(None, None);
            identities[leg] = Some(identity);
            if let Some(known) = self.intern(dir, name, identities, stat, lookups) {
                return Ok(known);
            }
        }
    }

    /// The object just found or made in `dir`, known from now on; `lookups` are the kernel's. `None` if the
    /// source has changed since, and what it is there is not among the identities.
    pub(super) fn intern(
        &self,
        dir: &Arc<Object<L>>,
        name: &OsStr,
        identities: PerLeg<Option<Identity>>,
        stat: Stat,
        lookups: u64,
    ) -> Option<(Arc<Object<L>>, Found)> {
        self.turning.wait();
        let object = self.table.intern(identities, stat.kind, (dir, name), lookups)?;
        let found = Found { attr: Attr { ino: object.ino, stat }, generation: object.generation };
        Some((object, found))
    }

    /// `object`, to be marked.
    pub(super) fn markable<'m>(&'m self, object: &'m Arc<Object<L>>) -> Marked<'m, L> {
        Marked { mirror: self, object }
    }
}

fn same_place<L: Leg>(a: &Option<NameIn<L>>, b: &Option<NameIn<L>>) -> bool {
    match (a, b) {
        (Some((dir_a, name_a)), Some((dir_b, name_b))) => Arc::ptr_eq(dir_a, dir_b) && name_a == name_b,
        (None, None) => true,
        _ => false,
    }
}

/// An object's nodes on the legs that a change is asked of.
pub(super) struct Nodes<L: Leg>(PerLeg<Option<L::Node>>);

impl<L: Leg> Nodes<L> {
    /// The node on a leg that serves; ENODEV on one that does not.
    pub fn on(&self, leg: LegId) -> io::Result<&L::Node> {
        self.0[leg].as_ref().ok_or_else(|| errno(libc::ENODEV))
    }
}

/// An object as the bitmap asks for it.
pub(super) struct Marked<'m, L: Leg> {
    mirror: &'m Mirror<L>,
    object: &'m Arc<Object<L>>,
}

impl<L: Leg> Markable for Marked<'_, L> {
    fn slot_hint(&self) -> &AtomicU64 {
        &self.object.slot_hint
    }

    fn cover(&self) -> u64 {
        self.object.cover.load(Ordering::Acquire)
    }

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        self.mirror.identities(self.object)
    }

    fn directory(&self) -> Option<Identity> {
        let source = self.mirror.source();
        let dir = self.object.with_names(|names| names.place.as_ref().map(|(dir, _)| dir.clone()))?;
        dir.with_names(|names| names.identity(source))
    }
}
