//! `mirrorfs compare`: every difference between two directories, one a line.
//!
//! Compared: names, kinds, data, mode, owner, times, extended attributes with ACLs, which names
//! belong to one object, symlink targets, device numbers. Not compared: change times, inode numbers,
//! space taken, a symlink's access time (reading it changes it), `.mirrorfs` and `lost+found` in the
//! roots.
//!
//! A witness against the daemon: shares no code with it, apart from the names and the lock of a leg.
//! Changes nothing, access times included where this user may ask for that. Memory grows with the size of a
//! directory and with the number of objects that have several names.

pub(super) mod object;
pub(super) mod walk;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use crate::daemon::waiting;
use crate::error::{Error, Result};
use crate::layout;
use crate::owner::Owner;
use walk::{Aspect, At, Witness, one_line};

/// Compare two legs that are not mounted and print every difference
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// One leg
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    pub b: PathBuf,
}

/// Prints the differences.
pub(super) fn run(args: &Args) -> std::result::Result<Exit, Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut printed = Ok(());
    let found = compare(&args.a, &args.b, &mut |difference| {
        if printed.is_ok() {
            printed = out.write_all(&difference).and_then(|()| out.write_all(b"\n"));
        }
    })?;
    super::printed(printed.and_then(|()| out.flush()))?;
    Ok(if found == 0 { Exit::Success } else { Exit::Different })
}

/// Tells each difference as `PATH: what (A: .. B: ..)` and returns how many there are. Refuses legs that
/// are in use.
pub fn compare(a: &Path, b: &Path, tell: &mut dyn FnMut(Vec<u8>)) -> Result<u64> {
    let _locks = [lock(a)?, lock(b)?];
    let mut lines = Lines { tell, count: 0 };
    walk([open(a)?, open(b)?], &mut lines)
        .map_err(|error| error.hint("What was printed so far is not all."))?;
    Ok(lines.count)
}

/// Tells the witness of every difference between two trees.
pub(super) fn walk(roots: [std::fs::File; 2], witness: &mut dyn Witness) -> Result<()> {
    let mut walk = walk::Walk::new(roots, witness);
    walk.run().map_err(|error| {
        Error::new(format!("cannot compare {} of the two legs", walk.path().display())).because(error)
    })
}

/// Tells differences as lines.
struct Lines<'a> {
    tell: &'a mut dyn FnMut(Vec<u8>),
    count: u64,
}

impl Witness for Lines<'_> {
    fn differs(&mut self, at: &At<'_>, _: Aspect, says: &str) -> io::Result<()> {
        self.count += 1;
        let mut line = one_line(at.path);
        line.extend(b": ");
        line.extend(says.replace('\n', "\\n").into_bytes());
        (self.tell)(line);
        Ok(())
    }
}

fn open(path: &Path) -> Result<std::fs::File> {
    object::open_root(path).map_err(|e| Error::new(format!("cannot open {}", path.display())).because(e))
}

fn lock(path: &Path) -> Result<Option<Owner>> {
    let root = open(path)?;
    match layout::open_state_dir(root.as_fd()) {
        Ok(state) => Ok(waiting::own(path, || Owner::shared(state.as_fd(), path))?),
        // Any directory can be compared, also one that is not a leg.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(Error::new(format!("cannot open .mirrorfs in {}", path.display())).because(error)),
    }
}
