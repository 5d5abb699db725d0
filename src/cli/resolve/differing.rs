//! All that differs between two legs, with who has changed it: what the comparator sees, put together with
//! what the bitmaps say. Changes nothing.
//!
//! Access times do not count: whoever looks at both legs before choosing one raises them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::marks::Marks;
use super::who::{Facts, Who, who};
use crate::cli::compare;
use crate::cli::compare::object::Object;
use crate::cli::compare::walk::{Aspect, At, Witness};
use crate::error::Result;
use crate::legs::{LegId, PerLeg};

/// A name under which the legs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Below the legs; empty for their roots.
    pub path: PathBuf,
    /// In what.
    pub aspects: Vec<Aspect>,
    /// Who has changed it.
    pub who: Who,
    /// On each leg, whether it is a directory; `None` where the name is not.
    pub directory: PerLeg<Option<bool>>,
}

/// An object of one leg with several names, as far as the other leg has them too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// How many names it has.
    pub count: u64,
    /// Those that the other leg has for an object of the same kind.
    pub names: Vec<PathBuf>,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// In the order of the walk.
    pub differing: Vec<Differing>,
    /// By leg and inode number.
    pub linked: PerLeg<HashMap<u64, Linked>>,
}

/// Compares the legs with these roots.
pub fn find(roots: [File; 2], marks: &PerLeg<Marks>) -> Result<Found> {
    let found = Found { differing: Vec::new(), linked: PerLeg::default() };
    let mut gatherer = Gatherer { marks, found };
    compare::walk(roots, &mut gatherer)?;
    Ok(gatherer.found)
}

struct Gatherer<'a> {
    marks: &'a PerLeg<Marks>,
    found: Found,
}

impl Gatherer<'_> {
    fn facts(&self, at: &At<'_>, leg: LegId, object: Option<&Object>) -> io::Result<Facts> {
        let dir = at.dirs[leg as usize].metadata()?.ino();
        let marks = &self.marks[leg];
        Ok(Facts {
            object: object.map(|object| marks.of_object(dir, at.name(), &object.meta)),
            names: marks.of_names(dir),
        })
    }
}

impl Witness for Gatherer<'_> {
    fn differs(&mut self, at: &At<'_>, aspect: Aspect, _: &str) -> io::Result<()> {
        if aspect == Aspect::AccessTime {
            return Ok(());
        }
        if let Some(last) = self.found.differing.last_mut().filter(|last| last.path == at.path) {
            if !last.aspects.contains(&aspect) {
                last.aspects.push(aspect);
            }
            return Ok(());
        }
        let only = |leg: LegId| match at.name() {
            Some(name) => Object::open(&at.dirs[leg as usize], name).map(Some),
            None => Ok(None),
        };
        let alone = match aspect {
            Aspect::OnlyOnA => PerLeg::new(only(LegId::A)?, None),
            Aspect::OnlyOnB => PerLeg::new(None, only(LegId::B)?),
            _ => PerLeg::new(None, None),
        };
        let object = |leg: LegId| alone[leg].as_ref().or(at.both.map(|both| &both[leg as usize]));
        let facts = PerLeg::from_fn(|leg| self.facts(at, leg, object(leg))).transpose()?;
        self.found.differing.push(Differing {
            path: at.path.to_owned(),
            aspects: vec![aspect],
            who: who(&facts),
            directory: PerLeg::from_fn(|leg| object(leg).map(|object| object.meta.is_dir())),
        });
        Ok(())
    }

    fn has_links(&mut self, at: &At<'_>, both: &[Object; 2]) {
        for leg in LegId::ALL {
            let meta = &both[leg as usize].meta;
            if meta.nlink() > 1 {
                let linked = self.found.linked[leg].entry(meta.ino()).or_default();
                linked.count = meta.nlink();
                linked.names.push(at.path.to_owned());
            }
        }
    }
}
