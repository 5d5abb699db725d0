//! Small files that were renamed within their directory and have no slot for it.
//!
//! Nothing pairs such a file: under its old name the target's was parked, and under its new one the source's is
//! missing. It is known by its looks, and taken for what it looks like: a guess, and one that cannot do harm, as all of
//! it is compared before it gets the name. So a rename is replayed as a rename (O7), takes no room, and what the source
//! cannot read of the file is still there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;

use super::entries::SMALL;
use super::pairs::Child;
use super::run::Run;
use super::{metadata, rename_to_free};
use crate::bitmap::WriteIntent;
use crate::legs::{Identity, Kind, Leg, Stat};

/// What is parked and may be taken, by what it looks like. Those that look alike are taken in turn.
pub(super) type Strays = BTreeMap<Looks, Vec<Stray>>;

/// Length, and modification time in seconds, which every filesystem keeps.
type Looks = (u64, i64);

pub(super) struct Stray {
    name: OsString,
    identity: Identity,
    stat: Stat,
}

fn looks(stat: &Stat) -> Looks {
    (stat.size, stat.mtime.secs)
}

/// A file that may have been renamed so: there is no such rename of others.
fn may_stray(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.nlink == 1 && stat.size <= SMALL
}

impl<L: Leg> Run<'_, L> {
    /// Gives the name to what was parked and looks like `wanted`, once it is equal to it; false if nothing does.
    ///
    /// ORDER: equal and durable before it has the name, under which it would pass for equal. What the source cannot
    /// read of it has a slot before, as has what is built.
    pub fn take_stray(
        &mut self,
        intent: &WriteIntent<'_>,
        sd: &L::Node,
        wanted: &Child,
        to: (&L::Node, &OsStr),
    ) -> io::Result<bool> {
        // What has a slot was not renamed so, and its slot would have to be told.
        let told = self.known(&wanted.identity).is_some();
        if told || self.at_once || self.everything || !may_stray(&wanted.stat) {
            return Ok(false);
        }
        let Some(stray) = self.find_stray(wanted)? else { return Ok(false) };
        let t = self.sides.t;
        let s_node = self.source_child(sd, to.1, wanted)?;
        let ids = self.sides.pair(wanted.identity, stray.identity);
        self.at = Some(ids);
        let node = t.child(&self.parked.dir, &stray.name)?;
        match self.copy_data(intent, (&s_node, &node), wanted.stat.size) {
            Err(_) if self.copier.source_failed() && self.want_data(ids)? => {}
            copied => copied?,
        }
        metadata::equalize(self.sides, intent, &s_node, &node)?;
        t.sync_node(&node)?;
        self.now_is(&wanted.identity, stray.identity);
        if let Some(parked) = self.parked.take(stray.stat.ino) {
            rename_to_free(t, intent, (&self.parked.dir, &parked), to)?;
        }
        Ok(true)
    }

    fn find_stray(&mut self, wanted: &Child) -> io::Result<Option<Stray>> {
        let mut strays = match self.strays.take() {
            Some(strays) => strays,
            None => self.list_strays()?,
        };
        let alike = strays.entry(looks(&wanted.stat)).or_default();
        let keeps = self.sides.keeps();
        let is_it = |stray: &Stray| {
            keeps.is_same_mtime(&wanted.stat, &stray.stat) && self.parked.holds(stray.stat.ino)
        };
        let found = alike.iter().position(is_it).map(|at| alike.remove(at));
        self.strays = Some(strays);
        Ok(found)
    }

    /// What is parked and has no counterpart by a slot.
    fn list_strays(&self) -> io::Result<Strays> {
        let mut strays = Strays::new();
        for name in self.parked.all() {
            let (identity, stat) = self.sides.t.lookup(&self.parked.dir, &name)?;
            if may_stray(&stat) && self.pairs.partner(self.sides.target(), &identity).is_none() {
                strays.entry(looks(&stat)).or_default().push(Stray { name, identity, stat });
            }
        }
        Ok(strays)
    }
}
