//! What the kernel would check before a filesystem is asked, and the errno it would give.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::image::{Body, Change, Id, Image, Object, Place, ROOT};
use super::{STATE, area_name};
use crate::error::errno;
use crate::legs::{Area, Creator, Kind, Make, RenameMode, Stat};

/// An object; ESTALE when there is none.
pub fn object(image: &Image, id: Id) -> io::Result<&Object> {
    image.get(id).ok_or(errno(libc::ESTALE))
}

/// The same, and it must be a directory.
pub fn directory(image: &Image, id: Id) -> io::Result<&Object> {
    let dir = object(image, id)?;
    if dir.kind() == Kind::Directory { Ok(dir) } else { Err(errno(libc::ENOTDIR)) }
}

/// The same, and it must be a regular file.
pub fn file(image: &Image, id: Id) -> io::Result<&Object> {
    let file = object(image, id)?;
    match file.kind() {
        Kind::File => Ok(file),
        Kind::Directory => Err(errno(libc::EISDIR)),
        _ => Err(errno(libc::EINVAL)),
    }
}

/// One of the mirror's own directories.
pub fn area_of(image: &Image, area: Area) -> io::Result<Id> {
    let state = existing(image, &(ROOT, STATE.into()))?;
    existing(image, &(state, area_name(area).into()))
}

/// What the name names; ENOENT if nothing.
pub fn existing(image: &Image, place: &Place) -> io::Result<Id> {
    directory(image, place.0)?;
    check_name(&place.1)?;
    image.entry(place).ok_or(errno(libc::ENOENT))
}

/// The place for a new name; EEXIST if it is taken, ENOENT in a directory that is removed.
pub fn vacant(image: &Image, dir: Id, name: &OsStr) -> io::Result<Place> {
    let place = (dir, name.to_owned());
    check_name(name)?;
    if directory(image, dir)?.names == 0 {
        return Err(errno(libc::ENOENT));
    }
    match image.entry(&place) {
        Some(_) => Err(errno(libc::EEXIST)),
        None => Ok(place),
    }
}

fn check_name(name: &OsStr) -> io::Result<()> {
    let bytes = name.as_encoded_bytes();
    assert!(!bytes.is_empty() && !bytes.contains(&b'/') && bytes != b"." && bytes != b"..", "{name:?}");
    if bytes.len() > 255 { Err(errno(libc::ENAMETOOLONG)) } else { Ok(()) }
}

/// Attributes as stat(2) gives them.
pub fn stat(image: &Image, id: Id) -> io::Result<Stat> {
    let object = object(image, id)?;
    let is_directory =
        |&(_, id): &(_, Id)| image.get(id).is_some_and(|entry| entry.kind() == Kind::Directory);
    let (nlink, size, blocks) = match &object.body {
        Body::Directory { .. } => {
            let below = object.entries().filter(is_directory).count() as u32;
            (if object.names == 0 { 0 } else { 2 + below }, 4096, 8)
        }
        Body::File(content) => (object.names, content.size(), content.allocated()),
        Body::Symlink(target) => (object.names, target.len() as u64, 0),
        Body::Special { .. } => (object.names, 0, 0),
    };
    let rdev = if let Body::Special { rdev, .. } = object.body { rdev } else { 0 };
    Ok(Stat {
        ino: object.ino,
        kind: object.kind(),
        mode: object.mode,
        nlink,
        uid: object.uid,
        gid: object.gid,
        rdev,
        size,
        blocks,
        blksize: 4096,
        atime: object.times.access,
        mtime: object.times.modification,
        ctime: object.times.change,
        btime: Some(object.times.birth),
    })
}

/// Makes an object as mknod(2), mkdir(2) and symlink(2) do.
pub fn make(disk: &mut Disk, dir: Id, name: &OsStr, what: Make<'_>, creator: Creator) -> io::Result<Id> {
    let place = vacant(disk.live(), dir, name)?;
    let parent = object(disk.live(), dir)?;
    let inherits = parent.mode & libc::S_ISGID != 0;
    let gid = if inherits { parent.gid } else { creator.gid };
    let (mode, body) = match what {
        Make::File { mode } => (mode & !creator.umask, Body::File(Default::default())),
        Make::Directory { mode } => {
            let sgid = if inherits { libc::S_ISGID } else { 0 };
            let body = Body::Directory { entries: Default::default(), parent: dir };
            (mode & !creator.umask | sgid, body)
        }
        Make::Symlink { target } => (0o777, Body::Symlink(target.to_owned())),
        Make::Special { kind, mode, rdev } => (mode & !creator.umask, Body::Special { kind, rdev }),
    };
    let (id, object) = disk.new_object(body, mode & 0o7777, (creator.uid, gid));
    disk.apply(Change::Make { place, id, object: Arc::new(object) });
    Ok(id)
}

/// What a write changes: the length and times, which the journal carries, and the data.
pub fn written(id: Id, data: &[u8], offset: u64) -> [Change; 2] {
    let size = offset + data.len() as u64;
    [Change::Grow { id, size }, Change::Data { id, offset, bytes: data.into() }]
}

/// Whether the rename would do anything; an errno where the kernel has one.
pub fn check_rename(image: &Image, from: &Place, to: &Place, mode: RenameMode) -> io::Result<bool> {
    let moved = existing(image, from)?;
    directory(image, to.0)?;
    check_name(&to.1)?;
    let target = image.entry(to);
    if object(image, to.0)?.names == 0 {
        return Err(errno(libc::ENOENT));
    }
    if image.is_above(moved, to.0) {
        return Err(errno(libc::EINVAL));
    }
    let Some(target) = target else {
        return if mode == RenameMode::Exchange { Err(errno(libc::ENOENT)) } else { Ok(true) };
    };
    match mode {
        RenameMode::NoReplace => return Err(errno(libc::EEXIST)),
        RenameMode::Exchange if image.is_above(target, from.0) => return Err(errno(libc::EINVAL)),
        RenameMode::Exchange => return Ok(moved != target),
        RenameMode::Replace => {}
    }
    if moved == target {
        return Ok(false);
    }
    let over = object(image, target)?;
    match (object(image, moved)?.kind() == Kind::Directory, over.kind() == Kind::Directory) {
        (true, false) => Err(errno(libc::ENOTDIR)),
        (false, true) => Err(errno(libc::EISDIR)),
        (true, true) if over.entries().next().is_some() => Err(errno(libc::ENOTEMPTY)),
        _ => Ok(true),
    }
}

/// Takes a name away with everything under it ([`ParkingDeletes`](super::Flaw::ParkingDeletes)).
pub fn delete_tree(disk: &mut Disk, place: Place) {
    if let Some(id) = disk.live().entry(&place) {
        let below: Vec<Place> = disk
            .live()
            .get(id)
            .into_iter()
            .flat_map(Object::entries)
            .map(|(name, _)| (id, name.clone()))
            .collect();
        below.into_iter().for_each(|place| delete_tree(disk, place));
    }
    disk.apply(Change::Unlink { place });
}

/// The object with a name and this inode number, wherever on the leg.
pub fn by_number(image: &Image, ino: u64) -> io::Result<Id> {
    let named = |object: &Object| object.ino == ino && object.names > 0;
    image.iter().find(|(_, object)| named(object)).map(|(id, _)| id).ok_or(errno(libc::ESTALE))
}
