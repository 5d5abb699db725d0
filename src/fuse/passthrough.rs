//! Files that the kernel reads itself, from the source's file (the option `passthrough`, on mounts that are read-only).
//!
//! # What the kernel wants (Linux 6.9 and later, fs/fuse/passthrough.c and iomode.c)
//! - A file of the source is registered, by who has CAP_SYS_ADMIN, and has a number from then on. It must not lie on a stack
//!   of filesystems.
//! - As long as a file is open by any handle, all of them have to name the same number: another one is EIO for the
//!   program. So is a handle that is to be read through the mirror, next to one that is not.
//! - A number has to last until the last handle that names it is released.
//!
//! Invariant: what cannot be registered once is a reason not to try again, for any file. So an object is read one way or the
//! other, and not both ways at the same time.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};

use crate::inode::{Fh, Ino};
use crate::legs::Leg;
use crate::ops::Mirror;
use crate::sync::{Mutex, Rank};

/// The files of the source that are registered.
pub(super) struct Passthrough {
    registered: Mutex<Registered>,
    /// It does not work here.
    off: AtomicBool,
}

#[derive(Default)]
struct Registered {
    by_ino: HashMap<Ino, Weak<BackingId>>,
    by_handle: HashMap<Fh, (Ino, Arc<BackingId>)>,
}

impl Passthrough {
    pub fn new() -> Passthrough {
        Passthrough { registered: Mutex::new(Rank::Leaf, Registered::default()), off: AtomicBool::new(false) }
    }

    /// Answers the request by which `fh` was opened. `otherwise` is said of a file that is read through the mirror.
    pub fn opened<L: Leg>(
        &self,
        reply: ReplyOpen,
        mirror: &Mirror<L>,
        (ino, fh): (Ino, Fh),
        otherwise: FopenFlags,
    ) {
        let handle = FileHandle(fh.0);
        let registered = mirror.with_descriptor(fh, |file| self.register(&reply, file, (ino, fh)));
        match registered.ok().flatten().flatten() {
            Some(backing) => reply.opened_passthrough(handle, FopenFlags::empty(), &backing),
            None => reply.opened(handle, otherwise),
        }
    }

    /// Under the lock from the question to the entry: two of one file would be two numbers.
    fn register(
        &self,
        reply: &ReplyOpen,
        file: BorrowedFd<'_>,
        (ino, fh): (Ino, Fh),
    ) -> Option<Arc<BackingId>> {
        let mut registered = self.registered.lock();
        let backing = match registered.by_ino.get(&ino).and_then(Weak::upgrade) {
            Some(backing) => backing,
            None if self.off.load(Ordering::Relaxed) => return None,
            None => match reply.open_backing(file) {
                Ok(backing) => Arc::new(backing),
                Err(error) => {
                    log::warn!(
                        "passthrough does not work here ({error}): files are read through the mirror. It needs root, Linux \
                         6.9, and legs on filesystems that are no stack of others"
                    );
                    self.off.store(true, Ordering::Relaxed);
                    return None;
                }
            },
        };
        registered.by_ino.insert(ino, Arc::downgrade(&backing));
        registered.by_handle.insert(fh, (ino, backing.clone()));
        Some(backing)
    }

    /// The last program that had this handle has closed it.
    pub fn released(&self, fh: Fh) {
        let mut registered = self.registered.lock();
        let Some((ino, backing)) = registered.by_handle.remove(&fh) else { return };
        // Who answers an open with it just now holds it, too.
        if Arc::strong_count(&backing) == 1 {
            registered.by_ino.remove(&ino);
        }
    }
}
