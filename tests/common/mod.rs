//! What the tests on real mounts share: scratch places that clean up after themselves, the test
//! mirror, a comparator that shares no code with the daemon, deterministic trees and numbers.
//!
//! Nothing in here may name a type of the `mirrorfs` library: these tests see what a user sees.

// Each test file is a program of its own and uses a part of this.
#![allow(dead_code, unused_imports)]

pub mod bad_leg;
pub mod compare;
pub mod crash;
pub mod filesystem;
pub mod mirror;
pub mod mounts;
pub mod process;
pub mod random;
pub mod raw;
pub mod scratch;
pub mod sshfs;
pub mod tree;

pub use bad_leg::BadLeg;
pub use compare::{assert_equal, differences};
pub use filesystem::Filesystem;
pub use mirror::{Mirror, TestMirror};
pub use random::Random;
pub use scratch::Scratch;
pub use sshfs::Sshfs;

use std::time::Duration;

/// How long a test waits for something that is expected to happen, before it calls that a failure.
/// Generous: a slow machine is not a bug.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// True when the means named are there. Without them a test is skipped, and says so; in CI (`CI` is
/// set) it fails instead, because a proof that was not run is none.
pub fn have(means: &str, there: bool) -> bool {
    if there {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "this test needs {means}, and CI has to have it");
    eprintln!("SKIPPED: this test needs {means}");
    false
}

/// True for a test that may mount: root, and a FUSE device.
pub fn can_mount() -> bool {
    have("root", rustix::process::geteuid().is_root())
        && have("/dev/fuse", std::path::Path::new("/dev/fuse").exists())
}

/// True when a program of this name is on the PATH.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    have(name, std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
}

/// Asks `done` until it says yes; fails naming `what` when [`PATIENCE`] is over.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A mounted mirror on plain directories for a test of this name; `None` where nothing can be mounted.
pub fn mounted(name: &str) -> Option<TestMirror> {
    can_mount().then(|| TestMirror::new(name))
}
