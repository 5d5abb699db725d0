//! Claims of the resync: whatever a crash left, the legs are equal afterwards, and the source is
//! as it was.

mod directory;
mod repair;
mod scenarios;
#[cfg(feature = "simulation")]
mod simulated;
mod world;
