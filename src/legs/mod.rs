//! The two backing directories, and the trait through which everything else sees one.
//!
//! A [`Leg`] does to one directory what the mirror asks, and reports what the directory answered.
//! It decides nothing: which leg to read, what two answers mean and what to mark are the mirror's
//! business. What changes a leg takes a [`WriteIntent`], the proof that the bits covering the
//! change are durable (O1): data cannot overtake its bit because such a call does not compile.

#[cfg(feature = "simulation")]
pub mod simulated;

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::ops::{Index, IndexMut};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use crate::bitmap::WriteIntent;

pub mod by_place;
pub mod directory;
pub mod keeps;
pub mod timed;

pub use by_place::ByPlace;
pub use directory::DirectoryLeg;
pub use keeps::Keeps;
pub use timed::Timed;

/// Which leg. The only thing that can index a [`PerLeg`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LegId {
    /// The first directory named at creation; preferred as the source.
    A,
    /// The second.
    B,
}

impl LegId {
    /// Both, in their order.
    pub const ALL: [LegId; 2] = [LegId::A, LegId::B];

    /// The one that this one is not.
    pub fn other(self) -> LegId {
        match self {
            LegId::A => LegId::B,
            LegId::B => LegId::A,
        }
    }
}

impl std::fmt::Display for LegId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LegId::A => "A",
            LegId::B => "B",
        })
    }
}

/// One value per leg. Only a [`LegId`] can index it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PerLeg<T>([T; 2]);

impl<T> PerLeg<T> {
    /// The value for A, then the value for B.
    pub fn new(a: T, b: T) -> Self {
        PerLeg([a, b])
    }

    /// One value each, made by `make`, A first.
    pub fn from_fn(mut make: impl FnMut(LegId) -> T) -> Self {
        let a = make(LegId::A);
        PerLeg([a, make(LegId::B)])
    }

    /// Both values changed by `change`, A first.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> PerLeg<U> {
        PerLeg(self.0.map(change))
    }

    /// References to both values.
    pub fn as_ref(&self) -> PerLeg<&T> {
        PerLeg([&self.0[0], &self.0[1]])
    }

    /// Both with the leg each belongs to, A first.
    pub fn iter(&self) -> impl Iterator<Item = (LegId, &T)> {
        LegId::ALL.into_iter().zip(self.0.iter())
    }
}

impl<T, E> PerLeg<Result<T, E>> {
    /// Both values, or the first error.
    pub fn transpose(self) -> Result<PerLeg<T>, E> {
        let [a, b] = self.0;
        Ok(PerLeg([a?, b?]))
    }
}

impl<T> Index<LegId> for PerLeg<T> {
    type Output = T;
    fn index(&self, leg: LegId) -> &T {
        &self.0[leg as usize]
    }
}

impl<T> IndexMut<LegId> for PerLeg<T> {
    fn index_mut(&mut self, leg: LegId) -> &mut T {
        &mut self.0[leg as usize]
    }
}

/// The longest file handle that is kept, in bytes: ext4 needs 8, xfs 12, btrfs 20, tmpfs 12. An
/// object with a longer one is found by its inode number.
pub const HANDLE_MAX: usize = 40;

/// The type of [`Handle::of_birth`]: the kernel's types are 0 to 255.
const BIRTH: i32 = -1;
/// The types of [`Identity::at_place`]: certain, and not.
const PLACE: i32 = -2;
const PERHAPS_PLACE: i32 = -3;

/// A file handle as name_to_handle_at(2) gives it: names one inode of one filesystem for good, also
/// when its number has been used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    kind: i32,
    len: u8,
    bytes: [u8; HANDLE_MAX],
}

impl Handle {
    /// From the kernel's type and bytes; `None` if there are more than [`HANDLE_MAX`].
    pub fn new(kind: i32, bytes: &[u8]) -> Option<Handle> {
        let mut kept = [0; HANDLE_MAX];
        kept.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Handle { kind, len: bytes.len() as u8, bytes: kept })
    }

    /// What stands for a handle where the daemon may not use them or the filesystem has none: the birth
    /// time. Opens nothing, but tells apart objects that had one inode number in turn.
    pub fn of_birth(btime: Timestamp) -> Handle {
        let mut bytes = [0; HANDLE_MAX];
        bytes[..8].copy_from_slice(&btime.secs.to_le_bytes());
        bytes[8..12].copy_from_slice(&btime.nanos.to_le_bytes());
        Handle { kind: BIRTH, len: 12, bytes }
    }

    /// Whether an object can be opened by it.
    pub fn opens(&self) -> bool {
        self.kind >= 0
    }

    /// The kernel's `handle_type`.
    pub fn kind(&self) -> i32 {
        self.kind
    }

    /// The kernel's `f_handle`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What names an object on one leg, now and after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Inode number on that leg's filesystem.
    pub ino: u64,
    /// The handle, where the filesystem has them and the daemon may use them; else the birth time, where
    /// there is one.
    pub handle: Option<Handle>,
}

impl Identity {
    /// Of an object on a leg that could not be asked for it.
    pub const UNKNOWN: Identity = Identity { ino: 0, handle: None };

    /// Whether the object can be opened without looking for it.
    pub fn opens(&self) -> bool {
        self.handle.is_some_and(|handle| handle.opens())
    }

    /// Whether both name one object of a leg. What only one of them knows does not count against it: the other
    /// may be from a mount that had not the privilege to ask for it.
    pub fn is_same(&self, other: &Identity) -> bool {
        let (mine, theirs) = (self.handle, other.handle);
        let unlike_forms = mine.is_none() || theirs.is_none() || self.opens() != other.opens();
        let names_one = self.is_known() && other.is_known() && self.ino == other.ino;
        self == other || (names_one && unlike_forms)
    }

    /// Of two that name one object the one that tells more: a handle, else a birth.
    pub fn stronger(self, other: Identity) -> Identity {
        let strength = |identity: &Identity| (identity.opens(), identity.handle.is_some());
        if strength(&other) > strength(&self) { other } else { self }
    }

    /// Whether it names an object of its leg, and not only a place or nothing.
    pub fn is_known(&self) -> bool {
        *self != Identity::UNKNOWN && self.place().is_none()
    }

    /// What stands for the identity on a leg that is away: where the leg has the object; unless it is
    /// `certain`, it may have another one there, or none. `dir` is the directory as the *other* leg calls
    /// it. [`UNKNOWN`](Self::UNKNOWN) if that does not fit.
    ///
    /// Handle bytes: 8 of the name's hash, 4 of the type of the directory's handle, then that handle.
    pub fn at_place(dir: &Identity, name: &OsStr, certain: bool) -> Identity {
        let mut bytes = name_hash(name).to_le_bytes().to_vec();
        if let Some(handle) = &dir.handle {
            bytes.extend(handle.kind.to_le_bytes());
            bytes.extend(handle.bytes());
        }
        match Handle::new(if certain { PLACE } else { PERHAPS_PLACE }, &bytes) {
            Some(handle) => Identity { ino: dir.ino, handle: Some(handle) },
            None => Identity::UNKNOWN,
        }
    }

    /// What stands for the identity of its root on a leg that is away; `root` is the other leg's.
    pub fn at_root(root: &Identity) -> Identity {
        Identity::at_place(root, OsStr::new(""), true)
    }

    /// Of [`at_place`](Self::at_place).
    pub fn place(&self) -> Option<Place> {
        let handle = self.handle.filter(|handle| [PLACE, PERHAPS_PLACE].contains(&handle.kind))?;
        let (hash, dir) = handle.bytes().split_first_chunk()?;
        let of_dir =
            dir.split_first_chunk().and_then(|(kind, rest)| Handle::new(i32::from_le_bytes(*kind), rest));
        Some(Place {
            dir: Identity { ino: self.ino, handle: of_dir },
            name_hash: u64::from_le_bytes(*hash),
            certain: handle.kind == PLACE,
        })
    }
}

/// Where a leg that is away has an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory, as the other leg calls it.
    pub dir: Identity,
    /// Of the name in it, see [`name_hash`].
    pub name_hash: u64,
    /// It is this object that is there.
    pub certain: bool,
}

/// FNV-1a of 64 bits: what stands for a name in [`Identity::at_place`]. On disk, so it never changes.
pub fn name_hash(name: &OsStr) -> u64 {
    name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A point in time as the filesystem keeps it. `nanos` counts forward from `secs`, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Attributes of an object on one leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Inode number on that leg.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission, suid, sgid and sticky bits: the lower twelve.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as makedev(3) makes it; 0 otherwise.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of I/O in bytes.
    pub blksize: u32,
    /// Last access, as the leg has it (the mirror does not raise it on reading).
    pub atime: Timestamp,
    /// Last change of data or entries.
    pub mtime: Timestamp,
    /// Last change of the inode. Cannot be set, so the legs' values differ.
    pub ctime: Timestamp,
    /// Birth, where the filesystem has it.
    pub btime: Option<Timestamp>,
}

/// Space and limits of a leg's filesystem. Sizes are in units of `frsize` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Statfs {
    pub frsize: u64,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub namelen: u64,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; never `.` or `..`.
    pub name: OsString,
    /// Inode number on that leg.
    pub ino: u64,
    /// What it names.
    pub kind: Kind,
}

/// On whose behalf an object is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Owner of what is made.
    pub uid: u32,
    /// Group of what is made, unless the directory passes its own on (sgid, bsdgroups).
    pub gid: u32,
    /// Bits to leave out of the mode, unless the directory has a default ACL.
    pub umask: u32,
}

/// What to make, apart from regular files, which [`Leg::create`] makes and opens in one.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Make<'a> {
    File {
        mode: u32,
    },
    Directory {
        mode: u32,
    },
    Symlink {
        target: &'a OsStr,
    },
    /// A fifo, socket or device node; `rdev` as in [`Stat::rdev`].
    Special {
        kind: Kind,
        mode: u32,
        rdev: u64,
    },
}

/// How an open file will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// [`Leg::read`] will be called.
    pub read: bool,
    /// [`Leg::write`] will be called.
    pub write: bool,
    /// Bypass the leg's page cache where it can be (O_DIRECT); buffers and offsets need not be
    /// aligned: what is not goes through the page cache.
    pub direct: bool,
}

/// What a rename does with an existing target: the three kinds renameat2(2) knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// The mirror's own directories under `.mirrorfs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// What recovery builds before it has its name (O7).
    Incoming,
    /// What lost its name on the target and may get another (O7).
    Parked,
    /// What lost in a split brain.
    Conflicts,
}

/// Where SEEK_HOLE or SEEK_DATA looks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Seek {
    Hole,
    Data,
}

/// One backing directory. All errors carry the raw errno of the call that failed.
///
/// Nothing reaches outside the leg: names are single components, `..`, symlinks and mount points
/// are never followed. Calls may come from many threads at once; the mirror's locks see to it that
/// changes of one object do not overlap.
pub trait Leg: Send + Sync + 'static {
    /// A pinned object of any kind: stays usable while it lives, also without a name.
    type Node: Clone + Send + Sync + 'static;
    /// A regular file opened for I/O.
    type File: Send + Sync + 'static;

    /// The leg's own directory.
    fn root(&self) -> Self::Node;

    /// One of the mirror's own directories on this leg.
    fn area(&self, area: Area) -> io::Result<Self::Node>;

    /// The object so named. ESTALE when it is gone. Without a handle the leg is walked for the inode
    /// number: slow, and only recovery asks for it.
    fn find(&self, identity: &Identity) -> io::Result<Self::Node>;

    /// Identity and attributes of a name, without pinning it. Never follows a symlink.
    fn lookup(&self, dir: &Self::Node, name: &OsStr) -> io::Result<(Identity, Stat)>;

    /// Pins what a name names. Never follows a symlink.
    fn child(&self, dir: &Self::Node, name: &OsStr) -> io::Result<Self::Node>;

    /// The directory in which a directory lies; ENOENT for the root and for a removed one.
    fn parent(&self, dir: &Self::Node) -> io::Result<Self::Node>;

    /// What names this object across a crash.
    fn identity(&self, node: &Self::Node) -> io::Result<Identity>;

    /// Attributes.
    fn stat(&self, node: &Self::Node) -> io::Result<Stat>;

    /// Attributes of an open file, also without a name.
    fn stat_file(&self, file: &Self::File) -> io::Result<Stat>;

    /// Target of a symlink.
    fn readlink(&self, node: &Self::Node) -> io::Result<OsString>;

    /// All names in a directory, in the leg's own order, without `.`, `..` and the leg's `.mirrorfs`.
    fn read_dir(&self, dir: &Self::Node) -> io::Result<Vec<Entry>>;

    /// Value of an extended attribute; ENODATA when there is none.
    fn get_xattr(&self, node: &Self::Node, name: &OsStr) -> io::Result<Vec<u8>>;

    /// Names of all extended attributes, sorted.
    fn list_xattr(&self, node: &Self::Node) -> io::Result<Vec<OsString>>;

    /// Space and limits.
    fn statfs(&self) -> io::Result<Statfs>;

    /// Whether what names an object now names it also after the leg's filesystem was mounted anew, and after the
    /// kernel has forgotten it. Where not, [`find`](Self::find) may miss what is there, and slots of an earlier
    /// mount tell nothing.
    fn identities_last(&self) -> bool;

    /// Finds out what the filesystem keeps, by trying it out beside the mirror's own files. Once, before use.
    fn measure(&self);

    /// What the filesystem keeps of what it is given.
    fn keeps(&self) -> Keeps;

    /// The birth time that an object made now would have; `None` where the filesystem has none. Makes
    /// nothing that stays.
    fn birth_now(&self) -> io::Result<Option<Timestamp>>;

    /// Opens a regular file. Changes nothing (no O_TRUNC).
    fn open(&self, node: &Self::Node, mode: OpenMode) -> io::Result<Self::File>;

    /// A descriptor of the file, for the kernel to read from; `None` where there is none.
    fn descriptor<'f>(&self, _file: &'f Self::File) -> Option<BorrowedFd<'f>> {
        None
    }

    /// Reads at `offset` until `buf` is full or the file ends; returns the bytes read.
    fn read(&self, file: &Self::File, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`read`](Self::read), from the medium: what is cached of it and clean is forgotten before. For
    /// data that has just been made durable.
    fn read_stored(&self, file: &Self::File, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The next hole or data at or after `offset`; ENXIO past the end.
    fn seek(&self, file: &Self::File, offset: u64, what: Seek) -> io::Result<u64>;

    /// Makes an object under a new name. EEXIST if the name is taken.
    fn make(
        &self,
        intent: &WriteIntent<'_>,
        dir: &Self::Node,
        name: &OsStr,
        what: Make<'_>,
        creator: Creator,
    ) -> io::Result<(Identity, Stat)>;

    /// Makes a regular file under a new name and opens it. EEXIST if the name is taken.
    fn create(
        &self,
        intent: &WriteIntent<'_>,
        dir: &Self::Node,
        name: &OsStr,
        mode: u32,
        creator: Creator,
        open: OpenMode,
    ) -> io::Result<(Identity, Stat, Self::File)>;

    /// Gives an object (not a directory) one more name.
    fn link(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        dir: &Self::Node,
        name: &OsStr,
    ) -> io::Result<()>;

    /// Takes a name away from what is not a directory.
    fn unlink(&self, intent: &WriteIntent<'_>, dir: &Self::Node, name: &OsStr) -> io::Result<()>;

    /// Takes an empty directory away.
    fn rmdir(&self, intent: &WriteIntent<'_>, dir: &Self::Node, name: &OsStr) -> io::Result<()>;

    /// Renames.
    fn rename(
        &self,
        intent: &WriteIntent<'_>,
        from: (&Self::Node, &OsStr),
        to: (&Self::Node, &OsStr),
        mode: RenameMode,
    ) -> io::Result<()>;

    /// Sets the lower twelve mode bits.
    fn set_mode(&self, intent: &WriteIntent<'_>, node: &Self::Node, mode: u32) -> io::Result<()>;

    /// Sets owner, group or both. Drops suid, sgid and capabilities as chown(2) does.
    fn set_owner(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()>;

    /// Sets access and modification time; `None` leaves one as it is.
    fn set_times(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        atime: Option<Timestamp>,
        mtime: Option<Timestamp>,
    ) -> io::Result<()>;

    /// Sets both times of what a name names; a symlink's own.
    fn set_times_of(
        &self,
        intent: &WriteIntent<'_>,
        dir: &Self::Node,
        name: &OsStr,
        atime: Timestamp,
        mtime: Timestamp,
    ) -> io::Result<()> {
        self.set_times(intent, &self.child(dir, name)?, Some(atime), Some(mtime))
    }

    /// Sets the length of a regular file.
    fn truncate(&self, intent: &WriteIntent<'_>, node: &Self::Node, size: u64) -> io::Result<()>;

    /// As [`truncate`](Self::truncate), by a descriptor that is open for writing: its right to write
    /// counts, not the file's mode now.
    fn truncate_file(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        _file: &Self::File,
        size: u64,
    ) -> io::Result<()> {
        self.truncate(intent, node, size)
    }

    /// Sets an extended attribute; `flags` as in setxattr(2).
    fn set_xattr(
        &self,
        intent: &WriteIntent<'_>,
        node: &Self::Node,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> io::Result<()>;

    /// Removes an extended attribute; ENODATA when there is none.
    fn remove_xattr(&self, intent: &WriteIntent<'_>, node: &Self::Node, name: &OsStr) -> io::Result<()>;

    /// Writes at `offset` as much as it can; returns the bytes written, an error only if none were.
    fn write(
        &self,
        intent: &WriteIntent<'_>,
        file: &Self::File,
        data: &[u8],
        offset: u64,
    ) -> io::Result<usize>;

    /// fallocate(2) with its `mode` bits.
    fn fallocate(
        &self,
        intent: &WriteIntent<'_>,
        file: &Self::File,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> io::Result<()>;

    /// copy_file_range(2) within this leg; returns the bytes copied, which may be fewer.
    fn copy_range(
        &self,
        intent: &WriteIntent<'_>,
        from: (&Self::File, u64),
        to: (&Self::File, u64),
        len: u64,
    ) -> io::Result<usize>;

    /// Makes an open file durable: its data and what is needed to read it; all its metadata too
    /// unless `data_only`.
    fn sync_file(&self, file: &Self::File, data_only: bool) -> io::Result<()>;

    /// Makes an object of any kind durable, a directory with its entries.
    fn sync_node(&self, node: &Self::Node) -> io::Result<()>;

    /// Makes everything on the leg durable (syncfs(2)).
    fn sync_all(&self) -> io::Result<()>;

    /// Asks the leg for something small that only a living one can answer; an error is an answer too.
    /// Returns when there is one.
    fn probe(&self) {
        let _ = self.statfs();
    }

    /// Whether it answers, where there is a limit to how long that may take.
    fn answers(&self) -> bool {
        true
    }

    /// While this is `wanted`, who waits for the leg is let go when it is given up, wherever it lies, at the price of
    /// handing each call over: for one on whom others wait.
    fn detach_callers(&self, _wanted: bool) {}

    /// The mirror goes on without this leg for good: a leg that can lets go of all who wait for it, and
    /// answers ENOTCONN from now on.
    fn give_up(&self) {}

    /// Whether it has been [given up](Self::give_up).
    fn is_given_up(&self) -> bool {
        false
    }
}
