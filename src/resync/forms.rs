//! Identities of another form: a mount that may use file handles calls an object otherwise than one that may not.
//!
//! What is marked later finds the slots that an object has by what this mount calls it. They tell where a leg
//! that is away has the object, so they must not be missed.

use std::collections::HashSet;
use std::io;

use super::gone_is_none;
use crate::bitmap::{self, Bitmap};
use crate::legs::{Identity, Leg, LegId};

/// Lets all slots call the objects of a leg as this mount does. What the leg does not have any more keeps its name.
///
/// Must come before the first mark. Walks the leg if there is something to do: the privilege has changed since
/// the mount that made the slots.
pub fn renew<L: Leg>(leg: &L, id: LegId, bitmap: &Bitmap, host: &dyn bitmap::Host) -> io::Result<()> {
    if !leg.identities_last() {
        // What they are called now cannot be found out, and everything is compared anyway.
        return Ok(());
    }
    let form = |identity: &Identity| (identity.opens(), identity.handle.is_some());
    let ours = form(&leg.identity(&leg.root())?);
    let known = bitmap.unresynced().into_iter().map(|slot| slot.identities[id]);
    let others: HashSet<Identity> =
        known.filter(|identity| identity.is_known() && form(identity) != ours).collect();
    for old in others {
        match gone_is_none(leg.find(&old).and_then(|node| leg.identity(&node))) {
            Ok(Some(new)) if new != old => bitmap.rename(host, id, &old, new)?,
            Ok(_) => {}
            Err(error) => {
                // FAIL-SAFE: what it is called now is not known, so its slots could be missed.
                log::warn!("leg {id}: inode {} is not found ({error}); everything will be compared", old.ino);
                return bitmap.set_compare_all(host);
            }
        }
    }
    Ok(())
}
