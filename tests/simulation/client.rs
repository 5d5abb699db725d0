//! A client of the mirror that does what chance says, sees to it that it reads what it must, and
//! keeps its history.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use mirrorfs::inode::{Fh, Ino};
use mirrorfs::legs::{Creator, Kind, Make, RenameMode, Timestamp};
use mirrorfs::ops::{Caller, Mirror, MirrorState, SetAttr, SetTime};
use mirrorfs::sim::rng::Rng;
use mirrorfs::sync::{Mutex, MutexGuard, Rank};

use crate::check::uniform;
use crate::model::{GRAIN, History, ObjectId, Op, Tag, grains};
use crate::shared::SharedFiles;
use crate::world::TestLeg;

/// Directories that all clients use; they stay.
pub const SHARED_DIRS: [&str; 4] = ["", "/d0", "/d1", "/d2"];
/// Files that all clients write to; they keep their length.
pub const SHARED_FILES: [&str; 2] = ["/s0", "/d0/s1"];
/// Grains of a shared file: into the second chunk.
pub const SHARED_GRAINS: u64 = CHUNK_GRAINS + 64;
const CHUNK_GRAINS: u64 = 65_536 / GRAIN;

pub const CREATOR: Creator = Creator { uid: 0, gid: 0, umask: 0 };
pub const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0, pid: 1 };

/// What outlives the mounts.
pub struct Memory {
    pub histories: Vec<Mutex<History>>,
    pub shared: Mutex<SharedFiles>,
    tags: Mutex<Tag>,
}

impl Memory {
    pub fn new(clients: usize) -> Memory {
        let shared = (0..SHARED_FILES.len()).map(|file| (file, Default::default())).collect();
        Memory {
            histories: (0..clients).map(|_| Mutex::new(Rank::Leaf, History::default())).collect(),
            shared: Mutex::new(Rank::Leaf, shared),
            tags: Mutex::new(Rank::Leaf, 0),
        }
    }

    fn new_tag(&self) -> Tag {
        let mut tags = self.tags.lock();
        *tags += 1;
        *tags
    }
}

/// The bytes of a write.
pub fn filled(tag: Tag, len: u64) -> Vec<u8> {
    tag.to_le_bytes().repeat(len as usize / 8)
}

/// What clients do most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    Everything,
    /// Only what concerns the files that all write to.
    SharedFiles,
    /// Names made and moved between directories.
    Renames,
    /// Names taken away and given to new objects, whose times tell nothing.
    Renewals,
}

/// One client during one mount.
pub struct Client {
    pub mix: Mix,
    pub number: usize,
    pub mirror: Arc<Mirror<TestLeg>>,
    pub memory: Arc<Memory>,
    pub rng: Rng,
    /// Files it has open, also without a name.
    open: Vec<(ObjectId, Fh)>,
}

/// Whether a client goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Go {
    On,
    /// The mirror takes no more changes.
    Home,
}

impl Client {
    pub fn new(
        number: usize,
        mirror: Arc<Mirror<TestLeg>>,
        memory: Arc<Memory>,
        mix: Mix,
        rng: Rng,
    ) -> Client {
        Client { mix, number, mirror, memory, rng, open: Vec::new() }
    }

    /// Does `operations` things, then closes its files.
    pub fn work(mut self, operations: usize) {
        for _ in 0..operations {
            if self.act() == Go::Home {
                break;
            }
        }
        self.open.drain(..).for_each(|(_, fh)| self.mirror.release(fh));
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.memory.histories[self.number].lock()
    }

    fn act(&mut self) -> Go {
        let what = match self.mix {
            Mix::Everything => self.rng.below(32),
            Mix::SharedFiles => 25 + self.rng.below(5),
            Mix::Renames => *self.rng.pick(&[4, 10, 10]),
            Mix::Renewals => *self.rng.pick(&[0, 4, 7, 9, 10, 10, 13, 17, 30, 32, 32, 32, 32]),
        };
        match what {
            0..=3 => self.create_file(),
            4 => self.make(Kind::Directory),
            5 => self.make(Kind::Symlink),
            6 => self.make(Kind::Fifo),
            7 => self.link(),
            8..=9 => self.remove(),
            10..=12 => self.rename(),
            13 => self.exchange(),
            14..=15 => self.attributes(),
            16 => self.resize(),
            17..=19 => self.write(),
            20 => self.punch(),
            21..=22 => self.read(),
            23..=24 => self.sync(),
            25..=26 => self.write_shared(),
            27..=28 => self.read_shared(),
            29 => self.sync_shared(),
            30 => self.list(),
            32 => self.renew(),
            _ => self.close(),
        }
    }

    /// Does one operation and keeps it in the history.
    fn perform(&mut self, op: Op, call: impl FnOnce(&mut Self) -> io::Result<()>) -> Go {
        self.history().begin(op.clone());
        match call(self) {
            Ok(()) => self.history().acknowledge(),
            Err(error) => return self.failed(&op, &error),
        }
        Go::On
    }

    fn failed(&mut self, op: &Op, error: &io::Error) -> Go {
        match error.raw_os_error() {
            // What could not be undone stays for the next mount.
            Some(libc::ENOSPC | libc::EDQUOT) if self.mirror.state() == MirrorState::ReadOnly => Go::Home,
            // A leg had no room: nothing was done (P10).
            Some(libc::ENOSPC | libc::EDQUOT) => {
                self.history().take_back();
                Go::On
            }
            // The mirror has turned read-only, or was stopped before changes were let in.
            Some(libc::EROFS) => {
                self.history().take_back();
                Go::Home
            }
            Some(libc::EIO) => Go::Home,
            Some(libc::ENODEV | libc::ESTALE) if op.file().is_some_and(|id| self.is_nameless(id)) => {
                self.history().take_back();
                Go::On
            }
            _ => panic!("client {}: {op:?}: {error}", self.number),
        }
    }

    /// Whether a file lives on only because it is open: it never comes to a leg that is taken in, and its errors are
    /// that one's once the other is gone.
    fn is_nameless(&self, id: ObjectId) -> bool {
        !self.history().now().names.values().any(|named| *named == id)
    }

    /// Runs `call` with what the path names, as the kernel would: by lookups that are forgotten later.
    fn with<T>(&self, path: &str, call: impl FnOnce(Ino) -> io::Result<T>) -> io::Result<T> {
        let mut looked_up = Vec::new();
        let mut at = Ino::ROOT;
        let mut result = Ok(());
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.mirror.lookup(at, OsStr::new(name)) {
                Ok(found) => {
                    at = found.attr.ino;
                    looked_up.push(at);
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let result = result.and_then(|()| call(at));
        looked_up.into_iter().for_each(|ino| self.mirror.forget(ino, 1));
        result
    }

    /// The same with the directory that a path lies in, and the path's last name.
    fn within<T>(&self, path: &str, call: impl FnOnce(Ino, &OsStr) -> io::Result<T>) -> io::Result<T> {
        let (dir, name) = path.rsplit_once('/').expect("paths begin with a slash");
        self.with(dir, |dir| call(dir, OsStr::new(name)))
    }

    /// A path that is free, in a directory that is there.
    fn free_path(&mut self) -> Option<String> {
        let dirs = self.directories();
        let dir = self.rng.pick(&dirs).clone();
        let path = format!("{dir}/c{}-{}", self.number, self.rng.below(8));
        (!self.history().now().names.contains_key(&path)).then_some(path)
    }

    /// A path that is free, in the directory that `path` lies in.
    fn free_sibling(&mut self, path: &str) -> Option<String> {
        let (dir, _) = path.rsplit_once('/').expect("paths begin with a slash");
        let path = format!("{dir}/c{}-{}", self.number, self.rng.below(8));
        (!self.history().now().names.contains_key(&path)).then_some(path)
    }

    fn directories(&self) -> Vec<String> {
        let shared = SHARED_DIRS.map(String::from);
        shared.into_iter().chain(self.paths(|kind| kind == Kind::Directory)).collect()
    }

    fn paths(&self, wanted: impl Fn(Kind) -> bool) -> Vec<String> {
        let history = self.history();
        let state = history.now();
        state
            .names
            .iter()
            .filter(|(_, id)| wanted(state.objects[id].kind))
            .map(|(path, _)| path.clone())
            .collect()
    }

    fn any_path(&mut self, wanted: impl Fn(Kind) -> bool) -> Option<(String, ObjectId)> {
        let paths = self.paths(wanted);
        let path = if paths.is_empty() { return None } else { self.rng.pick(&paths).clone() };
        let id = self.history().now().names[&path];
        Some((path, id))
    }

    fn mode(&mut self) -> u32 {
        *self.rng.pick(&[0o644, 0o600, 0o755, 0o4755])
    }

    fn create_file(&mut self) -> Go {
        let Some(path) = self.free_path() else { return Go::On };
        let mode = self.mode();
        let id = self.history().new_id();
        let op = Op::Make { path: path.clone(), id, kind: Kind::File, mode, target: String::new() };
        self.perform(op, |this| {
            let (found, fh) =
                this.within(&path, |dir, name| this.mirror.create(dir, name, mode, CREATOR, libc::O_RDWR))?;
            this.mirror.forget(found.attr.ino, 1);
            this.open.push((id, fh));
            Ok(())
        })
    }

    fn make(&mut self, kind: Kind) -> Go {
        match self.free_path() {
            Some(path) => self.make_at(path, kind),
            None => Go::On,
        }
    }

    fn make_at(&mut self, path: String, kind: Kind) -> Go {
        let mode = self.mode() & 0o777;
        let id = self.history().new_id();
        let target = if kind == Kind::Symlink { format!("to-{id}") } else { String::new() };
        let op = Op::Make { path: path.clone(), id, kind, mode, target: target.clone() };
        self.perform(op, |this| {
            let what = match kind {
                Kind::Directory => Make::Directory { mode },
                Kind::Symlink => Make::Symlink { target: OsStr::new(&target) },
                Kind::File => Make::File { mode },
                kind => Make::Special { kind, mode, rdev: 0 },
            };
            let found = this.within(&path, |dir, name| this.mirror.make(dir, name, what, CREATOR))?;
            this.mirror.forget(found.attr.ino, 1);
            Ok(())
        })
    }

    fn link(&mut self) -> Go {
        let Some((from, id)) = self.any_path(|kind| kind != Kind::Directory) else { return Go::On };
        let Some(path) = self.free_path() else { return Go::On };
        self.perform(Op::Link { id, path: path.clone() }, |this| {
            let found =
                this.with(&from, |ino| this.within(&path, |dir, name| this.mirror.link(ino, dir, name)))?;
            this.mirror.forget(found.attr.ino, 1);
            Ok(())
        })
    }

    fn remove(&mut self) -> Go {
        let Some((path, id)) = self.any_path(|_| true) else { return Go::On };
        let is_dir = self.history().now().objects[&id].kind == Kind::Directory;
        if is_dir && self.has_entries(&path) {
            let refused = self.within(&path, |dir, name| self.mirror.rmdir(dir, name));
            return self.expect(refused, libc::ENOTEMPTY);
        }
        self.perform(Op::Remove { path: path.clone() }, |this| {
            this.within(&path, |dir, name| match is_dir {
                true => this.mirror.rmdir(dir, name),
                false => this.mirror.unlink(dir, name),
            })
        })
    }

    /// Something new gets the name of something old: a file of the same length and times, or a directory with
    /// something in it.
    fn renew(&mut self) -> Go {
        let kind = *self.rng.pick(&[Kind::File, Kind::Directory]);
        let path = self.any_path(|found| found == kind).map(|(path, _)| path);
        let old = path.filter(|path| !self.has_entries(path));
        if let Some(path) = &old {
            let removed = self.perform(Op::Remove { path: path.clone() }, |this| {
                this.within(path, |dir, name| match kind {
                    Kind::Directory => this.mirror.rmdir(dir, name),
                    _ => this.mirror.unlink(dir, name),
                })
            });
            if removed == Go::Home {
                return removed;
            }
        }
        let Some(path) = old.or_else(|| self.free_path()) else { return Go::On };
        match kind {
            Kind::File => self.timeless_file(path),
            _ => match self.make_at(path.clone(), kind) {
                Go::On => self.timeless_file(format!("{path}/c{}-0", self.number)),
                home => home,
            },
        }
    }

    /// A file of one grain, with a time that all such files have.
    fn timeless_file(&mut self, path: String) -> Go {
        if self.make_at(path.clone(), Kind::File) == Go::Home {
            return Go::Home;
        }
        let id = self.history().now().names[&path];
        let tag = self.memory.new_tag();
        let op = Op::Write { id, offset: 0, len: GRAIN, tag };
        let written = self.perform(op, |this| {
            this.with(&path, |ino| {
                let fh = this.mirror.open(ino, libc::O_RDWR, ROOT_CALLER)?;
                let written = this.mirror.write(fh, &filled(tag, GRAIN), 0, false);
                this.mirror.release(fh);
                written.map(drop)
            })
        });
        if written == Go::Home {
            return written;
        }
        let time = Some(SetTime::At(Timestamp { secs: 7, nanos: 0 }));
        let set = SetAttr { atime: time, mtime: time, ..SetAttr::default() };
        let set = self.with(&path, |ino| self.mirror.setattr(ino, &set, None, ROOT_CALLER).map(drop));
        self.unless_read_only(set)
    }

    fn has_entries(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.history().now().names.keys().any(|name| name.starts_with(&below))
    }

    /// The call must have been refused with this errno.
    fn expect<T>(&self, result: io::Result<T>, errno: i32) -> Go {
        let error = result.err().and_then(|error| error.raw_os_error());
        match error {
            Some(libc::EROFS | libc::EIO) => Go::Home,
            _ if error == Some(errno) => Go::On,
            _ => panic!("client {}: wanted errno {errno}, got {error:?}", self.number),
        }
    }

    fn rename(&mut self) -> Go {
        let Some((from, id)) = self.any_path(|_| true) else { return Go::On };
        let is_dir = self.history().now().objects[&id].kind == Kind::Directory;
        let over = self.rng.one_in(3);
        let to = if over {
            self.any_path(|kind| (kind == Kind::Directory) == is_dir).map(|(path, _)| path)
        } else if self.rng.one_in(2) {
            self.free_sibling(&from)
        } else {
            self.free_path()
        };
        let Some(to) = to else { return Go::On };
        if is_dir && over && from != to && self.has_entries(&to)
            || to.starts_with(&format!("{from}/"))
            || from.starts_with(&format!("{to}/"))
        {
            return Go::On;
        }
        let op = Op::Rename { from: from.clone(), to: to.clone() };
        self.perform(op, |this| this.rename_as(&from, &to, RenameMode::Replace))
    }

    fn exchange(&mut self) -> Go {
        let (Some((from, _)), Some((to, _))) = (self.any_path(|_| true), self.any_path(|_| true)) else {
            return Go::On;
        };
        if from == to || to.starts_with(&format!("{from}/")) || from.starts_with(&format!("{to}/")) {
            return Go::On;
        }
        let op = Op::Exchange { from: from.clone(), to: to.clone() };
        self.perform(op, |this| this.rename_as(&from, &to, RenameMode::Exchange))
    }

    fn rename_as(&self, from: &str, to: &str, mode: RenameMode) -> io::Result<()> {
        self.within(from, |dir, name| {
            self.within(to, |new_dir, new_name| self.mirror.rename(dir, name, new_dir, new_name, mode))
        })
    }

    fn attributes(&mut self) -> Go {
        let Some((path, id)) = self.any_path(|kind| kind != Kind::Symlink) else { return Go::On };
        match self.rng.below(3) {
            0 => {
                let mode = self.mode();
                self.set(&path, Op::Mode { id, mode }, SetAttr { mode: Some(mode), ..SetAttr::default() })
            }
            1 => {
                let uid = self.rng.below(3) as u32;
                self.set(&path, Op::Owner { id, uid }, SetAttr { uid: Some(uid), ..SetAttr::default() })
            }
            _ => {
                let name = format!("user.{}", self.rng.below(2));
                let known = self.history().now().objects[&id].xattrs.contains_key(&name);
                let value = (!known || self.rng.one_in(2)).then(|| self.rng.below(100).to_string());
                self.perform(Op::Xattr { id, name: name.clone(), value: value.clone() }, |this| {
                    this.with(&path, |ino| match &value {
                        Some(value) => {
                            this.mirror.setxattr(ino, OsStr::new(&name), value.as_bytes(), 0, |_| true)
                        }
                        None => this.mirror.removexattr(ino, OsStr::new(&name)),
                    })
                })
            }
        }
    }

    fn set(&mut self, path: &str, op: Op, set: SetAttr) -> Go {
        self.perform(op, |this| {
            this.with(path, |ino| this.mirror.setattr(ino, &set, None, ROOT_CALLER).map(|_| ()))
        })
    }

    fn resize(&mut self) -> Go {
        let Some((path, id)) = self.any_path(|kind| kind == Kind::File) else { return Go::On };
        let size = self.grain() * GRAIN;
        self.set(&path, Op::Size { id, size }, SetAttr { size: Some(size), ..SetAttr::default() })
    }

    /// A place in a file: near its start, or near the start of its second or third chunk.
    fn grain(&mut self) -> u64 {
        let around = *self.rng.pick(&[0, 0, CHUNK_GRAINS - 4, 2 * CHUNK_GRAINS - 4]);
        around + self.rng.below(10)
    }

    /// An open file, perhaps without a name; opened now if none is.
    fn any_open(&mut self) -> io::Result<Option<(ObjectId, Fh)>> {
        if !self.open.is_empty() && !self.rng.one_in(3) {
            return Ok(Some(*self.rng.pick(&self.open)));
        }
        let Some((path, id)) = self.any_path(|kind| kind == Kind::File) else { return Ok(None) };
        let fh = self.with(&path, |ino| self.mirror.open(ino, libc::O_RDWR, ROOT_CALLER))?;
        self.open.push((id, fh));
        Ok(Some((id, fh)))
    }

    fn opened(&mut self) -> Result<(ObjectId, Fh), Go> {
        match self.any_open() {
            Ok(Some(open)) => Ok(open),
            Ok(None) => Err(Go::On),
            Err(error) => match error.raw_os_error() {
                Some(libc::EROFS | libc::EIO) => Err(Go::Home),
                _ => panic!("client {}: open: {error}", self.number),
            },
        }
    }

    fn write(&mut self) -> Go {
        let (id, fh) = match self.opened() {
            Ok(open) => open,
            Err(go) => return go,
        };
        let (offset, len) = (self.grain() * GRAIN, (1 + self.rng.below(9)) * GRAIN);
        let tag = self.memory.new_tag();
        self.perform(Op::Write { id, offset, len, tag }, |this| {
            let written = this.mirror.write(fh, &filled(tag, len), offset, false)?;
            assert_eq!(written as u64, len, "a short write without a reason");
            Ok(())
        })
    }

    fn punch(&mut self) -> Go {
        let (id, fh) = match self.opened() {
            Ok(open) => open,
            Err(go) => return go,
        };
        let (offset, len) = (self.grain() * GRAIN, (1 + self.rng.below(20)) * GRAIN);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.perform(Op::Punch { id, offset, len }, |this| {
            this.mirror.fallocate(fh, mode, offset, len, false)
        })
    }

    /// What is read must be what was written last.
    fn read(&mut self) -> Go {
        let (id, fh) = match self.opened() {
            Ok(open) => open,
            Err(go) => return go,
        };
        let first = self.grain();
        let mut data = vec![0xff; 12 * GRAIN as usize];
        let read = match self.mirror.read(fh, &mut data, first * GRAIN) {
            Ok(read) => read,
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) && self.is_nameless(id) => {
                return Go::On;
            }
            Err(error) => return self.expect::<()>(Err(error), libc::EIO),
        };
        let history = self.history();
        let object = &history.now().objects[&id];
        let wanted = object.size.saturating_sub(first * GRAIN).min(data.len() as u64);
        assert_eq!(read as u64, wanted, "client {}: length read of {id}", self.number);
        for (grain, bytes) in (first..).zip(data[..read].chunks(GRAIN as usize)) {
            let wanted = object.grains.get(&grain).copied().unwrap_or(0);
            assert_eq!(uniform(bytes), Some(wanted), "client {}: grain {grain} of {id}", self.number);
        }
        Go::On
    }

    fn sync(&mut self) -> Go {
        if self.rng.one_in(3) {
            let dirs = self.directories();
            let dir = self.rng.pick(&dirs).clone();
            let upto = self.history().before_sync();
            let synced = self.with(&dir, |ino| self.mirror.fsyncdir(ino));
            return self.after_sync(synced, None, upto);
        }
        let (id, fh) = match self.opened() {
            Ok(open) => open,
            Err(go) => return go,
        };
        let upto = self.history().before_sync();
        let synced = self.mirror.fsync(fh, self.rng.one_in(2));
        self.after_sync(synced, Some(id), upto)
    }

    fn after_sync(&mut self, synced: io::Result<()>, id: Option<ObjectId>, upto: usize) -> Go {
        match synced {
            Ok(()) => self.history().synced(id, upto),
            Err(_) if id.is_some_and(|id| self.is_nameless(id)) => {}
            Err(error) => return self.expect::<()>(Err(error), libc::EIO),
        }
        Go::On
    }

    fn with_shared<T>(
        &mut self,
        flags: i32,
        call: impl FnOnce(&mut Self, usize, Fh) -> io::Result<T>,
    ) -> io::Result<T> {
        let file = self.rng.below(SHARED_FILES.len() as u64) as usize;
        let fh = self.with(SHARED_FILES[file], |ino| self.mirror.open(ino, flags, ROOT_CALLER))?;
        let result = call(self, file, fh);
        self.mirror.release(fh);
        result
    }

    fn shared_grain(&mut self) -> u64 {
        *self.rng.pick(&[0, CHUNK_GRAINS - 6]) + self.rng.below(6)
    }

    fn write_shared(&mut self) -> Go {
        let (offset, len) = (self.shared_grain() * GRAIN, (1 + self.rng.below(8)) * GRAIN);
        let tag = self.memory.new_tag();
        let written = self.with_shared(libc::O_RDWR, |this, file, fh| {
            this.memory.shared.lock().entry(file).or_default().begin(tag, offset, len);
            let written = this.mirror.write(fh, &filled(tag, len), offset, false)?;
            assert_eq!(written as u64, len, "a short write without a reason");
            this.memory.shared.lock().entry(file).or_default().acknowledge(tag);
            Ok(())
        });
        self.unless_read_only(written)
    }

    fn unless_read_only(&self, result: io::Result<()>) -> Go {
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) | Err(Some(libc::ENOSPC | libc::EDQUOT)) => Go::On,
            Err(Some(libc::EROFS | libc::EIO)) => Go::Home,
            Err(_) => panic!("client {}: {result:?}", self.number),
        }
    }

    fn read_shared(&mut self) -> Go {
        let first = self.shared_grain();
        let mut data = vec![0; 4 * GRAIN as usize];
        let read = self.with_shared(libc::O_RDONLY, |this, file, fh| {
            let since = this.memory.shared.lock().entry(file).or_default().tick();
            let read = this.mirror.read(fh, &mut data, first * GRAIN)?;
            assert_eq!(read, data.len(), "a shared file keeps its length");
            let mut shared = this.memory.shared.lock();
            for (grain, bytes) in grains(first * GRAIN, data.len() as u64).zip(data.chunks(GRAIN as usize)) {
                let allowed = shared.entry(file).or_default().readable(grain, since);
                let tag = uniform(bytes);
                let fine = tag.is_some_and(|tag| allowed.contains(&tag));
                assert!(
                    fine,
                    "grain {grain} of {} read as {tag:?}, not one of {allowed:?}",
                    SHARED_FILES[file]
                );
            }
            Ok(())
        });
        self.unless_read_only(read)
    }

    fn sync_shared(&mut self) -> Go {
        let synced = self.with_shared(libc::O_RDWR, |this, file, fh| {
            let began = this.memory.shared.lock().entry(file).or_default().tick();
            this.mirror.fsync(fh, true)?;
            this.memory.shared.lock().entry(file).or_default().synced(began);
            Ok(())
        });
        self.unless_read_only(synced)
    }

    /// A directory lists this client's names in it, and all of them.
    fn list(&mut self) -> Go {
        let dirs = self.directories();
        let dir = self.rng.pick(&dirs).clone();
        let mut seen = Vec::new();
        let prefix = format!("c{}-", self.number);
        let listed = self.with(&dir, |ino| {
            self.mirror.readdir(ino, 0, &mut |item| {
                seen.push(item.name.to_string_lossy().into_owned());
                false
            })
        });
        if let Err(error) = listed {
            return self.expect::<()>(Err(error), libc::EIO);
        }
        assert!(!seen.iter().any(|name| name == ".mirrorfs"), "the state directory is listed");
        seen.retain(|name| name.starts_with(&prefix));
        seen.sort();
        let wanted: Vec<String> = {
            let history = self.history();
            let names = history.now().names.keys();
            names
                .filter_map(|path| path.rsplit_once('/').filter(|(at, _)| *at == dir))
                .map(|(_, name)| name.into())
                .collect()
        };
        assert_eq!(seen, wanted, "client {}: names in {dir:?}", self.number);
        Go::On
    }

    fn close(&mut self) -> Go {
        if !self.open.is_empty() {
            let at = self.rng.below(self.open.len() as u64) as usize;
            self.mirror.release(self.open.swap_remove(at).1);
        }
        Go::On
    }
}
