//! Threads that run a borrowed piece of work while its owner does another.
//!
//! Starting a thread for each fsync costs as much as a fast disk's fsync; a pool of the kind that
//! computes spins while it waits, and takes the processor from those who have work. These sleep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

/// As many as there may be waits for devices at once: two copies of a bitmap, and an fsync from each
/// event loop and from the sweeper; and seven more, for seconds perhaps: three build or compare small objects beside a
/// resync's own thread, and each of the four may read one on both legs at once.
const HELPERS: usize = 8 + 7;

/// Work on its owner's stack, and how to tell the owner that it is done.
struct Job {
    work: &'static mut (dyn FnMut() + Send),
    done: &'static AtomicBool,
    owner: Thread,
}

/// Runs both at once, `b` on another thread, and returns both results. A panic in either goes on in
/// the caller, after both have ended.
pub fn join<A, B: Send>(a: impl FnOnce() -> A, b: impl FnOnce() -> B + Send) -> (A, B) {
    let done = AtomicBool::new(false);
    let mut of_b = None;
    let mut b = Some(b);
    let mut work = || of_b = b.take().map(|b| catch_unwind(AssertUnwindSafe(b)));
    let of_a = {
        let work: &mut (dyn FnMut() + Send) = &mut work;
        // SAFETY: only the lifetime changes. `waiting` below keeps this frame, and with it the closure
        // and what that borrows, until the helper has set `done`, which is the last it does with them.
        let work = unsafe {
            std::mem::transmute::<&mut (dyn FnMut() + Send), &'static mut (dyn FnMut() + Send)>(work)
        };
        // SAFETY: as above.
        let told = unsafe { std::mem::transmute::<&AtomicBool, &'static AtomicBool>(&done) };
        let waiting = Waiting { done: &done };
        give(Job { work, done: told, owner: std::thread::current() });
        let of_a = a();
        drop(waiting);
        of_a
    };
    match of_b {
        Some(Ok(of_b)) => (of_a, of_b),
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("the work is done, and it leaves a result"),
    }
}

/// Does not go away before the helper is done, not even when `a` panics.
struct Waiting<'a> {
    done: &'a AtomicBool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        while !self.done.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

/// Hands a job to a helper. The helpers are started at the first job: after the daemon has forked.
fn give(job: Job) {
    static JOBS: OnceLock<Sender<Job>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (send, receive) = unbounded();
        for number in 0..HELPERS {
            let receive = receive.clone();
            std::thread::Builder::new()
                .name(format!("helper-{number}"))
                .spawn(move || help(&receive))
                .expect("a process that cannot start a thread cannot serve a mount");
        }
        send
    });
    // Nobody takes a job that is not sent: do it here.
    if let Err(refused) = jobs.send(job) {
        run(refused.into_inner());
    }
}

fn help(jobs: &Receiver<Job>) {
    for job in jobs {
        run(job);
    }
}

fn run(job: Job) {
    let Job { work, done, owner } = job;
    work();
    // ORDER: the owner's frame may be gone as soon as this is seen; `owner` is our own.
    done.store(true, Ordering::Release);
    owner.unpark();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_results_come_back_and_what_was_borrowed_is_changed() {
        let mut left = 0;
        let mut right = 0;
        for round in 1..1000 {
            let (a, b) = join(
                || {
                    left += 1;
                    left
                },
                || {
                    right += 2;
                    right
                },
            );
            assert_eq!((a, b), (round, 2 * round));
        }
    }

    #[test]
    fn a_panic_on_either_side_reaches_the_caller_when_both_have_ended() {
        let other_ended = AtomicBool::new(false);
        let late = || {
            std::thread::yield_now();
            other_ended.store(true, Ordering::SeqCst);
        };
        let caught = catch_unwind(AssertUnwindSafe(|| join(|| panic!("a"), late)));
        assert!(caught.is_err() && other_ended.load(Ordering::SeqCst));
        let caught = catch_unwind(AssertUnwindSafe(|| join(|| 1, || panic!("b"))));
        assert!(caught.is_err());
    }
}
