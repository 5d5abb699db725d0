//! A place for one test, taken away whole when the test ends, well or badly.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::{mounts, process};

/// A directory of its own. Dropping it ends every daemon that names it, unmounts all below it and
/// removes it; loop devices go with their mounts.
pub struct Scratch {
    path: PathBuf,
}

/// Where scratch places are made: on a disk, reachable by every user. `MIRRORFS_TEST_DIR` names
/// another place.
fn base() -> PathBuf {
    std::env::var_os("MIRRORFS_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

impl Scratch {
    /// `name` tells a person which test made it.
    pub fn new(name: &str) -> Scratch {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new()
            .prefix(&format!("mirrorfs-test-{name}-"))
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(base())
            .expect("a scratch directory");
        let path = dir.keep().canonicalize().expect("the directory was just made");
        Scratch { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it; makes nothing.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A new directory in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).expect("a new directory");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("MIRRORFS_TEST_KEEP").is_some() {
            eprintln!("kept for you to look at: {}", self.path.display());
            return;
        }
        // Killed first: an unmount may otherwise wait for a daemon that hangs.
        for pid in process::running(super::mirror::program(), &self.path) {
            process::signal(pid, Signal::KILL);
        }
        mounts::detach_below(&self.path);
        // A leg's filesystem that is still busy for a moment must not be emptied from above.
        let still_mounted = mounts::all().iter().any(|mount| mount.at.starts_with(&self.path));
        if still_mounted {
            eprintln!("left mounted: something below {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}
