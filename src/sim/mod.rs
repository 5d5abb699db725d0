//! The simulated world in which the whole mirror runs in tests: threads that take turns by a seeded
//! choice, stores that tear, and a crash at a chosen step. Only with the feature `simulation`.
//!
//! ```text
//!   client threads -> ops::Mirror<SimLeg> -> SimLeg (legs/simulated), SimFile (bitmap, superblock)
//!          \__________ sync.rs _______________/ every lock, every call: scheduler decides who runs,
//!                                               and whether the machine still does
//! ```
//!
//! Must never be compiled into a release, and must never decide anything by the clock, by an
//! address or by the order in which the system runs threads: a seed replays a run exactly.

pub mod rng;
pub mod scheduler;
pub mod store;
