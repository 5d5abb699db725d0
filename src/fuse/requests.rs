//! How many requests of each kind have come: what the kernel did not answer by itself.
//!
//! Counted when they arrive, whatever comes of them. INIT, DESTROY and INTERRUPT are answered by fuser and
//! not counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds, each with its key in the JSON report.
macro_rules! kinds {
    ($($kind:ident $key:literal),* $(,)?) => {
        /// A kind of request, by FUSE's name for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Asked { $($kind),* }

        const KEYS: &[&str] = &[$($key),*];
    };
}

kinds! {
    Lookup "lookup",
    // One for each object that is let go of, however many the kernel puts into one request.
    Forget "forget",
    Getattr "getattr",
    Setattr "setattr",
    Readlink "readlink",
    Mknod "mknod",
    Mkdir "mkdir",
    Symlink "symlink",
    Link "link",
    Unlink "unlink",
    Rmdir "rmdir",
    Rename "rename",
    Create "create",
    Open "open",
    Read "read",
    Write "write",
    Flush "flush",
    Release "release",
    Fsync "fsync",
    Opendir "opendir",
    Readdir "readdir",
    Readdirplus "readdirplus",
    Fsyncdir "fsyncdir",
    Statfs "statfs",
    Setxattr "setxattr",
    Getxattr "getxattr",
    Listxattr "listxattr",
    Removexattr "removexattr",
    Access "access",
    Bmap "bmap",
    Poll "poll",
    Ioctl "ioctl",
    Fallocate "fallocate",
    Lseek "lseek",
    CopyFileRange "copy_file_range",
}

/// The counts since the mount.
#[derive(Debug)]
pub struct Requests([AtomicU64; KEYS.len()]);

impl Default for Requests {
    fn default() -> Self {
        Requests(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Requests {
    /// One more of this kind.
    pub(super) fn count(&self, asked: Asked) {
        // Relaxed: nothing else is told by the number.
        self.0[asked as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All kinds with their numbers, those that never came with 0.
    pub fn by_kind(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        KEYS.iter().map(|&key| key.to_owned()).zip(counts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_under_its_own_key() {
        let requests = Requests::default();
        assert!(requests.by_kind().values().all(|&count| count == 0));
        requests.count(Asked::Lookup);
        requests.count(Asked::CopyFileRange);
        requests.count(Asked::CopyFileRange);
        let counts = requests.by_kind();
        assert_eq!(counts.len(), KEYS.len(), "no key stands twice");
        assert_eq!((counts["lookup"], counts["copy_file_range"]), (1, 2));
        assert_eq!(counts.values().sum::<u64>(), 3);
    }
}
