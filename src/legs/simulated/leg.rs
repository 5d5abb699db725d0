//! [`Leg`] over a [`SimDisk`]: what the kernel would check is checked, then the call is one change.
//!
//! Every call lets other threads run before it. A call that changes or syncs is a step of the
//! simulation: the machine may die in it, with the change done or not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Disk, Pin};
use super::image::{Body, Change, Id, Object, ROOT};
use super::rules::{
    area_of, by_number, check_rename, delete_tree, directory, existing, file, make, object, stat, vacant,
    written,
};
use super::{Call, FaultHook, Flaw, Hang, SimDisk, is_state};
use crate::bitmap::WriteIntent;
use crate::error::errno;
use crate::legs::{
    Area, Creator, Entry, Handle, Identity, Keeps, Kind, Leg, LegId, Make, OpenMode, RenameMode, Seek, Stat,
    Statfs, Timestamp,
};
use crate::sim::scheduler::{self, Moment};
use crate::sync::{Mutex, Rank};

/// One mount's use of a [`SimDisk`].
pub struct SimLeg {
    id: LegId,
    disk: SimDisk,
    handles: bool,
    flaw: Flaw,
    faults: Option<Mutex<FaultHook>>,
    hang: Option<Arc<Hang>>,
    fleeting: bool,
    /// Acknowledged and not done yet ([`Flaw::WritesLate`]).
    late: Mutex<Vec<Change>>,
    reads: Mutex<Vec<DataRead>>,
    bytes_written: AtomicU64,
    /// Changes there were when a sync was asked for that is not done yet ([`Flaw::ClearsEarly`]).
    asked: AtomicU64,
}

/// A read of file data, for checks of what a resync looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DataRead {
    pub ino: u64,
    pub offset: u64,
    pub len: u64,
}

/// A pinned object.
#[derive(Clone, Debug)]
pub struct SimNode(Arc<Pin>);

/// An open file.
#[derive(Debug)]
pub struct SimFile {
    node: SimNode,
    mode: OpenMode,
}

impl SimNode {
    fn id(&self) -> Id {
        self.0.0
    }
}

impl SimLeg {
    /// A sound leg with handles.
    pub fn new(id: LegId, disk: SimDisk) -> SimLeg {
        SimLeg {
            id,
            disk,
            handles: true,
            flaw: Flaw::Sound,
            faults: None,
            hang: None,
            fleeting: false,
            late: Mutex::new(Rank::Leaf, Vec::new()),
            reads: Mutex::new(Rank::Leaf, Vec::new()),
            bytes_written: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }

    /// Like a filesystem without file handles, or a daemon that may not use them.
    pub fn without_handles(mut self) -> Self {
        self.handles = false;
        self
    }

    /// Like one on a FUSE filesystem: without handles or birth times, and with numbers that do not last. They begin
    /// with 100 and `few`, and are forgotten at one look in so many (0: never).
    pub fn fleeting(mut self, few: u64, forgets_one_in: u64) -> Self {
        self.disk.lock().number_anew(few, forgets_one_in);
        (self.fleeting, self.handles) = (true, false);
        self
    }

    /// With a rule broken.
    pub fn with_flaw(mut self, flaw: Flaw) -> Self {
        self.flaw = flaw;
        self
    }

    /// With a hook that may fail calls.
    pub fn with_faults(mut self, hook: FaultHook) -> Self {
        self.faults = Some(Mutex::new(Rank::Leaf, hook));
        self
    }

    /// With calls that are answered late.
    pub fn hanging(mut self, hang: Arc<Hang>) -> Self {
        self.hang = Some(hang);
        self
    }

    /// File data read since this was last asked.
    pub fn take_reads(&self) -> Vec<DataRead> {
        std::mem::take(&mut self.reads.lock())
    }

    /// Bytes written to files since the leg was made.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    fn fault(&self, call: Call) -> io::Result<()> {
        let Some(hook) = &self.faults else { return Ok(()) };
        let mut hook = hook.lock();
        match (*hook)(self.id, call) {
            Some(number) => Err(errno(number)),
            None => Ok(()),
        }
    }

    /// A call that only looks.
    fn look<T>(&self, call: Call, work: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        scheduler::look()?;
        self.hang.iter().for_each(|hang| hang.pass(call, || ()));
        self.fault(call)?;
        self.do_late_writes();
        work(&mut self.disk.lock())
    }

    /// A call that changes something or makes it durable.
    fn change<T>(&self, call: Call, work: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut work = Some(work);
        let mut work = || work.take().map(|work| work(&mut self.disk.lock()));
        if let Some(hang) = &self.hang {
            hang.pass(call, || drop(work()));
        }
        let moment = scheduler::step()?;
        self.fault(call)?;
        let undone = moment == Moment::Last && scheduler::choose(2) == 0;
        if !undone {
            self.do_late_writes();
            let result = work().expect("if it had been done late, the machine would be gone");
            if moment == Moment::Usual {
                return result;
            }
        }
        scheduler::die();
    }

    fn do_late_writes(&self) {
        let late = std::mem::take(&mut *self.late.lock());
        let mut disk = self.disk.lock();
        late.into_iter().for_each(|change| disk.apply(change));
    }

    fn identify(&self, disk: &mut Disk, id: Id) -> io::Result<Identity> {
        if self.fleeting {
            object(disk.live(), id)?;
            return Ok(Identity { ino: disk.number(id), handle: None });
        }
        Ok(self.identity_of(object(disk.live(), id)?))
    }

    fn identity_of(&self, object: &Object) -> Identity {
        let mut bytes = object.ino.to_le_bytes().to_vec();
        bytes.extend(object.generation.to_le_bytes());
        let birth = Timestamp { secs: object.generation as i64, nanos: 0 };
        let handle = if self.handles { Handle::new(1, &bytes) } else { Some(Handle::of_birth(birth)) };
        Identity { ino: object.ino, handle }
    }

    fn show(&self, disk: &mut Disk, id: Id) -> io::Result<Stat> {
        let shown = stat(disk.live(), id)?;
        match self.fleeting {
            true => Ok(Stat { ino: disk.number(id), btime: None, ..shown }),
            false => Ok(shown),
        }
    }
}

impl Leg for SimLeg {
    type Node = SimNode;
    type File = SimFile;

    fn root(&self) -> SimNode {
        SimNode(self.disk.lock().pin(ROOT))
    }

    fn area(&self, area: Area) -> io::Result<SimNode> {
        self.look(Call::Lookup, |disk| {
            let id = area_of(disk.live(), area)?;
            Ok(SimNode(disk.pin(id)))
        })
    }

    fn identities_last(&self) -> bool {
        !self.fleeting || self.flaw == Flaw::SeemsToLast
    }

    fn measure(&self) {}

    fn keeps(&self) -> Keeps {
        Keeps::ALL
    }

    fn birth_now(&self) -> io::Result<Option<Timestamp>> {
        self.look(Call::Stat, |disk| Ok((!self.fleeting).then(|| disk.birth_now())))
    }

    fn find(&self, identity: &Identity) -> io::Result<SimNode> {
        if !identity.is_known() {
            return Err(errno(libc::ESTALE));
        }
        self.look(Call::Lookup, |disk| {
            let id = match identity.handle {
                _ if self.fleeting => disk.numbered(identity.ino),
                // As DirectoryLeg: a handle it cannot use is passed over, a birth is checked.
                Some(handle) if handle.opens() != self.handles => {
                    let birth = |object: &Object| {
                        Handle::of_birth(Timestamp { secs: object.generation as i64, nanos: 0 })
                    };
                    let same = |object: &Object| {
                        object.ino == identity.ino && (handle.opens() || birth(object) == handle)
                    };
                    disk.live().iter().find(|(_, object)| same(object)).map(|(id, _)| id)
                }
                Some(_) => {
                    let same = |object: &Object| self.identity_of(object) == *identity;
                    disk.live().iter().find(|(_, object)| same(object)).map(|(id, _)| id)
                }
                None => by_number(disk.live(), identity.ino).ok(),
            };
            // What lives on without a name, because it is open, is gone for the mirror.
            let named = |id: &Id| object(disk.live(), *id).is_ok_and(|object| object.names > 0);
            let id = id.filter(named).ok_or(errno(libc::ESTALE))?;
            Ok(SimNode(disk.pin(id)))
        })
    }

    fn lookup(&self, dir: &SimNode, name: &OsStr) -> io::Result<(Identity, Stat)> {
        self.look(Call::Lookup, |disk| {
            let id = existing(disk.live(), &(dir.id(), name.to_owned()))?;
            Ok((self.identify(disk, id)?, self.show(disk, id)?))
        })
    }

    fn child(&self, dir: &SimNode, name: &OsStr) -> io::Result<SimNode> {
        self.look(Call::Lookup, |disk| {
            let id = existing(disk.live(), &(dir.id(), name.to_owned()))?;
            Ok(SimNode(disk.pin(id)))
        })
    }

    fn parent(&self, dir: &SimNode) -> io::Result<SimNode> {
        self.look(Call::Lookup, |disk| {
            let object = directory(disk.live(), dir.id())?;
            match object.body {
                Body::Directory { parent, .. } if dir.id() != ROOT && object.names > 0 => {
                    Ok(SimNode(disk.pin(parent)))
                }
                _ => Err(errno(libc::ENOENT)),
            }
        })
    }

    fn identity(&self, node: &SimNode) -> io::Result<Identity> {
        self.look(Call::Lookup, |disk| self.identify(disk, node.id()))
    }

    fn stat(&self, node: &SimNode) -> io::Result<Stat> {
        self.look(Call::Stat, |disk| self.show(disk, node.id()))
    }

    fn stat_file(&self, file: &SimFile) -> io::Result<Stat> {
        self.stat(&file.node)
    }

    fn readlink(&self, node: &SimNode) -> io::Result<OsString> {
        self.look(Call::Stat, |disk| match &object(disk.live(), node.id())?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(errno(libc::EINVAL)),
        })
    }

    fn read_dir(&self, dir: &SimNode) -> io::Result<Vec<Entry>> {
        self.look(Call::ReadDir, |disk| {
            let entries = directory(disk.live(), dir.id())?.entries();
            let shown = entries.filter(|(name, _)| !is_state(dir.id(), name));
            let shown: Vec<(OsString, Id)> = shown.map(|(name, id)| (name.clone(), id)).collect();
            let entry = |(name, id)| {
                let Stat { ino, kind, .. } = self.show(disk, id)?;
                Ok(Entry { name, ino, kind })
            };
            shown.into_iter().map(entry).collect()
        })
    }

    fn get_xattr(&self, node: &SimNode, name: &OsStr) -> io::Result<Vec<u8>> {
        self.look(Call::Stat, |disk| {
            object(disk.live(), node.id())?.xattrs.get(name).cloned().ok_or(errno(libc::ENODATA))
        })
    }

    fn list_xattr(&self, node: &SimNode) -> io::Result<Vec<OsString>> {
        self.look(Call::Stat, |disk| Ok(object(disk.live(), node.id())?.xattrs.keys().cloned().collect()))
    }

    fn statfs(&self) -> io::Result<Statfs> {
        let (blocks, files) = (1 << 30, 1 << 20);
        self.look(Call::Stat, |_| {
            Ok(Statfs {
                frsize: 4096,
                blocks,
                bfree: blocks,
                bavail: blocks,
                files,
                ffree: files,
                namelen: 255,
            })
        })
    }

    fn open(&self, node: &SimNode, mode: OpenMode) -> io::Result<SimFile> {
        self.look(Call::Open, |disk| {
            file(disk.live(), node.id())?;
            Ok(SimFile { node: node.clone(), mode })
        })
    }

    fn read(&self, file: &SimFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if !file.mode.read {
            return Err(errno(libc::EBADF));
        }
        let (ino, len) = self.look(Call::Read, |disk| {
            disk.check_readable(file.node.id(), offset, buf.len() as u64)?;
            let object = object(disk.live(), file.node.id())?;
            let len = object.content().map_or(0, |content| content.get(offset, buf));
            Ok((object.ino, len))
        })?;
        self.reads.lock().push(DataRead { ino, offset, len: len as u64 });
        Ok(len)
    }

    fn read_stored(&self, file: &SimFile, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(file, buf, offset)
    }

    fn seek(&self, file: &SimFile, offset: u64, what: Seek) -> io::Result<u64> {
        self.look(Call::Read, |disk| {
            disk.check_told(file.node.id(), offset)?;
            let content = object(disk.live(), file.node.id())?.content().ok_or(errno(libc::EINVAL))?;
            if offset >= content.size() {
                return Err(errno(libc::ENXIO));
            }
            match what {
                Seek::Data => content.seek(offset, true).ok_or(errno(libc::ENXIO)),
                Seek::Hole => Ok(content.seek(offset, false).unwrap_or(content.size())),
            }
        })
    }

    fn make(
        &self,
        _: &WriteIntent<'_>,
        dir: &SimNode,
        name: &OsStr,
        what: Make<'_>,
        creator: Creator,
    ) -> io::Result<(Identity, Stat)> {
        self.change(Call::Make, |disk| {
            let id = make(disk, dir.id(), name, what, creator)?;
            Ok((self.identify(disk, id)?, self.show(disk, id)?))
        })
    }

    fn create(
        &self,
        _: &WriteIntent<'_>,
        dir: &SimNode,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        open: OpenMode,
    ) -> io::Result<(Identity, Stat, SimFile)> {
        self.change(Call::Make, |disk| {
            let id = make(disk, dir.id(), name, Make::File { mode }, creator)?;
            let file = SimFile { node: SimNode(disk.pin(id)), mode: open };
            Ok((self.identify(disk, id)?, self.show(disk, id)?, file))
        })
    }

    fn link(&self, _: &WriteIntent<'_>, node: &SimNode, dir: &SimNode, name: &OsStr) -> io::Result<()> {
        self.change(Call::Link, |disk| {
            let linked = object(disk.live(), node.id())?;
            match linked.kind() {
                Kind::Directory => return Err(errno(libc::EPERM)),
                _ if linked.names == 0 => return Err(errno(libc::ENOENT)),
                _ => {}
            }
            let place = vacant(disk.live(), dir.id(), name)?;
            disk.apply(Change::Link { place, id: node.id() });
            Ok(())
        })
    }

    fn unlink(&self, _: &WriteIntent<'_>, dir: &SimNode, name: &OsStr) -> io::Result<()> {
        self.change(Call::Unlink, |disk| {
            let place = (dir.id(), name.to_owned());
            let id = existing(disk.live(), &place)?;
            if object(disk.live(), id)?.kind() == Kind::Directory {
                return Err(errno(libc::EISDIR));
            }
            disk.apply(Change::Unlink { place });
            Ok(())
        })
    }

    fn rmdir(&self, _: &WriteIntent<'_>, dir: &SimNode, name: &OsStr) -> io::Result<()> {
        self.change(Call::Unlink, |disk| {
            let place = (dir.id(), name.to_owned());
            let id = existing(disk.live(), &place)?;
            if directory(disk.live(), id)?.entries().next().is_some() {
                return Err(errno(libc::ENOTEMPTY));
            }
            disk.apply(Change::Unlink { place });
            Ok(())
        })
    }

    fn rename(
        &self,
        _: &WriteIntent<'_>,
        from: (&SimNode, &OsStr),
        to: (&SimNode, &OsStr),
        mode: RenameMode,
    ) -> io::Result<()> {
        self.change(Call::Rename, |disk| {
            let [from, to] = [from, to].map(|(dir, name)| (dir.id(), name.to_owned()));
            if !check_rename(disk.live(), &from, &to, mode)? {
                return Ok(());
            }
            if self.flaw == Flaw::ParkingDeletes && area_of(disk.live(), Area::Parked)? == to.0 {
                delete_tree(disk, from);
                return Ok(());
            }
            disk.apply(match mode {
                RenameMode::Exchange => Change::Exchange { from, to },
                _ => Change::Rename { from, to },
            });
            Ok(())
        })
    }

    fn set_mode(&self, _: &WriteIntent<'_>, node: &SimNode, mode: u32) -> io::Result<()> {
        self.change(Call::Attributes, |disk| {
            if object(disk.live(), node.id())?.kind() == Kind::Symlink {
                return Err(errno(libc::EOPNOTSUPP));
            }
            disk.apply(Change::Mode { id: node.id(), mode: mode & 0o7777 });
            Ok(())
        })
    }

    fn set_owner(
        &self,
        _: &WriteIntent<'_>,
        node: &SimNode,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()> {
        self.change(Call::Attributes, |disk| {
            object(disk.live(), node.id())?;
            disk.apply(Change::Owner { id: node.id(), uid, gid });
            Ok(())
        })
    }

    fn set_times(
        &self,
        _: &WriteIntent<'_>,
        node: &SimNode,
        access: Option<Timestamp>,
        modification: Option<Timestamp>,
    ) -> io::Result<()> {
        self.change(Call::Attributes, |disk| {
            object(disk.live(), node.id())?;
            disk.apply(Change::Times { id: node.id(), access, modification });
            Ok(())
        })
    }

    fn truncate(&self, _: &WriteIntent<'_>, node: &SimNode, size: u64) -> io::Result<()> {
        self.change(Call::Truncate, |disk| {
            file(disk.live(), node.id())?;
            disk.apply(Change::Size { id: node.id(), size });
            Ok(())
        })
    }

    fn set_xattr(
        &self,
        _: &WriteIntent<'_>,
        node: &SimNode,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()> {
        self.change(Call::Xattr, |disk| {
            let known = object(disk.live(), node.id())?.xattrs.contains_key(name);
            match flags {
                libc::XATTR_CREATE if known => return Err(errno(libc::EEXIST)),
                libc::XATTR_REPLACE if !known => return Err(errno(libc::ENODATA)),
                _ => {}
            }
            let (id, name, value) = (node.id(), name.to_owned(), Some(value.to_owned()));
            disk.apply(Change::Xattr { id, name, value });
            Ok(())
        })
    }

    fn remove_xattr(&self, _: &WriteIntent<'_>, node: &SimNode, name: &OsStr) -> io::Result<()> {
        self.change(Call::Xattr, |disk| {
            if !object(disk.live(), node.id())?.xattrs.contains_key(name) {
                return Err(errno(libc::ENODATA));
            }
            disk.apply(Change::Xattr { id: node.id(), name: name.to_owned(), value: None });
            Ok(())
        })
    }

    fn write(&self, _: &WriteIntent<'_>, file: &SimFile, data: &[u8], offset: u64) -> io::Result<usize> {
        if !file.mode.write {
            return Err(errno(libc::EBADF));
        }
        let late = self.change(Call::Write, |disk| {
            disk.check_overwritable(file.node.id(), offset, data.len() as u64)?;
            let changes = written(file.node.id(), data, offset);
            if self.flaw == Flaw::WritesLate {
                return Ok(Some(changes));
            }
            changes.into_iter().for_each(|change| disk.apply(change));
            Ok(None)
        })?;
        self.late.lock().extend(late.into_iter().flatten());
        self.bytes_written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(data.len())
    }

    fn fallocate(
        &self,
        _: &WriteIntent<'_>,
        file: &SimFile,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> io::Result<()> {
        self.change(Call::Fallocate, |disk| {
            let id = file.node.id();
            let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
            let kind = mode & !libc::FALLOC_FL_KEEP_SIZE;
            if kind == libc::FALLOC_FL_PUNCH_HOLE && keep {
                disk.apply(Change::Punch { id, offset, len });
                return Ok(());
            }
            if kind != 0 && kind != libc::FALLOC_FL_ZERO_RANGE {
                return Err(errno(libc::EOPNOTSUPP));
            }
            if !keep {
                disk.apply(Change::Grow { id, size: offset + len });
            }
            if kind == libc::FALLOC_FL_ZERO_RANGE {
                disk.apply(Change::Punch { id, offset, len });
            }
            disk.apply(Change::Allocate { id, offset, len });
            Ok(())
        })
    }

    fn copy_range(
        &self,
        _: &WriteIntent<'_>,
        from: (&SimFile, u64),
        to: (&SimFile, u64),
        len: u64,
    ) -> io::Result<usize> {
        self.change(Call::Write, |disk| {
            let mut data = vec![0; len as usize];
            disk.check_readable(from.0.node.id(), from.1, len)?;
            disk.check_overwritable(to.0.node.id(), to.1, len)?;
            let content = object(disk.live(), from.0.node.id())?.content().ok_or(errno(libc::EINVAL))?;
            let len = content.get(from.1, &mut data);
            data.truncate(len);
            written(to.0.node.id(), &data, to.1).into_iter().for_each(|change| disk.apply(change));
            Ok(data.len())
        })
    }

    fn sync_file(&self, file: &SimFile, _data_only: bool) -> io::Result<()> {
        self.sync_node(&file.node)
    }

    fn sync_node(&self, node: &SimNode) -> io::Result<()> {
        self.change(Call::Sync, |disk| {
            if self.flaw != Flaw::NeverSyncs {
                disk.sync(node.id());
            }
            Ok(())
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.change(Call::Sync, |disk| {
            match self.flaw {
                Flaw::NeverSyncs | Flaw::ClearsUnsynced => {}
                Flaw::ClearsEarly => {
                    let before = self.asked.swap(disk.logged(), Ordering::Relaxed);
                    disk.sync_before(before);
                }
                _ => disk.sync_all(),
            }
            Ok(())
        })
    }
}
