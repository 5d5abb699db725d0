//! Making the legs alike again when a request got two different answers: the leg that is wrong is
//! brought to what the other has, in what the request touched, before the reply goes out (P10).

use std::io;

use super::Mirror;
use super::change::{Part, Touch};
use crate::bitmap::WriteIntent;
use crate::legs::{Leg, LegId};
use crate::resync::{Name, Repair};

impl<L: Leg> Mirror<L> {
    /// Repairs `wrong` under the locks of the request. If that fails the mirror turns read-only: the
    /// regions stay marked, and the next mount makes them alike.
    pub(super) fn repair(&self, intent: &WriteIntent<'_>, wrong: LegId, touched: &[Touch<'_, L>]) {
        if let Err(error) = self.try_repair(intent, wrong, touched) {
            let what = touched.first().map_or(0, |touch| touch.object.ino.0);
            self.turn_read_only(format!(
                "the legs differ in inode {what} and leg {wrong} cannot be repaired ({error}); unmount and mount again"
            ));
        }
    }

    fn try_repair(&self, intent: &WriteIntent<'_>, wrong: LegId, touched: &[Touch<'_, L>]) -> io::Result<()> {
        let legs = self.both_legs()?;
        let repair = Repair {
            legs: &legs,
            bitmap: &self.bitmap,
            source: wrong.other(),
            host: self,
            progress: &self.progress,
        };
        let mut names = Vec::new();
        let mut objects = Vec::new();
        for touch in touched {
            let identities = self.identities(touch.object)?;
            match &touch.part {
                Part::Name(name) | Part::Lost(name) => names.push(Name { dir: identities, name }),
                Part::Metadata | Part::Moved | Part::Renamed | Part::RenamedFree | Part::Replaced => {
                    objects.push((identities, None));
                }
                Part::Data(bytes) => objects.push((identities, Some(bytes.clone()))),
            }
        }
        if !names.is_empty() {
            let known: Vec<_> = objects.iter().map(|(identities, _)| *identities).collect();
            return repair.names(intent, &names, &known);
        }
        for (identities, bytes) in objects {
            repair.object(intent, identities, bytes.as_slice())?;
        }
        Ok(())
    }
}
