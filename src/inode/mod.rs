//! The objects that the kernel knows, and the files it has open.
//!
//! An object is known by its inode number on the source leg, never by a path. The kernel counts its
//! lookups; the table drops an object when the kernel has forgotten it and nothing here needs it.

mod handles;
mod kept;
mod object;
mod pins;
mod table;

pub use handles::{Fh, Handles, OpenFile};
pub use object::{NameIn, Names, Object};
pub use pins::Pins;
pub use table::Table;

/// Inode number as the mount shows it, which is also the FUSE node id. The root is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The mount's root.
    pub const ROOT: Ino = Ino(1);
}

/// Shows the source leg's inode numbers, but for one: the kernel calls a mount's root 1, so the
/// number of the leg's root and 1 change places.
#[derive(Clone, Copy, Debug)]
pub struct Numbering {
    root: u64,
}

impl Numbering {
    /// For a source leg whose root has this inode number.
    pub fn new(root: u64) -> Self {
        Numbering { root }
    }

    /// The mount's number for the leg's `ino`.
    pub fn shown(self, ino: u64) -> Ino {
        Ino(self.swap(ino))
    }

    /// The leg's number for the mount's `ino`.
    pub fn on_leg(self, ino: Ino) -> u64 {
        self.swap(ino.0)
    }

    fn swap(self, ino: u64) -> u64 {
        match ino {
            ino if ino == self.root => Ino::ROOT.0,
            ino if ino == Ino::ROOT.0 => self.root,
            ino => ino,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_legs_own_but_for_the_root() {
        let numbering = Numbering::new(256);
        assert_eq!(numbering.shown(256), Ino::ROOT);
        assert_eq!(numbering.shown(1), Ino(256), "an object with the number 1 is not taken for the root");
        assert_eq!(numbering.shown(77), Ino(77));
        for ino in [1, 2, 256, 77] {
            assert_eq!(numbering.on_leg(numbering.shown(ino)), ino);
        }
    }
}
