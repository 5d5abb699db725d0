//! System calls that need `unsafe`, each in a wrapper that does not. The only unsafe code.

pub mod process;
