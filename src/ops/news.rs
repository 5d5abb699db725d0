//! What the mirror has to tell when its state changes. Who is told writes the log and runs programs; the
//! mirror knows of neither.

use super::Mirror;
use crate::legs::{Leg, LegId};

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A leg was left behind; the other one goes on alone.
    Left {
        /// Which.
        leg: LegId,
        /// What it answered; 0 when it was taken out by hand.
        errno: i32,
        /// It was not up to date: it was being made equal.
        recovering: bool,
        /// What there is to say beyond the errno.
        why: Option<String>,
    },
    /// A leg is being made equal to the other one.
    Recovering(LegId),
    /// That has ended: `None` when all is done, else why not.
    Recovered {
        /// Which leg was made equal.
        leg: LegId,
        /// It had been away.
        returned: bool,
        /// Why it was broken off.
        because: Option<String>,
    },
    /// A leg could not read a part of a file.
    ReadError {
        /// Which.
        leg: LegId,
        /// Of which file, where, with which errno, and what was done about it.
        told: String,
    },
    /// Neither leg could do what was asked: of which file, as far as that is known, and what each answered. Not told
    /// each time.
    Neither(String),
    /// No change is let in any more.
    ReadOnly(String),
}

/// Who is told. Called under locks: must neither wait nor call the mirror.
pub trait Herald: Send + Sync {
    /// Takes the news.
    fn tell(&self, news: News);
}

impl<L: Leg> Mirror<L> {
    /// Who is told from now on.
    pub fn set_herald(&self, herald: std::sync::Arc<dyn Herald>) {
        let _ = self.herald.set(herald);
    }

    pub(super) fn tell(&self, news: News) {
        if let Some(herald) = self.herald.get() {
            herald.tell(news);
        }
    }

    /// Lets no further change in. Told once: what fails afterwards follows from it.
    pub(super) fn turn_read_only(&self, reason: String) {
        if self.health.set_read_only(reason.clone()) {
            self.tell(News::ReadOnly(reason));
        }
    }
}
