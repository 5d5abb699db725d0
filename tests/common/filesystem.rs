//! The filesystems that legs lie on: a plain directory, tmpfs, or a loop-mounted image.

use std::path::Path;
use std::process::Command;

use super::process::must;

/// What a leg lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// A directory of the filesystem that the scratch place is on.
    Plain,
    /// Memory; gone after an unmount.
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
}

impl Filesystem {
    /// All that need a loop device.
    pub const ON_DEVICES: [Filesystem; 3] = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs];

    /// Makes one at `dir`, with its image (sparse, `mib` large) at `image` when it has one. The
    /// loop device is freed by the kernel at the unmount.
    pub fn make(self, dir: &Path, image: &Path, mib: u64) {
        std::fs::create_dir_all(dir).expect("a new directory");
        let mkfs: &[&str] = match self {
            Filesystem::Plain => return,
            Filesystem::Tmpfs => {
                let size = format!("size={mib}m,mode=755");
                must(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir));
                return;
            }
            Filesystem::Ext4 => &["mkfs.ext4", "-q", "-F"],
            // The smallest that mkfs.xfs makes is 300 MiB.
            Filesystem::Xfs => &["mkfs.xfs", "-q", "-f"],
            Filesystem::Btrfs => &["mkfs.btrfs", "-q", "-f"],
        };
        let file = std::fs::File::create(image).expect("a new image");
        file.set_len(mib.max(320) << 20).expect("a sparse image");
        must(Command::new(mkfs[0]).args(&mkfs[1..]).arg(image));
        attach(image, dir);
    }
}

/// Mounts a filesystem's image. A test that reads on the legs themselves must not make their access times differ.
pub fn attach(image: &Path, dir: &Path) {
    must(Command::new("mount").args(["-o", "loop,noatime"]).arg(image).arg(dir));
}
