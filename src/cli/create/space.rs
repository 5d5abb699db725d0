//! Whether there is room for what is about to be written to a new leg. Changes nothing.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType};

use super::copy;
use crate::cli::size;
use crate::error::{Error, Result};
use crate::layout::{self, DirId, LegDir};
use crate::legs::{LegId, PerLeg};

/// Inodes that the mirror's own state takes on a leg, and a few to spare.
const OWN_INODES: u64 = 16;

/// What something takes on a filesystem.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    bytes: u64,
    inodes: u64,
}

/// Each leg has room for its state of `state_bytes`, and the one that is not the source for all the
/// source's files.
pub fn check(legs: &PerLeg<LegDir>, source: LegId, state_bytes: u64) -> Result<()> {
    let content = measure(&legs[source]).map_err(|(path, error)| {
        let other_filesystem = error.raw_os_error() == Some(libc::EXDEV);
        let error = Error::new(format!("cannot copy {} of leg {source}", path.display())).because(error);
        if !other_filesystem {
            return error;
        }
        error.hint(
            "Another filesystem or a subvolume lies there, and a leg is one filesystem: move it away first.",
        )
    })?;
    for (leg, dir) in legs.iter() {
        let mut need = Need { bytes: state_bytes + (64 << 10), inodes: OWN_INODES };
        if leg != source {
            need.bytes += content.bytes;
            need.inodes += content.inodes;
        }
        has_room(leg, dir, need)?;
    }
    Ok(())
}

/// A directory that is to become `leg` has room for its state and for all that `source`, in use, holds. What a
/// filesystem holds as a whole is asked first: a tree is walked only where that is too much. A tree that cannot
/// be walked to its end is not judged.
pub fn check_new(leg: LegId, dir: &LegDir, source: &LegDir, state_bytes: u64) -> Result<()> {
    let state = Need { bytes: state_bytes + (64 << 10), inodes: OWN_INODES };
    let together =
        |content: Need| Need { bytes: state.bytes + content.bytes, inodes: state.inodes + content.inodes };
    if let Ok(whole) = rustix::fs::fstatvfs(source) {
        let bytes = whole.f_blocks.saturating_sub(whole.f_bfree).saturating_mul(whole.f_frsize);
        let inodes = whole.f_files.saturating_sub(whole.f_ffree);
        if has_room(leg, dir, together(Need { bytes, inodes })).is_ok() {
            return Ok(());
        }
    }
    match measure(source) {
        Ok(content) => has_room(leg, dir, together(content)),
        Err((path, error)) => {
            log::info!("leg {leg}: its room is not checked, {} cannot be read: {error}", path.display());
            Ok(())
        }
    }
}

fn has_room(leg: LegId, dir: &LegDir, need: Need) -> Result<()> {
    let space = rustix::fs::fstatvfs(dir).map_err(|e| {
        Error::new(format!("cannot ask for the free space of leg {leg} at {}", dir.path().display()))
            .because(e.into())
    })?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let short = if free < need.bytes {
        format!("{} needed, {} free", size::human(need.bytes), size::human(free))
    // A filesystem that makes inodes as it goes says 0 of them in all.
    } else if space.f_files != 0 && space.f_favail < need.inodes {
        format!("{} inodes needed, {} free", need.inodes, space.f_favail)
    } else {
        return Ok(());
    };
    Err(Error::new(format!("no room on leg {leg} at {}: {short}", dir.path().display()))
        .because(rustix::io::Errno::NOSPC.into())
        .hint("Make room there or use a larger disk. Nothing has been changed."))
}

/// What the content of a leg takes; an object with several names is counted once for each. Refuses what
/// lies on another filesystem, which the mirror would not show.
fn measure(leg: &LegDir) -> std::result::Result<Need, (PathBuf, io::Error)> {
    let mut path = leg.path().to_owned();
    measure_into(leg, &mut path).map_err(|error| (path, error))
}

fn measure_into(leg: &LegDir, path: &mut PathBuf) -> io::Result<Need> {
    let mut need = Need::default();
    let mut here = leg.view()?;
    let device = rustix::fs::fstat(&here)?.st_dev;
    let mut names = copy::names_in(here.as_fd())?;
    names.retain(|name| !layout::is_hidden(name));
    let mut way: Vec<(DirId, Vec<OsString>)> = Vec::new();
    loop {
        if let Some(name) = names.pop() {
            path.push(&name);
            let stat = rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if stat.st_dev != device {
                return Err(rustix::io::Errno::XDEV.into());
            }
            need.inodes += 1;
            need.bytes += stat.st_blocks as u64 * 512;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                path.pop();
                continue;
            }
            let below = layout::open_dir_below(here.as_fd(), &name)?;
            way.push((DirId::of(&here)?, names));
            names = copy::names_in(below.as_fd())?;
            here = below;
        } else if let Some((above, rest)) = way.pop() {
            (here, names) = (copy::up(&here, above)?, rest);
            path.pop();
        } else {
            return Ok(need);
        }
    }
}
