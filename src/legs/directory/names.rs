//! Which names are let through to the kernel. Pure.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::error::errno;
use crate::layout;

/// The directory at a leg's root that holds the mirror's own state.
pub const STATE: &str = layout::STATE_DIR;

/// What a name is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Something that is there.
    Existing,
    /// Something that will be there.
    New,
}

/// Refuses what is not one component, and if `in_root` what is kept out of the mirror (the mirror's own
/// directory and the filesystem's lost+found): that is not there (ENOENT) and cannot be made (EPERM).
pub fn check(in_root: bool, name: &OsStr, purpose: Use) -> io::Result<()> {
    match name.as_bytes() {
        b"" => Err(errno(libc::ENOENT)),
        b"." | b".." => Err(errno(libc::EINVAL)),
        bytes if bytes.contains(&b'/') || bytes.contains(&0) => Err(errno(libc::EINVAL)),
        _ if in_root && layout::is_hidden(name) => Err(errno(match purpose {
            Use::Existing => libc::ENOENT,
            Use::New => libc::EPERM,
        })),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_outside_of_the_state_pass() {
        type Case = (&'static [u8], bool, Option<i32>, Option<i32>);
        let cases: &[Case] = &[
            // name, in the root, when looked up, when made
            (b"", false, Some(libc::ENOENT), Some(libc::ENOENT)),
            (b".", false, Some(libc::EINVAL), Some(libc::EINVAL)),
            (b"..", true, Some(libc::EINVAL), Some(libc::EINVAL)),
            (b"a/b", false, Some(libc::EINVAL), Some(libc::EINVAL)),
            (b"/", true, Some(libc::EINVAL), Some(libc::EINVAL)),
            (b"a\0b", false, Some(libc::EINVAL), Some(libc::EINVAL)),
            (b".mirrorfs", true, Some(libc::ENOENT), Some(libc::EPERM)),
            (b"lost+found", true, Some(libc::ENOENT), Some(libc::EPERM)),
            (b"lost+found", false, None, None),
            (b".mirrorfs", false, None, None),
            (b".mirrorfs2", true, None, None),
            (b"...", true, None, None),
            (b"\xff\xfe", true, None, None),
        ];
        for &(name, in_root, existing, new) in cases {
            let errno = |purpose| {
                check(in_root, OsStr::from_bytes(name), purpose).err().and_then(|e| e.raw_os_error())
            };
            assert_eq!(errno(Use::Existing), existing, "{name:?} looked up");
            assert_eq!(errno(Use::New), new, "{name:?} made");
        }
    }
}
