//! The life of a mount: from the request to the clean end.
//!
//! ```text
//! run       look at the mount point          nothing changed yet, errors are printed at once
//!   fork    parent waits at a pipe           (stays one process with -f)
//!   harden  memory, limits, umask
//!   look    at the legs: do they answer, are they apart?
//!   events  a thread that runs the program of -o on_event
//!   start   locks, superblocks, plan         waits for a daemon that is just ending
//!   clear   dead mirrors off the mount point
//!   attach  mount(2) or fusermount3
//!   serve   "mounted" to the parent; until umount or a signal
//!   shut_down                                legs clean
//!   flush                                    the last events; exit 0
//! ```
//!
//! The mirror itself is behind [`Service`]. ORDER: the legs are opened before a dead mirror is
//! taken away, so that a mount that is refused leaves everything as it was; threads are made only
//! after the fork.

pub mod attach;
pub mod background;
mod bitmap_files;
pub mod control;
pub mod events;
mod filling;
pub mod fusermount;
pub mod hardening;
pub mod held;
pub mod legplace;
pub mod logging;
pub mod mountinfo;
pub mod open;
pub mod place;
mod replacing;
pub mod request;
mod retry;
mod returning;
mod served;
pub mod service;
pub mod signals;
pub mod spec;
pub mod status;
pub mod waiting;
pub mod waits;
mod watch;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use legplace::LegPlace;
pub use service::{Service, Start, StartError};

use crate::cli::exit::Failure;
use crate::error::{Error, Result};
use crate::legs::PerLeg;
use crate::options::MountOptions;
use attach::Attached;
use background::{Readiness, Side};
use control::Listening;
use events::Events;
use logging::Destination;
use place::There;

/// How long the last events may keep a daemon whose mount is gone.
const LAST_EVENTS: Duration = Duration::from_secs(30);

/// What to mount, where and how. Paths are absolute.
#[derive(Clone, Debug)]
pub struct MountRequest {
    /// The backing directories, as the user named them. At least one is not missing.
    pub legs: PerLeg<LegPlace>,
    /// The mount point, without symlinks.
    pub mountpoint: PathBuf,
    /// What `-o` said.
    pub options: MountOptions,
    /// Stay in the foreground and log to stderr.
    pub foreground: bool,
}

impl MountRequest {
    /// Makes all paths absolute: the daemon leaves the current directory.
    ///
    /// # Errors
    /// Both legs are missing, or a path cannot be made absolute.
    pub fn new(legs: PerLeg<LegPlace>, mountpoint: &Path, mut options: MountOptions) -> Result<MountRequest> {
        if legs.iter().all(|(_, place)| *place == LegPlace::Missing) {
            return Err(Error::new("both legs are missing: there is nothing to mount")
                .hint("Name at least one; a directory that is called \"missing\" is written ./missing."));
        }
        let absolute = |path: PathBuf| {
            std::path::absolute(&path).map_err(|cause| {
                Error::new(format!("cannot make {} an absolute path", path.display())).because(cause)
            })
        };
        let legs = legs.map(|place| match place {
            LegPlace::At(path) => absolute(path).map(LegPlace::At),
            LegPlace::Missing => Ok(LegPlace::Missing),
        });
        let legs = legs.transpose()?;
        options.bitmap = options.bitmap.map(absolute).transpose()?;
        options.log = options.log.map(absolute).transpose()?;
        Ok(MountRequest { legs, mountpoint: place::resolve(mountpoint)?, options, foreground: false })
    }
}

/// Mounts, and returns when that has succeeded (to the shell) or when the mount has ended (in the
/// process that serves).
pub fn run(request: &MountRequest, start: Start) -> std::result::Result<(), Failure> {
    if request.options.remount {
        return Ok(attach::remount(&request.mountpoint, &request.options)?);
    }
    check_place(request)?;
    let mut readiness = match background::start(request.foreground)? {
        Side::Parent(outcome) => return outcome,
        Side::Daemon(readiness) => readiness,
    };
    match live(request, start, &mut readiness) {
        Ok(()) => Ok(()),
        Err(failure) => match readiness.failed(failure) {
            Some(failure) => {
                if !request.foreground {
                    log::error!("{failure}");
                }
                Err(failure)
            }
            // The parent prints it; this process has nobody to tell.
            None => Ok(()),
        },
    }
}

/// Refuses what can be refused by looking only. What mount(8) asks for with `-f`.
pub fn check(request: &MountRequest) -> std::result::Result<(), Failure> {
    check_place(request)?;
    check_legs(request)
}

fn check_place(request: &MountRequest) -> std::result::Result<(), Failure> {
    place::check(&request.mountpoint)?;
    match &request.options.on_event {
        Some(program) => Ok(events::check(program)?),
        None => Ok(()),
    }
}

/// ORDER: by the process that is to serve. One that has asked a leg which hangs cannot end before that
/// answers, and somebody waits for the end of the other one.
fn check_legs(request: &MountRequest) -> std::result::Result<(), Failure> {
    waits::check_answers(&request.legs, request.options.leg_timeout)?;
    Ok(place::check_apart(&request.legs, &request.mountpoint, request.options.degraded)?)
}

fn live(request: &MountRequest, start: Start, readiness: &mut Readiness) -> std::result::Result<(), Failure> {
    logging::start(match request.foreground {
        true => Destination::Foreground,
        false => Destination::Background(request.options.log.as_deref()),
    })?;
    crate::fuse::abort_on_panic();
    hardening::apply();
    check_legs(request)?;
    let events = Events::start(request.options.on_event.clone(), &request.mountpoint);
    let outcome = open_and_serve(request, start, &events, readiness);
    // ORDER: after the legs have been let go of, for which the next mount may be waiting.
    events.flush(LAST_EVENTS);
    outcome
}

fn open_and_serve(
    request: &MountRequest,
    start: Start,
    events: &Events,
    readiness: &mut Readiness,
) -> std::result::Result<(), Failure> {
    let service = waiting::start(request, events, start)?;
    let served = mount(request, &service).and_then(|mounted| serve(&*service, mounted, readiness));
    // FAIL-SAFE: also after a session that broke off; what could not be settled stays dirty.
    let ended = service.shut_down();
    if let Err(error) = &ended {
        log::error!("not shut down cleanly: {error}");
    }
    served?;
    ended?;
    log::info!("{} is unmounted, both legs are closed", request.mountpoint.display());
    Ok(())
}

/// What a mount needs while it is served.
struct Mounted {
    device: OwnedFd,
    attached: Attached,
    _control: Option<Listening>,
}

/// Mounts, and gets ready whatever must be there before the first request.
fn mount(request: &MountRequest, service: &Arc<dyn Service>) -> std::result::Result<Mounted, Failure> {
    let shown = request.mountpoint.display();
    let signals = signals::catch().map_err(|e| Error::new("cannot catch signals").because(e))?;
    if place::look(&request.mountpoint)? != There::Free {
        let taken = place::clear(&request.mountpoint)?;
        log::info!("took away {taken} dead mirror(s) from {shown}: \"Transport endpoint is not connected\"");
    }
    let source = spec::join(&request.legs);
    let (device, attached) = attach::attach(&request.mountpoint, &source, &request.options)?;
    let control = control::serve(service.clone(), attached.device(), shown.to_string())
        .inspect_err(|error| {
            log::warn!("no control socket: {error}; \"mirrorfs status {shown}\" will not work");
        })
        .ok();
    if let Err(cause) = signals.watch(attached.clone()) {
        detach_after_error(&attached);
        return Err(Error::new("cannot watch for signals").because(cause).into());
    }
    log::info!("{} mounted on {shown}", source.display());
    Ok(Mounted { device, attached, _control: control })
}

fn serve(
    service: &dyn Service,
    mounted: Mounted,
    readiness: &mut Readiness,
) -> std::result::Result<(), Failure> {
    service.serve(mounted.device, &mut || readiness.mounted()).map_err(|cause| {
        detach_after_error(&mounted.attached);
        let what = format!("the session on {} broke off", mounted.attached.mountpoint().display());
        Failure::from(Error::new(what).because(cause))
    })
}

fn detach_after_error(attached: &Attached) {
    if let Err(error) = attached.detach_lazily() {
        log::warn!("{error}");
    }
}
