//! `bad-leg DIRECTORY MOUNTPOINT`: shows a directory through FUSE, and misbehaves when told to.
//!
//! A test tool, never installed. Everything goes to the directory unchanged, without caches, until
//! commands come on stdin, a line each. Each is answered by a line: `ok`, `ok NUMBER` or `error WHY`.
//!
//! | command | |
//! |---|---|
//! | `fail OPS ERRNO [in WORD] [after N] [times N]` | these operations give this errno (a number) and do nothing |
//! | `delay OPS MS ...` | they take so much longer |
//! | `hang OPS ...` | they do not return |
//! | `release` | what hangs or is delayed goes on and is done, late; nothing hangs any more |
//! | `heal` | as `release`, and nothing fails any more |
//! | `hanging` | how many requests hang right now |
//! | `count OPS` | how many requests for these operations have come so far |
//!
//! OPS are names of operations, separated by commas (`write,fsync`), or `all`, `changes`, `setattr`,
//! `sync`; see `faults.rs`. WORD is looked for in the path below the directory: `in .mirrorfs/bitmap`.
//! The first rule that a request meets counts.
//!
//! A request that waits does so on a thread of its own: whatever hangs, everything else goes on.
//! When stdin ends or the thread that started it does (the test has ended, however), or on SIGTERM, it
//! unmounts and exits.

mod directory;
mod faults;
mod filesystem;

use std::io::{self, BufRead, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use directory::Directory;
use faults::Faults;
use filesystem::BadLeg;

/// How mountinfo shows it.
const FSTYPE: &str = "fuse.bad-leg";

fn main() -> ExitCode {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, mountpoint] = words.as_slice() else {
        eprintln!("usage: bad-leg DIRECTORY MOUNTPOINT");
        return ExitCode::FAILURE;
    };
    match run(directory, mountpoint) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bad-leg {} {}: {error}", directory.display(), mountpoint.display());
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, mountpoint: &Path) -> io::Result<()> {
    // A test that is killed while one of its own requests hangs here keeps its end of stdin open.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // A descriptor for each object that the kernel knows.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let directory = Directory::open(directory)?;
    let faults = Arc::new(Faults::default());
    let leg = BadLeg::new(directory, faults.clone());

    // Not by fuser: its unmounting takes away what lies underneath, too.
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other\0",
        device.as_raw_fd()
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(io::Error::other)?;
    rustix::mount::mount("bad-leg", mountpoint, FSTYPE, MountFlags::empty(), Some(options))?;

    let mut config = Config::default();
    config.n_threads = Some(4);
    let session = Session::from_fd(leg, device, SessionACL::All, config)?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let leave = leaving(mountpoint);
    std::thread::spawn(move || signals.forever().next().map(|_| leave()));
    let leave = leaving(mountpoint);
    std::thread::spawn(move || {
        obey(&faults);
        leave();
    });
    session.run()
}

/// Unmounts and ends the process, whatever hangs.
fn leaving(mountpoint: &Path) -> impl Fn() + Send + 'static {
    let mountpoint = mountpoint.to_owned();
    move || {
        // FAIL-SAFE: if it is not mounted any more, there is nothing to take away.
        let _ = rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        std::process::exit(0);
    }
}

/// Does what stdin says, until it ends.
fn obey(faults: &Faults) {
    let mut stdout = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let answer = match command(faults, &line) {
            Ok(None) => "ok".to_owned(),
            Ok(Some(number)) => format!("ok {number}"),
            Err(why) => format!("error {why}"),
        };
        if writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}

fn command(faults: &Faults, line: &str) -> Result<Option<u64>, String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["release"] => faults.release(),
        ["heal"] => faults.heal(),
        ["hanging"] => return Ok(Some(faults.hanging())),
        ["count", ops] => return Ok(Some(faults.count(&faults::parse_operations(ops)?))),
        _ => faults.add(line.parse()?),
    }
    Ok(None)
}
