//! An open file of a leg that may hang. Closing it can block like a write: a network filesystem sends then
//! what it has kept, a FUSE filesystem is asked.
//!
//! Files are closed one after another by a courier per leg, which is not waited for. On a hung leg they
//! pile up behind the first, and cost a descriptor each, not a thread.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use super::patience::Patience;
use super::watch::Watch;
use crate::sync::{Mutex, Rank};

/// A file of the leg below, shared with the couriers that use it.
pub struct File<F: Send + Sync + 'static> {
    /// `None` only while it is being dropped.
    file: Option<Arc<F>>,
    closing: Closing<F>,
}

impl<F: Send + Sync + 'static> File<F> {
    pub(super) fn new(file: F, closing: &Closing<F>) -> Self {
        File { file: Some(Arc::new(file)), closing: closing.clone() }
    }

    fn shared(&self) -> &Arc<F> {
        self.file.as_ref().expect("it is here until the last use, which is dropping it")
    }

    /// For a courier.
    pub(super) fn share(&self) -> Arc<F> {
        self.shared().clone()
    }
}

impl<F: Send + Sync + 'static> Deref for File<F> {
    type Target = F;
    fn deref(&self) -> &F {
        self.shared()
    }
}

impl<F: Send + Sync + 'static> Drop for File<F> {
    fn drop(&mut self) {
        // If a courier still uses it, that one closes it when it is back.
        if let Some(file) = self.file.take().and_then(Arc::into_inner) {
            self.closing.close(file);
        }
    }
}

/// How the files of one leg are closed. Clones are the same.
pub(super) enum Closing<F> {
    InPlace(Arc<Watch>),
    ByCourier(Arc<Queue<F>>),
}

impl<F> Clone for Closing<F> {
    fn clone(&self) -> Self {
        match self {
            Closing::InPlace(watch) => Closing::InPlace(watch.clone()),
            Closing::ByCourier(queue) => Closing::ByCourier(queue.clone()),
        }
    }
}

/// Files that wait to be closed.
pub(super) struct Queue<F> {
    patience: Arc<Patience>,
    state: Mutex<State<F>>,
}

struct State<F> {
    waiting: VecDeque<F>,
    /// A courier is at it, or on its way.
    busy: bool,
}

impl<F: Send + Sync + 'static> Closing<F> {
    pub(super) fn in_place(watch: Arc<Watch>) -> Self {
        Closing::InPlace(watch)
    }

    pub(super) fn by_courier(patience: Arc<Patience>) -> Self {
        let state = Mutex::new(Rank::Leaf, State { waiting: VecDeque::new(), busy: false });
        Closing::ByCourier(Arc::new(Queue { patience, state }))
    }

    fn close(&self, file: F) {
        match self {
            Closing::InPlace(watch) => watch.during(|| drop(file)),
            Closing::ByCourier(queue) => {
                let mut state = queue.state.lock();
                state.waiting.push_back(file);
                let begin = !std::mem::replace(&mut state.busy, true);
                drop(state);
                if begin {
                    let at_work = queue.clone();
                    queue.patience.leave_to_a_courier(move || at_work.close_all());
                }
            }
        }
    }
}

impl<F> Queue<F> {
    /// Never an error: what closing says nobody has waited for. fsync is how to learn of lost writes.
    fn close_all(&self) {
        while let Some(file) = self.next() {
            drop(file);
        }
    }

    fn next(&self) -> Option<F> {
        let mut state = self.state.lock();
        let file = state.waiting.pop_front();
        state.busy = file.is_some();
        file
    }
}
