//! Compares what is on a simulated disk with what may be there, and the two disks with each other.
//!
//! Looks at the disks' images directly: nothing of the mirror is used to judge it.

use std::collections::BTreeMap;

use mirrorfs::legs::simulated::content::Content;
use mirrorfs::legs::simulated::image::{Body, Id, Image, Object, ROOT};
use mirrorfs::legs::{Kind, LegId, PerLeg};

use crate::model::{Crash, GRAIN, Grains, History, State, Tag};
use crate::shared::SharedFile;
use crate::world::World;

/// What was found to be wrong.
pub type Verdict = Result<(), String>;

const STATE_DIR: &str = ".mirrorfs";

/// All objects of a leg by path, without the mirror's own.
pub type Tree<'a> = BTreeMap<String, (Id, &'a Object)>;

pub fn tree(image: &Image) -> Tree<'_> {
    let mut found = Tree::new();
    let mut todo = vec![(String::new(), ROOT)];
    while let Some((path, id)) = todo.pop() {
        let Some(object) = image.get(id) else { continue };
        for (name, entry) in object.entries().filter(|(name, _)| id != ROOT || *name != STATE_DIR) {
            todo.push((format!("{path}/{}", name.to_string_lossy()), entry));
        }
        found.insert(path, (id, object));
    }
    found
}

/// Whose a path is: the client's number, from the last name in it.
pub fn owner(path: &str) -> Option<usize> {
    path.rsplit('/').next()?.strip_prefix('c')?.split_once('-')?.0.parse().ok()
}

/// Grains, or what is wrong with them.
pub type Found = Result<Grains, String>;

/// The tags in a file's data; an error if a grain holds parts of several writes.
pub fn read_grains(content: &Content) -> Found {
    let mut grains = Grains::new();
    for (offset, sector) in content.sectors() {
        for (at, bytes) in sector.chunks(GRAIN as usize).enumerate() {
            let grain = offset / GRAIN + at as u64;
            match uniform(bytes) {
                Some(0) => {}
                Some(tag) => drop(grains.insert(grain, tag)),
                None => return Err(format!("grain {grain} is torn")),
            }
        }
    }
    Ok(grains)
}

/// The tag that fills these bytes.
pub fn uniform(bytes: &[u8]) -> Option<Tag> {
    let first: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    bytes.chunks(8).all(|word| word == first).then_some(Tag::from_le_bytes(first))
}

/// What one client may find of its own on this leg. Returns what was found, with the number of
/// operations that it stands for.
pub fn client(
    client: usize,
    tree: &Tree<'_>,
    history: &History,
    crash: Crash,
) -> Result<(usize, State), String> {
    let mine: Tree<'_> = tree
        .iter()
        .filter(|(path, _)| owner(path) == Some(client))
        .map(|(path, found)| (path.clone(), *found))
        .collect();
    let mut reasons = Vec::new();
    for (count, state) in history.states(crash) {
        let found = same_names(&mine, &state).and_then(|()| with_data(&mine, state, history, count, crash));
        match found {
            Ok(found) => return Ok((count, found)),
            Err(reason) => reasons.push(format!("not as after {count} operations: {reason}")),
        }
    }
    let names: Vec<_> = mine.keys().collect();
    Err(format!("client {client}: {}\n    found {names:?}{}", reasons.join("\n    "), history.told()))
}

fn same_names(found: &Tree<'_>, state: &State) -> Verdict {
    if let Some(path) = found.keys().find(|path| !state.names.contains_key(*path)) {
        return Err(format!("{path} is there"));
    }
    let mut paired = BTreeMap::new();
    for (path, id) in &state.names {
        let Some((at, object)) = found.get(path) else { return Err(format!("{path} is not there")) };
        if *paired.entry(*id).or_insert(*at) != *at {
            return Err(format!("{path} is not the same object as another name of it"));
        }
        same_attributes(object, &state.objects[id]).map_err(|reason| format!("{path}: {reason}"))?;
    }
    let distinct: std::collections::BTreeSet<_> = paired.values().collect();
    if distinct.len() == paired.len() { Ok(()) } else { Err("two objects have become one".into()) }
}

fn same_attributes(found: &Object, wanted: &crate::model::Object) -> Verdict {
    let same = |what: &str, found: String, wanted: String| {
        if found == wanted { Ok(()) } else { Err(format!("{what} {found}, not {wanted}")) }
    };
    same("kind", format!("{:?}", found.kind()), format!("{:?}", wanted.kind))?;
    if wanted.kind != Kind::Symlink {
        same("mode", format!("{:o}", found.mode), format!("{:o}", wanted.mode))?;
    }
    same("owner", found.uid.to_string(), wanted.uid.to_string())?;
    same("size", found.content().map_or(0, Content::size).to_string(), wanted.size.to_string())?;
    let xattrs: BTreeMap<String, String> = found
        .xattrs
        .iter()
        .map(|(name, value)| (name.to_string_lossy().into(), String::from_utf8_lossy(value).into()))
        .collect();
    same("xattrs", format!("{xattrs:?}"), format!("{:?}", wanted.xattrs))?;
    let target = if let Body::Symlink(target) = &found.body { target.to_string_lossy() } else { "".into() };
    same("target", target.into(), wanted.target.clone())
}

/// `state` with the data that was found, if it is data that may be there.
fn with_data(
    found: &Tree<'_>,
    mut state: State,
    history: &History,
    count: usize,
    crash: Crash,
) -> Result<State, String> {
    for (path, id) in &state.names {
        let Some(content) = found[path].1.content() else { continue };
        let grains = read_grains(content).map_err(|reason| format!("{path}: {reason}"))?;
        let allowed = history.allowed(*id, count, crash);
        let end = content.size() / GRAIN;
        let named = allowed.keys().filter(|grain| **grain < end).chain(grains.keys());
        for grain in named {
            let tag = grains.get(grain).copied().unwrap_or(0);
            let values = allowed.get(grain);
            if !values.map_or(tag == 0, |values| values.contains(&tag)) {
                return Err(format!("{path}: grain {grain} holds {tag}, not one of {values:?}"));
            }
        }
        if let Some(object) = state.objects.get_mut(id) {
            object.grains = grains;
        }
    }
    let named: std::collections::BTreeSet<_> = state.names.values().copied().collect();
    state.objects.retain(|id, _| named.contains(id));
    Ok(state)
}

/// What may be found in a shared file. Returns what was found.
pub fn shared(path: &str, tree: &Tree<'_>, file: &SharedFile, crash: Crash) -> Result<Grains, String> {
    let content = tree.get(path).and_then(|(_, object)| object.content());
    let content = content.ok_or_else(|| format!("{path} is not there"))?;
    let grains = read_grains(content).map_err(|reason| format!("{path}: {reason}"))?;
    for grain in file.touched().into_iter().chain(grains.keys().copied()) {
        let tag = grains.get(&grain).copied().unwrap_or(0);
        let allowed = file.allowed(grain, crash);
        if !allowed.contains(&tag) {
            return Err(format!("{path}: grain {grain} holds {tag}, not one of {allowed:?}"));
        }
    }
    Ok(grains)
}

/// Both legs are the same to any program, and the mirror has left nothing behind.
pub fn equal(world: &World) -> Verdict {
    let images = PerLeg::from_fn(|leg| world.disk(leg).live());
    let trees = PerLeg::from_fn(|leg| tree(&images[leg]));
    for leg in LegId::ALL {
        if let Some(path) = trees[leg].keys().find(|path| !trees[leg.other()].contains_key(*path)) {
            return Err(format!("{path} is on {leg} only"));
        }
        nothing_left(&images[leg]).map_err(|reason| format!("leg {leg}: {reason}"))?;
    }
    let mut pairs = BTreeMap::new();
    for (path, (id_a, a)) in &trees[LegId::A] {
        let (id_b, b) = trees[LegId::B][path];
        same_object(a, b).map_err(|reason| format!("{path}: {reason}"))?;
        if *pairs.entry(*id_a).or_insert(id_b) != id_b {
            return Err(format!("{path}: linked on A, not on B"));
        }
    }
    let distinct: std::collections::BTreeSet<_> = pairs.values().collect();
    if distinct.len() == pairs.len() { Ok(()) } else { Err("linked on B, not on A".into()) }
}

fn same_object(a: &Object, b: &Object) -> Verdict {
    let differ = |what: &str, a: String, b: String| {
        if a == b { Ok(()) } else { Err(format!("{what} {a} on A, {b} on B")) }
    };
    differ("kind", format!("{:?}", a.kind()), format!("{:?}", b.kind()))?;
    differ("mode", format!("{:o}", a.mode), format!("{:o}", b.mode))?;
    differ("owner", format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid))?;
    differ("mtime", format!("{:?}", a.times.modification), format!("{:?}", b.times.modification))?;
    differ("atime", format!("{:?}", a.times.access), format!("{:?}", b.times.access))?;
    differ("xattrs", format!("{:?}", a.xattrs), format!("{:?}", b.xattrs))?;
    differ("names", a.names.to_string(), b.names.to_string())?;
    match (&a.body, &b.body) {
        (Body::File(a), Body::File(b)) if a.reads_like(b) => Ok(()),
        (Body::File(a), Body::File(b)) => {
            differ("size", a.size().to_string(), b.size().to_string())?;
            differ("data", format!("{:?}", read_grains(a)), format!("{:?}", read_grains(b)))
        }
        (Body::Directory { .. }, Body::Directory { .. }) => Ok(()),
        (a, b) => differ("what it is", format!("{a:?}"), format!("{b:?}")),
    }
}

/// `incoming` and `parked` are empty.
fn nothing_left(image: &Image) -> Verdict {
    let state = image.entry(&(ROOT, STATE_DIR.into())).ok_or("no state directory")?;
    for area in ["incoming", "parked"] {
        let id = image.entry(&(state, area.into())).ok_or("no area")?;
        if let Some((name, _)) = image.get(id).and_then(|area| area.entries().next()) {
            return Err(format!("{name:?} is left in {area}"));
        }
    }
    Ok(())
}
