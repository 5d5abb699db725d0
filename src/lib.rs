//! mirrorfs mirrors every file over two directories.
pub mod bitmap;
pub mod cli;
pub mod error;
pub mod layout;
pub mod legs;
pub mod owner;
pub mod superblock;
pub mod sync;
pub mod sys;
