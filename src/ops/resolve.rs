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
use crate::bitmap::Markable;
use crate::error::errno;
use crate::inode::{Ino, Object};
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
            return Ok(self.legs[leg].root());
        }
        if let Some(node) = self.pins.get(object.ino.0, object.generation, leg) {
            return Ok(node);
        }
        let node = self.find(object, leg)?;
        if object.kind == Kind::Directory {
            self.pins.put(object.ino.0, object.generation, leg, node.clone());
        }
        Ok(node)
    }

    /// The object's nodes on both legs, to be changed. ESTALE if they are not one object any more.
    pub(super) fn nodes(&self, object: &Arc<Object<L>>) -> io::Result<PerLeg<L::Node>> {
        if object.replaced.load(Ordering::Acquire) {
            return Err(errno(libc::ESTALE));
        }
        PerLeg::from_fn(|leg| self.prepared(leg, self.node(object, leg))).transpose()
    }

    fn find(&self, object: &Arc<Object<L>>, leg: LegId) -> io::Result<L::Node> {
        loop {
            let (pinned, identity, place) = object
                .with_names(|names| (names.pinned[leg].clone(), names.identities[leg], names.place.clone()));
            if let Some(node) = pinned {
                return Ok(node);
            }
            if let Some(identity) = identity.filter(|identity| identity.handle.is_some()) {
                return self.legs[leg].find(&identity);
            }
            let Some((dir, name)) = place.as_ref() else { return Err(errno(libc::ESTALE)) };
            let found = self.node(dir, leg).and_then(|dir| self.legs[leg].child(&dir, name));
            // A rename may have moved it between the look at its place and the look into the
            // directory. Before it does, it pins or identifies what it moves.
            let moved = object.with_names(|names| {
                let known = names.identities[leg].is_some_and(|identity| identity.handle.is_some());
                names.pinned[leg].is_some() || known || !same_place(&names.place, &place)
            });
            match found {
                Ok(node) if !moved => {
                    self.learn(object, leg, &node)?;
                    return Ok(node);
                }
                Err(error) if !moved => return Err(error),
                _ => {}
            }
        }
    }

    /// Keeps the identity that `node` has; ESTALE if the object is known to have another.
    fn learn(&self, object: &Object<L>, leg: LegId, node: &L::Node) -> io::Result<()> {
        let identity = self.legs[leg].identity(node)?;
        object.with_names(|names| match names.identities[leg] {
            Some(known) if known != identity => Err(errno(libc::ESTALE)),
            _ => {
                names.identities[leg] = Some(identity);
                Ok(())
            }
        })
    }

    /// What names the object on both legs.
    pub(super) fn identities(&self, object: &Arc<Object<L>>) -> io::Result<PerLeg<Identity>> {
        PerLeg::from_fn(|leg| {
            if let Some(known) = object.with_names(|names| names.identities[leg]) {
                return Ok(known);
            }
            let node = self.node(object, leg).and_then(|node| self.legs[leg].identity(&node));
            self.prepared(leg, node)
        })
        .transpose()
    }

    /// Makes sure the object is found on both legs while its place changes: by handle, or else by a
    /// pinned node. [`placed`](Self::placed) ends it.
    pub(super) fn pin(&self, object: &Arc<Object<L>>) -> io::Result<()> {
        for leg in LegId::ALL {
            let identity = object.with_names(|names| names.identities[leg]);
            if identity.is_none_or(|identity| identity.handle.is_none()) {
                let node = self.prepared(leg, self.node(object, leg))?;
                object.with_names(|names| names.pinned[leg] = Some(node));
            }
        }
        Ok(())
    }

    /// Pins the nodes themselves: for what is about to lose its last name and is still in use.
    pub(super) fn pin_open(&self, object: &Arc<Object<L>>) -> io::Result<()> {
        for leg in LegId::ALL {
            let node = self.prepared(leg, self.node(object, leg))?;
            object.with_names(|names| names.pinned[leg] = Some(node));
        }
        Ok(())
    }

    /// The object is at this place now, and found there again.
    pub(super) fn placed(&self, object: &Object<L>, dir: &Arc<Object<L>>, name: &OsStr) {
        let left = object.with_names(|names| {
            let pins = std::mem::replace(&mut names.pinned, PerLeg::new(None, None));
            (names.place.replace((dir.clone(), name.to_owned())), pins)
        });
        self.table.reap(left.0.map(|(dir, _)| dir));
    }

    /// The object is no longer at this place; it may have others that are not known.
    pub(super) fn displaced(&self, object: &Object<L>, dir: &Object<L>, name: &OsStr) {
        let left = object.with_names(|names| {
            let here = matches!(&names.place, Some((at, known)) if std::ptr::eq(&**at, dir) && known == name);
            if here { names.place.take() } else { None }
        });
        self.table.reap(left.map(|(dir, _)| dir));
    }

    /// The object just found or made in `dir`, known from now on; `lookups` are the kernel's.
    pub(super) fn intern(
        &self,
        dir: &Arc<Object<L>>,
        name: &OsStr,
        (identity, stat): (Identity, Stat),
        lookups: u64,
    ) -> (Arc<Object<L>>, Found) {
        let ino = self.numbering.shown(identity.ino);
        let object = self.table.intern(ino, identity, stat.kind, (dir, name), lookups);
        let found = Found { attr: Attr { ino, stat }, generation: object.generation };
        (object, found)
    }

    /// `object`, to be marked.
    pub(super) fn markable<'m>(&'m self, object: &'m Arc<Object<L>>) -> Marked<'m, L> {
        Marked { mirror: self, object }
    }
}

fn same_place<L: Leg>(
    a: &Option<(Arc<Object<L>>, std::ffi::OsString)>,
    b: &Option<(Arc<Object<L>>, std::ffi::OsString)>,
) -> bool {
    match (a, b) {
        (Some((dir_a, name_a)), Some((dir_b, name_b))) => Arc::ptr_eq(dir_a, dir_b) && name_a == name_b,
        (None, None) => true,
        _ => false,
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

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        self.mirror.identities(self.object)
    }
}
