//! The gate: after a crash, changes wait until names and metadata are alike on both legs. Reads pass
//! at all times: they are answered by the source.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::errno;
use crate::sync::{Condvar, Mutex, Rank};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Closed,
    Open,
    /// The resync was stopped before it came so far: what waits will not get in.
    Shut,
}

/// See the module.
pub struct Gate {
    open: AtomicBool,
    door: Mutex<Door>,
    moved: Condvar,
}

impl Gate {
    /// A gate that is open from the start, or closed until [`open`](Self::open).
    pub fn new(open: bool) -> Self {
        let door = if open { Door::Open } else { Door::Closed };
        Gate { open: AtomicBool::new(open), door: Mutex::new(Rank::Leaf, door), moved: Condvar::new() }
    }

    /// Waits until the gate is open. EROFS when it never will be.
    pub fn pass(&self) -> io::Result<()> {
        if self.is_open() {
            return Ok(());
        }
        let mut door = self.door.lock();
        loop {
            match *door {
                Door::Open => return Ok(()),
                Door::Shut => return Err(errno(libc::EROFS)),
                Door::Closed => self.moved.wait(&mut door),
            }
        }
    }

    /// Whether changes are let in.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Lets changes in.
    pub fn open(&self) {
        self.set(Door::Open);
    }

    /// Lets no further change in until it is opened again. Who is inside stays so.
    pub fn close(&self) {
        self.set(Door::Closed);
    }

    fn set(&self, to: Door) {
        let mut door = self.door.lock();
        *door = to;
        self.open.store(to == Door::Open, Ordering::Release);
        drop(door);
        self.moved.notify_all();
    }

    /// Turns those who wait away, if the gate is not open yet.
    pub fn shut(&self) {
        let mut door = self.door.lock();
        if matches!(*door, Door::Closed) {
            *door = Door::Shut;
        }
        drop(door);
        self.moved.notify_all();
    }
}
