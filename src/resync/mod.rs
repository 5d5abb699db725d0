//! Makes the target leg equal to the source leg in everything that is dirty, and in nothing else.
//!
//! ```text
//!   namespace_and_metadata()      nobody changes anything meanwhile; reads come from the source
//!     1 park      what lies in a dirty directory of the target and not so in the source's
//!     2 place     every name that is missing: moved back from where it was parked, linked, or built
//!     3 metadata  of all dirty objects; then what is still parked is deleted
//!   data()                        behind the mount, piece by piece, giving way to the user
//! ```
//!
//! # Why looking at what is dirty is enough
//!
//! Every change but a birth marks the object itself, with its identity on both legs. So an object
//! without a slot is either as it was when the legs were last alike, or was born since, under a name in a
//! directory that is marked, and has not been written to, moved or linked afterwards. Such an object is
//! looked at when its directory is: its metadata are compared, and its data if the length or the
//! modification time differs. This bounds the work by the number of names in dirty directories.
//!
//! What was born since the watermark of a directory's slot may have been written to without a slot of its own,
//! or have got another name there. It is compared whatever its length and times are, and so is what is in it, if it is a directory. That the
//! target's object was born since is enough: the source may have lost that one, and have back what had its name
//! before, which tells nothing.
//!
//! A name that is in the source's directory and not in the target's belongs to an object that was moved
//! (it has a slot, so its counterpart is known and is moved too, whatever its size), or to one that
//! the target does not have there (it was born after what the target remembers, or the target remembers
//! its removal, or it was renamed within its directory without a slot): that one is found by its looks, or built. It has one name, or a slot: link(2) and the removal of one
//! name of several mark the object.
//!
//! While a leg was away, a directory's slot may have come to stand for all that lies in it
//! ([`Kinds::CHILDREN`](crate::bitmap::Kinds::CHILDREN)). All of that is compared where it lies.
//!
//! # Crashes
//!
//! The source is never changed, and no slot is given back before all that it stands for is equal.
//! So a second crash leaves a target that differs from the source in dirty places only, and it
//! does not matter by which steps it came there. Where a step makes something that would not be looked at
//! again, an `ORDER:` comment says what was made durable before.
//!
//! # A leg that was away
//!
//! What was marked while the target was away may name, instead of the object on the target, the place where
//! the target has it ([`Identity::at_place`]). Before anything on the target is moved, these places are
//! looked up and the slots bound to what is there, durably (`places`). From there on it is the same work.
//!
//! # Legs of which the filesystem does not keep its numbers
//!
//! What was marked cannot be found on a leg on FUSE, and what is found there may be called otherwise a moment later. No
//! resync is made of such legs: one of them is filled (`rehearsal`), with objects known by where they lie.
//!
//! - `plan`, `pairs`, `spans` are pure: what is there to do, what is what, which bytes;
//! - `entries` parks and places, `strays` finds again what was renamed without a slot, `build` makes what is missing, and `batch`
//!   gives it its names,
//!   `areas` keeps `incoming/` and `parked/`;
//! - `metadata` and `copy` make one object equal; `data` is the phase behind the mount;
//! - `forms` lets slots of a mount with another privilege be found;
//! - `trouble` finds out which leg gave an error, and for what;
//! - `rehearsal` fills a directory that is no leg yet from a source that serves; `touched` is what is changed
//!   meanwhile;
//! - `repair` does the same for single names and objects while mounted, `rewrite` for what a leg cannot read.

mod areas;
mod batch;
mod build;
mod copy;
mod data;
mod entries;
mod forms;
mod metadata;
mod pairs;
mod places;
mod plan;
mod progress;
mod rehearsal;
mod repair;
mod rewrite;
mod run;
mod spans;
mod strays;
#[cfg(test)]
mod tests;
mod throttle;
mod touched;
mod trouble;

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use crate::bitmap::{self, Bitmap, WriteIntent};
use crate::error::errno;
use crate::legs::{Identity, Keeps, Leg, LegId, PerLeg, RenameMode};
use crate::sync::{Mutex, Rank};

use data::Pending;
pub use entries::SMALL;
pub use forms::renew;
pub use progress::{Progress, ProgressReport};
pub use rehearsal::{Broken, Pace, Rehearsal, RehearsalHost, SamePlace};
pub use repair::{Name, Repair};
pub use rewrite::NotRewritten;
pub use throttle::Limits;
pub use touched::{Part, Touched};
pub use trouble::{Trouble, places_of};

/// What the resync asks of the mirror.
pub trait ResyncHost: bitmap::Host {
    /// Runs `work` while nobody else changes the data or metadata of the object that has this
    /// identity on the source leg. False, and nothing run, if it cannot be told from another object: the one
    /// that had its number before, or has it now that this one has lost its last name. No lock of the resync is
    /// held when this is called.
    fn with_object(&self, identity: &Identity, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<bool>;

    /// Asked between steps. The resync then returns [`Outcome::Stopped`] and its slots stay dirty.
    fn stop_requested(&self) -> bool;

    /// The source is changed by others, who tell of it: what is not found any more is looked at again.
    fn source_moves(&self) -> bool {
        false
    }

    /// A number that grows with every operation of a user: while it does, the resync holds back.
    fn user_operations(&self) -> u64;

    /// How fast the data phase may go.
    fn limits(&self) -> Limits;
}

/// How a phase ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is done.
    Done,
    /// Asked to stop. What is left stays dirty, for the next mount.
    Stopped,
    /// All but what [`Resync::unreadable`] names, which stays dirty.
    Incomplete,
}

/// How much to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What the bitmap says.
    Dirty,
    /// Every directory and all data: the bitmap could not be trusted. Whoever asks for this keeps it
    /// in mind durably until [`Resync::data`] has returned [`Outcome::Done`]: nothing else tells the next
    /// mount that it has to start over.
    Everything,
}

/// One resync, from the source to the other leg.
pub struct Resync<'a, L: Leg> {
    legs: &'a PerLeg<Arc<L>>,
    bitmap: &'a Bitmap,
    source: LegId,
    scope: Scope,
    host: &'a dyn ResyncHost,
    progress: &'a Progress,
    pending: Mutex<Pending>,
    trouble: Mutex<Option<Trouble>>,
}

impl<'a, L: Leg> Resync<'a, L> {
    /// A resync of what `bitmap` knows to be needed, or of everything. Does nothing yet.
    pub fn new(
        legs: &'a PerLeg<Arc<L>>,
        bitmap: &'a Bitmap,
        source: LegId,
        scope: Scope,
        host: &'a dyn ResyncHost,
        progress: &'a Progress,
    ) -> Self {
        let pending = Mutex::new(Rank::Leaf, Pending::default());
        bitmap.resyncs(true);
        let trouble = Mutex::new(Rank::Leaf, None);
        Resync { legs, bitmap, source, scope, host, progress, pending, trouble }
    }

    /// The files of which the source could not read all, by its inode numbers.
    pub fn unreadable(&self) -> Vec<u64> {
        self.pending.lock().unreadable()
    }

    /// Where a failed phase was: the leg that does not answer as it should, if that can be seen, and its inode
    /// number.
    pub fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock()
    }

    /// Makes names and metadata equal. To be called once, before [`data`](Self::data), while
    /// nothing is changed through the mirror.
    pub fn namespace_and_metadata(&self) -> io::Result<Outcome> {
        self.progress.set_active(true);
        let mut at = None;
        let named = self.names_and_metadata(&mut at);
        if named.is_err() {
            *self.trouble.lock() = trouble::find(self.sides(), at.as_ref());
        }
        named
    }

    /// `at` is where it was when it failed.
    fn names_and_metadata(&self, at: &mut Option<PerLeg<Identity>>) -> io::Result<Outcome> {
        let Some(mut run) = run::Run::of_resync(self)? else {
            return Ok(Outcome::Done);
        };
        let named = run.names_and_metadata(self.host);
        *at = run.at;
        if named? == Outcome::Stopped {
            return Ok(Outcome::Stopped);
        }
        *self.pending.lock() = run.finish()?;
        Ok(Outcome::Done)
    }

    fn sides(&self) -> Sides<'a, L> {
        Sides { s: &self.legs[self.source], t: &self.legs[self.source.other()], source: self.source }
    }
}

impl<L: Leg> Drop for Resync<'_, L> {
    fn drop(&mut self) {
        self.bitmap.resyncs(false);
    }
}

/// What the source has, and what the target has.
type Both<T> = (Option<T>, Option<T>);

/// The two legs by the part they play.
struct Sides<'a, L> {
    /// The source: read only.
    s: &'a L,
    /// The target.
    t: &'a L,
    /// Which leg the source is.
    source: LegId,
}

impl<L> Clone for Sides<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Sides<'_, L> {}

impl<'a, L: Leg> Sides<'a, L> {
    fn leg(&self, id: LegId) -> &'a L {
        if id == self.source { self.s } else { self.t }
    }

    fn target(&self) -> LegId {
        self.source.other()
    }

    /// What the source and the target have, by leg.
    fn pair<T: Copy>(&self, s: T, t: T) -> PerLeg<T> {
        PerLeg::from_fn(|leg| if leg == self.source { s } else { t })
    }

    /// The object on the source and on the target, where they still have it.
    fn find_both(&self, ids: &PerLeg<Identity>) -> io::Result<Both<L::Node>> {
        let target = self.target();
        Ok((self.find(self.source, &ids[self.source])?, self.find(target, &ids[target])?))
    }

    /// What both legs keep of what they are given.
    fn keeps(&self) -> Keeps {
        self.s.keeps().both(self.t.keeps())
    }

    /// Whether slots that an earlier mount has made tell what an object is on both legs.
    fn identities_last(&self) -> bool {
        self.s.identities_last() && self.t.identities_last()
    }

    /// The object, if the leg still has it under any name.
    ///
    /// # Errors
    /// ESTALE if it is not found where that does not tell that it is gone.
    fn find(&self, id: LegId, identity: &Identity) -> io::Result<Option<L::Node>> {
        if !identity.is_known() {
            return Ok(None);
        }
        let leg = self.leg(id);
        let found = leg.find(identity);
        if let Err(error) = &found
            && !leg.identities_last()
            && matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
        {
            // FAIL-SAFE: it may be there by another number. To take it for gone would leave the legs unequal.
            log::error!(
                "leg {id}: inode {} is not found any more: its filesystem has given numbers anew; where it can be told \
                 to keep them (noforget, for many), do so",
                identity.ino
            );
            return Err(errno(libc::ESTALE));
        }
        let Some(node) = gone_is_none(found)? else { return Ok(None) };
        let stat = gone_is_none(leg.stat(&node))?;
        Ok(stat.filter(|stat| stat.nlink > 0).map(|_| node))
    }
}

/// Renames to a name that is free. Some filesystems cannot see to that themselves; nobody else uses the leg.
fn rename_to_free<L: Leg>(
    leg: &L,
    intent: &WriteIntent<'_>,
    from: (&L::Node, &OsStr),
    to: (&L::Node, &OsStr),
) -> io::Result<()> {
    match leg.rename(intent, from, to, RenameMode::NoReplace) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            if gone_is_none(leg.lookup(to.0, to.1))?.is_some() {
                return Err(errno(libc::EEXIST));
            }
            leg.rename(intent, from, to, RenameMode::Replace)
        }
        renamed => renamed,
    }
}

/// That an object or a name is not there is an answer.
///
/// # Errors
/// Any other, as it is.
pub fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => Ok(None),
        Err(error) => Err(error),
    }
}
