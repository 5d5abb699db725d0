//! File handles: names of inodes that outlive a reboot and are never used again for another inode.
//!
//! Making one needs no privilege, opening one needs CAP_DAC_READ_SEARCH.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::path::Arg;

use super::checked;

/// The most bytes that the kernel puts in a handle (MAX_HANDLE_SZ).
const KERNEL_MAX: usize = 128;

/// While a new inode is being given the number of one that is gone, the kernel answers for the old one as if it had
/// no memory (iget_locked() finds it I_CREATING, of which ext4_iget() makes ENOMEM). That is over in a moment, unless
/// memory is really short. To be told then that a leg has failed would cost the leg.
const BIRTH_TRIES: u32 = 100;
const BIRTH_PAUSE: Duration = Duration::from_millis(1);

/// `struct file_handle` with room for the longest one.
#[repr(C)]
pub struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; KERNEL_MAX],
}

impl RawHandle {
    /// The kernel's `handle_type`.
    pub fn kind(&self) -> i32 {
        self.handle_type
    }

    /// The kernel's `f_handle`, as much of it as is used.
    pub fn bytes(&self) -> &[u8] {
        &self.f_handle[..(self.handle_bytes as usize).min(KERNEL_MAX)]
    }
}

/// The handle of `name` in `dir`, or of what `dir` itself is open on when `name` is empty. Never follows a
/// symlink. EOPNOTSUPP where the filesystem has no handles.
pub fn name_to_handle(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<RawHandle> {
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let mut raw = RawHandle { handle_bytes: KERNEL_MAX as u32, handle_type: 0, f_handle: [0; KERNEL_MAX] };
    let mut mount_id: libc::c_int = 0;
    let made = name.into_with_c_str(|name| {
        // SAFETY: the name is a C string, and raw says in handle_bytes how much room it has; all three
        // outlive the call.
        Ok(checked(|| unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                dir.as_raw_fd(),
                name.as_ptr(),
                &raw mut raw,
                &raw mut mount_id,
                flags,
            )
        }))
    });
    made??;
    Ok(raw)
}

/// Opens what a handle names. `mount` is a descriptor in the filesystem, not opened with O_PATH; the
/// result belongs to its mount. ESTALE when the inode is gone. ENOMEM only if it stays so for a tenth of a second.
pub fn open_by_handle(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut raw =
        RawHandle { handle_bytes: bytes.len() as u32, handle_type: kind, f_handle: [0; KERNEL_MAX] };
    raw.f_handle
        .get_mut(..bytes.len())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?
        .copy_from_slice(bytes);
    let flags = (flags | OFlags::CLOEXEC).bits() as libc::c_int;
    // SAFETY: raw holds handle_bytes bytes and outlives the call.
    let open = || {
        checked(|| unsafe {
            libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const raw, flags)
        })
    };
    let mut opened = open();
    for _ in 0..BIRTH_TRIES {
        match &opened {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(BIRTH_PAUSE);
                opened = open();
            }
            _ => break,
        }
    }
    let fd = opened?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_gone_is_stale_also_while_its_number_is_given_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let (gone, next) = (dir.path().join("gone"), dir.path().join("next"));
        let living = File::create(&gone).unwrap();
        let handle = name_to_handle(living.as_fd(), OsStr::new("")).unwrap();
        drop(living);
        std::fs::remove_file(&gone).unwrap();
        let mount = File::open(dir.path()).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    File::create(&next).unwrap();
                    std::fs::remove_file(&next).unwrap();
                }
            });
            let tries: Vec<_> = (0..50_000)
                .map(|_| open_by_handle(mount.as_fd(), handle.kind(), handle.bytes(), OFlags::PATH))
                .filter_map(|opened| opened.err()?.raw_os_error())
                .filter(|&errno| errno != libc::EPERM)
                .collect();
            done.store(true, Ordering::Relaxed);
            assert!(
                tries.iter().all(|&errno| errno == libc::ESTALE),
                "{:?}",
                tries.iter().find(|&&e| e != libc::ESTALE)
            );
        });
    }
}
