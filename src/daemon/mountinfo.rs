//! What is mounted where, from /proc/self/mountinfo. Never touches a mount itself, so that a hung
//! or dead mirror can still be found and named.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The filesystem type that our mounts show.
pub const FSTYPE: &str = "fuse.mirrorfs";

/// A filesystem's device number, as st_dev tells it and mountinfo writes it: `0:57`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device(String);

impl Device {
    /// The part after the colon, which names the connection of a FUSE mount below
    /// /sys/fs/fuse/connections.
    pub fn minor(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, minor)| minor)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Of the filesystem.
    pub device: Device,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// `ro`, `nosuid` and so on.
    pub options: String,
    /// `fuse.mirrorfs`, `ext4`.
    pub fstype: String,
    /// What is mounted: `A:B` for a mirror.
    pub source: OsString,
    /// The filesystem's own options.
    pub super_options: String,
}

impl Mount {
    /// The user whose FUSE mount it is.
    pub fn owner(&self) -> Option<u32> {
        self.super_options.split(',').find_map(|option| option.strip_prefix("user_id=")?.parse().ok())
    }

    /// Whether it is one of ours.
    pub fn is_mirror(&self) -> bool {
        self.fstype == FSTYPE
    }
}

/// All mounts that this process sees, in the order they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    read_of(Path::new("/proc/self/mountinfo"))
}

/// All mounts that another process sees.
pub fn read_of(file: &Path) -> io::Result<Vec<Mount>> {
    Ok(std::fs::read(file)?.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// What is on top at `mountpoint`, an absolute path without symlinks.
pub fn top(mounts: Vec<Mount>, mountpoint: &Path) -> Option<Mount> {
    mounts.into_iter().rev().find(|mount| mount.mountpoint == mountpoint)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = Device(text(fields.nth(2)?));
    let mountpoint = PathBuf::from(unescape(fields.nth(1)?));
    let options = text(fields.next()?);
    fields.find(|field| *field == b"-")?;
    Some(Mount {
        device,
        mountpoint,
        options,
        fstype: text(fields.next()?),
        source: unescape(fields.next()?),
        super_options: text(fields.next()?),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Space, tab, newline, backslash and `#` stand in mountinfo as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match octal(rest) {
            Some(code) => {
                plain.push(code);
                rest = &rest[4..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

fn octal(bytes: &[u8]) -> Option<u8> {
    let digits = bytes.strip_prefix(b"\\")?.get(..3)?;
    u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
40 27 0:57 / /mnt/a\\040b\\134 ro,nosuid shared:3 master:1 - fuse.mirrorfs /a\\040:/b rw,user_id=1000,group_id=1
41 40 0:58 / /mnt/a\\040b\\134 rw - tmpfs none rw
";

    fn mounts() -> Vec<Mount> {
        LINES.split(|&byte| byte == b'\n').filter_map(parse).collect()
    }

    #[test]
    fn fields_are_found_behind_any_number_of_optional_ones() {
        let mounts = mounts();
        assert_eq!(mounts.len(), 3);
        let mirror = &mounts[1];
        assert_eq!(mirror.device.to_string(), "0:57");
        assert_eq!(mirror.device.minor(), "57");
        assert_eq!(mirror.mountpoint, Path::new("/mnt/a b\\"));
        assert_eq!(mirror.options, "ro,nosuid");
        assert_eq!(mirror.source, "/a :/b");
        assert_eq!(mirror.owner(), Some(1000));
        assert!(mirror.is_mirror() && !mounts[0].is_mirror());
    }

    #[test]
    fn the_last_mount_is_on_top() {
        assert_eq!(top(mounts(), Path::new("/mnt/a b\\")).unwrap().fstype, "tmpfs");
        assert_eq!(top(mounts(), Path::new("/mnt")), None);
    }
}
