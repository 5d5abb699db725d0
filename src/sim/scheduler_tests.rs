//! What the simulation relies on: turns replay, locks exclude, deadlocks and crashes are seen.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::sync::{Condvar, Mutex, RwLock};

/// Two threads that each add `rounds` letters to a list, in an order that the seed decides.
fn letters(seed: u64, rounds: usize) -> (String, u64) {
    let list = Arc::new(Mutex::new(Rank::Leaf, String::new()));
    let written = list.clone();
    let report = run(Plan::calm(seed), move || {
        let threads = ['a', 'b'].map(|letter| {
            let list = written.clone();
            spawn(move || {
                for _ in 0..rounds {
                    pause();
                    list.lock().push(letter);
                }
            })
        });
        threads.into_iter().for_each(Spawned::join);
    });
    assert_eq!(report.end, End::Finished);
    (list.lock().clone(), report.trace)
}

#[test]
fn a_seed_replays_the_order_and_another_one_changes_it() {
    let orders: BTreeSet<_> = (0..50).map(|seed| letters(seed, 4)).collect();
    assert!(orders.len() > 20, "{} orders", orders.len());
    for seed in 0..50 {
        assert_eq!(letters(seed, 4), letters(seed, 4), "seed {seed}");
    }
}

#[test]
fn a_lock_excludes_though_turns_change_inside() {
    for seed in 0..100 {
        let inside = Arc::new((Mutex::new(Rank::Object, ()), RwLock::new(Rank::Table, 0)));
        let report = run(Plan::calm(seed), move || {
            let threads = [0, 1, 2].map(|_| {
                let inside = inside.clone();
                spawn(move || {
                    let _guard = inside.0.lock();
                    *inside.1.write() += 1;
                    pause();
                    assert_eq!(*inside.1.read(), 1);
                    *inside.1.write() -= 1;
                })
            });
            threads.into_iter().for_each(Spawned::join);
        });
        assert_eq!(report.end, End::Finished, "seed {seed}");
    }
}

#[test]
fn a_broken_object_lock_lets_two_in() {
    let overlaps = (0..50).filter(|&seed| {
        let (lock, inside) = (Arc::new(RwLock::new(Rank::Object, ())), Arc::new(AtomicU64::new(0)));
        let most = Arc::new(AtomicU64::new(0));
        let seen = most.clone();
        run(Plan { broken: Some(Rule::ObjectLock), ..Plan::calm(seed) }, move || {
            for _ in 0..2 {
                let (lock, inside, seen) = (lock.clone(), inside.clone(), seen.clone());
                spawn(move || {
                    let _guard = lock.write();
                    seen.fetch_max(inside.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    pause();
                    inside.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        most.load(Ordering::Relaxed) == 2
    });
    assert!(overlaps.count() > 5);
}

#[test]
fn locks_taken_in_two_orders_are_a_deadlock_that_some_seed_shows() {
    let deadlocks = (0..50).filter(|&seed| {
        let locks = Arc::new([Mutex::new(Rank::Object, ()), Mutex::new(Rank::Object, ())]);
        let report = run(Plan::calm(seed), move || {
            for first in [0, 1] {
                let locks = locks.clone();
                spawn(move || {
                    let _one = locks[first].lock();
                    let _two = locks[1 - first].lock();
                });
            }
        });
        matches!(report.end, End::Deadlock(_))
    });
    assert!(deadlocks.count() > 5);
}

#[test]
fn a_waiter_wakes_when_notified_and_when_only_time_can_wake_it() {
    for seed in 0..50 {
        let shared = Arc::new((Mutex::new(Rank::Flush, false), Condvar::new()));
        let timed = Arc::new((Mutex::new(Rank::Flush, ()), Condvar::new()));
        let report = run(Plan::calm(seed), move || {
            let waited = shared.clone();
            let waiter = spawn(move || {
                let mut ready = waited.0.lock();
                while !*ready {
                    waited.1.wait(&mut ready);
                }
            });
            *shared.0.lock() = true;
            shared.1.notify_all();
            waiter.join();
            timed.1.wait_for(&mut timed.0.lock(), Duration::from_secs(3600));
        });
        assert_eq!(report.end, End::Finished, "seed {seed}");
    }
}

#[test]
fn nobody_to_notify_is_a_deadlock() {
    let shared = Arc::new((Mutex::new(Rank::Flush, ()), Condvar::new()));
    let report = run(Plan::calm(1), move || shared.1.wait(&mut shared.0.lock()));
    assert!(matches!(report.end, End::Deadlock(_)), "{report:?}");
}

#[test]
fn join_runs_both_in_either_order_and_interleaved() {
    let orders: BTreeSet<String> = (0..100)
        .map(|seed| {
            let list = Arc::new(Mutex::new(Rank::Leaf, String::new()));
            let written = list.clone();
            let report = run(Plan::calm(seed), move || {
                let twice = |letter| {
                    for _ in 0..2 {
                        pause();
                        written.lock().push(letter);
                    }
                    letter
                };
                assert_eq!(crate::sync::join(|| twice('a'), || twice('b')), ('a', 'b'));
            });
            assert_eq!(report.end, End::Finished, "seed {seed}");
            list.lock().clone()
        })
        .collect();
    for order in ["aabb", "bbaa", "abab"] {
        assert!(orders.contains(order), "{order} is missing in {orders:?}");
    }
}

#[test]
fn after_the_crash_no_step_is_taken_and_every_thread_ends() {
    for crash_at in 1..=12 {
        for seed in 0..20 {
            let (done, lock) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Rank::Object, ())));
            let counted = done.clone();
            let plan = Plan { crash_at: Some(crash_at), ..Plan::calm(seed) };
            let report = run(plan, move || {
                let threads = [0, 1, 2].map(|_| {
                    let (done, lock) = (counted.clone(), lock.clone());
                    spawn(move || {
                        let work = || {
                            for _ in 0..2 {
                                let _guard = lock.lock();
                                if step().unwrap() == Moment::Last {
                                    die();
                                }
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                        };
                        work();
                        crate::sync::join(work, pause);
                    })
                });
                threads.into_iter().for_each(Spawned::join);
            });
            assert_eq!(report.end, End::Crashed, "crash at {crash_at}, seed {seed}");
            assert_eq!(done.load(Ordering::Relaxed), crash_at - 1, "crash at {crash_at}, seed {seed}");
        }
    }
}

#[test]
fn a_panic_is_reported_and_is_no_crash() {
    static QUIET: OnceLock<()> = OnceLock::new();
    QUIET.get_or_init(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref() != Some(&"on purpose") {
                loud(info);
            }
        }));
    });
    let report = run(Plan::calm(1), || {
        spawn(|| panic!("on purpose")).join();
    });
    assert_eq!(report.end, End::Failed("on purpose".into()));
}
