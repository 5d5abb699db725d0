//! mirrorfs mirrors every file over two directories.
//!
//! ```text
//!   kernel -> fuse (translate) -> ops (one way a class of request takes)
//!                                   | 1 mark        -> bitmap -> bitmap file
//!                                   | 2 both legs   -> legs   -> directories
//!                                   | 3 outcome: one reply, two verdicts
//!   mount after a crash: superblock::plan -> resync: names, metadata, data -> clear
//! ```
//!
//! A request goes down, never back up. What is pure (no I/O, no lock) is a file of its own with its
//! table beside it: [`ops::outcome`], [`superblock::plan()`], the bitmap's slots. Start reading at
//! [`ops`], then [`bitmap`], then [`resync`].

#![warn(missing_docs)]

pub mod bitmap;
pub mod cli;
pub mod daemon;
#[cfg(test)]
mod documented;
pub mod error;
pub mod fuse;
pub mod inode;
pub mod layout;
pub mod legs;
pub mod ops;
pub mod options;
pub mod owner;
pub mod resync;
pub mod shell;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod superblock;
pub mod sync;
pub mod sys;
