//! A mirror as the daemon's [`Service`]: its threads, and its state in the words of the report.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use super::events::{Event, Events, Name};
use super::filling::Filling;
use super::held::Held;
use super::request::Request;
use super::status::{Counters, Dirty, Leg, LegState, Neither, Resync, State, Status};
use super::waits::{BackingLeg, Waits};
use super::{LegPlace, MountRequest, Service, place, returning};
use crate::error::{Error, Result, errno};
use crate::fuse;
use crate::legs::timed::Calls;
use crate::legs::{LegId, PerLeg};
use crate::ops::{self, Herald, Mirror, MirrorState, News, Returning};
use crate::options::Degraded;
use crate::owner::Owner;
use crate::superblock::PeerState;

/// Event loops that answer the kernel: with one, a stat waits behind somebody's fsync.
const EVENT_LOOPS: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// How long threads that should end are waited for when one of them may be stuck in a leg.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A leg that is about to be taken in, with its lock.
pub(super) type Opened = (Returning<BackingLeg>, Owner);

/// A mirror being served. The locks on its legs end with [`shut_down`](Service::shut_down).
pub struct Served {
    this: Weak<Served>,
    pub(super) mirror: Arc<Mirror<BackingLeg>>,
    pub(super) mountpoint: PathBuf,
    caching: fuse::Caching,
    requests: Arc<fuse::Requests>,
    pub(super) auto_readd: bool,
    /// For `re-add` without a path, and for who waits for a leg to come back.
    pub(super) places: Mutex<PerLeg<LegPlace>>,
    pub(super) held: Held,
    pub(super) waits: Waits,
    /// One leg is taken in at a time.
    pub(super) readding: Mutex<()>,
    /// The last directory that was to take the place of a leg when it is complete.
    pub(super) filling: Mutex<Option<Filling>>,
    /// A leg that is to be taken in as soon as the mirror serves.
    pub(super) returns: Mutex<Option<LegId>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) events: Events,
    pub(super) ended: (Mutex<bool>, Condvar),
}

impl Served {
    /// Serves `mirror`, with the locks on its legs and what is asked of them. `returns` is there, and is to be taken in.
    pub fn new(
        mirror: Arc<Mirror<BackingLeg>>,
        request: &MountRequest,
        (owners, calls): (PerLeg<Option<Owner>>, PerLeg<Option<Calls>>),
        waits: Waits,
        events: &Events,
        returns: Option<LegId>,
    ) -> Arc<Served> {
        let served = Arc::new_cyclic(|this| Served {
            this: this.clone(),
            mirror,
            mountpoint: request.mountpoint.clone(),
            caching: request.options.caching,
            requests: Arc::default(),
            auto_readd: request.options.auto_readd,
            places: Mutex::new(request.legs.clone()),
            held: Held::new(owners, calls, waits.clone()),
            waits,
            readding: Mutex::default(),
            filling: Mutex::default(),
            returns: Mutex::new(returns),
            threads: Mutex::default(),
            events: events.clone(),
            ended: (Mutex::new(false), Condvar::new()),
        });
        let teller = Teller { events: events.clone(), served: served.this.clone() };
        served.mirror.set_herald(Arc::new(teller));
        for leg in LegId::ALL {
            served.held.calls(leg).iter().for_each(|calls| served.watch_over(leg, calls));
        }
        served
    }

    /// For threads that outlive whoever starts them.
    pub(super) fn this(&self) -> Weak<Served> {
        self.this.clone()
    }

    /// Has a leg left behind when it does not answer.
    pub(super) fn watch_over(&self, leg: LegId, calls: &Calls) {
        let (mirror, said) = (Arc::downgrade(&self.mirror), AtomicBool::new(false));
        let patience = Arc::downgrade(calls.patience());
        let is_given_up = move || patience.upgrade().is_none_or(|patience| patience.check().is_err());
        calls.patience().on_hung(Some(Arc::new(move || {
            let Some(mirror) = mirror.upgrade() else { return };
            let left = mirror.leg_hangs(leg, &is_given_up)
                || matches!(mirror.leg_state(leg), ops::LegState::Lost(_));
            if !left && !said.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "leg {leg} does not answer, and the mirror cannot do without it: the other one is away, is not up to \
                     date, or does not answer either. It is waited for: see to the network, or to the program behind it"
                );
            }
        })));
    }

    pub(super) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
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
            replacement: self.replacement(id),
            read_errors: errors.count,
            last_read_error: errors.last,
            ..Leg::default()
        };
        match self.mirror.leg_state(id) {
            ops::LegState::InSync => Leg { state: LegState::InSync, ..leg },
            ops::LegState::Lost(_) if self.is_returning(id) => Leg { state: LegState::Recovering, ..leg },
            ops::LegState::Resyncing => Leg { state: LegState::Recovering, ..leg },
            ops::LegState::Lost(lost) => Leg {
                state: if lost.missing { LegState::Missing } else { LegState::Faulted },
                reason: Some(match (lost.missing, lost.errno) {
                    (true, _) => self.mirror.why_lost(id).unwrap_or_else(|| self.why_missing(id)),
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

    /// Of a leg that was not there at the mount: the other one may know more.
    fn why_missing(&self, leg: LegId) -> String {
        let missing = "not there when the mirror was mounted";
        match self.mirror.superblock(leg.other()).map(|says| says.peer_state) {
            Some(PeerState::Stale { errno: number, .. }) if ![0, libc::ENODEV].contains(&number) => {
                format!("{missing}; it failed before: {}", errno(number))
            }
            _ => missing.to_owned(),
        }
    }

    /// Takes a leg in that was left behind, at `path` or where it was.
    /// Whether that has only begun: it is filled before.
    pub(super) fn readd(&self, leg: LegId, path: Option<PathBuf>) -> Result<bool> {
        let not_away = || Error::new(format!("leg {leg} is not away")).hint("\"mirrorfs status\" shows it.");
        self.check_not_filling()?;
        self.check_quiet(leg, not_away)?;
        let _one_at_a_time = self.readding.lock();
        self.check_not_filling()?;
        let places = self.places.lock().clone();
        let path = path.or_else(|| places[leg].path().map(Path::to_owned)).ok_or_else(|| {
            Error::new(format!("leg {leg} was mounted as \"missing\""))
                .hint("Say where it is: re-add DIR LEG PATH")
        })?;
        let opened = self.open_again(leg, &path, not_away)?;
        match self.mirror.is_to_be_filled(&opened.0) {
            true => self.fill(path, opened).map(|()| true),
            false => self.take_in_opened(path, opened).map(|()| false),
        }
    }

    /// Refuses a leg that is not away, or on which something is under way. Before the lock is taken: who lets go of
    /// the leg holds it, and may be stuck in the leg.
    pub(super) fn check_quiet(&self, leg: LegId, not_away: impl Fn() -> Error) -> Result<()> {
        match self.mirror.leg_state(leg) {
            ops::LegState::Lost(_) if self.held.is_quiet(leg) => Ok(()),
            ops::LegState::Lost(_) => Err(self.still_under_way(leg)),
            _ => Err(not_away()),
        }
    }

    /// Opens the leg that is at `path` again, if that ends in time. The caller holds the lock.
    fn open_again(&self, leg: LegId, path: &Path, not_away: impl Fn() -> Error) -> Result<Opened> {
        if !matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) {
            return Err(not_away());
        }
        let survivor = leg.other();
        let mut places = self.places.lock().clone();
        let (Some(says), Some(other)) = (self.mirror.superblock(survivor), places[survivor].path()) else {
            return Err(not_away());
        };
        let other = other.to_owned();
        places[leg] = LegPlace::At(path.to_owned());
        if !self.close(leg, self.held.calls(leg)) {
            return Err(self.still_under_way(leg));
        }
        let (path, mountpoint, waits) = (path.to_owned(), self.mountpoint.clone(), self.waits.clone());
        let events = self.events.clone();
        let opened = self.waits.within({
            let path = path.clone();
            move || {
                place::check_apart(&places, &mountpoint, Degraded::No)?;
                returning::open(leg, &path, (&other, &says), &waits, &events)
            }
        });
        opened.unwrap_or_else(|| {
            Err(self.waits.no_answer(leg, &path).hint(
                "It stays away. See to the network, or to the program behind it, and try again; \
                 nothing has been lost.",
            ))
        })
    }

    /// Takes in a leg that has been opened at `path`.
    pub(super) fn take_in_opened(&self, path: PathBuf, (returning, owner): Opened) -> Result<()> {
        let (leg, calls) = (returning.leg, returning.directory.calls());
        self.mirror.take_in(returning).map_err(|cause| returning::not_taken(leg, cause))?;
        self.watch_over(leg, &calls);
        self.held.take(leg, owner, calls);
        self.places.lock()[leg] = LegPlace::At(path);
        self.spawn_resync().map_err(|cause| Error::new("cannot start the resync").because(cause))
    }

    pub(super) fn still_under_way(&self, leg: LegId) -> Error {
        Error::new(format!(
            "leg {leg} cannot be taken back yet: requests from before ({}) are still under way on it",
            self.held.under_way(leg)
        ))
        .hint(
            "They could still change it. They end when its filesystem answers again, or is taken away: end the program \
             behind it, or umount -f. Then try again.",
        )
    }

    /// Lets go of a leg that was left behind, so that its filesystem can be unmounted and repaired.
    pub(super) fn let_go(&self, leg: LegId) {
        let _nobody_takes_it_in = self.readding.lock();
        if self.is_returning(leg) {
            return;
        }
        // ORDER: before it is known to be away: a new one may take its place just now.
        let old = self.held.calls(leg);
        if matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) && !self.close(leg, old) {
            log::warn!(
                "leg {leg} has requests under way that may change it yet: it is kept from others until they have ended"
            );
        }
    }

    /// Whether nothing of the leg is held any more.
    pub(super) fn close(&self, leg: LegId, old: Option<Calls>) -> bool {
        self.mirror.let_go(leg);
        self.held.let_go(leg, old.as_ref())
    }

    fn fail(&self, leg: LegId) -> Result<()> {
        if self.is_returning(leg) {
            let deadline = Instant::now() + LAST_WAIT;
            while self.is_returning(leg) && Instant::now() < deadline {
                // Again and again: it may not have begun when this is asked first.
                self.mirror.break_off_filling();
                std::thread::sleep(Duration::from_millis(10));
            }
            if self.is_returning(leg) {
                let error =
                    Error::new(format!("leg {leg} is being brought up to date, and that does not end"));
                return Err(error.hint(
                    "It ends as soon as a disk answers that does not now. Then \"mirrorfs status\" shows whether the leg is \
                     out; if it is not, try again.",
                ));
            }
            if matches!(self.mirror.leg_state(leg), ops::LegState::Lost(_)) {
                return Ok(());
            }
        }
        self.mirror.take_out(leg).map_err(|cause| {
            let hint = match self.mirror.leg_state(leg) {
                ops::LegState::Lost(_) => "It is out already: \"mirrorfs status\" shows since when.",
                _ => "The mirror cannot do without it: the other leg is away, or not up to date.",
            };
            Error::new(format!("cannot take leg {leg} out")).because(cause).hint(hint)
        })
    }
}

/// Passes the mirror's news on as events, and lets go of a leg that was left behind.
struct Teller {
    events: Events,
    served: Weak<Served>,
}

impl Teller {
    /// `detail`, and where that leg is.
    fn at(&self, leg: LegId, detail: &str) -> String {
        match self.served.upgrade() {
            Some(served) => format!("at {}: {detail}", served.places.lock()[leg]),
            None => detail.to_owned(),
        }
    }

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
                self.say(name, Some(leg), self.at(leg, &why));
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
                let why = match self.is_returning(leg) {
                    true => "everything on it is to be compared",
                    false => "not there at the mount",
                };
                let detail = format!("{why}; leg {} goes on alone", leg.other());
                self.events.tell(Event { name: Name::DegradedArray, leg: Some(leg), detail });
            }
        }
        if let Some(leg) = *self.returns.lock() {
            let this = self.this.clone();
            self.spawn("take-back", move || this.upgrade().into_iter().for_each(|this| this.take_back(leg)))?;
        }
        fuse::serve(self.mirror.clone(), device, EVENT_LOOPS, self.caching, self.requests.clone(), mounted)
    }

    fn command(&self, verb: &str, request: &Request) -> Option<Result<Value>> {
        let done = match verb {
            "fail" => request.leg().and_then(|leg| self.fail(leg)),
            "replace" => request.leg().and_then(|leg| self.replace(leg, request.needed_path()?)),
            "re-add" => request.leg().and_then(|leg| {
                self.check_not_about_to_return()?;
                self.readd(leg, request.path()?).map(drop)
            }),
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
            caching: self.caching,
            dirty: Dirty { slots: stats.dirty_slots, chunks: stats.dirty_chunks },
            counters: Counters {
                marks: stats.marks,
                flushes: stats.flushes,
                clears: stats.clears,
                resync_bytes_read: progress.bytes_read,
                resync_bytes_written: progress.bytes_written,
                requests: self.requests.by_kind(),
            },
            resync: Resync {
                // From the mount on: who asks before the resync's thread runs must not hear that all is done.
                active: progress.active || state == MirrorState::Resyncing || self.is_filling(),
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
        self.held.stop_waiting();
        self.give_up_what_is_filled_when_it_hangs();
        // One of them may have begun another.
        while let Some(thread) = { self.threads.lock().pop() } {
            self.end(thread);
        }
        let closed = self.mirror.close();
        self.held.let_go_of_all();
        closed.map_err(|cause| {
            Error::new("cannot record a clean unmount")
                .because(cause)
                .hint("Nothing is lost: the next mount makes the legs equal.")
        })
    }
}

impl Served {
    /// Waits for a thread that is about to end. Not for ever for one that is stuck in a leg that was given up.
    fn end(&self, thread: JoinHandle<()>) {
        let mut stuck_since = None;
        while !thread.is_finished() {
            if (self.held.is_stuck() || self.is_stuck())
                && stuck_since.get_or_insert_with(Instant::now).elapsed() > LAST_WAIT
            {
                log::warn!(
                    "a thread behind the mount is stuck in a leg that hangs: the mount ends without it"
                );
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if thread.join().is_err() {
            log::error!("a thread behind the mount ended with a panic");
        }
    }
}
