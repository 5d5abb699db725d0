//! Makes the metadata of one object of the target equal to that of its counterpart on the source:
//! owner, length, extended attributes and ACLs, mode, times.
//!
//! Sets only what differs, so that an object that is equal already is not touched. Never touches
//! data, but for cutting off what lies behind the source's end.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::Sides;
use crate::bitmap::WriteIntent;
use crate::legs::{Keeps, Kind, Leg, Stat};

/// Whether anything that [`equalize`] sets differs.
pub(super) fn differs<L: Leg>(sides: Sides<'_, L>, s: &L::Node, t: &L::Node) -> io::Result<bool> {
    let (s_stat, t_stat) = (sides.s.stat(s)?, sides.t.stat(t)?);
    let s_names = xattr_names(sides.s, s)?;
    if stat_differs(&s_stat, &t_stat, sides.keeps()) || s_names != xattr_names(sides.t, t)? {
        return Ok(true);
    }
    for name in &s_names {
        if xattr(sides.s, s, name)? != xattr(sides.t, t, name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn stat_differs(s: &Stat, t: &Stat, keeps: Keeps) -> bool {
    let of_file = s.kind == Kind::File && s.size != t.size;
    let mode = s.kind != Kind::Symlink && s.mode != t.mode;
    of_file || mode || owners_differ(s, t, keeps) || times_differ(s, t, keeps)
}

fn owners_differ(s: &Stat, t: &Stat, keeps: Keeps) -> bool {
    keeps.is_kept_of(s.kind) && (s.uid, s.gid) != (t.uid, t.gid)
}

/// The access time of a symlink is not compared: following one may raise it on the leg itself.
fn times_differ(s: &Stat, t: &Stat, keeps: Keeps) -> bool {
    let differ = |s, t| !keeps.is_same_time(s, t);
    match s.kind {
        Kind::Symlink => keeps.of_symlinks && differ(s.mtime, t.mtime),
        _ => differ(s.mtime, t.mtime) || differ(s.atime, t.atime),
    }
}

/// Makes the metadata of `t` that of `s`. Both are of one kind.
///
/// The order matters: changing the owner or the length drops suid and sgid bits and file
/// capabilities, and an access ACL and the mode overwrite parts of each other.
pub(super) fn equalize<L: Leg>(
    sides: Sides<'_, L>,
    intent: &WriteIntent<'_>,
    s: &L::Node,
    t: &L::Node,
) -> io::Result<()> {
    let (s_stat, mut t_stat) = (sides.s.stat(s)?, sides.t.stat(t)?);
    let owner = owners_differ(&s_stat, &t_stat, sides.keeps());
    if owner {
        sides.t.set_owner(intent, t, Some(s_stat.uid), Some(s_stat.gid))?;
    }
    let length = s_stat.kind == Kind::File && s_stat.size != t_stat.size;
    if length {
        sides.t.truncate(intent, t, s_stat.size)?;
    }
    if equalize_xattrs(sides, intent, s, t)? || owner || length {
        t_stat = sides.t.stat(t)?;
    }
    if s_stat.kind != Kind::Symlink && t_stat.mode != s_stat.mode {
        sides.t.set_mode(intent, t, s_stat.mode)?;
    }
    if times_differ(&s_stat, &t_stat, sides.keeps()) {
        sides.t.set_times(intent, t, Some(s_stat.atime), Some(s_stat.mtime))?;
    }
    Ok(())
}

/// Whether anything was done.
fn equalize_xattrs<L: Leg>(
    sides: Sides<'_, L>,
    intent: &WriteIntent<'_>,
    s: &L::Node,
    t: &L::Node,
) -> io::Result<bool> {
    let (wanted, present) = (xattr_names(sides.s, s)?, xattr_names(sides.t, t)?);
    let mut done = false;
    for name in present.iter().filter(|name| !wanted.contains(name)) {
        tolerate(name, sides.t.remove_xattr(intent, t, name))?;
        done = true;
    }
    for name in &wanted {
        let value = xattr(sides.s, s, name)?;
        let Some(value) = value else { continue };
        if xattr(sides.t, t, name)?.as_ref() != Some(&value) {
            tolerate(name, sides.t.set_xattr(intent, t, name, &value, 0))?;
            done = true;
        }
    }
    Ok(done)
}

/// Labels of a security module and attributes for the privileged belong to the filesystem as much
/// as to the file: one that the target refuses to take is told, and is no reason to stop.
fn tolerate(name: &OsStr, result: io::Result<()>) -> io::Result<()> {
    let of_the_system = name.as_bytes().starts_with(b"security.") || name.as_bytes().starts_with(b"trusted.");
    match result {
        Err(error) if of_the_system && matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) => {
            log::warn!("extended attribute {}: the target does not take it: {error}", name.display());
            Ok(())
        }
        other => other,
    }
}

/// A filesystem without extended attributes has none on any object.
fn xattr_names<L: Leg>(leg: &L, node: &L::Node) -> io::Result<Vec<OsString>> {
    match leg.list_xattr(node) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSUP) => Ok(Vec::new()),
        other => other,
    }
}

fn xattr<L: Leg>(leg: &L, node: &L::Node, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    match leg.get_xattr(node, name) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}
