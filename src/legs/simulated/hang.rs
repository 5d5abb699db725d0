//! A call that a leg does not answer until it is let go: what it does it does then, late.
//!
//! Whatever is on the leg may hang, its copy of the bitmap and its superblock too. A machine that dies meanwhile may
//! have done the call or not: the daemon is not gone before each call of it has come back or never will.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::Call;
use crate::sim::scheduler;
use crate::sync::{Condvar, Mutex, Rank};

/// How one leg hangs, once.
pub struct Hang {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Which call; `None`: whichever comes.
    call: Option<Call>,
    /// How many such calls are answered before.
    after: u64,
    /// Whatever is asked after it hangs as well.
    for_good: bool,
    /// Nothing hangs before.
    is_armed: bool,
    /// The one call that was to hang has come.
    has_begun: bool,
    let_go: bool,
    /// Calls that hang now.
    hanging: usize,
    late: u64,
}

impl Hang {
    /// The call after `after` others of its kind hangs; if `for_good`, all that come later do as well.
    pub fn new(call: Option<Call>, after: u64, for_good: bool) -> Arc<Hang> {
        let state = State {
            call,
            after,
            for_good,
            is_armed: false,
            has_begun: false,
            let_go: false,
            hanging: 0,
            late: 0,
        };
        Arc::new(Hang { state: Mutex::new(Rank::Leaf, state), changed: Condvar::new() })
    }

    /// From here on it may: a mount has begun by then, in which somebody sees to legs that hang.
    pub fn arm(&self) {
        self.state.lock().is_armed = true;
    }

    /// Everything that hangs goes on, and nothing does any more.
    pub fn let_go(&self) {
        self.state.lock().let_go = true;
        self.changed.notify_all();
    }

    /// Whether calls hang now.
    pub fn is_hanging(&self) -> bool {
        self.state.lock().hanging > 0
    }

    /// How many calls hung until they were let go.
    pub fn late(&self) -> u64 {
        self.state.lock().late
    }

    /// Returns at once, or when let go. `late` is what the call does: it may be done yet if the machine dies.
    pub fn pass(&self, call: Call, late: impl FnOnce()) {
        let mut state = self.state.lock();
        if !state.hits(call) {
            return;
        }
        state.hanging += 1;
        log::trace!("{call:?} hangs");
        let waited = catch_unwind(AssertUnwindSafe(|| {
            while !state.let_go {
                self.changed.wait(&mut state);
            }
        }));
        (state.hanging, state.late) = (state.hanging - 1, state.late + 1);
        drop(state);
        log::trace!("{call:?} goes on");
        if let Err(gone) = waited {
            if scheduler::choose(2) == 0 {
                late();
            }
            resume_unwind(gone);
        }
    }
}

impl State {
    fn hits(&mut self, call: Call) -> bool {
        if self.let_go || !self.is_armed {
            return false;
        }
        if self.has_begun {
            return self.for_good;
        }
        if self.call.is_some_and(|wanted| wanted != call) {
            return false;
        }
        let hits = self.after == 0;
        self.after = self.after.saturating_sub(1);
        self.has_begun = hits;
        hits
    }
}
