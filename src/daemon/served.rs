//! A mirror as the daemon's [`Service`]: its threads, and its state in the words of the report.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::events::{Event, Events, Name};
use super::request::Request;
use super::retry::Retry;
use super::status::{Counters, Dirty, Leg, LegState, Neither, Resync, State, Status};
use super::{LegPlace, MountRequest, Service, place, replacing, returning};
use crate::error::{Error, Result, errno};
use crate::fuse;
use crate::legs::{DirectoryLeg, LegId, PerLeg};
use crate::ops::{self, Herald, Mirror, MirrorState, News, Returning};
use crate::options::Degraded;
use crate::owner::Owner;

/// Event loops that answer the kernel: with one, a stat waits behind somebody's fsync.
const EVENT_LOOPS: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// How often it is looked whether a leg has come back, and how far a resync is.
const LOOK: Duration = Duration::from_secs(1);

/// A mirror being served. The locks on its legs end with it.
pub struct Served {
    this: Weak<Served>,
    mirror: Arc<Mirror<DirectoryLeg>>,
    mountpoint: PathBuf,
    auto_readd: bool,
    /// For `re-add` without a path, and for who waits for a leg to come back.
    places: Mutex<PerLeg<LegPlace>>,
    owners: Mutex<PerLeg<Option<Owner>>>,
    /// One leg is taken in at a time.
    readding: Mutex<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    events: Events,
    ended: (Mutex<bool>, Condvar),
}

impl Served {
    /// Serves `mirror`, of which `owners` are the locks.
    pub fn new(
        mirror: Arc<Mirror<DirectoryLeg>>,
        request: &MountRequest,
        owners: PerLeg<Option<Owner>>,
        events: &Events,
    ) -> Arc<Served> {
        let served = Arc::new_cyclic(|this| Served {
            this: this.clone(),
            mirror,
            mountpoint: request.mountpoint.clone(),
            auto_readd: request.options.auto_readd,
            places: Mutex::new(request.legs.clone()),
            owners: Mutex::new(owners),
            readding: Mutex::default(),
            threads: Mutex::default(),
            events: events.clone(),
            ended: (Mutex::new(false), Condvar::new()),
        });
        let teller = Teller { events: events.clone(), served: served.this.clone() };
        served.mirror.set_herald(Arc::new(teller));
        served
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    fn spawn_resync(&self) -> io::Result<()> {
        let mirror = self.mirror.clone();
        self.spawn("resync", move || {
            // The user's requests come first, for the processor too.
            if let Err(error) = rustix::process::nice(10) {
                log::info!("the resync runs at normal priority: {error}");
            }
            mirror.resync();
        })
    }

    fn leg(&self, id: LegId) -> Leg {
        let stats = self.mirror.bitmap_stats();
        let errors = self.mirror.read_errors(id);
        let leg = Leg {
            id: id.to_string(),
            path: self.places.lock()[id].to_string(),
            read_errors: errors.count,
            last_read_error: errors.last,
            ..Leg::default()
        };
        match self.mirror.leg_state(id) {
            ops::LegState::InSync => Leg { state: LegState::InSync, ..leg },
            ops::LegState::Resyncing => Leg { state: LegState::Recovering, ..leg },
            ops::LegState::Lost(lost) => Leg {
                state: if lost.missing { LegState::Missing } else { LegState::Faulted },
                reason: Some(match (lost.missing, lost.errno) {
                    (true, _) => "not there when the mirror was mounted".to_owned(),
                    (_, 0) => "taken out by hand".to_owned(),
                    (_, number) => self.mirror.why_lost(id).unwrap_or_else(|| errno(number).to_string()),
                }),
                errno: (lost.errno != 0 && !lost.missing).then(|| errno(lost.errno).to_string()),
                since: Some(lost.since.secs),
                missing_bytes: stats.bounded.then_some(stats.dirty_chunks * self.mirror.chunk_bytes()),
                missing_objects: (!stats.compare_all && stats.covered_directories == 0)
                    .then_some(stats.dirty_slots),
                ..leg
            },
        }
    }

    /// Takes a leg in that was left behind, at `path` or where it was.
    fn readd(&self, leg: LegId, path: Option<PathBuf>) -> Result<()> {
        let _one_at_a_time = self.readding.lock();
        let survivor = leg.other();
        let not_away = || Error::new(format!("leg {leg} is not away")).hint("\"mirrorfs status\" shows it.");
        if !matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) {
            return Err(not_away());
        }
        let places = self.places.lock().clone();
        let path = path.or_else(|| places[leg].path().map(Path::to_owned)).ok_or_else(|| {
            Error::new(format!("leg {leg} was mounted as \"missing\""))
                .hint("Say where it is: re-add DIR LEG PATH")
        })?;
        let (Some(says), Some(other)) = (self.mirror.superblock(survivor), places[survivor].path()) else {
            return Err(not_away());
        };
        self.check_apart(leg, &path)?;
        self.close(leg);
        let opened = returning::open(leg, &path, (other, &says), &self.events)?;
        self.take_in(leg, path, opened)
    }

    /// Puts a new directory at `path` in the place of a leg that was left behind.
    fn replace(&self, leg: LegId, path: PathBuf) -> Result<()> {
        let _one_at_a_time = self.readding.lock();
        let survivor = leg.other();
        let not_away = || {
            let [state, other] = [leg, survivor].map(|leg| self.mirror.leg_state(leg));
            replacing::not_away(leg, state, other, &self.mountpoint)
        };
        if self.mirror.state() == MirrorState::ReadOnly {
            return Err(returning::not_taken(leg, errno(libc::EROFS)));
        }
        if !matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) {
            return Err(not_away());
        }
        let other = self.places.lock()[survivor].clone();
        let (Some(says), Some(other)) = (self.mirror.superblock(survivor), other.path()) else {
            return Err(not_away());
        };
        self.check_apart(leg, &path)?;
        self.close(leg);
        let opened = replacing::open(leg, &path, (other, &says))?;
        self.take_in(leg, path, opened)
    }

    /// What is at `path`, as `leg`, is apart from the other one and from the mount.
    fn check_apart(&self, leg: LegId, path: &Path) -> Result<()> {
        let mut places = self.places.lock().clone();
        places[leg] = LegPlace::At(path.to_owned());
        place::check_apart(&places, &self.mountpoint, Degraded::No)
    }

    fn take_in(&self, leg: LegId, path: PathBuf, opened: (Returning<DirectoryLeg>, Owner)) -> Result<()> {
        let (returning, owner) = opened;
        self.mirror.take_in(returning).map_err(|cause| returning::not_taken(leg, cause))?;
        self.owners.lock()[leg] = Some(owner);
        self.places.lock()[leg] = LegPlace::At(path);
        self.spawn_resync().map_err(|cause| Error::new("cannot start the resync").because(cause))
    }

    /// Lets go of a leg that was left behind, so that its filesystem can be unmounted and repaired.
    fn let_go(&self, leg: LegId) {
        let _nobody_takes_it_in = self.readding.lock();
        if matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) {
            self.close(leg);
        }
    }

    fn close(&self, leg: LegId) {
        self.mirror.let_go(leg);
        let owner = self.owners.lock()[leg].take();
        drop(owner);
    }

    fn fail(&self, leg: LegId) -> Result<()> {
        self.mirror.take_out(leg).map_err(|cause| {
            let hint = match self.mirror.leg_state(leg) {
                ops::LegState::Lost(_) => "It is out already: \"mirrorfs status\" shows since when.",
                _ => "The mirror cannot do without it: the other leg is away, or not up to date.",
            };
            Error::new(format!("cannot take leg {leg} out")).because(cause).hint(hint)
        })
    }

    /// Looks after legs that are away, and tells how far a resync is, until the mount has ended.
    fn watch(&self) {
        let mut watch = Watch::default();
        loop {
            let mut ended = self.ended.0.lock();
            if !*ended {
                self.ended.1.wait_for(&mut ended, LOOK);
            }
            if *ended {
                return;
            }
            drop(ended);
            self.look(&mut watch);
        }
    }

    fn look(&self, watch: &mut Watch) {
        let progress = self.mirror.progress().report();
        let percent = (progress.bytes_done * 100).checked_div(progress.bytes_total).unwrap_or(0);
        if progress.active
            && let Some(name) = Name::rebuilt(watch.percent, percent)
        {
            self.events.tell(Event { name, leg: None, detail: format!("{percent} percent are done") });
        }
        watch.percent = if progress.active { percent } else { 0 };
        for leg in LegId::ALL {
            self.look_after(leg, &mut watch.legs[leg]);
        }
    }

    /// Whether a leg that is away has come back: it must have been seen gone before, or it would be taken in
    /// and fail over and over.
    fn look_after(&self, leg: LegId, seen: &mut Seen) {
        let ops::LegState::Lost(lost) = self.mirror.leg_state(leg) else {
            *seen = Seen::default();
            return;
        };
        let survivor = self.mirror.superblock(leg.other());
        let place = self.places.lock()[leg].clone();
        let (Some(path), Some(survivor)) = (place.path(), survivor) else { return };
        if lost.errno == 0 || seen.done || !seen.retry.is_due() {
            return;
        }
        if !returning::is_it(leg, path, &survivor) {
            seen.gone = true;
        } else if seen.gone || lost.missing {
            if !std::mem::replace(&mut seen.told, true) {
                let detail = format!("it is at {} again", path.display());
                self.events.tell(Event { name: Name::LegReturned, leg: Some(leg), detail });
            }
            // What is there is that leg: if it cannot be taken in now (somebody else holds it, its disk does not
            // answer as it should yet), it perhaps can be soon.
            seen.done = !self.auto_readd;
            if self.auto_readd {
                match self.readd(leg, None) {
                    Ok(()) => seen.done = true,
                    Err(error) if seen.retry.failed() => {
                        log::error!("leg {leg} is not taken back yet, and will be tried again: {error}");
                    }
                    Err(error) => log::debug!("leg {leg} is not taken back yet: {error}"),
                }
            }
        }
    }
}

/// What the watch has seen.
#[derive(Default)]
struct Watch {
    percent: u64,
    legs: PerLeg<Seen>,
}

/// Of a leg that is away.
#[derive(Default)]
struct Seen {
    gone: bool,
    told: bool,
    /// Nothing is left to do until its state changes.
    done: bool,
    retry: Retry,
}

/// Passes the mirror's news on as events, and lets go of a leg that was left behind.
struct Teller {
    events: Events,
    served: Weak<Served>,
}

impl Teller {
    fn say(&self, name: Name, leg: Option<LegId>, detail: impl Into<String>) {
        self.events.tell(Event { name, leg, detail: detail.into() });
    }
}

impl Herald for Teller {
    fn tell(&self, news: News) {
        match news {
            News::Left { leg, errno: number, recovering, why } => {
                let name = if recovering { Name::FailSpare } else { Name::Fail };
                let why = why.unwrap_or_else(|| match number {
                    0 => "taken out by hand".to_owned(),
                    number => errno(number).to_string(),
                });
                self.say(name, Some(leg), why);
                self.say(Name::DegradedArray, Some(leg), format!("leg {} goes on alone", leg.other()));
                // What is open on a leg that hangs may never be closed: nobody waits for this.
                let served = self.served.clone();
                let letting_go = std::thread::Builder::new().name("let-go".to_owned());
                if let Err(error) = letting_go
                    .spawn(move || served.upgrade().into_iter().for_each(|served| served.let_go(leg)))
                {
                    log::warn!("leg {leg} stays open: {error}");
                }
            }
            News::Recovering(leg) => {
                self.say(Name::RebuildStarted, Some(leg), "it is made equal to the other leg")
            }
            News::Recovered { leg, returned, because: None } => {
                self.say(Name::RebuildFinished, Some(leg), "all is done");
                if returned {
                    self.say(Name::SpareActive, Some(leg), "it is up to date");
                }
            }
            News::Recovered { leg, because: Some(why), .. } => {
                self.say(Name::RebuildFinished, Some(leg), format!("broken off: {why}"));
            }
            News::ReadError { leg, told } => self.say(Name::ReadError, Some(leg), told),
            News::Neither(what) => self.say(Name::NeitherLeg, None, what),
            News::ReadOnly(reason) => self.say(Name::ReadOnly, None, reason),
        }
    }
}

impl Service for Served {
    fn serve(&self, device: OwnedFd, mounted: &mut dyn FnMut()) -> io::Result<()> {
        self.spawn_resync()?;
        let mirror = self.mirror.clone();
        self.spawn("sweep", move || mirror.sweep_until_stopped())?;
        let this = self.this.clone();
        self.spawn("watch", move || this.upgrade().into_iter().for_each(|this| this.watch()))?;
        for leg in LegId::ALL {
            if matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) {
                let detail = format!("not there at the mount; leg {} goes on alone", leg.other());
                self.events.tell(Event { name: Name::DegradedArray, leg: Some(leg), detail });
            }
        }
        fuse::serve(self.mirror.clone(), device, EVENT_LOOPS, mounted)
    }

    fn command(&self, verb: &str, request: &Request) -> Option<Result<Value>> {
        let done = match verb {
            "fail" => request.leg().and_then(|leg| self.fail(leg)),
            "replace" => request.leg().and_then(|leg| self.replace(leg, request.needed_path()?)),
            "re-add" => request.leg().and_then(|leg| self.readd(leg, request.path()?)),
            _ => return None,
        };
        Some(done.map(|()| Value::Null))
    }

    fn status(&self) -> Status {
        let stats = self.mirror.bitmap_stats();
        let progress = self.mirror.progress().report();
        let state = self.mirror.state();
        let neither = self.mirror.neither();
        Status {
            state: match state {
                MirrorState::Clean => State::Clean,
                MirrorState::Active => State::Active,
                MirrorState::Resyncing => State::Resyncing,
                MirrorState::Degraded => State::Degraded,
                MirrorState::ReadOnly => State::Readonly,
            },
            reason: self.mirror.reason(),
            since: None,
            legs: LegId::ALL.map(|leg| self.leg(leg)).into(),
            neither: (neither.count > 0).then_some(Neither {
                count: neither.count,
                last: neither.last,
                what: neither.what,
            }),
            dirty: Dirty { slots: stats.dirty_slots, chunks: stats.dirty_chunks },
            counters: Counters {
                marks: stats.marks,
                flushes: stats.flushes,
                clears: stats.clears,
                resync_bytes_read: progress.bytes_read,
                resync_bytes_written: progress.bytes_written,
            },
            resync: Resync {
                // From the mount on: who asks before the resync's thread runs must not hear that all is done.
                active: progress.active || state == MirrorState::Resyncing,
                done_objects: progress.objects_done,
                total_objects: progress.objects_total,
                done_bytes: progress.bytes_done,
                total_bytes: progress.bytes_total,
                rate_bytes_per_s: progress.rate,
                eta_s: progress.left.map(|left| left.as_secs()),
            },
        }
    }

    fn shut_down(&self) -> Result<()> {
        *self.ended.0.lock() = true;
        self.ended.1.notify_all();
        self.mirror.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                log::error!("a thread behind the mount ended with a panic");
            }
        }
        self.mirror.close().map_err(|cause| {
            Error::new("cannot record a clean unmount")
                .because(cause)
                .hint("Nothing is lost: the next mount makes the legs equal.")
        })
    }
}
