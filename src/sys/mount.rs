//! A private view of a mount: detached, so that nobody else can reach it or change what it shows.

use std::ffi::c_char;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::OpenTreeFlags;

use super::{checked, uninterrupted};

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// All the bits that say when access times are kept.
const ATTR_ATIME_MASK: u64 = 0x70;
/// Never.
const ATTR_NOATIME: u64 = 0x10;
/// mount_setattr(2) has this number on every architecture.
const SYS_MOUNT_SETATTR: libc::c_long = 442;

/// A copy of the mount that `dir` lies on, with `dir` as its root, attached nowhere and without the
/// mounts below it. Reading through it leaves access times alone. Needs CAP_SYS_ADMIN.
///
/// The copy does not keep the original mount busy: keep a descriptor in that too.
pub fn clone_private(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let tree = uninterrupted(|| rustix::mount::open_tree(dir, c"", flags))?;
    let attr = MountAttr { attr_set: ATTR_NOATIME, attr_clr: ATTR_ATIME_MASK, propagation: 0, userns_fd: 0 };
    let empty: *const c_char = c"".as_ptr();
    // SAFETY: the path is a C string constant, attr outlives the call and its true size is given.
    checked(|| unsafe {
        libc::syscall(
            SYS_MOUNT_SETATTR,
            tree.as_raw_fd(),
            empty,
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(tree)
}
