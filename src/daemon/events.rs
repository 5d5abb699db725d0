//! Telling people and programs what happens to the mirror: each event goes to the log once, and to the
//! program that `-o on_event` names.
//!
//! ```text
//!   tell -> log
//!        -> queue (bounded) -> thread "events" -> PROGRAM NAME MIRROR LEG DETAIL, one after another
//! ```
//!
//! Whoever tells an event may be answering a request: [`Events::tell`] never waits for the program.
//! When the program falls so far behind that the queue is full, the event is only logged, and counted.

pub mod name;
mod program;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::{Condvar, Mutex};
use rustix::fs::Mode;

pub use name::Name;
pub use program::check;

use crate::legs::LegId;
use crate::shell::quoted;
use crate::sys::creds;

/// Events that may wait for the program.
const QUEUE: usize = 256;
/// How long the program may take for one event.
const LIMIT: Duration = Duration::from_secs(60);
/// For the files that the program makes; the daemon itself has none.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Something that happened to the mirror or to one of its legs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub name: Name,
    /// To which leg, if to one.
    pub leg: Option<LegId>,
    /// The rest of it, for people: where the leg is, the errno's text, the file.
    pub detail: String,
}

impl Event {
    /// The line in the log: what, to whom, why, and what to do.
    fn line(&self, mirror: &OsStr) -> String {
        let row = self.name.row();
        let of = self.leg.map_or(String::new(), |leg| format!("leg {leg} of "));
        // A file's name may hold a line break, and the log is read line by line.
        let detail: String = self.detail.chars().map(one_line).collect();
        let mut line = format!("{:?}: {of}{}: {detail}", self.name, mirror.display());
        if !row.action.is_empty() {
            let leg = self.leg.map_or("LEG".to_owned(), |leg| leg.to_string());
            line.push_str(". ");
            line.push_str(&row.action.replace("LEG", &leg).replace("DIR", &quoted(mirror)));
        }
        line
    }

    /// What the program is called with.
    fn words(&self, mirror: &OsStr) -> [OsString; 4] {
        let leg = self.leg.map_or("-".to_owned(), |leg| leg.to_string());
        [format!("{:?}", self.name).into(), mirror.to_owned(), leg.into(), self.detail.clone().into()]
    }
}

fn one_line(c: char) -> char {
    if c.is_control() { '?' } else { c }
}

/// Where events are told. Clones tell the same program.
#[derive(Clone, Debug)]
pub struct Events {
    mirror: Arc<OsStr>,
    queue: Option<Queue>,
}

#[derive(Clone, Debug)]
struct Queue {
    sender: Sender<Event>,
    state: Arc<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Events that the program has not been run for to its end. Never held over anything that waits.
    left: Mutex<usize>,
    all_done: Condvar,
    dropped: AtomicU64,
}

impl Events {
    /// Events of the mirror at the mount point `mirror`, for `program` if there is one.
    pub fn start(program: Option<PathBuf>, mirror: impl Into<OsString>) -> Events {
        Events::limited(program, mirror.into(), QUEUE, LIMIT)
    }

    /// They go to the log, and nowhere else.
    pub fn none() -> Events {
        Events { mirror: OsString::from("the mirror").into(), queue: None }
    }

    /// They go to whoever holds the other end, up to [`QUEUE`]: for tests.
    pub fn kept() -> (Events, Receiver<Event>) {
        let (sender, receiver) = bounded(QUEUE);
        let queue = Some(Queue { sender, state: Arc::default() });
        (Events { queue, ..Events::none() }, receiver)
    }

    fn limited(program: Option<PathBuf>, mirror: OsString, queue: usize, limit: Duration) -> Events {
        let mirror: Arc<OsStr> = mirror.into();
        let queue = program.and_then(|program| {
            let (sender, receiver) = bounded::<Event>(queue);
            let state: Arc<QueueState> = Arc::default();
            let (mirror, done) = (mirror.clone(), state.clone());
            let work = move || {
                if let Err(error) = creds::own_umask(UMASK) {
                    log::info!("{} is run without a umask: {error}", program.display());
                }
                for event in receiver {
                    program::run(&program, &event.words(&mirror), limit);
                    done.one_is_done();
                }
            };
            match std::thread::Builder::new().name("events".to_owned()).spawn(work) {
                Ok(_) => Some(Queue { sender, state }),
                Err(error) => {
                    log::error!("cannot start a thread for events, which go to the log only: {error}");
                    None
                }
            }
        });
        Events { mirror, queue }
    }

    /// Says it. Does not wait for anybody.
    pub fn tell(&self, event: Event) {
        log::log!(event.name.row().level, "{}", event.line(&self.mirror));
        let Some(queue) = &self.queue else { return };
        *queue.state.left.lock() += 1;
        let Err(error) = queue.sender.try_send(event) else { return };
        queue.state.one_is_done();
        let dropped = queue.state.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        let (why, event) = match error {
            TrySendError::Full(event) => ("has too many events to work on", event),
            TrySendError::Disconnected(event) => ("is gone", event),
        };
        log::warn!("the event program {why}: {:?} is not passed on ({dropped} so far)", event.name);
    }

    /// How many events the program did not get.
    pub fn dropped(&self) -> u64 {
        self.queue.as_ref().map_or(0, |queue| queue.state.dropped.load(Ordering::Relaxed))
    }

    /// Waits until the program has been run for all that was told, `patience` at most. False when
    /// some is left.
    pub fn flush(&self, patience: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let deadline = Instant::now() + patience;
        let mut left = queue.state.left.lock();
        while *left > 0 {
            if queue.state.all_done.wait_until(&mut left, deadline).timed_out() && *left > 0 {
                log::warn!("the event program has not worked on the last {} event(s)", *left);
                return false;
            }
        }
        true
    }
}

impl QueueState {
    fn one_is_done(&self) {
        let mut left = self.left.lock();
        *left -= 1;
        if *left == 0 {
            self.all_done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
