//! One piece of work that somebody else does, and who waits for its answer.
//!
//! ```text
//!   UnderWay --answer--> Brought --delivered--> Answered --taken--> Over
//!      `------ too late, or called off ---------------------------> Over
//! ```
//!
//! From Brought on the answer is certain: whoever waits, also at the end of its time, gets it. What comes
//! when all is over is handed back to the one who brings it, to be dropped there: what it holds may be
//! slow to let go of.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::error::errno;
use crate::sync::{Condvar, Mutex, Rank, now};

/// What came of the work, a panic included.
type Answer<T> = std::thread::Result<io::Result<T>>;

enum State<T> {
    UnderWay,
    /// Nothing that can block lies between this and the next.
    Brought(Answer<T>),
    Answered(Answer<T>),
    /// Nobody waits any more: taken, too late, or called off with this errno.
    Over(i32),
}

/// An errand, shared by the one who waits and the one who does it.
pub struct Errand<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// Whoever waits for an errand, whatever its answer is.
pub trait Waiter: Send + Sync {
    /// Hands it the answer that was brought.
    fn deliver(&self);

    /// Makes it return with this errno, unless the answer is there.
    fn call_off(&self, number: i32);
}

/// What a courier does.
pub trait Job: Send {
    /// Does it, and returns whom to deliver the answer to. A job that is dropped instead is answered with EAGAIN.
    fn run(self: Box<Self>) -> Option<Arc<dyn Waiter>>;
}

impl<T: Send + 'static> Errand<T> {
    /// Nothing has been done yet.
    pub fn new() -> Arc<Errand<T>> {
        Arc::new(Errand { state: Mutex::new(Rank::Leaf, State::UnderWay), changed: Condvar::new() })
    }

    /// The work, for a courier.
    pub fn job<W>(self: &Arc<Self>, work: W) -> Box<dyn Job>
    where
        W: FnOnce() -> io::Result<T> + Send + 'static,
    {
        Box::new(Task { errand: self.clone(), work: Some(work) })
    }

    /// The answer, waited for at most so long; for ever if `None`. `None` when it is not there yet. A
    /// panic of the work goes on here.
    pub fn wait(&self, time: Option<Duration>) -> Option<io::Result<T>> {
        let end = time.map(|time| now() + time);
        let mut state = self.state.lock();
        loop {
            match &*state {
                State::UnderWay | State::Brought(_) => {}
                State::Over(number) => return Some(Err(errno(*number))),
                State::Answered(_) => break,
            }
            match end.map(|end| end.saturating_duration_since(now())) {
                None => self.changed.wait(&mut state),
                Some(Duration::ZERO) => return None,
                Some(left) => self.changed.wait_for(&mut state, left),
            }
        }
        let taken = std::mem::replace(&mut *state, State::Over(libc::EIO));
        drop(state);
        match taken {
            State::Answered(Ok(answer)) => Some(answer),
            State::Answered(Err(panic)) => resume_unwind(panic),
            State::UnderWay | State::Brought(_) | State::Over(_) => None,
        }
    }

    /// The answer if it is there after all, else this errno: from now on an answer is too late.
    pub fn close(&self, number: i32) -> io::Result<T> {
        self.call_off(number);
        self.wait(None).unwrap_or_else(|| Err(errno(number)))
    }

    /// Brings the answer; gives it back if nobody wants it any more.
    fn put(&self, answer: Answer<T>) -> Result<(), Answer<T>> {
        let mut state = self.state.lock();
        match *state {
            State::UnderWay => {
                *state = State::Brought(answer);
                Ok(())
            }
            _ => Err(answer),
        }
    }
}

impl<T: Send + 'static> Waiter for Errand<T> {
    fn deliver(&self) {
        let mut state = self.state.lock();
        *state = match std::mem::replace(&mut *state, State::UnderWay) {
            State::Brought(answer) => State::Answered(answer),
            other => other,
        };
        drop(state);
        self.changed.notify_all();
    }

    fn call_off(&self, number: i32) {
        let mut state = self.state.lock();
        if let State::UnderWay = *state {
            *state = State::Over(number);
        }
        drop(state);
        self.changed.notify_all();
    }
}

struct Task<T: Send + 'static, W> {
    errand: Arc<Errand<T>>,
    /// Here until it is done.
    work: Option<W>,
}

impl<T, W> Job for Task<T, W>
where
    T: Send + 'static,
    W: FnOnce() -> io::Result<T> + Send,
{
    fn run(mut self: Box<Self>) -> Option<Arc<dyn Waiter>> {
        let work = self.work.take()?;
        match self.errand.put(catch_unwind(AssertUnwindSafe(work))) {
            Ok(()) => Some(self.errand.clone()),
            // Too late: dropped here, by the courier, however long that takes.
            Err(_late) => None,
        }
    }
}

impl<T: Send + 'static, W> Drop for Task<T, W> {
    fn drop(&mut self) {
        // Nobody could be found to do it: no answer would let its owner wait in vain.
        if self.work.is_some() {
            self.errand.call_off(libc::EAGAIN);
        }
    }
}
