//! The names in dirty directories: what is not where the source has it is parked, then what the
//! source has is put into its place.
//!
//! A name is never overwritten and an object never deleted here. While names are parked, the target's
//! tree falls into pieces that hang in `parked/`; as the source's directories are a tree, putting
//! each piece where the source has it never makes a directory its own ancestor.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::areas::make_writable;
use super::batch::Batch;
use super::build::Place;
use super::pairs::{Child, correspond};
use super::run::{Dir, Run};
use super::spans::Spans;
use super::touched::Part;
use super::{Sides, gone_is_none, metadata, rename_to_free};
use crate::bitmap::WriteIntent;
use crate::error::errno;
use crate::legs::{Identity, Keeps, Kind, Leg, LegId, PerLeg, Stat, Timestamp};

/// Files up to this many bytes are copied under the name's own intent; longer ones get a slot, and
/// their data follows behind the mount.
/// Short in tests, which then need not fill a megabyte for each crash.
pub const SMALL: u64 = if cfg!(test) { 8 << 10 } else { 1 << 20 };

/// The object a name stands for; `None` if there is none.
pub(super) fn look_up<L: Leg>(leg: &L, dir: &L::Node, name: &OsStr) -> io::Result<Option<Child>> {
    let found = gone_is_none(leg.lookup(dir, name))?;
    Ok(found.map(|(identity, stat)| Child { identity, stat }))
}

/// What the source has under a name. While it serves (`moves`), another object than the one that was seen there may
/// have come there meanwhile.
pub(super) fn child_of_source<L: Leg>(
    s: &L,
    sd: &L::Node,
    name: &OsStr,
    wanted: &Child,
    moves: bool,
) -> io::Result<L::Node> {
    let node = s.child(sd, name)?;
    match moves && !s.identity(&node)?.is_same(&wanted.identity) {
        true => Err(errno(libc::ESTALE)),
        false => Ok(node),
    }
}

impl<'r, L: Leg> Run<'r, L> {
    /// Moves away what lies in the target's directory and not so in the source's. What may stay is
    /// looked at.
    ///
    /// A directory that the source does not have any more counts as empty there: what it holds may
    /// belong elsewhere by now. One that the target does not have is built when its parent is placed.
    /// What lies there may be in the batch, under another name.
    pub fn park(&mut self, dir: Dir, batch: &mut Batch<'r, L>) -> io::Result<()> {
        let Some(td) = self.directory(self.sides.target(), &dir.ids)? else { return Ok(()) };
        let sd = self.directory(self.sides.source, &dir.ids)?;
        let intent = self.intent(dir);
        make_writable(self.sides.t, &intent, &td)?;
        for name in self.names_of(self.sides.t, &td, &dir.ids)? {
            let done = self.park_name(&intent, dir, (sd.as_ref(), &td), &name, batch);
            self.or_again(&dir.ids, Part::Name(&name), done)?;
        }
        Ok(())
    }

    /// The names of a directory that are to be looked at, as this leg has them.
    fn names_of(&self, leg: &L, node: &L::Node, ids: &PerLeg<Identity>) -> io::Result<Vec<OsString>> {
        match self.only.get(ids) {
            Some(names) => Ok(names.iter().cloned().collect()),
            None => Ok(leg.read_dir(node)?.into_iter().map(|entry| entry.name).collect()),
        }
    }

    fn park_name(
        &mut self,
        intent: &WriteIntent<'_>,
        dir: Dir,
        (sd, td): (Option<&L::Node>, &L::Node),
        name: &OsStr,
        batch: &mut Batch<'r, L>,
    ) -> io::Result<()> {
        let Sides { s, t, .. } = self.sides;
        let Some(found) = look_up(t, td, name)? else { return Ok(()) };
        let wanted = match sd {
            Some(sd) => look_up(s, sd, name)?.map(|child| (sd, child)),
            None => None,
        };
        if let Some((_, wanted)) = &wanted {
            self.check_names(&wanted.stat)?;
            self.check_names(&found.stat)?;
            self.place_if_held(&wanted.identity, batch)?;
        }
        match wanted {
            Some((sd, wanted)) if self.stays((sd, td), name, &wanted, &found)? => {
                self.look_at(intent, dir, (sd, td), name, (&wanted, &found))
            }
            _ => self.parked.park(t, intent, (td, name), found.stat.ino),
        }
    }

    /// Whether the target's object may stay under its name, to be made equal where it is. The target
    /// of a symlink cannot be changed, so it counts as what the object is.
    pub fn stays(
        &self,
        (sd, td): (&L::Node, &L::Node),
        name: &OsStr,
        wanted: &Child,
        found: &Child,
    ) -> io::Result<bool> {
        let Sides { t, source, .. } = self.sides;
        if !correspond(&self.pairs, source, wanted, found) {
            return Ok(false);
        }
        Ok(wanted.stat.kind != Kind::Symlink
            || self.sides.s.readlink(&self.source_child(sd, name, wanted)?)?
                == t.readlink(&t.child(td, name)?)?)
    }

    /// Two objects that correspond. Those with a slot have their turn later; here is the only look at
    /// those without: born since their directory was marked, or untouched and equal; or its slot stands for them,
    /// and then they are compared whatever they look like.
    fn look_at(
        &mut self,
        intent: &WriteIntent<'_>,
        dir: Dir,
        (sd, td): (&L::Node, &L::Node),
        name: &OsStr,
        (wanted, found): (&Child, &Child),
    ) -> io::Result<()> {
        let ids = self.sides.pair(wanted.identity, found.identity);
        self.at = Some(ids);
        let unmet = self.is_unmet(&wanted.identity);
        if unmet {
            // Until all of it has been looked at. Somebody may move it under our hands.
            self.unmet.insert(wanted.identity.ino);
        }
        self.compare_where_it_is(intent, dir, (sd, td), name, (wanted, found), self.everything || unmet)?;
        self.unmet.remove(&wanted.identity.ino);
        Ok(())
    }

    fn compare_where_it_is(
        &mut self,
        intent: &WriteIntent<'_>,
        dir: Dir,
        (sd, td): (&L::Node, &L::Node),
        name: &OsStr,
        (wanted, found): (&Child, &Child),
        everything: bool,
    ) -> io::Result<()> {
        let Sides { t, source, .. } = self.sides;
        let ids = self.sides.pair(wanted.identity, found.identity);
        self.adopt(&wanted.identity, found.identity)?;
        // From here on its other names must be names of the same object.
        let linked = wanted.stat.kind != Kind::Directory && (wanted.stat.nlink > 1 || found.stat.nlink > 1);
        if (linked || self.rehearses.is_some()) && self.pairs.partner(source, &wanted.identity).is_none() {
            self.pairs.insert(ids);
        }
        if everything && wanted.stat.kind == Kind::Directory {
            self.list(Dir { ids, slot: dir.slot, since: None, whole: false });
            return Ok(());
        }
        let born = self.were_born_since((&wanted.stat, &found.stat), dir.since);
        if born && wanted.stat.kind == Kind::Directory {
            self.list(Dir { ids, whole: false, ..dir });
        }
        let certain = self.known(&wanted.identity).is_some_and(|at| self.objects[at].is_certain());
        if certain && !everything && !born && !dir.whole {
            return Ok(());
        }
        let (s_node, t_node) = (self.source_child(sd, name, wanted)?, t.child(td, name)?);
        let all = born || dir.whole;
        if may_hold_other_data(&wanted.stat, &found.stat, everything || all, self.sides.keeps()) {
            self.compare(intent, ids, (&s_node, &t_node), &wanted.stat, all, everything)?;
        }
        if metadata::differs(self.sides, &s_node, &t_node)? {
            metadata::equalize(self.sides, intent, &s_node, &t_node)?;
        }
        Ok(())
    }

    /// Whether one of two objects under a name may have been changed under the slot of the directory that it was
    /// born in. If that is the target's, the source has lost it, and has what lay there before.
    ///
    /// FAIL-SAFE: the slot has watermarks, so both legs told births then. Where one does not any more, it is not
    /// known what was born when.
    fn were_born_since(&self, (wanted, found): (&Stat, &Stat), since: Option<PerLeg<Timestamp>>) -> bool {
        let births = self.sides.pair(wanted.btime, found.btime);
        let on = |leg: LegId| since.is_some_and(|since| births[leg].is_none_or(|born| born >= since[leg]));
        #[cfg(feature = "simulation")]
        {
            use crate::sim::scheduler::{Rule, breaks};
            if breaks(Rule::BornCompared) {
                return false;
            }
            if breaks(Rule::EitherBirth) {
                return on(self.sides.source);
            }
        }
        LegId::ALL.into_iter().any(on)
    }

    /// All data of a file whose metadata are not yet equal.
    ///
    /// ORDER: the data is equal and durable, or its slot is, before the length and the times are made
    /// equal: these are all that tells the next resync to look at the data. Unless its birth does, or the slot
    /// of its directory.
    fn compare(
        &mut self,
        intent: &WriteIntent<'_>,
        ids: PerLeg<Identity>,
        nodes: (&L::Node, &L::Node),
        wanted: &Stat,
        born: bool,
        everything: bool,
    ) -> io::Result<()> {
        if (everything || wanted.size > SMALL) && self.want_data(ids)? {
            return Ok(());
        }
        match self.copy_data(intent, nodes, wanted.size) {
            // Its turn comes again, with the data.
            Err(_) if self.copier.source_failed() && self.want_data(ids)? => return Ok(()),
            copied => copied?,
        }
        if born { Ok(()) } else { self.sides.t.sync_node(nodes.1) }
    }

    /// Makes all data of a file equal, now.
    pub fn copy_data(
        &mut self,
        intent: &WriteIntent<'_>,
        nodes: (&L::Node, &L::Node),
        size: u64,
    ) -> io::Result<()> {
        self.copier.copy_spans(self.sides, intent, nodes, &Spans::of(std::iter::once(0..size)))
    }

    /// Gives the target's directory every name that the source's has. What has to be built for that is left in the batch.
    pub fn place(
        &mut self,
        intent: WriteIntent<'r>,
        ids: &PerLeg<Identity>,
        batch: &mut Batch<'r, L>,
    ) -> io::Result<()> {
        let Some(s) = self.directory(self.sides.source, ids)? else { return Ok(()) };
        let Some(t) = self.directory(self.sides.target(), ids)? else { return Ok(()) };
        if batch.concerns(ids) {
            // A name that waits there is not yet seen.
            self.put_in_place(batch)?;
        }
        make_writable(self.sides.t, &intent, &t)?;
        let place = Arc::new(Place { ids: *ids, intent, s, t });
        for name in self.names_of(self.sides.s, &place.s, ids)? {
            let done = self.place_name(&place, &name, batch);
            self.or_again(ids, Part::Name(&name), done)?;
        }
        Ok(())
    }

    /// Gives the target's directory this name, if it has not got it; or leaves it in the batch.
    pub fn place_name(
        &mut self,
        place: &Arc<Place<'r, L>>,
        name: &OsStr,
        batch: &mut Batch<'r, L>,
    ) -> io::Result<()> {
        let (Sides { s, t, .. }, intent) = (self.sides, &place.intent);
        if look_up(t, &place.t, name)?.is_some() {
            return Ok(());
        }
        let Some(wanted) = look_up(s, &place.s, name)? else { return Ok(()) };
        self.check_names(&wanted.stat)?;
        self.place_if_held(&wanted.identity, batch)?;
        match self.counterpart((&place.s, name), &wanted)? {
            Some(node) => {
                let stats = (&wanted.stat, &t.stat(&node)?);
                let certain = self.known(&wanted.identity).is_none_or(|at| self.objects[at].is_certain());
                // What has the number of an object that is gone passes for it, and has no slot of its own.
                let born = !certain && self.were_born_since(stats, self.born_since);
                self.move_in(intent, &node, (&place.t, name))?;
                // By its number alone it may be taken for another one that had it before.
                let by_number = self.rehearses.is_some() && wanted.identity.handle.is_none();
                if self.everything || born || by_number || self.is_unmet(&wanted.identity) {
                    self.look_into(intent, &wanted)?;
                }
                self.unmet.remove(&wanted.identity.ino);
                Ok(())
            }
            None if self.take_stray(intent, &place.s, &wanted, (&place.t, name))? => Ok(()),
            None => self.build(place, name, wanted, batch),
        }
    }

    /// The source's object that was found under a name.
    pub fn source_child(&self, sd: &L::Node, name: &OsStr, wanted: &Child) -> io::Result<L::Node> {
        child_of_source(self.sides.s, sd, name, wanted, self.moves())
    }

    /// The living object of the target that the source's object is.
    fn counterpart(&self, at: (&L::Node, &OsStr), wanted: &Child) -> io::Result<Option<L::Node>> {
        let Sides { s, t, source } = self.sides;
        let Some(identity) = self.pairs.partner(source, &wanted.identity) else { return Ok(None) };
        let Some(node) = self.sides.find(self.sides.target(), &identity)? else { return Ok(None) };
        let stat = t.stat(&node)?;
        if (stat.kind, stat.rdev) != (wanted.stat.kind, wanted.stat.rdev) {
            return Ok(None);
        }
        let leads_to = || s.readlink(&self.source_child(at.0, at.1, wanted)?);
        if stat.kind == Kind::Symlink && leads_to()? != t.readlink(&node)? {
            return Ok(None);
        }
        Ok(Some(node))
    }

    /// Gives an object its name: the one it was parked under becomes the new one; one that has a name
    /// elsewhere already gets one more.
    fn move_in(
        &mut self,
        intent: &WriteIntent<'_>,
        node: &L::Node,
        to: (&L::Node, &OsStr),
    ) -> io::Result<()> {
        let t = self.sides.t;
        let stat = t.stat(node)?;
        if let Some(parked) = self.parked.take(stat.ino) {
            return rename_to_free(t, intent, (&self.parked.dir, &parked), to);
        }
        if stat.kind != Kind::Directory {
            return t.link(intent, node, to.0, to.1);
        }
        // Inside something that was parked as a whole.
        let parent = t.parent(node)?;
        let place = t.read_dir(&parent)?.into_iter().find(|entry| entry.ino == stat.ino);
        let place = place.ok_or_else(|| errno(libc::ESTALE))?;
        make_writable(t, intent, &parent)?;
        rename_to_free(t, intent, (&parent, &place.name), to)
    }

    /// What has been put under its name was not met there while names were parked, so nothing about it
    /// was compared: its slots, if it has any, need not name all that differs.
    fn look_into(&mut self, intent: &WriteIntent<'_>, wanted: &Child) -> io::Result<()> {
        let source = self.sides.source;
        let Some(partner) = self.pairs.partner(source, &wanted.identity) else { return Ok(()) };
        let ids = self.sides.pair(wanted.identity, partner);
        match wanted.stat.kind {
            Kind::File if self.want_data(ids)? => {}
            Kind::File => {
                let (Some(s_node), Some(t_node)) = self.sides.find_both(&ids)? else { return Ok(()) };
                self.copy_data(intent, (&s_node, &t_node), self.sides.s.stat(&s_node)?.size)?;
                metadata::equalize(self.sides, intent, &s_node, &t_node)?;
            }
            Kind::Directory => {
                let known = self.known(&wanted.identity).map(|at| self.slot_of(&self.objects[at]));
                let slot = self.root.or(known).unwrap_or_else(|| self.any_slot());
                self.list(Dir { ids, slot, since: self.born_since, whole: false });
            }
            _ => {
                self.known_or_new(ids);
            }
        }
        Ok(())
    }

    /// What the target's object is from now on: `identity` was made for the source's `wanted`.
    pub fn now_is(&mut self, wanted: &Identity, identity: Identity) {
        let ids = self.sides.pair(*wanted, identity);
        if let Some(at) = self.known(wanted) {
            self.objects[at].ids = ids;
        }
        self.pairs.insert(ids);
    }
}

/// Whether the data of two corresponding files can differ without a slot that says so.
fn may_hold_other_data(wanted: &Stat, found: &Stat, everything: bool, keeps: Keeps) -> bool {
    let suspicious = everything || wanted.size != found.size || !keeps.is_same_mtime(wanted, found);
    // Cutting an empty file to its length is a matter of metadata.
    wanted.kind == Kind::File && wanted.size > 0 && suspicious
}
