//! Dirty slots as people read them: which object, what of it, which bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::OFlags;
use serde::Serialize;

use crate::bitmap::{ChunkSize, DirtySlot, Kinds};
use crate::layout::LegDir;
use crate::legs::{Identity, LegId};
use crate::sys::handle;

/// One dirty slot.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Dirty {
    /// Its number in the file.
    pub slot: u32,
    /// Below the leg, where the filesystem still knows a name.
    pub path: Option<String>,
    /// On this leg.
    pub inode: u64,
    /// entries, children, metadata, data, births
    pub kinds: Vec<&'static str>,
    /// Byte ranges, start and end; no end: whatever comes behind.
    pub ranges: Vec<(u64, Option<u64>)>,
}

/// In the order of the slots.
pub fn describe(leg: &LegDir, role: LegId, chunk: ChunkSize, slots: &[DirtySlot]) -> io::Result<Vec<Dirty>> {
    let root = path_of(leg.as_fd())?;
    Ok(slots
        .iter()
        .map(|slot| {
            let identity = slot.identities[role];
            Dirty {
                slot: slot.index.0,
                path: path_below(leg, &root, &identity),
                inode: identity.ino,
                kinds: kinds(slot.kinds),
                ranges: ranges(slot, chunk),
            }
        })
        .collect())
}

fn kinds(kinds: Kinds) -> Vec<&'static str> {
    let all = [
        (Kinds::ENTRIES, "entries"),
        (Kinds::CHILDREN, "children"),
        (Kinds::METADATA, "metadata"),
        (Kinds::DATA, "data"),
        (Kinds::BORN, "births"),
    ];
    all.into_iter().filter(|(kind, _)| kinds.contains(*kind)).map(|(_, name)| name).collect()
}

fn ranges(slot: &DirtySlot, chunk: ChunkSize) -> Vec<(u64, Option<u64>)> {
    let chunks = slot.chunks.iter().map(|chunks| (chunk.start(chunks.start), Some(chunk.start(chunks.end))));
    chunks.chain(slot.from.map(|from| (chunk.start(from), None))).collect()
}

/// One name of the object. `None` without privilege, without handles, and when it is gone.
fn path_below(leg: &LegDir, root: &str, identity: &Identity) -> Option<String> {
    let known = identity.handle.as_ref()?;
    let object = handle::open_by_handle(leg.as_fd(), known.kind(), known.bytes(), OFlags::PATH).ok()?;
    // A removed object that something still holds open has no name.
    if rustix::fs::fstat(&object).ok()?.st_nlink == 0 {
        return None;
    }
    let path = path_of(object.as_fd()).ok()?;
    let below = path.strip_prefix(root)?.trim_start_matches('/');
    Some(if below.is_empty() { ".".to_owned() } else { below.to_owned() })
}

fn path_of(object: BorrowedFd<'_>) -> io::Result<String> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    Ok(link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitmap::{ChunkIndex, SlotIndex};
    use crate::legs::{Handle, PerLeg};
    use std::ffi::OsStr;

    #[test]
    fn a_dirty_object_is_named_by_the_path_it_has_now() {
        let top = tempfile::tempdir().unwrap();
        let leg = LegDir::open(top.path()).unwrap();
        std::fs::write(top.path().join("old"), "").unwrap();
        let raw = handle::name_to_handle(leg.as_fd(), OsStr::new("old")).unwrap();
        let ino = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(top.path().join("old")).unwrap());
        std::fs::create_dir(top.path().join("sub")).unwrap();
        std::fs::rename(top.path().join("old"), top.path().join("sub/new")).unwrap();
        let slot = DirtySlot {
            born_since: None,
            index: SlotIndex(7),
            identities: PerLeg::from_fn(|_| Identity { ino, handle: Handle::new(raw.kind(), raw.bytes()) }),
            kinds: Kinds::METADATA | Kinds::DATA,
            chunks: vec![ChunkIndex(1)..ChunkIndex(3)],
            from: Some(ChunkIndex(5)),
        };
        let chunk = ChunkSize::MIN;
        let described = describe(&leg, LegId::A, chunk, std::slice::from_ref(&slot)).unwrap();
        let expected = Dirty {
            slot: 7,
            path: Some("sub/new".to_owned()),
            inode: ino,
            kinds: vec!["metadata", "data"],
            ranges: vec![(65536, Some(3 * 65536)), (5 * 65536, None)],
        };
        assert_eq!(described, [expected]);
        std::fs::remove_file(top.path().join("sub/new")).unwrap();
        assert_eq!(describe(&leg, LegId::A, chunk, &[slot]).unwrap()[0].path, None);
    }
}
