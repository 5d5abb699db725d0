//! A new directory that is filled while both legs serve, to take the place of one of them: `replace` returns when that
//! has begun, and a thread sees to the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::served::{Opened, Served};
use super::status::Replacement;
use super::{LegPlace, place, replacing, returning};
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::{Leg, LegId, PerLeg};
use crate::options::Degraded;
use crate::shell::quoted;

/// The last one.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    leg: LegId,
    path: PathBuf,
    /// `None` while it goes on.
    ended: Option<std::result::Result<(), String>>,
}

impl Served {
    /// Whether one is filled just now.
    pub(super) fn is_filling(&self) -> bool {
        self.filling.lock().as_ref().is_some_and(|filling| filling.ended.is_none())
    }

    /// What there is to say of the last one, in the report on this leg.
    pub(super) fn replacement(&self, leg: LegId) -> Option<Replacement> {
        let filling = self.filling.lock();
        let filling = filling.as_ref().filter(|filling| filling.leg == leg)?;
        let failed = match &filling.ended {
            None => None,
            Some(Ok(())) => return None,
            Some(Err(why)) => Some(why.clone()),
        };
        Some(Replacement { path: filling.path.display().to_string(), failed })
    }

    /// Refuses what would change the legs meanwhile.
    pub(super) fn check_not_filling(&self) -> Result<()> {
        let filling = self.filling.lock();
        let Some(filling) = filling.as_ref().filter(|filling| filling.ended.is_none()) else { return Ok(()) };
        let (path, leg) = (filling.path.display(), filling.leg);
        let error = Error::new(format!("{path} is being filled just now, to take the place of leg {leg}"));
        Err(error.hint(format!("Wait for that: mirrorfs wait {}", quoted(&self.mountpoint))))
    }

    /// Begins to fill the directory at `path`.
    pub(super) fn fill(&self, leg: LegId, path: PathBuf) -> Result<()> {
        let _one_at_a_time = self.readding.lock();
        self.check_not_filling()?;
        let opened = self.open_new(leg, &path)?;
        let (new, owner) = opened;
        let directory = new.directory.clone();
        let stays = self.mirror.identities_last(leg.other());
        if !stays || !directory.identities_last() {
            return Err(replacing::not_lasting(leg, &self.mountpoint));
        }
        let calls = directory.calls();
        let hung = Arc::downgrade(&directory);
        drop(directory);
        // It is nobody's leg: who waits for it is let go, and it is given up.
        calls.patience().on_hung(Some(Arc::new(move || hung.upgrade().iter().for_each(|new| new.give_up()))));
        *self.filling.lock() = Some(Filling { leg, path: path.clone(), ended: None });
        let (mirror, this) = (self.mirror.clone(), self.this());
        let work = move || {
            // The user's requests come first, for the processor too.
            if let Err(error) = rustix::process::nice(10) {
                log::info!("the copy runs at normal priority: {error}");
            }
            let replaced = mirror.replace(new);
            let Some(served) = this.upgrade() else { return };
            if replaced.is_ok() {
                served.watch_over(leg, &calls);
                served.held.take_over(leg, owner, calls);
                served.places.lock()[leg] = LegPlace::At(path);
                mirror.resync();
            } else {
                // It is a file on a disk that may hang.
                served.waits.within(move || drop(owner));
            }
            if let Some(filling) = served.filling.lock().as_mut() {
                filling.ended = Some(replaced);
            }
        };
        self.spawn("replace", work).map_err(|cause| {
            *self.filling.lock() = None;
            Error::new("cannot start the copy").because(cause)
        })
    }

    /// The directory at `path`, with its lock, if it is fit: it must keep clear of both legs.
    fn open_new(&self, leg: LegId, path: &Path) -> Result<Opened> {
        let places = self.places.lock().clone();
        let other = leg.other();
        let (Some(says), Some(stays), Some(leaves)) =
            (self.mirror.superblock(other), places[other].path(), places[leg].path())
        else {
            return Err(returning::not_taken(leg, crate::error::errno(libc::ENODEV)));
        };
        let (stays, leaves) = (stays.to_owned(), leaves.to_owned());
        let (new, mountpoint, waits) = (path.to_owned(), self.mountpoint.clone(), self.waits.clone());
        let opened = self.waits.within(move || {
            for clear_of in [&stays, &leaves] {
                let at = |id| LegPlace::At(if id == leg { new.clone() } else { clear_of.clone() });
                place::check_apart(&PerLeg::from_fn(at), &mountpoint, Degraded::No)?;
            }
            if let (Ok(new), Ok(leaves)) = (LegDir::open(&new), LegDir::open(&leaves)) {
                layout::check_pair(if leg == LegId::A {
                    PerLeg::new(&new, &leaves)
                } else {
                    PerLeg::new(&leaves, &new)
                })?;
            }
            replacing::open(leg, &new, (&stays, &says), &waits)
        });
        opened.unwrap_or_else(|| {
            Err(self
                .waits
                .no_answer(leg, path)
                .hint("Both legs are as they were. See to that disk, and try again."))
        })
    }
}
