//! `mirrorfs resolve`: two legs that have each been changed without the other. Shows what differs and who
//! changed it, or gives one leg up, as it is told.
//!
//! Never chooses, never deletes: the versions of a leg that is given up are moved aside ([`aside`]), in
//! steps that survive a crash ([`discard`]). What differs is what the comparator of `compare` sees; the
//! bitmaps only say who it was.

mod aside;
mod differing;
mod discard;
mod marks;
mod report;
mod who;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::compare::object;
use super::compare::walk::one_line;
use super::exit::{Exit, Failure};
use super::{size, time};
use crate::daemon::waiting;
use crate::error::{Error, Result};
use crate::layout::{self, LegDir};
use crate::legs::{LegId, PerLeg};
use crate::owner::{Owner, Refused};
use crate::shell::quoted;
use crate::superblock::{self, Found, Plan, Refusal, Superblock};

use aside::Chosen;
use discard::Discard;
use marks::Marks;

/// Show what differs between two legs that have diverged, or give one of them up
///
/// Each leg has been changed without the other. --list shows what differs and who changed it.
/// --discard-leg gives up a leg's versions of all that differs: they are kept aside, and the next
/// mount makes that leg equal to the other one.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Leg A
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Leg B
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Show every object that differs, and who changed it; change nothing
    #[arg(long, conflicts_with = "discard_leg")]
    pub list: bool,
    /// Print JSON, for scripts
    #[arg(long, requires = "list")]
    pub json: bool,
    /// Give up this leg's versions of all that differs; they are moved to its .mirrorfs/conflicts
    #[arg(long, value_name = "A|B", value_parser = size::leg)]
    pub discard_leg: Option<LegId>,
    /// The file that keeps the write-intent bitmap, if the legs do not
    #[arg(long, value_name = "FILE", requires = "discard_leg")]
    pub bitmap: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> std::result::Result<Exit, Failure> {
    let paths = PerLeg::new(args.a.as_path(), args.b.as_path());
    match args.discard_leg {
        Some(leg) => discard_leg(&paths, leg, args.bitmap.as_deref()),
        None if args.list => list(&paths, args.json),
        None => Err(Failure::new(
            Exit::Usage,
            Error::new("resolve does not choose between legs: say what to do")
                .hint(superblock::ways_out(&paths)),
        )),
    }
}

fn list(paths: &PerLeg<&Path>, as_json: bool) -> std::result::Result<Exit, Failure> {
    let legs = open(paths)?;
    judge(&legs, paths)?;
    let state = state_dirs(&legs)?;
    let lock = |leg: LegId| {
        waiting::own(paths[leg], || Owner::shared(state[leg].as_fd(), paths[leg])).map_err(in_use)
    };
    let _locks = PerLeg::from_fn(lock).transpose()?;
    // What was read before the locks were held may have been changed by the last owner since.
    let superblocks = judge(&legs, paths)?;
    let found = find(&legs, &state, &superblocks)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let print = if as_json { report::json } else { report::lines };
    super::printed(print(&mut out, &found.differing).and_then(|()| out.flush()))?;
    eprintln!("{}", report::summary(&found.differing));
    if let (Some(leg), _) | (_, Some(leg)) =
        (announced(&superblocks, LegId::A), announced(&superblocks, LegId::B))
    {
        eprintln!("Leg {leg} is being discarded. To finish that: {}", discarding(paths, leg));
    }
    Ok(Exit::Success)
}

fn discard_leg(
    paths: &PerLeg<&Path>,
    leg: LegId,
    bitmap: Option<&Path>,
) -> std::result::Result<Exit, Failure> {
    let legs = open(paths)?;
    judge(&legs, paths)?;
    for (leg, dir) in legs.iter() {
        layout::check_writable(leg, dir)?;
    }
    let state = state_dirs(&legs)?;
    let lock = |leg: LegId| {
        waiting::own(paths[leg], || Owner::exclusive(state[leg].as_fd(), leg, paths[leg])).map_err(in_use)
    };
    let mut owners = PerLeg::from_fn(lock).transpose()?;
    let superblocks = judge(&legs, paths)?;
    check_kept(&superblocks, leg.other(), paths)?;
    LegId::ALL.into_iter().for_each(|leg| owners[leg].record());
    let found = find(&legs, &state, &superblocks)?;
    let chosen = Chosen::of(&found, leg);

    let mut discard = Discard::new(&legs, superblocks, leg, bitmap)?;
    discard.announce()?;
    let mut complain = |path: &Path, error: io::Error| {
        eprintln!("mirrorfs: cannot keep the metadata of the directory {}: {error}", path.display());
    };
    let aside = discard.move_aside(&chosen, &date(), &mut complain)?;
    discard.forget_marks()?;
    discard.hand_over()?;

    // It is done: whether anybody reads this does not change it.
    let _ = print_moved(&chosen);
    match aside {
        Some(aside) => eprintln!(
            "Leg {leg} is discarded: its versions of what differs ({} names, above) are in {}",
            chosen.moved.len(),
            paths[leg].join(aside).display()
        ),
        None => eprintln!("Leg {leg} is discarded: it had no version of its own of anything."),
    }
    let [a, b] = LegId::ALL.map(|leg| quoted(paths[leg]));
    eprintln!("The next mount makes it equal to leg {}: mirrorfs mount {a} {b} DIR", leg.other());
    Ok(Exit::Success)
}

fn print_moved(chosen: &Chosen) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for path in &chosen.moved {
        out.write_all(&one_line(path))?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn open(paths: &PerLeg<&Path>) -> Result<PerLeg<LegDir>> {
    let legs = PerLeg::from_fn(|leg| {
        LegDir::open(paths[leg])
            .map_err(|e| Refusal::Missing(leg, e.raw_os_error().unwrap_or(libc::EIO)).explain(paths))
    });
    let legs = legs.transpose()?;
    layout::check_pair(legs.as_ref())?;
    Ok(legs)
}

fn state_dirs(legs: &PerLeg<LegDir>) -> Result<PerLeg<OwnedFd>> {
    PerLeg::from_fn(|leg| legs[leg].state_dir().map_err(|e| cannot("open", leg, legs, e))).transpose()
}

/// The superblocks of two legs that have diverged. Any others are refused.
fn judge(legs: &PerLeg<LegDir>, paths: &PerLeg<&Path>) -> std::result::Result<PerLeg<Superblock>, Failure> {
    let found = PerLeg::from_fn(|leg| {
        superblock::store::read(legs[leg].as_fd()).map_err(|e| cannot("read the superblock of", leg, legs, e))
    });
    let found = found.transpose()?;
    match (superblock::plan(&found), found.map(superblock_in)) {
        (Err(Refusal::Divergent(_)), superblocks) => match superblocks.transpose() {
            Ok(superblocks) => Ok(superblocks),
            Err(()) => Err(Error::new("legs have diverged that have no superblock").into()),
        },
        (Err(refusal), _) => Err(refusal.explain(paths).into()),
        (Ok(plan), _) => Err(Failure::new(Exit::NotDivergent, not_divergent(&plan, paths))),
    }
}

fn superblock_in(found: Found) -> std::result::Result<Superblock, ()> {
    match found {
        Found::Leg { superblock, .. } => Ok(superblock),
        _ => Err(()),
    }
}

fn not_divergent(plan: &Plan, paths: &PerLeg<&Path>) -> Error {
    let [a, b] = LegId::ALL.map(|leg| quoted(paths[leg]));
    let next = match plan.stale {
        Some(stale) => format!("The next mount makes leg {stale} equal to leg {}", stale.other()),
        None => "Mount them".to_owned(),
    };
    Error::new(format!(
        "leg A at {} and leg B at {} have not diverged: there is nothing to resolve",
        paths[LegId::A].display(),
        paths[LegId::B].display()
    ))
    .hint(format!("{next}: mirrorfs mount {a} {b} DIR"))
}

/// A leg that is not complete cannot be made the source.
fn check_kept(superblocks: &PerLeg<Superblock>, kept: LegId, paths: &PerLeg<&Path>) -> Result<()> {
    if !superblocks[kept].is_announced() {
        return Ok(());
    }
    let what = Error::new(format!(
        "leg {kept} at {} cannot be kept: it is not complete, but was being made equal to leg {} or discarded",
        paths[kept].display(),
        kept.other()
    ));
    Err(if announced(superblocks, kept).is_some() {
        what.hint(format!("Discard that one: {}", discarding(paths, kept)))
    } else {
        what.hint(
            "Neither leg is. `mirrorfs compare` shows what differs; put together by hand what you want to keep \
             in one of them, empty the other, remove .mirrorfs on both and use `mirrorfs create --source`.",
        )
    })
}

/// This leg, if it is the one that is being discarded.
fn announced(superblocks: &PerLeg<Superblock>, leg: LegId) -> Option<LegId> {
    (superblocks[leg].is_announced() && !superblocks[leg.other()].is_announced()).then_some(leg)
}

fn discarding(paths: &PerLeg<&Path>, leg: LegId) -> String {
    let [a, b] = LegId::ALL.map(|leg| quoted(paths[leg]));
    format!("mirrorfs resolve {a} {b} --discard-leg {leg}")
}

/// All that differs. Says on stderr what the bitmaps cannot tell.
fn find(
    legs: &PerLeg<LegDir>,
    state: &PerLeg<OwnedFd>,
    superblocks: &PerLeg<Superblock>,
) -> Result<differing::Found> {
    let marks = PerLeg::from_fn(|leg| {
        Marks::read(state[leg].as_fd(), &superblocks[leg])
            .map_err(|e| cannot("read the bitmap of", leg, legs, e))
    });
    let marks = marks.transpose()?;
    for (leg, marks) in marks.iter() {
        if let Some(because) = &marks.silent_because {
            eprintln!("The bitmap of leg {leg} does not tell what has changed there: {because}.");
        }
    }
    let root = |leg: LegId| {
        let view = legs[leg].view().and_then(|view| object::open_dir(&File::from(view), OsStr::new(".")));
        view.map_err(|e| cannot("open", leg, legs, e))
    };
    let found = differing::find([root(LegId::A)?, root(LegId::B)?], &marks);
    found.map_err(|error| error.hint("Nothing has been changed."))
}

fn cannot(what: &str, leg: LegId, legs: &PerLeg<LegDir>, cause: io::Error) -> Error {
    Error::new(format!("cannot {what} leg {leg} at {}", legs[leg].path().display())).because(cause)
}

fn in_use(refused: Refused) -> Failure {
    match refused {
        Refused::InUse(_, error) => Failure::new(Exit::InUse, error),
        Refused::Failed(error) => error.into(),
    }
}

/// A name for what is moved aside now: `2026-11-26T150405Z`.
fn date() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    time::utc(i64::try_from(now).unwrap_or(0)).replace(':', "")
}
