//! How far the resync is, for the status to read at any time.
//!
//! Only counters: written by the resync, read by anyone, never waited for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::sync::{Mutex, Rank};

/// The counters of one resync. Sizes are in bytes.
pub struct Progress {
    started: Mutex<Instant>,
    active: AtomicBool,
    objects_done: AtomicU64,
    objects_total: AtomicU64,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// The counters as they were at one moment, and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressReport {
    /// Whether a resync is under way.
    pub active: bool,
    /// Dirty objects that are equal on both legs by now.
    pub objects_done: u64,
    /// Dirty objects known of; grows when the namespace phase finds more.
    pub objects_total: u64,
    /// Bytes of dirty chunks dealt with, holes included.
    pub bytes_done: u64,
    /// Bytes of dirty chunks in all.
    pub bytes_total: u64,
    /// Bytes read from both legs together.
    pub bytes_read: u64,
    /// Bytes written to the target.
    pub bytes_written: u64,
    /// Bytes dealt with in a second, over the whole resync so far.
    pub rate: u64,
    /// Time left at that rate; `None` while there is none to judge by.
    pub left: Option<Duration>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            started: Mutex::new(Rank::Leaf, Instant::now()),
            active: AtomicBool::new(false),
            objects_done: AtomicU64::new(0),
            objects_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
        }
    }
}

impl Progress {
    /// The counters now.
    pub fn report(&self) -> ProgressReport {
        let started = *self.started.lock();
        self.report_after(started.elapsed())
    }

    fn report_after(&self, elapsed: Duration) -> ProgressReport {
        let (done, total) = (self.bytes_done.load(Relaxed), self.bytes_total.load(Relaxed));
        let rate = (u128::from(done) * 1000 / elapsed.as_millis().max(1)) as u64;
        let left = (rate > 0).then(|| Duration::from_secs(total.saturating_sub(done) / rate));
        ProgressReport {
            active: self.active.load(Relaxed),
            objects_done: self.objects_done.load(Relaxed),
            objects_total: self.objects_total.load(Relaxed),
            bytes_done: done,
            bytes_total: total.max(done),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            rate,
            left,
        }
    }

    /// Nothing is being resynced any more, done or not.
    pub fn stopped(&self) {
        self.set_active(false);
    }

    /// A new resync: what an earlier one counted is not its progress. The bytes read and written go on.
    pub fn restart(&self) {
        *self.started.lock() = Instant::now();
        for counter in [&self.objects_done, &self.objects_total, &self.bytes_done, &self.bytes_total] {
            counter.store(0, Relaxed);
        }
    }

    pub(super) fn set_active(&self, active: bool) {
        self.active.store(active, Relaxed);
    }

    pub(super) fn expect_objects(&self, more: u64) {
        self.objects_total.fetch_add(more, Relaxed);
    }

    pub(super) fn object_done(&self) {
        self.objects_done.fetch_add(1, Relaxed);
    }

    pub(super) fn expect_bytes(&self, more: u64) {
        self.bytes_total.fetch_add(more, Relaxed);
    }

    pub(super) fn bytes_done(&self, more: u64) {
        self.bytes_done.fetch_add(more, Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(super) fn written(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_rate_so_far() {
        let progress = Progress::default();
        progress.expect_bytes(1000);
        assert_eq!(progress.report_after(Duration::from_secs(1)).left, None);
        progress.bytes_done(250);
        let report = progress.report_after(Duration::from_secs(1));
        assert_eq!((report.rate, report.left), (250, Some(Duration::from_secs(3))));
    }

    #[test]
    fn more_done_than_expected_leaves_no_time() {
        let progress = Progress::default();
        progress.bytes_done(10);
        let report = progress.report_after(Duration::from_secs(1));
        assert_eq!((report.bytes_total, report.left), (10, Some(Duration::ZERO)));
    }
}
