//! Putting the mirror into the tree of files and taking it out again.
//!
//! Mounting and unmounting are done here and nowhere else: the FUSE library would unmount the path
//! a second time after somebody else did, and so take what lies underneath. Invariant: [`Attached`]
//! unmounts only while what is on top of the mount point is its own filesystem.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;

use super::fusermount;
use super::mountinfo::{self, Device, FSTYPE};
use crate::error::{Error, Result};
use crate::options::{MountOptions, flags_named};

const DEVICE: &str = "/dev/fuse";

/// Whether this process mounts by itself rather than through fusermount3.
pub fn is_privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// A mirror that is mounted.
#[derive(Clone, Debug)]
pub struct Attached {
    mountpoint: PathBuf,
    device: Device,
}

/// Mounts on `mountpoint`, an absolute path without symlinks. Returns the connection to the kernel.
pub fn attach(mountpoint: &Path, source: &OsStr, options: &MountOptions) -> Result<(OwnedFd, Attached)> {
    let connection = if is_privileged() {
        mount_directly(mountpoint, source, options)?
    } else {
        fusermount::mount(mountpoint, source, options)?
    };
    let found = mountinfo::read()
        .map_err(|cause| Error::new("cannot read /proc/self/mountinfo").because(cause))
        .map(|mounts| mountinfo::top(mounts, mountpoint).filter(mountinfo::Mount::is_mirror))?;
    match found {
        Some(mount) => Ok((connection, Attached { mountpoint: mountpoint.to_owned(), device: mount.device })),
        None => Err(Error::new(format!("the mount on {} has disappeared at once", mountpoint.display()))),
    }
}

fn mount_directly(mountpoint: &Path, source: &OsStr, options: &MountOptions) -> Result<OwnedFd> {
    let failed = |cause: io::Error| {
        let lacks_rights = cause.raw_os_error() == Some(libc::EPERM);
        let error = Error::new(format!("cannot mount on {}", mountpoint.display())).because(cause);
        if lacks_rights {
            error.hint("Mounting as root needs the capability CAP_SYS_ADMIN, which this container lacks.")
        } else {
            error
        }
    };
    let connection = open_device()?;
    let mode = std::fs::metadata(mountpoint).map_err(failed)?.mode();
    let data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions,allow_other",
        connection.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let data = CString::new(data).expect("it is made of digits and words");
    rustix::mount::mount(source, mountpoint, FSTYPE, options.flags, Some(data.as_c_str()))
        .map_err(|errno| failed(errno.into()))?;
    Ok(connection)
}

fn open_device() -> Result<OwnedFd> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        let error = Error::new(format!("cannot open {DEVICE}")).because(errno.into());
        match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::NODEV => error
                .hint("The kernel has no FUSE: run \"modprobe fuse\", or let the container have the device."),
            _ => error,
        }
    })
}

/// Changes the flags of the mirror mounted on `mountpoint`. Flags not named stay as they are.
pub fn remount(mountpoint: &Path, asked: &MountOptions) -> Result<()> {
    let name = mountpoint.display();
    let mount = mountinfo::read()
        .ok()
        .and_then(|mounts| mountinfo::top(mounts, mountpoint))
        .filter(mountinfo::Mount::is_mirror)
        .ok_or_else(|| Error::new(format!("cannot remount {name}: no mirror is mounted there")))?;
    let now = flags_named(mount.options.split(',')) | flags_named(mount.super_options.split(','));
    // ORDER: the kernel writes everything out to the daemon before the mount turns read-only.
    rustix::mount::mount_remount(mountpoint, (now - asked.cleared) | asked.flags, c"")
        .map_err(|errno| Error::new(format!("cannot remount {name}")).because(errno.into()))
}

/// Takes away the mount on top of `mountpoint`, also while it is in use.
pub fn detach_lazily(mountpoint: &Path) -> Result<()> {
    if is_privileged() {
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|errno| {
            Error::new(format!("cannot unmount {}", mountpoint.display())).because(errno.into())
        })
    } else {
        fusermount::unmount(mountpoint, true)
    }
}

impl Attached {
    /// The filesystem's device number.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether it is still mounted, and on top.
    pub fn is_on_top(&self) -> bool {
        mountinfo::read()
            .ok()
            .and_then(|mounts| mountinfo::top(mounts, &self.mountpoint))
            .is_some_and(|mount| mount.is_mirror() && mount.device == self.device)
    }

    /// Unmounts it, unless it is in use.
    pub fn detach(&self) -> Result<()> {
        if !self.is_on_top() {
            return Ok(());
        }
        if is_privileged() {
            rustix::mount::unmount(&self.mountpoint, UnmountFlags::NOFOLLOW).map_err(|errno| {
                Error::new(format!("cannot unmount {}", self.mountpoint.display())).because(errno.into())
            })
        } else {
            fusermount::unmount(&self.mountpoint, false)
        }
    }

    /// Takes it out of the tree although it is in use.
    pub fn detach_lazily(&self) -> Result<()> {
        if self.is_on_top() { detach_lazily(&self.mountpoint) } else { Ok(()) }
    }

    /// Has the kernel hand everything that programs wrote through mappings to the daemon. Blocks
    /// until it has; another thread must be serving.
    pub fn write_out(&self) -> io::Result<()> {
        if !self.is_on_top() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::syncfs(rustix::fs::open(&self.mountpoint, flags, Mode::empty())?)?)
    }

    /// Cuts the connection: programs that still use the mount get ENOTCONN, the session ends.
    pub fn abort(&self) -> Result<()> {
        if !self.is_on_top() {
            return Ok(());
        }
        if is_privileged() {
            let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            return rustix::mount::unmount(&self.mountpoint, flags).map_err(|errno| {
                Error::new(format!("cannot unmount {}", self.mountpoint.display())).because(errno.into())
            });
        }
        let control = format!("/sys/fs/fuse/connections/{}/abort", self.device.minor());
        let cut = std::fs::write(&control, "1");
        self.detach_lazily()?;
        cut.map_err(|cause| Error::new(format!("cannot write {control}")).because(cause))
    }
}
