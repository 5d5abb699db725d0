//! Work that blocks on a channel until the test lets it go: no outcome depends on how fast the machine is.
//! Where the expected outcome is the timeout itself, it is a short one.

mod calls;
#[cfg(feature = "simulation")]
mod leg;
#[cfg(feature = "simulation")]
mod stores;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Couriers, Patience};

/// Long enough never to be waited for.
const AGES: Duration = Duration::from_secs(1000);
/// Waited for in full.
const SHORT: Duration = Duration::from_millis(80);

/// Blocks whoever passes until it is opened, for good.
#[derive(Clone)]
struct Door {
    keeper: Arc<parking_lot::Mutex<Option<Sender<()>>>>,
    closed: Receiver<()>,
}

impl Door {
    fn closed() -> Door {
        let (keeper, closed) = bounded(0);
        Door { keeper: Arc::new(parking_lot::Mutex::new(Some(keeper))), closed }
    }

    fn open(&self) {
        *self.keeper.lock() = None;
    }

    fn pass(&self) {
        assert!(self.closed.recv().is_err(), "nothing is ever sent");
    }
}

fn couriers() -> Couriers {
    Couriers::start().unwrap()
}

fn patience(timeout: Duration) -> Arc<Patience> {
    Patience::new(couriers(), timeout, Arc::new(|| ()))
}

#[track_caller]
fn refused<T>(result: io::Result<T>, errno: i32) {
    match result {
        Ok(_) => panic!("expected errno {errno}, but it worked"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{error}"),
    }
}

/// Waits for what other threads are about to bring about.
#[track_caller]
fn soon(condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < end, "it never came about");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One that is left to the trait's own version would be made in place, and could hang.
#[test]
fn every_method_of_a_leg_is_passed_on() {
    let methods = |source: &str, from: &str| -> std::collections::BTreeSet<String> {
        let block = source.split_once(from).expect("it is there").1.split_once("\n}\n").expect("it ends").0;
        let lines = block.lines().filter_map(|line| line.strip_prefix("    fn "));
        lines.map(|line| line.split(['(', '<']).next().unwrap_or_default().to_owned()).collect()
    };
    let wanted = methods(include_str!("../../mod.rs"), "pub trait Leg: ");
    let there = methods(include_str!("../leg.rs"), "impl<L: Leg> Leg for Timed<L> {");
    assert!(wanted.len() > 30, "{wanted:?}");
    assert_eq!(wanted, there);
}
