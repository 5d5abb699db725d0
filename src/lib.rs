//! mirrorfs mirrors every file over two directories.
pub mod bitmap;
pub mod error;
pub mod legs;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod sync;
