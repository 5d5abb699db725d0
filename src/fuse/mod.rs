//! The kernel's side: requests decoded, the mirror called, replies sent. No rule about legs and no
//! system call on one is in here.
//!
//! ```text
//!   /dev/fuse -> fuser's event loops (serve) -> one method a request (filesystem) -> ops::Mirror
//!                                               on which thread (loops)
//!                                               types and errno (convert), counts (requests)
//!                                               what the kernel reads itself (passthrough)
//!   ops::Mirror -> Invalidate (caches) -> /dev/fuse
//! ```
//!
//! # What the kernel keeps to itself
//! The daemon owns the legs while they are mounted, so the kernel may cache like a local filesystem:
//! names (also those that do not exist), attributes, data, listings and symlinks stay until the
//! kernel itself changes them or [`Invalidate`](crate::ops::Invalidate) takes them back. Permissions
//! are checked by the kernel (`default_permissions`, always), locks are the kernel's own, and
//! a write has returned only when the mirror has replied (P1), unless the mount asks for something else (`caching`).
//!
//! # What fuser 0.18 cannot carry, and what is done about it
//! | what | here |
//! |---|---|
//! | times before 1970 arrive mirrored | undone exactly, see `convert` |
//! | the kill-suid bit of SETATTR (truncate, chown) and OPEN | O_TRUNC comes as SETATTR; the mirror goes by the caller's user id |
//! | the same for fallocate and copy_file_range: not in the protocol | likewise |
//! | that the kernel goes on with the mode it has cached | the mirror sends a notice before its reply: else a program that somebody wrote to would still run with its suid bit |
//! | the kill-sgid bit of SETXATTR (setting an ACL) | not done: a group that one is not in keeps sgid |
//! | statx (birth time), O_TMPFILE, syncfs | ENOSYS or never sent: no birth time, EOPNOTSUPP, sync(1) reaches the legs' filesystems |
//! | supplementary groups at creation | not needed: a sgid directory passes on its own group |
//! | INTERRUPT | ENOSYS: a waiting call cannot be interrupted once it is here |
//! | collapse and insert range, whiteouts | refused by the kernel with EOPNOTSUPP, here with EINVAL |
//!
//! Before a write, fallocate or copy that takes suid or sgid away, and for a chown to nobody, the
//! kernel sends a SETATTR that sets nothing: that is its way of saying so. Capabilities it removes
//! by itself, with REMOVEXATTR.
//!
//! # ENOSYS
//! means "never ask this again" to the kernel. It is said on purpose for flush (nothing to do in a
//! write-through mirror; with `writeback` the kernel hands pages over at a close all the same), opendir (a listing that the
//! kernel has costs no request), access, bmap and poll, with `writeback` for lseek, and never passed on from a leg.

mod answer;
mod caches;
mod caching;
mod convert;
mod filesystem;
mod loops;
mod passthrough;
mod requests;
mod serve;

pub use caching::Caching;
pub use requests::Requests;
pub use serve::{abort_on_panic, serve};
