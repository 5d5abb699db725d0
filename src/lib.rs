//! mirrorfs mirrors every file over two directories.
pub mod bitmap;
pub mod cli;
pub mod daemon;
pub mod error;
pub mod layout;
pub mod legs;
pub mod options;
pub mod owner;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod superblock;
pub mod sync;
pub mod sys;
