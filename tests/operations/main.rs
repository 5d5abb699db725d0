//! Every operation that a program can ask of a filesystem does on the mirror what it does on any
//! other, and does it on both legs before it returns (P1).
//!
//! Needs root and /dev/fuse.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod data;
mod directories;
mod locks;
mod mapping;
mod names;
mod permissions;
mod space;
