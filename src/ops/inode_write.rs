//! Changing what belongs to one inode: attributes and extended attributes.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::change::Touch;
use super::inode_read::CAPABILITY;
use super::resolve::Nodes;
use super::{Attr, Caller, Mirror, SetAttr, SetTime};
use crate::error::errno;
use crate::inode::{Fh, Ino, Object};
use crate::legs::{Keeps, Kind, Leg, Stat, Timestamp};

const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const ACCESS_ACL: &str = "system.posix_acl_access";

impl<L: Leg> Mirror<L> {
    /// Sets attributes, all or none of them as far as the legs allow.
    pub fn setattr(&self, ino: Ino, set: &SetAttr, fh: Option<Fh>, caller: Caller) -> io::Result<Attr> {
        let _inside = self.enter()?;
        let object = self.object(ino)?;
        let changing = object.lock.write();
        let nodes = self.nodes(&object)?;
        if self.says_nothing_new(&object, set)? {
            drop(changing);
            return self.getattr(ino, fh);
        }
        if let Some(size) = set.size {
            self.set_size(&object, &nodes, fh, size)?;
            // The kernel leaves this to us (HANDLE_KILLPRIV_V2), and tells who may keep the bits by
            // CAP_FSETID, which a request does not carry: root has it.
            if caller.uid != 0 {
                self.take_privileges(&object, &nodes)?;
            }
        }
        if set.is_empty() {
            // What the kernel sends when it has found that the caller may not keep suid and sgid.
            self.take_privileges(&object, &nodes)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            self.change_all([Touch::metadata(&object)], |intent, leg| {
                self.leg(leg)?.set_owner(intent, nodes.on(leg)?, set.uid, set.gid)
            })?;
        }
        if let Some(mode) = set.mode {
            self.change_all([Touch::metadata(&object)], |intent, leg| {
                self.leg(leg)?.set_mode(intent, nodes.on(leg)?, mode & 0o7777)
            })?;
            object.unprivileged.store(false, Ordering::Relaxed);
        }
        if set.atime.is_some() || set.mtime.is_some() {
            // One value for both legs: the clock is read once.
            let now = (self.options.clock)();
            let at = |time: SetTime| match time {
                SetTime::Now => now,
                SetTime::At(time) => time,
            };
            let (atime, mtime) = (set.atime.map(at), set.mtime.map(at));
            self.change_all([Touch::metadata(&object)], |intent, leg| {
                self.leg(leg)?.set_times(intent, nodes.on(leg)?, atime, mtime)
            })?;
            if let Some(mtime) = mtime {
                self.time_told(&object, mtime);
            }
        }
        drop(changing);
        self.getattr(ino, fh)
    }

    /// Sets the length. The object's lock is held.
    pub(super) fn set_size(
        &self,
        object: &Arc<Object<L>>,
        nodes: &Nodes<L>,
        fh: Option<Fh>,
        size: u64,
    ) -> io::Result<()> {
        let old = self.reading(|source| self.stat_on(object, source))?;
        match old.kind {
            Kind::File => {}
            Kind::Directory => return Err(errno(libc::EISDIR)),
            _ => return Err(errno(libc::EINVAL)),
        }
        // What lies behind the lower of the two lengths changes, on one leg before the other: bytes go,
        // or zeros come.
        let changed = old.size.min(size)..u64::MAX;
        let open = fh.and_then(|fh| self.handles.file(fh).ok()).filter(|open| open.mode.write);
        self.change_all([Touch::data(object, changed)], |intent, leg| {
            match &open {
                // Who has the file open for writing may shorten it, whatever its mode says by now.
                Some(open) => {
                    self.leg(leg)?.truncate_file(intent, nodes.on(leg)?, &*self.file_on(open, leg)?, size)
                }
                None => self.leg(leg)?.truncate(intent, nodes.on(leg)?, size),
            }
        })?;
        if (old.size, size) == (0, 0) && fh.is_none() {
            // Opening with O_TRUNC is a modification even of an empty file. The kernel asks for it as
            // for a truncate by name, which xfs then passes over.
            let now = Some((self.options.clock)());
            self.change_all([Touch::metadata(object)], |intent, leg| {
                self.leg(leg)?.set_times(intent, nodes.on(leg)?, None, now)
            })?;
        }
        Ok(())
    }

    /// Takes suid, and sgid of what its group may execute, away, as a write by one without CAP_FSETID
    /// does. The object's lock is held. (Capabilities the kernel removes itself, before the write.)
    pub(super) fn take_privileges(&self, object: &Arc<Object<L>>, nodes: &Nodes<L>) -> io::Result<()> {
        if object.unprivileged.load(Ordering::Relaxed) || object.kind != Kind::File {
            return Ok(());
        }
        let mode = self.reading(|source| self.stat_on(object, source))?.mode;
        let sgid = if mode & GROUP_EXECUTE != 0 { SGID } else { 0 };
        let kept = mode & !(SUID | sgid);
        if kept != mode {
            self.change_all([Touch::metadata(object)], |intent, leg| {
                self.leg(leg)?.set_mode(intent, nodes.on(leg)?, kept)
            })?;
            // ORDER: before the reply. With the old mode in its cache the kernel would go on running a
            // file as its owner whose content somebody else has just written.
            if let Some(caches) = self.invalidate.get() {
                caches.attributes(object.ino);
            }
        }
        object.unprivileged.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Sets an extended attribute; `flags` as in setxattr(2). `in_group` tells whether the caller may
    /// keep sgid on what belongs to a group: one who may not loses it with a new access ACL, as with
    /// a new mode.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        in_group: impl FnOnce(u32) -> bool,
    ) -> io::Result<()> {
        let _inside = self.enter()?;
        let object = self.object(ino)?;
        let _changing = object.lock.write();
        let nodes = self.nodes(&object)?;
        if name == CAPABILITY {
            object.incapable.store(false, Ordering::Relaxed);
        }
        self.change_all([Touch::metadata(&object)], |intent, leg| {
            self.leg(leg)?.set_xattr(intent, nodes.on(leg)?, name, value, flags)
        })?;
        if name != ACCESS_ACL {
            return Ok(());
        }
        let stat = self.reading(|source| self.stat_on(&object, source))?;
        if stat.mode & SGID == 0 || in_group(stat.gid) {
            return Ok(());
        }
        self.change_all([Touch::metadata(&object)], |intent, leg| {
            self.leg(leg)?.set_mode(intent, nodes.on(leg)?, stat.mode & !SGID)
        })?;
        Ok(())
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> io::Result<()> {
        let _inside = self.enter()?;
        let object = self.object(ino)?;
        let _changing = object.lock.write();
        let nodes = self.nodes(&object)?;
        self.change_all([Touch::metadata(&object)], |intent, leg| {
            self.leg(leg)?.remove_xattr(intent, nodes.on(leg)?, name)
        })?;
        Ok(())
    }
}

/// The times to set on the other leg so that it shows what the source shows; `None` if it does.
pub(super) fn times_to_settle(source: &Stat, other: &Stat, keeps: Keeps) -> Option<(Timestamp, Timestamp)> {
    let differ = |ours, theirs| !keeps.is_same_time(ours, theirs);
    let settle = keeps.is_kept_of(source.kind)
        && (differ(source.atime, other.atime) || differ(source.mtime, other.mtime));
    settle.then_some((source.atime, source.mtime))
}
