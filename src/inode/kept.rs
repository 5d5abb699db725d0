//! Identities as the table keeps them: packed, since it holds two for each object that the kernel knows.

use crate::legs::{Handle, Identity};

/// The longest handle that is kept in place: btrfs's. Those of ext4, xfs and tmpfs, and births, have 12 bytes at most.
const IN_PLACE: usize = 20;

/// An identity, or that none is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Unknown,
    Number(u64),
    Short {
        ino: u64,
        kind: i16,
        len: u8,
        bytes: [u8; IN_PLACE],
    },
    /// What does not fit.
    Long(Box<Identity>),
}

impl Kept {
    pub fn new(identity: Option<Identity>) -> Kept {
        let Some(identity) = identity else { return Kept::Unknown };
        let ino = identity.ino;
        let Some(handle) = identity.handle else { return Kept::Number(ino) };
        let given = handle.bytes();
        let mut bytes = [0; IN_PLACE];
        match (i16::try_from(handle.kind()), bytes.get_mut(..given.len())) {
            (Ok(kind), Some(room)) => {
                room.copy_from_slice(given);
                // At most IN_PLACE.
                Kept::Short { ino, kind, len: given.len() as u8, bytes }
            }
            _ => Kept::Long(Box::new(identity)),
        }
    }

    pub fn get(&self) -> Option<Identity> {
        match self {
            Kept::Unknown => None,
            Kept::Number(ino) => Some(Identity { ino: *ino, handle: None }),
            Kept::Short { ino, kind, len, bytes } => {
                let handle = Handle::new((*kind).into(), &bytes[..usize::from(*len)]);
                Some(Identity { ino: *ino, handle })
            }
            Kept::Long(identity) => Some(**identity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::legs::{HANDLE_MAX, Timestamp};

    #[test]
    fn every_identity_comes_back_as_it_was_kept() {
        let long = [7; HANDLE_MAX];
        let mut handles = vec![None, Some(Handle::of_birth(Timestamp { secs: -3, nanos: 999_999_999 }))];
        for kind in [0, 1, 0x4d, 255, -1, -3, i32::from(i16::MAX) + 1, i32::MIN] {
            handles.extend((0..=HANDLE_MAX).map(|len| Handle::new(kind, &long[..len])));
        }
        for handle in handles {
            let identity = Some(Identity { ino: u64::MAX - 5, handle });
            assert_eq!(Kept::new(identity).get(), identity);
        }
        assert_eq!(Kept::new(None).get(), None);
    }

    #[test]
    fn no_filesystem_that_is_in_use_needs_room_beside_it() {
        assert_eq!(size_of::<Kept>(), 32);
        for (filesystem, len) in [("ext4", 8), ("xfs", 12), ("tmpfs", 12), ("btrfs", 20)] {
            let identity = Identity { ino: 1, handle: Handle::new(1, &vec![1; len]) };
            assert!(matches!(Kept::new(Some(identity)), Kept::Short { .. }), "{filesystem}");
        }
    }
}
