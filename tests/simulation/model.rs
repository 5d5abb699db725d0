//! What one client did, and so what may be found on a leg after a crash.
//!
//! A client's operations come one after the other and become durable in their order, so what is
//! found of its names and attributes must be the state after *some* number of operations: at least those
//! synced (after a kill: those acknowledged), at most those begun. Data goes its own way: a grain of
//! a file holds any value from the last synced one to the last one begun.

use std::collections::{BTreeMap, BTreeSet};

use mirrorfs::legs::Kind;

/// The unit in which clients write: each grain is filled with one number, its tag.
pub const GRAIN: u64 = 128;

/// The number in a grain; 0 where nothing was written.
pub type Tag = u64;

/// Tells a client's objects apart.
pub type ObjectId = usize;

/// Grains that are not zero.
pub type Grains = BTreeMap<u64, Tag>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Make { path: String, id: ObjectId, kind: Kind, mode: u32, target: String },
    Link { id: ObjectId, path: String },
    Remove { path: String },
    Rename { from: String, to: String },
    Exchange { from: String, to: String },
    Mode { id: ObjectId, mode: u32 },
    Owner { id: ObjectId, uid: u32 },
    Xattr { id: ObjectId, name: String, value: Option<String> },
    Size { id: ObjectId, size: u64 },
    Write { id: ObjectId, offset: u64, len: u64, tag: Tag },
    Punch { id: ObjectId, offset: u64, len: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub size: u64,
    pub target: String,
    pub xattrs: BTreeMap<String, String>,
    pub grains: Grains,
}

/// All that a client has made, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub names: BTreeMap<String, ObjectId>,
    pub objects: BTreeMap<ObjectId, Object>,
}

pub fn grains(offset: u64, len: u64) -> std::ops::Range<u64> {
    offset / GRAIN..(offset + len) / GRAIN
}

impl Op {
    /// What it does something to that may have no name.
    pub fn file(&self) -> Option<ObjectId> {
        match self {
            Op::Size { id, .. } | Op::Write { id, .. } | Op::Punch { id, .. } => Some(*id),
            _ => None,
        }
    }
}

impl State {
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Make { path, id, kind, mode, target } => {
                let (kind, mode, target) = (*kind, *mode, target.clone());
                let (xattrs, grains) = Default::default();
                self.objects.insert(*id, Object { kind, mode, uid: 0, size: 0, target, xattrs, grains });
                self.names.insert(path.clone(), *id);
            }
            Op::Link { id, path } => drop(self.names.insert(path.clone(), *id)),
            Op::Remove { path } => drop(self.names.remove(path)),
            Op::Rename { from, to } if self.names.get(from) == self.names.get(to) => {}
            Op::Rename { from, to } => {
                self.names.remove(to);
                for (path, id) in self.take_tree(from) {
                    self.names.insert(format!("{to}{}", &path[from.len()..]), id);
                }
            }
            Op::Exchange { from, to } => {
                let (ours, theirs) = (self.take_tree(from), self.take_tree(to));
                let moved = |tree: Vec<(String, ObjectId)>, from: &str, to: &str| {
                    tree.into_iter()
                        .map(|(path, id)| (format!("{to}{}", &path[from.len()..]), id))
                        .collect::<Vec<_>>()
                };
                self.names.extend(moved(ours, from, to));
                self.names.extend(moved(theirs, to, from));
            }
            Op::Mode { id, mode } => self.object(*id).mode = *mode,
            Op::Owner { id, uid } => {
                let object = self.object(*id);
                object.uid = *uid;
                if object.kind != Kind::Directory {
                    object.mode &= !0o4000;
                }
            }
            Op::Xattr { id, name, value: Some(value) } => {
                self.object(*id).xattrs.insert(name.clone(), value.clone());
            }
            Op::Xattr { id, name, value: None } => drop(self.object(*id).xattrs.remove(name)),
            Op::Size { id, size } => {
                let object = self.object(*id);
                object.size = *size;
                object.grains.split_off(&(size / GRAIN));
            }
            Op::Write { id, offset, len, tag } => {
                let object = self.object(*id);
                object.size = object.size.max(offset + len);
                object.grains.extend(grains(*offset, *len).map(|grain| (grain, *tag)));
            }
            Op::Punch { id, offset, len } => {
                let gone = grains(*offset, *len);
                self.object(*id).grains.retain(|grain, _| !gone.contains(grain));
            }
        }
    }

    fn object(&mut self, id: ObjectId) -> &mut Object {
        self.objects.get_mut(&id).expect("clients change only what they have made")
    }

    /// Takes a name out, with all names below it.
    fn take_tree(&mut self, path: &str) -> Vec<(String, ObjectId)> {
        let below = format!("{path}/");
        let taken: Vec<String> =
            self.names.keys().filter(|name| *name == path || name.starts_with(&below)).cloned().collect();
        taken.into_iter().map(|name| (name.clone(), self.names.remove(&name).unwrap_or_default())).collect()
    }
}

/// What a crash was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The daemon was killed: the legs keep what they were told.
    Kill,
    /// The power went.
    PowerCut,
}

struct Begun {
    op: Op,
    acknowledged: bool,
}

struct Synced {
    /// Whose data.
    id: Option<ObjectId>,
    /// Operations acknowledged before the sync began.
    upto: usize,
}

/// What one client has done since everything it had was known to be durable.
#[derive(Default)]
pub struct History {
    base: State,
    begun: Vec<Begun>,
    synced: Vec<Synced>,
    now: State,
    next_id: ObjectId,
}

impl History {
    /// What the client must see.
    pub fn now(&self) -> &State {
        &self.now
    }

    pub fn new_id(&mut self) -> ObjectId {
        self.next_id += 1;
        self.next_id
    }

    pub fn begin(&mut self, op: Op) {
        self.begun.push(Begun { op, acknowledged: false });
    }

    pub fn acknowledge(&mut self) {
        if let Some(last) = self.begun.last_mut() {
            last.acknowledged = true;
            self.now.apply(&last.op);
        }
    }

    /// The operation failed and did nothing.
    pub fn take_back(&mut self) {
        self.begun.pop();
    }

    /// The number that belongs to a sync that begins now.
    pub fn before_sync(&self) -> usize {
        self.begun.len()
    }

    /// The sync was acknowledged.
    pub fn synced(&mut self, id: Option<ObjectId>, upto: usize) {
        self.synced.push(Synced { id, upto });
    }

    fn acknowledged(&self) -> usize {
        self.begun.iter().take_while(|begun| begun.acknowledged).count()
    }

    /// Operations that must be there.
    fn floor(&self, crash: Crash) -> usize {
        match crash {
            Crash::Kill => self.acknowledged(),
            Crash::PowerCut => self.synced.iter().map(|synced| synced.upto).max().unwrap_or(0),
        }
    }

    /// Whether the data of operation `index` must be there, if its length and the like are.
    fn is_sure(&self, index: usize, id: ObjectId, crash: Crash) -> bool {
        match crash {
            Crash::Kill => true,
            Crash::PowerCut => self.synced.iter().any(|synced| synced.id == Some(id) && synced.upto > index),
        }
    }

    /// The states that may be found, the latest first, each with the number of its operations.
    pub fn states(&self, crash: Crash) -> Vec<(usize, State)> {
        let mut state = self.base.clone();
        let mut all = vec![(0, state.clone())];
        for (index, begun) in self.begun.iter().enumerate() {
            state.apply(&begun.op);
            all.push((index + 1, state.clone()));
        }
        let floor = self.floor(crash);
        all.into_iter().filter(|(count, _)| *count >= floor).rev().collect()
    }

    /// The values that each grain of `id` may have when the first `count` operations are there.
    /// Grains that are not named are zero.
    pub fn allowed(&self, id: ObjectId, count: usize, crash: Crash) -> BTreeMap<u64, BTreeSet<Tag>> {
        let base = self.base.objects.get(&id).map(|object| object.grains.clone()).unwrap_or_default();
        let mut allowed: BTreeMap<u64, BTreeSet<Tag>> =
            base.into_iter().map(|(grain, tag)| (grain, BTreeSet::from([tag]))).collect();
        // The legs' files stay as they were at a kill: what was done is there, and nothing else.
        let begun = if crash == Crash::Kill { &self.begun[..count] } else { &self.begun[..] };
        for (index, begun) in begun.iter().enumerate() {
            let mut put = |range: std::ops::Range<u64>, tag: Tag, sure: bool| {
                for grain in range {
                    let values = allowed.entry(grain).or_insert_with(|| BTreeSet::from([0]));
                    if sure {
                        values.clear();
                    }
                    values.insert(tag);
                }
            };
            match &begun.op {
                Op::Write { id: of, offset, len, tag } if *of == id => {
                    put(grains(*offset, *len), *tag, self.is_sure(index, id, crash));
                }
                Op::Punch { id: of, offset, len } if *of == id => {
                    put(grains(*offset, *len), 0, index < count);
                }
                Op::Size { id: of, size } if *of == id => {
                    let cut: Vec<u64> = allowed.range(size / GRAIN..).map(|(grain, _)| *grain).collect();
                    for grain in cut {
                        let values = allowed.entry(grain).or_default();
                        if index < count {
                            values.clear();
                        }
                        values.insert(0);
                    }
                }
                _ => {}
            }
        }
        allowed
    }

    /// After the power went: `found` is what there is, all of it durable.
    pub fn start_from(&mut self, found: State) {
        self.now = found.clone();
        self.base = found;
        self.begun.clear();
        self.synced.clear();
    }

    /// After a kill: `count` operations were found done. What lost its last name is gone.
    pub fn go_on_with(&mut self, count: usize) {
        let acknowledged = self.acknowledged();
        self.begun.truncate(count.max(acknowledged));
        for index in acknowledged..self.begun.len() {
            self.begun[index].acknowledged = true;
            self.now.apply(&self.begun[index].op);
        }
    }

    /// All operations since the content was known, for a report.
    pub fn told(&self) -> String {
        let one = |(index, begun): (usize, &Begun)| {
            let open = if begun.acknowledged { "" } else { " (not acknowledged)" };
            format!("\n    {}: {:?}{open}", index + 1, begun.op)
        };
        let begun: String = self.begun.iter().enumerate().map(one).collect();
        let synced = |synced: &Synced| format!("\n    synced: {:?} up to {}", synced.id, synced.upto);
        format!(
            "\n    from {:?}{begun}{}",
            self.base.names,
            self.synced.iter().map(synced).collect::<String>()
        )
    }
}
