//! Moving a leg's versions aside: into a new directory of its `.mirrorfs/conflicts`, under their old paths.
//!
//! Renames only: nothing is copied, nothing deleted. What is in the way there is not replaced. Directories on the
//! way are made anew, with the metadata that the leg has for them.
//!
//! Invariant: an object of which one name is aside has no name in the mirror's tree any more. Else the
//! recovery would find it there, and change what was to be kept.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, Timestamps};
use rustix::io::Errno;

use super::differing::{Differing, Found, Linked};
use crate::cli::compare::walk::Aspect;
use crate::cli::create::copy;
use crate::layout;
use crate::legs::LegId;
use crate::sys;

/// What is to be kept of a leg.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Names to be moved; a directory with all that is in it.
    pub moved: BTreeSet<PathBuf>,
    /// Directories that stay, of which the metadata is kept by an empty one.
    pub metadata: BTreeSet<PathBuf>,
}

impl Chosen {
    /// All of what was found that `leg` has its own version of.
    pub fn of(found: &Found, leg: LegId) -> Chosen {
        let stays = |one: &&Differing| one.directory.iter().all(|(_, is)| *is == Some(true));
        let (stay, move_on): (Vec<_>, Vec<_>) = found.differing.iter().partition(stays);
        let moved = move_on.into_iter().filter(|one| one.directory[leg].is_some());
        let changed = stay.into_iter().filter(|one| one.aspects.contains(&Aspect::Metadata));
        let mut chosen = Chosen {
            moved: moved.map(|one| one.path.clone()).collect(),
            metadata: changed.map(|one| one.path.clone()).collect(),
        };
        chosen.add_linked(&found.linked[leg]);
        chosen
    }

    /// All names of an object, if any of them is not to stay in the tree: it is moved, or inside a directory
    /// that is moved, or aside since an earlier time.
    fn add_linked(&mut self, linked: &HashMap<u64, Linked>) {
        for Linked { count, names } in linked.values() {
            let stay = names.iter().filter(|name| !self.moved.contains(*name)).count() as u64;
            if stay < *count {
                self.moved.extend(names.iter().cloned());
            }
        }
    }

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.moved.is_empty() && self.metadata.is_empty()
    }
}

/// A place for one leg's versions.
pub struct Aside {
    root: OwnedFd,
    place: OwnedFd,
    /// Below the leg.
    path: PathBuf,
    /// Directories made here, with the times that the leg had for them.
    made: Vec<(PathBuf, Timestamps)>,
    /// The last directory gone to: on the leg, and here.
    last: Option<(PathBuf, OwnedFd, OwnedFd)>,
}

impl Aside {
    /// A new directory called `date`, or `date-2` and so on, on the leg with this root.
    pub fn new(root: OwnedFd, date: &str) -> io::Result<Aside> {
        let state = layout::make_state_dir(root.as_fd())?;
        let conflicts = layout::open_dir_below(state.as_fd(), layout::CONFLICTS)?;
        let names = std::iter::once(date.to_owned()).chain((2..).map(|count| format!("{date}-{count}")));
        for name in names {
            match rustix::fs::mkdirat(&conflicts, name.as_str(), Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            let place = layout::open_dir_below(conflicts.as_fd(), name.as_str())?;
            let path = [layout::STATE_DIR, layout::CONFLICTS, &name].iter().collect();
            let made = vec![(PathBuf::new(), copy::times_of(root.as_fd())?)];
            return Ok(Aside { root, place, path, made, last: None });
        }
        Err(Errno::EXIST.into())
    }

    /// Below the leg.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves one name.
    pub fn take(&mut self, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::INVAL.into());
        };
        let (from, to) = self.directory(parent)?;
        sys::file::rename_to_free((from.as_fd(), name), (to.as_fd(), name))
    }

    /// Keeps the metadata of a directory that stays.
    pub fn keep_metadata(&mut self, path: &Path) -> io::Result<()> {
        self.directory(path).map(|_| ())
    }

    /// A directory of the leg, and the one that stands for it here.
    fn directory(&mut self, path: &Path) -> io::Result<(&OwnedFd, &OwnedFd)> {
        if self.last.as_ref().is_none_or(|(last, ..)| last != path) {
            self.last = None;
            let mut at = PathBuf::new();
            let mut from = layout::reopen_dir(self.root.as_fd())?;
            let mut to = layout::reopen_dir(self.place.as_fd())?;
            for component in path.components() {
                let Component::Normal(name) = component else { return Err(Errno::INVAL.into()) };
                at.push(name);
                from = layout::open_dir_below(from.as_fd(), name)?;
                match rustix::fs::mkdirat(&to, name, Mode::RWXU) {
                    Ok(()) => self.made.push((at.clone(), copy::times_of(from.as_fd())?)),
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                to = layout::open_dir_below(to.as_fd(), name)?;
            }
            self.last = Some((path.to_owned(), from, to));
        }
        match &self.last {
            Some((_, from, to)) => Ok((from, to)),
            None => Err(Errno::STALE.into()),
        }
    }

    /// Gives the directories made here the metadata that the leg has for them, and makes all durable.
    /// `complain` is told of those that cannot have it.
    pub fn finish(mut self, complain: &mut dyn FnMut(&Path, io::Error)) -> io::Result<()> {
        // From the deepest up, for one may take away the right to go down.
        for (path, times) in std::mem::take(&mut self.made).into_iter().rev() {
            let (from, to) = self.directory(&path)?;
            if let Err(error) = copy::root_metadata(from, to, &times) {
                complain(&path, error);
            }
        }
        Ok(rustix::fs::syncfs(&self.root)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::resolve::who::Who;
    use crate::legs::PerLeg;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn differing(path: &str, aspects: &[Aspect], a: Option<bool>, b: Option<bool>) -> Differing {
        Differing {
            path: path.into(),
            aspects: aspects.to_vec(),
            who: Who::Unknown,
            directory: PerLeg::new(a, b),
        }
    }

    fn paths(names: &[&str]) -> BTreeSet<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_legs_own_versions_are_chosen_and_directories_only_as_a_whole_or_for_their_metadata() {
        let (file, dir) = (Some(false), Some(true));
        let found = Found {
            differing: vec![
                differing("", &[Aspect::Time], dir, dir),
                differing("content", &[Aspect::Content], file, file),
                differing("d", &[Aspect::Time, Aspect::Metadata], dir, dir),
                differing("kind", &[Aspect::Kind], dir, file),
                differing("mode", &[Aspect::Metadata], file, file),
                differing("on-a", &[Aspect::OnlyOnA], dir, None),
                differing("on-b", &[Aspect::OnlyOnB], None, dir),
            ],
            linked: PerLeg::default(),
        };
        let common = ["content", "kind", "mode"];
        for (leg, own) in [(LegId::A, "on-a"), (LegId::B, "on-b")] {
            let mut moved = paths(&common);
            moved.insert(own.into());
            assert_eq!(Chosen::of(&found, leg), Chosen { moved, metadata: paths(&["d"]) });
        }
        let none = Found { differing: vec![], linked: PerLeg::default() };
        assert!(Chosen::of(&none, LegId::A).is_empty());
    }

    #[test]
    fn an_object_goes_aside_with_all_its_names_or_stays_with_all() {
        let linked =
            |count, names: &[&str]| Linked { count, names: names.iter().map(PathBuf::from).collect() };
        for (all, moved) in [
            // All of its names are in the tree, and none is moved.
            (linked(2, &["x", "y"]), vec![]),
            // Its first name differs; compare does not tell of the second.
            (linked(2, &["content", "y"]), vec!["content", "y"]),
            // One is in a directory that is moved, or was moved by an earlier run.
            (linked(3, &["x", "y"]), vec!["x", "y"]),
        ] {
            let found = Found {
                differing: vec![differing("content", &[Aspect::Content], Some(false), Some(false))],
                linked: PerLeg::new(HashMap::new(), HashMap::from([(7, all)])),
            };
            let mut expected = paths(&moved);
            expected.insert("content".into());
            assert_eq!(Chosen::of(&found, LegId::B).moved, expected);
        }
    }

    #[test]
    fn what_is_moved_is_the_same_object_under_its_old_path() {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::create_dir_all(at("whole/sub")).unwrap();
        for name in ["d/e/file", "d/e/stays", "whole/sub/file"] {
            fs::write(at(name), name).unwrap();
        }
        fs::hard_link(at("d/e/file"), at("d/link")).unwrap();
        fs::set_permissions(at("d/e"), fs::Permissions::from_mode(0o751)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(at("d/e")).unwrap().set_modified(old).unwrap();
        let ino = |path: &Path| fs::symlink_metadata(path).unwrap().ino();
        let before = ["d/e/file", "whole/sub/file"].map(|path| ino(&at(path)));

        let root = || layout::LegDir::open(top.path()).unwrap().view().unwrap();
        let mut aside = Aside::new(root(), "then").unwrap();
        for path in ["d/e/file", "d/link", "whole"] {
            aside.take(Path::new(path)).unwrap();
        }
        let error = aside.take(Path::new("d/e/file")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let place = top.path().join(aside.path());
        assert_eq!(place, at(".mirrorfs/conflicts/then"));
        aside.finish(&mut |path, error| panic!("{}: {error}", path.display())).unwrap();

        let after = ["d/e/file", "whole/sub/file"].map(|path| ino(&place.join(path)));
        assert_eq!(before, after);
        assert_eq!(ino(&place.join("d/link")), before[0]);
        assert!(at("d/e/stays").exists() && !at("d/e/file").exists() && !at("whole").exists());
        let kept = fs::metadata(place.join("d/e")).unwrap();
        assert_eq!((kept.mode() & 0o7777, kept.mtime()), (0o751, 1_000_000));
        assert_eq!(Aside::new(root(), "then").unwrap().path(), Path::new(".mirrorfs/conflicts/then-2"));
    }
}
