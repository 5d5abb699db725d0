//! mirrorfs mirrors every file over two directories.
pub mod bitmap;
pub mod error;
pub mod legs;
pub mod sync;
pub mod sys;
