//! The mount point before the mount: where it is, what lies there, and whether it keeps clear of
//! the legs.
//!
//! A dead mirror answers every look with ENOTCONN and a hung one with nothing, so the mount point
//! itself is looked at only after mountinfo and the control socket have been asked.

use std::io;
use std::path::{Path, PathBuf};

use super::LegPlace;
use super::attach;
use super::control::{self, Answer};
use super::mountinfo::{self, Mount};
use super::request::Request;
use crate::cli::exit::{Exit, Failure};
use crate::error::{Error, Result};
use crate::legs::{LegId, PerLeg};
use crate::options::Degraded;

/// More dead mirrors than this on one mount point are not taken away: something else is wrong.
const STACKED_MAX: usize = 64;

/// What is mounted on a mount point already.
#[derive(Debug, PartialEq, Eq)]
pub enum There {
    /// No mirror on top.
    Free,
    /// A mirror whose daemon is gone.
    Dead,
    /// A mirror that is served.
    Live,
}

/// The absolute path of `mountpoint` without symlinks. The last component is not looked at when
/// mountinfo knows it: it may hang or be dead.
pub fn resolve(mountpoint: &Path) -> Result<PathBuf> {
    let failed =
        |cause| Error::new(format!("cannot find the mount point {}", mountpoint.display())).because(cause);
    let absolute = std::path::absolute(mountpoint).map_err(failed)?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) {
        let found = parent.canonicalize().map_err(failed)?.join(name);
        if mountinfo::read().is_ok_and(|mounts| mountinfo::top(mounts, &found).is_some()) {
            return Ok(found);
        }
    }
    absolute.canonicalize().map_err(|cause| {
        let missing = cause.kind() == io::ErrorKind::NotFound;
        let error = failed(cause);
        if missing {
            error.hint("Check the path; a mount point must be there before the mount.")
        } else {
            error
        }
    })
}

/// What is on `mountpoint`, as [`resolve`] gave it.
pub fn look(mountpoint: &Path) -> Result<There> {
    let mounts =
        mountinfo::read().map_err(|cause| Error::new("cannot read /proc/self/mountinfo").because(cause))?;
    Ok(match mountinfo::top(mounts, mountpoint).filter(Mount::is_mirror) {
        None => There::Free,
        Some(mount) if is_dead(&mount) => There::Dead,
        Some(_) => There::Live,
    })
}

/// Whether nobody serves this mirror any more.
pub fn is_dead(mount: &Mount) -> bool {
    // A daemon that is being killed may still be listening for an instant; only an answer, or none
    // in time, means that somebody is there.
    let answer = control::ask(mount, &Request::new("status"), Some(control::PATIENCE));
    match answer {
        Ok(Answer::Reply(_) | Answer::Timeout) => false,
        // No daemon in our network namespace: the kernel knows whether there is one in another.
        Ok(Answer::Nobody) | Err(_) => matches!(
            rustix::fs::statfs(&mount.mountpoint),
            Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
        ),
    }
}

/// Refuses a mount point that cannot be mounted on. What a dead mirror covers is seen only after
/// [`clear`].
pub fn check(mountpoint: &Path) -> std::result::Result<There, Failure> {
    let there = look(mountpoint)?;
    match there {
        There::Live => Err(already_mounted(mountpoint)),
        There::Dead => Ok(there),
        There::Free => check_directory(mountpoint).map(|()| there).map_err(Failure::from),
    }
}

/// Takes away the dead mirrors on top of `mountpoint`, and returns how many there were.
pub fn clear(mountpoint: &Path) -> std::result::Result<usize, Failure> {
    for taken in 0..STACKED_MAX {
        match look(mountpoint)? {
            There::Live => return Err(already_mounted(mountpoint)),
            There::Dead => attach::detach_lazily(mountpoint)?,
            There::Free => {
                check_directory(mountpoint)?;
                return Ok(taken);
            }
        }
    }
    Err(Error::new(format!("more than {STACKED_MAX} dead mirrors lie on {}", mountpoint.display()))
        .hint("Take them away with \"umount -l\", and look what mounts there over and over.")
        .into())
}

fn already_mounted(mountpoint: &Path) -> Failure {
    let shown = mountpoint.display();
    Failure::new(
        Exit::InUse,
        Error::new(format!("cannot mount on {shown}: a mirror is already mounted there"))
            .hint(format!("\"mirrorfs status {shown}\" shows it, \"umount {shown}\" takes it away.")),
    )
}

fn check_directory(mountpoint: &Path) -> Result<()> {
    let failed = || Error::new(format!("cannot mount on {}", mountpoint.display()));
    let kind = std::fs::symlink_metadata(mountpoint).map_err(|cause| failed().because(cause))?;
    if kind.is_dir() {
        return Ok(());
    }
    Err(failed()
        .because(crate::error::errno(libc::ENOTDIR))
        .hint("A mirror can be mounted only on a directory."))
}

/// Refuses legs and a mount point of which one lies inside another, by name or by identity: the
/// mirror would contain itself. A leg that cannot be found is refused too, unless the mirror may go
/// on with the other one; it is then to be checked again when it is there.
pub fn check_apart(legs: &PerLeg<LegPlace>, mountpoint: &Path, degraded: Degraded) -> Result<()> {
    let mut there = Vec::new();
    let mut not_found = None;
    for (leg, path) in legs.iter().filter_map(|(leg, place)| Some((leg, place.path()?))) {
        match path.canonicalize().map_err(|cause| cannot_find(leg, path, cause)) {
            Ok(found) => there.push((leg, found)),
            Err(error) if degraded == Degraded::No => return Err(error),
            Err(error) => not_found = not_found.or(Some(error)),
        }
    }
    if let (true, Some(error)) = (there.is_empty(), not_found) {
        return Err(error);
    }
    for (leg, path) in &there {
        check_mountpoint_apart(*leg, path, mountpoint)?;
    }
    match &there[..] {
        [(_, a), (_, b)] => check_legs_apart(a, b),
        _ => Ok(()),
    }
}

fn check_mountpoint_apart(leg: LegId, found: &Path, mountpoint: &Path) -> Result<()> {
    if found.starts_with(mountpoint) {
        return Err(Error::new(format!("leg {leg} at {} lies below the mount point", found.display()))
            .hint("The mirror would hide its own leg. Mount it somewhere else."));
    }
    if contains(found, mountpoint)? {
        return Err(Error::new(format!(
            "the mount point {} lies inside leg {leg} at {}",
            mountpoint.display(),
            found.display()
        ))
        .hint("The mirror would contain itself. Mount it somewhere else."));
    }
    Ok(())
}

fn cannot_find(leg: LegId, path: &Path, cause: io::Error) -> Error {
    Error::new(format!("cannot find leg {leg} at {}", path.display()))
        .because(cause)
        .hint("Check the path, and whether the disk that belongs there is mounted.")
}

fn check_legs_apart(a: &Path, b: &Path) -> Result<()> {
    let what = match (contains(a, b)?, contains(b, a)?) {
        (true, true) => "are the same directory",
        (false, false) => return Ok(()),
        _ => "lie one inside the other",
    };
    Err(Error::new(format!("the legs {} and {} {what}", a.display(), b.display()))
        .hint("Two legs need two directories apart, best on two disks."))
}

/// Whether `inner`, or a directory above it, is the directory `outer`. Looks at every level's
/// identity, so that a bind mount does not hide it; `inner` itself is compared by name only when
/// it cannot be looked at.
fn contains(outer: &Path, inner: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let outer_is = std::fs::metadata(outer)
        .map_err(|cause| Error::new(format!("cannot look at {}", outer.display())).because(cause))?;
    Ok(inner.ancestors().any(|level| {
        level == outer
            || std::fs::metadata(level)
                .is_ok_and(|is| is.dev() == outer_is.dev() && is.ino() == outer_is.ino())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_legs_and_mount_points_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        for dir in ["a/in", "b", "m/a", "m2"] {
            std::fs::create_dir_all(top.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink(top.join("a"), top.join("link")).unwrap();
        for (a, b, mountpoint, words) in [
            ("a", "b", "m2", ""),
            ("a", "a", "m2", "same directory"),
            ("a", "link", "m2", "same directory"),
            ("a", "a/in", "m2", "one inside the other"),
            ("a/in", "a", "m2", "one inside the other"),
            ("a", "b", "a/in", "inside leg A"),
            ("b", "link", "a/in", "inside leg B"),
            ("a", "b", "b", "leg B at"),
            ("b", "m/a", "m", "below the mount point"),
        ] {
            let legs = PerLeg::new(top.join(a), top.join(b)).map(LegPlace::At);
            match check_apart(&legs, &top.join(mountpoint), Degraded::No) {
                Ok(()) => assert_eq!(words, "", "{a} {b} {mountpoint}"),
                Err(error) => {
                    assert!(
                        !words.is_empty() && error.to_string().contains(words),
                        "{a} {b} {mountpoint}: {error}"
                    )
                }
            }
        }
    }

    #[test]
    fn a_leg_that_is_not_there_is_refused_unless_the_other_may_serve_alone() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        for dir in ["a", "m"] {
            std::fs::create_dir_all(top.join(dir)).unwrap();
        }
        let at = |name: &str| LegPlace::At(top.join(name));
        let yes = Degraded::Yes;
        for (a, b, degraded, words) in [
            (at("a"), at("none"), Degraded::No, "cannot find leg B"),
            (at("none"), at("a"), Degraded::No, "cannot find leg A"),
            (at("a"), at("none"), yes, ""),
            (at("none"), at("a"), Degraded::Wait(std::time::Duration::ZERO), ""),
            (at("none"), at("gone"), yes, "cannot find leg A"),
            (LegPlace::Missing, at("gone"), yes, "cannot find leg B"),
            (LegPlace::Missing, at("a"), Degraded::No, ""),
            (at("a"), LegPlace::Missing, Degraded::No, ""),
            (LegPlace::Missing, at("m"), Degraded::No, "leg B at"),
            (at("none"), at("m"), yes, "leg B at"),
        ] {
            let case = format!("{a} {b} {degraded:?}");
            match check_apart(&PerLeg::new(a, b), &top.join("m"), degraded) {
                Ok(()) => assert_eq!(words, "", "{case}"),
                Err(error) => {
                    assert!(!words.is_empty() && error.to_string().contains(words), "{case}: {error}")
                }
            }
        }
    }

    #[test]
    fn a_mount_point_must_be_a_directory() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check(&file).unwrap_err().to_string().contains("only on a directory"));
        let missing = resolve(&top.path().join("missing")).unwrap_err().to_string();
        assert!(missing.contains("No such file") && missing.contains("Check the path"), "{missing}");
    }
}
