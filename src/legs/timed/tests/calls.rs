//! Couriers and patience, without a leg.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::legs::timed::Pace;
use crate::legs::timed::patience::MOST_PROBES;

#[test]
fn an_answer_comes_back_and_so_does_an_errno() {
    let couriers = couriers();
    assert_eq!(couriers.call(AGES, || Ok(7)).unwrap(), 7);
    refused(couriers.call::<()>(AGES, || Err(crate::error::errno(libc::ENOSPC))), libc::ENOSPC);
}

#[test]
fn calls_one_after_another_use_one_courier() {
    let couriers = couriers();
    let names: std::collections::HashSet<_> =
        (0..100).map(|_| couriers.call(AGES, || Ok(std::thread::current().id())).unwrap()).collect();
    assert_eq!((names.len(), couriers.alive()), (1, 1));
}

#[test]
fn idle_couriers_end() {
    let couriers = Couriers::staying(SHORT).unwrap();
    couriers.call(AGES, || Ok(())).unwrap();
    soon(|| couriers.alive() == 0);
    couriers.call(AGES, || Ok(())).unwrap();
}

#[test]
fn what_does_not_answer_times_out_and_its_late_answer_is_dropped() {
    let couriers = couriers();
    let (door, held) = (Door::closed(), Arc::new(()));
    let (closed, answer) = (door.clone(), held.clone());
    refused(
        couriers.call(SHORT, move || {
            closed.pass();
            Ok(answer)
        }),
        libc::ETIMEDOUT,
    );
    assert_eq!(couriers.call(AGES, || Ok(1)).unwrap(), 1, "by another courier");
    assert_eq!(Arc::strong_count(&held), 2);
    door.open();
    soon(|| Arc::strong_count(&held) == 1);
    assert_eq!(couriers.alive(), 2, "who came back late is used again");
}

#[test]
fn a_panic_goes_on_in_the_caller() {
    let couriers = couriers();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        couriers.call::<()>(AGES, || panic!("on purpose"))
    }));
    assert!(caught.is_err());
    assert_eq!(couriers.call(AGES, || Ok(1)).unwrap(), 1);
}

#[test]
fn a_hundred_that_hang_hold_up_nobody_and_giving_up_frees_them_all() {
    let hung = patience(Duration::ZERO);
    let well = Patience::new(hung.couriers().clone(), AGES, Arc::new(|| ()));
    let door = Door::closed();
    let (arrived, arrivals) = unbounded();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let (arrived, door, hung) = (arrived.clone(), door.clone(), &hung);
                scope.spawn(move || {
                    hung.call(Pace::Prompt, move || {
                        arrived.send(()).unwrap();
                        door.pass();
                        Ok(())
                    })
                })
            })
            .collect();
        (0..100).for_each(|_| arrivals.recv().unwrap());
        for number in 0..100 {
            assert_eq!(well.call(Pace::Prompt, move || Ok(number)).unwrap(), number);
        }
        assert_eq!(well.couriers().alive(), 101);
        hung.give_up();
        waiting.into_iter().for_each(|one| refused(one.join().unwrap(), libc::ENOTCONN));
    });
    refused(hung.call(Pace::Prompt, move || Ok(arrived.send(()))), libc::ENOTCONN);
    assert!(arrivals.is_empty(), "it was not even tried");
    assert_eq!(hung.under_way(), 100, "it must not be taken back yet");
    door.open();
    soon(|| hung.under_way() == 0);
    assert_eq!(well.couriers().alive(), 101);
}

#[test]
fn without_a_timeout_an_answer_is_waited_for() {
    let patience = patience(Duration::ZERO);
    assert_eq!(patience.timeout(), None);
    let door = Door::closed();
    let (closed, opener) = (door.clone(), door);
    let opening = std::thread::spawn(move || {
        std::thread::sleep(SHORT);
        opener.open();
    });
    patience
        .call(Pace::Prompt, move || {
            closed.pass();
            Ok(())
        })
        .unwrap();
    opening.join().unwrap();
}

#[test]
fn an_answer_that_comes_after_giving_up_does_not_count() {
    let patience = patience(AGES);
    let inside = patience.clone();
    let answer = patience.call(Pace::Prompt, move || {
        inside.give_up();
        Ok(())
    });
    refused(answer, libc::ENOTCONN);
}

#[test]
fn a_late_answer_counts_if_nobody_gives_the_leg_up() {
    let (door, times) = (Door::closed(), Arc::new(AtomicUsize::new(0)));
    let patience = patience(SHORT);
    let (opener, counted) = (door.clone(), times.clone());
    // Told of again and again; the third time the leg comes back.
    patience.on_hung(Some(Arc::new(move || {
        if counted.fetch_add(1, Ordering::SeqCst) == 2 {
            opener.open();
        }
    })));
    let answer = patience.call(Pace::Prompt, move || {
        door.pass();
        Ok(7)
    });
    assert_eq!(answer.unwrap(), 7);
    assert!(times.load(Ordering::SeqCst) >= 3);
}

#[test]
fn all_who_wait_are_let_go_when_the_one_who_is_told_gives_the_leg_up() {
    let patience = patience(SHORT);
    let (told, tellings) = unbounded();
    let told_of = Arc::downgrade(&patience);
    patience.on_hung(Some(Arc::new(move || {
        told.send(()).unwrap();
        told_of.upgrade().unwrap().give_up();
    })));
    let door = Door::closed();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (closed, patience) = (door.clone(), &patience);
            scope.spawn(move || {
                let answer = patience.call(Pace::Prompt, move || {
                    closed.pass();
                    Ok(())
                });
                refused(answer, libc::ENOTCONN);
            });
        }
    });
    assert_eq!(tellings.try_iter().count(), 1);
    door.open();
    soon(|| patience.under_way() == 0);
}

#[test]
fn what_the_one_who_is_told_may_need_itself_times_out_although_nobody_gives_the_leg_up() {
    let patience = patience(SHORT);
    let (told, tellings) = unbounded();
    patience.on_hung(Some(Arc::new(move || told.send(()).unwrap())));
    let door = Door::closed();
    let closed = door.clone();
    let answer = patience.call_once(move || {
        closed.pass();
        Ok(())
    });
    refused(answer, libc::ETIMEDOUT);
    tellings.recv().unwrap();
    door.open();
}

#[test]
fn when_nobody_is_to_be_told_any_more_what_is_late_times_out() {
    let patience = patience(SHORT);
    let at_end = Arc::downgrade(&patience);
    patience.on_hung(Some(Arc::new(move || at_end.upgrade().unwrap().on_hung(None))));
    let door = Door::closed();
    let closed = door.clone();
    let answer = patience.call(Pace::Prompt, move || {
        closed.pass();
        Ok(())
    });
    refused(answer, libc::ETIMEDOUT);
    door.open();
}

#[test]
fn what_takes_long_is_waited_for_while_the_leg_answers_probes() {
    let door = Door::closed();
    let (opener, probes) = (door.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = probes.clone();
    // The third probe lets the work end: it has then taken longer than the timeout.
    let probe = move || {
        if counted.fetch_add(1, Ordering::SeqCst) == 2 {
            opener.open();
        }
    };
    let patience = Patience::new(couriers(), SHORT, Arc::new(probe));
    patience
        .call(Pace::Long, move || {
            door.pass();
            Ok(())
        })
        .unwrap();
    assert_eq!(probes.load(Ordering::SeqCst), 3);
}

#[test]
fn a_leg_that_hangs_for_good_keeps_no_more_than_a_few_probes() {
    let door = Door::closed();
    let (closed, probes) = (door.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = probes.clone();
    let probe = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        closed.pass();
    };
    let patience = Patience::new(couriers(), SHORT, Arc::new(probe));
    for _ in 0..3 * MOST_PROBES {
        assert!(!patience.answers(Duration::from_millis(4)));
    }
    assert!((1..=MOST_PROBES).contains(&probes.load(Ordering::SeqCst)));
    door.open();
    // One of them comes back. Not to be waited for in one go: it is looked for in parts of that time.
    while !patience.answers(Duration::from_millis(4)) {}
}

#[test]
fn what_takes_long_times_out_when_probes_are_not_answered_or_when_it_never_ends() {
    let door = Door::closed();
    let closed = door.clone();
    let dead = Patience::new(couriers(), SHORT, Arc::new(move || closed.pass()));
    let alive = patience(Duration::from_millis(4));
    for patience in [dead, alive] {
        let closed = door.clone();
        let answer = patience.call(Pace::Long, move || {
            closed.pass();
            Ok(())
        });
        refused(answer, libc::ETIMEDOUT);
    }
    door.open();
}
