//! Two legs, a bitmap, and just enough of a mirror to change them: it marks as the mirror does, and
//! then changes the legs it is told to.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use uuid::Uuid;

use crate::bitmap::{
    self, Bitmap, ChunkSize, Copies, CopyId, Expect, IdleSlot, Kinds, Markable, Needs, PageIndex, PageStore,
    Span, Want, WriteIntent,
};
use crate::legs::*;
use crate::resync::*;
use crate::sync::{Mutex, Rank};

pub const CHUNK: u64 = 64 << 10;
const SLOTS: u32 = 512;

/// The bitmap file, in memory.
#[derive(Clone)]
pub struct Medium(Arc<Mutex<Vec<u8>>>);

impl Medium {
    pub fn new() -> Medium {
        let image = Bitmap::create_image(Uuid::nil(), SLOTS, ChunkSize::MIN);
        Medium(Arc::new(Mutex::new(Rank::Leaf, image)))
    }

    pub fn open(&self) -> Bitmap {
        let copies = Copies::Single(Box::new(self.clone()));
        let loaded = copies.load(&Expect {
            mirror: Uuid::nil(),
            slots: SLOTS,
            chunk: ChunkSize::MIN,
            file: Uuid::nil(),
            stale: None,
        });
        Bitmap::new(copies, loaded, LegId::A).unwrap()
    }
}

impl PageStore for Medium {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().clone())
    }

    fn write(&self, page: PageIndex, bytes: &[u8]) -> io::Result<()> {
        let start = page.0 as usize * bitmap::PAGE_SIZE;
        self.0.lock()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A mirror that is in nobody's way.
pub struct Quiet;

impl bitmap::Host for Quiet {
    fn settle_and_sync(&self, _: &[IdleSlot]) -> io::Result<()> {
        Ok(())
    }

    fn copy_failed(&self, _: CopyId, error: &io::Error) -> io::Result<()> {
        panic!("a copy in memory failed: {error}");
    }
}

impl ResyncHost for Quiet {
    fn with_object(&self, _: &Identity, work: &mut dyn FnMut() -> io::Result<()>) -> io::Result<bool> {
        work().map(|()| true)
    }

    fn stop_requested(&self) -> bool {
        false
    }

    fn user_operations(&self) -> u64 {
        0
    }
}

pub struct World<L: Leg> {
    pub legs: PerLeg<Arc<L>>,
    pub bitmap: Bitmap,
    /// The legs that changes are done on.
    pub on: Vec<LegId>,
    /// What each object of the leg that is changed alone is on the other.
    partners: HashMap<Identity, Identity>,
}

struct Object {
    ids: PerLeg<Identity>,
    hint: AtomicU64,
}

impl Markable for Object {
    fn slot_hint(&self) -> &AtomicU64 {
        &self.hint
    }

    fn identities(&self) -> io::Result<PerLeg<Identity>> {
        Ok(self.ids)
    }
}

fn split(path: &str) -> (&str, &OsStr) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, OsStr::new(name))
}

pub fn node<L: Leg>(leg: &L, path: &str) -> Option<L::Node> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .try_fold(leg.root(), |at, part| leg.child(&at, OsStr::new(part)).ok())
}

const NOBODY: Creator = Creator { uid: 0, gid: 0, umask: 0 };

impl<L: Leg> World<L> {
    pub fn new(legs: PerLeg<Arc<L>>, medium: &Medium) -> World<L> {
        World { legs, bitmap: medium.open(), on: LegId::ALL.to_vec(), partners: HashMap::new() }
    }

    /// From here on only this leg changes: the other has lost all that comes.
    pub fn only(&mut self, changed: LegId) {
        self.on = vec![changed];
        for path in tree(&*self.legs[changed]).keys() {
            let [mine, other] =
                [changed, changed.other()].map(|id| self.identity(id, path.to_str().unwrap()));
            self.partners.insert(mine, other);
        }
    }

    pub fn identity(&self, id: LegId, path: &str) -> Identity {
        let leg = &*self.legs[id];
        leg.identity(&node(leg, path).unwrap()).unwrap()
    }

    /// What a path names on both legs. The leg that has lost it has had it as something.
    pub fn ids(&self, path: &str) -> PerLeg<Identity> {
        let &[changed] = &self.on[..] else { return PerLeg::from_fn(|id| self.identity(id, path)) };
        let mine = self.identity(changed, path);
        let lost = Identity { ino: (1 << 60) + mine.ino, handle: None };
        let other = self.partners.get(&mine).copied().unwrap_or(lost);
        PerLeg::from_fn(|id| if id == changed { mine } else { other })
    }

    fn links(&self, path: &str) -> Option<u32> {
        let leg = &*self.legs[self.on[0]];
        node(leg, path).map(|node| leg.stat(&node).unwrap().nlink)
    }

    /// Marks, then does `change` on each leg that is to be changed.
    fn change(&self, wants: &[(&str, Kinds, Span)], change: impl Fn(&L, &WriteIntent<'_>) -> io::Result<()>) {
        let objects: Vec<_> =
            wants.iter().map(|want| Object { ids: self.ids(want.0), hint: AtomicU64::new(0) }).collect();
        let wants: Vec<_> = wants
            .iter()
            .zip(&objects)
            .map(|((_, kinds, span), object)| Want {
                object,
                kinds: *kinds,
                span: span.clone(),
                slot: Needs::Any,
                moves: None,
            })
            .collect();
        let intent = self.bitmap.mark(&Quiet, &wants).unwrap();
        for &id in &self.on {
            change(&self.legs[id], &intent).unwrap();
        }
    }

    fn make(&self, path: &str, what: Make<'_>) {
        let (dir, name) = split(path);
        self.change(&[(dir, Kinds::ENTRIES, Span::None)], |leg, intent| {
            leg.make(intent, &node(leg, dir).unwrap(), name, what, NOBODY).map(drop)
        });
    }

    pub fn mkdir(&self, path: &str) {
        self.make(path, Make::Directory { mode: 0o755 });
    }

    pub fn touch(&self, path: &str) {
        self.make(path, Make::File { mode: 0o644 });
    }

    pub fn symlink(&self, path: &str, target: &str) {
        self.make(path, Make::Symlink { target: OsStr::new(target) });
    }

    pub fn fifo(&self, path: &str) {
        self.make(path, Make::Special { kind: Kind::Fifo, mode: 0o600, rdev: 0 });
    }

    pub fn file(&self, path: &str, data: &[u8]) {
        self.touch(path);
        self.write(path, 0, data);
    }

    pub fn write(&self, path: &str, offset: u64, data: &[u8]) {
        let span = Span::Chunks(ChunkSize::MIN.covering(offset, data.len() as u64));
        self.change(&[(path, Kinds::METADATA | Kinds::DATA, span)], |leg, intent| {
            let mode = OpenMode { read: false, write: true, direct: false };
            let file = leg.open(&node(leg, path).unwrap(), mode)?;
            leg.write(intent, &file, data, offset).map(drop)
        });
    }

    pub fn truncate(&self, path: &str, size: u64) {
        let node_of = |leg: &L| node(leg, path).unwrap();
        let old = self.on.iter().map(|&id| self.legs[id].stat(&node_of(&self.legs[id])).unwrap().size).min();
        let from = ChunkSize::MIN.containing(old.unwrap_or(0).min(size));
        self.change(&[(path, Kinds::METADATA | Kinds::DATA, Span::From(from))], |leg, intent| {
            leg.truncate(intent, &node_of(leg), size)
        });
    }

    pub fn attributes(&self, path: &str, mode: u32, uid: u32, value: &str) {
        self.change(&[(path, Kinds::METADATA, Span::None)], |leg, intent| {
            let node = node(leg, path).unwrap();
            leg.set_owner(intent, &node, Some(uid), None)?;
            leg.set_mode(intent, &node, mode)?;
            leg.set_xattr(intent, &node, OsStr::new("user.test"), value.as_bytes(), 0)
        });
    }

    pub fn no_xattr(&self, path: &str) {
        self.change(&[(path, Kinds::METADATA, Span::None)], |leg, intent| {
            leg.remove_xattr(intent, &node(leg, path).unwrap(), OsStr::new("user.test"))
        });
    }

    pub fn rename(&self, from: &str, to: &str, mode: RenameMode) {
        let mut wants =
            vec![(split(from).0, Kinds::ENTRIES, Span::None), (split(to).0, Kinds::ENTRIES, Span::None)];
        wants.push((from, Kinds::METADATA, Span::None));
        if mode == RenameMode::Exchange || self.links(to).is_some_and(|links| links > 1) {
            wants.push((to, Kinds::METADATA, Span::None));
        }
        self.change(&wants, |leg, intent| {
            let (from_dir, to_dir) = (node(leg, split(from).0).unwrap(), node(leg, split(to).0).unwrap());
            leg.rename(intent, (&from_dir, split(from).1), (&to_dir, split(to).1), mode)
        });
    }

    pub fn mv(&self, from: &str, to: &str) {
        self.rename(from, to, RenameMode::Replace);
    }

    pub fn link(&self, path: &str, to: &str) {
        let wants = [(split(to).0, Kinds::ENTRIES, Span::None), (path, Kinds::METADATA, Span::None)];
        self.change(&wants, |leg, intent| {
            leg.link(intent, &node(leg, path).unwrap(), &node(leg, split(to).0).unwrap(), split(to).1)
        });
    }

    pub fn unlink(&self, path: &str) {
        let (dir, name) = split(path);
        let mut wants = vec![(dir, Kinds::ENTRIES, Span::None)];
        if self.links(path).is_some_and(|links| links > 1) {
            wants.push((path, Kinds::METADATA, Span::None));
        }
        self.change(&wants, |leg, intent| leg.unlink(intent, &node(leg, dir).unwrap(), name));
    }

    pub fn rmdir(&self, path: &str) {
        let (dir, name) = split(path);
        self.change(&[(dir, Kinds::ENTRIES, Span::None)], |leg, intent| {
            leg.rmdir(intent, &node(leg, dir).unwrap(), name)
        });
    }

    /// Makes the legs alike in times and durable, as before a slot is cleared.
    pub fn settle(&self) {
        let intent = WriteIntent::before_first_mount();
        let (a, b) = (&*self.legs[LegId::A], &*self.legs[LegId::B]);
        for path in tree(a).keys() {
            let path = path.to_str().unwrap();
            let stat = a.stat(&node(a, path).unwrap()).unwrap();
            b.set_times(&intent, &node(b, path).unwrap(), Some(stat.atime), Some(stat.mtime)).unwrap();
        }
        a.sync_all().unwrap();
        b.sync_all().unwrap();
    }

    /// Resyncs to the end.
    pub fn resync(&self, source: LegId, scope: Scope) -> io::Result<Progress> {
        let progress = Progress::default();
        let resync = Resync::new(&self.legs, &self.bitmap, source, scope, &Quiet, &progress);
        assert_eq!(resync.namespace_and_metadata()?, Outcome::Done);
        assert_eq!(resync.data()?, Outcome::Done);
        drop(resync);
        Ok(progress)
    }
}

/// All that two legs are compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub rdev: u64,
    pub mtime: Timestamp,
    pub atime: Timestamp,
    pub content: Vec<u8>,
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// The first of the object's names.
    pub first: PathBuf,
    pub links: u32,
}

/// A whole leg, by path.
pub fn tree<L: Leg>(leg: &L) -> BTreeMap<PathBuf, Description> {
    let mut found = BTreeMap::new();
    let mut firsts = BTreeMap::new();
    describe(leg, &leg.root(), Path::new(""), &mut found, &mut firsts);
    found
}

fn describe<L: Leg>(
    leg: &L,
    at: &L::Node,
    path: &Path,
    found: &mut BTreeMap<PathBuf, Description>,
    firsts: &mut BTreeMap<u64, PathBuf>,
) {
    let stat = leg.stat(at).unwrap();
    let content = match stat.kind {
        Kind::File => {
            let file = leg.open(at, OpenMode { read: true, write: false, direct: false }).unwrap();
            let mut data = vec![0; stat.size as usize];
            assert_eq!(leg.read(&file, &mut data, 0).unwrap(), data.len());
            data
        }
        Kind::Symlink => leg.readlink(at).unwrap().into_encoded_bytes(),
        _ => Vec::new(),
    };
    let names = leg.list_xattr(at).unwrap();
    let directory = stat.kind == Kind::Directory;
    let description = Description {
        kind: stat.kind,
        mode: stat.mode,
        owner: (stat.uid, stat.gid),
        rdev: stat.rdev,
        mtime: stat.mtime,
        atime: stat.atime,
        content,
        xattrs: names.into_iter().map(|name| (name.clone(), leg.get_xattr(at, &name).unwrap())).collect(),
        first: firsts.entry(stat.ino).or_insert_with(|| path.to_owned()).clone(),
        links: if directory { 0 } else { stat.nlink },
    };
    found.insert(path.to_owned(), description);
    if directory {
        let mut names: Vec<_> = leg.read_dir(at).unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        for name in names {
            describe(leg, &leg.child(at, &name).unwrap(), &path.join(&name), found, firsts);
        }
    }
}

/// Panics unless both legs are the same and nothing is left over.
pub fn assert_equal<L: Leg>(world: &World<L>, what: &str) {
    let [a, b] = LegId::ALL.map(|id| tree(&*world.legs[id]));
    for path in a.keys().chain(b.keys()) {
        assert_eq!(a.get(path), b.get(path), "{what}: {}", path.display());
    }
    for (leg, area) in LegId::ALL.into_iter().flat_map(|leg| [(leg, Area::Incoming), (leg, Area::Parked)]) {
        let left = world.legs[leg].read_dir(&world.legs[leg].area(area).unwrap()).unwrap();
        assert!(left.is_empty(), "{what}: {area:?} of {leg} holds {left:?}");
    }
    assert!(world.bitmap.unresynced().is_empty(), "{what}: slots left");
}
