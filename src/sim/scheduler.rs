//! Runs threads one at a time, in an order that a seed decides, and crashes them all at a chosen step.
//!
//! The threads are real ones, but only the one that has the turn runs; it gives the turn away in
//! the hooks of [`crate::sync`] and in calls to simulated legs and stores. So the mirror's code runs
//! unchanged, and what one run did the same seed does again.
//!
//! A *step* is a call that changes a leg, a bitmap copy or a superblock, or makes it durable. When
//! the chosen step comes the machine is gone: that call and every later one unwinds its thread with
//! `Crash`, up to the thread's top. Reads are no steps: a crash before a read leaves what a crash
//! before the next change leaves.
//!
//! Invariants:
//! - at most one simulated thread runs, the one whose number is in `turn`;
//! - a blocked thread is made runnable when the lock it wants is given back, never by a guess: when
//!   nobody is runnable and nobody waits for the time to pass, that is a deadlock;
//! - on a thread that is not simulated every hook returns at once.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::error::errno;
use crate::sim::rng::Rng;
use crate::sync::Rank;

/// The payload with which a crash unwinds the simulated threads.
struct Crash;

/// What the scheduler is to do in one run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides every choice.
    pub seed: u64,
    /// The machine dies in this step; the first one is 1. `None`: it does not.
    pub crash_at: Option<u64>,
    /// At a hook the turn is given away once in so many times; 1 is always.
    pub switch_one_in: u64,
    /// A rule of the mirror's own that is broken, to show that the simulation would find it.
    pub broken: Option<Rule>,
}

/// An order rule that is kept by locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// O5: the object lock excludes.
    ObjectLock,
    /// O6: two directories are locked in one order.
    LockOrder,
    /// P4: data is read from the source.
    ReadFromSource,
    /// O4: no bit is cleared while a leg is away.
    BitsKept,
    /// P10: what one leg has no room for is taken back from the other.
    TakenBack,
    /// A resync compares all that was born since a directory's watermark.
    BornCompared,
    /// And counts what either leg says was born, not only the source.
    EitherBirth,
    /// A leg is taken in only when nothing is under way on it.
    TakenWhenQuiet,
    /// A call is under way until the courier is back, whether or not somebody waits for it.
    CountedUntilBack,
    /// Nobody changes anything while a leg that was filled takes its place.
    GateLock,
    /// What a leg answered is held against that one, and not against another one that serves by now. And nothing is
    /// cleared while that takes its place, which alone would keep the sweeper from it.
    AskedLeg,
    /// No leg is taken in while one is being left behind.
    FaultsAreOver,
    /// What was filled is durable before it takes a leg's place.
    FilledSynced,
    /// Where objects are known by their places, what has several names is looked at under all of them.
    AllNames,
    /// What stands for several slots is durable before those are dropped.
    CoarseFirst,
    /// What gets or loses a name where a directory's slot may stand for it is marked whole before.
    MarkedWhole,
    /// What was moved is not folded into the directory that it lies in by now.
    MovedKept,
    /// That everything is to be compared is durable before the first change that has no slot.
    OverflowSaid,
    /// Before a range is written anew, the leg that has it is the one to be believed, durably.
    PreferredFirst,
    /// Nobody reads what is being written anew.
    ReadersKeptAway,
    /// What was written anew is durable before either leg is believed again.
    MendedSynced,
    /// Nobody goes by slots that are left from a history that the legs are not of.
    AnotherHistory,
}

impl Plan {
    /// No crash, a turn at every hook.
    pub fn calm(seed: u64) -> Plan {
        Plan { seed, crash_at: None, switch_one_in: 1, broken: None }
    }
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All threads came to their end.
    Finished,
    /// The chosen step came.
    Crashed,
    /// All threads wait, nobody for the time to pass. Says who waits for what.
    Deadlock(String),
    /// A thread panicked, or the run did not end by itself.
    Failed(String),
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// Steps taken: the highest `crash_at` that would have met the same run.
    pub steps: u64,
    /// A digest of who had the turn when: equal for equal runs.
    pub trace: u64,
}

/// Whether the machine dies in this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It does not.
    Usual,
    /// It does: the call may still do all or part of its work, then it must [`die`].
    Last,
}

/// Far more turns than any run needs; one that takes more does not end by itself.
const MAX_TURNS: u64 = 500_000;

/// How much time passes when a thread goes on because its time is over.
const NAP: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Runnable,
    /// Waits for what is at this address.
    Blocked(usize, Awaited),
    /// As `Blocked`, but would go on when its time is over.
    Timed(usize),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Lock(Rank),
    Notification,
    EndOfThread,
}

struct State {
    rng: Rng,
    plan: Plan,
    threads: Vec<(Status, Option<Thread>)>,
    handles: Vec<JoinHandle<()>>,
    steps: u64,
    turns: u64,
    /// Simulated time since the start.
    passed: Duration,
    trace: u64,
    /// Set when the machine is gone: why.
    over: Option<End>,
    starter: Thread,
}

struct Shared {
    turn: AtomicUsize,
    // Under the seam, so not from `sync`: only the thread with the turn takes it.
    state: parking_lot::Mutex<State>,
}

const NOBODY: usize = usize::MAX;

#[derive(Clone)]
struct Me {
    shared: Arc<Shared>,
    number: usize,
}

thread_local!(static ME: RefCell<Option<Me>> = const { RefCell::new(None) });

fn me() -> Option<Me> {
    ME.try_with(|me| me.borrow().clone()).ok().flatten()
}

/// Runs `root`, and whatever it [`spawn`]s, as simulated threads until all have ended.
pub fn run(plan: Plan, root: impl FnOnce() + Send + 'static) -> Report {
    let shared = Arc::new(Shared {
        turn: AtomicUsize::new(NOBODY),
        state: parking_lot::Mutex::new(State {
            rng: Rng::new(plan.seed),
            plan,
            threads: Vec::new(),
            handles: Vec::new(),
            steps: 0,
            turns: 0,
            passed: Duration::ZERO,
            trace: plan.seed,
            over: None,
            starter: thread::current(),
        }),
    });
    let first = shared.add_thread();
    shared.start(first, root);
    shared.turn.store(first, Ordering::SeqCst);
    shared.unpark(first);
    loop {
        // A thread may start others until its end, so the list is taken again until it stays empty.
        while shared.turn.load(Ordering::SeqCst) != NOBODY {
            thread::park();
        }
        let handles = std::mem::take(&mut shared.state.lock().handles);
        if handles.is_empty() {
            break;
        }
        for handle in handles {
            let _ = handle.join();
        }
    }
    let mut state = shared.state.lock();
    Report { end: state.over.take().unwrap_or(End::Finished), steps: state.steps, trace: state.trace }
}

/// Whether this thread is a simulated one.
pub fn is_simulated() -> bool {
    me().is_some()
}

/// A random number below `bound` from the run's seed; 0 on a thread that is not simulated.
pub fn choose(bound: u64) -> u64 {
    me().map_or(0, |me| me.shared.state.lock().rng.below(bound))
}

/// Simulated time: stands still but when threads wait for it. `None` on a thread that is not simulated.
pub fn now() -> Option<Instant> {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Some(*START + me()?.shared.state.lock().passed)
}

/// A simulated thread that [`join`](Spawned::join) waits for.
pub struct Spawned {
    number: usize,
}

/// Starts a simulated thread. Must be called on one.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> Spawned {
    let me = me().expect("spawn is for simulated threads");
    let number = me.shared.add_thread();
    me.shared.start(number, work);
    Spawned { number }
}

impl Spawned {
    /// Waits for the thread's end.
    pub fn join(self) {
        let me = me().expect("join is for simulated threads");
        me.wait_for_end(self.number);
    }
}

/// Both closures, in the order a, b or b, a, or interleaved. Must be called on a simulated thread.
pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let me = me().expect("join is for simulated threads");
    let order = me.shared.state.lock().rng.below(4);
    match order {
        0 => {
            let a = a();
            (a, b())
        }
        1 => {
            let b = b();
            (a(), b)
        }
        _ => me.interleave(a, b),
    }
}

/// A point at which another thread may get the turn. Unwinds when the machine is gone.
pub fn pause() {
    if let Some(me) = me() {
        me.yield_turn();
    }
}

/// Counts a call that changes something, and gives others a turn before it.
///
/// EIO when the machine is gone and this thread is unwinding already: what runs in a drop must come
/// to an end too.
pub fn step() -> io::Result<Moment> {
    let Some(me) = me() else { return Ok(Moment::Usual) };
    if me.gone_while_unwinding() {
        return Err(errno(libc::EIO));
    }
    me.yield_turn();
    let mut state = me.shared.state.lock();
    state.steps += 1;
    if state.plan.crash_at == Some(state.steps) {
        return Ok(Moment::Last);
    }
    Ok(Moment::Usual)
}

/// A call that only reads: others get a turn before it. EIO as with [`step`].
pub fn look() -> io::Result<()> {
    let Some(me) = me() else { return Ok(()) };
    if me.gone_while_unwinding() {
        return Err(errno(libc::EIO));
    }
    me.yield_turn();
    Ok(())
}

/// The machine is gone from here on.
pub fn die() -> ! {
    if let Some(me) = me() {
        me.shared.state.lock().end(End::Crashed);
    }
    resume_unwind(Box::new(Crash));
}

/// Whether this run is to break `rule`.
pub fn breaks(rule: Rule) -> bool {
    me().is_some_and(|me| me.shared.state.lock().plan.broken == Some(rule))
}

/// Whether a lock of this rank is to let two holders in.
pub fn lock_is_broken(rank: Rank) -> bool {
    match rank {
        Rank::Object => breaks(Rule::ObjectLock),
        Rank::Gate => breaks(Rule::GateLock),
        _ => false,
    }
}

/// Takes a lock by `attempt`, giving the turn away as long as it fails. `None` on a thread that is
/// not simulated.
pub fn acquire<G>(rank: Rank, address: usize, mut attempt: impl FnMut() -> Option<G>) -> Option<G> {
    let me = me()?;
    if rank != Rank::Leaf && !thread::panicking() {
        me.yield_turn();
    }
    loop {
        if let Some(guard) = attempt() {
            return Some(guard);
        }
        me.block(Status::Blocked(address, Awaited::Lock(rank)));
    }
}

/// A lock at `address` has been given back, or a condition there notified. Never gives the turn away.
pub fn released(address: usize) {
    if let Some(me) = me() {
        me.shared.state.lock().wake(address);
    }
}

/// Waits at a condition variable until notified (or, if `timed`, until the time may be over), then
/// until `is_free` says that the lock at `lock` can be taken again. Does not unwind when the machine
/// is gone, since the lock must be taken first: [`after_wait`] does.
pub fn wait(condition: usize, lock: usize, timed: bool, mut is_free: impl FnMut() -> bool) {
    let Some(me) = me() else { return };
    released(lock);
    let status =
        if timed { Status::Timed(condition) } else { Status::Blocked(condition, Awaited::Notification) };
    me.sleep(status);
    while !is_free() {
        me.sleep(Status::Blocked(lock, Awaited::Notification));
    }
}

/// Unwinds when the machine is gone.
pub fn after_wait() {
    if let Some(me) = me() {
        me.unwind_if_gone();
    }
}

impl State {
    fn end(&mut self, why: End) {
        self.over.get_or_insert(why);
        for (status, _) in &mut self.threads {
            if *status != Status::Done {
                *status = Status::Runnable;
            }
        }
    }

    fn wake(&mut self, address: usize) {
        for (status, _) in &mut self.threads {
            if matches!(*status, Status::Blocked(at, _) | Status::Timed(at) if at == address) {
                *status = Status::Runnable;
            }
        }
    }

    fn numbers(&self, wanted: impl Fn(&Status) -> bool) -> Vec<usize> {
        (0..self.threads.len()).filter(|&number| wanted(&self.threads[number].0)).collect()
    }

    /// Who runs next, `NOBODY` when all have ended.
    fn next(&mut self) -> usize {
        self.turns += 1;
        if self.turns > MAX_TURNS {
            self.end(End::Failed("the run does not end by itself".into()));
        }
        let mut candidates = self.numbers(|status| *status == Status::Runnable);
        // Time passes now and then, and at once when there is nothing else to wait for.
        if candidates.is_empty() || self.rng.one_in(8) {
            let sleepers = self.numbers(|status| matches!(status, Status::Timed(_)));
            self.passed += if sleepers.is_empty() { Duration::ZERO } else { NAP };
            candidates.extend(sleepers);
        }
        if candidates.is_empty() {
            candidates = self.numbers(|status| *status != Status::Done);
            if candidates.is_empty() {
                return NOBODY;
            }
            let who: Vec<_> = candidates.iter().map(|&n| format!("{n}: {:?}", self.threads[n].0)).collect();
            self.end(End::Deadlock(who.join(", ")));
        }
        let next = *self.rng.pick(&candidates);
        self.threads[next].0 = Status::Runnable;
        self.trace = (self.trace ^ next as u64 ^ (self.steps << 8)).wrapping_mul(0x0000_0100_0000_01b3);
        next
    }
}

impl Shared {
    fn add_thread(&self) -> usize {
        let mut state = self.state.lock();
        state.threads.push((Status::Runnable, None));
        state.threads.len() - 1
    }

    fn unpark(&self, number: usize) {
        let state = self.state.lock();
        if let Some(thread) = &state.threads[number].1 {
            thread.unpark();
        }
    }

    fn start(self: &Arc<Self>, number: usize, work: impl FnOnce() + Send + 'static) {
        let me = Me { shared: self.clone(), number };
        let handle = thread::spawn(move || me.live(work));
        let mut state = self.state.lock();
        state.threads[number].1 = Some(handle.thread().clone());
        state.handles.push(handle);
    }

    /// Gives the turn to `next`.
    fn hand_to(&self, next: usize) {
        self.turn.store(next, Ordering::SeqCst);
        let state = self.state.lock();
        match next {
            NOBODY => state.starter.unpark(),
            // A thread that has not told its handle yet has not looked at the turn yet either.
            _ => state.threads[next].1.iter().for_each(Thread::unpark),
        }
    }
}

impl Me {
    /// The whole life of a simulated thread.
    fn live(self, work: impl FnOnce()) {
        let result = self.work(work);
        let mut state = self.shared.state.lock();
        if let Err(panic) = result
            && !panic.is::<Crash>()
        {
            let text = describe(panic.as_ref());
            // A panic says more than the crash or the deadlock that it came with.
            state.end(End::Failed(text.clone()));
            state.over = Some(End::Failed(text));
        }
        drop(state);
        self.leave();
    }

    /// Waits for the turn, then runs `work` as this simulated thread.
    fn work<T>(&self, work: impl FnOnce() -> T) -> thread::Result<T> {
        self.wait_for_turn();
        ME.set(Some(self.clone()));
        let result = catch_unwind(AssertUnwindSafe(work));
        ME.set(None);
        result
    }

    /// The thread has ended: wakes who waits for that, gives the turn away for good.
    fn leave(&self) {
        let mut state = self.shared.state.lock();
        state.threads[self.number].0 = Status::Done;
        state.wake(end_of(self.number));
        let next = state.next();
        drop(state);
        self.shared.hand_to(next);
    }

    fn wait_for_turn(&self) {
        while self.shared.turn.load(Ordering::SeqCst) != self.number {
            thread::park();
        }
    }

    fn gone_while_unwinding(&self) -> bool {
        thread::panicking() && self.shared.state.lock().over.is_some()
    }

    fn yield_turn(&self) {
        let mut state = self.shared.state.lock();
        if state.over.is_none() {
            let one_in = state.plan.switch_one_in;
            if one_in > 1 && !state.rng.one_in(one_in) {
                return;
            }
        }
        let next = state.next();
        drop(state);
        self.give_turn_to(next);
        self.unwind_if_gone();
    }

    fn block(&self, status: Status) {
        self.sleep(status);
        self.unwind_if_gone();
    }

    /// Gives the turn away and does not want it back before what `status` says. Does not unwind.
    fn sleep(&self, status: Status) {
        let mut state = self.shared.state.lock();
        // When the machine is gone nobody sleeps: all are on their way out.
        if state.over.is_none() {
            state.threads[self.number].0 = status;
        }
        let next = state.next();
        drop(state);
        self.give_turn_to(next);
    }

    fn give_turn_to(&self, next: usize) {
        if next != self.number {
            self.shared.hand_to(next);
            self.wait_for_turn();
        }
    }

    fn unwind_if_gone(&self) {
        if !thread::panicking() && self.shared.state.lock().over.is_some() {
            resume_unwind(Box::new(Crash));
        }
    }

    fn wait_for_end(&self, number: usize) {
        loop {
            if self.shared.state.lock().threads[number].0 == Status::Done {
                return;
            }
            self.block(Status::Blocked(end_of(number), Awaited::EndOfThread));
        }
    }

    fn interleave<A: Send, B: Send>(
        &self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        let number = self.shared.add_thread();
        let other = Me { shared: self.shared.clone(), number };
        thread::scope(|scope| {
            let handle = scope.spawn(move || {
                let result = other.work(b);
                other.leave();
                result
            });
            self.shared.state.lock().threads[number].1 = Some(handle.thread().clone());
            let a = catch_unwind(AssertUnwindSafe(a));
            // The end of b is waited for also when a is unwinding: b borrows from the caller.
            let waited = catch_unwind(AssertUnwindSafe(|| self.wait_for_end(number)));
            while self.shared.state.lock().threads[number].0 != Status::Done {
                self.sleep(Status::Runnable);
            }
            let b = handle.join().unwrap_or_else(Err);
            match (a, b, waited) {
                (Ok(a), Ok(b), Ok(())) => (a, b),
                (Err(panic), ..) | (_, Err(panic), _) | (.., Err(panic)) => resume_unwind(panic),
            }
        })
    }
}

/// The address that stands for the end of a thread: not one that a lock can have.
fn end_of(number: usize) -> usize {
    number * 2 + 1
}

fn describe(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "a thread panicked".into())
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
