//! What is mounted where, from mountinfo, and unmounting.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

/// One line of /proc/self/mountinfo.
#[derive(Debug)]
pub struct Mount {
    pub at: PathBuf,
    pub fstype: String,
    pub source: String,
    pub options: String,
}

/// All mounts this process sees, in the order in which they were made.
pub fn all() -> Vec<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").expect("/proc is mounted");
    text.split(|&byte| byte == b'\n').filter_map(parse).collect()
}

/// The topmost mount at exactly this path.
pub fn at(path: &Path) -> Option<Mount> {
    all().into_iter().rfind(|mount| mount.at == path)
}

/// Takes away every mount at or below `path`, the newest first, without waiting for its users.
pub fn detach_below(path: &Path) {
    let below = all().into_iter().filter(|mount| mount.at.starts_with(path));
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        let _ = rustix::mount::unmount(&mount.at, UnmountFlags::DETACH);
    }
}

fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(Mount {
        at: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        options: text(fields.get(5)?),
        fstype: text(fields.get(dash + 1)?),
        source: text(&unescape(fields.get(dash + 2)?)),
    })
}

/// mountinfo writes blanks and backslashes as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}
