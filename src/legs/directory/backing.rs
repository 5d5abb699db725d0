//! What a filesystem rests on, by its type as statfs(2) gives it. Pure.
//!
//! FAIL-SAFE: a type that is not known here counts as the network's. That costs a local filesystem two
//! wake-ups a call; the other way a mirror would wait for a machine that has gone.

use crate::legs::timed::Backing;

/// `f_type` of filesystems on this machine's disks or in its memory (linux/magic.h, statfs(2)).
const DISK: &[u32] = &[
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
    0x794c_7630, // overlayfs
    0x3153_464a, // jfs
    0x5265_4973, // reiserfs
    0x0000_3434, // nilfs
    0x0000_4d44, // vfat
    0x2011_bab0, // exfat
    0x7366_746e, // ntfs3
    0x5346_544e, // ntfs
    0x0000_482b, // hfsplus
    0x0000_4244, // hfs
    0x1501_3346, // udf
    0x0000_9660, // iso9660
    0x2405_1905, // ubifs
    0x0000_72b6, // jffs2
    0x0000_f15f, // ecryptfs
    0x0001_1954, // ufs
    0x5a4f_4653, // zonefs
];

/// Those that a program answers for: FUSE, with or without a block device.
const FUSE: u32 = 0x6573_5546;

/// What a filesystem of this type rests on.
pub fn backing(f_type: u32) -> Backing {
    match f_type {
        FUSE => Backing::Fuse,
        known if DISK.contains(&known) => Backing::Disk,
        // NFS, SMB, 9p, Ceph, AFS, Coda and whatever is not known; cluster filesystems on a shared disk too,
        // for they wait for each other's locks.
        _ => Backing::Network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that another machine answers for.
    const NETWORK: &[u32] = &[
        0x0000_6969, // nfs
        0x0000_517b, // smb
        0xff53_4d42, // cifs
        0xfe53_4d42, // smb2
        0x0102_1997, // 9p
        0x00c3_6400, // ceph
        0x5346_414f, // afs (openafs)
        0x6b41_4653, // afs (the kernel's)
        0x7375_7245, // coda
        0x0000_564c, // ncp
        0x0bd0_0bd0, // lustre
        0x0116_1970, // gfs2: waits for other machines' locks
        0x7461_636f, // ocfs2: the same
        0x4750_4653, // gpfs
        0xaad7_aaea, // panfs
        0x2030_528d, // orangefs
        0x786f_4256, // vboxsf
        0xbacb_acbc, // vmhgfs
    ];

    #[test]
    fn disks_answer_for_themselves_and_the_rest_may_hang() {
        for (f_type, expected) in [
            (libc::EXT4_SUPER_MAGIC as u32, Backing::Disk),
            (libc::XFS_SUPER_MAGIC as u32, Backing::Disk),
            (libc::BTRFS_SUPER_MAGIC as u32, Backing::Disk),
            (libc::TMPFS_MAGIC as u32, Backing::Disk),
            (libc::OVERLAYFS_SUPER_MAGIC as u32, Backing::Disk),
            (libc::FUSE_SUPER_MAGIC as u32, Backing::Fuse),
            (libc::NFS_SUPER_MAGIC as u32, Backing::Network),
            (libc::SMB_SUPER_MAGIC as u32, Backing::Network),
            (libc::CODA_SUPER_MAGIC as u32, Backing::Network),
            (0xff53_4d42, Backing::Network),
            (0x1234_5678, Backing::Network),
        ] {
            assert_eq!(backing(f_type), expected, "{f_type:#x}");
        }
    }

    #[test]
    fn what_another_machine_answers_for_is_the_network_s() {
        for f_type in NETWORK {
            assert_eq!(backing(*f_type), Backing::Network, "{f_type:#x}");
        }
    }
}
